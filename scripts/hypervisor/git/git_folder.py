"""The user's git folder: what stands there that decides what git does, read without git.

Refs, settings, hooks, excludes and attributes, and the flags in the index that hide a file from ``git
status``. A file is read again only when it has changed on disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..core.files import file_stamp
from .repository import Repository

#: Files that are compared, and folders of which all files are.
_FILES = ("config", "config.worktree", "shallow", "objects/info/alternates", "objects/info/http-alternates")
_FOLDERS = ("hooks", "info")
#: Refs that are not compared: branches of attempts, what was fetched of them, and what is only a note of a
#: remote, which any fetch of an editor moves. What was merged, the store tells and none of these.
_UNCOMPARED = re.compile(r"refs/(?:remotes/|(?:heads/)?hypervisor/)")
_MERGES = re.compile(r"refs/heads/hypervisor/.*/merge")
#: Larger files are compared by their size and times.
_LARGE = 1 << 20
#: Bits of an entry of the index: the flags of every entry, and those of an extended one.
_ASSUME_UNCHANGED, _EXTENDED, _NAME_LENGTH, _SKIP_WORKTREE = 0x8000, 0x4000, 0x0FFF, 0x4000
#: Bytes of an entry before its flags, without the object's hash: times, device, inode, mode, owner, size.
_STAT_BYTES = 40


@dataclass(slots=True)
class GitFolder:
    """The git folder of a repository, and what was read of it last."""

    repository: Repository
    #: Each file that was read: its stamp, and what was found.
    _known: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    _packed: tuple[tuple[int, ...], dict[str, str]] = ((), {})
    _index: tuple[tuple[int, ...], tuple[str, ...]] = ((), ())

    def look(self) -> dict[str, str]:
        """Return names for people, each with what stands there: ``.git/config``, ``refs/tags/v1`` ..."""
        common = str(self.repository.common)
        found: dict[str, str] = {}
        for name in (*_FILES, *self._below(_FOLDERS)):
            if (what := self._content(f"{common}/{name}")) and not name.endswith(".sample"):
                found[f".git/{name}"] = what
        for path in self.repository.config_files:
            if not path.startswith(f"{common}/") and (what := self._content(path)):
                found[path] = what
        for path in self._modules():
            if what := self._content(f"{common}/{path}"):
                found[f".git/{path}"] = what
        found |= {ref: at for ref, at in self._refs().items() if _counts(ref)}
        found |= {f".git/worktrees/{name}": "" for name in self._worktrees()}
        return found

    def hidden(self) -> tuple[str, ...]:
        """Return the paths (from the top) whose entries in the index hide changes of their files."""
        path = str(self.repository.common / "index")
        stamp = file_stamp(path)
        if stamp != self._index[0]:
            hash_bytes = 20 if self.repository.object_format == "sha1" else 32
            names: tuple[str, ...] = ()
            with contextlib.suppress(ValueError, IndexError):  # cut short: git itself will say so
                names = tuple(_hidden(_bytes(path, 1 << 31), hash_bytes))
            self._index = stamp, names
        return self._index[1]

    # ---------------------------------------------------------------- details

    def _below(self, folders: tuple[str, ...]) -> Iterator[str]:
        for folder in folders:
            where = self.repository.common / folder
            if where.is_symlink():
                yield folder
            elif where.is_dir():
                yield from (f"{folder}/{name}" for name in sorted(os.listdir(where)))

    def _modules(self) -> Iterator[str]:
        """Yield what counts of the git folders of submodules."""
        modules = self.repository.common / "modules"
        for at, folders, names in os.walk(modules) if modules.is_dir() else ():
            below = os.path.relpath(at, self.repository.common)
            if "HEAD" in names:
                yield f"{below}/config"
                yield from (f"{below}/{name}" for name in self._below((f"{below}/hooks",)))
                folders[:] = [one for one in folders if one == "modules"]

    def _worktrees(self) -> Iterator[str]:
        """Yield the worktrees of the repository, but for those of a coordinator."""
        entries = self.repository.common / "worktrees"
        for name in sorted(os.listdir(entries)) if entries.is_dir() else ():
            where = _bytes(str(entries / name / "gitdir"), 4096).decode("utf-8", "replace")
            # One that names no place is being made by git, or is nothing to it.
            if where and "/.hypervisor/worktrees/" not in where:
                yield name

    def _content(self, path: str) -> str:
        """Return what stands at *path*, shortened; "" where nothing does."""
        stamp = file_stamp(path)
        if not stamp:
            return ""
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            known = self._known[path] = stamp, _digest(path, stamp)
        return known[1]

    def _refs(self) -> dict[str, str]:
        """Return every ref with what it says."""
        common = str(self.repository.common)
        stamp = file_stamp(f"{common}/packed-refs")
        if stamp != self._packed[0]:
            packed = {}
            for line in os.fsdecode(_bytes(f"{common}/packed-refs", 1 << 28)).splitlines():
                at, _, ref = line.partition(" ")
                if ref and not at.startswith(("#", "^")):
                    packed[ref] = at
            self._packed = stamp, packed
        found = dict(self._packed[1])
        for at, folders, names in os.walk(f"{common}/refs"):
            below = os.path.relpath(at, common)
            linked = [name for name in folders if os.path.islink(f"{at}/{name}")]
            for name in (*names, *linked):
                if not name.endswith(".lock"):
                    full = f"{at}/{name}"
                    text = f"link to {os.readlink(full)}" if os.path.islink(full) else _text(full)
                    if text:
                        found[f"{below}/{name}"] = text
        return found


def _counts(ref: str) -> bool:
    return not _UNCOMPARED.match(ref) or is_merge_branch(ref)


def is_merge_branch(name: str) -> bool:
    """Tell whether a name of `GitFolder.look` is the branch that a batch merges into."""
    return _MERGES.fullmatch(name) is not None


def _digest(path: str, stamp: tuple[int, ...]) -> str:
    _, mode, size, mtime, ctime = stamp
    kind = f"{mode:o}"
    if stat.S_ISLNK(mode):
        return f"{kind} {os.readlink(path)}"
    if not stat.S_ISREG(mode) or size > _LARGE:
        return f"{kind} {size} {mtime} {ctime}" if stat.S_ISREG(mode) else kind
    return f"{kind} {hashlib.blake2b(_bytes(path, _LARGE), digest_size=16).hexdigest()}"


def _bytes(path: str, most: int) -> bytes:
    """Return the beginning of a regular file; b"" where there is none that can be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b""
    with open(descriptor, "rb") as file:
        return file.read(most) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""


