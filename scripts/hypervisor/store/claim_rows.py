"""What rows of claims mean as records, and the steps that several transactions of claims share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..core.errors import Loss
from ..core.process import Identity
from . import statements
from .base import Row, Transaction
from .columns import from_column, plain, to_column
from .records import (
    Accepted,
    AgentTask,
    Answer,
    Attempt,
    Completion,
    Held,
    Result,
    Work,
    Worker,
    WorkerKind,
)

SQL = statements.load("claims")

#: One encoder for all, as `json.dumps` makes one a call.
_encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


def add_worker(tx: Transaction, worker: Worker) -> None:
    """Register a worker within a transaction."""
    process = worker.process
    tx.run(
        SQL.add_worker,
        {"id": worker.id, "kind": worker.kind.value, "name": worker.name, "host": process.host,
         "boot": process.boot, "pid_namespace": process.pid_namespace, "pid": process.pid,
         "process_start": process.start, "session": worker.session, "agent": worker.agent},
    )  # fmt: skip


def add_agent_claim(
    tx: Transaction, session: str, agent: str, attempt: int, task: AgentTask, *, assigned: bool = False
) -> None:
    """Note, within a transaction, under which claim an agent works."""
    tx.run(SQL.add_session, {"session": session})
    tx.run(
        SQL.add_agent_claim,
        {"session": session, "agent": agent, "attempt": attempt, "task": plain(task.task),
         "receipts": json.dumps(task.receipts), "receipts_to": plain(task.receipts_to),
         "assigned": int(assigned)},
    )  # fmt: skip


def ready_work(tx: Transaction, key: str, text: str, *, reopen: bool) -> Work:
    """Return the latest cycle of an item, made where it is missing or, with *reopen*, where it is over."""
    rows = tx.run(SQL.latest, {"key": key})
    latest = work_of(rows[0]) if rows else None
    if latest is not None and not (reopen and latest.decided and latest.published):
        return latest
    cycle, number = (latest.cycle + 1, latest.last_number) if latest else (1, 0)
    made = tx.run(
        SQL.insert_work, {"key": key, "cycle": cycle, "text": to_column(text), "last_number": number}
    )
    fresh = work_of(tx.run(SQL.latest, {"key": key})[0])
    if latest is not None and made:
        tx.run(SQL.add_event, event_row("reopened", fresh.id, None, f"cycle {fresh.cycle}"))
    return fresh


def work_of(row: Row) -> Work:
    """Return the work in a row of the statements ``latest`` and ``work``."""
    id_, key, cycle, text, state, attempts, number, result, published = row
    return Work(
        id=id_, key=key, cycle=cycle, text=from_column(text), state=state, attempts=attempts,
        last_number=number, result=None if result is None else json.loads(result), published=bool(published),
    )  # fmt: skip


def worker_of(row: Row) -> Worker:
    """Return the worker in a row of ten columns: id, kind, name, process (five), session, agent."""
    id_, kind, name, host, boot, namespace, pid, start, session, agent = row
    process = Identity(host=host, boot=boot, pid_namespace=namespace, pid=pid, start=start)
    return Worker(id=id_, kind=WorkerKind(kind), name=name, process=process, session=session, agent=agent)


def attempt_of(row: Row) -> Attempt:
    """Return the attempt in a row of the statement ``attempts``."""
    (id_, number, name, session, agent, claimed, ended, outcome, detail, counted, revert, restored, tokens,
     cost, log, worker, runner, work, batch) = row  # fmt: skip
    return Attempt(
        id=id_, work=work, batch=batch, number=number, worker=worker, name=name or "",
        session=session or "", agent=agent or "",
        claimed_at=claimed, ended_at=ended, outcome=outcome, detail=detail or "", counted=bool(counted),
        revert=None if revert is None else json.loads(revert), restored=bool(restored), tokens=tokens,
        cost_usd=cost, log=log, runner=runner or "",
    )  # fmt: skip


def held_of(row: Row) -> Held:
    """Return the claim in a row of the statements ``holder`` and ``holders_of``."""
    attempt, work, number, claimed, expires, revert, batch, key, cycle, text, lock, *worker, silent = row
    return Held(
        attempt=attempt, work=work, number=number, key=key, cycle=cycle, text=from_column(text),
        worker=worker_of(tuple(worker)), claimed_at=claimed, expires_in=expires,
        revert=None if revert is None else json.loads(revert), batch=batch, lock=lock or "", silent=silent,
    )  # fmt: skip


def answer_again(tx: Transaction, one: Completion, text: str) -> Answer:
    """Answer a completion whose attempt has ended: as the first time if it is the same, else why not."""
    rows = tx.run(SQL.fate, {"attempt": one.attempt})
    if rows and rows[0][1] == one.status and rows[0][4] == text:
        work = tx.run(SQL.work_of_attempt, {"attempt": one.attempt})[0][0]
        return Accepted(work=work, result=one.result)
    return loss_in(tx, one.attempt)


def loss_in(tx: Transaction, attempt: int) -> Loss:
    """Return, within a transaction, how an attempt was lost."""
    rows = tx.run(SQL.fate, {"attempt": attempt})
    if not rows:
        return Loss(key="", attempt=0, reason="unknown", detail="the store has no such attempt")
    return loss_of(rows[0])


def loss_of(row: Row) -> Loss:
    """Return the loss in a row of the statement ``fate``."""
    number, outcome, detail, state, result, key, winner = row
    if outcome == "revoked" and winner is not None:
        what = "cancelled" if state == "skipped" else f"finished as {state}"
        return Loss(
            key=key, attempt=number, reason="finished", detail=f"{what} by attempt {winner}; {detail}"
        )
    if outcome == "revoked":
        return Loss(key=key, attempt=number, reason="revoked", detail=detail or "")
    if outcome == "again":
        return Loss(key=key, attempt=number, reason="released", detail=detail or "")
    said = json.loads(result).get("outcome", "") if result else ""
    return Loss(key=key, attempt=number, reason="finished", detail=f"this attempt ended as {outcome}: {said}")


def gave_up_result(tx: Transaction, work: int) -> Result:
    """Return the result of work whose attempts are used up."""
    tries = tx.run(SQL.counted_attempts, {"work": work})
    said = "; ".join(f"attempt {number}: {detail or 'no reason given'}" for number, detail, _ in tries)
    # Where results are published by a merge, that of work that nobody finished is, too.
    marks = json.loads(tries[-1][2]) if tries and tries[-1][2] else {}
    deliver = {"deliver": marks["deliver"]} if marks.get("deliver") else {}
    text = from_column(tx.run(SQL.limit_reached, {"work": work})[0][0])
    return {
        "item": text, "status": "failed", "outcome": f"gave up after {len(tries)} attempts: {said}",
        "attempt": tries[-1][0] if tries else None, "gave_up": True, **deliver,
    }  # fmt: skip


def event_row(kind: str, work: int | None, attempt: int | None, detail: str | None) -> dict[str, Any]:
    """Return the parameters of an event of work."""
    return {"kind": kind, "batch": None, "work": work, "attempt": attempt, "detail": detail}


def json_text(value: Mapping[str, Any]) -> str:
    """Return *value* as text that is the same for equal values."""
    return _encode(value)
