"""`hypervisor run` with agents that lie, stray, flood, hang and hide: what is decided, on what evidence."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT, Gate, Shell, alive, eventually, gone, script, shell, write_task
from hypervisor.core.settings import default_settings
from hypervisor.store.events import RunEvent
from hypervisor.store.store import Store

pytestmark = pytest.mark.acceptance

#: An agent that does its task: writes the file that its task names, and commits it.
GOOD = """
set -e
mkdir -p src
echo "$HYPERVISOR_TASK_ID" > "src/$HYPERVISOR_TASK_ID.txt"
git add src
git commit --quiet -m "Add $HYPERVISOR_TASK_ID"
"""

STRAYS = "mkdir -p src; echo x > src/other.txt; git add src; git commit -qm x"


def git(project: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=project, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        git(made.cwd, "init", "--quiet", "--initial-branch=main")
        git(made.cwd, "config", "user.name", "A User")
        git(made.cwd, "config", "user.email", "user@example.invalid")
        (made.cwd / "README.md").write_text("# A project\n")
        yield made


def tasks(user: Shell, *names: str, **keys: str) -> None:
    """Write tasks, each with a scope of its own, and commit them."""
    for name in names:
        write_task(user.cwd / f"tasks/{name}.md", **{"files": f"[src/{name}.txt]", **keys})
    git(user.cwd, "add", "--all")
    git(user.cwd, "commit", "--quiet", "-m", "Tasks")


def run(user: Shell, text: str, *words: str, names: tuple[str, ...] = ("--all",), **options: Any) -> Any:
    agent = script(user.home, "agent", text)
    return user.hypervisor("run", *names, "--agent", "exec", "--exec", agent, *words, **options)


def status(user: Shell, name: str) -> str:
    text = (user.cwd / f"tasks/{name}.md").read_text()
    return next(line for line in text.splitlines() if line.startswith("status:")).split()[1]


def summary(user: Shell) -> dict[str, Any]:
    (path,) = (user.cwd / ".hypervisor/batches").glob("*/summary.json")
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def row(user: Shell, name: str) -> dict[str, Any]:
    (found,) = [one for one in summary(user)["workers"] if one["task_id"] == name]
    return dict(found)


def happened(user: Shell, what: RunEvent) -> bool:
    with Store.open(user.cwd / ".hypervisor", default_settings(), create=False) as store:
        return any(event.kind == what for event in store.events.since(0))


def branches(user: Shell) -> list[str]:
    return git(user.cwd, "branch", "--format=%(refname:short)").split()


def clean_but_for_tasks(user: Shell) -> None:
    changed = [line for line in git(user.cwd, "status", "--porcelain").splitlines() if "tasks/" not in line]
    assert changed == []


# ------------------------------------------------------------------------ good


def test_verified_work_is_merged_and_nothing_is_left_behind(user: Shell) -> None:
    names = [f"t-{n}" for n in range(1, 7)]
    tasks(user, *names, verify="test -f src/$(ls src | head -1)")
    ended = run(user, GOOD, "-j", "3").passed()
    assert "6 queued = 6 success" in ended.out
    assert "main fast-forwarded " in ended.out
    assert "(6 tasks)" in ended.out
    assert [status(user, name) for name in names] == ["done"] * 6
    assert sorted(path.name for path in (user.cwd / "src").iterdir()) == [f"{name}.txt" for name in names]
    assert branches(user) == ["main"]
    assert git(user.cwd, "worktree", "list").count("\n") == 1
    clean_but_for_tasks(user)
    evidence = row(user, "t-1")["evidence"]
    assert evidence["commits"] == 1
    assert evidence["files"] == ["src/t-1.txt"]
    assert "verify" in evidence


def test_of_an_agent_that_did_nothing_no_branch_is_named_and_its_output_is_to_be_read(user: Shell) -> None:
    tasks(user, "t-1")
    ended = run(user, "exit 0")
    assert "kept:" not in ended.out
    (need,) = summary(user)["needs_attention"]
    assert need["next"] == "see `hypervisor log t-1`; then `hypervisor task update t-1 --status active`"
    assert row(user, "t-1").get("branch") is None


def test_what_was_left_uncommitted_in_scope_is_committed_for_the_agent(user: Shell) -> None:
    tasks(user, "t-1")
    run(user, 'mkdir -p src; echo x > "src/$HYPERVISOR_TASK_ID.txt"').passed()
    assert (user.cwd / "src/t-1.txt").exists()
    assert status(user, "t-1") == "done"


def test_task_files_are_committed_when_asked_for(user: Shell) -> None:
    tasks(user, "t-1")
    run(user, GOOD, "--commit-tasks").passed()
    assert git(user.cwd, "status", "--porcelain") == ""
    assert git(user.cwd, "show", "--stat", "--format=%s", "HEAD").startswith("Tasks: batch ")


# ------------------------------------------------------------------------- bad


@pytest.mark.parametrize(
    ("text", "files", "words"),
    [
        ("true", "[src/t-1.txt]", "no commit"),
        ("true", "", "no commit"),
        ("echo done; exit 0", "", "no commit"),
        (STRAYS, "[src/t-1.txt]", "src/other.txt"),
        ("exit 3", "[src/t-1.txt]", "exit 3"),
    ],
    ids=["nothing", "nothing, no scope", "says so", "out of scope", "fails"],
)  # fmt: skip
def test_exit_0_without_evidence_is_no_success(user: Shell, text: str, files: str, words: str) -> None:
    tasks(user, "t-1", files=files or "[]")
    before = git(user.cwd, "rev-parse", "HEAD")
    ended = run(user, text)
    assert ended.code == 1, ended.out + ended.err
    assert "1 success" not in ended.out
    assert words in ended.out + ended.err
    assert status(user, "t-1") != "done"
    assert git(user.cwd, "rev-parse", "HEAD") == before
    clean_but_for_tasks(user)
    assert summary(user)["needs_attention"][0]["task_id"] == "t-1"


def test_good_work_with_a_write_into_the_main_checkout_is_no_success(user: Shell) -> None:
    tasks(user, "t-1")
    ended = run(user, GOOD + 'echo stray >> "$HYPERVISOR_ROOT/README.md"')
    assert ended.code == 1
    assert status(user, "t-1") != "done"
    assert "README.md" in row(user, "t-1")["reason"]
    assert not (user.cwd / "src").exists()
    # The work is good, and kept: nothing unmerged is ever removed.
    (branch,) = [name for name in branches(user) if name.endswith("/t-1-1")]
    assert "src/t-1.txt" in git(user.cwd, "diff", "--name-only", f"main...{branch}")


def test_work_that_does_not_verify_is_kept_and_not_merged(user: Shell) -> None:
    tasks(user, "t-1", verify="false")
    assert run(user, GOOD).code == 1
    assert status(user, "t-1") == "review"
    assert "false" in row(user, "t-1")["reason"]
    assert not (user.cwd / "src").exists()
    assert any(name.endswith("/t-1-1") for name in branches(user))


def test_a_conflict_keeps_the_branch_and_asks_for_a_look(user: Shell) -> None:
    tasks(user, "t-1", "t-2", files="[]")
    text = 'echo "$HYPERVISOR_TASK_ID" > shared.txt; git add shared.txt; git commit -qm x; sleep 0.5'
    assert run(user, text, "-j", "2").code == 1
    assert sorted(status(user, name) for name in ("t-1", "t-2")) == ["done", "review"]
    assert len([name for name in branches(user) if name.startswith("hypervisor/")]) >= 1
    assert (user.cwd / "shared.txt").exists()


def test_a_hanging_agent_and_its_hidden_children_are_ended(user: Shell, tmp_path: Path) -> None:
    tasks(user, "t-1")
    gate = Gate(tmp_path, "hang")
    forever = "while :; do sleep 1; done"
    hidden = f"setsid sh -c 'trap \"\" TERM; {gate.words}; while :; do sleep 1; done' &\n"
    try:
        running = user.start_hypervisor(
            "run", "--all", "--agent", "exec", "--timeout", "1",
            "--exec", script(user.home, "agent", f"trap '' TERM\n{hidden}{gate.words}\n{forever}"),
        )  # fmt: skip
        pids = gate.wait(2)
        ended = running.end(60)
        assert ended.code == 1
        gone(*pids)
        assert "timed out" in row(user, "t-1")["reason"]
        assert status(user, "t-1") != "done"
    finally:
        gate.close()


def test_a_flood_of_output_is_kept_whole(user: Shell) -> None:
    tasks(user, "t-1")
    run(user, f"head -c 150000000 /dev/zero | tr '\\0' x\n{GOOD}", timeout=120).passed()
    logs = (user.cwd / ".hypervisor/batches").glob("*/logs/*.out*")  # compressed, as the batch is over
    pieces = [(path.suffix, path.read_bytes()) for path in logs]
    kept = sum(len(gzip.decompress(data) if kind == ".gz" else data) for kind, data in pieces)
    assert kept >= 150_000_000
    assert status(user, "t-1") == "done"


# --------------------------------------------------------------- the batch's life


def test_a_killed_coordinator_is_resumed_and_only_what_was_in_flight_runs_again(
    user: Shell, tmp_path: Path
) -> None:
    names = [f"t-{n}" for n in range(1, 6)]
    tasks(user, *names)
    log = tmp_path / "began"
    gate = Gate(tmp_path, "third")
    third = '[ "$HYPERVISOR_TASK_ID" = t-3 ] && [ "$HYPERVISOR_ATTEMPT" = 1 ]'
    notes = f'echo "$HYPERVISOR_TASK_ID" >> {log}'
    text = f"{notes}\nif {third}; then {gate.words}; fi\n{GOOD}"
    try:
        running = user.start_hypervisor(
            "run", "--all", "-j", "1", "--agent", "exec", "--exec", script(user.home, "agent", text)
        )
        (agent,) = gate.wait()
        running.kill()
        (batch,) = os.listdir(user.cwd / ".hypervisor/batches")
        resume = f"to continue: hypervisor run --resume {batch}\n"
        assert re.search(rf" its run run-{running.pid}-\w+ was killed; {resume}", user.here("status").out)
        looked = user.here("status", batch).out
        assert f"its run run-{running.pid}-" in looked
        assert looked.endswith(resume)
        ended = user.hypervisor("run", "--resume", batch).passed()
        assert "was killed" not in user.here("status").out
        gone(agent)
    finally:
        gate.close()
    assert "5 queued = 5 success" in ended.out
    began = log.read_text().split()
    assert sorted(began) == sorted([*names, "t-3"])
    assert [status(user, name) for name in names] == ["done"] * 5
    assert sorted(path.name for path in (user.cwd / "src").iterdir()) == [f"{name}.txt" for name in names]


#: Runs the command in a process that dies at the moment that *patch* makes deadly.
_DIES = """
import os, signal, sys
sys.path.insert(0, {scripts!r})
def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)
{patch}
from hypervisor.cli.cli import main
sys.exit(main({words!r}))
"""


@pytest.mark.parametrize(
    ("patch", "agents"),
    [
        ("from hypervisor.tasks.service import TaskService; TaskService.finish = die", 1),
        ("from hypervisor.store.merges import BatchMerges; BatchMerges.add = die", 2),
        ("from hypervisor.git.git import Git; r = Git.run\n"
         "Git.run = lambda self, *w, **k: die() if w[:3] == ('update-ref', '-m', 'hypervisor: merge')"
         " else r(self, *w, **k)", 2),
    ],
    ids=["before its result", "before the merge is noted", "before the branch is moved"],
)  # fmt: skip
def test_work_is_merged_once_wherever_its_coordinator_dies(
    user: Shell, tmp_path: Path, patch: str, agents: int
) -> None:
    tasks(user, "t-1")
    log = tmp_path / "began"
    agent = script(user.home, "agent", f"echo x >> {log}\n{GOOD}")
    words = ["run", "--all", "--agent", "exec", "--exec", agent]
    code = _DIES.format(scripts=str(ROOT / "scripts"), patch=patch, words=words)
    assert user.run([sys.executable, "-c", code]).code == -signal.SIGKILL
    (batch,) = os.listdir(user.cwd / ".hypervisor/batches")
    ended = user.hypervisor("run", "--resume", batch).passed()
    assert "1 queued = 1 success" in ended.out
    assert len(log.read_text().split()) == agents
    assert status(user, "t-1") == "done"
    assert (user.cwd / "src/t-1.txt").read_text() == "t-1\n"
    merges = git(user.cwd, "log", "--merges", "--format=%s").splitlines()
    assert len(merges) == 1


def test_undo_gives_task_files_back_to_the_byte_after_a_run(user: Shell) -> None:
    tasks(user, "t-1", "t-2")
    before = {path: path.read_bytes() for path in (user.cwd / "tasks").iterdir()}
    run(user, f'[ "$HYPERVISOR_TASK_ID" = t-2 ] || exit 1\n{GOOD}')
    assert all(path.read_bytes() != data for path, data in before.items())
    (batch,) = os.listdir(user.cwd / ".hypervisor/batches")
    user.hypervisor("undo", batch).passed()
    assert {path: path.read_bytes() for path in before} == before


def test_ctrl_c_finishes_what_is_in_hand_and_begins_nothing_more(user: Shell, tmp_path: Path) -> None:
    tasks(user, "t-1", "t-2", "t-3")
    gate = Gate(tmp_path, "first")
    try:
        running = user.start_hypervisor(
            "run", "--all", "-j", "1", "--agent", "exec",
            "--exec", script(user.home, "agent", f"{gate.words}\n{GOOD}"),
        )  # fmt: skip
        gate.wait()
        running.send(signal.SIGINT)
        eventually(lambda: happened(user, RunEvent.HALTED), "its drain")
        gate.open()
        ended = running.end(60)
    finally:
        gate.close()
    assert ended.code == 1
    assert "1 success" in ended.out
    assert "2 waiting" in ended.out
    assert "stopped by the user" in ended.out
    assert "hypervisor: finishing 1 task; Ctrl-C again stops them\n" in ended.err


def test_ctrl_c_twice_stops_what_is_in_hand_at_no_cost(user: Shell, tmp_path: Path) -> None:
    tasks(user, "t-1", "t-2")
    before = (user.cwd / "tasks/t-1.md").read_bytes()
    gate = Gate(tmp_path, "first")
    try:
        running = user.start_hypervisor(
            "run", "--all", "-j", "1", "--agent", "exec",
            "--exec", script(user.home, "agent", f"trap '' TERM\n{gate.words}\n{GOOD}"),
        )  # fmt: skip
        (agent,) = gate.wait()
        running.send(signal.SIGINT)
        eventually(lambda: happened(user, RunEvent.HALTED), "its drain")  # two at once would be one
        running.send(signal.SIGINT)
        ended = running.end(60)
        gone(agent)
    finally:
        gate.close()
    assert ended.code == 1
    assert "hypervisor: stopping 1 task\n" in ended.err
    assert "2 queued = 0 success + 0 blocked + 0 failed + 0 skipped + 0 running + 2 waiting" in ended.out
    assert (user.cwd / "tasks/t-1.md").read_bytes() == before


def test_failing_canaries_stop_the_batch(user: Shell, tmp_path: Path) -> None:
    names = [f"t-{n:02}" for n in range(1, 21)]
    tasks(user, *names)
    log = tmp_path / "began"
    ended = run(user, f'echo "$HYPERVISOR_TASK_ID" >> {log}; exit 1', "--canary", "3", "-j", "4")
    assert ended.code == 1
    assert len(log.read_text().split()) == 3
    assert "3 failed" in ended.out
    assert "17 waiting" in ended.out


def test_a_task_that_is_cancelled_while_its_agent_works_ends_the_agent_and_is_not_merged(
    user: Shell, tmp_path: Path
) -> None:
    tasks(user, "t-1", "t-2")
    gate = Gate(tmp_path, "cancelled")
    text = f'{GOOD}\nif [ "$HYPERVISOR_TASK_ID" = t-1 ]; then {gate.words}; fi'
    try:
        running = user.start_hypervisor(
            "run", "t-1", "t-2", "-j", "1", "--agent", "exec", "--exec", script(user.home, "agent", text)
        )
        (agent,) = gate.wait()
        user.hypervisor("task", "update", "t-1", "--status", "cancelled", "--body", "not wanted").passed()
        gone(agent)
        running.end(60)
    finally:
        gate.close()
    assert (status(user, "t-1"), status(user, "t-2")) == ("cancelled", "done")
    assert sorted(path.name for path in (user.cwd / "src").iterdir()) == ["t-2.txt"]
    # What it had committed is nowhere else, so it is still there.
    assert any(name.endswith("/t-1-1") for name in branches(user))


def test_a_task_that_a_person_completes_by_word_while_a_batch_runs_is_named_as_not_checked(
    user: Shell, tmp_path: Path
) -> None:
    tasks(user, "t-1", "t-2")
    gate = Gate(tmp_path, "gate")
    agent = script(user.home, "agent", f"{gate.words}\n{GOOD}")
    running = user.start_hypervisor("run", "--all", "-j", "1", "--agent", "exec", "--exec", agent)
    gate.wait()
    user.here("task", "complete", "t-2", "--outcome", "did it by hand", "--caller", "ada").passed()
    gate.open()
    ended = running.end(60)
    gate.close()
    assert ended.code == 1
    assert "needs attention: t-2: completed by ada; not checked by this run" in ended.out
    assert (row(user, "t-2")["unchecked"], "unchecked" in row(user, "t-1")) == (True, False)


def test_overlapping_scopes_never_run_at_once(user: Shell, tmp_path: Path) -> None:
    names = [f"t-{n}" for n in range(1, 9)]
    tasks(user, *names, files="[shared.txt]")
    log = tmp_path / "log"
    change = 'echo "$HYPERVISOR_TASK_ID" >> shared.txt; git add shared.txt; git commit -qm x'
    text = f"echo + >> {log}; {change}; echo - >> {log}"
    run(user, text, "-j", "4", timeout=120).passed()
    assert log.read_text().split() == ["+", "-"] * 8
    assert sorted((user.cwd / "shared.txt").read_text().split()) == names


def test_two_coordinators_on_one_project_do_each_task_once(user: Shell, tmp_path: Path) -> None:
    names = [f"t-{n:02}" for n in range(1, 21)]
    tasks(user, *names)
    log = tmp_path / "began"
    agent = script(user.home, "agent", f'echo "$HYPERVISOR_TASK_ID" >> {log}\n{GOOD}')
    words = ("run", "--all", "-j", "2", "--agent", "exec", "--exec", agent)
    both = [user.start_hypervisor(*words) for _ in range(2)]
    for one in both:
        one.end(120)
    assert sorted(log.read_text().split()) == names
    assert [status(user, name) for name in names] == ["done"] * 20


def test_a_task_that_depends_on_a_failed_one_is_not_begun(user: Shell, tmp_path: Path) -> None:
    tasks(user, "t-1")
    write_task(user.cwd / "tasks/t-2.md", depends_on="[t-1]")
    ended = run(user, "exit 1", names=("t-1", "t-2"))
    assert ended.code == 1
    assert status(user, "t-2") == "active"


def test_tasks_that_wait_for_one_another_run_one_after_the_other(user: Shell, tmp_path: Path) -> None:
    tasks(user, "t-1")
    write_task(user.cwd / "tasks/t-0.md", depends_on="[T-2]")
    write_task(user.cwd / "tasks/t-2.md", depends_on="[t-1]")
    log = tmp_path / "began"
    ended = run(user, f'echo "$HYPERVISOR_TASK_ID" >> {log}\n{GOOD}', names=("t-0", "t-1", "t-2"))
    assert ended.code == 0, ended.out + ended.err
    assert log.read_text().split() == ["t-1", "t-2", "t-0"]


def test_a_share_of_failures_halts_the_batch(user: Shell, tmp_path: Path) -> None:
    names = [f"t-{n:02}" for n in range(1, 21)]
    tasks(user, *names)
    log = tmp_path / "began"
    ended = run(user, f'echo "$HYPERVISOR_TASK_ID" >> {log}; exit 1', "--halt", "fail=50%", "-j", "1")
    assert ended.code == 1
    assert len(log.read_text().split()) == 5  # so many must have ended before a share says anything
    assert "15 waiting" in ended.out
    assert "ended early" in ended.out


def test_a_failure_is_tried_again_as_often_as_asked(user: Shell, tmp_path: Path) -> None:
    tasks(user, "t-1")
    log = tmp_path / "began"
    flaky = f'echo x >> {log}; [ "$(wc -l < {log})" -ge 2 ] || exit 75\n{GOOD}'
    run(user, flaky, "--retries", "1", timeout=120).passed()
    assert len(log.read_text().split()) == 2
    assert row(user, "t-1")["attempts"] == 2


def test_only_the_tasks_below_a_parent_are_run(user: Shell) -> None:
    tasks(user, "t-1", parent="big")
    tasks(user, "t-2")
    tasks(user, "big", status="blocked")
    run(user, GOOD, names=("--parent", "big")).passed()
    assert (status(user, "t-1"), status(user, "t-2")) == ("done", "active")


def test_a_task_that_needs_what_the_agents_do_not_have_is_skipped(user: Shell) -> None:
    tasks(user, "t-1", needs="[mcp:outlook]")
    why = "needs mcp:outlook; --has mcp:outlook if the agents have it"
    assert f"1 skipped ({why}): t-1" in user.hypervisor("preflight", "--all").out
    ended = run(user, GOOD)
    assert (ended.code, why in ended.err) == (3, True), ended.err
    run(user, GOOD, "--has", "mcp:outlook").passed()
    assert status(user, "t-1") == "done"


def test_a_batch_of_the_preflight_is_run_as_it_stands(user: Shell) -> None:
    tasks(user, "t-1", "t-2")
    made = user.hypervisor("preflight", "t-2", "--batch", "--json").passed().json
    run(user, GOOD, names=("--batch", made["batch"])).passed()
    assert (status(user, "t-1"), status(user, "t-2")) == ("active", "done")


def test_ignored_files_that_are_named_come_along(user: Shell) -> None:
    (user.cwd / ".gitignore").write_text(".env\n")
    (user.cwd / ".worktreeinclude").write_text(".env\n")
    tasks(user, "t-1", verify="grep -q secret src/t-1.txt")
    (user.cwd / ".env").write_text("secret\n")
    run(user, "mkdir -p src; cp .env src/t-1.txt").passed()
    assert (user.cwd / "src/t-1.txt").read_text() == "secret\n"


def test_the_users_command_is_run_at_the_end(user: Shell, tmp_path: Path) -> None:
    tasks(user, "t-1")
    told = script(user.home, "told", f'echo "$1" > {tmp_path}/told')
    ended = run(user, GOOD, "--on-finish", told).passed()
    assert (tmp_path / "told").read_text().strip().startswith(str(user.cwd / ".hypervisor/batches"))
    assert f"--on-finish {told}: exit 0" in ended.out


def test_work_stays_on_the_batchs_branch_when_asked_to(user: Shell) -> None:
    tasks(user, "t-1")
    before = git(user.cwd, "rev-parse", "HEAD")
    ended = run(user, GOOD, "--merge", "branch").passed()
    assert git(user.cwd, "rev-parse", "HEAD") == before
    (branch,) = [name for name in branches(user) if name.endswith("/merge")]
    assert branch in ended.out
    assert "src/t-1.txt" in git(user.cwd, "diff", "--name-only", f"main...{branch}")


def test_a_user_who_works_in_the_way_loses_nothing(user: Shell) -> None:
    tasks(user, "t-1")
    (user.cwd / "src").mkdir()
    (user.cwd / "src/t-1.txt").write_text("the user's own\n")
    ended = run(user, GOOD)
    assert (user.cwd / "src/t-1.txt").read_text() == "the user's own\n"
    assert "branch main not moved: " in ended.out
    (branch,) = [name for name in branches(user) if name.endswith("/merge")]
    assert git(user.cwd, "show", f"{branch}:src/t-1.txt") == "t-1\n"


def test_a_run_ends_with_what_was_merged_what_was_kept_and_what_it_took(user: Shell) -> None:
    tasks(user, "t-1", "t-2")
    text = f'if [ "$HYPERVISOR_TASK_ID" = t-1 ]; then\n{GOOD}\nelse\n{STRAYS}\nfi'
    ended = run(user, text, "-j", "1")
    (branch,) = [name for name in branches(user) if "/t-2-1" in name]
    assert f"\nkept: {branch}: look `hypervisor diff t-2`, merge `hypervisor accept t-2`\n" in ended.out
    assert re.search(r"\nmain fast-forwarded [0-9a-f]{7}\.\.[0-9a-f]{7} \(1 task\)\n", ended.out)
    last = ended.lines[-1]
    assert re.fullmatch(
        r"took [\d.]+ s, tokens not known, cost not known; logs in .hypervisor/batches/\S+/logs", last
    )


def test_clean_removes_what_holds_nothing_and_names_the_rest(user: Shell) -> None:
    tasks(user, "t-1")
    assert run(user, STRAYS).code == 1
    looked = user.hypervisor("clean", "--dry-run")
    assert "would" not in looked.out.splitlines()[0]
    kept = user.hypervisor("clean")
    assert kept.code == looked.code == 3
    assert kept.out.splitlines()[:-1] == looked.out.splitlines()[:-1]
    assert "kept" in kept.out
    assert "unmerged commit" in kept.out
    assert "see `hypervisor diff t-1`, or discard it: `git branch -D hypervisor/" in kept.out
    git(user.cwd, "merge", "--quiet", next(name for name in branches(user) if name.endswith("/t-1-1")))
    would = user.hypervisor("clean", "--dry-run").passed().out.splitlines()
    removed = user.hypervisor("clean").passed().out.splitlines()
    assert [line.replace("would  ", "removed") for line in would[:-1]] == removed[:-1]
    assert branches(user) == ["main"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "say which tasks"),
        (["run", "--all", "--agent", "exec"], "belong together"),
        (["run", "--all", "--agent", "exec", "--exec", "/nowhere/x"], "no such program"),
        (["run", "--all", "-j", "0", "--agent", "exec", "--exec", "true"], "at least 1"),
        (["run", "--all", "--halt", "20", "--agent", "exec", "--exec", "true"], "must be like fail=20%"),
        (["run", "--resume", "nope"], "no such batch"),
        (["run", "--resume", "x", "--all"], "name no others"),
        (["wait"], "required"),
    ],
)
def test_wrong_words_are_one_line(user: Shell, words: list[str], said: str) -> None:
    tasks(user, "t-1")
    user.hypervisor(*words).refused(2, said)


def test_a_project_without_git_is_told_what_to_do(tmp_path: Path) -> None:
    with shell(tmp_path) as user:
        write_task(user.cwd / "tasks/t-1.md")
        words = ("run", "--all", "--agent", "exec", "--exec", "true")
        user.hypervisor(*words).refused(2, "no git repository", "--isolation none")


def test_wait_ends_with_the_batch(user: Shell, tmp_path: Path) -> None:
    tasks(user, "t-1")
    gate = Gate(tmp_path, "wait")
    try:
        running = user.start_hypervisor(
            "run", "--all", "--agent", "exec", "--exec", script(user.home, "agent", f"{gate.words}\n{GOOD}")
        )
        (pid,) = gate.wait()
        waiting = user.start_hypervisor("wait", "--all")
        assert user.hypervisor("wait", "--any", "--timeout", "0.5").code == 3
        gate.open()
        assert waiting.end(60).code == 0
        running.end(60)
        eventually(lambda: not alive(pid), "the agent's end")
    finally:
        gate.close()
