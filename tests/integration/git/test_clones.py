"""A private clone: what an agent does there reaches nothing of the user's, and makes us run nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hypervisor.core.errors import Refused
from repositories import Place, Repo, make_repo


@pytest.fixture(name="repo")
def _repo(tmp_path: Path) -> Repo:
    repo = make_repo(tmp_path / "the repo")
    repo.git("config", "user.name", "Grace")
    repo.git("config", "user.email", "grace@example.org")
    repo.commit("src/code.py", "one\ntwo\nthree\n")
    return repo


@pytest.fixture(name="place")
def _place(repo: Repo) -> Place:
    return Place(repo, "clone")


def _all(_: str) -> bool:
    return True


def _src(path: str) -> bool:
    return path.startswith("src/")


def _git_folder(repo: Repo) -> dict[str, bytes]:
    """Return what is in the user's git folder, but for objects, which nobody can change."""
    top = repo.top / ".git"
    paths = (path for path in top.rglob("*") if path.is_file() and top / "objects" not in path.parents)
    return {str(path.relative_to(top)): path.read_bytes() for path in paths}


# What it is


def test_a_clone_has_its_branch_only_and_nowhere_to_push(place: Place) -> None:
    assert place.git("for-each-ref", "--format=%(refname)") == f"refs/heads/{place.tree.branch}"
    assert place.git("remote") == ""
    assert place.git("log", "--format=%s") == place.repo.git("log", "--format=%s", "main")
    assert place.git("fsck") == ""


def test_of_the_users_settings_a_clone_has_those_that_its_commits_need(repo: Repo) -> None:
    for key, value in (
        ("core.autocrlf", "input"), ("filter.x y.clean", 'sed "s/a/b/"'), ("core.fsmonitor", "touch bad"),
        ("core.hooksPath", "hooks"), ("alias.x", "!true"), ("remote.origin.url", "https://example.invalid"),
        ("credential.helper", "store"), ("core.sshCommand", "bad"), ("submodule.lib.url", "https://x.invalid"),
    ):  # fmt: skip
        repo.git("config", key, value)
    place = Place(repo, "clone")
    told = dict(line.split("=", 1) for line in place.git("config", "--local", "--list").splitlines())
    assert {key for key in told if not key.startswith(("core.", "gc.", "maintenance."))} == {
        "user.name", "user.email", "filter.x y.clean", "submodule.lib.url"
    }  # fmt: skip
    assert (told["core.autocrlf"], told["filter.x y.clean"]) == ("input", 'sed "s/a/b/"')
    assert not {"core.fsmonitor", "core.hookspath", "core.sshcommand"} & told.keys()


def test_what_the_user_ignores_here_alone_is_ignored_in_a_clone(repo: Repo) -> None:
    repo.write(".git/info/exclude", "*.log\n")
    place = Place(repo, "clone")
    place.write("src/a.log")
    assert place.trees.gather(place.tree, "m", _all).commits == ()


def test_a_shallow_repository_is_cloned(repo: Repo, tmp_path: Path) -> None:
    for number in range(3):
        repo.commit("src/code.py", f"{number}\n")
    repo.git("clone", "-q", "--depth", "1", f"file://{repo.top}", str(tmp_path / "shallow"))
    place = Place(Repo(tmp_path / "shallow"), "clone")
    sha = place.commit("src/a")
    assert place.trees.gather(place.tree, "m", _all).commits == (sha,)


def test_a_repository_with_sha256_is_cloned(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "long")
    repo.top.mkdir()
    repo.git("init", "-q", "-b", "main", "--object-format=sha256")
    repo.commit("src/code.py")
    place = Place(repo, "clone")
    sha = place.commit("src/a")
    assert place.trees.gather(place.tree, "m", _all).commits == (sha,)


def test_a_repository_with_an_odd_name_is_cloned(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / 'the "repo"\nof\\ours #')
    repo.commit("src/code.py")
    place = Place(repo, "clone")
    sha = place.commit("src/a")
    assert place.trees.gather(place.tree, "m", _all).commits == (sha,)


def test_the_branch_comes_to_the_user_and_the_clone_may_go(place: Place) -> None:
    sha = place.commit("src/a")
    gathered = place.trees.gather(place.tree, "m", _src)
    assert place.repo.git("rev-parse", place.tree.branch) == sha
    place.trees.close(place.tree, gathered, merged=False)
    assert not place.tree.path.exists()
    assert place.trees.found() == [place.tree]
    with pytest.raises(Refused, match="1 unmerged commit"):
        place.trees.remove(place.tree, "main")
    place.repo.git("merge", "-q", place.tree.branch)
    place.trees.remove(place.tree, "main")
    assert place.trees.found() == []
    assert place.repo.git("branch", "--list", "hypervisor/*") == ""


