"""Merges: which commits runs put on branches, whose right it is to do so, and which results wait for it.

On one machine a row is written *before* git moves the branch, and marked once it has. So the store says
where a batch's branch is and whose a commit is, also where the run dies in between. A ref that says otherwise
was written by somebody else.

On a store of many machines a result is accepted first, and published by the merge that brings it to the
remote's branch. Whoever merges holds that branch's lease. **The lease only spares work**: two that hold it at
once cannot do harm, as the remote takes fast-forwards only, what is merged already is not merged again, and
the rows below are written under the lease's token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import statements
from .base import Engine, Transaction
from .claim_rows import SQL as CLAIMS
from .claim_rows import add_worker, event_row, json_text, ready_work, work_of, worker_of
from .columns import plain
from .records import Claim, Work, Worker

SQL = statements.load("merges")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A right that one worker has at a time. Having this record proves nothing: the token is compared."""

    name: str
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """A result that is on the remote's branch."""

    work: int
    #: Its batch, None where it was decided outside of one.
    batch: int | None
    #: The attempt whose result it is, None where there was none.
    attempt: int | None
    #: The commit of the remote's branch that has its work, and its task's file as the result says.
    commit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Undelivered:
    """A result that is accepted and not on the remote's branch yet."""

    work: Work
    attempt: int | None
    batch: int | None

    def on(self, commit: str) -> Delivered:
        """Return it as delivered with *commit*."""
        return Delivered(work=self.work.id, batch=self.batch, attempt=self.attempt, commit=commit)


@dataclass(frozen=True, slots=True)
class BatchMerges:
    """The merges on the branch of one batch."""

    engine: Engine
    #: `BatchRecord.id`.
    batch: int

    def add(self, commit: str, claim: Claim | None = None) -> None:
        """Note a commit that the branch is about to be moved to. Durable on return.

        Args:
            commit: Its full hash.
            claim: Whose work it merges; None for what others have put on the user's branch.
        """
        row = {
            "batch": self.batch, "commit_id": commit, "is_home": 0, "work": claim and claim.work,
            "attempt": claim and claim.attempt,
        }  # fmt: skip
        self.engine.write(lambda tx: tx.run(SQL.add, row), durable=True)

    def set_moved(self, commit: str) -> None:
        """Note that the branch was moved to a commit that was added before."""
        row = {"batch": self.batch, "commit_id": commit}
        self.engine.write(lambda tx: tx.run(SQL.set_moved, row))

    def close(self) -> None:
        """Note that the branch was deleted; what is merged next begins a new one."""
        self.engine.write(lambda tx: tx.run(SQL.close, {"batch": self.batch}))

    def tips(self) -> list[tuple[str, bool]]:
        """Return the branch's commits since it was made, oldest first; each with whether it moved there."""
        return [(row[0], bool(row[1])) for row in self.engine.read(SQL.tips, {"batch": self.batch})]

    def of_work(self, work: int) -> list[tuple[str, bool]]:
        """Return the commits that were to merge this cycle of an item, the newest first, as `tips` does."""
        rows = self.engine.read(SQL.of_work, {"batch": self.batch, "work": work})
        return [(row[0], bool(row[1])) for row in rows]


