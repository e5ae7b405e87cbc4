"""The SQLite engine: one file per project, through APSW, which brings its own SQLite.

The rules, each with its source:

* APSW in every process, never the standard library's ``sqlite3``: SQLite 3.7.0 to 3.51.2 can lose commits
  when a checkpoint races a commit that resets the WAL (sqlite.org/wal.html#walresetbug), and most Pythons
  carry one that old.
* Nothing but SQLite opens, copies, hashes or watches the database files: closing any descriptor of a file
  drops all POSIX locks that the process has on it (sqlite.org/howtocorrupt.html, 2.2).
* Every write is ``BEGIN IMMEDIATE``, so that it never fails for having read first, and waits for its turn
  at a gate, a file that is locked with ``flock``: the kernel wakes one waiter at a time, where SQLite's
  busy timeout sleeps and tries again.
* No connection crosses a fork; no cursor stays open between calls (an open reader keeps the WAL from being
  reset, so that it grows without end).
* ``synchronous`` is FULL for what a caller is told is accepted, NORMAL for all else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import apsw

from ..core.errors import StoreDamaged, StoreNewer, StoreUnusable
from ..core.files import network_file_system
from .base import NO_PARAMETERS, Engine, Parameters, Row, Transaction
from .statements import positional, schema_script

T = TypeVar("T")

#: The file's name in a project's state folder, or in the folder of a batch of its own.
FILE = "hypervisor.db"
#: The version of the schema in `sql/schema.sql`.
SCHEMA = 1
#: The first version without the WAL-reset bug.
_OLDEST_SQLITE = (3, 51, 3)
#: For what takes the database's own lock without the gate: recovery after a crash, a checkpoint, a person
#: with the sqlite3 shell. Milliseconds.
_BUSY_MS = 30_000
#: What a full disk is called where the log or its index is to grow.
_WANT_ROOM = frozenset({apsw.SQLITE_IOERR_SHMSIZE, apsw.SQLITE_IOERR_SHMMAP, apsw.SQLITE_IOERR_WRITE})
#: A disk with less than this is full: the index of the log alone takes 32 KiB.
_ROOM_BYTES = 64 << 10
#: A claim and its result change some fifteen pages by a few bytes each, and each is written whole into the
#: log: pages of half the usual size make a durable life a sixth faster. For a new file.
_PAGE_BYTES = 2048
#: Pages in the log after which they are copied into the database: as many bytes as SQLite's own default.
_CHECKPOINT_PAGES = 2000
#: The WAL file is cut back to this size once all of it is checkpointed, in bytes.
_WAL_BYTES = 64 << 20


class SqliteEngine(Engine):
    """A database file.

    Args:
        path: The file; made with its schema if it is missing.
        create: False to raise FileNotFoundError instead of making it.
        vfs: The name of a registered SQLite VFS (sqlite.org/vfs.html), "" for that of the system. Tests lose
            and tear writes through it.

    Raises:
        FileNotFoundError: There is no file, and *create* is False.
        StoreUnusable: SQLite is too old, or the folder lies on a network file system.
        StoreDamaged: The file is not a database, or is damaged.
    """

    dialect = "sqlite"

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True, vfs: str = "") -> None:
        self.path = os.path.abspath(path)
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._durable = False
        self._writes = 0
        if not create and not os.path.exists(self.path):
            raise FileNotFoundError(errno.ENOENT, "no database", self.path)
        _refuse_old_library()
        if kind := network_file_system(os.path.dirname(self.path)):
            raise StoreUnusable(
                f"{self.path}: a {kind} file system cannot hold the database; keep the project on a local "
                "disk, or let HYPERVISOR_HOME name a folder on one"
            )
        with contextlib.ExitStack() as undo, _as_os_errors(self.path):
            self._gate = os.open(self.path + "-gate", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            undo.callback(os.close, self._gate)
            flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
            self._connection = apsw.Connection(
                self.path, flags=flags, vfs=vfs or None, statementcachesize=200
            )
            undo.callback(self._connection.close)
            self._set_up()
            self.schema = self._make_schema()
            self._connection.pragma("synchronous", "NORMAL")  # until now FULL: the tables are durable
            self._transaction = _SqliteTransaction(self._connection)
            undo.pop_all()

    def read(self, statement: str, parameters: Parameters = NO_PARAMETERS) -> list[Row]:
        """See `Engine.read`."""
        self._require_own_process()
        with self._lock, _as_os_errors(self.path):
            text, values, clocks = positional(statement)
            return self._connection.execute(text, values(parameters) + _clocks()[:clocks]).fetchall()

    def write(self, body: Callable[[Transaction], T], *, durable: bool = False) -> T:
        """See `Engine.write`."""
        self._require_own_process()
        if self.schema > SCHEMA:
            raise StoreNewer(
                f"{self.path} was changed by a newer version (schema {self.schema}; this one: {SCHEMA}): "
                "it can be read, not changed; update hypervisor"
            )
        run = self._connection.execute
        with self._lock:
            # Not as context managers of functions, which cost more than a statement.
            fcntl.flock(self._gate, fcntl.LOCK_EX)
            try:
                if durable is not self._durable:
                    run("PRAGMA synchronous = FULL" if durable else "PRAGMA synchronous = NORMAL")
                    self._durable = durable
                run("BEGIN IMMEDIATE")
                try:
                    answer = body(self._transaction)
                    run("COMMIT")
                    self._writes += 1
                except BaseException:
                    if self._connection.in_transaction:
                        run("ROLLBACK")
                    raise
                return answer
            except apsw.Error as error:
                raise _meaning(error, self.path) from error
            finally:
                fcntl.flock(self._gate, fcntl.LOCK_UN)

    def version(self) -> int:
        """See `Engine.version`."""
        self._require_own_process()
        with self._lock, _as_os_errors(self.path):
            return int(self._connection.pragma("data_version"))

    def state(self) -> tuple[int, int]:
        """See `Engine.state`."""
        return self.version(), self._writes

    def close(self) -> None:
        """See `Engine.close`."""
        if os.getpid() != self._pid:  # the parent's: not even to be closed here
            return
        with self._lock:
            if self._gate >= 0:
                gate, self._gate = self._gate, -1
                os.close(gate)
                # A checkpoint that fails costs nothing: what it did not copy stays in the log.
                with contextlib.suppress(apsw.Error):
                    self._connection.close()

    def backup(self, target: str | os.PathLike[str]) -> None:
        """Write a consistent copy of the database to the new file *target*."""
        with self._lock, _as_os_errors(self.path):
            self._connection.execute("VACUUM INTO ?", (os.fspath(target),))

    def damage(self) -> str:
        """Return what SQLite's own check finds wrong, "" for nothing."""
        with self._lock, _as_os_errors(self.path):
            found = [row[0] for row in self._connection.execute("PRAGMA quick_check(3)")]
        return "" if found == ["ok"] else "; ".join(found)

    # ---------------------------------------------------------------- details

    def _set_up(self) -> None:
        connection = self._connection
        connection.set_busy_timeout(_BUSY_MS)  # before anything that could meet a lock
        # A plan depends on the statement alone. Otherwise each that has a parameter in LIMIT is compiled at
        # each call, which costs four times what it does.
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        mode = connection.pragma("journal_mode")
        if mode != "wal":
            with self._turn():  # two that change it at once do not wait for each other: one fails
                connection.pragma("page_size", _PAGE_BYTES)
                mode = connection.pragma("journal_mode", "wal")  # makes the file; its log takes its mode
        with contextlib.suppress(OSError):
            os.chmod(self.path, 0o600)
        if mode != "wal":  # SQLite says no by answering another mode
            raise StoreUnusable(
                f"{self.path}: this file system allows no write-ahead log (SQLite answered '{mode}'); keep "
                "the project on a local disk, or let HYPERVISOR_HOME name a folder on one"
            )
        for pragma, value in (
            ("synchronous", "FULL"), ("foreign_keys", "OFF"), ("journal_size_limit", _WAL_BYTES),
            ("checkpoint_fullfsync", "ON"), ("temp_store", "MEMORY"),
            ("wal_autocheckpoint", _CHECKPOINT_PAGES),
        ):  # fmt: skip
            connection.pragma(pragma, value)

    def _make_schema(self) -> int:
        """Make the tables in an empty file, whoever of many comes first; return the schema's version."""
        if found := int(self._connection.pragma("user_version")):
            return found
        with self._turn():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                if not int(self._connection.pragma("user_version")):  # again: another may have been faster
                    for statement in schema_script("sqlite"):
                        self._connection.execute(statement)
                    self._connection.execute(f"PRAGMA user_version = {SCHEMA}")
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        return int(self._connection.pragma("user_version"))

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for the turn to write."""
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def _require_own_process(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError("a database connection was used after a fork; open the store anew")
        if self._gate < 0:
            raise RuntimeError("the store is closed")


class _SqliteTransaction(Transaction):
    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def run(self, statement: str, parameters: Parameters = NO_PARAMETERS) -> list[Row]:
        """See `Transaction.run`."""
        ids = parameters.get("ids", ",")
        text, values, clocks = positional(statement, one_id="," not in ids and ids != "[]")
        return self._connection.execute(text, values(parameters) + _clocks()[:clocks]).fetchall()

    def each(self, statement: str, parameters: Iterable[Parameters]) -> list[Row]:
        """See `Transaction.each`."""
        text, values, clocks = positional(statement)
        now = _clocks()[:clocks]
        return self._connection.executemany(text, [values(one) + now for one in parameters]).fetchall()


def _clocks() -> tuple[int, int]:
    return time.time_ns() // 1_000_000, time.monotonic_ns() // 1_000_000


def _refuse_old_library() -> None:
    number = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if number < _OLDEST_SQLITE:
        raise StoreUnusable(
            f"SQLite {apsw.sqlite_lib_version()} can lose commits (sqlite.org/wal.html#walresetbug); "
            "install the package apsw from PyPI, version 3.51.3 or later, which brings its own"
        )


@contextlib.contextmanager
def _as_os_errors(path: str) -> Iterator[None]:
    """Raise what the disk did as the OSError that it is, and damage by its name."""
    try:
        yield
    except apsw.Error as error:
        raise _meaning(error, path) from error


def _no_room(path: str) -> bool:
    with contextlib.suppress(OSError):
        found = os.statvfs(os.path.dirname(path))
        return found.f_bavail * found.f_frsize < _ROOM_BYTES
    return False


def _meaning(error: apsw.Error, path: str) -> Exception:
    """Return what is to be raised instead of *error*."""
    if isinstance(error, apsw.FullError):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    if isinstance(error, apsw.ReadOnlyError | apsw.PermissionsError | apsw.AuthError):
        return OSError(errno.EROFS, "the database cannot be written", path)
    if isinstance(error, apsw.CantOpenError):
        missing = not os.path.exists(os.path.dirname(path))
        return OSError(errno.ENOENT if missing else errno.EACCES, "the database cannot be opened", path)
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return OSError(errno.EAGAIN, f"the database was locked for {_BUSY_MS // 1000} s", path)
    if isinstance(error, apsw.IOError):
        code = (
            errno.ENOSPC
            if getattr(error, "extendedresult", 0) in _WANT_ROOM and _no_room(path)
            else errno.EIO
        )
        return OSError(code, os.strerror(code), path)
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return StoreDamaged(
            f"{path}: the database is damaged ({error}); move it away together with {Path(path).name}-wal "
            f"and {Path(path).name}-shm to begin anew: results up to then stay in it, and task files are "
            "untouched"
        )
    return error
