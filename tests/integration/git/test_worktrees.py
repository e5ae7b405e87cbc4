"""A task's worktree: made whole, looked at truly, brought home, and never removed with work in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import ROOT, eventually
from hypervisor.core.errors import Refused
from hypervisor.git.git import GitError
from hypervisor.git.work import Tree, in_scope
from hypervisor.git.worktrees import Worktrees
from test_git import NAMES, Repo, make_repo


class Place:
    """A repository, its worktrees, and one of them."""

    def __init__(self, repo: Repo, sub: str = "") -> None:
        self.repo = repo
        self.trees = Worktrees(repo.top / sub, repo.top / ".hypervisor/trees", "b1")
        self.tree = self.trees.open("T-1", 1, "main")

    def git(self, *words: str) -> str:
        return self.repo.git(*words, cwd=self.tree.path)

    def write(self, name: str, text: str = "text\n") -> Path:
        return self.repo.write(name, text, self.tree.path)

    def commit(self, name: str, text: str = "text\n") -> str:
        return self.repo.commit(name, text, self.tree.path)


@pytest.fixture(name="repo")
def _repo(tmp_path: Path) -> Repo:
    repo = make_repo(tmp_path / "the repo")
    repo.commit("src/code.py", "one\ntwo\nthree\n")
    return repo


@pytest.fixture(name="place")
def _place(repo: Repo) -> Place:
    return Place(repo)


def _all(_: str) -> bool:
    return True


def _src(path: str) -> bool:
    return in_scope(path, ["src"])


# Opening


def test_a_worktree_stands_on_a_branch_of_its_own_at_the_base(place: Place) -> None:
    assert place.tree.path.name == "t-1-1"
    assert place.git("symbolic-ref", "HEAD") == f"refs/heads/{place.tree.branch}"
    assert place.git("rev-parse", "HEAD") == place.tree.base == place.repo.git("rev-parse", "main")
    assert place.repo.git("status", "--porcelain") == ""


@pytest.mark.parametrize("task", ["-dash", "a b", "日本", "x" * 300, "../../etc", "a\nb", "T@{1}.lock", ""])
def test_any_id_of_a_task_gives_a_name_that_git_takes(repo: Repo, task: str) -> None:
    trees = Worktrees(repo.top, repo.top / ".hypervisor/trees", "b1")
    tree = trees.open(task, 3, "main")
    assert tree.path.parent == repo.top / ".hypervisor/trees"
    assert len(tree.path.name) < 50
    assert tree.task == task
    assert trees.found() == [tree]


def test_ids_that_look_alike_have_worktrees_of_their_own(repo: Repo) -> None:
    trees = Worktrees(repo.top, repo.top / ".hypervisor/trees", "b1")
    made = [trees.open(task, 1, "main") for task in ("A.b", "a-b", "a b", "a/b")]
    assert len({tree.path for tree in made}) == 4
    assert trees.open("a b", 2, "main").path.name == made[2].path.name[:-1] + "2"


def test_opening_twice_gives_the_same_worktree_with_its_work(place: Place) -> None:
    place.write("src/new.txt")
    again = place.trees.open("T-1", 1, "main")
    assert again == place.tree
    assert (again.path / "src/new.txt").exists()


def test_many_threads_open_at_once(repo: Repo) -> None:
    made: list[Tree] = []

    def work(number: int) -> None:
        trees = Worktrees(repo.top, repo.top / ".hypervisor/trees", "b1")
        made.extend(trees.open(f"t{number}-{at}", 1, "main") for at in range(3))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 12
    assert all((tree.path / "src/code.py").exists() for tree in made)


def test_the_debris_of_an_opening_that_was_killed_is_cleared(place: Place) -> None:
    record = place.tree.path.parent / ".trees/t-1-1.json"
    record.unlink()  # as if the process had died before its last step
    (place.tree.path / "src/code.py").unlink()
    tree = place.trees.open("T-1", 1, "main")
    assert (tree.path / "src/code.py").exists()


def test_a_branch_with_somebodys_work_is_not_reused(place: Place) -> None:
    place.commit("src/new.txt")
    (place.tree.path.parent / ".trees/t-1-1.json").unlink()
    with pytest.raises(Refused, match="commits of its own"):
        place.trees.open("T-1", 1, "main")
    assert (place.tree.path / "src/new.txt").exists()


def test_ignored_files_that_are_named_come_along(repo: Repo) -> None:
    repo.commit(".gitignore", ".env\n*.key\n/cache/\n")
    repo.commit(".worktreeinclude", ".env\n*.key\n*.txt\n*\n!cache/\n")
    repo.write(".env", "secret\n")
    repo.write("deep er/-x.key", "key\n")
    repo.write("plain.txt", "not ignored\n")
    tree = Worktrees(repo.top, repo.top / ".hypervisor/trees", "b1").open("t", 1, "main")
    assert (tree.path / ".env").read_text() == "secret\n"
    assert (tree.path / "deep er/-x.key").read_text() == "key\n"
    assert not (tree.path / "plain.txt").exists()
    assert not (tree.path / ".hypervisor").exists()
    assert repo.git("status", "--porcelain", cwd=tree.path) == ""


def test_what_cannot_be_worked_in_is_refused(repo: Repo, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no such commit"):
        Worktrees(repo.top, tmp_path / "t", "b1").open("t", 1, "nowhere")
    with pytest.raises(Refused, match="not in a git"):
        Worktrees(tmp_path, tmp_path / "t", "b1").open("t", 1, "main")


def test_a_branch_named_as_ours_begin_is_an_error_with_gits_words(repo: Repo) -> None:
    repo.git("branch", "hypervisor")
    with pytest.raises(GitError, match="hypervisor"):
        Worktrees(repo.top, repo.top / ".hypervisor/t", "b1").open("t", 1, "main")


# Looking


def test_facts_of_all_kinds_of_changes_are_told(place: Place) -> None:
    place.git("mv", "src/code.py", "src/moved.py")
    place.git("rm", "-q", "README.md")
    (place.tree.path / "blob").write_bytes(b"\0\1\2")
    os.symlink("blob", place.tree.path / "link")
    for name in NAMES:
        place.write(name)
    sha = place.commit("x")
    place.git("update-index", "--add", "--cacheinfo", f"160000,{sha},module")
    place.git("commit", "-qm", "module")
    work = place.trees.inspect(place.tree)
    assert set(work.files) == {
        "src/code.py", "src/moved.py", "README.md", "blob", "link", "x", "module", *NAMES
    }  # fmt: skip
    assert set(work.deleted) == {"src/code.py", "README.md"}
    assert (work.binary, work.symlinks, work.submodules) == (("blob",), ("link",), ("module",))
    assert work.commits[0] == sha
    assert len(work.commits) == 2
    assert not work.rewritten


def test_uncommitted_changes_are_told_by_the_projects_names(repo: Repo) -> None:
    repo.commit("sub/a.txt")
    place = Place(repo, "sub")
    assert place.trees.place(place.tree) == place.tree.path / "sub"
    place.write("sub/a.txt", "x")
    place.write("sub/new é.txt")
    place.write("other/b.txt")
    assert set(place.trees.inspect(place.tree).uncommitted) == {"a.txt", "new é.txt", "../other/b.txt"}


@pytest.mark.parametrize(
    ("words", "rewritten"),
    [
        (("reset", "-q", "--hard", "HEAD~1"), True),
        (("commit", "-q", "--amend", "-m", "mine now"), True),
        (("commit", "-q", "--allow-empty", "-m", "more"), False),
    ],
)
def test_a_rewritten_base_is_seen(place: Place, words: tuple[str, ...], rewritten: bool) -> None:
    place.git(*words)
    assert place.trees.inspect(place.tree).rewritten is rewritten


def test_branches_tags_and_stashes_of_an_agent_are_told(place: Place) -> None:
    place.repo.git("branch", "old")
    before = place.trees.refs()
    place.commit("src/a")
    place.git("branch", "-f", "old")
    place.git("branch", "new")
    place.git("tag", "v1")
    place.write("src/code.py", "x")
    place.git("stash")
    work = place.trees.inspect(place.tree, before)
    assert work.refs == ("branch new was made", "branch old was moved", "tag v1 was made")
    assert len(work.stashes) == 1


def test_a_commit_elsewhere_is_astray(place: Place) -> None:
    place.git("checkout", "-q", "--detach")
    sha = place.commit("src/a")
    work = place.trees.inspect(place.tree)
    assert (work.on, work.astray, work.commits) == (None, (sha,), ())
    place.git("checkout", "-qb", "mine")
    work = place.trees.inspect(place.tree)
    assert (work.on, work.astray) == ("mine", (sha,))


# Bringing home


@pytest.mark.parametrize("words", [("checkout", "-q", "--detach"), ("checkout", "-qb", "mine")])
def test_commits_beside_the_branch_come_home(place: Place, words: tuple[str, ...]) -> None:
    first = place.commit("src/a")
    place.git(*words)
    second = place.commit("src/b")
    place.write("src/c")
    gathered = place.trees.gather(place.tree, "for the agent", _src)
    assert gathered.commits == (first, second, gathered.made)
    assert gathered.astray == ()
    assert set(gathered.files) == {"src/a", "src/b", "src/c"}
    assert place.git("symbolic-ref", "--short", "HEAD") == place.tree.branch
    assert place.git("status", "--porcelain") == ""


def test_commits_that_do_not_follow_the_branch_are_told_and_kept(place: Place) -> None:
    first = place.commit("src/a")
    place.git("checkout", "-q", "--detach", "HEAD~1")
    stray = place.commit("src/b")
    place.write("src/c")
    gathered = place.trees.gather(place.tree, "m", _src)
    assert (gathered.commits, gathered.astray, gathered.left) == ((first,), (stray,), ("src/c",))
    with pytest.raises(Refused, match="unmerged"):
        place.trees.remove(place.tree)


@pytest.mark.parametrize("detach", [True, False])
def test_commits_of_a_users_branch_do_not_come_along(repo: Repo, detach: bool) -> None:
    repo.git("checkout", "-qb", "feature")
    theirs = repo.commit("src/feature")
    repo.git("checkout", "-q", "main")
    place = Place(repo)
    place.git("checkout", "-q", *(["--detach"] if detach else []), "feature")
    gathered = place.trees.gather(place.tree, "m", _all)
    assert (gathered.commits, gathered.astray) == ((), ())
    place.git("checkout", "-q", *(["--detach"] if detach else []), "feature")
    mine = place.commit("src/b")
    gathered = place.trees.gather(place.tree, "m", _all)
    assert (gathered.commits, gathered.astray) == ((), (mine,))
    assert theirs not in gathered.commits


def test_commits_on_a_branch_that_was_there_before_are_told_and_not_taken(repo: Repo) -> None:
    repo.git("branch", "feature")
    place = Place(repo)
    place.git("checkout", "-q", "feature")
    mine = place.commit("src/b")
    gathered = place.trees.gather(place.tree, "m", _all)
    assert (gathered.commits, gathered.astray) == ((), (mine,))


def test_what_a_user_commits_meanwhile_is_not_taken_for_the_agents(place: Place) -> None:
    theirs = place.repo.commit("src/later")
    place.git("checkout", "-q", "--detach", "main")
    mine = place.commit("src/b")
    gathered = place.trees.gather(place.tree, "m", _all)
    assert (gathered.commits, gathered.astray) == ((), (mine,))
    assert theirs not in gathered.commits


def test_only_changes_in_scope_are_committed_whatever_is_staged(place: Place) -> None:
    place.write("src/in scope.txt")
    place.write("outside.txt")
    place.git("add", "outside.txt")
    place.write("README.md", "changed\n")
    (place.tree.path / "src/code.py").unlink()
    gathered = place.trees.gather(place.tree, "for the agent", _src)
    assert set(gathered.files) == {"src/in scope.txt", "src/code.py"}
    assert set(gathered.outside) == {"outside.txt", "README.md"}
    assert place.git("diff", "--cached", "--name-only") == "outside.txt"
    assert place.git("log", "-1", "--format=%s|%an") == "for the agent|Hypervisor"


def test_changes_of_all_kinds_are_committed_as_they_are(place: Place) -> None:
    for name in NAMES:
        place.write(name)
    place.write("src/code.py", "changed\n").chmod(0o755)
    (place.tree.path / "README.md").unlink()
    place.write("README.md/now a folder")
    os.symlink("nowhere", place.tree.path / "link")
    gathered = place.trees.gather(place.tree, "m", _all)
    assert (gathered.outside, gathered.left) == ((), ())
    assert set(gathered.files) == {*NAMES, "src/code.py", "README.md", "README.md/now a folder", "link"}
    assert place.git("status", "--porcelain") == ""


def test_a_folder_that_became_a_link_is_committed(place: Place) -> None:
    shutil.rmtree(place.tree.path / "src")
    place.write("real/code.py")
    os.symlink("real", place.tree.path / "src")
    gathered = place.trees.gather(place.tree, "m", _all)
    assert set(gathered.files) == {"src", "src/code.py", "real/code.py"}
    assert place.git("status", "--porcelain") == ""


def test_gathering_twice_is_gathering_once(place: Place) -> None:
    place.write("src/a")
    first = place.trees.gather(place.tree, "m", _src)
    second = place.trees.gather(place.tree, "m", _src)
    assert (second.commits, second.made) == (first.commits, "")


def test_a_nested_repository_is_told_and_not_committed(place: Place) -> None:
    place.repo.git("init", "-q", str(place.tree.path / "src/nested"))
    place.write("src/nested/file")
    place.repo.git("add", "-A", cwd=place.tree.path / "src/nested")
    place.repo.git("commit", "-qm", "x", cwd=place.tree.path / "src/nested")
    gathered = place.trees.gather(place.tree, "m", _all)
    assert (gathered.made, gathered.outside) == ("", ("src/nested/",))
    with pytest.raises(Refused, match="nested"):
        place.trees.remove(place.tree)


@pytest.mark.parametrize("how", ["merge", "rebase"])
def test_conflicts_are_told_and_not_committed(place: Place, how: str) -> None:
    place.repo.commit("src/code.py", "theirs\n")
    place.commit("src/code.py", "mine\n")
    place.repo.git(how, "main", cwd=place.tree.path, check=False)
    gathered = place.trees.gather(place.tree, "m", _all)
    assert (gathered.begun, gathered.conflicts, gathered.made) == (how, ("src/code.py",), "")
    assert gathered.left == ("src/code.py",)
    with pytest.raises(Refused):
        place.trees.remove(place.tree)


# Removing


def _uncommitted(place: Place) -> None:
    place.write("src/a")


def _staged(place: Place) -> None:
    place.write("src/a")
    place.git("add", "-A")


def _committed(place: Place) -> None:
    place.commit("src/a")


def _amended(place: Place) -> None:
    place.git("commit", "-q", "--amend", "-m", "mine")


def _detached(place: Place) -> None:
    place.git("checkout", "-q", "--detach")
    place.commit("src/a")


def _committed_and_folder_deleted(place: Place) -> None:
    place.commit("src/a")
    shutil.rmtree(place.tree.path)


def _without_entry(place: Place) -> None:
    place.write("src/a")
    shutil.rmtree(place.repo.top / ".git/worktrees/t-1-1")


def _without_mark(place: Place) -> None:
    place.write("src/a")
    (place.tree.path / ".git").unlink()


def _a_repository_of_its_own(place: Place) -> None:
    (place.tree.path / ".git").unlink()
    place.repo.git("init", "-q", cwd=place.tree.path)
    place.commit("src/a")


@pytest.mark.parametrize(
    "act",
    [
        _uncommitted, _staged, _committed, _amended, _detached, _committed_and_folder_deleted,
        _without_entry, _without_mark, _a_repository_of_its_own,
    ],
)  # fmt: skip
def test_nothing_unmerged_is_ever_removed(place: Place, act: Callable[[Place], None]) -> None:
    act(place)
    there = place.tree.path.exists()
    with pytest.raises(Refused):
        place.trees.remove(place.tree, "main")
    assert place.tree.path.exists() is there
    assert place.repo.git("rev-parse", place.tree.branch)
    assert place.trees.found() == [place.tree]


def _nothing(_: Place) -> None:
    pass


def _folder_deleted(place: Place) -> None:
    shutil.rmtree(place.tree.path)


def _locked(place: Place) -> None:
    place.git("worktree", "lock", ".")


def _locked_and_deleted(place: Place) -> None:
    _locked(place)
    _folder_deleted(place)


def _entry_gone(place: Place) -> None:
    shutil.rmtree(place.repo.top / ".git/worktrees/t-1-1")


def _mark_gone(place: Place) -> None:
    (place.tree.path / ".git").unlink()


def _pruned(place: Place) -> None:
    _folder_deleted(place)
    place.repo.git("worktree", "prune")


def _reset(place: Place) -> None:
    place.git("reset", "-q", "--hard", "HEAD~1")


def _merged(place: Place) -> None:
    place.commit("src/a")
    place.repo.git("merge", "-q", "--no-ff", place.tree.branch)


def _branch_deleted(place: Place) -> None:
    _pruned(place)
    place.repo.git("branch", "-qD", place.tree.branch)


@pytest.mark.parametrize(
    "act",
    [
        _nothing, _folder_deleted, _locked, _locked_and_deleted, _entry_gone, _mark_gone, _pruned, _reset,
        _merged, _branch_deleted,
    ],
)  # fmt: skip
def test_what_is_empty_or_merged_is_removed_without_a_trace(
    place: Place, act: Callable[[Place], None]
) -> None:
    act(place)
    place.trees.remove(place.tree, "main")
    assert not place.tree.path.exists()
    assert place.repo.git("branch", "--list", "hypervisor/*") == ""
    assert len(place.repo.git("worktree", "list").splitlines()) == 1
    assert place.trees.found() == []
    place.trees.remove(place.tree, "main")
    assert place.repo.git("status", "--porcelain") == ""


@pytest.mark.parametrize("act", [_entry_gone, _mark_gone])
def test_work_in_a_worktree_without_ties_comes_home_and_the_users_checkout_is_not_touched(
    place: Place, act: Callable[[Place], None]
) -> None:
    place.write("src/a")
    place.repo.write("README.md", "the user's\n")
    act(place)
    gathered = place.trees.gather(place.tree, "m", _all)
    assert gathered.files == ("src/a",)
    assert place.repo.git("status", "--porcelain") == "M README.md"


def test_the_commits_of_a_deleted_folder_are_still_told_and_it_can_be_opened_again(place: Place) -> None:
    sha = place.commit("src/a")
    shutil.rmtree(place.tree.path)
    work = place.trees.inspect(place.tree)
    assert (work.gone, work.commits) == (True, (sha,))
    assert place.trees.gather(place.tree, "m", _all).commits == (sha,)
    assert (place.trees.open("T-1", 1, "main").path / "src/a").exists()


def test_ignored_files_do_not_hold_a_worktree(repo: Repo) -> None:
    repo.commit(".gitignore", "build/\n")
    place = Place(repo)
    place.write("build/out.o")
    place.trees.remove(place.tree)
    assert not place.tree.path.exists()


# Scope


@pytest.mark.parametrize(
    ("path", "files", "expected"),
    [
        ("a.py", [], True),
        ("deep/a.py", [], True),
        ("../a.py", [], False),
        (".hypervisor/x", [], False),
        (".hypervisor/x", ["."], False),
        ("tasks/t.md", [], False),
        ("tasks/t.md", ["tasks/t.md"], True),
        ("src/a.py", ["src"], True),
        ("src/a.py", ["./src/"], True),
        ("src2/a.py", ["src"], False),
        ("src", ["src"], True),
        ("src/a.py", ["src/*.py"], True),
        ("src/b/a.py", ["src/*.py"], False),
        ("src/b/a.py", ["src/**/*.py"], True),
        ("src/b/a.py", ["s*"], True),
        ("app/[id].tsx", ["app/[id].tsx"], True),
        ("a\nb", ["a?b"], True),
        ("../lib/a", ["../lib"], True),
        ("../lib/a", ["."], False),
        ("x/y", ["."], True),
        ("src/nested/", ["src"], True),
    ],
)
def test_the_scope_of_a_task(path: str, files: list[str], expected: bool) -> None:
    assert in_scope(path, files, lambda name: name.startswith("tasks/")) is expected


# Crashes

#: A process that opens a worktree, and stops for ever at a step.
_VICTIM = """
import sys, time, pathlib
sys.path.insert(0, sys.argv[1])
from hypervisor.git import git, worktrees
root, step, flag = sys.argv[2:]
def stop(*_):
    pathlib.Path(flag).touch()
    time.sleep(60)
