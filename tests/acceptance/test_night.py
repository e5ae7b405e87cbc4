"""A night without anybody, on the real client, and the morning after: what happened to twenty tasks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from acceptance.api import Reply, ScriptedApi, Turn, calls, hang, say, use, wait_for
from acceptance.conftest import NewClient
from acceptance.product import tool
from acceptance.test_run import Runs, git
from commands import HYPERVISOR, eventually
from hypervisor.orchestrator.prompt import RUN_MARK

NAMES = [f"t-{number:02}" for number in range(1, 21)]
ASK, REVIEWED, KILLED, CUT = NAMES[:2], NAMES[2:4], NAMES[8], NAMES[9:11]
#: Pairs that change one file: an agent merges the first, and cannot merge the second.
PAIRS = {"red.txt": NAMES[4:6], "blue.txt": NAMES[6:8]}
SHARED = {name: file for file, names in PAIRS.items() for name in names}
NOTE = 'cat >> "$HOME/notices"; echo >> "$HOME/notices"'


class Night:
    """The agents of the night: what each does is read from its prompt."""

    def __init__(self, api: ScriptedApi) -> None:
        #: How often the agent of each task was started.
        self.begun: Counter[str] = Counter()
        self.held = threading.Event()
        api.main(self.work, say("Done."), when="Task t-")
        for name in REVIEWED:  # in one session, or the second half in one of its own
            api.main(self.work, say("Done."), self.please, say("Changed."), when=f"Task {name}:")
        api.main(self.please, say("Changed."), when="A reviewer asks for changes:")
        api.main(self.review, when="You review the work of another agent")
        for name in ASK:
            question = tool(
                "ask_user", id=name, question=f"Which colour for {name}?", choices=["red", "blue"]
            )
            api.main(calls(question), say("I asked."), self.work, say("As you say."), when=f"Task {name}:")
        api.main(self.work, say("As you say."), when="## Answers to questions of earlier attempts")
        api.main(self.merge, say("Merged."), when="## Now: finish a merge")

    def work(self, turn: Turn) -> Reply:
        name = task_of(turn)
        self.begun[name] += 1
        if self.begun[name] == 1 and name in (KILLED, *CUT):
            return hang(self.held)
        written = commit(name, name)
        if name in SHARED:  # neither has the other's work
            return wait_for(lambda: all(self.begun[one] for one in PAIRS[SHARED[name]]), written)
        return written

    def please(self, turn: Turn) -> Reply:
        return commit(task_of(turn), f"{task_of(turn)}, please")

    def review(self, turn: Turn) -> Reply:
        asked = f"+{task_of(turn)}, please" in turn.prompt
        return say("REVIEW: approve" if asked else "REVIEW: changes: say please")

    def merge(self, turn: Turn) -> Reply:
        name = task_of(turn)
        # Of the blue file it drops the other side.
        return commit(name, *(PAIRS["red.txt"] if SHARED[name] == "red.txt" else [name]))


def file_of(name: str) -> str:
    return SHARED.get(name, f"src/{name}.txt")


def task_of(turn: Turn) -> str:
    found = re.search(r"Task (t-\d+):", turn.prompt)
    assert found is not None
    return found[1]


def commit(name: str, *lines: str) -> Reply:
    """Call what writes the lines to a task's file and commits it."""
    file, first = file_of(name), lines[0]
    words = [f"echo '{first}' > {file}", *(f"echo '{line}' >> {file}" for line in lines[1:])]
    command = " && ".join([*words, f"git add {file}", f"git commit -m 'Work on {name}'"])
    return calls(use("Bash", command=command))


@pytest.fixture
def runs(client: NewClient, git_project: Path, claude: str) -> Iterator[Runs]:
    made = Runs(client(cwd=git_project), git_project, claude)
    config = git_project / ".hypervisor/config.toml"
    config.write_text(f"{config.read_text()}[notify]\ncommand = '''{NOTE}'''\n")
    yield made
    made.close()


def add_tasks(runs: Runs) -> None:
    (runs.project / "src").mkdir()
    (runs.project / "src/.keep").touch()
    for name in NAMES:
        keys = {} if name in SHARED else {"files": f"[{file_of(name)}]"}
        if name in REVIEWED:
            keys["review"] = "true"
        runs.tasks.add(name, verify=f"grep -q {name} {file_of(name)}", **keys)
    git(runs.project, "add", "--all")
    git(runs.project, "commit", "--quiet", "--message", "Tasks")


