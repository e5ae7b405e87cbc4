"""Files left by crashed processes: drafts that took no name, trial folders, locks of dead workers."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..store.liveness import lock_state

#: What `durable` calls a file that is to take a name: random, so that nobody else's is meant.
_DRAFT = re.compile(r"\..+\.[0-9a-f]{16}(?:\.tmp)?", re.DOTALL)
#: The same beside the user's own files, where only whole files are replaced.
_DRAFT_OF_TASK = re.compile(r"\..+\.md\.[0-9a-f]{16}\.tmp", re.DOTALL)
#: Where `hypervisor doctor` tries what file systems promise.
TRIAL = ".doctor-"
#: A draft lives for as long as it takes to write it; a machine that sleeps makes that longer.
_DRAFT_SECONDS = 3600.0
#: Folders of the state folder in which files are written with drafts.
_WRITTEN = (
    *("results", "batches/*", "batches/*/results", "batches/*/reports", "batches/*/chunks"),
    *("batches/*/waves", "worktrees/*/.trees"),
)


def find(state: Path, task_folders: Iterable[str]) -> list[Path]:
    """Return what nobody alive has written to for long: drafts, trial folders, locks of dead workers.

    Args:
        state: The project's state folder.
        task_folders: Folders that hold task files.
    """
    now = time.time()
    folders = [state, *(folder for place in _WRITTEN for folder in sorted(state.glob(place)))]
    found = [path for folder in folders for path in _drafts(folder)]
    found += [path for folder in sorted(set(task_folders)) for path in _drafts_of_tasks(Path(folder))]
    found += _dead_workers(state / "workers")
    return [path for path in found if now - _written(path) > _DRAFT_SECONDS]


def remove(path: Path) -> None:
    """Remove a draft or a folder; one that has gone meanwhile is as good.

    Raises:
        OSError: It cannot be removed.
    """
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _drafts(folder: Path) -> Iterator[Path]:
    for name in _names(folder):
        path = folder / name
        ours = path.is_dir() if name.startswith(TRIAL) else _DRAFT.fullmatch(name) and path.is_file()
        if ours and not path.is_symlink():
            yield path


def _drafts_of_tasks(folder: Path) -> Iterator[Path]:
    for name in _names(folder):
        path = folder / name
        if _DRAFT_OF_TASK.fullmatch(name) and path.is_file() and not path.is_symlink():
            yield path


def _dead_workers(folder: Path) -> Iterator[Path]:
    for name in _names(folder):
        if name.endswith(".lock") and lock_state(str(folder), name.removesuffix(".lock")) == "free":
            yield folder / name


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _written(path: Path) -> float:
    """Return when *path* was last written to; now, if that cannot be seen."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return time.time()