class Merges:
    """The merges of a store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # ------------------------------------------------------------ one machine

    def of_batch(self, batch: int) -> BatchMerges:
        """Return the merges of a batch (`BatchRecord.id`)."""
        return BatchMerges(self._engine, batch)

    def add_home(self, batch: int, commit: str) -> None:
        """Note that the user's branch is about to be moved to *commit*. Durable on return."""
        row = {"batch": batch, "commit_id": commit, "is_home": 1, "work": None, "attempt": None}
        self._engine.write(lambda tx: tx.run(SQL.add, row), durable=True)

    def is_known(self, commit: str, *, home: bool = False) -> bool:
        """Tell whether a run put *commit* on a branch, with *home* on the user's or the remote's."""
        return bool(self._engine.read(SQL.known, {"commit_id": commit, "is_home": int(home)}))

    # ------------------------------------------------------------------ lease

    def take_lease(self, name: str, worker: Worker, seconds: float, dead: str = "") -> Lease | None:
        """*Atomically* take a lease that is free or over, or that *dead* holds; None where another has it.

        Args:
            name: What it is about.
            worker: Who takes it; registered on the way.
            seconds: For how long its holder may be silent.
            dead: `Worker.id` of a holder that is known to be dead; "" for none.
        """
        parameters = {"name": name, "holder": worker.id, "lease": round(seconds * 1000), "dead": dead}

        def body(tx: Transaction) -> Lease | None:
            add_worker(tx, worker)
            rows = tx.run(SQL.take_lease, parameters)
            return Lease(name=name, token=rows[0][0]) if rows else None

        return self._engine.write(body)

    def renew_lease(self, lease: Lease, seconds: float) -> bool:
        """Renew a lease; return False where another has it by now."""
        parameters = {"name": lease.name, "token": lease.token, "lease": round(seconds * 1000)}
        return bool(self._engine.write(lambda tx: tx.run(SQL.renew_lease, parameters)))

    def give_lease(self, lease: Lease) -> None:
        """Give a lease back, unless another has it by now."""
        parameters = {"name": lease.name, "token": lease.token}
        self._engine.write(lambda tx: tx.run(SQL.give_lease, parameters))

    def lease_holder(self, name: str) -> Worker | None:
        """Return who holds a lease now; that worker may be dead."""
        rows = self._engine.read(SQL.lease_holder, {"name": name})
        return worker_of(rows[0]) if rows else None

    # ---------------------------------------------------------------- results

    def undelivered(self, branch: str, limit: int = 500) -> list[Undelivered]:
        """Return results that wait to be merged to *branch* of the remote, the oldest first."""
        rows = self._engine.read(SQL.undelivered, {"limit": limit})
        found = [Undelivered(work=work_of(row[:9]), attempt=row[9], batch=row[10]) for row in rows]
        return [one for one in found if (one.work.result or {}).get("deliver") == branch]

    def deliver(self, lease: Lease, done: Iterable[Delivered]) -> bool:
        """*Atomically* note that results are on the remote's branch; that publishes them. Durable on return.

        Returns:
            False, and nothing is noted, where another holds the lease by now: that one finds them merged.
        """
        rows = list(done)

        def body(tx: Transaction) -> bool:
            if not self._holds(tx, lease):
                return False
            for one in sorted(rows, key=lambda each: each.work):
                if tx.run(SQL.deliver, {"work": one.work}) and one.batch is not None:
                    tx.run(SQL.add, {
                        "batch": one.batch, "commit_id": one.commit, "is_home": 2, "work": one.work,
                        "attempt": one.attempt,
                    })  # fmt: skip
            return True

        return self._engine.write(body, durable=True)

    def overrule(
        self, lease: Lease, one: Undelivered, worker: Worker, status: str, result: Mapping[str, Any]
    ) -> bool:
        """*Atomically* follow a result that cannot be merged by another one, in the item's next cycle.

        A result never changes; the batches of the item go on with the new one, which waits to be delivered
        in its turn. Durable on return.

        Returns:
            False, and nothing is changed, where another holds the lease by now, or has delivered it.
        """

        def body(tx: Transaction) -> bool:
            if not self._holds(tx, lease) or not tx.run(SQL.deliver, {"work": one.work.id}):
                return False
            add_worker(tx, worker)
            fresh = ready_work(tx, one.work.key, one.work.text, reopen=True)
            ids = json.dumps([fresh.id])
            tx.run(CLAIMS.claim_work, {"work": fresh.id})
            ((attempt, _, number),) = tx.run(CLAIMS.open_attempts, {
                "ids": ids, "worker": worker.id, "batch": one.batch, "lease": 0, "lock": None, "locks": 0,
                "revert": None,
            })  # fmt: skip
            tx.run(CLAIMS.complete_attempt, {
                "attempt": attempt, "status": status, "detail": plain(result.get("outcome", "")),
                "tokens": None, "cost_usd": None, "log": None,
            })  # fmt: skip
            tx.run(CLAIMS.decide, {
                "work": fresh.id, "status": status, "result": json_text({**result, "attempt": number}),
                "published": 0,
            })  # fmt: skip
            tx.run(SQL.go_on_with, {"work": one.work.id, "next": fresh.id})
            tx.run(CLAIMS.add_event, event_row("completed", fresh.id, attempt, status))
            return True

        return self._engine.write(body, durable=True)

    def delivered(self) -> dict[str, tuple[str, str]]:
        """Return the items whose latest result was delivered, by key: its status, and the commit."""
        return {key: (state, commit) for key, state, commit in self._engine.read(SQL.delivered_all)}

    def delivered_with(self, work: int) -> str:
        """Return the commit that a cycle's result was delivered with, "" where it was not."""
        rows = self._engine.read(SQL.delivered, {"work": work})
        return str(rows[0][0]) if rows else ""

    def _holds(self, tx: Transaction, lease: Lease) -> bool:
        return bool(tx.run(SQL.lock_lease, {"name": lease.name, "token": lease.token}))
