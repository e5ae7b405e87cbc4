"""Claims: who works on what, and how it ended. Why no item is done twice: docs/store.md.

It is one module, though a long one, so that all that begins or ends a claim can be checked in one reading.
Each method is one short transaction that checks its guard in the statement itself, changes the rows and
appends the event. The guards:

========  ==========================================================================================
claim     the work is ``ready``
renew     the attempt is open
complete  the attempt is open; durable before the caller is told
fail      the attempt is open
revoke    the attempt that was judged is open, and still silent or still its dead worker's
reopen    the latest cycle has its published result
========  ==========================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..core.errors import ClaimLost, Loss
from .base import Engine, Row, Transaction
from .claim_queries import ClaimQueries
from .claim_rows import (
    SQL,
    add_agent_claim,
    add_worker,
    answer_again,
    event_row,
    gave_up_result,
    held_of,
    json_text,
    loss_in,
    ready_work,
    work_of,
    worker_of,
)
from .columns import from_column, plain
from .records import (
    Accepted,
    AgentTask,
    Answer,
    Claim,
    Completion,
    Decided,
    Held,
    Result,
    Revoked,
    Work,
    Worker,
)

#: On PostgreSQL an item may change hands between two statements: how often it is looked at again.
_TRIES = 50
#: Claims that one call takes from dead or silent workers; those that are left are taken by the next call.
SWEEP = 200


class Claims(ClaimQueries):
    """The claims, attempts and results of a store.

    Args:
        engine: The database.
        attempts: Counted attempts after which an item is given up as ``failed``.
        lease_seconds: For how long a worker may be silent before its claims are taken from it.
    """

    def __init__(self, engine: Engine, *, attempts: int = 3, lease_seconds: float = 900.0) -> None:
        super().__init__(engine)
        self._limit = attempts
        self._lease = round(lease_seconds * 1000)

    # ------------------------------------------------------------------ claim

    def add_worker(self, worker: Worker) -> None:
        """Register *worker*, or note that it was heard."""
        self._engine.write(lambda tx: add_worker(tx, worker))

    def claim_next(self, worker: Worker, batch: int, limit: int, *, locks: bool = False) -> list[Claim]:
        """*Atomically* claim up to *limit* ready items of a batch, the most urgent first.

        Args:
            worker: A registered worker.
            batch: `BatchRecord.id`.
            limit: The most that are wanted.
            locks: Whether the claims make lock directories, named by their keys.

        Returns:
            Fewer than *limit*, or none, where no more are ready now.
        """

        def body(tx: Transaction) -> list[Claim]:
            rows = tx.run(SQL.next_ready, {"batch": batch, "limit": limit})
            if not rows:
                return []
            ids = json.dumps([row[0] for row in rows])
            claimed = {row[0] for row in tx.run(SQL.claim_works, {"ids": ids})}
            # Where another session was faster than the lock, which only PostgreSQL could do.
            rows = [row for row in rows if row[0] in claimed]
            return self._open(tx, rows, worker.id, batch, locks=locks)

        return self._engine.write(body)

    def claim(  # noqa: PLR0913 - what is kept of a claim
        self,
        worker: Worker,
        key: str,
        text: str,
        *,
        revert: Mapping[str, Any] | None = None,
        reopen: bool = False,
        batch: int | None = None,
        lock: str = "",
        task: AgentTask | None = None,
    ) -> Claim | Held | Decided:
        """*Atomically* claim the item *key*, which is made known to the store if it is not.

        Args:
            worker: Who claims; registered on the way.
            key: The item's key.
            text: The queue line; for a task its path below the project root.
            revert: What the claim is about to change in the task file, kept with the attempt.
            reopen: Whether a finished and published item begins its next cycle.
            batch: The batch in whose name the work is done, if any.
            lock: The name of the lock directory that the claim makes, "" for none.
            task: What the worker's session is to know of the claim (see `sessions.AgentClaim`); None for a
                claim that is no work of an agent, and for a worker without a session.

        Returns:
            The claim; or who holds the item; or its result.
        """

        def body(tx: Transaction) -> Claim | Held | Decided:
            add_worker(tx, worker)
            for _ in range(_TRIES):
                work = ready_work(tx, key, text, reopen=reopen)
                if work.result is not None:
                    return Decided(work=work.id, cycle=work.cycle, result=work.result)
                if rows := tx.run(SQL.claim_work, {"work": work.id}):
                    found = self._open(tx, rows, worker.id, batch, revert=revert, lock=lock)
                    if task is not None and worker.session:
                        add_agent_claim(tx, worker.session, worker.agent, found[0].attempt, task)
                    return found[0]
                if held := tx.run(SQL.holder, {"work": work.id}):
                    return held_of(held[0])
            raise RuntimeError(f"work {work.id} ({work.key}) is {work.state} without an open attempt")

        return self._engine.write(body)

    def renew(self, attempts: Sequence[int]) -> set[int]:
        """Renew the leases of open attempts; return those of *attempts* that are no longer open."""
        if not attempts:
            return set()
        parameters = {"ids": json.dumps(list(attempts)), "lease": self._lease}
        renewed = self._engine.write(lambda tx: tx.run(SQL.renew, parameters))
        return set(attempts) - {row[0] for row in renewed}

    def set_revert(self, claim: Claim, revert: Mapping[str, Any]) -> None:
        """Keep what the claim is about to change in the task file.

        Raises:
            ClaimLost: The claim is no longer held.
        """
        self._note(SQL.set_revert, claim.attempt, revert=json_text(revert))

    def set_log(self, claim: Claim, log: str, runner: str = "") -> None:
        """Keep where the attempt's log is, and what works on it (``claude``, ``exec`` ...).

        Raises:
            ClaimLost: The claim is no longer held.
        """
        self._note(SQL.set_log, claim.attempt, log=log, runner=runner or None)

    # -------------------------------------------------------------------- end

    def complete(self, completions: Sequence[Completion]) -> list[Answer]:
        """*Atomically* make each of *completions* the one result of its item; durable on return.

        May be called again with the same completions: it then answers as it did the first time.

        Returns:
            For each completion, in order, the result as accepted, or why it was not. A loss is final:
            that attempt never wins later.

        Raises:
            OSError: Undecided; call again.
        """
        # Outside the transaction, in which others wait.
        ends = [
            {"attempt": one.attempt, "status": one.status, "detail": plain(one.result.get("outcome", "")),
             "tokens": one.tokens, "cost_usd": one.cost_usd, "log": one.log, "result": json_text(one.result),
             "published": int(one.published)}
            for one in completions
        ]  # fmt: skip
        ids = json.dumps([one.attempt for one in completions])

        def body(tx: Transaction) -> list[Answer]:
            held: dict[int, int] = dict(tx.run(SQL.lock_open, {"ids": ids}))
            answers: list[Answer | None] = []
            mine = []
            for one, end in zip(completions, ends, strict=True):
                work = held.pop(one.attempt, None)  # the first of two ends of one attempt counts
                answers.append(None if work is None else Accepted(work=work, result=one.result))
                if work is not None:
                    mine.append({**end, "work": work})
            if mine:
                tx.each(SQL.complete_attempt, mine)
                tx.each(SQL.decide, mine)
                tx.run(SQL.add_completed, {"ids": json.dumps([end["attempt"] for end in mine])})
            return [
                answer_again(tx, one, str(end["result"])) if answer is None else answer
                for answer, one, end in zip(answers, completions, ends, strict=True)
            ]

        return self._engine.write(body, durable=True)

    def complete_one(self, completion: Completion) -> Accepted:
        """Do as `complete` does for one.

        Raises:
            ClaimLost: Another end came first. Final.
            OSError: Undecided; call again.
        """
        answer = self.complete([completion])[0]
        if isinstance(answer, Loss):
            raise ClaimLost(answer)
        return answer

    def fail(  # noqa: PLR0913 - what is kept of an attempt
        self,
        claim: Claim,
        reason: str,
        *,
        counted: bool = True,
        limit: int | None = None,
        delay: float = 0.0,
        tokens: int | None = None,
        cost_usd: float | None = None,
        log: str | None = None,
    ) -> Decided | None:
        """Give the item back so that it is tried again.

        Args:
            claim: An open claim.
            reason: For people.
            counted: Whether it costs an attempt. A release, a drain and a rate limit cost none.
            limit: Counted attempts after which the item is given up; the store's own by default.
            delay: Seconds before which `claim_next` does not return the item.
            tokens: What the attempt spent, None for unknown.
            cost_usd: The same in money.
            log: Where its log is.

        Returns:
            The ``failed`` result, if this was the last attempt that the limit allows.

        Raises:
            ClaimLost: The claim is no longer held.
        """
        parameters = {
            "attempt": claim.attempt, "outcome": "again", "detail": plain(reason), "counted": int(counted),
            "tokens": tokens, "cost_usd": cost_usd, "log": log,
        }  # fmt: skip

        def body(tx: Transaction) -> Decided | Loss | None:
            if not tx.run(SQL.end_attempt, parameters):
                return loss_in(tx, claim.attempt)
            gave_up = self._give_back(tx, claim.work, counted=counted, limit=limit, delay=delay)
            tx.run(SQL.add_event, event_row("released", claim.work, claim.attempt, plain(reason)))
            return (
                Decided(work=claim.work, cycle=claim.cycle, result=gave_up, gave_up=True) if gave_up else None
            )

        answer = self._engine.write(body)
        if isinstance(answer, Loss):
            raise ClaimLost(answer)
        return answer

    def release(self, claim: Claim, reason: str, *, delay: float = 0.0) -> None:
        """Give the item back at no cost in attempts.

        Raises:
            ClaimLost: The claim is no longer held.
        """
        self.fail(claim, reason, counted=False, delay=delay)

    def unclaim(self, claims: Iterable[Claim], *, delay: float = 0.0) -> None:
        """Give back claims whose work was never begun: as if they had not been made.

        Their attempts are deleted and the numbers used again. Those that were lost meanwhile are passed
        over. A lock directory has to be removed before.

        Args:
            claims: Claims of this process.
            delay: Seconds before which `claim_next` does not return the items.
        """
        attempts = [claim.attempt for claim in claims]
        if attempts:
            self._engine.write(lambda tx: _unclaim(tx, attempts, delay))

    def set_lock(self, claim: Claim, lock: str) -> None:
        """Keep the name of the lock directory that is about to be made.

        Raises:
            ClaimLost: The claim is no longer held.
        """
        self._note(SQL.set_lock, claim.attempt, lock=lock)

    def release_in(
        self,
        tx: Transaction,
        attempt: int,
        reason: str,
        tokens: int | None = None,
        cost_usd: float | None = None,
    ) -> int | None:
        """Do as `release` does, as a part of another noun's transaction.

        Returns:
            The work; None if the attempt had ended.
        """
        parameters = {
            "attempt": attempt, "outcome": "again", "detail": plain(reason), "counted": 0, "tokens": tokens,
            "cost_usd": cost_usd, "log": None,
        }  # fmt: skip
        ended = tx.run(SQL.end_attempt, parameters)
        if not ended:
            return None
        work = int(ended[0][1])
        self._give_back(tx, work, counted=False)
        tx.run(SQL.add_event, event_row("released", work, attempt, plain(reason)))
        return work

    def revoke(self, attempt: int, why: str, *, counted: bool = True) -> Revoked | None:
        """End an open attempt, whoever holds it; its holder can no longer complete.

        Returns:
            What was revoked; None if the attempt had ended.
        """
        return self._engine.write(lambda tx: self._revoke(tx, attempt, why, counted=counted))

    def cancel(
        self,
        key: str,
        text: str,
        result: Result,
        by: str,
        *,
        published: bool = True,
        reopen: bool = True,
    ) -> Work | None:
        """*Atomically* end the item as ``skipped``, whoever holds it. Durable on return.

        Args:
            key: The item's key.
            text: As `claim` takes it.
            result: What is kept.
            by: Who cancels.
            published: Whether nothing is left to be written to a file.
            reopen: Whether the next cycle of an item that has its published result is cancelled.

        Returns:
            The cancelled work; None if the item has its result already.
        """

        def body(tx: Transaction) -> Work | None:
            why = plain(f"cancelled by {by}")
            for _ in range(_TRIES):
                work = ready_work(tx, key, text, reopen=reopen)
                if work.decided:
                    return None
                for (attempt,) in tx.run(SQL.open_attempt_of, {"work": work.id}):
                    ended = {"attempt": attempt, "outcome": "revoked", "detail": why, "counted": 0}
                    if tx.run(SQL.end_attempt, {**ended, "tokens": None, "cost_usd": None, "log": None}):
                        tx.run(SQL.add_event, event_row("revoked", work.id, attempt, why))
                # Not if it was claimed once more meanwhile: that attempt has to be ended first.
                done = tx.run(
                    SQL.cancel,
                    {"work": work.id, "number": work.last_number, "result": json_text(result),
                     "published": int(published)},
                )  # fmt: skip
                if done:
                    tx.run(SQL.not_ready, {"ids": json.dumps([work.id])})
                    tx.run(
                        SQL.add_event, event_row("cancelled", work.id, None, plain(result.get("outcome", "")))
                    )
                    return work_of(tx.run(SQL.work, {"work": work.id})[0])
            raise RuntimeError(f"work {work.id} ({work.key}) changed hands {_TRIES} times at one moment")

        return self._engine.write(body, durable=True)

    # ------------------------------------------------------------- take over

    def sweep_silent(self, limit: int = SWEEP) -> list[Revoked]:
        """Revoke attempts whose lease has ended, at most *limit* of them."""
        silent = [row[0] for row in self._engine.read(SQL.expired, {"limit": limit})]
        if not silent:
            return []

        def body(tx: Transaction) -> list[Revoked]:
            found = []
            for attempt in silent:
                why = f"silent for longer than its lease of {self._lease / 1000:g} s"
                if ended := tx.run(SQL.end_silent_attempt, {"attempt": attempt, "detail": why}):
                    found.append(self._taken_back(tx, attempt, ended[0][1], why, counted=True))
            return found

        return self._engine.write(body)

    def revoke_worker(
        self,
        worker: str,
        why: str,
        *,
        counted: bool = True,
        in_hand: int | None = None,
        limit: int = SWEEP,
    ) -> list[Revoked]:
        """Revoke the open attempts of a worker that is dead, at most *limit* of them.

        Args:
            worker: `Worker.id`.
            why: For people.
            counted: Whether it costs the items an attempt.
            in_hand: The only attempt that was begun, where that is known (0 for none): the others cost
                nothing.
            limit: The most that one call revokes.

        Returns:
            Those that were begun.
        """

        def body(tx: Transaction) -> list[Revoked]:
            rows = tx.run(SQL.open_of_worker, {"worker": worker, "limit": limit})
            waiting = [] if in_hand is None else [row for row in rows if row[0] != in_hand]
            # One with a lock directory stays on record, so that the directory is known as ours.
            _unclaim(tx, [row[0] for row in waiting if row[1] is None])
            locked = {row[0] for row in waiting if row[1] is not None}
            begun = [row[0] for row in rows if row not in waiting or row[0] in locked]
            found = [self._revoke(tx, one, why, counted=counted and one not in locked) for one in begun]
            return [one for one in found if one is not None]

        return self._engine.write(body)

    def forget_workers(self, seconds: float) -> None:
        """Delete the rows of processes that made no attempt, and that were last heard so long ago."""
        self._engine.write(lambda tx: tx.run(SQL.forget_workers, {"age": round(seconds * 1000)}))

    def holders(self) -> list[Worker]:
        """Return the workers that hold claims; some may be dead."""
        return [worker_of(row) for row in self._engine.read(SQL.holders)]

    def reopen(self, work: int, batch: int | None = None) -> Work | None:
        """*Atomically* begin the next cycle of a finished item.

        Args:
            work: The latest cycle of an item.
            batch: The batch that goes on with the next cycle, if any; others keep the result.

        Returns:
            The next cycle, the one that others have begun already where *batch* goes on with it; None where
            the item has no published result, or was reopened already.
        """

        def body(tx: Transaction) -> Work | None:
            old = work_of(tx.run(SQL.work, {"work": work})[0])
            latest = work_of(tx.run(SQL.latest, {"key": old.key})[0])
            if not old.decided or (latest.decided and not latest.published):
                return None
            # A batch that has gone on from this cycle, or another who has, leaves nothing to reopen.
            place = {"batch": batch, "work": old.id}
            if not tx.run(SQL.in_batch, place) if batch is not None else latest.id != old.id:
                return None
            fresh = ready_work(tx, old.key, old.text, reopen=True)
            if batch is not None and not tx.run(SQL.repoint, {**place, "next": fresh.id}):
                return None
            return fresh

        return self._engine.write(body)

    # ---------------------------------------------------------------- details

    def _open(  # noqa: PLR0913 - as above
        self,
        tx: Transaction,
        rows: Sequence[Row],
        worker: str,
        batch: int | None,
        *,
        revert: Mapping[str, Any] | None = None,
        lock: str = "",
        locks: bool = False,
    ) -> list[Claim]:
        """Insert the attempts of work that was just set running."""
        if not rows:
            return []
        ids = json.dumps([row[0] for row in rows])
        opened = tx.run(
            SQL.open_attempts,
            {"ids": ids, "worker": worker, "batch": batch, "lease": self._lease, "lock": lock or None,
             "locks": int(locks), "revert": None if revert is None else json_text(revert)},
        )  # fmt: skip
        tx.run(SQL.not_ready, {"ids": ids})
        tx.run(SQL.add_claimed, {"ids": json.dumps([row[0] for row in opened])})
        attempts = {work: (attempt, number) for attempt, work, number in opened}
        return [
            Claim(
                attempt=attempts[work][0], work=work, key=key, cycle=cycle, text=from_column(text),
                number=attempts[work][1], worker=worker, lock=lock or (key if locks else ""),
            )
            for work, key, cycle, text in rows
        ]  # fmt: skip

    def _revoke(self, tx: Transaction, attempt: int, why: str, *, counted: bool) -> Revoked | None:
        parameters = {
            "attempt": attempt, "outcome": "revoked", "detail": plain(why), "counted": int(counted),
            "tokens": None, "cost_usd": None, "log": None,
        }  # fmt: skip
        ended = tx.run(SQL.end_attempt, parameters)
        return self._taken_back(tx, attempt, ended[0][1], why, counted=counted) if ended else None

    def _taken_back(self, tx: Transaction, attempt: int, work: int, why: str, *, counted: bool) -> Revoked:
        gave_up = self._give_back(tx, work, counted=counted)
        tx.run(SQL.add_event, event_row("revoked", work, attempt, plain(why)))
        text = tx.run(SQL.limit_reached, {"work": work})[0][0]
        return Revoked(
            attempt=attempt, work=work, text=from_column(text), why=why, gave_up=gave_up is not None
        )

    def _give_back(
        self, tx: Transaction, work: int, *, counted: bool, limit: int | None = None, delay: float = 0.0
    ) -> Result | None:
        """Make running work ready again, or failed where its attempts are used up; return that result."""
        result = gave_up_result(tx, work)
        parameters = {
            "work": work, "counted": int(counted), "gave_up": json_text(result), "delay": round(delay * 1000),
            "limit": self._limit if limit is None else limit,
        }  # fmt: skip
        rows = tx.run(SQL.give_back, parameters)
        if rows and rows[0][0] == "failed":
            tx.run(SQL.add_event, event_row("completed", work, None, "failed"))
            return result
        tx.run(SQL.ready_again, {"work": work})
        return None

    def _note(self, statement: str, attempt: int, **values: Any) -> None:
        def body(tx: Transaction) -> Loss | None:
            return None if tx.run(statement, {"attempt": attempt, **values}) else loss_in(tx, attempt)

        if lost := self._engine.write(body):
            raise ClaimLost(lost)


def _unclaim(tx: Transaction, attempts: Sequence[int], delay: float = 0.0) -> None:
    rows = tx.run(SQL.forget_attempts, {"ids": json.dumps(list(attempts))})
    if not rows:
        return
    works = json.dumps([work for _, work in rows])
    tx.run(SQL.not_begun, {"ids": works, "delay": round(delay * 1000)})
    tx.run(SQL.all_ready_again, {"ids": works})
    tx.each(SQL.add_event, [event_row("released", work, attempt, "not begun") for attempt, work in rows])