def typed(runs: Runs, *words: str) -> str:
    done = subprocess.run(
        [*HYPERVISOR, *words], cwd=runs.project, env=runs.environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    print(f"$ hypervisor {' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def kill_agent(name: str) -> bool:
    """Kill the client that works on a task, as the kernel does where memory is short."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mark = process.environ().get(RUN_MARK, "")
            if f"/{name}~" in mark and "claude" in process.name():
                process.send_signal(signal.SIGKILL)
                return True
    return False


def notices(runs: Runs) -> list[dict[str, Any]]:
    lines = Path(runs.environment["HOME"], "notices").read_text().splitlines()
    return [json.loads(line) for line in lines if line]


def pass_the_night(night: Night, runs: Runs) -> tuple[str, str]:
    """Run the tasks: one agent is killed, then the coordinator with two in flight, which is resumed."""
    words = ("--all", "-j", "4", "--retries", "1", "--model", "claude-sonnet-4-5", "--allow", "Bash(echo *)")
    going = runs.start(*words)
    eventually(lambda: night.begun[KILLED], "the agent that is killed", seconds=120)
    eventually(lambda: kill_agent(KILLED), "its process", seconds=20)
    over = [*REVIEWED, *SHARED, KILLED]
    eventually(lambda: {runs.tasks.status(one) for one in over} <= {"done", "review"},
               "the reviewed, the conflicts, the killed one", seconds=150)  # fmt: skip
    eventually(lambda: all(night.begun[name] for name in CUT), "two in flight", seconds=60)
    going.kill()
    going.wait(20)
    (batch,) = os.listdir(runs.project / ".hypervisor/batches")
    assert "was killed; to continue: hypervisor run --resume" in typed(runs, "status")
    code, out, err = runs.run("--resume", batch)
    print(out)
    assert code == 1, out + err
    return batch, out


def hold_what_is_told(runs: Runs, batch: str) -> str:
    """Hold what status, summary and page tell in the morning; return the task whose conflict is left."""
    status, summary = typed(runs, "status"), typed(runs, "summary")
    typed(runs, "status", batch)
    page = runs.project.parent / "page.html"
    typed(runs, "report", batch, "--html", str(page))
    for name in ASK:
        line = re.compile(rf'{name} asks: Which colour for {name}\?; hypervisor answer \d "..."')
        assert line.search(status)
        assert f"{name}: asks: Which colour for {name}?; hypervisor answer " in summary
        assert f"{name} asks: Which colour" in page.read_text("utf-8")
    rows = {row["task_id"]: row for row in runs.summary["workers"]}
    conflicts = {SHARED[name]: row for name, row in rows.items() if "conflict" in row["evidence"]}
    assert "merged by claude" in conflicts["red.txt"]["outcome"]
    assert (runs.project / "red.txt").read_text().split() == PAIRS["red.txt"]
    held = str(conflicts["blue.txt"]["task_id"])
    assert conflicts["blue.txt"]["status"] == "blocked"
    assert "claude could not merge it: verify failed" in conflicts["blue.txt"]["outcome"]
    assert f"hypervisor accept {held}" in summary
    return held


@pytest.mark.timeout(300)
def test_a_night_of_twenty_tasks_and_the_morning_after(api: ScriptedApi, runs: Runs) -> None:
    add_tasks(runs)
    night = Night(api)
    batch, out = pass_the_night(night, runs)
    assert "20 queued = 17 success + 1 blocked + 0 failed + 0 skipped + 0 running + 2 waiting" in out
    rows = {row["task_id"]: row for row in runs.summary["workers"]}
    assert sorted(rows) == NAMES[2:]
    ended = Counter(one["task"] for one in runs.tasks.events if one["event"] == "completed")
    assert ended == Counter(list(rows))  # each exactly once
    for name in REVIEWED:
        assert rows[name]["evidence"]["review"] == ["changes: say please", "approve"]
        assert (runs.project / file_of(name)).read_text() == f"{name}, please\n"
    assert {rows[name]["attempts"] for name in (KILLED, *CUT)} == {2}
    assert sum(row["attempts"] == 2 for row in rows.values()) <= len((KILLED, *CUT)) + 2  # four at once
    held = hold_what_is_told(runs, batch)
    assert Counter(one["event"] for one in notices(runs)) == {"question": 2, "failure": 1, "end": 1}

    # What is left to a person: two answers and a conflict; then the run goes on.
    for one in json.loads(typed(runs, "questions", "--json")):
        typed(runs, "answer", str(one["question"]), "red")
    typed(runs, "diff", held)
    typed(runs, "accept", held)
    subprocess.run(["git", "merge", f"hypervisor/{batch}/{held}-1"], cwd=runs.project, check=False)
    (runs.project / "blue.txt").write_text("\n".join(PAIRS["blue.txt"]) + "\n")
    git(runs.project, "add", "blue.txt")
    git(runs.project, "commit", "--quiet", "--message", "Merge by hand")
    typed(runs, "accept", held)
    code, out, err = runs.run("--resume", batch)
    print(out)
    assert code == 0, out + err
    assert "20 queued = 20 success" in out
    assert [runs.tasks.status(name) for name in NAMES] == ["done"] * 20
    typed(runs, "clean")
    night.held.set()
