"""A session of the real client spawns agents of the real client: a shared audit, a map-reduce."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from acceptance.api import Reply, ScriptedApi, Turn, calls, say, use, wait_for
from acceptance.client import MODEL, Client
from acceptance.conftest import NewClient
from acceptance.product import plugged, tool
from acceptance.test_install import PATIENT
from acceptance.test_run import git
from hypervisor.learning.hive import Hive
from hypervisor.store.store import Store

#: Reached only when a test fails, or on a machine that is busy with others.
pytestmark = pytest.mark.timeout(500)

BRANCH = "security-audit"
#: Of one map; a client for each file would only take longer.
FILES, EACH = 30, 5
#: Several clients at once keep two cores busy; what is tested here is not how many may run.
CONFIG = f"""
[machine]
safe_cpu_percent = 101
danger_cpu_percent = 101
[spawn]
model = "{MODEL}"
jobs = 3
"""


@pytest.fixture
def session(client: NewClient, git_project: Path, claude: str, tmp_path: Path) -> Client:
    """Return a client in a project, with a client on PATH for those that are spawned."""
    state, bins = git_project / ".hypervisor", tmp_path / "bin"
    for folder in (state, bins):
        folder.mkdir()
    (state / ".gitignore").write_text("*\n")
    (state / "config.toml").write_text(CONFIG)
    (bins / "claude").symlink_to(claude)
    path = client(cwd=git_project).environment["PATH"]
    return plugged(client, git_project, extra={"PATH": f"{bins}:{path}", **PATIENT})


class Batch:
    """The batch that a session has spawned."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.told: dict[str, Any] = {}
        #: What the session says at its end.
        self.answer = ""

    def tell_again(self, _turn: Turn) -> Reply:
        """Answer notices that come after the summary: on a busy machine they do."""
        return say(self.answer)

    def take(self, turn: Turn) -> None:
        if turn.results[0].is_error:
            raise AssertionError(turn.results[0].text)
        self.told = turn.results[0].json

    def ended(self) -> bool:
        return Path(self.project, ".hypervisor/batches", self.told["batch_id"], "summary.json").exists()

    def shared(self, part: str) -> bool:
        with Store.open(self.project / ".hypervisor", {}, create=False) as store:
            return any(part in one.text for one in Hive(store.findings).search("", limit=200))


def complete(turn: Turn, outcome: str) -> Reply:
    found = re.search(r"^Task (\S+):", turn.prompt, re.MULTILINE)
    assert found, turn.prompt
    return calls(tool("complete_task", id=found[1], outcome=outcome, evidence="read it"))


def test_three_agents_share_what_they_find_on_a_branch_and_the_parent_gathers_it(
    api: ScriptedApi, session: Client, git_project: Path
) -> None:
    batch = Batch(git_project)
    first = "auth.py:40 builds SQL by hand: injection"
    second = "user.py:12 hands what users type to the SQL of auth.py:40"
    third = "upload.py:7 writes below /srv without a look at the name"

    def watch(turn: Turn) -> Reply:
        batch.take(turn)
        return calls(tool("get_task_stats"))

    def gather(_: Turn) -> Reply:
        name = batch.told["batch_id"]
        asked = calls(tool("batch_summary", id=name), tool("search_findings", branch_id=BRANCH))
        return wait_for(batch.ended, asked, seconds=400)

    def tell(turn: Turn) -> Reply:
        summary, found = (result.json for result in turn.results)
        texts = [one["text"] for one in found["findings"]]
        batch.answer = f"{summary['census']['success']} of 3 audits done. {'; '.join(sorted(texts))}"
        return say(batch.answer)

    def look(turn: Turn) -> Reply:
        (found,) = turn.results[0].json["findings"]  # of an agent that has ended, or still works
        assert found["text"] == first
        assert found["branch_id"] == BRANCH
        return calls(tool("share_finding", text=second))

    tasks = [
        {"description": f"Audit {name} for holes", "type": "audit", "priority": "high"}
        for name in ("auth.py", "user.py", "upload.py")
    ]
    spawn = tool("spawn_parallel_tasks", tasks=tasks, branch_id=BRANCH, strategy="parallel")
    api.main(calls(spawn), watch, gather, tell, *[batch.tell_again] * 3, when="Audit this project")
    api.main(
        calls(tool("share_finding", text=first)), lambda turn: complete(turn, "one hole"), say("Done."),
        when="Audit auth.py for holes",
    )  # fmt: skip
    api.main(
        wait_for(lambda: batch.shared(first), calls(tool("search_findings", query="injections of sql"))),
        look, lambda turn: complete(turn, "one hole more"), say("Done."),
        when="Audit user.py for holes",
    )  # fmt: skip
    api.main(
        wait_for(lambda: batch.shared(second), calls(tool("share_finding", text=third))),
        lambda turn: complete(turn, "one hole"), say("Done."),
        when="Audit upload.py for holes",
    )  # fmt: skip
    done = session.run("Audit this project with three agents.", timeout=420)
    assert done.code == 0, done.stderr
    stats = api.of("Audit this project").tool_result(1).json
    assert stats["running"] + stats["queued"] <= 3
    assert stats["batches"][0]["branch_id"] == BRANCH
    assert done.events[-1]["result"] == f"3 of 3 audits done. {'; '.join(sorted([first, second, third]))}"
    summary = json.loads(
        (git_project / ".hypervisor/batches" / batch.told["batch_id"] / "summary.json").read_text()
    )
    assert [one["text"] for one in summary["findings"]] == [first, second, third]
    assert {one["task_id"] for one in summary["findings"]} == set(batch.told["tasks"])


