"""`--push` on one machine: the coordinator pushes, never by force, and a push that fails loses nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Ended, Shell, script, shell, write_task

pytestmark = pytest.mark.acceptance

GOOD = (
    'mkdir -p src; echo "$HYPERVISOR_TASK_ID" > "src/$HYPERVISOR_TASK_ID.txt"; git add src; git commit -qm x'
)


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        git(made.cwd, "init", "-q", "--initial-branch=main")
        git(made.cwd, "config", "user.name", "A User")
        git(made.cwd, "config", "user.email", "user@example.invalid")
        git(made.cwd, "init", "-q", "--bare", "--initial-branch=main", str(tmp_path / "remote.git"))
        git(made.cwd, "remote", "add", "origin", str(tmp_path / "remote.git"))
        write_task(made.cwd / "tasks/t-1.md", files="[src/t-1.txt]", verify="test -f src/t-1.txt")
        git(made.cwd, "add", "--all")
        git(made.cwd, "commit", "-qm", "Tasks")
        git(made.cwd, "push", "-qu", "origin", "main")
        yield made


def run(user: Shell, text: str, *words: str) -> Ended:
    agent = script(user.home, "agent", text)
    return user.hypervisor("run", "--all", "--agent", "exec", "--exec", agent, *words)


def remote(user: Shell, *words: str) -> str:
    return git(user.cwd.parent / "remote.git", *words)


def pushes_first(user: Shell) -> str:
    """Return a command that clones the remote and pushes a commit of somebody else."""
    place = user.cwd.parent
    return (
        f"git clone -q {place}/remote.git {place}/friend && cd {place}/friend && echo x > theirs.txt && "
        "git add . && git -c user.name=F -c user.email=f@example.org commit -qm theirs && git push -q; "
    )


def test_nothing_is_pushed_unless_told_to(user: Shell) -> None:
    before = remote(user, "rev-parse", "main")
    run(user, GOOD).passed()
    assert remote(user, "rev-parse", "main") == before


def test_merged_work_is_pushed_and_no_branch_of_a_task_is_left_there(user: Shell) -> None:
    ended = run(user, GOOD, "--push").passed()
    head = git(user.cwd, "rev-parse", "HEAD")
    assert f"pushed {head[:7]} to origin/main" in ended.out
    assert remote(user, "rev-parse", "main") == head
    assert remote(user, "branch", "--format=%(refname:short)") == "main"


def test_what_others_pushed_meanwhile_is_merged_in_and_all_of_it_is_pushed(user: Shell) -> None:
    run(user, f"({pushes_first(user)}) && {GOOD}", "--push", "--commit-tasks").passed()
    assert remote(user, "rev-parse", "main") == git(user.cwd, "rev-parse", "HEAD")
    assert git(user.cwd, "ls-tree", "--name-only", "HEAD", "src/", "theirs.txt").split() == [
        "src/t-1.txt",
        "theirs.txt",
    ]
    assert git(user.cwd, "status", "--porcelain") == ""


def test_a_push_that_comes_too_late_begins_again_from_what_the_other_pushed(user: Shell) -> None:
    # The server's hook lets another push in, once, between the fetch and the push.
    hook = user.cwd.parent / "remote.git/hooks/pre-receive"
    once = user.cwd.parent / "once"
    hook.write_text(
        f"#!/bin/sh\n[ -e {once} ] && exit 0\ntouch {once}\nunset GIT_DIR GIT_QUARANTINE_PATH\n"
        f"({pushes_first(user)})\n"
    )
    hook.chmod(0o755)
    ended = run(user, GOOD, "--push").passed()
    assert "pushed " in ended.out
    assert once.exists()
    files = remote(user, "ls-tree", "-r", "--name-only", "main").split()
    assert {"src/t-1.txt", "theirs.txt"} <= set(files)
    assert remote(user, "rev-parse", "main") == git(user.cwd, "rev-parse", "HEAD")


def test_others_work_that_conflicts_stops_the_push_and_nothing_is_lost(user: Shell) -> None:
    text = (
        pushes_first(user).replace("theirs.txt", "src/t-1.txt").replace("&& echo x", "&& mkdir src && echo x")
    )
    ended = run(user, f"({text}) && {GOOD}", "--push").passed()
    assert "not pushed: conflicts with origin/main in src/t-1.txt; the work is kept here" in ended.out
    assert git(user.cwd, "show", "HEAD:src/t-1.txt") == "t-1"


def test_a_remote_that_is_down_costs_a_line_and_the_work_is_pushed_later(user: Shell) -> None:
    place = user.cwd.parent
    (place / "remote.git").rename(place / "away.git")
    ended = run(user, GOOD, "--push").passed()
    (line,) = [line for line in ended.out.splitlines() if line.startswith("not pushed: origin: ")]
    assert (user.cwd / "src/t-1.txt").exists()
    (place / "away.git").rename(place / "remote.git")
    command = line.split("`")[1].split()
    assert command[:2] == ["hypervisor", "merge"]
    again = user.hypervisor(*command[1:]).passed()
    assert "pushed " in again.out
    assert remote(user, "show", "main:src/t-1.txt") == "t-1"


def test_an_agent_has_nowhere_to_push(user: Shell) -> None:
    ended = run(
        user, f'git push origin HEAD:main 2>/dev/null && exit 1; {GOOD}; test -z "$(git remote)"', "--push"
    )
    ended.passed()


def test_the_branch_of_a_batch_is_pushed_for_a_pull_request(user: Shell) -> None:
    run(user, GOOD, "--push", "--merge", "branch").passed()
    (branch,) = [
        name for name in remote(user, "branch", "--format=%(refname:short)").split() if name != "main"
    ]
    assert branch.startswith("hypervisor/")
    assert branch.endswith("/merge")
    assert remote(user, "show", f"{branch}:src/t-1.txt") == "t-1"


def test_push_without_a_remote_is_refused_before_anything_runs(user: Shell) -> None:
    git(user.cwd, "remote", "remove", "origin")
    ended = run(user, GOOD, "--push")
    assert ended.code == 2
    assert "no remote, and main follows none; `git push -u REMOTE main` sets one" in ended.err
