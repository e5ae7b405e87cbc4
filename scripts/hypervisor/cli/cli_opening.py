"""Which batch a `batch_worker.py` command means: a folder, the task files of a glob, the newest."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from argparse import Namespace
from collections import Counter
from io import FileIO
from pathlib import Path

from ..claims.directory import DirectoryStore, Policy
from ..core.config import settings_of
from ..core.errors import NothingToDo, Unreadable, UsageError
from ..core.model import Priority
from ..core.paths import Project
from ..lives import next_life, task_key
from ..manifest import task_manifest
from ..queue.batch import Batch
from ..queue.batches import create_of_tasks, newest, open_folder
from ..tasks.preflight import skip_reason


def open_batch(options: Namespace, project: Project) -> Batch:
    """Return the batch that the options of `batch_worker.py` name or make.

    Raises:
        UsageError: There is none, or the words do not fit it.
        NothingToDo: No task file is left to run.
    """
    cwd = str(Path.cwd())
    looking = options.stats or options.dry_run
    if options.tasks:
        if options.stats:
            raise UsageError(
                "--stats shows a batch: name it with --dir, or leave --tasks away for the newest"
            )
        return _from_tasks(options, project)
    if options.dir:
        queue = options.queue
        if queue == "-":
            _take_in(options)
            queue = None
        return open_folder(options.dir, cwd=cwd, nul=options.nul, queue=queue, write=not looking)
    if options.queue:
        raise UsageError("--queue needs --dir D, where claims and results are kept")
    if os.path.isfile("queue.txt"):
        return open_folder(cwd, cwd=cwd, nul=options.nul, write=not looking)
    folder = newest(project)
    if folder is None:
        raise UsageError(
            f"no queue here: {cwd} has no queue.txt, and {project.root} no batch; name --dir or --tasks"
        )
    return open_folder(str(folder), cwd=cwd, project=project, write=not looking)


def _take_in(options: Namespace) -> None:
    """Append the items of standard input to the folder's queue."""
    folder = Path(options.dir)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; make it first")
    end = b"\0" if options.nul else b"\n"
    if (folder / "manifest.json").exists():
        begun = open_folder(
            options.dir, cwd=str(Path.cwd()), nul=options.nul, queue=str(folder / "queue.txt"), write=False
        )
        if begun.manifest.separator == "nul" and not options.nul:
            raise UsageError(f"{folder}: this queue was begun with items that end with NUL; add -0")
    # Unbuffered: what could not be written must not be tried again when the file is closed.
    with open(folder / "queue.txt", "a+b", buffering=0) as queue:
        fcntl.flock(queue, fcntl.LOCK_EX)  # else half of ours could not be told from another's items
        size = queue.seek(0, os.SEEK_END)
        if size and os.pread(queue.fileno(), 1, size - 1) != end:
            _write(queue, end)  # else the last line and the first new one were one item
        pending = b""
        while chunk := sys.stdin.buffer.read(1 << 16):
            whole, mark, pending = (pending + chunk).rpartition(end)
            _write(queue, whole + mark)
        if pending:
            _write(queue, pending + end)
        os.fsync(queue.fileno())
    # For the workers that a crew starts: the items are in the folder now.
    options.queue = None


def _write(queue: FileIO, data: bytes) -> None:
    """Append whole items, or nothing: half of one may be the path of something else."""
    start, done = os.fstat(queue.fileno()).st_size, 0
    try:
        while done < len(data):
            done += queue.write(data[done:])
    except OSError:
        if os.fstat(queue.fileno()).st_size == start + done:  # nobody else has written behind it
            queue.truncate(start)
        raise


def _from_tasks(options: Namespace, project: Project) -> Batch:
    """Make a batch of the task files that the glob means; say at once what is left out, and why."""
    run, skipped = sorted_tasks(options, project)
    told = ", ".join(
        f"{number} skipped ({why})" for why, number in Counter(why for _, why in skipped).items()
    )
    if not run:
        raise NothingToDo(
            f"nothing to do: {told}" if told else f"{project.root}: no file matches {options.tasks!r}"
        )
    if options.dry_run:
        return Batch("", task_manifest(project, skipped), project)
    batch = create_of_tasks(project, run, skipped)
    # What a crew's workers open, instead of making a batch each.
    options.tasks, options.dir = None, batch.folder
    print(f"batch {batch.id}: {len(run)} tasks" + (f", {told}" if told else ""), file=sys.stderr)
    return batch


def sorted_tasks(options: Namespace, project: Project) -> tuple[list[str], list[tuple[str, str]]]:
    """Return what is to run, the most urgent first, and what is skipped and why."""
    from ..tasks.tasks import find_task_files, read_task  # noqa: PLC0415 - the YAML loader

    settings = dict(settings_of(project.state))
    settings["tasks"] = {**settings["tasks"], "globs": [options.tasks]}
    store = DirectoryStore(str(project.state), policy=Policy(patient=False))
    run: list[tuple[int, str]] = []
    skipped = []
    for path in find_task_files(project.root, settings):
        item, rank, why = os.path.relpath(path, project.root), Priority.MEDIUM.rank, None
        # A file that cannot be read is a result with its reason, so it runs.
        with contextlib.suppress(Unreadable):
            task = read_task(path, settings)
            held = store.held(next_life(store.layout, task_key(project, os.path.realpath(path))))
            rank, why = task.priority.rank, skip_reason(task, held.holder.name if held else "")
        if why:
            skipped.append((item, why))
        else:
            run.append((rank, item))
    return [item for _, item in sorted(run, key=lambda pair: pair[0])], skipped
