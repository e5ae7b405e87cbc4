"""What agents have found and people have said: `.hypervisor/hive.jsonl`, and the cache that is asked.

The log is the truth, a JSON line for each thing that was said; nothing in it is ever changed. The cache,
`.hypervisor/hive.sqlite3`, is made of it, and of the batches' own logs: damaged or lost, it is made anew.
Any number of processes write at once, one after another.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from .core import durable
from .core.errors import Refused
from .core.machine import on_network
from .core.paths import Project

FILE, CACHE, LOCK = "hive.jsonl", "hive.sqlite3", "hive.lock"
#: Raised with every change of the tables: a cache of another version is made anew.
_VERSION = 2
_BUSY_SECONDS = 60.0  #: So long one waits for the others that write.
#: So many bytes before the place up to which the log was read are kept, to tell it from another one.
_TAIL = 64
T = TypeVar("T")

_TABLES = ("finding", "finding_words", "told", "learnt_batch", "learnt", "place")
# Words are found in whatever form they stand ("injections" for "injection"), and without their accents.
_SCHEMA = f"""
CREATE TABLE finding (
    id INTEGER PRIMARY KEY, at TEXT NOT NULL, branch TEXT NOT NULL, task TEXT NOT NULL, batch TEXT NOT NULL,
    who TEXT NOT NULL, text TEXT NOT NULL, UNIQUE (branch, task, text)
);
CREATE INDEX finding_of_batch ON finding (batch);
CREATE VIRTUAL TABLE finding_words
    USING fts5 (text, content = 'finding', content_rowid = 'id', tokenize = 'porter unicode61 remove_diacritics 2');
CREATE TABLE told (
    type TEXT PRIMARY KEY, at TEXT NOT NULL, who TEXT NOT NULL, notes TEXT NOT NULL, benefit REAL, cpu REAL, ram_mb REAL
);
CREATE TABLE learnt_batch (batch TEXT PRIMARY KEY, at TEXT NOT NULL, size INTEGER NOT NULL);
CREATE TABLE learnt (
    batch TEXT NOT NULL, type TEXT NOT NULL, pattern TEXT NOT NULL, at_once INTEGER NOT NULL,
    tries INTEGER NOT NULL, done INTEGER NOT NULL, refused INTEGER NOT NULL,
    seconds REAL NOT NULL, squares REAL NOT NULL, cpu_seconds REAL NOT NULL, cpu_known_seconds REAL NOT NULL, ram_mb REAL,
    PRIMARY KEY (batch, type, pattern, at_once)
) WITHOUT ROWID;
CREATE TABLE place (bytes INTEGER NOT NULL, tail BLOB NOT NULL);
INSERT INTO place VALUES (0, x'');
PRAGMA user_version = {_VERSION};
"""  # noqa: E501, S608 - a table a line; our own words


def keep(project: Project, record: Mapping[str, Any]) -> None:
    """Add a record to the log; durable on return.

    Raises:
        Refused: It cannot be written; then nothing of it is kept.
    """
    path = os.path.join(project.state, FILE)
    line = json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
    try:
        project.prepare()
        there = durable.exists(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            _append(descriptor, line)
        finally:
            os.close(descriptor)
        if not there:
            durable.sync_directory(project.state)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refused(f"{path}: no room on the disk; make some and try again") from error
        raise Refused(f"{path}: cannot be written ({error.strerror}); nothing was kept") from error


def ask(project: Project, act: Callable[[sqlite3.Connection], T], *, make: bool = False) -> T | None:
    """Return what *act* finds, or does, in the cache as of now; None if nothing was ever kept.

    *act* may be called more than once: a damaged cache is made anew. Where there is no writing, it is
    made in memory.

    Args:
        project: Whose.
        act: Asks; what it writes goes into a transaction of its own (`writing`).
        make: Whether to make a cache although nothing was ever kept.

    Raises:
        Refused: Another process keeps it, or this Python's SQLite cannot search.
    """
    path = os.path.join(project.state, CACHE)
    if not make and not any(os.path.exists(os.path.join(project.state, name)) for name in (FILE, CACHE)):
        return None
    for _ in range(2):
        number = durable.identity(path)
        try:
            return _asked(project, path, act)
        except sqlite3.DatabaseError as error:
            if (refused := _refusal(path, error)) is not None:
                raise refused from error
            if _unwritable(error):
                break
            try:
                _remove(project, path, number)
            except OSError:
                break
    try:
        return _asked(project, ":memory:", act)
    except sqlite3.DatabaseError as error:
        raise Refused(f"{path}: {error}") from error


@contextlib.contextmanager
def writing(database: sqlite3.Connection) -> Iterator[None]:
    """Hold that all that is written is written together, or not at all."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # a full disk has ended the transaction already
            database.execute("ROLLBACK")
        raise


