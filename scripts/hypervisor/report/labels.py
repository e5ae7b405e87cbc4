"""What a batch and its items are called, and the checkpoint at which it waits. Reads only."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import HypervisorError
from ..core.settings import settings_of
from ..core.text import printable_line, time_text
from ..queue.batch import Batch, ItemRef
from ..queue.summary import typed_as
from ..review.plan import ChunkedBatch
from ..review.waves import state_of
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
    #: By the path of a task, or the item's line.
    _known: dict[str, tuple[str, str]] = field(default_factory=dict)
    _chunks: bool = False

    def learn(self, refs: list[ItemRef]) -> None:
        """Look up what is not known yet: the tasks among *refs*, and the chunks of the batch."""
        if not self._chunks:
            self._chunks = True
            with contextlib.suppress(*_FAULTS):
                made = ChunkedBatch(self.batch)
                for chunk in made.plan().chunks if made.exists() else ():
                    self._known[chunk.id] = (chunk.id, f"{chunk.label}: {len(chunk.items)} items")
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
        """Return id and title of the task or the chunk that an item is, "" where it is none or not known."""
        return self._known.get(ref.path if ref.task else ref.item, ("", ""))


def names_of(batch: Batch) -> dict[str, Any]:
    """Return what a batch is called, where it lies, and the command that continues it."""
    by = typed_as(batch)
    go_on = f"batch_worker.py {by} --all"
    if not by.startswith("--dir"):
        go_on = f"hypervisor run {'--resume' if 'run' in batch.record.options else '--batch'} {by}"
    created = batch.record.created_at
    return {
        "id": printable_line(batch.id), "folder": printable_line(batch.folder, 1000),
        "created": time_text(created / 1000) if created else None, "called": by, "go_on": go_on,
    }  # fmt: skip


def checkpoints_of(batch: Batch) -> Iterator[Attention]:
    """Yield the checkpoint of a batch of chunks that waits for a person, if one does."""
    made = ChunkedBatch(batch)
    with contextlib.suppress(*_FAULTS):
        state = state_of(made, made.plan()) if made.exists() else None
        if state is not None and state.wave is not None and state.what in ("open", "stopped"):
            chunks = printable_line(", ".join(state.wave.chunks), 200) or "the dry run of what acts in bulk"
            said = "waits for your decision" if state.what == "open" else "was stopped"
            yield Attention(
                state="blocked", reason=f"checkpoint {state.wave.number} {said}: {chunks}",
                next="look at it, then approve or revise",
                type=f"hypervisor checkpoint --dir {shlex.quote(batch.folder)}",
            )  # fmt: skip
