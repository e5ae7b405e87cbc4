"""Queues that are compared: our store, plain SQLite, and what a user would install instead.

All of them keep the queue in one SQLite file. None makes more fsyncs than ``synchronous=NORMAL`` in WAL mode,
so that each is as fast as it can be without losing a commit to a crash of its process; those named durable
are the exceptions.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sqlite3
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "scripts"))

from hypervisor.core.process import this_process
from hypervisor.store.base import Engine
from hypervisor.store.liveness import WorkerLock, new_worker_id
from hypervisor.store.records import Completion, Item, Worker, WorkerKind
from hypervisor.store.sqlite import FILE, SqliteEngine
from hypervisor.store.store import Store

_BUSY_SECONDS = 120.0
_RESULT = {"status": "success", "outcome": "did nothing", "runner": "no-op", "text": "x" * 300}
_SETTINGS = {"claims": {"attempts": 3, "lease_seconds": 900.0}}


def items(count: int) -> list[str]:
    """Return the items of a queue; `number` is the way back."""
    return [f"item-{number:07}" for number in range(count)]


def number(item: str) -> int:
    """Return the number of an item."""
    return int(item[5:])


class Contender(ABC):
    """A queue in a folder, open for one consumer."""

    name: ClassVar[str]
    label: ClassVar[str]
    #: What one claim and completion is here.
    life: ClassVar[str]
    #: The module that has to be installed.
    needs: ClassVar[str] = "sys"

    @abstractmethod
    def __init__(self, folder: Path) -> None:
        """Open the queue in *folder* for one consumer."""

    @classmethod
    @abstractmethod
    def fill(cls, folder: Path, count: int) -> None:
        """Lay out a queue of *count* items."""

    @abstractmethod
    def take(self) -> list[Any]:
        """Claim what one step claims; empty when nothing is left."""

    @abstractmethod
    def item(self, taken: Any) -> str:
        """Return the item that was claimed."""

    @abstractmethod
    def finish(self, taken: list[Any]) -> None:
        """Complete what `take` returned."""

    def drain(self, run: Callable[[str], None]) -> None:
        """Execute and complete items until there are none."""
        while taken := self.take():
            for one in taken:
                run(self.item(one))
            self.finish(taken)


class PlainSqlite(Contender):
    """A table, and compare-and-swap in a transaction that takes the write lock first."""

    name, label = "sqlite", "plain SQLite"
    life = "a transaction that claims the first waiting row, then one that writes its result, unfenced"
    synchronous: ClassVar[str] = "NORMAL"

    def __init__(self, folder: Path) -> None:
        self._db = self._connect(folder)

    @classmethod
    def _connect(cls, folder: Path) -> sqlite3.Connection:
        db = sqlite3.connect(folder / "queue.db", timeout=_BUSY_SECONDS, isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {cls.synchronous}")
        return db

    @classmethod
    def fill(cls, folder: Path, count: int) -> None:
        db = cls._connect(folder)
        db.execute(
            "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, state INT, owner TEXT, result TEXT)"
        )
        db.execute("CREATE INDEX waiting ON item (id) WHERE state = 0")
        db.execute("BEGIN")
        db.executemany("INSERT INTO item (name, state) VALUES (?, 0)", ((item,) for item in items(count)))
        db.execute("COMMIT")
        db.close()

    def take(self) -> list[Any]:
        return self._transaction(
            "UPDATE item SET state = 1, owner = ? WHERE id IN "
            "(SELECT id FROM item WHERE state = 0 ORDER BY id LIMIT 1) RETURNING id, name",
            (str(os.getpid()),),
        )

    def item(self, taken: Any) -> str:
        return str(taken[1])

    def finish(self, taken: list[Any]) -> None:
        for key, item in taken:
            result = json.dumps({"item": item, **_RESULT})
            self._transaction("UPDATE item SET state = 2, result = ? WHERE id = ?", (result, key))

    def _transaction(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        self._db.execute("BEGIN IMMEDIATE")
        rows = self._db.execute(statement, values).fetchall()
        self._db.execute("COMMIT")
        return rows


class PlainSqliteFull(PlainSqlite):
    """The same, each commit on the disk before it returns."""

    name, label = "sqlite-full", "plain SQLite, synchronous=FULL"
    life = "the same, both commits synced"
    synchronous = "FULL"


class _Unsynced(SqliteEngine):
    """The engine without the fsync of accepted results, as none of the other queues has one."""

    def write(self, body: Callable[..., Any], *, durable: bool = False) -> Any:  # noqa: ARG002
        return super().write(body)


class Ours(Contender):
    """The product's store, as a worker process uses it."""

    name, label = "hypervisor", "**Hypervisor**"
    life = (
        "`Claims.claim_next` of one item, `Claims.complete`: fenced, with attempt and events; fsync left out"
    )
    engine: ClassVar[type[SqliteEngine]] = _Unsynced
    together: ClassVar[int] = 1

    def __init__(self, folder: Path) -> None:
        #: How many are claimed and completed in one transaction.
        self.block = self.together
        self.store = self._open(folder)
        worker = new_worker_id("bench", os.getpid())
        self._lock = WorkerLock(self.store.workers, worker)
        self._worker = Worker(id=worker, kind=WorkerKind.PROCESS, name="bench", process=this_process())
        self.store.claims.add_worker(self._worker)
        batch = self.store.batches.find("bench")
        assert batch is not None
        self._batch = batch.id

    @classmethod
    def _open(cls, folder: Path) -> Store:
        engine: Engine = cls.engine(folder / FILE)
        return Store(engine, folder, _SETTINGS)

    @classmethod
    def fill(cls, folder: Path, count: int) -> None:
        with cls._open(folder) as store:
            batch = store.batches.create("bench", str(folder), {})
            store.batches.add(batch.id, [Item(key=item, text=item) for item in items(count)])

    def take(self) -> list[Any]:
        self.store.rescuer.rescue_now_and_then()
        return self.store.claims.claim_next(self._worker, self._batch, self.block)

    def item(self, taken: Any) -> str:
        return str(taken.text)

    def finish(self, taken: list[Any]) -> None:
        self.store.claims.complete([
            Completion(attempt=one.attempt, status="success", result={"item": one.text, **_RESULT})
            for one in taken
        ])  # fmt: skip


