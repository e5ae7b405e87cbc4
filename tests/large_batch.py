"""A batch of many items in the real store, to look at: most succeed, some fail with a log, a few wait."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from hypervisor.core.process import this_process
from hypervisor.queue.batch import Batch
from hypervisor.queue.batches import open_folder
from hypervisor.store.events import RunEvent
from hypervisor.store.liveness import new_worker_id
from hypervisor.store.records import Completion, Worker, WorkerKind

REASONS = [
    "exit 1: AssertionError: expected 3 rows, found {}",
    "exit 2: no such table: orders_{}",
    "timed out after 60 s",
    "killed by signal 9",
]
#: Results that are committed together while the batch is laid out.
_TOGETHER = 500
#: The story takes place within the last hour; the store itself knows only now.
_TIMES = (
    "UPDATE attempt SET claimed_at = :begin, ended_at = :end WHERE id = :attempt",
    "UPDATE work SET decided_at = :end, published_at = :end"
    " WHERE id = (SELECT work FROM attempt WHERE id = :attempt)",
)
_EVENT_TIMES = (
    "UPDATE event SET at = (SELECT CASE event.kind WHEN 'claimed' THEN a.claimed_at ELSE a.ended_at END"
    " FROM attempt AS a WHERE a.id = event.attempt) WHERE attempt IS NOT NULL"
)


def lay_out(folder: Path, items: int, workers: int) -> Batch:
    """Make the batch; everything but the last 2 % of its items has a result."""
    folder.mkdir(parents=True)
    names = [f"notes/2026/{n % 12 + 1:02}/entry-{n:05}.md" for n in range(items)]
    (folder / "queue.txt").write_text("".join(f"{name}\n" for name in names), "utf-8")
    (folder / "logs").mkdir()
    batch = open_folder(str(folder), cwd=str(folder))
    batch.take_in()
    dice, claims = random.Random(7), batch.store.claims
    hands = [new_worker(batch) for _ in range(workers)]
    done = items - items // 50
    pace = 3600 / max(1, done) * workers
    free_at = [time.time() - 3600.0 + dice.uniform(0, pace) for _ in hands]
    times, ended = list[dict[str, int]](), list[Completion]()
    for _ in range(done):
        number = min(range(workers), key=free_at.__getitem__)
        start, seconds = free_at[number], dice.uniform(0.6, 1.3) * pace
        free_at[number] = start + seconds * 1.02
        (claim,) = claims.claim_next(hands[number], batch.number, 1)
        times.append({
            "attempt": claim.attempt, "begin": round(1000 * start), "end": round(1000 * (start + seconds)),
        })  # fmt: skip
        ended.append(_result(batch, claim.attempt, claim.key, seconds, dice))
        if len(ended) == _TOGETHER:
            claims.complete(ended)
            ended.clear()
    claims.complete(ended)
    batch.store.engine.write(lambda tx: [tx.each(statement, times) for statement in _TIMES])
    batch.store.engine.write(lambda tx: tx.run(_EVENT_TIMES))
    for minute in range(0, 60, 2):
        heat = 0.35 + 0.4 * (20 < minute < 40)
        figures = {
            "zone": "warning" if heat > 0.6 else "safe",
            "cpu_percent": round(100 * (heat + dice.uniform(0, 0.1)), 1),
            "ram_percent": round(40 + 30 * heat + dice.uniform(0, 3), 1),
        }
        batch.store.events.add(RunEvent.READING, figures, batch=batch.number)
        _move_event(batch, round(1000 * (time.time() - 3600 + minute * 60)))
    return batch


def _move_event(batch: Batch, at: int) -> None:
    """Give the latest event another time."""
    moment = {"at": at, "id": batch.store.events.last()}
    batch.store.engine.write(lambda tx: tx.run("UPDATE event SET at = :at WHERE id = :id", moment))


def new_worker(batch: Batch) -> Worker:
    """Register a worker that is never seen to die."""
    worker = Worker(
        id=new_worker_id("worker", os.getpid()), kind=WorkerKind.LEASE, name="batch-worker",
        process=this_process(),
    )  # fmt: skip
    batch.store.claims.add_worker(worker)
    return worker


def _result(batch: Batch, attempt: int, key: str, seconds: float, dice: random.Random) -> Completion:
    roll, log = dice.random(), f"logs/{key}-1"
    status, outcome = "success", f"{dice.randrange(40)} lines changed"
    if roll < 0.02:
        status, outcome = "failed", dice.choice(REASONS).format(dice.randrange(90))
        trace = "".join(f'  File "work.py", line {n}, in step_{n}\n' for n in range(80))
        text = f"\x1b[31mTraceback\x1b[0m (most recent call last):\n{trace}{outcome}\n"
        Path(batch.folder, log + ".err").write_text(text, "utf-8")
    elif roll < 0.025:
        status, outcome = "blocked", "which of the two accounts is meant?"
    tokens, cost = dice.randrange(4_000, 60_000), round(dice.uniform(0.01, 0.2), 4)
    result = {
        "status": status, "outcome": outcome, "runner": "exec", "seconds": round(seconds, 3),
        "evidence": {"exit": 0 if status == "success" else 1}, "tokens": tokens, "cost_usd": cost,
    }  # fmt: skip
    return Completion(attempt=attempt, status=status, result=result, tokens=tokens, cost_usd=cost, log=log)
