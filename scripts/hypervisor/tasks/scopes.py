"""Do the `files` of two tasks overlap? Pure: paths and globs in, an answer out.

In doubt they overlap. A path without a glob means the file, or the folder with all below it. A name
that ends like a file's (``*.py``, ``README.md``) is taken for a file's where it meets a glob. A task
without `files` says nothing, and is assumed to overlap nothing: work that turns out to conflict is
kept as a branch.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

_WILD = re.compile(r"[*?\[{\\]")
_ANY = "**"
#: How a file's name ends; ``conf.d`` and the like are folders.
_FILE = re.compile(r"[^/]\.(?!d$)[A-Za-z][A-Za-z0-9]{0,4}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scope:
    """One entry of `files`, taken apart."""

    #: The names up to the first glob.
    prefix: tuple[str, ...]
    #: The names from the first glob on; ``**`` for any number of folders.
    rest: tuple[str, ...]
    #: Whether it can only mean a file.
    file: bool

    @property
    def names(self) -> tuple[str, ...]:
        return self.prefix + self.rest


def overlap(a: Sequence[str], b: Sequence[str]) -> str | None:
    """Return in words where two tasks' `files` overlap, None if they are apart."""
    theirs = [(text, _scope(text)) for text in b if text.strip()]
    for mine in a:
        if not mine.strip():
            continue
        for other, scope in theirs:
            if _meet(_scope(mine), scope):
                return mine if mine == other else f"{mine} and {other}"
    return None


def literal(text: str) -> tuple[str, ...] | None:
    """Return the names of a path that holds no glob and leads nowhere else; None for any other."""
    scope = _scope(text)
    return None if scope.rest or not scope.prefix else scope.prefix


@lru_cache(maxsize=8192)
def _scope(text: str) -> _Scope:
    names: list[str] = []
    text = unicodedata.normalize("NFC", text.strip())
    # An absolute path, or one that leaves the root, may mean anything below the root.
    parts = [_ANY] if text.startswith(("/", "~")) else text.split("/")
    for part in parts:
        if part == "..":
            if not names or names[-1] == _ANY:
                names.append(_ANY)
                break
            names.pop()
        elif part not in ("", "."):
            names.append(_plain(part))
            if "{" in part and names[-1] == _ANY:  # a choice that may contain folders
                break
    first = next((at for at, name in enumerate(names) if _WILD.search(name)), len(names))
    last = names[-1] if names else ""
    a_file = not text.endswith("/") and bool(_FILE.search(last)) and last == parts[-1]
    return _Scope(prefix=tuple(names[:first]), rest=tuple(names[first:]), file=a_file)


def _plain(name: str) -> str:
    """Return a name as it is, or ``**`` where what it means cannot be told from its two ends."""
    odd = "\\" in name or name.count("{") != name.count("}") or name.count("[") != name.count("]")
    return _ANY if _ANY in name or odd else name


def _meet(a: _Scope, b: _Scope) -> bool:
    """Tell whether a path could be meant by both."""
    short = min(len(a.prefix), len(b.prefix))
    if a.prefix[:short] != b.prefix[:short]:
        return False
    if not a.rest and not b.rest:
        return True  # one is the other, or a folder above it
    mine, theirs = a.names, b.names
    # States (how much of each is used up), walked without recursion; each at most once.
    todo, seen = [(short, short)], set()
    while todo:
        i, j = state = todo.pop()
        if state in seen:
            continue
        seen.add(state)
        if i == len(mine) or j == len(theirs):
            over, left = (a, theirs[j:]) if i == len(mine) else (b, mine[i:])
            if not over.file or all(name == _ANY for name in left):
                return True
        elif mine[i] == _ANY or theirs[j] == _ANY:
            todo += [(i + 1, j), (i, j + 1)]
        elif _alike(mine[i], theirs[j]):
            todo.append((i + 1, j + 1))
    return False


def _alike(a: str, b: str) -> bool:
    """Tell whether two names, globs or not, could mean the same; only their literal ends are compared."""
    a_head, a_tail, a_wild = _ends(a)
    b_head, b_tail, b_wild = _ends(b)
    if not a_wild and not b_wild:
        return a == b
    if not b_wild:
        return len(b) >= len(a_head) + len(a_tail) and b.startswith(a_head) and b.endswith(a_tail)
    if not a_wild:
        return _alike(b, a)
    heads = a_head.startswith(b_head) or b_head.startswith(a_head)
    return heads and (a_tail.endswith(b_tail) or b_tail.endswith(a_tail))


@lru_cache(maxsize=8192)
def _ends(name: str) -> tuple[str, str, bool]:
    first = _WILD.search(name)
    if first is None:
        return name, name, False
    return name[: first.start()], re.split(r"[*?\]}]", name)[-1], True


@dataclass(slots=True)
class _Node:
    """A folder on the way to running tasks' scopes."""

    #: What is below, by name.
    below: dict[str, _Node] = field(default_factory=dict)
    #: Which tasks have a scope whose literal part ends here.
    here: dict[tuple[str, str], _Scope] = field(default_factory=dict)

    def all(self) -> Iterator[tuple[str, _Scope]]:
        """Give everything here and below."""
        todo = [self]
        while todo:
            node = todo.pop()
            yield from ((task, scope) for (task, _), scope in node.here.items())
            todo.extend(node.below.values())


class Scopes:
    """The scopes of what runs: a tree of folders, so that only what is on the way is compared."""

    def __init__(self) -> None:
        self._root = _Node()
        self._files: dict[str, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self._files)

    def conflict(self, files: Sequence[str]) -> str | None:
        """Return the running task that *files* conflict with, None if there is none."""
        for text in files:
            if not text.strip():
                continue
            wanted = _scope(text)
            for task, scope in self._near(wanted):
                if _meet(wanted, scope):
                    return task
        return None

    def _near(self, wanted: _Scope) -> Iterator[tuple[str, _Scope]]:
        node = self._root
        for name in wanted.prefix:
            yield from ((task, scope) for (task, _), scope in node.here.items())
            if name not in node.below:
                return
            node = node.below[name]
        yield from node.all()

    def add(self, task: str, files: Sequence[str]) -> None:
        """Note that *task* runs, with these files."""
        self.remove(task)
        self._files[task] = tuple(text for text in files if text.strip())
        for text in self._files[task]:
            node, scope = self._root, _scope(text)
            for name in scope.prefix:
                node = node.below.setdefault(name, _Node())
            node.here[task, text] = scope

    def remove(self, task: str) -> None:
        """Note that *task* runs no more."""
        for text in self._files.pop(task, ()):
            way, node = [], self._root
            scope = _scope(text)
            for name in scope.prefix:
                if name not in node.below:
                    break
                way.append((node, name))
                node = node.below[name]
            else:
                node.here.pop((task, text), None)
            for above, name in reversed(way):
                if above.below[name].here or above.below[name].below:
                    break
                del above.below[name]
