"""What workers of the real client do with tools that a task names stands in the task, whatever happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from acceptance.api import ScriptedApi, Step, calls, say, use
from acceptance.conftest import NewClient
from acceptance.product import RULES, Tasks, claim, done, plugged, worker
from commands import eventually

#: Once with the tools' schemas in the first request, once with tool search, as most users have it.
pytestmark = pytest.mark.usefixtures("tool_search")

WORKERS = 8
#: Of each worker; with tool search, under which receipts are made in the same way, fewer.
CALLS = {False: 50, True: 10}
_LINE = re.compile(r"- \d{4}-\d\d-\d\dT[\d:.]+Z Bash (ok|failed \(.*\)): (?:echo|ls) \S+ \((w-\d)\)")


def receipts(tasks: Tasks, name: str) -> list[str]:
    """Return the lines below a task's receipts heading."""
    _, _, below = tasks.text(name).partition("## Receipts\n")
    below, _, _ = below.partition("\n## ")
    return [line for line in below.splitlines() if line.startswith("- ")]


def script(name: str, count: int) -> list[Step]:
    """Return calls of a tool, several side by side, one in ten of which fails."""
    uses = [
        use("Bash", command=f"ls nowhere-{name}-{number}" if number % 10 == 9 else f"echo {name}-{number}")
        for number in range(count)
    ]
    return [calls(*uses[start : start + 5]) for start in range(0, count, 5)]


def set_up(project: Path, names: list[str]) -> Tasks:
    tasks = Tasks(project)
    tasks.add("shared")
    for name in names:
        tasks.add(name, receipts="[Bash]", receipts_to="shared")
    return tasks


def test_eight_workers_leave_four_hundred_receipts_in_one_task(
    api: ScriptedApi, client: NewClient, git_project: Path, tool_search: bool
) -> None:
    count = CALLS[tool_search]
    names = [f"w-{number}" for number in range(WORKERS)]
    tasks = set_up(git_project, names)
    api.main(calls(*[worker(name) for name in names]), *[say("ok")] * 40)
    for name in names:
        api.agent(
            f"/pull {name}", calls(claim(name)), *script(name, count), calls(done(name)), say("COMPLETED")
        )
    plugged(client, git_project).run("go", *RULES, timeout=280).passed()
    lines = receipts(tasks, "shared")
    assert all(_LINE.fullmatch(line) for line in lines), [one for one in lines if not _LINE.fullmatch(one)]
    assert len(lines) == WORKERS * count
    said = [line.partition(": ")[2] for line in lines]
    assert len(set(said)) == WORKERS * count
    failed = [line for line in lines if " Bash failed (" in line]
    assert len(failed) == WORKERS * count // 10
    for name in names:
        assert len(receipts(tasks, name)) == count
        assert tasks.status(name) == "done"


def test_a_killed_client_leaves_the_trail_up_to_the_kill(
    api: ScriptedApi, client: NewClient, git_project: Path
) -> None:
    names = [f"w-{number}" for number in range(3)]
    tasks = set_up(git_project, names)
    api.main(calls(*[worker(name) for name in names]), *[say("ok")] * 40)
    for name in names:
        api.agent(f"/pull {name}", calls(claim(name)), *script(name, 200), say("COMPLETED"))
    running = plugged(client, git_project).start("go", *RULES)
    eventually(lambda: len(receipts(tasks, "shared")) >= 30, "receipts", seconds=90)
    running.kill()
    # What the client had told its workers was done before the kill; each of those has its line.
    told = {
        one.id
        for talk in api.agents
        for turn in list(talk.turns)
        for one in turn.results
        if one.name == "Bash"
    }
    text = tasks.text("shared")
    lines = receipts(tasks, "shared")
    assert text.startswith("---\nid: shared\n")
    assert text.endswith("\n")
    assert all(_LINE.fullmatch(line) for line in lines)
    assert len(lines) >= len(told) >= 10
