"""The user's checkout: nothing done to it stays unseen, and nothing is seen that was not done."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hypervisor.core.project import find_project
from hypervisor.git.checkout import SMALL, Snapshot, changed
from hypervisor.git.git_folder import GitFolder
from hypervisor.git.oversight import CheckoutWatch
from hypervisor.git.repository import Repository
from repositories import NAMES, Repo, make_repo


def _ignore(path: str) -> bool:
    return path.startswith((".hypervisor/", "tasks/", ".claude/"))


@pytest.fixture(name="repo")
def _repo(tmp_path: Path) -> Repo:
    repo = make_repo(tmp_path / "repo")
    repo.commit("code.py", "one\n")
    repo.commit("gone.py", "one\n")
    repo.commit("hidden.py", "one\n")
    repo.commit(".gitignore", ".env\n")
    repo.git("update-index", "--assume-unchanged", "hidden.py")
    repo.git("tag", "old", "HEAD~1")
    repo.write(".env", "secret\n")
    repo.write("code.py", "dirty\n")
    repo.write("new.txt", "untracked\n")
    repo.write("big.bin", "x" * (SMALL + 1))
    return repo


def _stage_and_put_back(repo: Repo) -> None:
    repo.git("add", "code.py")
    repo.write("code.py", "one\n")


def _link_hooks(repo: Repo) -> None:
    shutil.rmtree(repo.top / ".git/hooks")
    (repo.top / ".git/hooks").symlink_to("/tmp")


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
        lambda r: (r.write("tasks/a.md"), r.write(".claude/todos/x"), r.write(".hypervisor/y")),
        [],
    ),
    "a branch": (lambda r: r.git("branch", "x"), ["refs/heads/x was added"]),
    "a tag": (lambda r: r.git("tag", "v1"), ["refs/tags/v1 was added"]),
    "a tag moved": (
        lambda r: r.git("tag", "-f", "old", "main"),
        ["refs/tags/old was changed"],
    ),
    "packed refs, all the same": (lambda r: r.git("pack-refs", "--all"), []),
    "a replacement": (
        lambda r: r.git("update-ref", f"refs/replace/{r.git('rev-parse', 'HEAD')}", "HEAD~1"),
        ["refs/replace/* was added"],
    ),
    "a setting": (lambda r: r.git("config", "core.fsmonitor", "touch x"), [".git/config was changed"]),
    "a hook": (lambda r: r.write(".git/hooks/post-commit"), [".git/hooks/post-commit was added"]),
    "hooks that are a link": (
        _link_hooks,
        [".git/hooks was added"],
    ),
    "an exclude": (lambda r: r.write(".git/info/exclude", "*.py\n"), [".git/info/exclude was changed"]),
    "attributes": (
        lambda r: r.write(".git/info/attributes", "* -text\n"),
        [".git/info/attributes was added"],
    ),
    "a worktree": (
        lambda r: r.git("worktree", "add", "-q", "--detach", str(r.top.parent / "w")),
        [".git/worktrees/w was added"],
    ),
    "a merge begun": (
        lambda r: r.write(".git/MERGE_HEAD", r.git("rev-parse", "HEAD")),
        ["a merge in the checkout was added"],
    ),
    "a file hidden by assume-unchanged": (
        lambda r: (r.git("update-index", "--assume-unchanged", "gone.py"), r.write("gone.py", "evil\n")),
        ["gone.py is hidden from git status (assume-unchanged or skip-worktree)"],
    ),
    "a file hidden by skip-worktree": (
        lambda r: (r.git("update-index", "--skip-worktree", "gone.py"), r.write("gone.py", "evil\n")),
        ["gone.py is hidden from git status (assume-unchanged or skip-worktree)"],
    ),
    "a file that was hidden before": (lambda r: r.write("hidden.py", "evil\n"), ["hidden.py was modified"]),
    "secrets that git ignores": (lambda r: r.write(".env", "evil\n"), [".env was modified"]),
    "a client's settings": (
        lambda r: r.write(".claude/settings.local.json", "{}"),
        [".claude/settings.local.json was added"],
    ),
    "our settings": (
        lambda r: r.write(".hypervisor/config.toml", "[run]\n"),
        [".hypervisor/config.toml was added"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_change_is_told(repo: Repo, case: str) -> None:
    before = Snapshot.take(Repository.read(repo.top), _ignore)
    act, words = CASES[case]
    act(repo)
    told = changed(before, Snapshot.take(Repository.read(repo.top), _ignore))
    assert [re.sub(r"[0-9a-f]{40}", "*", line) for line in told] == words


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


@pytest.mark.parametrize("version", [2, 3, 4])
def test_hidden_files_are_those_that_git_lists(repo: Repo, version: int) -> None:
    for name in (*NAMES, "a" * 200, "deep/er/x", "deep/er/y"):
        repo.write(name)
    repo.git("add", "-A")
    repo.git("update-index", f"--index-version={version}")
    for flag, name in (
        ("assume-unchanged", "deep/er/y"),
        ("skip-worktree", "a" * 200),
        ("skip-worktree", "two\nlines.txt"),
    ):
        repo.git("update-index", f"--{flag}", name)
    listed = (line for line in repo.git("ls-files", "-v", "-z").split("\0") if line)
    hidden = [line[2:] for line in listed if line[0].islower() or line[0] == "S"]
    assert list(GitFolder(Repository.read(repo.top)).hidden()) == hidden


def test_what_a_coordinator_does_in_the_git_folder_is_not_named_and_what_looks_like_it_is(repo: Repo) -> None:
    project, facts = find_project(repo.top, {}), Repository.read(repo.top)
    known = {"home": set[str](), "": set[str]()}

    def is_known(commit: str, *, home: bool = False) -> bool:
        return commit in known["home"] or (not home and commit in known[""])

    watch = CheckoutWatch(project, facts, _ignore, is_known)
    before = watch.look()
    merged = repo.git("commit-tree", "main^{tree}", "-p", "main", "-m", "merge")
    known[""].add(merged)
    repo.git("update-ref", "refs/heads/hypervisor/b1/merge", merged)
    for ours in (
        "heads/hypervisor/b1",
        "hypervisor/origin/b1",
        "remotes/origin/hypervisor/b1",
        "remotes/origin",
    ):
        repo.git("update-ref", f"refs/{ours}/t-1-1", merged)
    repo.write(".git/worktrees/t-1-1/HEAD", "")  # git is about to write where it is
    assert watch.changed_since(before) == []
    repo.write(".git/worktrees/t-1-1/gitdir", f"{repo.top}/.hypervisor/worktrees/t-1-1/.git")
    assert watch.changed_since(before) == []
    assert [line[:35] for line in _after(repo, watch, before, "update-ref", "refs/heads/main", merged)][-1:]
    known["home"].add(merged)
    assert watch.changed_since(before) == []
    evil = repo.git("commit-tree", "main^{tree}", "-p", "main", "-m", "evil")
    told = _after(repo, watch, before, "update-ref", "refs/heads/hypervisor/b2/merge", evil)
    assert told == ["refs/heads/hypervisor/b2/merge was added"]


def _after(repo: Repo, watch: CheckoutWatch, before: Snapshot, *words: str) -> list[str]:
    repo.git(*words)
    return watch.changed_since(before)