real = git.Git._run
def run(self, words, check, text, more):
    if " ".join(words[:2]) == step:
        stop()
    answer = real(self, words, check, text, more)
    if "after " + " ".join(words[:2]) == step:
        stop()
    return answer
git.Git._run = run
if step == "record":
    once = worktrees.write_once
    worktrees.write_once = lambda path, data: stop() if path.suffix == ".json" else once(path, data)
worktrees.Worktrees(pathlib.Path(root), pathlib.Path(root) / ".hypervisor/trees", "b1").open("t", 1, "main")
"""


@pytest.mark.parametrize(
    "step", ["worktree remove", "worktree add", "after worktree add", "filter", "record"]
)
def test_after_a_kill_at_any_step_of_opening_it_opens_whole(repo: Repo, tmp_path: Path, step: str) -> None:
    flag = tmp_path / "flag"
    if step == "filter":  # git itself is amid its checkout, and lives on for a while
        repo.commit(".gitattributes", "*.py filter=slow\n")
        repo.git("config", "filter.slow.smudge", f"touch '{flag}'; sleep 0.5; cat")
    words = [sys.executable, "-c", _VICTIM, str(ROOT / "scripts"), str(repo.top), step, str(flag)]
    process = subprocess.Popen(words)
    try:
        eventually(flag.exists, f"the step {step}")
    finally:
        process.kill()
        process.wait()
    tree = Worktrees(repo.top, repo.top / ".hypervisor/trees", "b1").open("t", 1, "main")
    assert repo.git("status", "--porcelain", cwd=tree.path) == ""
    assert (tree.path / "src/code.py").read_text() == "one\ntwo\nthree\n"
    Worktrees(repo.top, repo.top / ".hypervisor/trees", "b1").remove(tree)
    assert len(repo.git("worktree", "list").splitlines()) == 1


def test_worktrees_of_another_batch_and_another_task_are_left_alone(place: Place) -> None:
    other = Worktrees(place.repo.top, place.repo.top / ".hypervisor/trees 2", "b2")
    theirs = other.open("T-1", 1, "main")
    second = place.trees.open("T-2", 1, "main")
    assert place.trees.found() == [place.tree, second]
    place.trees.remove(place.tree)
    assert (theirs.path / "src/code.py").exists()
    assert place.trees.found() == [second]
