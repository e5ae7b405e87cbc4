"""Work that does not merge gets one attempt by an agent with both sides, verified for both; then a person."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import Ended, Gate, Shell, script, shell, write_task

pytestmark = pytest.mark.acceptance

#: Waits until both agents have begun, so that neither has the other's work.
WORKER = """
touch BEGAN/$HYPERVISOR_TASK_ID
while [ "$(ls BEGAN | wc -l)" -lt COUNT ]; do sleep 0.02; done
echo "$HYPERVISOR_TASK_ID" >> shared.txt
git add shared.txt
git commit --quiet -m "Add $HYPERVISOR_TASK_ID"
"""
#: Keeps the lines of both sides, and leaves the commit to us.
KEEPS_BOTH = "sed -i -e '/^[<=>]\\{7\\}/d' shared.txt"


def git(project: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=project, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        git(made.cwd, "init", "--quiet", "--initial-branch=main")
        git(made.cwd, "config", "user.name", "A User")
        git(made.cwd, "config", "user.email", "user@example.invalid")
        (made.cwd / "shared.txt").write_text("first\n")
        yield made


def begin(
    user: Shell, resolver: str, *, count: int = 2, settings: str = "", worker: str = WORKER, verify: str = ""
) -> list[str]:
    """Write the tasks and both agents; return the words of the run."""
    command = script(user.home, "resolver", resolver) if resolver else ""
    (user.cwd / ".hypervisor").mkdir()
    (user.cwd / ".hypervisor/config.toml").write_text(f'[merge]\ncommand = "{command}"\n{settings}')
    for number in range(1, count + 1):
        write_task(user.cwd / f"tasks/t-{number}.md", verify=verify or f"grep -q t-{number} shared.txt")
    git(user.cwd, "add", "--all")
    git(user.cwd, "commit", "--quiet", "-m", "Tasks")
    began = user.home / "began"
    began.mkdir()
    text = worker.replace("BEGAN", str(began)).replace("COUNT", str(count))
    return ["run", "--all", "--agent", "exec", "--exec", script(user.home, "agent", text), "-j", str(count)]


def run(user: Shell, resolver: str, *words: str, **options: Any) -> Ended:
    return user.hypervisor(*begin(user, resolver, **options), *words)


def rows(user: Shell) -> dict[str, dict[str, Any]]:
    (path,) = (user.cwd / ".hypervisor/batches").glob("*/summary.json")
    return {row["status"]: row for row in json.loads(path.read_bytes())["workers"]}


def branches(user: Shell) -> list[str]:
    return git(user.cwd, "branch", "--format=%(refname:short)").split()


def lines(user: Shell) -> list[str]:
    return (user.cwd / "shared.txt").read_text().split()


@pytest.mark.parametrize("commits", ["", "; git add shared.txt; git commit --quiet --no-edit"])
def test_an_agent_merges_what_conflicts_and_the_commit_has_both_parents(user: Shell, commits: str) -> None:
    told = user.home / "told"
    ended = run(user, f"cat > {told}; {KEEPS_BOTH}{commits}").passed()
    assert "2 queued = 2 success" in ended.out
    assert sorted(lines(user)) == ["first", "t-1", "t-2"]
    (text,) = [row for row in json.loads(summary(user))["workers"] if "conflict" in row["evidence"]]
    other = "t-1" if text["task_id"] == "t-2" else "t-2"
    what = f"conflicts with the work of {other} in shared.txt: merged by exec"
    assert text["evidence"]["conflict"] == what
    assert what in text["outcome"]
    assert text["attempts"] == 1
    assert branches(user) == ["main"]
    assert len(git(user.cwd, "log", "-1", "--format=%P", str(text["evidence"]["commit"])).split()) == 2
    prompt = told.read_text()
    assert f"### {other}: " in prompt
    assert f"conflicts with the work of {other} in shared.txt" in prompt
    assert list((user.cwd / ".hypervisor/worktrees").glob("*/t-*")) == []


def summary(user: Shell) -> bytes:
    (path,) = (user.cwd / ".hypervisor/batches").glob("*/summary.json")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("resolver", "why"),
    [
        ("true", "conflict markers are left in shared.txt"),
        ("git checkout --theirs shared.txt", "verify failed"),
        ("git merge --abort; echo t-1 t-2 > shared.txt; git commit -qam x", "both sides as parents"),
        (f"{KEEPS_BOTH}; echo x > other.txt", "changes outside of the task's files: other.txt"),
        ("exit 3", "exec could not merge it: failed: exit 3"),
        ("", "kept on hypervisor/"),
    ],
)
def test_what_the_agent_does_not_merge_waits_for_a_person(user: Shell, resolver: str, why: str) -> None:
    assert run(user, resolver).code == 1
    found = rows(user)
    assert found["success"]
    assert why in found["blocked"]["outcome"]
    assert found["blocked"]["branch"] in branches(user)
    assert len(lines(user)) == 2
    name = found["blocked"]["task_id"]
    user.hypervisor("accept", name).refused(1, "conflicts with main in shared.txt")
    user.hypervisor("clean")
    assert branches(user) == [found["blocked"]["branch"], "main"]


@pytest.mark.parametrize("word", ["approve", "reject: it reads badly"])
def test_a_task_that_is_reviewed_has_its_merge_reviewed(user: Shell, word: str) -> None:
    # The other side's line is in the diff of the merge only.
    reviewer = f"if grep -q '^ t-[12]' -; then echo 'REVIEW: {word}'; else echo 'REVIEW: approve'; fi"
    command = script(user.home, "reviewer", reviewer)
    settings = f'[review]\nall = true\nagent = "exec"\ncommand = "{command}"\n'
    ended = run(user, KEEPS_BOTH, settings=settings)
    assert ended.code == (0 if word == "approve" else 1)
    (row,) = [one for one in json.loads(summary(user))["workers"] if "conflict" in one["evidence"]]
    if word == "approve":
        assert row["evidence"]["review"] == ["approve"]
        assert sorted(lines(user)) == ["first", "t-1", "t-2"]
    else:
        assert f"exec could not merge it: review: {word}" in row["outcome"]
        assert len(lines(user)) == 2


def test_conflicts_of_several_are_resolved_one_after_another(user: Shell) -> None:
    ended = run(user, KEEPS_BOTH, count=4).passed()
    assert "4 queued = 4 success" in ended.out
    assert sorted(lines(user)) == ["first", "t-1", "t-2", "t-3", "t-4"]


def test_no_agent_merges_where_a_person_is_wanted_or_the_budget_is_used_up(user: Shell) -> None:
    asked = user.home / "asked"
    assert run(user, f"touch {asked}; {KEEPS_BOTH}", settings='conflicts = "person"\n').code == 1
    assert not asked.exists()
    assert re.match(
        r"conflicts with the work of t-[12] in shared.txt; kept on \S+$", rows(user)["blocked"]["outcome"]
    )


def test_an_attempt_to_merge_counts_for_the_budget(user: Shell) -> None:
    assert run(user, KEEPS_BOTH, "--budget-attempts", "2").code == 1
    assert len(lines(user)) == 2
    assert "the budget" in rows(user)["blocked"]["outcome"] or "attempts" in rows(user)["blocked"]["outcome"]


def test_a_wrong_setting_is_named_before_anything_starts(user: Shell) -> None:
    ended = run(user, "true", settings='conflicts = "me"\n')
    assert ended.code == 2
    assert '`merge.conflicts` must be "agent" or "person", not me' in ended.err


def test_work_that_fails_beside_other_work_is_merged_by_an_agent_too(user: Shell) -> None:
    verify = "test $(cat n-*.txt | wc -l) -le 1 || grep -q both n-*.txt"
    worker = WORKER.replace("shared.txt", "n-$HYPERVISOR_TASK_ID.txt")
    run(user, "echo both >> n-t-1.txt", worker=worker, verify=verify).passed()
    assert {path.name for path in user.cwd.glob("n-*.txt")} == {"n-t-1.txt", "n-t-2.txt"}
    (told,) = [row for row in json.loads(summary(user))["workers"] if "conflict" in row["evidence"]]
    assert "does not verify beside the work of t-" in told["evidence"]["conflict"]


def test_an_agent_merges_in_a_worktree_too(user: Shell) -> None:
    run(user, KEEPS_BOTH, "--isolation", "worktree").passed()
    assert sorted(lines(user)) == ["first", "t-1", "t-2"]
    assert branches(user) == ["main"]


@pytest.mark.parametrize("signals", [(signal.SIGKILL,), (signal.SIGINT, signal.SIGTERM)], ids=str)
def test_a_run_that_ends_while_an_agent_merges_loses_nothing(
    user: Shell, tmp_path: Path, signals: tuple[signal.Signals, ...]
) -> None:
    gate = Gate(tmp_path, "merging")
    going = user.start_hypervisor(*begin(user, gate.words))
    gate.wait(1)
    for number in signals:
        going.send(number)
    going.end()
    gate.open()
    batch = next((user.cwd / ".hypervisor/batches").iterdir()).name
    user.hypervisor("run", "--resume", batch).passed()
    gate.close()
    assert sorted(lines(user)) == ["first", "t-1", "t-2"]
    user.hypervisor("clean")
    assert [name for name in branches(user) if name.endswith(".merge")] == []
    assert list((user.cwd / ".hypervisor/worktrees").glob("*/*.merge")) == []
