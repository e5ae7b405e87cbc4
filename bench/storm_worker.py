"""One worker of a storm, in a process of its own: claims, works, completes, and logs what it was told.

Its log has a line of JSON for each execution and each answer. The storm compares it with the store.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import time
from dataclasses import dataclass, replace
from typing import Any

from hypervisor.core.errors import ClaimLost
from hypervisor.core.process import this_process
from hypervisor.store.base import Engine
from hypervisor.store.liveness import WorkerLock, new_worker_id
from hypervisor.store.records import Accepted, Claim, Completion, Worker, WorkerKind
from hypervisor.store.sqlite import FILE, SqliteEngine
from hypervisor.store.store import Store

BATCH = 1
#: How often a worker looks again while others have what is left.
_PAUSE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the storm is."""

    folder: str
    #: A libpq connection string; "" for SQLite.
    url: str = ""
    lease: float = 2.0
    #: Items claimed, and completed, together.
    block: int = 8
    #: Seconds that an item takes on the average.
    work: float = 0.1
    #: Whether results are published into a file an item, as those of tasks are.
    files: bool = False

    def open(self) -> Store:
        """Open the store; no item is ever given up."""
        settings = {"claims": {"attempts": 1_000_000, "lease_seconds": self.lease}}
        return Store(self._engine(), self.folder, settings)

    def _engine(self) -> Engine:
        if not self.url:
            return SqliteEngine(os.path.join(self.folder, FILE))
        from hypervisor.store.postgres import PostgresEngine  # noqa: PLC0415 - only where it is used

        return PostgresEngine(self.url, "storm")


class StormWorker:
    """Works until every item has its result.

    Args:
        place: Where.
        kind: ``process``: its death is seen by its lock; ``lease``: by its silence; ``foreign``: a process on
            another machine, so by its silence too.
        name: Names its log.
        seed: Of its choices.
    """

    def __init__(self, place: Place, kind: str, name: str, seed: str) -> None:
        self.place, self.chance = place, random.Random(f"{seed}-{name}")
        process = this_process()
        if kind == "foreign":
            process = replace(process, host=f"host-{name}", boot=f"boot-{name}")
        self.worker = Worker(
            id=new_worker_id(name, os.getpid()),
            kind=WorkerKind.LEASE if kind == "lease" else WorkerKind.PROCESS,
            name=name,
            process=process,
        )
        path = os.path.join(place.folder, "logs", f"{name}.log")
        self.log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def tell(self, **words: Any) -> None:
        """Append a line to the log, whole or not at all."""
        os.write(self.log, json.dumps(words).encode() + b"\n")

    def run(self) -> None:
        """Work."""
        with self.place.open() as store:
            lock = WorkerLock(store.workers, self.worker.id)
            self.tell(worker=self.worker.id)
            store.claims.add_worker(self.worker)
            while True:
                store.rescuer.rescue_now_and_then()
                self.publish(store)
                if claims := store.claims.claim_next(self.worker, BATCH, self.place.block):
                    self.work(store, claims)
                elif store.batches.ready_in(BATCH) is None and not store.batches.any_running(BATCH):
                    break
                else:
                    time.sleep(_PAUSE)
            self.publish(store)
            lock.close()

    def work(self, store: Store, claims: list[Claim]) -> None:
        """Execute a block of items; end them one by one, or together."""
        together = self.chance.random() < 0.5
        ended: list[Completion] = []
        for number, claim in enumerate(claims):
            lost = store.claims.renew([one.attempt for one in claims[number:]])
            if claim.attempt in lost:
                continue
            self.tell(ran=claim.attempt, key=claim.key)
            time.sleep(self.chance.uniform(0, 2 * self.place.work))
            if self.chance.random() < 0.02:
                self._give_back(store, claim)
                continue
            result = {
                "status": "success",
                "key": claim.key,
                "attempt": claim.attempt,
                "nonce": secrets.token_hex(8),
            }
            ended.append(
                Completion(
                    attempt=claim.attempt, status="success", result=result, published=not self.place.files
                )
            )
            if not together:
                self._complete(store, ended)
                ended = []
        if ended:
            self._complete(store, ended)

    def _give_back(self, store: Store, claim: Claim) -> None:
        try:
            store.claims.fail(claim, "a failure", counted=self.chance.random() < 0.5)
        except ClaimLost:
            self.tell(lost=claim.attempt)

    def _complete(self, store: Store, ended: list[Completion]) -> None:
        for one, answer in zip(ended, store.claims.complete(ended), strict=True):
            if isinstance(answer, Accepted):
                self.tell(accepted=one.attempt, key=one.result["key"], result=one.result)
            else:
                self.tell(lost=one.attempt)

    def publish(self, store: Store) -> None:
        """Write what results imply into files, each whole or not at all; then note that it is done."""
        if not self.place.files:
            return
        for work, result in store.claims.unpublished(50):
            path = os.path.join(self.place.folder, "files", work.key)
            temporary = f"{path}.{self.worker.id}"
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(result, file)  # as the store returns it, its keys sorted
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
            store.claims.set_published([work.id])
