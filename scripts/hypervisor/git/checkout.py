"""The user's checkout and git folder before and after: what changed there, in words.

One ``git status`` and a look at the files that it names, at some that git ignores, and at those of the git
folder that decide what git does. What is inside a repository nested in the checkout is not seen, as git does
not look there.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .git import begun_in, from_top, shown
from .git_folder import GitFolder
from .repository import Repository

#: Files up to this size are compared by content, larger ones by size and time.
SMALL = 1 << 18
#: What counts in the project's root although git may ignore it: secrets, and what makes a client, an editor
#: or this program run or believe something.
_MATTER = re.compile(
    r"\.env(rc|\..+)?|\.mcp\.json|(CLAUDE|GEMINI)\.local\.md|\.hypervisor/config\.toml"
    r"|\.claude/(settings.*\.json|CLAUDE.*\.md|(hooks|commands|agents|skills|rules|plugins)(/.+)?)"
    r"|\.gemini/(settings.*\.json|\.env|GEMINI\.md|(commands|extensions)(/.+)?)"
    r"|\.vscode/(settings|tasks|launch)\.json|\.(husky|githooks)(/.+)?"
)
#: Where those are, and how many are looked at in each.
_MATTER_IN = (".hypervisor", ".claude", ".gemini", ".vscode", ".husky", ".githooks")
_MANY = 500


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
    #: What the git folder has that decides what git does: names for people, each with what stands there.
    git: Mapping[str, str]

    @classmethod
    def take(
        cls, repository: Repository, ignore: Callable[[str], bool], folder: GitFolder | None = None
    ) -> Snapshot:
        """Look at the checkout that a project is in; paths that *ignore* names are left out.

        Args:
            repository: Where it is.
            ignore: Tells the paths that do not count.
            folder: The git folder as it was looked at before, which saves reading it again.

        Raises:
            GitError: There is no checkout.
        """
        folder = folder or GitFolder(repository)
        git = folder.look()
        status = repository.git().status()
        seen = {}
        for entry in status.entries:
            path = from_top(entry.path, repository.prefix)
            if not ignore(path):
                seen[path] = _look(repository.root, path, entry.code, entry.staged)
        for top in folder.hidden():
            if not ignore(path := from_top(top, repository.prefix)):
                seen[path] = _look(repository.root, path, "hidden", "")
        for path in _that_matter(repository.root):
            if path not in seen:
                seen[path] = _look(repository.root, path, "ignored", "")
        if begun := begun_in(repository.common):
            git[f"a {begun} in the checkout"] = begun
        return cls(head=status.head, branch=status.branch, seen=seen, git=git)


def _that_matter(root: Path) -> Iterator[str]:
    """Yield the files that count although git may ignore them."""
    yield from (name for name in sorted(os.listdir(root)) if _MATTER.fullmatch(name))
    for folder in _MATTER_IN:
        left = _MANY
        for at, folders, names in os.walk(root / folder):
            below = os.path.relpath(at, root)
            folders[:] = [one for one in sorted(folders) if _MATTER.fullmatch(f"{below}/{one}")]
            found = [f"{below}/{one}" for one in sorted(names) if _MATTER.fullmatch(f"{below}/{one}")]
            yield from found[:left]
            left -= len(found)
            if left <= 0:
                break


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
    for name in sorted({*before.git, *after.git}):
        was, now = before.git.get(name), after.git.get(name)
        if was != now and (name, now) != (f"refs/heads/{after.branch}", after.head):  # HEAD says it
            done = "was added" if was is None else "was deleted" if now is None else "was changed"
            found.append(f"{shown(name)} {done}")
    return found


def _words(old: Seen | None, new: Seen | None) -> str:
    if new is None:
        untracked = old is not None and old.code in ("??", "ignored")
        return "was deleted, committed or ignored" if untracked else "is as HEAD has it again"
    if new.mode == 0 and (old is None or old.mode != 0):
        return "was deleted"
    if old is None:
        if new.code == "hidden":
            return "is hidden from git status (assume-unchanged or skip-worktree)"
        if new.code in ("??", "ignored"):
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
