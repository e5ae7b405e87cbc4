"""Notices: which ends a session of a client was told, and which not yet. Delivered at least once.

A notice is a query: an ended claim of one of the session's agents, an agent that left without a task, or a
run of the session that is over, of which no delivery says that it was told. So nothing has to be written for
a notice to exist, and none can be forgotten.

A message that was handed to the client is *offered*; *told* once the client's transcript shows it; *lost*
where the client has dropped it, and then offered again. One that did not arrive three times although the
client went on is *dropped*: where arrival cannot be seen, a session is not told the same for ever.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from . import sessions, statements
from .base import Engine, Row, Transaction
from .columns import from_column, plain
from .heartbeat import who

SQL = statements.load("notices")
_MOST_LOSSES = 3

End = Literal["success", "blocked", "failed", "cancelled", "released", "taken", "left", "run"]


class NoticeState(StrEnum):
    """What became of a notice that was handed to the client."""

    OFFERED = "offered"
    TOLD = "told"
    #: To be offered again.
    LOST = "lost"
    #: Not offered again.
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One end that a session is to be told of."""

    #: Names the end.
    what: str
    #: The task's id, the agent's, or the batch's name.
    name: str
    #: ``taken``: from a worker that was dead or silent; ``left``: an agent that ended without a task.
    end: End
    #: The outcome, or the reason.
    why: str
    #: `background_run.id` of a run, 0 otherwise.
    run: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message that was handed to the client, and of which it is not known whether it arrived."""

    mark: str
    #: The client's event at which it was handed over; ``watch`` for one that wakes the client, ``wait`` for
    #: one that a command or a tool has answered.
    event: str
    #: The client's name for the prompt that it worked on.
    prompt: str
    #: Length of the client's transcript before it, in bytes.
    place: int
    #: Milliseconds since it was handed over.
    age: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunItem:
    """What one item of a run came to."""

    name: str
    status: str
    outcome: str


class NoticeQueue:
    """The notices of one session.

    Args:
        engine: The database.
        session: The client's id of the session.
    """

    def __init__(self, engine: Engine, session: str) -> None:
        self._engine = engine
        self._who: dict[str, Any] = who(session)

    def pending(self) -> list[Notice]:
        """Return what the session is to be told, the oldest first: neither told nor offered."""
        return [_notice_of(row) for row in self._engine.read(SQL.pending, self._who)]

    def run_items(self, run: int, limit: int) -> list[RunItem]:
        """Return what the items of a run came to, those without success first."""
        rows = self._engine.read(SQL.run_items, {"run": run, "limit": limit})
        return [_item_of(row) for row in rows]

    def offer(self, event: str, *, prompt: str = "", place: int = 0) -> tuple[str, list[Notice]]:
        """*Atomically* take all that is pending, to be handed to the client by the caller and by nobody else.

        Returns:
            The mark of the message, and what it is to tell; none where another was quicker.
        """
        mark = secrets.token_hex(4)
        said = {**self._who, "mark": mark, "event": event, "prompt": plain(prompt), "place": place}

        def body(tx: Transaction) -> list[Notice]:
            found = [_notice_of(row) for row in tx.run(SQL.pending, self._who)]
            mine = {row[0] for row in tx.each(SQL.offer, [{**said, "what": one.what} for one in found])}
            return [one for one in found if one.what in mine]

        return mark, self._engine.write(body)

    def offered(self) -> list[Delivery]:
        """Return the messages of which it is not known whether they arrived."""
        rows = self._engine.read(SQL.offered, self._who)
        return [
            Delivery(mark=mark, event=event, prompt=prompt, place=place, age=age)
            for mark, event, prompt, place, age in rows
        ]

    def settle(self, told: Sequence[str], lost: Sequence[str], missed: Sequence[str] = ()) -> None:
        """*Atomically* note what became of messages.

        Args:
            told: Marks of those that arrived.
            lost: Marks of those that the client never took up.
            missed: Marks of those that did not arrive although the client went on with what it was given.
        """

        def body(tx: Transaction) -> None:
            tx.each(SQL.told, [{**self._who, "mark": mark} for mark in told])
            losses = [(mark, 0) for mark in lost] + [(mark, 1) for mark in missed]
            tx.each(
                SQL.lost,
                [
                    {**self._who, "mark": mark, "counted": counted, "most": _MOST_LOSSES}
                    for mark, counted in losses
                ],
            )

        if told or lost or missed:
            self._engine.write(body)

    def moved(self, mark: str, event: str, prompt: str) -> None:
        """Note that a message is on its way in a prompt."""
        parameters = {**self._who, "mark": mark, "event": event, "prompt": plain(prompt)}
        self._engine.write(lambda tx: tx.run(SQL.moved, parameters))

    # ----------------------------------------------------------------- client

    @property
    def transcript(self) -> str:
        """The client's transcript of the session, "" where no hook has named it yet."""
        return self._client()[0]

    @property
    def blocks(self) -> int:
        """How often in a row the client was kept from stopping."""
        return self._client()[1]

    def set_transcript(self, path: str) -> None:
        """Note where the client's transcript is."""
        if path and path != self.transcript:
            parameters = {**self._who, "transcript": path}
            self._engine.write(lambda tx: tx.run(sessions.SQL.set_transcript, parameters))

    def set_blocks(self, blocks: int) -> None:
        """Note how often in a row the client was kept from stopping."""
        if blocks != self.blocks:
            parameters = {**self._who, "blocks": blocks}
            self._engine.write(lambda tx: tx.run(sessions.SQL.set_blocks, parameters))

    def _client(self) -> tuple[str, int]:
        rows = self._engine.read(sessions.SQL.session, self._who)
        return (rows[0][0], rows[0][1]) if rows else ("", 0)


def _notice_of(row: Row) -> Notice:
    what, name, outcome, detail, counted, state, _, run = row
    return Notice(what=what, name=name, end=_end_of(outcome, counted, state), why=detail or "", run=run)


def _end_of(outcome: str, counted: int, state: str) -> End:
    if outcome == "skipped" or (outcome == "revoked" and state == "skipped"):
        return "cancelled"
    if outcome == "again" or (outcome == "revoked" and not counted):
        return "released"
    known: dict[str, End] = {
        "success": "success", "blocked": "blocked", "failed": "failed", "left": "left", "run": "run",
    }  # fmt: skip
    return known.get(outcome, "taken")


def _item_of(row: Row) -> RunItem:
    text, state, result = row
    record = json.loads(result) if result else {}
    name = str(record.get("task_id") or from_column(text))
    return RunItem(name=name, status=state, outcome=str(record.get("outcome", "")))
