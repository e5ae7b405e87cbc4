"""Whose words a file has: those that came with the repository, and those that its user wrote here.

A text came with the repository if the commit that is checked out has it, and no commit that was made in this
clone put it there: the reflog, which is never cloned, names those. A repository that knows no branch of a
remote was made here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from stat import S_ISREG

from .git import Git, GitError

#: How the reflog names a commit that the user typed. A merge, a rebase or a cherry-pick brings others' words.
_MADE_HERE = ("commit:", "commit (initial):", "commit (amend):")

#: Gets a file's place and its content; returns its texts, None where it cannot be read.
TextsIn = Callable[[Path, bytes], frozenset[str] | None]


def brought(
    root: Path, wanted: Mapping[Path, frozenset[str]], texts_in: TextsIn
) -> dict[Path, frozenset[str]]:
    """Return which of the texts of files came with the repository.

    Args:
        root: A folder in its checkout.
        wanted: The files, each with the texts that are asked for.
        texts_in: Reads the texts of an earlier content of a file.

    Raises:
        GitError: Git failed, as it does where the repository belongs to another user.
    """
    git = Git(root)
    try:
        known = git.run("for-each-ref", "--count=1", "--format=x", "refs/remotes")
    except GitError as error:
        if "not a git repository" in str(error):
            return {}
        raise
    if not known or not git.head():
        return {}
    top = os.path.realpath(git.top_level)
    found: dict[Path, frozenset[str]] = {}
    below: dict[str, Path] = {}
    for path in wanted:
        name = os.path.relpath(os.path.realpath(path), top)
        if name.startswith(f"..{os.sep}"):
            continue  # not of the repository
        if _is_nested(top, name):
            found[path] = wanted[path]
        else:
            below[name] = path
    blobs = _blobs(git, below)
    committed = _contents(git, blobs.values())
    doubtful = {}
    for name, path in below.items():
        if (content := committed.get(blobs.get(name, ""))) is not None:
            texts = wanted[path] if _holds(path, content) else texts_in(path, content)
            if of_others := wanted[path] if texts is None else wanted[path] & texts:
                doubtful[name] = of_others
    if doubtful:
        own = _written_here(git, doubtful, lambda name, content: texts_in(below[name], content))
        found |= {below[name]: texts - own.get(name, frozenset()) for name, texts in doubtful.items()}
    return {path: texts for path, texts in found.items() if texts}


def _holds(path: Path, content: bytes) -> bool:
    """Tell whether a file has this very content, which then need not be parsed."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return S_ISREG(found.st_mode) and found.st_size == len(content) and path.read_bytes() == content
    return False


def _is_nested(top: str, name: str) -> bool:
    """Tell whether a file lies in a repository within this one, such as a submodule."""
    folders = name.split(os.sep)[:-1]
    return any(os.path.lexists(os.path.join(top, *folders[: at + 1], ".git")) for at in range(len(folders)))


def _blobs(git: Git, names: Mapping[str, Path]) -> dict[str, str]:
    """Return the objects of those files that the commit has. One by one would take git a folder each."""
    found = {}
    for line in git.run("ls-tree", "-r", "-z", "--full-tree", "HEAD").split("\0"):
        head, _, name = line.partition("\t")
        if name in names:
            found[name] = head.split()[2]
    return found


def _written_here(
    git: Git, names: Iterable[str], texts_in: Callable[[str, bytes], frozenset[str] | None]
) -> dict[str, frozenset[str]]:
    """Return the texts of files that commits made in this clone have added."""
    changes = _own_changes(git, frozenset(names))
    contents = _contents(git, [blob for _, *blobs in changes for blob in blobs])
    found: dict[str, frozenset[str]] = {}
    for name, *blobs in changes:
        before, after = (
            texts_in(name, contents[blob]) if blob in contents else frozenset[str]() for blob in blobs
        )
        if before is not None and after is not None:
            found[name] = found.get(name, frozenset()) | (after - before)
    return found


def _own_changes(git: Git, names: frozenset[str]) -> list[tuple[str, str, str]]:
    """Return what commits made here changed of *names*: name, object before, object after."""
    reflog = git.run("log", "-g", "--no-show-signature", "--format=%H %gs", "HEAD", check=False).splitlines()
    own = dict.fromkeys(
        line.partition(" ")[0] for line in reflog if line.partition(" ")[2].startswith(_MADE_HERE)
    )
    words = (
        "diff-tree",
        "--stdin",
        "--root",
        "-r",
        "-z",
        "--raw",
        "--no-abbrev",
        "--no-renames",
        "--no-ext-diff",
    )
    pieces = iter(git.run(*words, check=False, input="".join(f"{one}\n" for one in own)).split("\0"))
    found = []
    for piece in pieces:
        if piece.startswith(":"):  # ":100644 100644 BEFORE AFTER M", then the name; else a commit's id
            _, _, before, after, _ = piece.split(" ")
            if (name := next(pieces, "")) in names:
                found.append((name, before, after))
    return found


def _contents(git: Git, blobs: Iterable[str]) -> dict[str, bytes]:
    """Return the contents of objects, those that there are."""
    asked = list(dict.fromkeys(blobs))
    if not asked:
        return {}
    data = os.fsencode(git.run("cat-file", "--batch", input="".join(f"{one}\n" for one in asked)) + "\n")
    found, at = {}, 0
    for blob in asked:
        end = data.index(b"\n", at)
        head, at = data[at:end].split(b" "), end + 1
        if len(head) == 3:  # id, type, size; what is missing has two words
            size = int(head[2])
            if head[1] == b"blob":
                found[blob] = data[at : at + size]
            at += size + 1
    return found
