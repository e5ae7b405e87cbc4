"""A task's worktree: what holds because it shares the user's git folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import ROOT, eventually
from hypervisor.core.errors import Refused
from hypervisor.git.git import GitError
from repositories import Place, Repo, make_repo, trees_of


@pytest.fixture(name="repo")
def _repo(tmp_path: Path) -> Repo:
    repo = make_repo(tmp_path / "the repo")
    repo.commit("src/code.py", "one\ntwo\nthree\n")
    return repo


@pytest.fixture(name="place")
def _place(repo: Repo) -> Place:
    return Place(repo, "worktree")


def _all(_: str) -> bool:
    return True


def test_the_debris_of_an_opening_that_was_killed_is_cleared(place: Place) -> None:
    record = place.tree.path.parent / ".trees/t-1-1.json"
    record.unlink()  # as if the process had died before its last step
    (place.tree.path / "src/code.py").unlink()
    tree = place.trees.open("t-1", 1, "main")
    assert (tree.path / "src/code.py").exists()


def test_a_branch_with_somebodys_work_is_not_reused(place: Place) -> None:
    place.commit("src/new.txt")
    (place.tree.path.parent / ".trees/t-1-1.json").unlink()
    with pytest.raises(Refused, match="commits of its own"):
        place.trees.open("t-1", 1, "main")
    assert (place.tree.path / "src/new.txt").exists()


def test_a_branch_named_as_ours_begin_is_an_error_with_gits_words(repo: Repo) -> None:
    repo.git("branch", "hypervisor")
    with pytest.raises(GitError, match="hypervisor"):
        trees_of(repo, "worktree", name="t").open("t", 1, "main")


@pytest.mark.parametrize("detach", [True, False])
def test_commits_of_a_users_branch_do_not_come_along(repo: Repo, detach: bool) -> None:
    repo.git("checkout", "-qb", "feature")
    theirs = repo.commit("src/feature")
    repo.git("checkout", "-q", "main")
    place = Place(repo, "worktree")
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
    place = Place(repo, "worktree")
    place.git("checkout", "-q", "feature")
    mine = place.commit("src/b")
    gathered = place.trees.gather(place.tree, "m", _all)
    assert (gathered.commits, gathered.astray) == ((), (mine,))


def _committed_and_folder_deleted(place: Place) -> None:
    place.commit("src/a")
    shutil.rmtree(place.tree.path)


def _without_entry(place: Place) -> None:
    place.write("src/a")
    shutil.rmtree(place.repo.top / ".git/worktrees/t-1-1")


@pytest.mark.parametrize("act", [_committed_and_folder_deleted, _without_entry])
def test_nothing_unmerged_is_removed_with_a_broken_worktree(
    place: Place, act: Callable[[Place], None]
) -> None:
    act(place)
    there = place.tree.path.exists()
    with pytest.raises(Refused):
        place.trees.remove(place.tree, "main")
    assert place.tree.path.exists() is there
    assert place.repo.git("rev-parse", place.tree.branch)
    assert place.trees.found() == [place.tree]


def _folder_deleted(place: Place) -> None:
    shutil.rmtree(place.tree.path)


def _locked(place: Place) -> None:
    place.git("worktree", "lock", ".")


def _locked_and_deleted(place: Place) -> None:
    _locked(place)
    _folder_deleted(place)


def _entry_gone(place: Place) -> None:
    shutil.rmtree(place.repo.top / ".git/worktrees/t-1-1")


def _pruned(place: Place) -> None:
    _folder_deleted(place)
    place.repo.git("worktree", "prune")


def _branch_deleted(place: Place) -> None:
    _pruned(place)
    place.repo.git("branch", "-qD", place.tree.branch)


@pytest.mark.parametrize("act", [_locked, _locked_and_deleted, _entry_gone, _pruned, _branch_deleted])
def test_a_worktree_without_work_is_removed_without_a_trace(
    place: Place, act: Callable[[Place], None]
) -> None:
    act(place)
    place.trees.remove(place.tree, "main")
    assert not place.tree.path.exists()
    assert place.repo.git("branch", "--list", "hypervisor/*") == ""
    assert len(place.repo.git("worktree", "list").splitlines()) == 1
    assert place.trees.found() == []


def test_work_in_a_worktree_without_ties_comes_home_and_the_users_checkout_is_not_touched(
    place: Place,
) -> None:
    place.write("src/a")
    place.repo.write("README.md", "the user's\n")
    _entry_gone(place)
    gathered = place.trees.gather(place.tree, "m", _all)
    assert gathered.files == ("src/a",)
    assert place.repo.git("status", "--porcelain") == "M README.md"


# Crashes

#: A process that opens a worktree, and stops for ever at a step.
_VICTIM = """
import sys, time, pathlib
sys.path.insert(0, sys.argv[1])
from hypervisor.git import git, workspaces
from hypervisor.git.repository import Repository
from hypervisor.git.worktrees import Worktrees
root, step, flag = sys.argv[2:]
def stop(*_):
    pathlib.Path(flag).touch()
    time.sleep(60)
real = git.Git._run
def run(self, words, *rest, **more):
    if " ".join(words[:2]) == step:
        stop()
    answer = real(self, words, *rest, **more)
    if "after " + " ".join(words[:2]) == step:
        stop()
    return answer
git.Git._run = run
if step == "record":
    once = workspaces.replace_file
    workspaces.replace_file = lambda path, data: stop() if path.suffix == ".json" else once(path, data)
root = pathlib.Path(root)
Worktrees(Repository.read(root), root / ".hypervisor/trees", "b1").open("t", 1, "main")
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", ["worktree add", "after worktree add", "filter", "record"])
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
    tree = trees_of(repo, "worktree").open("t", 1, "main")
    assert repo.git("status", "--porcelain", cwd=tree.path) == ""
    assert (tree.path / "src/code.py").read_text() == "one\ntwo\nthree\n"
    trees_of(repo, "worktree").remove(tree)
    assert len(repo.git("worktree", "list").splitlines()) == 1