def _text(path: str) -> str:
    return _bytes(path, 4096).decode("utf-8", "replace").strip()


def _hidden(data: bytes, hash_bytes: int) -> Iterator[str]:
    """Yield the names of hidden entries of an index (git's Documentation/gitformat-index)."""
    if data[:4] != b"DIRC":
        return
    version, count = (int.from_bytes(data[at : at + 4], "big") for at in (4, 8))
    at, name = 12, b""
    head = _STAT_BYTES + hash_bytes
    for _ in range(count):
        flags = int.from_bytes(data[at + head : at + head + 2], "big")
        start, more = at + head + 2, 0
        if flags & _EXTENDED:
            more = int.from_bytes(data[start : start + 2], "big")
            start += 2
        if version == 4:  # a name is told by what it differs in from the one before
            cut, start = _number(data, start)
            end = data.index(b"\0", start)
            name = name[: len(name) - cut] + data[start:end]
            at = end + 1
        else:
            length = flags & _NAME_LENGTH
            end = start + length if length < _NAME_LENGTH else data.index(b"\0", start)
            name = data[start:end]
            at += (end - at + 8) // 8 * 8
        if flags & _ASSUME_UNCHANGED or more & _SKIP_WORKTREE:
            yield os.fsdecode(name)


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of variable length, and where the next byte is."""
    value = data[at] & 0x7F
    while data[at] & 0x80:
        at += 1
        value = ((value + 1) << 7) | (data[at] & 0x7F)
    return value, at + 1
