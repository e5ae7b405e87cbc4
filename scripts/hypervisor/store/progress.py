"""How far a batch is, in figures and item by item: what reports ask."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from . import statements
from .base import Engine, Row
from .claim_rows import work_of
from .columns import from_column
from .records import Work

SQL = statements.load("progress")

#: Items read at once.
_PAGE = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemAttempt:
    """One attempt at an item, made for the batch or at the cycle that the batch means."""

    #: The attempt's number.
    number: int
    #: Whether it is of the cycle that the batch means; others were made before the item was reopened.
    current: bool
    #: `Worker.id`, and its name, session and agent; "" where they are forgotten.
    worker: str
    name: str
    session: str
    agent: str
    #: Milliseconds since the epoch.
    claimed_at: int
    ended_at: int | None
    #: As `Attempt.outcome`.
    outcome: str | None
    detail: str
    tokens: int | None
    cost_usd: float | None
    log: str
    runner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemProgress:
    """One item of a batch with all that happened to it."""

    #: Its place in the queue; rising, not without gaps.
    seq: int
    work: Work
    #: Milliseconds since the epoch; None while it has no result.
    decided_at: int | None
    #: The oldest first.
    attempts: Sequence[ItemAttempt] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast items end, and what the attempts have used so far. Times: milliseconds since the epoch."""

    #: The store's clock: what all times of the store are compared with.
    now: int
    #: Items that ended with work done on them; one that was cancelled is none.
    ended: int
    #: When the first of those was claimed; None before any has ended.
    first: int | None
    #: How many of them ended within the window.
    recent: int
    #: When the latest of them ended, the newest first.
    last: Sequence[int] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What attempts that have ended used."""

    attempts: int = 0
    #: How many of them told their tokens, and the sum; None where none did.
    tokens_known: int = 0
    tokens: int | None = None
    cost_known: int = 0
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldItem:
    """One item of the store that somebody works on, in a batch or outside of any."""

    attempt: int
    number: int
    claimed_at: int
    work: int
    key: str
    text: str
    #: `Worker.id`, and what people call it.
    worker: str
    name: str
    host: str
    session: str
    agent: str
    log: str
    batch: int | None
    #: Milliseconds since the worker was last heard.
    silent: int
    #: Milliseconds until its lease ends; negative once it has.
    expires_in: int


class BatchProgress:
    """The progress of the batches of a store. Reads; changes nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def now(self) -> float:
        """Return the time by the store's clock, in seconds since the epoch."""
        return float(self._engine.read(SQL.now)[0][0]) / 1000

    def changed(self, batch: int, *, since: int = 0, after: int = 0) -> list[int]:
        """Return the numbers (`ItemProgress.seq`) of the items that changed, in order.

        Args:
            batch: The batch.
            since: Items to which something happened after the event with this id.
            after: Items that were added to the queue after the one with this number.
        """
        parameters = {"batch": batch, "since": since, "after": after}
        return [row[0] for row in self._engine.read(SQL.changed, parameters)]

    def items(self, batch: int, seqs: Sequence[int]) -> Iterator[ItemProgress]:
        """Yield the items with these numbers, with their attempts, page by page."""
        for start in range(0, len(seqs), _PAGE):
            parameters = {"batch": batch, "ids": json.dumps(seqs[start : start + _PAGE])}
            attempts: dict[int, list[ItemAttempt]] = {}
            # Attempts first: one that ends between the two is then open beside a result, not lost.
            for seq, *row in self._engine.read(SQL.attempts, parameters):
                attempts.setdefault(seq, []).append(_attempt_of(tuple(row)))
            for seq, decided, *work in self._engine.read(SQL.items, parameters):
                yield ItemProgress(
                    seq=seq, work=work_of(tuple(work)), decided_at=decided,
                    attempts=attempts.get(seq, ()),
                )  # fmt: skip

    def speed(self, batch: int, *, window: float, last: int) -> Speed:
        """Return how fast the items of a batch end.

        Args:
            batch: The batch.
            window: Seconds over which `Speed.recent` counts.
            last: The most times in `Speed.last`.
        """
        parameters = {"batch": batch, "window": round(window * 1000), "limit": last}
        ((now, ended, first, recent),) = self._engine.read(SQL.speed, parameters)
        ends = tuple(row[0] for row in self._engine.read(SQL.last_ends, parameters)) if ended else ()
        return Speed(now=now, ended=ended, first=first, recent=recent, last=ends)

    def spending(self, batch: int) -> Totals:
        """Return what the attempts of a batch have used, those before an item was reopened among them."""
        ((attempts, tokens_known, tokens, cost_known, cost),) = self._engine.read(
            SQL.spending, {"batch": batch}
        )
        return Totals(
            attempts=attempts,
            tokens_known=tokens_known,
            tokens=None if tokens is None else int(tokens),  # sums are decimals on PostgreSQL
            cost_known=cost_known,
            cost_usd=None if cost is None else float(cost),
        )

    def failures(self, batch: int, limit: int) -> list[Work]:
        """Return the items that failed or were blocked last, the newest first."""
        rows = self._engine.read(SQL.failures, {"batch": batch, "limit": limit})
        return [work_of(row) for row in rows]

    def latest(self, batch: int, limit: int) -> list[Work]:
        """Return the items that were done last, the newest first."""
        rows = self._engine.read(SQL.latest, {"batch": batch, "limit": limit})
        return list({work.id: work for work in map(work_of, rows)}.values())

    def took_part(self, batch: int, workers: Collection[str]) -> set[str]:
        """Return those of *workers* that have worked on an item of the batch."""
        if not workers:
            return set()
        parameters = {"batch": batch, "names": json.dumps(list(workers))}
        return {row[0] for row in self._engine.read(SQL.took_part, parameters)}

    def held(self) -> list[HeldItem]:
        """Return what is being worked on in the whole store, the longest first."""
        return [
            HeldItem(
                attempt=attempt, number=number, claimed_at=claimed, work=work, key=key,
                text=from_column(text), worker=worker, name=name or "", host=host or "",
                session=session or "", agent=agent or "", log=log or "", batch=batch, silent=silent or 0,
                expires_in=expires,
            )
            for (attempt, number, claimed, work, key, text, worker, name, host, session, agent, log, batch,
                 silent, expires) in self._engine.read(SQL.held)
        ]  # fmt: skip


def _attempt_of(row: Row) -> ItemAttempt:
    (current, number, worker, name, session, agent, claimed, ended, outcome, detail, tokens, cost, log,
     runner) = row  # fmt: skip
    return ItemAttempt(
        number=number, current=bool(current), worker=worker, name=name or "", session=session or "",
        agent=agent or "", claimed_at=claimed, ended_at=ended, outcome=outcome, detail=detail or "",
        tokens=tokens, cost_usd=cost, log=log or "", runner=runner or "",
    )  # fmt: skip
