"""Which batch a command means: the one it names, a folder, the current folder's, or the newest."""

from __future__ import annotations

import os
import shlex
from argparse import ArgumentParser, Namespace
from itertools import islice
from pathlib import Path

from ..core.errors import UsageError
from ..core.project import Project, find_project
from ..queue.batch import Batch
from ..queue.batches import has_batches, open_folder, open_named, store_of
from ..store.sqlite import FILE

#: Folders that are named where a batch was not found.
_NEAR = 5


def names_batch(command: ArgumentParser) -> None:
    """Let *command* name a batch."""
    command.add_argument("batch", nargs="?", metavar="BATCH", help="batch id (default: the newest)")
    command.add_argument("--dir", metavar="D", help="folder of a batch")


def batch_of(options: Namespace, *, write: bool = False) -> Batch:
    """Return the batch that a command names, or means.

    Args:
        options: Of a command that `names_batch`.
        write: Whether to begin a queue that nobody has begun; without it, it is only looked at.

    Raises:
        UsageError: There is none.
    """
    cwd = str(Path.cwd())
    project = find_project(Path.cwd(), os.environ)
    if options.dir and options.batch:
        raise UsageError(f"{options.batch} and --dir {options.dir} name two batches; omit one")
    if options.dir:
        return open_folder(options.dir, cwd=cwd, write=write)
    if options.batch and _holds_queue(options.batch) and not _is_of(project, options.batch):
        return open_folder(options.batch, cwd=cwd, write=write)  # of a queue that keeps its own store
    if not options.batch and os.path.isfile("queue.txt"):
        return open_folder(cwd, cwd=cwd, write=write)
    if not options.batch and not has_batches(project):
        near = "; ".join(f"{options.typed} --dir {shlex.quote(name)}" for name in folders_here())
        then = f"try: {near}" if near else "name a folder with --dir"
        raise UsageError(f"{project.root} has no batch; {then}")
    return open_named(project, options.batch or "")


def _is_of(project: Project, name: str) -> bool:
    with store_of(project) as store:
        return store is not None and store.batches.find(name) is not None


def _holds_queue(folder: str) -> bool:
    return any(os.path.isfile(os.path.join(folder, mark)) for mark in ("queue.txt", FILE))


def folders_here() -> list[str]:
    """Return the names of the current folder's folders that hold a queue, at most five of them."""
    try:
        names = sorted(name for name in os.listdir() if not name.startswith("."))
    except OSError:
        return []
    return list(islice(filter(_holds_queue, names), _NEAR))
