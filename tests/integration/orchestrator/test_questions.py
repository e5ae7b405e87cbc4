"""Agents that ask: their tasks wait at no cost, the others go on, and an answer lets them go on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT, Gate, Shell, eventually, script, shell, write_task

pytestmark = pytest.mark.acceptance

GOOD = """
mkdir -p src
echo "$HYPERVISOR_TASK_ID" > "src/$HYPERVISOR_TASK_ID.txt"
git add src
git commit --quiet -m "Add $HYPERVISOR_TASK_ID"
"""
#: Writes half of its work and asks; with an answer it commits that answer.
ASKS = """
set -e
mkdir -p src
if grep -q 'Answer: ' -; then
    test -f "src/half-$HYPERVISOR_TASK_ID.txt"
    git mv "src/half-$HYPERVISOR_TASK_ID.txt" "src/$HYPERVISOR_TASK_ID.txt"
    git commit --quiet -m "Add $HYPERVISOR_TASK_ID"
    exit 0
fi
echo half > "src/half-$HYPERVISOR_TASK_ID.txt"
git add src
git commit --quiet -m "Half of $HYPERVISOR_TASK_ID"
HYPERVISOR task ask "$HYPERVISOR_TASK_ID" "Red or blue?" --choice red --choice blue
"""
MIXED = f"case $HYPERVISOR_TASK_ID in\nt-1) {ASKS}\n;;\n*) {GOOD}\n;;\nesac\n"


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        git(made.cwd, "init", "--quiet", "--initial-branch=main")
        git(made.cwd, "config", "user.name", "A User")
        git(made.cwd, "config", "user.email", "user@example.invalid")
        yield made


def git(project: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=project, check=True, capture_output=True, text=True).stdout


def tasks(user: Shell, *names: str, **keys: str) -> None:
    for name in names:
        write_task(user.cwd / f"tasks/{name}.md", **keys)
    git(user.cwd, "add", "--all")
    git(user.cwd, "commit", "--quiet", "-m", "Tasks")


def run(user: Shell, text: str, *words: str) -> Any:
    agent = script(user.home, "agent", text)
    return user.hypervisor("run", "--all", "--agent", "exec", "--exec", agent, *words)


def status(user: Shell, name: str) -> str:
    text = (user.cwd / f"tasks/{name}.md").read_text()
    return next(line for line in text.splitlines() if line.startswith("status:")).split()[1]


def summary(user: Shell) -> dict[str, Any]:
    (path,) = (user.cwd / ".hypervisor/batches").glob("*/summary.json")
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def asking(text: str = MIXED) -> str:
    return text.replace("HYPERVISOR task", f"{ROOT / 'bin/hypervisor'} task")


def questions(user: Shell) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(user.hypervisor("questions", "--json").out)
    return found


def test_a_task_that_asks_waits_at_no_cost_and_the_others_go_on(user: Shell) -> None:
    tasks(user, "t-1", "t-2", "t-3", files="[src]")
    ended = run(user, asking(), "-j", "2", "--no-scope-gate")
    assert ended.code == 1
    assert "3 queued = 2 success + 0 blocked + 0 failed + 0 skipped + 0 running + 1 waiting" in ended.out
    assert "1 task waits for an answer" in ended.out
    assert "--resume" in ended.out
    assert status(user, "t-1") == "active"
    (asked,) = questions(user)
    assert (asked["task_id"], asked["text"], asked["choices"]) == ("t-1", "Red or blue?", ["red", "blue"])
    need = summary(user)["needs_attention"]
    assert need == [{"task_id": "t-1", "reason": "asks: Red or blue?", "next": 'hypervisor answer 1 "..."'}]
    line = 't-1 asks: Red or blue?; hypervisor answer 1 "..."'
    assert f"question {line}" in user.hypervisor("status").out
    assert json.loads(user.hypervisor("status", "--json").out)["questions"][0]["task_id"] == "t-1"
    assert f"question: {line}" in user.hypervisor("status", asked["batch"]).out
    page = user.hypervisor("report", asked["batch"], "--json").json["needs_attention"]
    assert [(one["state"], one["reason"], one["type"], len(one["items"])) for one in page] == [
        ("waiting", "t-1 asks: Red or blue? (red / blue)", 'hypervisor answer 1 "..."', 1)
    ]
    refused = user.hypervisor("task", "claim", "t-1", "--caller", "claude")
    assert refused.code == 1
    assert "waits for an answer" in refused.err
    # Resumed without an answer it is left alone.
    again = user.hypervisor("run", "--resume", asked["batch"])
    assert "1 task waits for an answer" in again.out


def test_an_answered_task_goes_on_from_its_work_so_far(user: Shell) -> None:
    tasks(user, "t-1", files="[src]")
    run(user, asking())
    batch = questions(user)[0]["batch"]
    unknown = user.hypervisor("answer", "t-7", "blue")
    assert (unknown.code, "t-7: no such question; see `hypervisor questions`" in unknown.err) == (2, True)
    user.hypervisor("answer", "t-1", "blue").passed()
    assert user.hypervisor("answer", "1", "red").code == 1
    user.hypervisor("run", "--resume", batch).passed()
    assert status(user, "t-1") == "done"
    assert (user.cwd / "src/t-1.txt").read_text() == "half\n"
    (row,) = summary(user)["workers"]
    assert row["attempts"] == 2
    assert row["evidence"]["commits"] == 2
    assert git(user.cwd, "branch", "--format=%(refname:short)").split() == ["main"]
    shown = json.loads(user.hypervisor("task", "show", "t-1", "--json").out)
    assert "asks (question 1)" in shown["history"][0]["why"]


def test_a_batch_that_is_resumed_begins_from_where_the_branch_is_by_now(user: Shell) -> None:
    tasks(user, "t-1", "t-2", files="[src]")
    tasks(user, "t-3", files="[src]", depends_on="[t-1]")
    run(user, asking(f"test $HYPERVISOR_TASK_ID != t-3 || test -f mine.txt || exit 9\n{MIXED}"), "-j", "1")
    (user.cwd / "mine.txt").write_text("mine\n")
    git(user.cwd, "add", "mine.txt")
    git(user.cwd, "commit", "--quiet", "-m", "Mine")
    (asked,) = questions(user)
    user.hypervisor("answer", "1", "blue").passed()
    user.hypervisor("run", "--resume", asked["batch"]).passed()
    assert {path.name for path in (user.cwd / "src").iterdir()} == {"t-1.txt", "t-2.txt", "t-3.txt"}


def test_an_answer_is_taken_up_by_the_run_that_is_alive(user: Shell, tmp_path: Path) -> None:
    tasks(user, "t-1", "t-2", files="[src]")
    gate = Gate(tmp_path, "slow")
    slow = f"{gate.words}\n{GOOD}"
    text = asking(f"case $HYPERVISOR_TASK_ID in\nt-1) {ASKS}\n;;\n*) {slow}\n;;\nesac\n")
    agent = script(user.home, "agent", text)
    words = ("--all", "--agent", "exec", "--exec", agent, "-j", "2", "--no-scope-gate")
    going = user.start_hypervisor("run", *words)
    eventually(lambda: questions(user), "the question")
    user.hypervisor("answer", "1", "blue").passed()
    eventually(lambda: status(user, "t-1") == "done", "the task that goes on")
    gate.open()
    going.end().passed()
    gate.close()


def test_a_question_of_a_cancelled_task_needs_no_answer(user: Shell) -> None:
    tasks(user, "t-1", files="[src]")
    run(user, asking())
    user.hypervisor("task", "update", "t-1", "--status", "cancelled").passed()
    assert questions(user) == []
    refused = user.hypervisor("answer", "1", "blue")
    assert refused.code == 1
    assert "needs no answer" in refused.err


def test_what_left_its_scope_is_judged_though_it_asks(user: Shell) -> None:
    tasks(user, "t-1", files="[docs]")
    run(user, asking())
    assert questions(user) == []
    assert status(user, "t-1") == "review"
