"""What set-up commands made in a workspace: noted, and kept as it was when the workspace is used again.

The note is kept in the coordinator's memory, where no agent can change it. What git ignores is not asked for,
as an agent can change that too: what is not in the note is removed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from ..core.files import remove_tree
from .git import Git

#: An entry as it was: its kind and mode, and what changes when the entry does.
Entry = tuple[object, ...]


def note_files(top: Path, tracked: Collection[str]) -> dict[str, Entry]:
    """Return everything below *top* but tracked files and git's own folder, by its path.

    Args:
        top: The top of a checkout.
        tracked: The paths of its tracked files.
    """
    found: dict[str, Entry] = {}
    _note(str(top), "", set(tracked), found)
    return found


def _note(top: str, at: str, tracked: Collection[str], found: dict[str, Entry]) -> bool:
    """Note what is in the folder *at*; return whether that is anything, or the folder is empty."""
    kept, empty = False, True
    with os.scandir(os.path.join(top, at)) as entries:
        for entry in entries:
            empty = False
            path = f"{at}/{entry.name}" if at else entry.name
            if path == ".git" or path in tracked:
                continue
            if entry.is_dir(follow_symlinks=False) and not _note(top, path, tracked, found):
                continue
            found[path] = _entry(entry.path)
            kept = True
    return kept or empty


def _entry(path: str, *, linked: bool | None = None) -> Entry:
    """Return an entry as it is now; a file with several names (*linked*) by its content.

    Another name that is made or removed elsewhere, as package managers do with their caches, changes such a
    file's times. Of any other file the time of its last change cannot be set by a program.
    """
    facts = os.lstat(path)
    if stat.S_ISLNK(facts.st_mode):
        return ("link", os.readlink(path))
    if stat.S_ISDIR(facts.st_mode):
        return ("folder", facts.st_mode)
    if not stat.S_ISREG(facts.st_mode):
        return ("other", facts.st_mode, facts.st_ino, facts.st_ctime_ns)
    if facts.st_nlink > 1 if linked is None else linked:
        with open(path, "rb") as file:
            return ("linked", facts.st_mode, hashlib.file_digest(file, "blake2b").digest())
    return ("file", facts.st_mode, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


def reset_files(top: Path, noted: Mapping[str, Entry]) -> str:
    """Remove everything below *top* that is not *noted*, tracked files and git's own folder among it.

    Returns:
        The first noted path that is not as it was: the folder must not be used again then. "" if all are.
    """
    if top.is_symlink():  # an agent's: it leads elsewhere
        return "."
    changed = _reset(str(top), "", noted)
    if changed:
        return changed
    return next((path for path in noted if not os.path.lexists(top / path)), "")


def _reset(top: str, at: str, noted: Mapping[str, Entry]) -> str:
    with os.scandir(os.path.join(top, at)) as entries:
        for entry in list(entries):
            path = f"{at}/{entry.name}" if at else entry.name
            was, is_folder = noted.get(path), entry.is_dir(follow_symlinks=False)
            if was is None:
                if is_folder:
                    remove_tree(Path(entry.path))
                else:
                    os.unlink(entry.path)
                continue
            try:
                now = _entry(entry.path, linked=was[0] == "linked")
            except OSError:
                return path
            if now != was:
                return path
            if is_folder and (changed := _reset(top, path, noted)):
                return changed
    return ""


def inputs_at(git: Git, commit: str, names: Collection[str]) -> frozenset[str]:
    """Return the files of *commit* with one of these names, each with its content's hash, in git's words."""
    lines = git.lines("ls-tree", "-r", "-z", "--full-tree", commit)
    return frozenset(line for line in lines if line.partition("\t")[2].rpartition("/")[2] in names)
