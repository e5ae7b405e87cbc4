"""What an agent left in its worktree: commits, changes that are not committed, and what is elsewhere.

All names of files are relative to the project root, which may be a folder inside the repository;
what lies outside of it begins with ``../``.
"""

from __future__ import annotations

import os
import posixpath
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.files import matches_any
from ..core.project import STATE
from .git import Entry, Git, from_top


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A worktree of a task."""

    path: Path
    branch: str
    #: The commit that it began from.
    base: str
    #: The task's id.
    task: str
    #: Branches and tags that were there when it was made, with what they named.
    known: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an agent left in its worktree."""

    #: Commits on its branch beyond the base, oldest first.
    commits: tuple[str, ...] = ()
    #: Files that they change, all told; of a rename both names.
    files: tuple[str, ...] = ()
    #: Those of the files that are gone.
    deleted: tuple[str, ...] = ()
    #: Those of the files that are binary.
    binary: tuple[str, ...] = ()
    #: Those of the files that are links.
    symlinks: tuple[str, ...] = ()
    #: Those of the files that are submodules.
    submodules: tuple[str, ...] = ()
    #: Changes that are not committed, untracked files among them; a nested repository ends in "/".
    uncommitted: tuple[str, ...] = ()
    #: The branch that is checked out; None if HEAD is detached.
    on: str | None = None
    #: Commits that HEAD has and no branch had before, and that are not on the tree's branch.
    astray: tuple[str, ...] = ()
    #: Whether the branch no longer contains the base.
    rewritten: bool = False
    #: What happened to other branches, tags and the stash, in words.
    refs: tuple[str, ...] = ()
    #: Stash entries that were added.
    stashes: tuple[str, ...] = ()
    #: What was begun and not ended: "merge", "rebase" ...; "" if nothing.
    begun: str = ""
    #: Files in conflict.
    conflicts: tuple[str, ...] = ()
    #: Whether the folder is gone.
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What came home, and what did not."""

    #: Commits on the branch beyond the base, oldest first.
    commits: tuple[str, ...]
    #: Files that they change.
    files: tuple[str, ...]
    #: The commit made for the agent, or "".
    made: str = ""
    #: Changes left uncommitted because they are not to be kept.
    outside: tuple[str, ...] = ()
    #: Changes left uncommitted because they could not be put on the branch.
    left: tuple[str, ...] = ()
    #: Commits elsewhere that could not be put on the branch.
    astray: tuple[str, ...] = ()
    #: What was begun and not ended.
    begun: str = ""
    conflicts: tuple[str, ...] = ()


def in_scope(path: str, files: Sequence[str], is_task_file: Callable[[str], bool] = lambda _: False) -> bool:
    """Tell whether a task with *files* may touch *path*; both relative to the project root.

    A folder means all below it. No files at all means everything in the project but task files.
    What is below ``.hypervisor/`` is in nobody's scope.
    """
    path = path.rstrip("/")
    if path.split("/")[0] == STATE:
        return False
    if not files:
        return not path.startswith("../") and not is_task_file(path)
    above = [path[:at] for at, letter in enumerate(path) if letter == "/"]
    for entry in files:
        plain = posixpath.normpath(entry)
        if plain == "." and not path.startswith("../"):
            return True
        if plain in (path, *above) or any(matches_any(name, [plain]) for name in (path, *above)):
            return True
    return False


def own_commits(git: Git, tree: Tree) -> tuple[str, ...]:
    """Return the commits of HEAD that are new and not on the tree's branch, oldest first."""
    head, on = git.head(), git.branch()
    if not head or on == tree.branch:
        return ()
    others = {tree.base, *(at for ref, at in tree.known.items() if ref.startswith("refs/"))}
    for line in git.lines("for-each-ref", "--format=%(objectname) %(refname)", nul=False):
        at, _, ref = line.partition(" ")
        old = ref in tree.known and ref != f"refs/heads/{on}"
        if old or ref.startswith(("refs/heads/hypervisor/", "refs/remotes/")):
            others.add(at)
    asked = "".join(f"^{at}\n" for at in sorted(others))
    found = git.run("rev-list", "--reverse", "--ignore-missing", "--stdin", input=f"{head}\n{asked}")
    return tuple(found.split())


