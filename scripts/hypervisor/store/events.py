"""Events: what happened, in the order in which it happened.

A transition of an item (`TaskEvent`) is written by the transaction that makes it. Runs add their own
(`RunEvent`) through `Events.add`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from . import statements
from .base import Engine, Row
from .columns import from_column

SQL = statements.load("events")
_PAGE = 2000


class TaskEvent(StrEnum):
    """Transitions of an item; the detail of each is a text for people."""

    #: A worker began; the detail is its id.
    CLAIMED = "claimed"
    #: It got its result; the detail is the result's status. Without an attempt: it was given up.
    COMPLETED = "completed"
    #: Its worker gave it back; the detail says why.
    RELEASED = "released"
    #: It was taken from its worker, which is dead or silent; the detail says why.
    REVOKED = "revoked"
    #: It was cancelled; one that was being worked on is revoked right before.
    CANCELLED = "cancelled"
    #: Its next cycle began.
    REOPENED = "reopened"
    #: A question of its agent was answered, and it may be claimed again; the detail has the answer.
    ANSWERED = "answered"


_TRANSITIONS = frozenset(TaskEvent)
#: The transitions after which nobody works on the item.
ENDS = frozenset({TaskEvent.COMPLETED, TaskEvent.RELEASED, TaskEvent.REVOKED, TaskEvent.CANCELLED})


class RunEvent(StrEnum):
    """Events of a run over a batch; each carries its batch, those of one task also its work and attempt.

    The data of an event of a task holds ``task``, its id. No kind is also the name of a transition.
    """

    #: A coordinator began; ``limit``, ``worker``.
    STARTED = "started"
    #: An agent was started; ``attempt`` (the number), ``agent``, ``log`` (below the batch's folder).
    BEGUN = "begun"
    #: That agent ended; ``attempt``, ``agent``, ``how``, ``seconds``, ``tokens``, ``cost_usd``.
    ENDED = "ended"
    #: Its agent asked a person, and its task waits: ``question`` (the number), ``text``, ``choices``.
    ASKED = "asked"
    #: A reviewer answered: ``word``, ``text``, ``round``.
    REVIEWED = "reviewed"
    #: Its work conflicts with merged work: ``text``, ``others`` (ids), ``agent`` ("" where a person decides).
    CONFLICTED = "conflicted"
    #: An agent has tried to merge it: ``word`` (merged, held), ``text``.
    RESOLVED = "resolved"
    #: At most ``limit`` tasks of a ``type`` and ``pattern`` run at once; ``why``.
    PACED = "paced"
    #: Nothing starts before ``until``; ``why``.
    PAUSED = "paused"
    #: A service asked for fewer requests; ``limit``, ``why``.
    LOWERED = "lowered"
    #: The level of degradation changed; ``level``, ``was``, ``room``, ``why``, the machine's figures.
    LEVEL = "level"
    #: The machine's figures while agents run; ``zone``, ``why``.
    READING = "reading"
    #: An agent is near a limit, or was ended by it; ``act``, ``measure``, ``figure``, ``limit``, ``why``.
    OVERSEEN = "overseen"
    #: Nothing more starts; ``why``.
    HALTED = "halted"
    #: The coordinator ended; ``why``.
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event."""

    #: Rising; a place from which to read on.
    id: int
    #: Milliseconds since the epoch.
    at: int
    kind: str
    #: The batch's id and name, for an event of a run; None and "" otherwise.
    batch: int | None
    batch_name: str
    #: The item, for a transition.
    work: int | None
    key: str
    text: str
    #: The work's state as it is now, not as it was then.
    state: str
    #: The attempt's id and number, and whose it was.
    attempt: int | None
    number: int | None
    worker: str
    session: str
    agent: str
    #: For people, for a transition (see `TaskEvent`); data, for an event of a run.
    detail: str
    #: What was said when the attempt ended: the result's outcome, or why it was given back.
    outcome: str
    data: Mapping[str, Any]


class Events:
    """The events of a store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(
        self,
        kind: str,
        data: Mapping[str, Any] | None = None,
        *,
        batch: int | None = None,
        work: int | None = None,
        attempt: int | None = None,
    ) -> None:
        """Add an event that is no transition."""
        parameters = {
            "kind": kind, "batch": batch, "work": work, "attempt": attempt, "detail": json.dumps(data or {}),
        }  # fmt: skip
        self._engine.write(lambda tx: tx.run(SQL.add, parameters))

    def last(self) -> int:
        """Return the id of the latest event: a place from which to read on."""
        return int(self._engine.read(SQL.last)[0][0])

    def since(self, after: int, *, batch: int | None = None) -> Iterator[Event]:
        """Yield the events after that id, the oldest first; with *batch* only those of its runs."""
        statement = SQL.since if batch is None else SQL.of_batch
        while True:
            rows = self._engine.read(statement, {"after": after, "limit": _PAGE, "batch": batch})
            for row in rows:
                yield _event_of(row)
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def about(self, batch: int, after: int) -> Iterator[Event]:
        """Yield the events after that id about a batch: of its runs and of its items."""
        while rows := self._engine.read(SQL.about_batch, {"after": after, "limit": _PAGE, "batch": batch}):
            for row in rows:
                yield _event_of(row)
            after = rows[-1][0]


def _event_of(row: Row) -> Event:
    (id_, at, kind, batch, work, attempt, detail, key, text, state, number, worker, session, agent, name,
     outcome) = row  # fmt: skip
    # What a transition says is anybody's text, and may look like data.
    data = json.loads(detail) if kind not in _TRANSITIONS and (detail or "").startswith("{") else {}
    return Event(
        id=id_, at=at, kind=kind, batch=batch, batch_name=name or "", work=work, key=key or "",
        text=from_column(text or ""), state=state or "", attempt=attempt, number=number, worker=worker or "",
        session=session or "", agent=agent or "", detail="" if data else detail or "",
        outcome=outcome or "", data=data,
    )  # fmt: skip
