"""Questions of agents to people. A task whose agent asks is parked: at no cost in attempts, until the answer.

A parked task is *waiting* in the census: its work is ``ready``, but `Claims.claim_next` does not return it,
and `tasks.eligibility` refuses it by name. The question and the end of the attempt that asked it are one
transaction; so are the answer and the moment from which the task may be claimed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import ClaimLost, Refused, UsageError
from . import statements
from .base import Engine, Row, Transaction
from .claim_rows import SQL as CLAIMS
from .claim_rows import event_row, json_text, loss_in
from .claims import Claims
from .columns import from_column, plain, to_column
from .records import Claim

SQL = statements.load("questions")

#: Milliseconds since the epoch: later than any clock says.
_NEVER = 2**52
#: Characters of a question and of an answer that are kept, and of the line that tells of one.
_LONGEST, _LINE = 20_000, 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question, with its answer if it has one."""

    id: int
    work: int
    #: Id and number of the attempt that asked.
    attempt: int
    number: int
    #: The name of the batch that the attempt was made for; "" for none.
    batch: str
    #: The task's id.
    task: str
    #: The name of the agent.
    asker: str
    text: str
    choices: tuple[str, ...] = ()
    #: Where the work so far is: see `orchestrator.parking`. Empty for an agent of a session.
    place: Mapping[str, Any] = field(default_factory=dict)
    #: Milliseconds since the epoch, as is `answered_at`.
    asked_at: int
    answer: str = ""
    answered_by: str = ""
    answered_at: int | None = None
    key: str
    #: The state of its work.
    state: str

    @property
    def open(self) -> bool:
        """Whether a person is waited for; not where the task was cancelled or finished otherwise."""
        return self.answered_at is None and self.state == "ready"


class Questions:
    """The questions of a store."""

    def __init__(self, engine: Engine, claims: Claims) -> None:
        self._engine, self._claims = engine, claims

    def ask(  # noqa: PLR0913 - what is kept of a question and of its attempt
        self,
        claim: Claim,
        task: str,
        asker: str,
        text: str,
        choices: Sequence[str] = (),
        *,
        place: Mapping[str, Any] | None = None,
        tokens: int | None = None,
        cost_usd: float | None = None,
    ) -> int:
        """*Atomically* end an open claim at no cost, park its task, and keep the question. Durable on return.

        Returns:
            The number of the question.

        Raises:
            ClaimLost: The claim is no longer held.
        """
        row = {
            "attempt": claim.attempt, "task": plain(task), "asker": plain(asker),
            "text": to_column(text[:_LONGEST]), "choices": json.dumps(list(choices)),
            "place": json_text(place or {}),
        }  # fmt: skip

        def body(tx: Transaction) -> int:
            added = tx.run(SQL.add, row)
            number = int(added[0][0]) if added else 0
            why = f"asks (question {number}): {' '.join(text.split())}"[:_LINE]
            work = self._claims.release_in(tx, claim.attempt, why, tokens, cost_usd)
            if work is None:  # nothing of this is kept
                raise ClaimLost(loss_in(tx, claim.attempt))
            tx.run(SQL.park, {"work": work, "never": _NEVER})
            return number

        return self._engine.write(body, durable=True)

    def answer(self, number: int, text: str, by: str) -> Question:
        """*Atomically* keep the answer and let the task be claimed again. Durable on return.

        Raises:
            UsageError: There is no such question.
            Refused: It has an answer, or its task needs none any more.
        """
        if not text.strip():
            raise UsageError(f"the answer to question {number} is empty; say what the agent is to do")

        def body(tx: Transaction) -> bool:
            row = {"id": number, "answer": to_column(text.strip()[:_LONGEST]), "by": plain(by)}
            found = tx.run(SQL.answer, row)
            if found:
                tx.run(SQL.unpark, {"work": found[0][0]})
                line = f"question {number} by {by}: {' '.join(text.split())}"[:_LINE]
                tx.run(CLAIMS.add_event, event_row("answered", found[0][0], None, plain(line)))
            return bool(found)

        before = self.get(number)
        if before.state != "ready":
            raise Refused(f"question {number}: {before.task} is {before.state} already and needs no answer")
        if not self._engine.write(body, durable=True):
            now = self.get(number)
            raise Refused(f"question {number} was answered by {now.answered_by}: {now.answer[:_LINE]}")
        return self.get(number)

    def get(self, number: int) -> Question:
        """Return a question.

        Raises:
            UsageError: There is none of that number.
        """
        if not (rows := self._engine.read(SQL.one, {"id": number})):
            raise UsageError(f"{number}: no such question; see `hypervisor questions`")
        return _question_of(rows[0])

    def open(self) -> list[Question]:
        """Return all questions that have no answer yet, the oldest first."""
        return [_question_of(row) for row in self._engine.read(SQL.open)]

    def of_batch(self, batch: int) -> list[Question]:
        """Return the questions of the items of a batch, answered ones too, the oldest first."""
        return [_question_of(row) for row in self._engine.read(SQL.of_batch, {"batch": batch})]

    def of_work(self, work: int) -> list[Question]:
        """Return the questions of one cycle of an item, the oldest first."""
        return [_question_of(row) for row in self._engine.read(SQL.of_work, {"work": work})]

    def parked(self, batch: int) -> set[str]:
        """Return the ids of the tasks of a batch that wait for an answer."""
        return {row[0] for row in self._engine.read(SQL.open_for_batch, {"batch": batch})}


def _question_of(row: Row) -> Question:
    (id_, work, attempt, number, batch, task, asker, text, choices, place, asked_at, answer, by, answered_at,
     key, state) = row  # fmt: skip
    return Question(
        id=id_, work=work, attempt=attempt, number=number, batch=batch, task=task, asker=asker,
        text=from_column(text), choices=tuple(json.loads(choices)), place=json.loads(place),
        asked_at=asked_at, answer=from_column(answer) if answer else "", answered_by=by or "",
        answered_at=answered_at, key=key, state=state,
    )  # fmt: skip
