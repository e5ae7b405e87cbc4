"""Where the task files of a project are. Reads folders, no file."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.files import matches_any

#: Folders that hold no tasks of a project: state, history, other checkouts, other people's code.
PASSED_OVER = frozenset({".hypervisor", ".git", ".claude", "node_modules", ".venv", "__pycache__"})
#: What is wrong with such a file is told where it is read.
_SHOWN_WHEN_READ = (errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG, errno.ENOTDIR)


#: What tells without reading a file whether it is as it was: modification time (ns), size, and whether
#: a watch of its folder sees every change of it: it is no link, and has no other name.
Stamp = tuple[int, int, bool]


def find_task_files(root: Path, settings: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the task files below *root*, as `task_paths` finds them."""
    yield from map(Path, task_paths(root, settings))


def task_paths(root: Path, settings: Mapping[str, Any]) -> list[str]:
    """Return the task files below *root* that the globs of the settings mean, sorted.

    Links to folders are not followed: what they lead to is another project's, or a loop.
    """
    globs = list(settings["tasks"]["globs"])
    start = len(os.path.join(root, ""))
    found = {
        path
        for folder in fixed_parts(globs)
        for path in _walk(os.path.join(root, folder))
        if matches_any(path[start:], globs)
    }
    return sorted(found)


def stamps(folder: str) -> Iterator[tuple[str, list[tuple[str, Stamp]]]]:
    """Yield the folders at and below *folder* (absolute) that may hold tasks, with the stamps of their files.

    Raises:
        OSError: A folder, or a file, cannot be looked at.
    """
    left = [folder]
    while left:
        here = left.pop()
        found: list[tuple[str, Stamp]] = []
        try:
            descriptor = os.open(here, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            # By its descriptor: else each look at a file goes through all the folders above it.
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if entry.name not in PASSED_OVER:
                            left.append(os.path.join(here, entry.name))
                    elif stamp := _stamp(entry):
                        found.append((entry.name, stamp))
        finally:
            os.close(descriptor)
        yield here, found


def _stamp(entry: os.DirEntry[str]) -> Stamp | None:
    try:
        found = entry.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in _SHOWN_WHEN_READ:
            raise
        found = entry.stat(follow_symlinks=False)
    return found.st_mtime_ns, found.st_size, found.st_nlink == 1 and not entry.is_symlink()


def folders(folder: str) -> Iterator[str]:
    """Yield the folders at and below *folder* (absolute) that may hold tasks.

    Each is yielded before it is looked into: whoever watches it by then hears of what comes after.
    """
    left = [folder]
    while left:
        here = left.pop()
        yield here
        try:
            with os.scandir(here) as entries:
                left += [
                    entry.path
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False) and entry.name not in PASSED_OVER
                ]
        except (FileNotFoundError, NotADirectoryError):
            continue


def stamp_of(path: str) -> Stamp | None:
    """Return the stamp of one file, None if there is none, or a folder."""
    try:
        found = os.lstat(path)
        link = stat.S_ISLNK(found.st_mode)
        if link:
            with contextlib.suppress(OSError):
                found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISDIR(found.st_mode):
        return None
    return found.st_mtime_ns, found.st_size, found.st_nlink == 1 and not link


def fixed_parts(globs: list[str]) -> list[str]:
    """Return the folders of *globs* before their first wildcards: where it is worth looking.

    Sorted, relative to the root; one that is looked through with another of them is left out.
    """
    found: list[str] = []
    for folder in sorted({_fixed_part(glob) for glob in globs}):
        if not any(_with(above, folder) for above in found):
            found.append(folder)
    return found


def _with(above: str, folder: str) -> bool:
    below = folder.removeprefix(f"{above}/" if above else "")
    return folder == above or ((not above or below != folder) and PASSED_OVER.isdisjoint(below.split("/")))


def _fixed_part(glob: str) -> str:
    parts = []
    for part in glob.split("/")[:-1]:
        if any(mark in part for mark in "*?["):
            break
        parts.append(part)
    return "/".join(parts)


def _walk(folder: str) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in PASSED_OVER:
                yield from _walk(entry.path)
        else:
            yield entry.path
