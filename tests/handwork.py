"""Batches in folders, and a worker that goes through them by hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hypervisor.core.process import this_process
from hypervisor.queue.batch import Batch
from hypervisor.queue.batches import open_folder
from hypervisor.store.liveness import new_worker_id
from hypervisor.store.records import Claim, Completion, Worker, WorkerKind


def batch_in(folder: Path, *items: str) -> Batch:
    """Make a batch of these items in a folder that has a store of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "queue.txt").write_text("".join(f"{item}\n" for item in items), "utf-8", "surrogateescape")
    batch = open_folder(str(folder), cwd=str(folder))
    batch.take_in()
    return batch


class Hands:
    """A worker process's hands on a batch."""

    def __init__(self, batch: Batch, name: str = "batch-worker") -> None:
        self.batch = batch
        self.worker = Worker(
            id=new_worker_id("worker", os.getpid()), kind=WorkerKind.LEASE, name=name, process=this_process()
        )
        batch.store.claims.add_worker(self.worker)

    def begin(self, item: str, log: str = "") -> Claim:
        """Claim one item."""
        batch, ref = self.batch, self.batch.ref(item)
        claim = batch.store.claims.claim(self.worker, ref.key, ref.item, batch=batch.number, reopen=False)
        assert isinstance(claim, Claim), claim
        if log:
            batch.store.claims.set_log(claim, log)
        return claim

    def end(self, claim: Claim, status: str = "success", **result: Any) -> None:
        """Complete a claim."""
        known = {key: result.pop(key) for key in ("tokens", "cost_usd", "log") if key in result}
        told = {"status": status, "outcome": status, **result}
        self.batch.store.claims.complete_one(
            Completion(attempt=claim.attempt, status=status, result=told, **known)
        )

    def do(self, item: str, status: str = "success", **result: Any) -> None:
        """Claim an item and complete it."""
        self.end(self.begin(item), status, **result)


def retry(batch: Batch, item: str) -> None:
    """Open a finished item again, as `hypervisor retry` does."""
    work = batch.store.claims.latest(batch.ref(item).key)
    assert work is not None
    assert batch.store.claims.reopen(work.id, batch.number) is not None


def cancel(batch: Batch, item: str) -> None:
    """Cancel an item, as `hypervisor cancel` does."""
    ref = batch.ref(item)
    assert batch.store.claims.cancel(
        ref.key, ref.item, {"status": "skipped", "outcome": "cancelled"}, "a person"
    )
