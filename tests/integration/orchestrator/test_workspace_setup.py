"""`[worktree]`: set-up runs once for each parallel agent, and nothing of one attempt reaches the next."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Ended, Shell, script, shell, write_task

pytestmark = pytest.mark.acceptance

#: Notes in $RUNS that it ran, and makes what git ignores.
SETUP = """
echo "$PWD" >> "$RUNS/setup"
mkdir -p made/inner; cp lock made/lock; echo tool > made/inner/tool
"""
#: Does its task if what set-up made is there.
WORKS = """
set -e
cat made/inner/tool > /dev/null
mkdir -p src; echo "$HYPERVISOR_TASK_ID" > "src/$HYPERVISOR_TASK_ID.txt"
echo "$HYPERVISOR_TASK_ID $HYPERVISOR_PORT $TMPDIR" >> "$RUNS/agents"
test -z "$(ls -A "$TMPDIR")"; touch "$TMPDIR/mine"
"""


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        for words in (["init", "--quiet", "--initial-branch=main"], ["config", "user.name", "A User"],
                      ["config", "user.email", "user@example.invalid"]):  # fmt: skip
            subprocess.run(["git", *words], cwd=made.cwd, check=True)
        (made.cwd / ".gitignore").write_text("made/\n")
        (made.cwd / "lock").write_text("1\n")
        (made.home / "runs").mkdir()
        yield made


def configure(user: Shell, setup: str, *more: str) -> None:
    command = script(user.home, "setup", f"RUNS={user.home}/runs\n{setup}")
    (user.cwd / ".hypervisor").mkdir(exist_ok=True)
    lines = ["[worktree]", f'setup = ["{command}"]', 'inputs = ["lock"]', *more]
    (user.cwd / ".hypervisor/config.toml").write_text("\n".join(lines) + "\n")


def run(user: Shell, agent: str, *names: str, jobs: int = 1, verify: str = "true") -> Ended:
    for name in names:
        write_task(user.cwd / f"tasks/{name}.md", files=f"[src/{name}.txt, lock]", verify=verify)
    subprocess.run(["git", "add", "--all"], cwd=user.cwd, check=True)
    subprocess.run(["git", "commit", "--quiet", "-m", "Tasks"], cwd=user.cwd, check=True)
    command = script(user.home, "agent", f"RUNS={user.home}/runs\n{agent}")
    return user.hypervisor("run", "--all", "--agent", "exec", "--exec", command, "-j", str(jobs))


def noted(user: Shell, name: str) -> list[str]:
    path = user.home / "runs" / name
    return path.read_text().splitlines() if path.exists() else []


def test_set_up_runs_once_for_each_parallel_agent_and_once_where_merged_work_is_verified(user: Shell) -> None:
    configure(user, SETUP, f'teardown = ["echo down >> {user.home}/runs/down"]')
    run(user, WORKS, *(f"t-{n}" for n in range(6)), jobs=2, verify="test -f made/inner/tool").passed()
    places = [Path(place).name for place in noted(user, "setup")]
    lanes = len(places) - 1  # fewer than -j where the machine is busy
    assert sorted(places) == [*map(str, range(1, lanes + 1)), "merge"]
    assert len(noted(user, "down")) == lanes <= 2
    agents = [line.split() for line in noted(user, "agents")]
    assert len(agents) == 6
    assert len({port for _, port, _ in agents}) == lanes
    assert len({folder for *_, folder in agents}) == lanes
    assert not any(Path(folder).exists() for *_, folder in agents)
    assert list((user.cwd / ".hypervisor/worktrees").glob("*/.pool")) == []


def test_what_an_agent_did_to_what_set_up_made_reaches_no_other_task(user: Shell) -> None:
    configure(user, SETUP)
    evil = "[ $HYPERVISOR_TASK_ID = t-2 ] || { echo evil > made/inner/tool; exit 0; }"
    both = f"{WORKS}\n{evil}\ngrep tool made/inner/tool"
    run(user, both, "t-1", "t-2").passed()
    assert len([place for place in noted(user, "setup") if not place.endswith("merge")]) == 2


def test_what_an_agent_left_beside_it_is_gone_for_the_next(user: Shell) -> None:
    configure(user, SETUP)
    leaves = """
    if [ $HYPERVISOR_TASK_ID = t-1 ]; then
      mkdir -p made/more hidden; echo '*' > hidden/.gitignore; echo x > hidden/x
      echo x > made/more/x; echo x > made/x
      mkdir -p .git/hooks; echo exit 1 > .git/hooks/pre-commit; chmod +x .git/hooks/pre-commit
      git config core.pager evil
      git update-index --assume-unchanged lock; echo '*.txt' >> .git/info/exclude
    else
      test ! -e made/more; test ! -e made/x; test ! -e hidden; test ! -e .git/hooks/pre-commit
      test "$(git config core.pager)" != evil; git add src; git commit -qm x
    fi
    """
    run(user, WORKS + leaves, "t-1", "t-2").passed()
    assert len([place for place in noted(user, "setup") if not place.endswith("merge")]) == 1


def test_a_commit_that_changes_what_set_up_depends_on_is_set_up_anew(user: Shell) -> None:
    configure(user, SETUP)
    changes = f"{WORKS}\n[ $HYPERVISOR_TASK_ID = t-2 ] && cmp lock made/lock || echo 2 > lock"
    run(user, changes, "t-1", "t-2", verify="cmp lock made/lock || test $(cat lock) = 2").passed()
    assert sorted(Path(place).name for place in noted(user, "setup")) == ["1", "1", "merge"]


def test_a_set_up_that_fails_costs_no_task_an_attempt_and_stops_the_batch_the_second_time(
    user: Shell,
) -> None:
    configure(user, 'echo "$PWD" >> "$RUNS/setup"; echo no network >&2; exit 7')
    ended = run(user, WORKS, "t-1", "t-2", "t-3")
    assert ended.code == 1
    assert "worktree.setup failed" in ended.out
    assert "exited 7: no network" in ended.out
    assert "+ 3 waiting" in ended.out
    assert len(noted(user, "setup")) == 2
    assert noted(user, "agents") == []
    assert "status: active" in (user.cwd / "tasks/t-1.md").read_text()


def test_what_set_up_leaves_for_git_to_see_is_a_fault_of_set_up(user: Shell) -> None:
    configure(user, "echo x > left")
    ended = run(user, WORKS, "t-1")
    assert ended.code == 1
    assert "worktree.setup left left, which git does not ignore" in ended.out


def test_a_set_up_that_hangs_is_ended_with_all_that_it_started(user: Shell) -> None:
    configure(user, "sleep 60 & sleep 60", "seconds = 0.3")
    ended = run(user, WORKS, "t-1")
    assert ended.code == 1
    assert "did not end within 0.3 s" in ended.out
