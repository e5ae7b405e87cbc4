"""Which batch a command means: the one it names, a folder, the current folder's, or the newest."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..core.errors import UsageError
from ..core.project import find_project
from ..queue.batch import Batch
from ..queue.batches import has_batches, open_folder, open_named


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
    if not options.batch and os.path.isfile("queue.txt"):
        return open_folder(cwd, cwd=cwd, write=write)
    if not options.batch and not has_batches(project):
        raise UsageError(f"{project.root} has no batch; name a folder with --dir")
    return open_named(project, options.batch or "")
