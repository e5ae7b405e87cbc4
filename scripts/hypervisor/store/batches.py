"""Batches: which items they are about, and how far each is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import statements
from .base import Engine, Row, Transaction
from .claim_rows import ready_work, work_of
from .columns import from_column, to_column
from .records import BatchRecord, Item, Work

SQL = statements.load("batches")

#: Rows read at once where all items are walked over.
_PAGE = 2000
STATES = ("success", "blocked", "failed", "skipped", "running", "ready")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchItem:
    """One item of a batch."""

    seq: int
    priority: int
    work: Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """One item that is being worked on."""

    attempt: int
    number: int
    claimed_at: int
    work: int
    key: str
    text: str
    worker: str
    name: str
    host: str
    pid: int
    session: str
    agent: str
    log: str
    seq: int
    #: What works on it: ``claude``, ``exec`` ...; "" where that was not kept.
    runner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What attempts of a batch have used, those that were lost or failed among them."""

    attempts: int = 0
    #: None where no attempt has told.
    tokens: int | None = None
    cost_usd: float | None = None


class Batches:
    """The batches of a store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, name: str, folder: str, options: Mapping[str, Any]) -> BatchRecord:
        """*Atomically* make a batch unless there is one of that name; return it either way. Durable."""

        def body(tx: Transaction) -> BatchRecord:
            tx.run(SQL.create, {"name": name, "folder": to_column(folder), "options": json.dumps(options)})
            return _batch_of(tx.run(SQL.by_name, {"name": name})[0])

        return self._engine.write(body, durable=True)

    def find(self, name: str) -> BatchRecord | None:
        """Return the batch of that name, or None."""
        rows = self._engine.read(SQL.by_name, {"name": name})
        return _batch_of(rows[0]) if rows else None

    def in_folder(self, folder: str) -> BatchRecord | None:
        """Return the newest batch of that folder, or None."""
        rows = self._engine.read(SQL.by_folder, {"folder": to_column(folder)})
        return _batch_of(rows[0]) if rows else None

    def get(self, batch: int) -> BatchRecord:
        """Return a batch by its id, as it is now."""
        return _batch_of(self._engine.read(SQL.by_id, {"batch": batch})[0])

    def all(self) -> list[BatchRecord]:
        """Return all batches, the oldest first."""
        return [_batch_of(row) for row in self._engine.read(SQL.all)]

    def of_work(self, work: int) -> list[BatchRecord]:
        """Return the batches that hold this cycle of an item, the newest first."""
        return [_batch_of(row) for row in self._engine.read(SQL.of_work, {"work": work})]

    def folders_of(self, works: Iterable[int]) -> dict[str, set[int]]:
        """Return the folders of the batches that hold these items, as rows keep them, with the items."""
        found: dict[str, set[int]] = {}
        for folder, work in self._engine.read(SQL.folders_of, {"ids": json.dumps(list(works))}):
            found.setdefault(from_column(folder), set()).add(work)
        return found

    def set_options(self, batch: int, options: Mapping[str, Any]) -> None:
        """Replace the options of a batch."""
        self._engine.write(
            lambda tx: tx.run(SQL.set_options, {"batch": batch, "options": json.dumps(options)})
        )

    # ------------------------------------------------------------------ items

    def add(self, batch: int, items: Sequence[Item]) -> None:
        """*Atomically* append items; one that the batch has already is passed over."""
        self._engine.write(lambda tx: add_items(tx, batch, items))

    def take_in(self, batch: int, items: Sequence[Item], start: int, stop: int, tail: bytes) -> bool:
        """*Atomically* append the items of the queue file's bytes *start* to *stop*.

        Args:
            batch: The batch.
            items: The items.
            start: The `BatchRecord.queue_offset` that the reader began at.
            stop: The byte after the last line.
            tail: The last bytes before *stop*, by which a replaced file is told.

        Returns:
            False if another process took these bytes in first; nothing was changed then.
        """

        def body(tx: Transaction) -> bool:
            if not tx.run(SQL.advance, {"batch": batch, "start": start, "stop": stop, "tail": tail}):
                return False
            added = add_items(tx, batch, items)
            if added < len(items):
                tx.run(SQL.count_duplicates, {"batch": batch, "count": len(items) - added})
            return True

        return self._engine.write(body)

    def census(self, batch: int) -> dict[str, int]:
        """Return how many items are in each state (`STATES`), and ``queued``, their sum."""
        counts = dict.fromkeys(STATES, 0) | dict(self._engine.read(SQL.census, {"batch": batch}))
        return {"queued": sum(counts.values()), **counts}

    def items(self, batch: int, states: Sequence[str] = ()) -> Iterator[BatchItem]:
        """Yield the items in the order of the queue, page by page; with *states* only those in one."""
        after = 0
        statement = SQL.items_in if states else SQL.items
        while True:
            parameters = {"batch": batch, "after": after, "limit": _PAGE, "names": json.dumps(list(states))}
            rows = self._engine.read(statement, parameters)
            for seq, priority, *work in rows:
                yield BatchItem(seq=seq, priority=priority, work=work_of(tuple(work)))
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def running(self, batch: int) -> list[Running]:
        """Return what is being worked on, the longest first."""
        return [_running_of(row) for row in self._engine.read(SQL.running, {"batch": batch})]

    def room(self, batch: int, limit: int) -> tuple[int, int]:
        """Return how many items are ready, counted up to *limit*, and how many workers hold claims."""
        ready, workers = self._engine.read(SQL.room, {"batch": batch, "limit": limit})[0]
        return int(ready), int(workers)

    def any_running(self, batch: int) -> bool:
        """Return whether any item is being worked on."""
        return bool(self._engine.read(SQL.any_running, {"batch": batch}))

    def holds(self, batch: int, work: int) -> bool:
        """Return whether a batch holds this cycle of an item."""
        return bool(self._engine.read(SQL.holds, {"batch": batch, "work": work}))

    def ready_in(self, batch: int) -> float | None:
        """Return the seconds until some ready item may be claimed, 0.0 for now; None if none is ready."""
        found = self._engine.read(SQL.next_ready_at, {"batch": batch})[0][0]
        return None if found is None else max(0.0, found / 1000)

    def reopened(self, batch: int) -> bool:
        """Return whether any item is ready, be it delayed."""
        return bool(self._engine.read(SQL.any_ready, {"batch": batch}))

    def spent(self, batch: int) -> dict[int, Spent]:
        """Return what the attempts that were made for a batch have used, by `Work.id`."""
        return {row[0]: _spent_of(row) for row in self._engine.read(SQL.spent, {"batch": batch})}

    def spent_by_runner(self, batch: int) -> dict[str, Spent]:
        """Return the same by runner; "" where that was not kept."""
        return {row[0]: _spent_of(row) for row in self._engine.read(SQL.spent_by_runner, {"batch": batch})}

    # ------------------------------------------------------------------ terms

    def freeze(self, batch: int, terms: Mapping[int, Mapping[str, Any]]) -> None:
        """Keep what tasks are judged by (`Work.id` -> terms); what is kept of one already stays. Durable."""
        rows = [{"batch": batch, "work": work, "terms": json.dumps(one)} for work, one in terms.items()]
        if rows:
            self._engine.write(lambda tx: tx.each(SQL.freeze, rows), durable=True)

    def terms(self, batch: int) -> dict[int, Mapping[str, Any]]:
        """Return what is kept of all tasks of a batch, by `Work.id`."""
        return {row[0]: json.loads(row[1]) for row in self._engine.read(SQL.terms, {"batch": batch})}

    def terms_of(self, batch: int, work: int) -> Mapping[str, Any] | None:
        """Return what is kept of one task, None for nothing."""
        rows = self._engine.read(SQL.terms_of, {"batch": batch, "work": work})
        found: Mapping[str, Any] | None = json.loads(rows[0][0]) if rows else None
        return found

    # ------------------------------------------------------------------ state

    def drain(self, batch: int) -> None:
        """Ask all who work on the batch to begin nothing more. Who begins later is not concerned."""
        self._engine.write(lambda tx: tx.run(SQL.drain, {"batch": batch}), durable=True)

    def finish(self, batch: int) -> None:
        """Note when the batch came to its end."""
        self._engine.write(lambda tx: tx.run(SQL.finish, {"batch": batch}))


def add_items(tx: Transaction, batch: int, items: Sequence[Item]) -> int:
    """Append items to a batch within a transaction; return how many it did not have."""
    tx.run(SQL.lock, {"batch": batch})  # or two that append at once take the same places
    for item in items:
        if item.reopen and not tx.run(SQL.known, {"key": item.key, "batch": batch}):
            ready_work(tx, item.key, item.text, reopen=True)
    texts = [{"key": one.key, "text": to_column(one.text)} for one in items if not one.reopen]
    new: dict[str, int] = dict(tx.each(SQL.add_work, texts))
    first = tx.run(SQL.last_seq, {"batch": batch})[0][0] + 1
    fresh, known = [], []
    for seq, one in enumerate(items, first):
        row = {"batch": batch, "seq": seq, "priority": one.priority}
        if work := new.pop(one.key, None):
            fresh.append({**row, "work": work})
        else:
            known.append({**row, "key": one.key})
    tx.each(SQL.add_new_item, fresh)
    return len(fresh) + len(tx.each(SQL.add_item, known))


def _batch_of(row: Row) -> BatchRecord:
    id_, name, folder, created, options, offset, tail, drain, finished, duplicates = row
    return BatchRecord(
        id=id_, name=name, folder=from_column(folder), created_at=created, options=json.loads(options),
        queue_offset=offset, queue_tail=bytes(tail or b""), drain_at=drain, finished_at=finished,
        duplicates=duplicates,
    )  # fmt: skip


def _running_of(row: Row) -> Running:
    (attempt, number, claimed, work, key, text, worker, name, host, pid, session, agent, log, seq, runner) = (
        row
    )
    return Running(
        attempt=attempt, number=number, claimed_at=claimed, work=work, key=key, text=from_column(text),
        worker=worker or "", name=name or "", host=host or "", pid=pid or 0, session=session or "",
        agent=agent or "", log=log or "", seq=seq, runner=runner or "",
    )  # fmt: skip


def _spent_of(row: Row) -> Spent:
    _, attempts, tokens, cost = row
    return Spent(
        attempts=attempts,
        tokens=None if tokens is None else int(tokens),
        cost_usd=None if cost is None else float(cost),
    )
