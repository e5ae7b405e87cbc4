"""The file of the task index: opened, made, locked, and made anew where it is damaged."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator

from ..core.files import file_identity
from ..core.process import on_network
from ..core.project import Project
from . import rows
from .finding import stamp_of

LOCK = "index.lock"
_BUSY_SECONDS = 30.0
#: So long somebody may keep the lock without having written anything before he is taken for stopped.
_STUCK_SECONDS = 20.0
#: What SQLite meets in a cache that is whole.
_NO_DAMAGE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM)


class Stuck(Exception):
    """Raised when whoever has the lock seems to be stopped."""


class CacheFile:
    """An SQLite file in a project's folder, or in memory; of one process, and one thread at a time.

    Args:
        project: Whose.
        kept: Whether it is a file.
    """

    def __init__(self, project: Project, *, kept: bool) -> None:
        self._project = project
        #: "" for one in memory.
        self.path = str(project.state / "index.db") if kept else ""
        self._database: sqlite3.Connection | None = None
        #: Device and number of the file that was opened; None while none is.
        self._opened: tuple[int, int] | None = None

    @property
    def database(self) -> sqlite3.Connection:
        """The cache; opened, and made, if need be.

        Raises:
            sqlite3.DatabaseError: It is damaged, or cannot be written.
            OSError: Its folder cannot be made, or the lock not be opened.
            Stuck: It has to be made, and whoever has the lock is stopped.
        """
        if self._database is None:
            self._database = self._open()
        return self._database

    def close(self) -> None:
        """Close it; it opens again when it is asked for."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def leave(self, error: BaseException) -> None:
        """Go on in memory, with the rows that there are unless *error* says that they cannot be believed."""
        memory: sqlite3.Connection | None = None
        if is_whole(error) and self._database is not None:
            memory = _connected(":memory:")
            self._database.backup(memory)
        self.close()
        self.path, self._database = "", memory

    def remove(self) -> None:
        """Remove the file that was opened; one that has taken its place meanwhile stays.

        Raises:
            OSError: It cannot be removed.
            Stuck: Whoever has the lock is stopped.
        """
        self.close()
        if not self.path:
            return
        with self.locked():  # else another's new one might go
            if self._opened not in (None, file_identity(self.path)):
                return
            for tail in ("", "-wal", "-shm", "-journal"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self.path}{tail}")

    def identity(self) -> str | None:
        """Return what tells this file, and what its rows are made by, from others; None for none."""
        if not self.path or self._database is None:
            return None
        try:
            return f"{file_identity(self.path)} {rows.get(self._database, 'nonce')}"
        except sqlite3.DatabaseError:
            return None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock that whoever writes rows holds.

        Raises:
            Stuck: Whoever has it has written nothing for long.
        """
        if not self.path:
            yield
            return
        descriptor = os.open(self._project.state / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _wait_for(descriptor, self.path)
            yield
        finally:
            os.close(descriptor)

    def _open(self) -> sqlite3.Connection:
        self._opened = None
        if self.path:
            self._project.prepare()
        database = _connected(self.path or ":memory:")
        try:
            self._opened = file_identity(self.path)
            database.execute("PRAGMA synchronous = OFF")  # a cache: after a power loss it is made anew
            if _version(database) != rows.VERSION:
                with self.locked():
                    self._make(database)
        except BaseException:
            database.close()
            raise
        return database

    def _make(self, database: sqlite3.Connection) -> None:
        version = _version(database)
        if version == rows.VERSION:
            return
        # A write-ahead log needs memory shared between its users, which a network file system
        # has not (sqlite.org/wal.html).
        journal = "DELETE" if on_network(str(self._project.state)) else "WAL"
        database.execute(f"PRAGMA journal_mode = {journal}")
        drop = "".join(f"DROP TABLE IF EXISTS {name};" for name in rows.TABLES) if version else ""
        database.executescript(f"BEGIN IMMEDIATE; {drop} {rows.SCHEMA} COMMIT;")
        rows.put(database, "nonce", rows.nonce())


def is_whole(error: BaseException) -> bool:
    """Tell whether a cache with which *error* was met is whole: there was only no room, or no turn."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _NO_DAMAGE


def _connected(path: str) -> sqlite3.Connection:
    # Used by one thread at a time; `LiveIndex` sees to that.
    database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    database.row_factory = sqlite3.Row
    return database


def _version(database: sqlite3.Connection) -> int:
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    return version


def _wait_for(descriptor: int, path: str) -> None:
    """Take the lock.

    Raises:
        Stuck: Whoever has it has written nothing for long.
    """
    pause, seen, since = 0.0005, "", time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sign = "".join(str(stamp_of(path + tail)) for tail in ("", "-wal"))
            if sign != seen:
                seen, since = sign, time.monotonic()
            if time.monotonic() - since > _STUCK_SECONDS:
                raise Stuck from None
            time.sleep(pause)
            pause = min(pause * 2, 0.01)
        else:
            return
