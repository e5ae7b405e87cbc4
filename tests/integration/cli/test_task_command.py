"""`hypervisor task` and `hypervisor preflight`: the verbs of the tools, as a person types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from commands import shell, tree, write_task
from hypervisor.cli.cli import main
from hypervisor.cli.console import run


@dataclass(frozen=True, slots=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON document that it is."""
        return json.loads(self.out)


Command = Callable[..., Said]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two tasks, in which commands are called."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLAUDE_CODE_SESSION_ID", raising=False)
    write_task(tmp_path / "tasks/t-1.md")
    write_task(tmp_path / "tasks/t-2.md", depends_on="[t-1]")
    return tmp_path


@pytest.fixture
def task(root: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Call `hypervisor task`, in this process."""
    assert root.is_dir()

    def call(*words: str, command: str = "task") -> Said:
        try:
            code = run(main, [command, *words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Said(code, *capsys.readouterr())

    return call


def test_a_task_is_claimed_released_and_completed(root: Path, task: Command) -> None:
    path = root / "tasks/t-1.md"
    before = path.read_bytes()
    claimed = task("claim", "t-1", "--caller", "claude", "--json").json
    assert claimed["claim"] == {"attempt": 1, "expires_in": 900}
    assert claimed["task"] | {"id": "t-1", "status": "in_progress", "path": "tasks/t-1.md"} == claimed["task"]
    assert "Change one line." in claimed["task"]["body"]
    assert "held by    claude, attempt 1" in task("show", "t-1").out
    released = task("release", "t-1", "--reason", "later", "--caller", "claude")
    assert released == Said(0, "released: t-1 (tasks/t-1.md) is active\n", "")
    assert path.read_bytes() == before
    assert "attempt 1 by claude, " in (shown := task("show", "t-1").out)
    assert " given back: later" in shown
    assert task("receipt", "t-1", "sent", "--caller", "claude").code == 0
    done = task("complete", "t-1", "--outcome", "made it", "--caller", "claude")
    assert done == Said(0, "done: t-1 (tasks/t-1.md) is done\n", "")
    assert task("claim", "--next", "--caller", "claude").out == (
        "t-2 is yours: attempt 1, for 900 s of silence at most\n"
    )
    assert task("list", "--ready").code == 3
    nothing = task("claim", "--next", "--json", "--caller", "gemini")
    assert nothing.code == 3
    assert nothing.json == {"task": None, "reason": "nothing is ready: 1 already complete; 1 held by claude"}


def test_what_is_refused_says_what_to_do(task: Command) -> None:
    task("claim", "t-1", "--caller", "claude")
    held = task("claim", "t-1", "--caller", "gemini")
    assert held == Said(
        1, "", "hypervisor task claim: t-1 is held by claude (attempt 1); take another, or wait\n"
    )
    other = task("complete", "t-1", "--outcome", "x", "--caller", "gemini")
    assert (other.code, "pass the attempt (1) to act on that claim" in other.err) == (1, True)
    stale = task("complete", "t-1", "--outcome", "x", "--caller", "claude", "--attempt", "7")
    assert (stale.code, "(attempt 7) is lost: unknown" in stale.err) == (1, True)
    assert task("claim").code == task("claim", "t-1", "--next").code == 2
    wrong = task("update", "t-1", "--status", "done")
    assert (wrong.code, "use `hypervisor task complete t-1`" in wrong.err) == (2, True)
    assert task("update", "t-1").code == task("update", "t-1", "--priority", "x").code == 2
    assert task("complete", "t-1", "--outcome", "x", "--caller", "zoe", "--attempt", "1").code == 0


def test_a_task_is_blocked_changed_cancelled_and_opened_again(root: Path, task: Command) -> None:
    path = root / "tasks/t-1.md"
    assert task("block", "t-1", "--reason", "no key", "--next", "get one", "--caller", "claude").code == 0
    assert "- Outcome: blocked: no key\n- Next: get one\n" in path.read_text()
    assert task("update", "t-1", "--status", "active", "--priority", "high", "--body", "Go on.").code == 0
    assert "status: active\npriority: high\n" in path.read_text()
    assert path.read_text().endswith("Go on.\n")
    assert task("claim", "t-1", "--caller", "claude", "--json").json["claim"]["attempt"] == 2
    assert task("update", "t-1", "--status", "cancelled", "--body", "not wanted").code == 0
    assert "status: cancelled" in path.read_text()


def test_a_list_holds_every_condition_that_was_asked(root: Path, task: Command) -> None:
    write_task(root / "tasks/a.md", project="alpha", parent="beta")
    write_task(root / "tasks/b.md", project="alpha", parent="alpha")
    found = task("list", "--project", "alpha", "--parent", "alpha", "--json").json
    assert ([row["id"] for row in found["tasks"]], found["total"]) == (["b"], 1)
    header, first, *_ = task("list", "--ready").out.split("\n")
    assert header.split() == ["ID", "STATUS", "PRIORITY", "ASSIGNEE", "TITLE"]
    assert first.split()[:4] == ["a", "active", "medium", "-"]
    assert header.index("STATUS") == first.index("active")


def test_a_release_needs_no_reason_and_a_completion_without_a_claim_says_what_was_not_run(
    root: Path, task: Command
) -> None:
    write_task(root / "tasks/t-1.md", verify="test -f x")
    task("claim", "t-1", "--caller", "claude")
    assert task("release", "t-1", "--caller", "claude").code == 0
    task("claim", "t-1", "--caller", "claude")
    assert task("complete", "t-1", "--outcome", "made it", "--caller", "claude").err == ""
    write_task(root / "tasks/t-3.md", verify="test -f x")
    done = task("complete", "t-3", "--outcome", "made it", "--caller", "claude")
    assert done.code == 0
    assert done.err == "hypervisor: t-3 was not claimed, and its verify was not run: `test -f x`\n"


def test_preflight_says_what_would_run_and_what_is_skipped_and_why(root: Path, task: Command) -> None:
    write_task(root / "tasks/t-3.md", status="done")
    write_task(root / "tasks/t-4.md", status="done")
    (root / "tasks/bad.md").write_text("---\nno: [end\n")
    said = task("--all", command="preflight")
    assert said.code == 0
    assert said.out.startswith("2 would run\n  t-1: ")
    assert "2 skipped (already complete): t-3, t-4\n" in said.out
    assert "cannot be read: " in said.out
    made = task("--all", "--batch", "--waves", "--json", command="preflight").json
    assert made["run"] == ["t-1", "t-2"]
    assert made["batch"]
    assert task("t-3", command="preflight").code == 3
    assert task(command="preflight").code == 2


def test_looking_changes_no_task_and_makes_no_store(root: Path, task: Command) -> None:
    before = tree(root / "tasks")
    task("list")
    task("show", "t-1")
    task("--all", command="preflight")
    assert tree(root / "tasks") == before
    assert not (root / ".hypervisor/hypervisor.db").exists()


def test_the_command_as_a_shell_starts_it(tmp_path: Path) -> None:
    with shell(tmp_path) as user:
        write_task(user.cwd / "tasks/t-1.md")
        user.hypervisor("task", "claim", "t-1", "--caller", "claude").passed()
        user.hypervisor("task", "claim", "t-1", "--caller", "gemini").refused(1, "t-1 is held by claude")
