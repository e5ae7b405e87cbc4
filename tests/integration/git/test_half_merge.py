"""A merge that is begun for an agent: what is in its folder, and what is gathered of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypervisor.git.half_merge import marked_files
from hypervisor.git.work import Gathered, Tree
from hypervisor.git.workspaces import Workspaces
from repositories import KINDS, Repo, make_repo, trees_of


@pytest.fixture(params=[(kind, sub) for kind in KINDS for sub in ("", "sub")], ids=str)
def begun(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Repo, Workspaces, Tree, str]:
    """Return a repository, a folder in which a merge with a conflict is in progress, and what is merged."""
    kind, sub = request.param
    repo = make_repo(tmp_path / "repo")
    repo.commit("sub/a.txt", "start\n")
    repo.git("checkout", "-q", "-b", "mine")
    repo.commit("sub/new.txt", "new\n")
    mine = repo.commit("sub/a.txt", "mine\n")
    repo.git("checkout", "-q", "main")
    repo.commit("sub/a.txt", "theirs\n")
    trees = trees_of(repo, kind, sub)
    tree = trees.begin_merge(trees.open("t-1", "1.merge", "main"), mine)
    return repo, trees, tree, mine


def parents(repo: Repo, commit: str) -> list[str]:
    return repo.git("log", "-1", "--format=%P", commit).split()


def gathered(trees: Workspaces, tree: Tree) -> Gathered:
    return trees.gather(tree, "Merge", lambda path: path.endswith("a.txt"))


def test_both_sides_are_in_the_folder(begun: tuple[Repo, Workspaces, Tree, str]) -> None:
    _, trees, tree, _ = begun
    text = (tree.path / "sub/a.txt").read_text()
    assert "<<<<<<< HEAD\ntheirs\n=======\nmine\n>>>>>>> " in text
    assert (tree.path / "sub/new.txt").exists()
    assert trees.inspect(tree).begun == "merge"


def test_what_is_left_open_is_committed_with_both_parents(begun: tuple[Repo, Workspaces, Tree, str]) -> None:
    repo, trees, tree, mine = begun
    (tree.path / "sub/a.txt").write_text("theirs\nmine\n")
    found = gathered(trees, tree)
    assert parents(repo, found.commits[-1]) == [tree.base, mine]
    assert found.is_all
    assert marked_files(trees.repository.git(), found.commits[-1], (tree.base, mine)) == ()
    assert repo.git("show", f"{found.commits[-1]}:sub/a.txt") == "theirs\nmine"
    assert repo.git("show", f"{found.commits[-1]}:sub/new.txt") == "new"


def test_markers_that_are_left_are_found(begun: tuple[Repo, Workspaces, Tree, str]) -> None:
    _, trees, tree, mine = begun
    tip = gathered(trees, tree).commits[-1]
    assert marked_files(trees.repository.git(), tip, (tree.base, mine)) == ("sub/a.txt",)


def test_what_lies_outside_of_the_scope_is_left_and_named(begun: tuple[Repo, Workspaces, Tree, str]) -> None:
    _, trees, tree, _ = begun
    (tree.path / "sub/a.txt").write_text("both\n")
    (tree.path / "sub/stray.txt").write_text("x\n")
    found = gathered(trees, tree)
    assert [path.rpartition("/")[2] for path in found.outside] == ["stray.txt"]
    assert found.begun == ""


def test_a_merge_of_something_else_is_left_in_progress(begun: tuple[Repo, Workspaces, Tree, str]) -> None:
    repo, trees, tree, mine = begun
    other = repo.git("rev-parse", f"{mine}^")
    repo.git("merge", "--abort", cwd=tree.path)
    repo.git("merge", "--no-commit", "--no-ff", "-q", other, cwd=tree.path)
    assert gathered(trees, tree).begun == "merge"


def test_a_merge_that_nobody_finished_is_discarded_as_both_sides_are_kept(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "repo")
    repo.git("checkout", "-q", "-b", "mine")
    mine = repo.commit("a.txt", "mine\n")
    repo.git("checkout", "-q", "main")
    repo.commit("a.txt", "theirs\n")
    trees = trees_of(repo, "clone")
    trees.begin_merge(trees.open("t-1", "1.merge", "main"), mine)
    (tree,) = trees.found()
    trees.remove(tree)
    assert trees.found() == []
    assert not tree.path.exists()
