"""The file `.hypervisor/hive.sqlite3`: what agents have found, and what was learnt of running them.

It is no cache: what stands in it stands nowhere else, so that nothing ever makes it anew. A write is
durable once the call returns; any number of processes write at once, one after another.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator

from .errors import Refused, UsageError
from .machine import on_network
from .paths import Project

FILE = "hive.sqlite3"
#: Raised with every change of the tables; a file of a later version is left alone.
_VERSION = 1
#: So long one waits for the others that write.
_BUSY_SECONDS = 60.0

# Words are found in whatever form they stand ("injections" for "injection"), and without their accents.
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS finding (
    id INTEGER PRIMARY KEY, at TEXT NOT NULL, branch TEXT NOT NULL, task TEXT NOT NULL, batch TEXT NOT NULL,
    who TEXT NOT NULL, text TEXT NOT NULL, UNIQUE (branch, task, text)
);
CREATE INDEX IF NOT EXISTS finding_of_batch ON finding (batch);
CREATE VIRTUAL TABLE IF NOT EXISTS finding_words
    USING fts5 (text, content = 'finding', content_rowid = 'id', tokenize = 'porter unicode61 remove_diacritics 2');
CREATE TABLE IF NOT EXISTS told (
    type TEXT PRIMARY KEY, at TEXT NOT NULL, who TEXT NOT NULL, notes TEXT NOT NULL, benefit REAL, cpu REAL, ram_mb REAL
);
CREATE TABLE IF NOT EXISTS learnt_batch (batch TEXT PRIMARY KEY, at TEXT NOT NULL, size INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS learnt (
    batch TEXT NOT NULL, type TEXT NOT NULL, pattern TEXT NOT NULL, at_once INTEGER NOT NULL,
    tries INTEGER NOT NULL, done INTEGER NOT NULL, refused INTEGER NOT NULL,
    seconds REAL NOT NULL, squares REAL NOT NULL, cpu_seconds REAL NOT NULL, cpu_known_seconds REAL NOT NULL, ram_mb REAL,
    PRIMARY KEY (batch, type, pattern, at_once)
) WITHOUT ROWID;
PRAGMA user_version = 1;
COMMIT;
"""  # noqa: E501 - a table a line


@contextlib.contextmanager
def opened(project: Project, *, make: bool) -> Iterator[sqlite3.Connection | None]:
    """Yield the file, open; None if there is none and none is to be made.

    Args:
        project: Whose.
        make: Whether to make it where there is none.

    Raises:
        Refused: It is damaged, of a later version, or kept by another process.
    """
    path = os.path.join(project.state, FILE)
    if not make and not os.path.exists(path):
        yield None
        return
    project.prepare()
    database = None
    try:
        database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        database.row_factory = sqlite3.Row
        _patiently(lambda: _set_up(database, project))
        yield database
    except sqlite3.Error as error:
        raise _refusal(path, error) from error
    finally:
        if database is not None:
            database.close()


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
    # A write-ahead log needs memory shared between its users, which a network file system has not.
    journal = "delete" if on_network(str(project.state)) else "wal"
    if database.execute("PRAGMA journal_mode").fetchone()[0] != journal:
        database.execute(f"PRAGMA journal_mode = {journal}")
    database.execute("PRAGMA synchronous = FULL")
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > _VERSION:
        raise UsageError(f"{project.state}/{FILE}: written by a later version; update hypervisor")
    if version < _VERSION:
        try:
            database.executescript(_SCHEMA)
        except sqlite3.Error:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


def _refusal(path: str, error: sqlite3.Error) -> Refused:
    text = str(error)
    if "locked" in text or "busy" in text:
        return Refused(f"{path}: kept by another process for {_BUSY_SECONDS:g} s; try again")
    if "full" in text:
        return Refused(f"{path}: no room on the disk; make some and try again, nothing is lost")
    if "fts5" in text:
        return Refused(f"{path}: this Python's SQLite has no full-text search (FTS5); use uv's Python")
    if "malformed" in text or "not a database" in text:
        return Refused(f"{path}: damaged ({text}); move it away, or mend it with `sqlite3 FILE .recover`")
    return Refused(f"{path}: {text}")