def committed(git: Git, base: str, tip: str, prefix: str) -> Work:
    """Return the commits from *base* to *tip*, and what they do to files."""
    start = git.run("merge-base", base, tip, check=False) or git.run("hash-object", "-t", "tree", "--stdin")
    fields = iter(git.lines("diff", "--raw", "--no-renames", "--ignore-submodules=none", "-z", start, tip))
    kinds: dict[str, list[str]] = {"files": [], "deleted": [], "symlinks": [], "submodules": [], "binary": []}
    for head, top in zip(fields, fields, strict=True):
        old, new, _, _, letter = head.removeprefix(":").split()
        path = from_top(top, prefix)
        kinds["files"].append(path)
        if letter == "D":
            kinds["deleted"].append(path)
        if "120000" in (old, new):
            kinds["symlinks"].append(path)
        if "160000" in (old, new):
            kinds["submodules"].append(path)
    for line in git.lines("diff", "--numstat", "--no-renames", "--no-ext-diff", "-z", start, tip):
        if line.startswith("-\t-\t"):
            kinds["binary"].append(from_top(line[4:], prefix))
    commits = git.lines("rev-list", "--reverse", "--topo-order", f"{base}..{tip}", nul=False)
    return Work(
        commits=tuple(commits),
        files=tuple(kinds["files"]),
        deleted=tuple(kinds["deleted"]),
        binary=tuple(kinds["binary"]),
        symlinks=tuple(kinds["symlinks"]),
        submodules=tuple(kinds["submodules"]),
    )


def ref_changes(
    before: Mapping[str, str], after: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what happened to branches and tags, in words, and the stash entries that were added."""
    words: list[str] = []
    stashes: list[str] = []
    for ref in sorted({*before, *after}):
        old, new = before.get(ref), after.get(ref)
        if old == new or ref.startswith("refs/heads/hypervisor/"):
            continue  # the branches of batches move at all times
        if ref.startswith("stash "):
            if new is not None:
                stashes.append(new)
            else:
                words.append(f"stash entry {ref[6:18]} ({old}) was dropped")
            continue
        kind, name = ("branch", ref[11:]) if ref.startswith("refs/heads/") else ("tag", ref[10:])
        what = "was made" if old is None else "was deleted" if new is None else "was moved"
        words.append(f"{kind} {name} {what}")
    return tuple(words), tuple(stashes)


def commit_files(git: Git, tree: Tree, message: str, entries: Sequence[Entry]) -> str:
    """Commit the files of *entries* as they are, and nothing else that the index may have."""
    gone: list[str] = []
    there: list[str] = []
    top = tree.path.resolve()
    for entry in entries:
        name = top / entry.path
        is_there = os.path.lexists(name) and name.parent.resolve() == name.parent
        (there if is_there else gone).append(f"{entry.path}\0")
    head = git.head()
    remove = ("update-index", "--force-remove", "-z", "--stdin")
    add = ("update-index", "--add", "--remove", "--replace", "-z", "--stdin")
    with tempfile.TemporaryDirectory(dir=git.folder) as spare:
        index = Path(spare) / "index"
        git.with_index(index, "read-tree", head)
        git.with_index(index, *remove, input="".join(gone))
        git.with_index(index, *add, input="".join(there))
        made = git.with_index(index, "write-tree")
    if made == git.run("rev-parse", f"{head}^{{tree}}"):
        return ""
    commit = git.run("commit-tree", made, "-p", head, input=message)
    git.run("update-ref", "-m", "hypervisor: gather", f"refs/heads/{tree.branch}", commit, head)
    git.run(*remove, input="".join(gone))
    git.run(*add, input="".join(there))
    return commit
