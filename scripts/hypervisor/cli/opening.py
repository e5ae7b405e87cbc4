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
from typing import Any

from ..core.errors import NothingToDo, Unreadable, UsageError
from ..core.model import Priority
from ..core.project import Project, task_key
from ..core.settings import settings_of
from ..queue.batch import Batch
from ..queue.batches import (
    create_of_tasks,
    find_folder,
    has_batches,
    look_at_tasks,
    open_folder,
    open_named,
    store_of,
)
from ..queue.locks import foreign_names
from ..store.directories import LockDirectories


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
            raise UsageError("--stats shows a batch: name it with --dir, or omit --tasks for the newest")
        return _from_tasks(options, project)
    if options.dir:
        queue = options.queue
        new = not os.path.lexists(options.dir)
        if new and not looking and queue and (queue == "-" or os.path.isfile(queue)):
            os.makedirs(options.dir, exist_ok=True)
        if queue == "-":
            _take_in(options)
            queue = None
        return open_folder(
            options.dir,
            cwd=cwd,
            nul=options.nul,
            queue=queue,
            write=not looking,
            claims=claim_settings(options),
        )
    if options.queue:
        raise UsageError("--queue needs --dir D, where claims and results are kept")
    if os.path.isfile("queue.txt"):
        return open_folder(cwd, cwd=cwd, nul=options.nul, write=not looking, claims=claim_settings(options))
    if not has_batches(project):
        raise UsageError(
            f"no queue here: {cwd} has no queue.txt, and {project.root} no batch; name --dir or --tasks"
        )
    return open_named(project, "", claims=claim_settings(options))


def claim_settings(options: Namespace) -> dict[str, Any]:
    """Return the settings of ``[claims]`` that the options take the place of."""
    found: dict[str, Any] = {}
    if options.lease is not None:
        found["lease_seconds"] = options.lease
    if options.retries is not None:
        found["attempts"] = options.retries + 1
    return found


def _take_in(options: Namespace) -> None:
    """Append the items of standard input to the folder's queue."""
    folder = Path(options.dir)
    end = b"\0" if options.nul else b"\n"
    begun = find_folder(str(folder), cwd=str(Path.cwd()))
    if begun is not None:
        with begun:
            if begun.options.separator == "nul" and not options.nul:
                raise UsageError(f"{folder}: this queue was begun with items that end with NUL; add -0")
            if begun.options.separator != "nul" and options.nul:
                raise UsageError(f"{folder}: this queue was begun with items a line each; omit -0")
            own = os.path.realpath(begun.source.path)
            if own != os.path.realpath(folder / "queue.txt"):
                raise UsageError(f"{folder}: this batch was begun with the queue {own}; omit --queue")
    # Unbuffered: what could not be written must not be tried again when the file is closed.
    with open(folder / "queue.txt", "a+b", buffering=0) as queue:
        pending = b""
        while chunk := sys.stdin.buffer.read(1 << 16):
            whole, mark, pending = (pending + chunk).rpartition(end)
            _append(queue, whole + mark, end)
        if pending:
            _append(queue, pending + end, end)
        os.fsync(queue.fileno())
    # For the workers that a pool starts: the items are in the folder now.
    options.queue = None


def _append(queue: FileIO, data: bytes, end: bytes) -> None:
    """Append whole items under the queue's lock, which intake does not wait for: it is held briefly."""
    fcntl.flock(queue, fcntl.LOCK_EX)
    try:
        size = queue.seek(0, os.SEEK_END)
        if size and data and os.pread(queue.fileno(), 1, size - 1) != end:
            _write(queue, end)  # else the last line and the first new one were one item
        _write(queue, data)
    finally:
        fcntl.flock(queue, fcntl.LOCK_UN)


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
        return look_at_tasks(project, run, skipped)
    batch = create_of_tasks(project, run, skipped)
    if claims := claim_settings(options):
        batch.close()
        batch = open_named(project, batch.id, claims=claims)
    # What a pool's workers open, instead of making a batch each.
    options.tasks, options.dir = None, batch.folder
    print(f"batch {batch.id}: {len(run)} tasks" + (f", {told}" if told else ""), file=sys.stderr)
    return batch


def sorted_tasks(options: Namespace, project: Project) -> tuple[list[str], list[tuple[str, str]]]:
    """Return what is to run, the most urgent first, and what is skipped and why."""
    from ..tasks.discovery import find_task_files  # noqa: PLC0415
    from ..tasks.eligibility import lock_name, skip_reason  # noqa: PLC0415 - the YAML loader
    from ..tasks.files import read_task  # noqa: PLC0415 - the YAML loader

    settings = dict(settings_of(project.state))
    settings["tasks"] = {**settings["tasks"], "globs": [options.tasks]}
    run: list[tuple[int, str]] = []
    skipped = []
    with store_of(project) as store:
        locks = foreign_names([LockDirectories(str(project.state))], store)
        for path in find_task_files(project.root, settings):
            item, rank, why = os.path.relpath(path, project.root), Priority.MEDIUM.rank, None
            # A file that cannot be read is a result with its reason, so it runs.
            with contextlib.suppress(Unreadable):
                task = read_task(path, settings)
                key = task_key(project.root, path)
                held = store.claims.held(key) if store is not None else None
                rank, why = task.priority.rank, skip_reason(task, held.worker.name if held else "")
                if why is None and lock_name(task, key) in locks:
                    why = "held by a lock directory"
            if why:
                skipped.append((item, why))
            else:
                run.append((rank, item))
    return [item for _, item in sorted(run, key=lambda pair: pair[0])], skipped
