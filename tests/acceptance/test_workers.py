"""Many workers of the real client at once, each in a worktree of its own: nothing twice, nothing lost."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from acceptance.api import Reply, ScriptedApi, Turn, calls, say, use, wait_for
from acceptance.conftest import NewClient
from acceptance.product import RULES, Tasks, claim, done, plugged, tool, worker
from acceptance.replies import Use
from commands import HYPERVISOR
from hypervisor.mcp.schema import PREFIX

#: Once with the tools' schemas in the first request, once with tool search, as most users have it.
pytestmark = pytest.mark.usefixtures("tool_search")

NAMES = [f"t-{number}" for number in range(1, 9)]


def git(project: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=project, check=True, capture_output=True, text=True).stdout


def merge(project: Path) -> subprocess.CompletedProcess[str]:
    """Run ``hypervisor merge``."""
    words = [*HYPERVISOR, "merge"]
    return subprocess.run(words, cwd=project, capture_output=True, text=True, check=False)


def code_worker(name: str, file: str = "") -> tuple[Reply | Callable[[Turn], Reply], ...]:
    """Return the script of a worker that writes a file in its worktree, and commits it."""
    file = file or name
    return (
        calls(claim(name)),
        calls(use("Bash", command="pwd")),
        lambda turn: calls(use("Write", file_path=f"{turn.results[0].text}/src/{file}.txt", content=name)),
        calls(use("Bash", command=f"git add src/{file}.txt")),
        calls(use("Bash", command=f"git commit -m 'Add {name}'")),
        calls(use("Bash", command="git rev-parse HEAD")),
        lambda turn: calls(done(name, f"added {name}", commit=turn.results[0].text, evidence="git log")),
        say(f"COMPLETED {name}: added it"),
    )


def code_project(project: Path, names: list[str]) -> Tasks:
    tasks = Tasks(project)
    for name in names:
        tasks.add(name, files=f"[src/{name}.txt]")
    (project / ".gitignore").write_text(".claude/\n")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "Tasks")
    return tasks


def commits_of(project: Path, but: str = "") -> dict[str, str]:
    """Return the branches of workers, each with its last commit, and hold that it adds one file.

    Those that the text *but* names are left out.
    """
    found = {}
    for line in git(project, "branch", "--list", "worktree-agent-*", "--format=%(refname:short)").split():
        if line in but:
            continue
        added = git(project, "rev-list", "--count", f"main..{line}").strip()
        if added == "0":  # of a worker that found no task, whose worktree the client has kept
            continue
        assert added == "1"
        found[line] = git(project, "rev-parse", line).strip()
    return found


def test_eight_workers_do_eight_tasks_in_eight_worktrees(
    api: ScriptedApi, client: NewClient, git_project: Path
) -> None:
    tasks = code_project(git_project, NAMES)
    head = git(git_project, "rev-parse", "HEAD")
    finished: list[str] = []

    def look(turn: Turn) -> Reply:
        """Look at the batch each time that the client wakes us, until it is finished."""
        batch = turn.all_results[0].json["batch"]
        status = [one for one in turn.results if one.name == PREFIX + "batch_status"]
        if status and status[-1].json["finished"]:
            finished.append(batch)
            return calls(tool("batch_summary", id=batch))
        return calls(tool("batch_status", id=batch)) if not status else say("they work")

    api.main(
        calls(tool("preflight", create_batch=True)),
        lambda turn: calls(*[worker(name, isolation="worktree") for name in turn.results[0].json["run"]]),
        *[lambda turn: say("all is told") if finished else look(turn)] * 40,
    )
    for name in NAMES:
        api.agent(f"/pull {name}", *code_worker(name))
    session = plugged(client, git_project).run("batch tasks", *RULES, timeout=240)
    assert session.passed().text == "all is told"
    assert session.denials == []
    assert [tasks.status(name) for name in NAMES] == ["done"] * 8
    summary = api.of("batch tasks").tool_result(PREFIX + "batch_summary").json
    assert summary["census"] == {
        "queued": 8, "success": 8, "blocked": 0, "failed": 0, "skipped": 0, "running": 0, "waiting": 0,
    }  # fmt: skip
    commits = commits_of(git_project)
    assert sorted(row["commit"] for row in summary["workers"]) == sorted(commits.values())
    assert len(set(commits.values())) == 8
    # The checkout that the user works in: no commit, no file but the tasks' own.
    assert git(git_project, "rev-parse", "HEAD") == head
    changed = git(git_project, "status", "--porcelain").splitlines()
    assert sorted(changed) == [f" M tasks/{name}.md" for name in NAMES]
    claimed = [event["task"] for event in tasks.events if event["event"] == "claimed"]
    assert sorted(claimed) == NAMES
    # And then the work is brought together, looked at and verified once more.
    merged = subprocess.run(
        [*HYPERVISOR, "merge"], cwd=git_project, capture_output=True, text=True, check=False
    )
    assert merged.returncode == 0, merged.stdout + merged.stderr
    assert merged.stdout.count("merged t-") == 8
    assert sorted(path.name for path in (git_project / "src").iterdir()) == [f"{name}.txt" for name in NAMES]
    assert sorted(git(git_project, "status", "--porcelain").splitlines()) == sorted(changed)
    for name in NAMES:
        words = [*HYPERVISOR, "log", name]
        said = subprocess.run(words, cwd=git_project, capture_output=True, text=True, check=True)
        assert f"COMPLETED {name}: added it" in said.stdout, said.stdout


def test_merging_keeps_what_conflicts_or_strays_on_its_branch(
    api: ScriptedApi, client: NewClient, git_project: Path
) -> None:
    names = ["t-1", "t-2", "t-3"]
    tasks = code_project(git_project, names)
    for name in ("t-1", "t-2"):  # both write the same file; the third one that its task does not name
        tasks.add(name, files="[src/t-1.txt]", verify="test -f src/t-1.txt")
    git(git_project, "commit", "--quiet", "--all", "--message", "Scopes")
    api.main(
        calls(tool("preflight", create_batch=True)),
        lambda turn: calls(*[worker(name, isolation="worktree") for name in turn.results[0].json["run"]]),
        *[say("they work")] * 8,
    )
    for name, file in (("t-1", "t-1"), ("t-2", "t-1"), ("t-3", "other")):
        api.agent(f"/pull {name}", *code_worker(name, file))
    plugged(client, git_project).run("batch tasks", *RULES).passed()
    assert [tasks.status(name) for name in names] == ["done"] * 3
    merged = subprocess.run(
        [*HYPERVISOR, "merge"], cwd=git_project, capture_output=True, text=True, check=False
    )
    assert merged.returncode == 1, merged.stdout + merged.stderr
    lines = merged.stdout.splitlines()
    assert sum(line.startswith("merged") for line in lines) == 1
    assert sum("conflicts in src/t-1.txt; kept on worktree-agent-" in line for line in lines) == 1
    assert sum("changes src/other.txt, which its task does not name; kept on" in line for line in lines) == 1
    assert len(git(git_project, "branch", "--list", "worktree-agent-*").splitlines()) == 3


def test_two_sessions_on_one_project_never_do_a_task_twice(
    api: ScriptedApi, client: NewClient, git_project: Path
) -> None:
    tasks = code_project(git_project, NAMES)
    both = threading.Barrier(2, timeout=60)

    def next_worker(place: int) -> str:
        return f"Take the next task, as worker {place}."

    def spawn(prompt: str) -> Use:
        return use("Agent", description="next", subagent_type="hypervisor:worker", run_in_background=True,
                   prompt=prompt, isolation="worktree")  # fmt: skip

    def begin(_turn: Turn) -> Reply:
        both.wait()  # the two sessions start their workers at one time
        return calls(*(spawn(next_worker(place)) for place in range(8)))

    turned_down: list[str] = []

    def go_on(turn: Turn) -> Reply:
        """Spawn again what could not be spawned, as the skill says."""
        failed = [one for one in turn.results if one.name == "Agent" and one.is_error]
        turned_down.extend(one.text for one in failed)
        return calls(*(spawn(one.arguments["prompt"]) for one in failed)) if failed else say("they work")

    def take(turn: Turn) -> Reply:
        answer = turn.results[0].json
        if answer["task"] is None:
            return say(f"REFUSED: {answer['reason']}")
        return calls(use("Bash", command="pwd"))

    def mine(turn: Turn) -> str:
        return str(turn.all_results[0].json["task"]["id"])

    script = (
        calls(tool("claim_next_task", caller="claude")),
        take,
        lambda turn: calls(
            use("Write", file_path=f"{turn.results[0].text}/src/{mine(turn)}.txt", content="x")
        ),
        lambda turn: calls(use("Bash", command=f"git add src/{mine(turn)}.txt")),
        lambda turn: calls(use("Bash", command=f"git commit -m 'Add {mine(turn)}'")),
        calls(use("Bash", command="git rev-parse HEAD")),
        lambda turn: calls(done(mine(turn), commit=turn.results[0].text)),
        say("COMPLETED"),
    )
    for place in range(8):
        api.agent(next_worker(place), *script)
    for name in ("one", "two"):
        api.main(begin, *[go_on] * 20, when=f"session {name}")
    started = [
        # Two clients, two servers at once: on a busy machine a client would begin without its server.
        plugged(client, git_project).start(f"session {name}", *RULES, env={"MCP_CONNECTION_NONBLOCKING": "0"})
        for name in ("one", "two")
    ]
    for running in started:
        running.wait(280).passed()
    # Git itself fails now and then where two processes make worktrees at one moment; we turn down none.
    assert all("Failed to create worktree" in text for text in turned_down), turned_down
    assert len(api.agents) == 16
    assert [tasks.status(name) for name in NAMES] == ["done"] * 8
    claimed = [event["task"] for event in tasks.events if event["event"] == "claimed"]
    assert sorted(claimed) == NAMES
    commits = commits_of(git_project, but=" ".join(turned_down))
    assert len(set(commits.values())) == 8
    completed = [event["task"] for event in tasks.events if event["event"] == "completed"]
    assert sorted(completed) == NAMES


def test_a_ninth_worker_is_denied_and_its_task_stays_ready(
    api: ScriptedApi, client: NewClient, git_project: Path
) -> None:
    names = [*NAMES, "t-9"]
    tasks = Tasks(git_project)
    for name in names:
        tasks.add(name)
    go = threading.Event()

    def started(_turn: Turn) -> Reply:
        go.set()
        return say("started")

    api.main(
        calls(*[worker(name) for name in names]),
        started,
        *[say("they work")] * 12,
    )
    for name in names:
        api.agent(f"/pull {name}", calls(claim(name)), wait_for(go, calls(done(name))), say("COMPLETED"))
    # On a busy machine the client would begin without its server, and ask nobody.
    plugged(client, git_project).run("go", *RULES, env={"MCP_CONNECTION_NONBLOCKING": "0"}).passed()
    denied = [one for one in api.of("go").results if one.is_error]
    assert [one.text for one in denied] == [
        f"Denied: 8 workers of this session run, and 8 may. {_task(one.text)} stays ready; "
        "spawn again when one has ended."
        for one in denied
    ]
    assert len(denied) == 1
    assert tasks.status(_task(denied[0].text)) == "active"
    assert sum(tasks.status(name) == "done" for name in names) == 8


def _task(denial: str) -> str:
    return denial.split(" stays ready", maxsplit=1)[0].rsplit(maxsplit=1)[-1]
