"""What a batch and its items are called by people, and which checkpoints wait for them. Reads only."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core import printable
from ..core.config import settings_of
from ..core.errors import HypervisorError
from ..queue.batch import Batch
from ..review.chunked import ChunkedBatch
from ..review.review import where_it_stands
from ..tasks.tasklist import Caller, TaskList
from .needs import Need

#: What can go wrong with a help that is no more than that: it is left out then.
_FAULTS = (OSError, ValueError, HypervisorError)


def titles_of(batch: Batch) -> dict[str, tuple[str, str]]:
    """Return id and title of the tasks, or of the chunks, of a batch, by the paths of their places."""
    with contextlib.suppress(*_FAULTS):
        if batch.project is not None and batch.manifest.tasks:
            listed = TaskList(batch.project, settings_of(batch.project.state), Caller(name=""))
            return {os.path.realpath(task.path): (task.id, task.title) for task in listed.tasks()}
        made = ChunkedBatch(Path(batch.folder))
        if made.exists():
            return {
                batch.place(chunk.id, pin=False).path: (chunk.id, f"{chunk.label}: {len(chunk.items)} items")
                for chunk in made.plan().chunks
            }
    return {}


def called(batch: Batch) -> str:
    """Return how a command names a batch."""
    if batch.project is not None and os.path.dirname(batch.folder) == str(batch.project.batches):
        return shlex.quote(batch.id)
    return f"--dir {shlex.quote(batch.folder)}"


def names_of(batch: Batch) -> dict[str, Any]:
    """Return what a batch is called, where it lies, and the command that goes on with it."""
    by = called(batch)
    go_on = f"batch_worker.py {by} --all"
    if not by.startswith("--dir"):
        begun = os.path.isfile(os.path.join(batch.folder, "run.json"))
        go_on = f"hypervisor run {'--resume' if begun else '--batch'} {by}"
    return {
        "id": printable.line(batch.id), "folder": printable.line(batch.folder, 1000),
        "created": batch.manifest.created or None, "called": by, "go_on": go_on,
    }  # fmt: skip


def checkpoints_of(batch: Batch) -> Iterator[Need]:
    """Yield the checkpoint of a batch of chunks that waits for somebody's word, if one does."""
    made = ChunkedBatch(Path(batch.folder))
    with contextlib.suppress(*_FAULTS):
        at = where_it_stands(made, batch, made.plan()) if made.exists() else None
        if at is not None and at.wave is not None and at.what in ("open", "stopped"):
            chunks = printable.line(", ".join(at.wave.chunks), 200) or "the dry run of what acts in bulk"
            said = "waits for your word" if at.what == "open" else "said stop"
            yield Need(
                state="blocked", reason=f"checkpoint {at.wave.number} {said}: {chunks}",
                next="look at it, then approve or revise",
                type=f"hypervisor checkpoint --dir {shlex.quote(batch.folder)}",
            )  # fmt: skip