def test_what_is_fetched_is_whole(place: Place) -> None:
    for number in range(150):  # more than are unpacked one by one
        place.write(f"src/{number}", f"{number}\n")
    place.trees.gather(place.tree, "m", _src)
    shutil.rmtree(place.tree.path)
    assert place.repo.git("fsck", "--full", "--strict") == ""


def test_a_clone_that_was_packed_by_its_agent_comes_home(place: Place) -> None:
    sha = place.commit("src/a")
    place.git("gc", "-q", "--prune=now")
    place.git("repack", "-adq")
    assert place.trees.gather(place.tree, "m", _src).commits == (sha,)


def test_commits_on_other_branches_and_stashes_keep_the_clone(place: Place) -> None:
    place.git("checkout", "-qb", "idea")
    place.commit("src/idea")
    place.git("checkout", "-q", place.tree.branch)
    place.write("src/code.py", "x")
    place.git("stash", "-q")
    sha = place.commit("src/a")
    gathered = place.trees.gather(place.tree, "m", _src)
    assert (gathered.commits, gathered.astray) == ((sha,), ())
    place.trees.close(place.tree, gathered, merged=False)
    place.repo.git("merge", "-q", place.tree.branch)
    with pytest.raises(Refused, match=r"1 commit\(s\) on idea, 2 commit\(s\) on refs/stash"):
        place.trees.remove(place.tree, "main")
    assert place.git("rev-parse", "idea", "stash")


def test_a_branch_with_somebodys_work_is_not_overwritten(place: Place) -> None:
    theirs = place.repo.commit("theirs")
    place.repo.git("branch", place.tree.branch, theirs)
    place.commit("src/a")
    gathered = place.trees.gather(place.tree, "m", _src)
    assert place.repo.git("rev-parse", place.tree.branch) == theirs
    assert (gathered.commits, len(gathered.astray)) == ((), 1)
    place.trees.close(place.tree, gathered, merged=False)
    assert (place.tree.path / "src/a").exists()


def test_the_debris_of_an_opening_that_was_killed_is_cleared(place: Place) -> None:
    (place.tree.path.parent / ".trees/t-1-1.json").unlink()  # as if the process had died before its last step
    (place.tree.path / "src/code.py").unlink()
    assert (place.trees.open("t-1", 1, "main").path / "src/code.py").exists()


# An agent that does its worst


def _settings(place: Place, flag: Path) -> None:
    bad = f"touch '{flag}'; cat"
    for key in (
        "core.fsmonitor", "diff.external", "filter.x.clean", "filter.x.smudge", "core.sshCommand",
        "core.pager", "core.editor", "gpg.program", "merge.x.driver", "diff.x.textconv",
        "uploadpack.packObjectsHook",
    ):  # fmt: skip
        place.git("config", key, bad)
    place.git("config", "commit.gpgSign", "true")
    place.git("config", "core.hooksPath", str(place.tree.path / "hooks"))
    place.git("config", "core.worktree", str(place.repo.top))
    place.write(".git/info/attributes", "* filter=x diff=x merge=x\n")


def _hooks(place: Place, flag: Path) -> None:
    for name in (
        "post-checkout",
        "pre-commit",
        "reference-transaction",
        "post-index-change",
        "fsmonitor-watchman",
    ):
        place.write(f".git/hooks/{name}", f"#!/bin/sh\ntouch '{flag}'\n").chmod(0o755)


def _commondir(place: Place, flag: Path) -> None:
    elsewhere = place.tree.path / "elsewhere"
    shutil.copytree(place.tree.path / ".git", elsewhere)
    place.repo.git("config", "-f", str(elsewhere / "config"), "core.fsmonitor", f"touch '{flag}'")
    place.write(".git/commondir", f"{elsewhere}\n")


def _no_alternates(place: Place, _: Path) -> None:
    (place.tree.path / ".git/objects/info/alternates").unlink()


def _replacement(place: Place, _: Path) -> None:
    other = place.repo.git("commit-tree", "main^{tree}", "-m", "other")
    place.git("replace", place.tree.base, other)


