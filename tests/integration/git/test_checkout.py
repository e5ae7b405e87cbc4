"""The user's checkout: nothing done to it stays unseen, and nothing is seen that was not done."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hypervisor.git.checkout import SMALL, Snapshot, changed
from hypervisor.git.repository import Repository
from repositories import NAMES, Repo, make_repo


def _ignore(path: str) -> bool:
    return path.startswith((".hypervisor/", "tasks/", ".claude/"))


@pytest.fixture(name="repo")
def _repo(tmp_path: Path) -> Repo:
    repo = make_repo(tmp_path / "repo")
    repo.commit("code.py", "one\n")
    repo.commit("gone.py", "one\n")
    repo.write("code.py", "dirty\n")
    repo.write("new.txt", "untracked\n")
    repo.write("big.bin", "x" * (SMALL + 1))
    return repo


def _stage_and_put_back(repo: Repo) -> None:
    repo.git("add", "code.py")
    repo.write("code.py", "one\n")


CASES: dict[str, tuple[Callable[[Repo], object], list[str]]] = {
    "a tracked file": (lambda r: r.write("README.md", "x"), ["README.md was modified"]),
    "a dirty file, further": (lambda r: r.write("code.py", "dirtx\n"), ["code.py was modified"]),
    "an untracked file, further": (lambda r: r.write("new.txt", "other\n"), ["new.txt was modified"]),
    "a large file": (lambda r: r.write("big.bin", "y" * (SMALL + 1)), ["big.bin was modified"]),
    "a new file": (lambda r: r.write("more.txt"), ["more.txt was added"]),
    "a new staged file": (
        lambda r: (r.write("more.txt"), r.git("add", "more.txt")),
        ["more.txt was added and staged"],
    ),
    "a tracked file deleted": (lambda r: (r.top / "gone.py").unlink(), ["gone.py was deleted"]),
    "a dirty file deleted": (lambda r: (r.top / "code.py").unlink(), ["code.py was deleted"]),
    "an untracked file deleted": (
        lambda r: (r.top / "new.txt").unlink(),
        ["new.txt was deleted, committed or ignored"],
    ),
    "a dirty file put back": (
        lambda r: r.git("checkout", "--", "code.py"),
        ["code.py is as HEAD has it again"],
    ),
    "staged": (lambda r: r.git("add", "code.py"), ["code.py was staged, or taken back from the index"]),
    "staged, and the file put back": (_stage_and_put_back, ["code.py was modified"]),
    "the mode of a clean file": (lambda r: (r.top / "README.md").chmod(0o755), ["README.md was modified"]),
    "the mode of a dirty file": (
        lambda r: (r.top / "code.py").chmod(0o755),
        ["code.py had its mode changed"],
    ),
    "another branch": (lambda r: r.git("checkout", "-qb", "x"), ["branch changed from main to x"]),
    "nothing": (lambda _: None, []),
    "touched": (lambda r: os.utime(r.top / "code.py"), []),
    "what is ignored": (
        lambda r: (r.write("tasks/a.md"), r.write(".claude/x"), r.write(".hypervisor/y")),
        [],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_change_is_told(repo: Repo, case: str) -> None:
    before = Snapshot.take(Repository.read(repo.top), _ignore)
    act, words = CASES[case]
    act(repo)
    assert changed(before, Snapshot.take(Repository.read(repo.top), _ignore)) == words


def test_a_commit_is_told(repo: Repo) -> None:
    before = Snapshot.take(Repository.read(repo.top), _ignore)
    repo.git("commit", "-qm", "x", "--only", "code.py")
    told = changed(before, Snapshot.take(Repository.read(repo.top), _ignore))
    assert told[0].startswith("HEAD moved from ")
    assert told[1:] == ["code.py is as HEAD has it again"]


def test_a_file_staged_again_with_other_content_is_told(repo: Repo) -> None:
    repo.write("code.py", "second\n")
    repo.git("add", "code.py")
    repo.write("code.py", "dirty\n")
    before = Snapshot.take(Repository.read(repo.top), _ignore)
    repo.write("code.py", "third\n")
    repo.git("add", "code.py")
    repo.write("code.py", "dirty\n")
    assert len(changed(before, Snapshot.take(Repository.read(repo.top), _ignore))) == 1


def test_names_of_all_kinds_are_told_in_one_line_each(repo: Repo) -> None:
    before = Snapshot.take(Repository.read(repo.top), _ignore)
    for name in NAMES:
        repo.write(name)
    told = changed(before, Snapshot.take(Repository.read(repo.top), _ignore))
    assert len(told) == len(NAMES)
    assert not any("\n" in line for line in told)


def test_a_project_in_a_folder_of_the_repository_has_paths_of_its_own(repo: Repo) -> None:
    repo.commit("sub/tasks/a.md")
    before = Snapshot.take(Repository.read(repo.top / "sub"), _ignore)
    repo.write("sub/tasks/a.md", "x")
    repo.write("sub/code.txt")
    repo.write("README.md", "x")
    told = changed(before, Snapshot.take(Repository.read(repo.top / "sub"), _ignore))
    assert told == ["../README.md was modified", "code.txt was added"]


def test_a_look_leaves_no_trace_and_is_quick(repo: Repo) -> None:
    index = (repo.top / ".git/index").stat().st_mtime_ns
    began = time.monotonic()
    for _ in range(10):
        Snapshot.take(Repository.read(repo.top), _ignore)
    assert time.monotonic() - began < 10
    assert (repo.top / ".git/index").stat().st_mtime_ns == index
