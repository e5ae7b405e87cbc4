"""What a batch and its items are called, and the checkpoint at which it waits. Reads only."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..core import clock, printable
from ..core.config import settings_of
from ..core.errors import HypervisorError
from ..queue.batch import Batch, ItemRef
from ..tasks.actor import Actor
from ..tasks.catalog import TaskCatalog
from .attention import Attention

#: A missing name is left out: the item's own line stands for it.
_FAULTS = (OSError, ValueError, HypervisorError)
#: From this many unknown tasks on, all tasks of the project are read at once.
_MANY = 50


@dataclass(slots=True)
class ItemNames:
    """Ids and titles of the tasks, or titles of the chunks, that are items of a batch."""

    batch: Batch
    _known: dict[str, tuple[str, str]] = field(default_factory=dict)

    def learn(self, refs: list[ItemRef]) -> None:
        """Look up the tasks among *refs* that are not known yet."""
        missing = [ref.path for ref in refs if ref.task and ref.path not in self._known]
        if not missing or self.batch.project is None:
            return
        with contextlib.suppress(*_FAULTS):
            project = self.batch.project
            catalog = TaskCatalog(project, settings_of(project.state), Actor(name=""), self.batch.store)
            if len(missing) >= _MANY:
                for task in catalog.tasks():
                    self._known[os.path.realpath(task.path)] = (task.id, task.title)
            else:
                with catalog.view() as view:
                    for path in missing:
                        if (found := view.at_path(path)) is not None:
                            self._known[path] = (found.id, found.title)
        for path in missing:
            self._known.setdefault(path, ("", ""))  # gone meanwhile: not looked for again

    def of(self, ref: ItemRef) -> tuple[str, str]:
        """Return id and title of the task that an item is, "" where it is none or not known."""
        return self._known.get(ref.path, ("", "")) if ref.task else ("", "")


def called(batch: Batch) -> str:
    """Return how a command names a batch."""
    if batch.project is not None and os.path.dirname(batch.folder) == str(batch.project.batches):
        return shlex.quote(batch.id)
    return f"--dir {shlex.quote(batch.folder)}"


def names_of(batch: Batch) -> dict[str, Any]:
    """Return what a batch is called, where it lies, and the command that continues it."""
    by = called(batch)
    go_on = f"batch_worker.py {by} --all"
    if not by.startswith("--dir"):
        go_on = f"hypervisor run {'--resume' if 'run' in batch.record.options else '--batch'} {by}"
    created = batch.record.created_at
    return {
        "id": printable.line(batch.id), "folder": printable.line(batch.folder, 1000),
        "created": clock.text_of(created / 1000) if created else None, "called": by, "go_on": go_on,
    }  # fmt: skip


def checkpoints_of(batch: Batch) -> Iterator[Attention]:
    """Yield the checkpoint of a batch of chunks that waits for a person, if one does."""
    yield from ()