def _locks(place: Place, _: Path) -> None:
    for name in ("index.lock", "HEAD.lock", f"refs/heads/{place.tree.branch}.lock"):
        place.write(f".git/{name}", "")


def _grafts(place: Place, _: Path) -> None:
    place.write(".git/shallow", f"{place.tree.base}\n")
    place.write(".git/info/grafts", f"{place.tree.base}\n")


@pytest.mark.parametrize(
    "act", [_settings, _hooks, _commondir, _no_alternates, _replacement, _locks, _grafts]
)
def test_whatever_an_agent_sets_its_work_is_seen_and_nothing_of_it_runs(
    place: Place, tmp_path: Path, act: Callable[[Place, Path], None]
) -> None:
    sha = place.commit("src/a")
    place.write("src/b")
    before = _git_folder(place.repo)
    flag = tmp_path / "ran"
    act(place, flag)
    flag.unlink(missing_ok=True)
    gathered = place.trees.gather(place.tree, "m", _src)
    assert not flag.exists()
    assert gathered.commits == (sha, gathered.made)
    after = _git_folder(place.repo)
    ours = {f"{folder}refs/heads/{place.tree.branch}" for folder in ("", "logs/")}
    assert {name: data for name, data in after.items() if name not in ours} == before


def _file(place: Place) -> None:
    shutil.rmtree(place.tree.path / ".git")
    (place.tree.path / ".git").write_text(f"gitdir: {place.repo.top}/.git\n")


def _link(place: Place) -> None:
    shutil.rmtree(place.tree.path / ".git")
    (place.tree.path / ".git").symlink_to(place.repo.top / ".git")


def _linked(name: str) -> Callable[[Place], None]:
    def act(place: Place) -> None:
        own = place.tree.path / ".git" / name
        shutil.rmtree(own) if own.is_dir() else own.unlink(missing_ok=True)
        own.symlink_to(place.repo.top / ".git" / name)

    return act


@pytest.mark.parametrize(
    "act",
    [_file, _link, *map(_linked, ("refs", "index", "HEAD", "logs", "refs/heads", "config", "objects"))],
    ids=["a file", "a link", "refs", "index", "HEAD", "logs", "heads", "config", "objects"],
)
def test_a_git_folder_that_leads_to_the_users_is_not_followed(
    place: Place, act: Callable[[Place], None]
) -> None:
    place.write("src/a")
    place.write("outside")
    place.repo.git("reflog", "show")
    act(place)
    before = _git_folder(place.repo)
    gathered = place.trees.gather(place.tree, "m", _src)
    after = _git_folder(place.repo)
    ours = {f"{folder}refs/heads/{place.tree.branch}" for folder in ("", "logs/")}
    assert {name: data for name, data in after.items() if name not in ours} == before
    assert (gathered.files, gathered.outside) == (("src/a",), ("outside",))
    place.trees.close(place.tree, gathered, merged=False)
    with pytest.raises(Refused):
        place.trees.remove(place.tree)
    assert _git_folder(place.repo) == after


def test_what_cannot_be_fetched_is_told_and_kept(place: Place) -> None:
    sha = place.commit("src/a")
    blob = place.git("rev-parse", f"{sha}:src/a")
    (place.tree.path / f".git/objects/{blob[:2]}/{blob[2:]}").unlink()
    gathered = place.trees.gather(place.tree, "m", _src)
    assert gathered.commits == ()
    assert gathered.astray[0].startswith(sha[:12])
    place.trees.close(place.tree, gathered, merged=False)
    assert place.tree.path.exists()
    with pytest.raises(Refused, match="cannot be fetched"):
        place.trees.remove(place.tree)


def test_an_object_that_is_not_what_its_name_says_is_not_taken(place: Place) -> None:
    sha = place.commit("src/a")
    blob = place.git("rev-parse", f"{sha}:src/a")
    other = place.git("hash-object", "-w", str(place.write("src/b", "something else\n")))
    target = place.tree.path / f".git/objects/{blob[:2]}/{blob[2:]}"
    target.chmod(0o600)
    shutil.copyfile(place.tree.path / f".git/objects/{other[:2]}/{other[2:]}", target)
    os.unlink(place.tree.path / "src/b")
    gathered = place.trees.gather(place.tree, "m", _src)
    assert (gathered.commits, len(gathered.astray)) == ((), 1)
    assert place.repo.git("cat-file", "-t", blob, check=False) == ""
