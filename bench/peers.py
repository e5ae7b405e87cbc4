"""What a user would pick instead, each over its own API; and plain SQLite.

All of them keep the queue in one SQLite file. None is given more fsyncs than ``synchronous=NORMAL`` in
WAL mode makes, so that they are as fast as they can be without losing what is committed to a crash of
the process; `SqliteFull` is the exception.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sqlite3
from pathlib import Path
from typing import Any, ClassVar

from bench.contenders import Contender, Cursor, Floor, Mkdir, MkdirRace, Ours, OursDurable, Run, items

_BUSY_SECONDS = 120.0
_RESULT = {"status": "success", "outcome": "did nothing", "runner": "no-op", "text": "x" * 300}


class Sqlite(Contender):
    """A table, and compare-and-swap in a transaction that takes the write lock first."""

    name, label = "sqlite", "SQLite, BEGIN IMMEDIATE"
    claims = "a transaction: the first waiting row becomes ours (`UPDATE ... RETURNING`)"
    lives = "the same, then a second transaction that writes the result"
    block: ClassVar[int] = 1
    synchronous: ClassVar[str] = "NORMAL"

    @classmethod
    def fill(cls, folder: Path, count: int) -> None:
        db = cls.connect(folder)
        db.execute(
            "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, state INT, owner TEXT, result TEXT)"
        )
        db.execute("CREATE INDEX waiting ON item (id) WHERE state = 0")
        db.execute("BEGIN")
        db.executemany("INSERT INTO item (name, state) VALUES (?, 0)", ((item,) for item in items(count)))
        db.execute("COMMIT")
        db.close()

    @classmethod
    def connect(cls, folder: Path) -> sqlite3.Connection:
        db = sqlite3.connect(folder / "queue.db", timeout=_BUSY_SECONDS, isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {cls.synchronous}")
        return db

    def __init__(self, folder: Path, share: int, shares: int) -> None:
        super().__init__(folder, share, shares)
        self.db, self.owner = self.connect(folder), f"worker-{share}"

    def drain(self, run: Run, *, whole: bool) -> None:
        while rows := self._transaction(
            "UPDATE item SET state = 1, owner = ? WHERE id IN "
            "(SELECT id FROM item WHERE state = 0 ORDER BY id LIMIT ?) RETURNING id, name",
            (self.owner, self.block),
        ):
            for key, item in rows:
                run(item)
                if whole:
                    self._transaction(
                        "UPDATE item SET state = 2, result = ? WHERE id = ? AND owner = ?",
                        (json.dumps({"item": item, **_RESULT}), key, self.owner),
                    )

    def _transaction(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        self.db.execute("BEGIN IMMEDIATE")
        rows = self.db.execute(statement, values).fetchall()
        self.db.execute("COMMIT")
        return rows

    def kept(self, item: str) -> bool:
        found = self.db.execute("SELECT 1 FROM item WHERE name = ? AND state < 2", (item,))
        return found.fetchone() is not None


class SqliteBlocks(Sqlite):
    """The same with as many items a transaction as our cursor hands out at a time."""

    name, label = "sqlite-blocks", "SQLite, blocks of 8"
    claims = "the same for eight rows at a time"
    lives = "the same, then a transaction an item"
    block = 8


class SqliteFull(Sqlite):
    """Every commit is on the disk before it returns."""

    name, label = "sqlite-full", "SQLite, synchronous=FULL"
    lives = "a transaction to claim and one to complete, each synced"
    synchronous = "FULL"


class LiteQueue(Contender):
    name, label, needs = "litequeue", "litequeue", "litequeue"
    claims = "`pop`"
    lives = "`pop`, then `done`"

    @classmethod
    def fill(cls, folder: Path, count: int) -> None:
        queue = cls.open(folder)
        with queue.transaction():
            for item in items(count):
                queue.put(item)

    @classmethod
    def open(cls, folder: Path) -> Any:
        return importlib.import_module("litequeue").LiteQueue(folder / "queue.db", timeout=_BUSY_SECONDS)

    def __init__(self, folder: Path, share: int, shares: int) -> None:
        super().__init__(folder, share, shares)
        self.queue = self.open(folder)

    def drain(self, run: Run, *, whole: bool) -> None:
        while (message := self.queue.pop()) is not None:
            run(message.data)
            if whole:
                self.queue.done(message.message_id)

    def kept(self, item: str) -> bool:
        found = self.queue.conn.execute("SELECT 1 FROM Queue WHERE data = ? AND status < 2", (item,))
        return found.fetchone() is not None


class Huey(Contender):
    name, label, needs = "huey", "huey (SqliteHuey)", "huey"
    claims = "`dequeue`, which deletes the row"
    lives = "`dequeue`, then `execute`, which stores the result"

    @classmethod
    def fill(cls, folder: Path, count: int) -> None:
        queue, task = cls.open(folder, str)
        db = queue.storage.conn
        db.execute("BEGIN")  # its own enqueue is a transaction each
        for item in items(count):
            data = queue.serialize_task(task.s(item))
            db.execute("INSERT INTO task (queue, data) VALUES (?, ?)", (queue.storage.name, data))
        db.execute("COMMIT")

    @classmethod
    def open(cls, folder: Path, run: Any) -> tuple[Any, Any]:
        made = importlib.import_module("huey").SqliteHuey(
            "bench", filename=str(folder / "queue.db"), timeout=_BUSY_SECONDS
        )
        made.storage.conn.execute("PRAGMA synchronous = NORMAL")

        def no_op(item: str) -> str:
            run(item)
            return json.dumps({"item": item, **_RESULT})

        return made, made.task()(no_op)

    def __init__(self, folder: Path, share: int, shares: int) -> None:
        super().__init__(folder, share, shares)
        self.queue, _ = self.open(folder, self._tell)
        self._run: Run = print

    def _tell(self, item: str) -> None:
        self._run(item)

    def drain(self, run: Run, *, whole: bool) -> None:
        self._run = run
        while (task := self.queue.dequeue()) is not None:
            if whole:
                self.queue.execute(task)
            else:
                run(task.args[0])

    def kept(self, item: str) -> bool:
        return any(task.args[0] == item for task in self.queue.pending())


class PersistQueue(Contender):
    name, label, needs = "persist-queue", "persist-queue (SQLiteAckQueue)", "persistqueue"
    claims = "`get`"
    lives = "`get`, then `ack`"

    @classmethod
    def fill(cls, folder: Path, count: int) -> None:
        queue = cls.open(folder)
        queue._insert_into = lambda *row: queue._putter.execute(queue._sql_insert, row)  # one transaction
        for item in items(count):
            queue.put(item)
        queue._putter.commit()
        queue.close()

    @classmethod
    def open(cls, folder: Path) -> Any:
        module = importlib.import_module("persistqueue")
        queue = module.SQLiteAckQueue(str(folder), timeout=_BUSY_SECONDS)
        queue._putter.execute("PRAGMA synchronous = NORMAL")
        return queue

    def __init__(self, folder: Path, share: int, shares: int) -> None:
        super().__init__(folder, share, shares)
        self.queue = self.open(folder)

    def drain(self, run: Run, *, whole: bool) -> None:
        empty = importlib.import_module("persistqueue").Empty
        while True:
            try:
                taken = self.queue.get(block=False, raw=True)
            except empty:
                return
            run(taken["data"])
            if whole:
                self.queue.ack(taken)

    def kept(self, item: str) -> bool:
        return any(row["data"] == item and int(row["status"]) < 5 for row in self.queue.queue())


CONTENDERS: dict[str, type[Contender]] = {
    one.name: one
    for one in (
        Mkdir, MkdirRace, Cursor, Ours, Sqlite, SqliteBlocks, LiteQueue, Huey, PersistQueue,
        Floor, OursDurable, SqliteFull,
    )
}  # fmt: skip


def there(name: str) -> bool:
    """Tell whether what a contender needs is installed."""
    return importlib.util.find_spec(CONTENDERS[name].needs) is not None
