"""What a person does to a batch from outside: open finished items again, cancel, undo."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..claims.directory import DirectoryStore, Policy
from ..claims.port import Claim, Holder, HolderKind
from ..claims.workers import new_worker_id
from ..core import clock
from ..core.errors import Refused
from ..core.keys import life_key, split_life
from ..core.model import FileEdit, Outcome
from ..tasks.effects import write_edits
from .batch import Batch, Place
from .summary import Entry, entries

#: How often a cancelled item is taken from whoever grabs it meanwhile.
_GRABS = 20


@dataclass(slots=True)
class Stores:
    """The stores that one command writes to, all in the name of one short-lived holder."""

    name: str
    lease_seconds: float = 900.0
    attempts: int = 3
    _open: dict[str, DirectoryStore] = field(default_factory=dict)

    def of(self, root: str) -> DirectoryStore:
        """Return the store at *root*."""
        if root not in self._open:
            holder = Holder(
                id=new_worker_id(self.name, os.getpid()),
                kind=HolderKind.PROCESS,
                name=self.name,
                lease_seconds=self.lease_seconds,
            )
            policy = Policy(effects=write_edits, patient=False, attempts=self.attempts)
            self._open[root] = DirectoryStore(root, holder, policy=policy)
        return self._open[root]

    def close(self) -> None:
        """Close them all."""
        for store in self._open.values():
            store.close()


@contextmanager
def stores(name: str) -> Iterator[Stores]:
    """Give stores to write to, and close them."""
    opened = Stores(name)
    try:
        yield opened
    finally:
        opened.close()


def chosen(batch: Batch, items: list[str], wanted: Callable[[Entry], bool]) -> list[Entry]:
    """Return the entries of *batch* that are *wanted*, all or those that *items* name.

    Raises:
        Refused: An item is not in the batch.
    """
    names = {batch.place(item, pin=False).name: item for item in items}
    found = []
    for entry in entries(batch):
        if entry is None or (items and names.pop(entry.place.name, None) is None):
            continue
        if wanted(entry):
            found.append(entry)
    if names:
        raise Refused(f"not in batch {batch.id}: {', '.join(names.values())}; see `hypervisor summary`")
    return found


def retry(batch: Batch, items: list[str], states: set[str]) -> list[str]:
    """Open finished items again, each as a new life; what it was before stays readable.

    Returns:
        The items that are waiting now.
    """
    reopened = []
    with batch.queue.reopening(), stores("retry") as opened:
        for entry in chosen(batch, items, lambda entry: entry.state in states):
            if entry.place.task:
                batch.reopen(entry.place)
            else:
                _reopen(opened.of(entry.place.root), entry.place)
            reopened.append(entry.place.item)
    return reopened


def _reopen(store: DirectoryStore, place: Place) -> None:
    # A claim that is given back at once is what marks a life as begun: no other mark is needed.
    key, life = split_life(place.key)
    claim = store.claim(life_key(key, life + 1), place.item)
    if isinstance(claim, Claim):
        store.release(claim, "opened again")


def cancel(batch: Batch, items: list[str]) -> list[str]:
    """Give items that have no result the result ``skipped``; whoever works on one loses it.

    Returns:
        The items that were cancelled.
    """
    cancelled = []
    with stores("cancel") as opened:
        for entry in chosen(batch, items, lambda entry: entry.state in ("waiting", "running")):
            place = batch.place(entry.place.item)
            if _cancel(batch, opened.of(place.root), place):
                cancelled.append(place.item)
    return cancelled


def _cancel(batch: Batch, store: DirectoryStore, place: Place) -> bool:
    for _ in range(_GRABS):
        store.revoke(place.key, "cancelled by the user")
        claim = store.claim(place.key, place.item)
        if isinstance(claim, Claim):
            if place.task:
                from ..tasks.tasklist import put_back  # noqa: PLC0415 - the YAML loader

                put_back(store, place.key, below=claim.generation)
            now = clock.now_text()
            store.complete(claim, {
                "item": place.item, "status": Outcome.SKIPPED.value, "outcome": "cancelled",
                "batch": batch.id, "started": now, "finished": now,
            })  # fmt: skip
            return True
        if store.result(place.key) is not None:
            return False
    raise Refused(f"{place.item}: could not be cancelled, others keep taking it; stop the workers first")


def undo(batch: Batch) -> tuple[list[str], list[str]]:
    """Put back what the batch changed in task files, the latest change first.

    Returns:
        The files put back, and one line for each change that was left because somebody has
        changed the same place since.

    Raises:
        Refused: Items of the batch are being worked on.
    """
    from ..tasks.tasks import revert_file  # noqa: PLC0415 - the YAML loader

    edits: list[tuple[str, FileEdit]] = []
    for entry in entries(batch):
        if entry is None:
            continue
        if entry.state == "running":
            raise Refused(f"{entry.place.item} is being worked on; stop the workers first")
        edits += [
            (str(result.get("finished")), FileEdit.from_json(result["edit"]))
            for result in _lives(batch, entry.place)
            if result.get("edit") and result.get("batch") == batch.id
        ]
    changed, left = [], []
    for _, edit in sorted(edits, key=lambda pair: pair[0], reverse=True):
        before = _content(edit.path)
        left += revert_file(Path(edit.path), edit)
        if _content(edit.path) != before and edit.path not in changed:
            changed.append(edit.path)
    return changed, left


def _lives(batch: Batch, place: Place) -> Iterator[Mapping[str, Any]]:
    """Yield the readable results of all lives that an item had in *batch*."""
    life = 1
    while os.path.lexists(
        path := os.path.join(batch.folder, "results", life_key(place.name, life) + ".json")
    ):
        with contextlib.suppress(FileNotFoundError, ValueError):
            result = json.loads(Path(path).read_bytes())
            if isinstance(result, dict):
                yield result
        life += 1


def _content(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except OSError:
        return None