def test_a_map_reduce_over_thirty_files_ends_in_one_reduce_that_has_all_results(
    api: ScriptedApi, session: Client, git_project: Path
) -> None:
    batch = Batch(git_project)
    (git_project / "src").mkdir()
    names = [f"src/f-{number:02}.txt" for number in range(FILES)]
    for number, name in enumerate(names):
        (git_project / name).write_text(f"{name} has {number + 3} leaks\n")
    git(git_project, "add", "--all")
    git(git_project, "commit", "--quiet", "--message", "Files")
    parts = [names[at : at + EACH] for at in range(0, FILES, EACH)]
    whole = "Add up the leaks that all the others have counted in their files"

    def read(part: list[str]) -> Any:
        return lambda turn: calls(*(use("Read", file_path=f"{_place(turn)}/{name}") for name in part))

    def count(turn: Turn) -> Reply:
        found = [
            int(leaks) for result in turn.results for leaks in re.findall(r"has (\d+) leaks", result.text)
        ]
        assert len(found) == EACH, turn.last_text
        return complete(turn, f"{len(found)} files hold {sum(found)} leaks")

    def add_up(turn: Turn) -> Reply:
        results = turn.prompt.split("## Results of the tasks that this one waits for", 1)[1]
        found = [
            (int(a), int(b)) for a, b in re.findall(r"^(\d+) files hold (\d+) leaks", results, re.MULTILINE)
        ]
        return complete(turn, f"{sum(a for a, _ in found)} files, {sum(b for _, b in found)} leaks")

    def gather(turn: Turn) -> Reply:
        batch.take(turn)
        asked = calls(tool("batch_summary", id=batch.told["batch_id"]))
        return wait_for(batch.ended, asked, seconds=400)

    def tell(turn: Turn) -> Reply:
        rows = {row["task_id"]: row for row in turn.results[0].json["workers"]}
        batch.answer = rows[batch.told["tasks"][-1]]["outcome"]
        return say(batch.answer)

    tasks = [
        {"description": f"Count leaks in {part[0]} and {EACH - 1} more", "type": "count"} for part in parts
    ]
    tasks.append({"description": whole, "type": "reduce"})
    spawn = tool("spawn_parallel_tasks", tasks=tasks, branch_id=BRANCH, strategy="map-reduce")
    api.main(calls(spawn), gather, tell, *[batch.tell_again] * 3, when="Count all leaks")
    for part in parts:
        api.main(read(part), count, say("Done."), when=f"Count leaks in {part[0]}")
    api.main(add_up, say("Done."), when=whole)
    done = session.run("Count all leaks of this project.", timeout=420)
    assert done.code == 0, done.stderr
    assert done.events[-1]["result"].startswith(f"{FILES} files, {sum(range(3, FILES + 3))} leaks (reported")
    assert len(api.mains) == len(parts) + 2  # each once, and one reduce


def _place(turn: Turn) -> str:
    """Return the folder in which an agent works, as its client tells it."""
    found = re.search(r"working directory: (\S+)", turn.system + turn.text)
    assert found, turn.system
    return found[1]
