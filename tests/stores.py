"""A database under test, the stores that are open on it, and what every store must satisfy at any moment."""

from __future__ import annotations

import os
import secrets
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hypervisor.core.process import Identity, this_process
from hypervisor.store.base import Engine
from hypervisor.store.records import Claim, Completion, Item, Worker, WorkerKind
from hypervisor.store.sqlite import FILE, SqliteEngine
from hypervisor.store.store import Store

#: Long enough that no lease ends in a test that is not about leases.
LEASE = 900.0


@dataclass(slots=True)
class Database:
    """One database; each store that is opened has a connection of its own, as another process has."""

    engine: str
    folder: Path
    url: str = ""
    schema: str = field(default_factory=lambda: f"test_{secrets.token_hex(6)}")
    _open: list[Store] = field(default_factory=list)

    def open(self, *, attempts: int = 3, lease_seconds: float = LEASE) -> Store:
        """Open a store."""
        settings = {"claims": {"attempts": attempts, "lease_seconds": lease_seconds, "beat_seconds": 30.0}}
        store = Store(self.connect(), self.folder, settings)
        self._open.append(store)
        return store

    def connect(self) -> Engine:
        """Return a connection; a store that is made of it is not closed at the end."""
        self.folder.mkdir(exist_ok=True)
        if self.engine == "sqlite":
            return SqliteEngine(self.folder / FILE)
        from hypervisor.store.postgres import PostgresEngine  # noqa: PLC0415 - only where there is a server

        return PostgresEngine(self.url, self.schema)

    def assert_sound(self) -> None:
        """Hold that all invariants of the store hold."""
        assert self.open().violations() == []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for store in self._open:
            store.close()


def a_worker(
    name: str = "w", kind: WorkerKind = WorkerKind.PROCESS, process: Identity | None = None, **words: str
) -> Worker:
    """Return a worker whose process is this one, or *process*."""
    return Worker(
        id=f"{name}-{secrets.token_hex(4)}", kind=kind, name=name, process=process or this_process(), **words
    )


def fill(store: Store, *keys: str, name: str = "b", **item: Any) -> int:
    """Make a batch of items unless it is there; return its id."""
    batch = store.batches.create(name, os.fspath(store.folder), {})
    store.batches.add(batch.id, [Item(key=key, text=f"path/{key}", **item) for key in keys])
    return batch.id


def take(store: Store, worker: Worker, batch: int) -> Claim:
    """Claim the next item, which there must be."""
    found = store.claims.claim_next(worker, batch, 1)
    assert len(found) == 1, found
    return found[0]


def done(claim: Claim, status: str = "success", outcome: str = "ok", **words: Any) -> Completion:
    """Return a completion of a claim."""
    result = {"status": status, "outcome": outcome}
    return Completion(attempt=claim.attempt, status=status, result=result, **words)


def rows(store: Store, query: str) -> list[tuple[Any, ...]]:
    """Return what a query finds."""
    return [tuple(row) for row in store.engine.read(query)]


def kinds(events: Sequence[Any]) -> list[str]:
    """Return the kinds of events."""
    return [event.kind for event in events]


def at_one_moment(count: int, act: Callable[[int], object]) -> list[int]:
    """Let *count* processes call *act*, each with its number, at one moment; return their exit codes."""
    read, write = os.pipe()
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(write)
                os.read(read, 1)  # ends when the parent closes the other end
                act(number)
                code = 0
            except BaseException:  # noqa: BLE001 - whatever it is, it is told
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    os.close(read)
    os.close(write)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
