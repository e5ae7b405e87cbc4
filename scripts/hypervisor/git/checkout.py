"""The user's checkout before and after: who touched it, in words.

One ``git status`` and a look at the files that it names. What is inside a repository nested in the
checkout is not seen, as git does not look there.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .git import from_top, shown
from .repository import Repository

#: Files up to this size are compared by content, larger ones by size and time.
SMALL = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A path that is not as HEAD has it."""

    #: Git's two letters: index and files.
    code: str
    #: What the index has.
    staged: str
    #: Mode of the file, 0 where it is gone.
    mode: int = 0
    size: int = 0
    mtime_ns: int = 0
    #: Hash of the content, "" where the file is large or not a file.
    content: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A checkout at one moment."""

    #: The commit, "" before the first one.
    head: str
    #: None where no branch is checked out.
    branch: str | None
    #: Paths relative to the project root ("../x" outside of it).
    seen: Mapping[str, Seen]

    @classmethod
    def take(cls, repository: Repository, ignore: Callable[[str], bool]) -> Snapshot:
        """Look at the checkout that a project is in; paths that *ignore* names are left out.

        Raises:
            GitError: There is no checkout.
        """
        status = repository.git().status()
        seen = {}
        for entry in status.entries:
            path = from_top(entry.path, repository.prefix)
            if not ignore(path):
                seen[path] = _look(repository.root, path, entry.code, entry.staged)
        return cls(head=status.head, branch=status.branch, seen=seen)


def _look(root: Path, path: str, code: str, staged: str) -> Seen:
    name = os.path.join(root, path.rstrip("/"))
    try:
        found = os.lstat(name)
    except OSError:
        return Seen(code=code, staged=staged)
    content = ""
    try:
        if stat.S_ISLNK(found.st_mode):
            content = os.readlink(name)
        elif stat.S_ISREG(found.st_mode) and found.st_size <= SMALL:
            with open(name, "rb") as file:
                content = hashlib.blake2b(file.read(), digest_size=16).hexdigest()
    except OSError:  # gone, or closed to us: its time and size have to do
        content = ""
    return Seen(
        code=code,
        staged=staged,
        mode=found.st_mode,
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        content=content,
    )


def changed(before: Snapshot, after: Snapshot) -> list[str]:
    """Return what happened between two snapshots, one line each; empty if nothing did."""
    found = []
    if before.branch != after.branch:
        found.append(f"branch changed from {before.branch or 'none'} to {after.branch or 'none'}")
    if before.head != after.head:
        found.append(f"HEAD moved from {before.head[:12] or 'nothing'} to {after.head[:12] or 'nothing'}")
    for path in sorted({*before.seen, *after.seen}):
        old, new = before.seen.get(path), after.seen.get(path)
        what = _words(old, new)
        if what:
            found.append(f"{shown(path)} {what}")
    return found


def _words(old: Seen | None, new: Seen | None) -> str:
    if new is None:
        untracked = old is not None and old.code == "??"
        return "was deleted, committed or ignored" if untracked else "is as HEAD has it again"
    if new.mode == 0 and (old is None or old.mode != 0):
        return "was deleted"
    if old is None:
        if new.code == "??":
            return "was added"
        if new.code[0] == "A":
            return "was added and staged"
        return "was modified" if new.code[0] == "." else "was modified and staged"
    if old.mode == 0 and new.mode != 0:
        return "was put back"
    if _content(old) != _content(new):
        return "was modified"
    if old.mode != new.mode:
        return "had its mode changed"
    if (old.code, old.staged) != (new.code, new.staged):
        return "was staged, or taken back from the index"
    return ""


def _content(seen: Seen) -> tuple[object, ...]:
    kind = stat.S_IFMT(seen.mode)
    return (kind, seen.content) if seen.content else (kind, seen.size, seen.mtime_ns)
