"""`hypervisor run` with the real client: twelve tasks, a killed coordinator, a usage limit, no login."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.api import Reply, ScriptedApi, Turn, calls, fail, hang, say, use
from acceptance.conftest import NewClient
from acceptance.product import Tasks, tool
from commands import HYPERVISOR, eventually, gone

NAMES = [f"t-{number:02}" for number in range(1, 13)]


def git(project: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=project, check=True, capture_output=True, text=True).stdout


class Runs:
    """A user who types `hypervisor run` where the real client is on PATH."""

    def __init__(self, client: Any, project: Path, claude: str) -> None:
        self.project = project
        self.tasks = Tasks(project)
        # Several clients at once keep two cores busy; what is tested here is not how many may run.
        state = project / ".hypervisor"
        state.mkdir(exist_ok=True)
        (state / ".gitignore").write_text("*\n")
        (state / "config.toml").write_text("[machine]\nsafe_cpu_percent = 101\ndanger_cpu_percent = 101\n")
        folder = os.path.dirname(sys.executable)
        environment = client.environment
        bins = client.home / "bin"
        bins.mkdir(exist_ok=True)
        (bins / "claude").symlink_to(claude)
        self.environment = {**environment, "PATH": f"{bins}:{folder}:{environment['PATH']}"}
        self._started: list[subprocess.Popen[str]] = []

    def add(self, *names: str, **keys: str) -> None:
        for name in names:
            self.tasks.add(name, files=f"[src/{name}.txt]", verify=f"grep -q {name} src/{name}.txt", **keys)
        git(self.project, "add", "--all")
        git(self.project, "commit", "--quiet", "--message", "Tasks")

    def start(self, *words: str) -> subprocess.Popen[str]:
        running = subprocess.Popen(
            [*HYPERVISOR, "run", *words], cwd=self.project, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._started.append(running)
        return running

    def run(self, *words: str, timeout: float = 240) -> tuple[int, str, str]:
        running = self.start(*words)
        out, err = running.communicate(timeout=timeout)
        return running.returncode, out, err

    def close(self) -> None:
        for running in self._started:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
                running.wait(20)
            for pipe in (running.stdout, running.stderr):
                if pipe is not None:
                    pipe.close()

    @property
    def summary(self) -> dict[str, Any]:
        (path,) = (self.project / ".hypervisor/batches").glob("*/summary.json")
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found


@pytest.fixture
def runs(client: NewClient, git_project: Path, claude: str) -> Iterator[Runs]:
    made = Runs(client(cwd=git_project), git_project, claude)
    yield made
    made.close()


def code_agent(name: str) -> tuple[Reply | Callable[[Turn], Reply], ...]:
    """Return the script of an agent that writes its file, commits it and reports."""
    return (
        calls(tool("claim_task", id=name, caller="claude"), use("Bash", command="pwd")),
        lambda turn: calls(use("Write", file_path=f"{turn.results[1].text}/src/{name}.txt", content=name)),
        calls(use("Bash", command=f"git add src/{name}.txt")),
        calls(use("Bash", command=f"git commit -m 'Add {name}'")),
        calls(tool("complete_task", id=name, outcome=f"added {name}", evidence="git log")),
        say(f"Added {name}."),
    )


def test_twelve_tasks_are_verified_merged_and_accounted_for(api: ScriptedApi, runs: Runs) -> None:
    runs.add(*NAMES)
    for name in NAMES:
        api.main(*code_agent(name), when=f"Task {name}:")
    code, out, err = runs.run("--all", "-j", "4", "--model", "claude-sonnet-4-5")
    assert code == 0, out + err
    assert "12 queued = 12 success" in out
    assert "main fast-forwarded " in out
    assert [runs.tasks.status(name) for name in NAMES] == ["done"] * 12
    assert sorted(path.stem for path in (runs.project / "src").iterdir()) == NAMES
    changed = git(runs.project, "status", "--porcelain").splitlines()
    assert sorted(changed) == [f" M tasks/{name}.md" for name in NAMES]
    assert git(runs.project, "branch", "--format=%(refname:short)").split() == ["main"]
    summary = runs.summary
    assert summary["total_tokens"] == api.served.input_tokens + api.served.output_tokens
    assert summary["total_cost_usd"] > 0
    for row in summary["workers"]:
        assert row["evidence"]["commits"] == 1
        assert "passed" in row["evidence"]["verify"]
        assert row["evidence"]["reported"].startswith("done")


def test_a_killed_coordinator_is_resumed_and_only_what_was_in_flight_runs_again(
    api: ScriptedApi, runs: Runs
) -> None:
    names = NAMES[:6]
    runs.add(*names)
    hold = threading.Event()
    tries: list[str] = []

    def once(name: str) -> tuple[Reply | Callable[[Turn], Reply], ...]:
        first, *rest = code_agent(name)

        def begin(turn: Turn) -> Reply:
            tries.append(name)
            # The third and the fourth are in flight when the coordinator is killed.
            return hang(hold) if name in names[2:4] and tries.count(name) == 1 else _reply(first, turn)

        return (begin, *rest)

    for name in names:
        api.main(*once(name), when=f"Task {name}:")
    running = runs.start("--all", "-j", "2", "--model", "claude-sonnet-4-5")
    eventually(lambda: tries.count(names[2]) and tries.count(names[3]), "two agents in flight", seconds=90)
    eventually(lambda: runs.tasks.status(names[1]) == "done", "the first two to be done", seconds=60)
    agents = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _is_agent(int(pid))]
    running.kill()
    running.wait(20)
    (batch,) = os.listdir(runs.project / ".hypervisor/batches")
    code, out, err = runs.run("--resume", batch)
    assert code == 0, out + err
    gone(*agents)
    assert "6 queued = 6 success" in out
    assert sorted(tries) == sorted([*names, *names[2:4]])
    assert sorted(path.stem for path in (runs.project / "src").iterdir()) == names


def _reply(step: Reply | Callable[[Turn], Reply], turn: Turn) -> Reply:
    return step(turn) if callable(step) else step


def _is_agent(pid: int) -> bool:
    try:
        return b"HYPERVISOR_RUN=" in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def test_a_usage_limit_pauses_the_batch_and_costs_no_attempt(api: ScriptedApi, runs: Runs) -> None:
    runs.add("t-01", "t-02")
    resets = int(time.time()) + 12
    limited: list[float] = []

    def first(turn: Turn) -> Reply:
        if not limited:
            limited.append(time.time())
            return fail(429, "rate_limit_error", f"Claude AI usage limit reached|{resets}")
        begun.append(time.time())
        return _reply(code_agent("t-01")[0], turn)

    begun: list[float] = []
    api.main(first, first, *code_agent("t-01")[1:], when="Task t-01:")
    api.main(*code_agent("t-02"), when="Task t-02:")
    code, out, err = runs.run("--all", "-j", "1", "--model", "claude-sonnet-4-5")
    assert code == 0, out + err
    assert "2 success" in out
    assert begun
    assert begun[0] >= resets - 1
    row = next(one for one in runs.summary["workers"] if one["task_id"] == "t-01")
    assert row["status"] == "success"


def test_without_a_login_the_batch_stops_at_once(api: ScriptedApi, runs: Runs) -> None:
    runs.add(*NAMES)
    for name in NAMES:
        api.main(fail(401, "authentication_error", "invalid x-api-key"), when=f"Task {name}:")
    code, out, err = runs.run("--all", "-j", "2", "--model", "claude-sonnet-4-5")
    assert code == 1
    assert len(api.mains) <= 2
    assert "not logged in" in out + err
    assert "12 waiting" in out
    assert [runs.tasks.status(name) for name in NAMES] == ["active"] * 12


def test_a_second_attempt_counts_in_attempts_tokens_and_money(api: ScriptedApi, runs: Runs) -> None:
    runs.add("t-01")
    tries: list[str] = []

    def first(turn: Turn) -> Reply:
        tries.append("t-01")
        if len(tries) == 1:
            return say("All done.")  # which it is not: nothing verifies
        return _reply(code_agent("t-01")[0], turn)

    api.main(first, *code_agent("t-01")[1:], when="Task t-01:")
    code, out, err = runs.run("--all", "--retries", "1", "--model", "claude-sonnet-4-5")
    assert code == 0, out + err
    assert len(tries) == 2
    (row,) = runs.summary["workers"]
    assert (row["status"], row["attempts"]) == ("success", 2)
    assert row["tokens"] == api.served.input_tokens + api.served.output_tokens == runs.summary["total_tokens"]


def test_a_budget_that_is_used_up_begins_nothing_more_after_a_resume_either(
    api: ScriptedApi, runs: Runs
) -> None:
    runs.add(*NAMES[:4])
    for name in NAMES[:4]:
        api.main(*code_agent(name), when=f"Task {name}:")
    one_agent = "0.002"  # each costs some more than that, so that the first is ended on its way, and waits
    code, out, err = runs.run("--all", "-j", "1", "--budget-usd", one_agent, "--model", "claude-sonnet-4-5")
    assert code == 1, out + err
    assert "4 queued = 0 success + 0 blocked + 0 failed + 0 skipped + 0 running + 4 waiting" in out
    assert f"the budget of {one_agent} USD is used up" in out
    assert len(api.mains) == 1
    (batch,) = os.listdir(runs.project / ".hypervisor/batches")
    code, out, err = runs.run("--resume", batch)
    assert code == 1, out + err
    assert "is used up" in out
    assert len(api.mains) == 1


def test_what_a_user_asks_for_beside_the_work_is_done(api: ScriptedApi, runs: Runs) -> None:
    (runs.project / ".gitignore").write_text(".env\n")
    (runs.project / ".worktreeinclude").write_text(".env\n")
    (runs.project / ".env").write_text("COLOUR=teal\n")
    runs.add("t-01")
    runs.add("t-02", depends_on="[t-01]")
    seen: list[str] = []

    def look(turn: Turn) -> Reply:
        seen.append(turn.results[0].text)
        return _reply(code_agent("t-01")[0], turn)

    api.main(calls(use("Bash", command="cat .env")), look, *code_agent("t-01")[1:], when="Task t-01:")
    api.main(*code_agent("t-02"), when="Task t-02:")
    told = runs.project.parent / "told"
    words = ("--merge", "branch", "--canary", "1", "--halt", "fail=50%", "--commit-tasks")
    finish = f"sh -c 'echo \"$0\" > {told}'"
    code, out, err = runs.run(
        "--all", *words, "--on-finish", finish, "--allow", "Bash(cat:*)", "--model", "claude-sonnet-4-5"
    )
    assert code == 0, out + err
    assert seen == ["COLOUR=teal"]
    (batch,) = os.listdir(runs.project / ".hypervisor/batches")
    assert told.read_text().strip() == str(runs.project / ".hypervisor/batches" / batch)
    assert not (runs.project / "src").exists()
    kept = git(runs.project, "ls-tree", "-r", "--name-only", f"hypervisor/{batch}/merge", "src").split()
    assert kept == ["src/t-01.txt", "src/t-02.txt"]
    assert git(runs.project, "status", "--porcelain") == ""
    assert git(runs.project, "log", "-1", "--format=%s").strip() == f"Tasks: batch {batch}"