class OursTogetherUnsynced(Ours):
    """The same, with as many items a transaction as a worker of short items takes."""

    name, label = "hypervisor-blocks", "**Hypervisor**, eight together"
    life = "eight claimed in one transaction and completed in one; fsync left out"
    together = 8


class OursDurable(Ours):
    """The product as it is."""

    name, label = "hypervisor-durable", "**Hypervisor**, one by one"
    life = "the same, each result synced before it is reported as accepted"
    engine = SqliteEngine


class OursTogether(OursDurable):
    """The product as it is, eight items a transaction."""

    name, label = "hypervisor-together", "**Hypervisor**, eight together"
    life = "eight claimed in one transaction and completed in one, which is synced"
    together = 8


class LiteQueue(Contender):
    """litequeue."""

    name, label, needs = "litequeue", "litequeue", "litequeue"
    life = "`pop`, then `done`"

    def __init__(self, folder: Path) -> None:
        self._queue = self._open(folder)

    @classmethod
    def _open(cls, folder: Path) -> Any:
        return importlib.import_module("litequeue").LiteQueue(folder / "queue.db", timeout=_BUSY_SECONDS)

    @classmethod
    def fill(cls, folder: Path, count: int) -> None:
        queue = cls._open(folder)
        with queue.transaction():
            for item in items(count):
                queue.put(item)

    def take(self) -> list[Any]:
        message = self._queue.pop()
        return [] if message is None else [message]

    def item(self, taken: Any) -> str:
        return str(taken.data)

    def finish(self, taken: list[Any]) -> None:
        self._queue.done(taken[0].message_id)


class Huey(Contender):
    """huey with its SQLite storage."""

    name, label, needs = "huey", "huey (SqliteHuey)", "huey"
    life = "`dequeue`, which deletes the row, then `execute`, which stores the result"

    def __init__(self, folder: Path) -> None:
        self._queue, _ = self._open(folder)

    @classmethod
    def _open(cls, folder: Path) -> tuple[Any, Any]:
        made = importlib.import_module("huey").SqliteHuey(
            "bench", filename=str(folder / "queue.db"), timeout=_BUSY_SECONDS
        )
        made.storage.conn.execute("PRAGMA synchronous = NORMAL")

        def no_op(item: str) -> str:
            return json.dumps({"item": item, **_RESULT})

        return made, made.task()(no_op)

    @classmethod
    def fill(cls, folder: Path, count: int) -> None:
        queue, task = cls._open(folder)
        db = queue.storage.conn
        db.execute("BEGIN")  # its own enqueue is a transaction each
        for item in items(count):
            data = queue.serialize_task(task.s(item))
            db.execute("INSERT INTO task (queue, data) VALUES (?, ?)", (queue.storage.name, data))
        db.execute("COMMIT")

    def take(self) -> list[Any]:
        task = self._queue.dequeue()
        return [] if task is None else [task]

    def item(self, taken: Any) -> str:
        return str(taken.args[0])

    def finish(self, taken: list[Any]) -> None:
        self._queue.execute(taken[0])


class PersistQueue(Contender):
    """persist-queue with acknowledgement."""

    name, label, needs = "persist-queue", "persist-queue (SQLiteAckQueue)", "persistqueue"
    life = "`get`, then `ack`"

    def __init__(self, folder: Path) -> None:
        self._queue = self._open(folder)
        self._empty = importlib.import_module("persistqueue").Empty

    @classmethod
    def _open(cls, folder: Path) -> Any:
        queue = importlib.import_module("persistqueue").SQLiteAckQueue(str(folder), timeout=_BUSY_SECONDS)
        queue._putter.execute("PRAGMA synchronous = NORMAL")
        return queue

    @classmethod
    def fill(cls, folder: Path, count: int) -> None:
        queue = cls._open(folder)
        queue._insert_into = lambda *row: queue._putter.execute(queue._sql_insert, row)  # one transaction
        for item in items(count):
            queue.put(item)
        queue._putter.commit()
        queue.close()

    def take(self) -> list[Any]:
        try:
            return [self._queue.get(block=False, raw=True)]
        except self._empty:
            return []

    def item(self, taken: Any) -> str:
        return str(taken["data"])

    def finish(self, taken: list[Any]) -> None:
        self._queue.ack(taken[0])


PEERS = ("huey", "litequeue", "persist-queue")
_ALL: tuple[type[Contender], ...] = (
    PlainSqlite, PlainSqliteFull, Ours, OursTogetherUnsynced, OursDurable, OursTogether, Huey, LiteQueue,
    PersistQueue,
)  # fmt: skip
CONTENDERS = {one.name: one for one in _ALL}


def installed(name: str) -> bool:
    """Return whether what a contender needs is installed."""
    return importlib.util.find_spec(CONTENDERS[name].needs) is not None