def plain(text: str) -> str:
    """Return *text* without halves of letters, which SQLite takes for none, and without NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


# ---------------------------------------------------------------------- details


def _append(descriptor: int, line: bytes) -> None:
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line  # the last writer died within its line
    try:
        while line:
            line = line[os.write(descriptor, line) :]
        os.fsync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def _asked(project: Project, path: str, act: Callable[[sqlite3.Connection], T]) -> T:
    with contextlib.closing(sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)) as database:
        database.row_factory = sqlite3.Row
        _patiently(lambda: _set_up(database, project))
        _catch_up(database, os.path.join(project.state, FILE))
        return act(database)


def _patiently(act: Callable[[], None]) -> None:
    """Do *act*; again while the file is locked: SQLite waits for no change of the journal's kind."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            return act()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _set_up(database: sqlite3.Connection, project: Project) -> None:
    if _version(database) == _VERSION:
        return
    # A write-ahead log needs memory shared between its users, which a network file system has not.
    journal = "delete" if on_network(str(project.state)) else "wal"
    database.execute(f"PRAGMA journal_mode = {journal}")
    with writing(database):
        if _version(database) == _VERSION:
            return  # another was quicker
        for table in _TABLES:
            database.execute(f"DROP TABLE IF EXISTS {table}")
        for statement in _SCHEMA.split(";\n"):
            database.execute(statement)


def _version(database: sqlite3.Connection) -> int:
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    return version


def _catch_up(database: sqlite3.Connection, path: str) -> None:
    """Bring the cache up to the log."""
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        if _place(database)[0]:
            with writing(database):
                _forget(database)
        return
    with file:
        if _place(database) == _seen(file.fileno(), os.fstat(file.fileno()).st_size):
            return
        with writing(database):
            place = _place(database)
            if _seen(file.fileno(), place[0]) != place:
                _forget(database)  # it is another log: restored, or cut by somebody
                place = (0, b"")
            file.seek(place[0])
            read = place[0]
            for line in file:
                if not line.endswith(b"\n"):
                    break  # still being written, or its writer is dead
                read += len(line)
                _take(database, line)
            database.execute("UPDATE place SET bytes = ?, tail = ?", _seen(file.fileno(), read))


def _place(database: sqlite3.Connection) -> tuple[int, bytes]:
    """Return up to where the log is in the cache, and what stands before that."""
    size, tail = database.execute("SELECT bytes, tail FROM place").fetchone()
    return size, tail


def _seen(descriptor: int, place: int) -> tuple[int, bytes]:
    return place, os.pread(descriptor, min(place, _TAIL), max(0, place - _TAIL))


def _forget(database: sqlite3.Connection) -> None:
    database.execute("INSERT INTO finding_words (finding_words) VALUES ('delete-all')")
    for table in ("finding", "told"):
        database.execute(f"DELETE FROM {table}")  # noqa: S608 - our own words
    database.execute("UPDATE place SET bytes = 0, tail = x''")


def _take(database: sqlite3.Connection, line: bytes) -> None:
    """Put one line of the log into the cache; one that cannot be read, or is of a later version, is none."""
    row: tuple[str | float | None, ...]
    try:
        record = json.loads(line)
        kind = record["kind"]
        if kind == "finding":
            row = tuple(plain(str(record[key])) for key in ("at", "branch", "task", "batch", "who", "text"))
        elif kind == "told":
            figures = [record[key] for key in ("benefit", "cpu", "ram_mb")]
            row = (
                *(plain(str(record[key])) for key in ("type", "at", "who", "notes")),
                *(None if one is None else float(one) for one in figures),
            )
        else:
            return
    except (ValueError, RecursionError, KeyError, TypeError, OverflowError):
        return
    if kind == "told":
        database.execute(
            "INSERT INTO told VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " at = excluded.at, who = excluded.who,"
            " notes = CASE excluded.notes WHEN '' THEN notes ELSE excluded.notes END,"
            " benefit = coalesce(excluded.benefit, benefit), cpu = coalesce(excluded.cpu, cpu),"
            " ram_mb = coalesce(excluded.ram_mb, ram_mb)",
            row,
        )
        return
    cursor = database.execute(
        "INSERT INTO finding (at, branch, task, batch, who, text) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        row,
    )
    if cursor.rowcount:
        words = "INSERT INTO finding_words (rowid, text) VALUES (?, ?)"
        database.execute(words, (cursor.lastrowid, row[-1]))


def _remove(project: Project, path: str, number: tuple[int, int] | None) -> None:
    """Remove the cache that was asked; one that has taken its place meanwhile stays."""
    descriptor = os.open(project.state / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if number is None or durable.identity(path) == number:
            for tail in ("", "-wal", "-shm", "-journal"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{path}{tail}")
    finally:
        os.close(descriptor)


def _unwritable(error: sqlite3.Error) -> bool:
    """Tell whether the cache cannot be written, which is no damage."""
    return any(word in str(error) for word in ("readonly", "unable to open", "is full", "disk I/O"))


def _refusal(path: str, error: sqlite3.Error) -> Refused | None:
    if "locked" in str(error) or "busy" in str(error):
        return Refused(f"{path}: kept by another process for {_BUSY_SECONDS:g} s; try again")
    if "fts5" in str(error):
        return Refused(f"{path}: this Python's SQLite has no full-text search (FTS5); use uv's Python")
    return None
