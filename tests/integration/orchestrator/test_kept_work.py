"""`hypervisor diff` and `accept`: a person looks at work that a run did not merge, and merges it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from commands import Shell, script, write_task
from hypervisor.core.settings import settings_of
from hypervisor.store.shared import join
from inprocess import in_process
from stores import Database

#: Commits a file that its task's verification does not like yet.
AGENT = """set -e
mkdir -p src
echo work > src/t-1.txt
git add src
git commit --quiet -m work
"""


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with in_process(tmp_path) as made:
        git(made.cwd, "init", "--quiet", "--initial-branch=main")
        git(made.cwd, "config", "user.name", "A User")
        git(made.cwd, "config", "user.email", "user@example.invalid")
        write_task(made.cwd / "tasks/t-1.md", files="[src/]", verify="test -f allowed")
        (made.cwd / "README.md").write_text("# A project\n")
        commit(made, "Tasks")
        ran = made.hypervisor("run", "--all", "--agent", "exec", "--exec", script(made.home, "agent", AGENT))
        assert ran.code == 1, ran.err
        yield made


def git(project: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=project, check=True, capture_output=True, text=True).stdout


def commit(user: Shell, message: str) -> None:
    git(user.cwd, "add", "--all", ":!.hypervisor")
    git(user.cwd, "commit", "--quiet", "-m", message)


def allow(user: Shell) -> None:
    (user.cwd / "allowed").touch()
    commit(user, "Allow it")


def status(user: Shell) -> str:
    return str(user.hypervisor("task", "show", "t-1", "--json").passed().json["status"])


def test_a_kept_branch_is_shown_against_its_base(user: Shell) -> None:
    told = user.hypervisor("diff", "t-1").passed()
    assert "+++ b/src/t-1.txt" in told.lines
    assert "+work" in told.lines
    assert told.err.startswith("t-1: hypervisor/")
    assert "src/t-1.txt | 1 +" in user.hypervisor("diff", "t-1", "--stat").passed().out
    found = user.hypervisor("diff", "t-1", "--json").passed().json
    assert found["files"] == ["src/t-1.txt"]
    assert len(found["commits"]) == 1


def test_an_accepted_branch_is_merged_and_its_task_is_done_in_the_batch_too(user: Shell) -> None:
    allow(user)
    told = user.hypervisor("accept", "t-1").passed()
    assert told.out.startswith("accepted: t-1 is done; main fast-forwarded ")
    assert (user.cwd / "src/t-1.txt").read_text() == "work\n"
    assert status(user) == "done"
    assert user.hypervisor("summary", "--json").passed().json["census"]["success"] == 1
    user.hypervisor("accept", "t-1").refused(3, "t-1 is merged already")
    assert "+work" in user.hypervisor("diff", "t-1").passed().lines
    user.hypervisor("clean").passed()
    assert git(user.cwd, "branch", "--list", "hypervisor/*") == ""


def test_what_does_not_verify_is_not_merged(user: Shell) -> None:
    before = git(user.cwd, "rev-parse", "HEAD")
    user.hypervisor("accept", "t-1").refused(1, "hypervisor accept", "does not verify", "test -f allowed")
    assert git(user.cwd, "rev-parse", "HEAD") == before
    assert status(user) == "review"
    allow(user)
    user.hypervisor("accept", "t-1").passed()


def test_a_conflict_is_one_line_and_changes_nothing(user: Shell) -> None:
    (user.cwd / "src").mkdir()
    (user.cwd / "src/t-1.txt").write_text("mine\n")
    allow(user)
    before = git(user.cwd, "rev-parse", "HEAD")
    user.hypervisor("accept", "t-1").refused(1, "conflicts with main in src/t-1.txt", "merge it by hand")
    assert git(user.cwd, "rev-parse", "HEAD") == before
    assert (user.cwd / "src/t-1.txt").read_text() == "mine\n"
    assert status(user) == "review"


def test_what_was_merged_by_hand_is_accepted_once_it_verifies(user: Shell) -> None:
    (branch,) = git(user.cwd, "branch", "--list", "hypervisor/*/t-1-1").split()
    git(user.cwd, "merge", "--quiet", branch)
    user.hypervisor("accept", "t-1").refused(1, "does not verify", "test -f allowed")
    assert status(user) == "review"
    allow(user)
    user.hypervisor("accept", "t-1").passed()
    assert status(user) == "done"
    assert user.hypervisor("summary", "--json").passed().json["census"]["success"] == 1


def test_a_checkout_in_the_way_leaves_the_task_as_it_is_until_it_is_out_of_the_way(user: Shell) -> None:
    allow(user)
    (user.cwd / "README.md").write_text("# Mine\n")
    user.hypervisor("accept", "t-1").refused(1, "main not moved", "README.md is modified")
    assert status(user) == "review"
    commit(user, "Mine")
    user.hypervisor("accept", "t-1").passed()
    assert (user.cwd / "README.md").read_text() == "# Mine\n"
    assert status(user) == "done"


def test_a_task_without_work_is_refused(user: Shell) -> None:
    write_task(user.cwd / "tasks/t-2.md")
    for command in ("diff", "accept"):
        user.hypervisor(command, "t-2").refused(1, "t-2", "no branch")
        user.hypervisor(command, "t-3").refused(2, "t-3")


def test_the_real_command_shows_a_branch(user: Shell) -> None:
    assert "+work" in Shell(user.home, user.cwd).hypervisor("diff", "t-1").passed().out


# ------------------------------------------------------------------ many machines


@pytest.fixture
def clones(postgres_db: Database, tmp_path: Path) -> Iterator[tuple[Shell, Path, Path, Path]]:
    """A remote, and two clones that share a store; a run of the first has kept the work of t-1."""
    postgres_db.open()  # removes the tables at the end
    remote = tmp_path / "remote.git"
    git(tmp_path, "init", "-q", "--bare", "-b", "main", str(remote))
    with in_process(tmp_path) as made:
        found = []
        for name in ("one", "two"):
            clone = tmp_path / name
            git(tmp_path, "clone", "-q", str(remote), str(clone))
            git(clone, "config", "user.name", name)
            git(clone, "config", "user.email", "user@example.invalid")
            if name == "one":
                git(clone, "checkout", "-q", "-b", "main")
                write_task(clone / "tasks/t-1.md", files="[src/]", verify="test -f allowed")
                git(clone, "add", "--all")
                git(clone, "commit", "-q", "-m", "Tasks")
                git(clone, "push", "-q", "-u", "origin", "main")
            state = clone / ".hypervisor"
            state.mkdir(mode=0o700)
            (state / ".gitignore").write_text("*\n")
            (state / "config.toml").write_text(f'[store]\nschema = "{postgres_db.schema}"\n')
            join(state, settings_of(state), postgres_db.url, "")
            found.append(clone)
        one, two = found
        agent = script(made.home, "agent", AGENT)
        assert made.hypervisor("run", "--all", "--agent", "exec", "--exec", agent, cwd=one).code == 1
        yield made, remote, one, two


def test_another_machine_shows_and_accepts_kept_work_and_it_is_merged_on_the_remote(
    clones: tuple[Shell, Path, Path, Path],
) -> None:
    made, remote, one, two = clones
    assert "+work" in made.hypervisor("diff", "t-1", cwd=two).passed().lines
    made.hypervisor("trust", "--yes", cwd=two).passed()
    made.hypervisor("accept", "t-1", cwd=two).refused(1, "does not verify")
    assert git(remote, "log", "-1", "--format=%s", "main").strip() == "t-1: blocked"
    git(two, "pull", "-q", "--ff-only")
    (two / "allowed").touch()
    git(two, "add", "allowed")
    git(two, "commit", "-q", "-m", "Allow it")
    made.hypervisor("accept", "t-1", cwd=two).refused(2, "`git push` them first")
    git(two, "push", "-q")
    told = made.hypervisor("accept", "t-1", cwd=two).passed()
    assert "t-1 is done; merged to origin/main" in told.out
    assert git(remote, "show", "main:src/t-1.txt") == "work\n"
    assert "status: done" in git(remote, "show", "main:tasks/t-1.md")
    assert (two / "src/t-1.txt").exists()  # its checkout was brought up to date
    assert git(remote, "branch", "--format=%(refname:short)").split() == ["main"]
    made.hypervisor("accept", "t-1", cwd=two).refused(3, "merged already")
    made.hypervisor("accept", "t-1", cwd=one).refused(1, "is done and merged as", "`git pull`")
    git(one, "pull", "-q", "--ff-only")
    made.hypervisor("accept", "t-1", cwd=one).refused(3, "merged already")
    assert "+work" in made.hypervisor("diff", "t-1", cwd=one).passed().lines
    assert git(remote, "branch", "--format=%(refname:short)").split() == ["main"]


@pytest.mark.slow
def test_two_machines_that_accept_at_one_moment_make_one_merge(
    clones: tuple[Shell, Path, Path, Path], postgres_db: Database
) -> None:
    made, remote, one, two = clones
    git(one, "pull", "-q", "--ff-only")
    (one / "allowed").touch()
    git(one, "add", "allowed")
    git(one, "commit", "-q", "-m", "Allow it")
    git(one, "push", "-q")
    git(two, "pull", "-q", "--ff-only")
    made.hypervisor("trust", "--yes", cwd=two).passed()
    real = Shell(made.home, one)
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda cwd: real.hypervisor("accept", "t-1", cwd=cwd), (one, two)))
    assert sorted(one.code == 0 for one in ended) in ([False, True], [True, True]), ended
    assert all("Traceback" not in one.err for one in ended)
    assert git(remote, "log", "--format=%s", "main").splitlines().count("Task t-1") == 1
    assert git(remote, "show", "main:tasks/t-1.md").count("accepted hypervisor/") == 1
    assert postgres_db.open().engine.read("SELECT count(*) FROM work WHERE state = 'ready'") == [(0,)]


def test_merge_asks_for_a_push_where_machines_share_a_store(clones: tuple[Shell, Path, Path, Path]) -> None:
    made, remote, one, _ = clones
    before = git(remote, "rev-parse", "main")
    made.hypervisor("merge", cwd=one).refused(2, "add --push", "run --resume")
    assert made.hypervisor("merge", "--push", cwd=one).code == 3  # what was kept is no success
    assert git(remote, "rev-parse", "main") == before


#: Fails where the work of the task that it waits for is not in its folder.
CHAIN = """set -e
test "$HYPERVISOR_TASK_ID" = t-2 || test -f src/t-2.txt
mkdir -p src
echo work > src/$HYPERVISOR_TASK_ID.txt
git add src
git commit --quiet -m work
"""


def test_a_run_starts_what_depends_on_a_task_once_that_is_merged_on_the_remote(
    clones: tuple[Shell, Path, Path, Path], postgres_db: Database
) -> None:
    made, remote, one, _ = clones
    git(one, "pull", "-q", "--ff-only")
    write_task(one / "tasks/t-2.md", files="[src/]")
    write_task(one / "tasks/t-3.md", files="[src/]", depends_on="[t-2]")
    git(one, "add", "--all", ":!.hypervisor")
    git(one, "commit", "-q", "-m", "Two tasks")
    git(one, "push", "-q")
    agent = script(made.home, "chain", CHAIN)
    made.hypervisor("run", "--all", "--agent", "exec", "--exec", agent, "-j", "2", cwd=one).passed()
    subjects = git(remote, "log", "--first-parent", "--format=%s", "main").splitlines()
    assert subjects[:2] == ["Task t-3", "Task t-2"]
    merged, begun = (
        postgres_db.open().engine.read(text)[0][0]
        for text in (
            "SELECT min(m.at) FROM merge AS m JOIN work AS w ON w.id = m.work WHERE w.text = 'tasks/t-2.md'",
            "SELECT min(a.claimed_at) FROM attempt AS a JOIN work AS w ON w.id = a.work"
            " WHERE w.text = 'tasks/t-3.md'",
        )
    )
    assert merged <= begun
