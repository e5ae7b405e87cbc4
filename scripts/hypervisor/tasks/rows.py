"""The rows of the task index: what SQLite keeps of a task, and what is kept up with each change.

Beside what the file says a row holds what questions are asked by, and how many tasks it waits for;
``depends`` has the edges. All change in the transaction in which the row does. Who holds a task is not
kept here: that is the store's.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..core.model import Complexity, Priority, TaskHead, TaskStatus
from .eligibility import is_agent

#: Raised with every change of what is kept; an index of another version is made anew.
VERSION = 5
COLUMNS = tuple(field.name for field in fields(TaskHead) if field.name != "path")
LISTS = ("assignee", "depends_on", "files", "needs", "tags", "receipts")
_REPEATED = ("status_word", "project", "type", "parent", "verify")
#: What is asked by; see `_asked_by`.
_ASKED = (
    "low",
    "rank",
    "shown",
    "project_low",
    "parent_low",
    "names",
    "labels",
    "people",
    "startable",
)
_ROW = ("path", "mtime_ns", "size", "read_ns", "settled", "plain", "key_hash", "error", *COLUMNS, *_ASKED)
#: So many paths at a time: SQLite's own limit of values is above a thousand everywhere.
_AT_ONCE = 500

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS task (
    {", ".join("path TEXT PRIMARY KEY" if name == "path" else name for name in _ROW)}, unmet DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS task_stamp ON task (path, mtime_ns, size, settled);
CREATE INDEX IF NOT EXISTS task_low ON task (low, status);
CREATE INDEX IF NOT EXISTS task_key_hash ON task (key_hash);
CREATE INDEX IF NOT EXISTS task_loose ON task (path) WHERE NOT plain;
CREATE INDEX IF NOT EXISTS task_error ON task (path) WHERE error != '';
CREATE INDEX IF NOT EXISTS task_listed ON task
    (rank, path, status, complexity, project_low, parent_low, names, labels, error) WHERE error = '';
CREATE INDEX IF NOT EXISTS task_project ON task
    (project_low, rank, path, status, complexity, parent_low, names, labels, error) WHERE error = '';
CREATE INDEX IF NOT EXISTS task_ready ON task
    (rank, path, people, status, complexity, project_low, parent_low, names, labels, startable, unmet)
    WHERE startable AND unmet = 0;
CREATE TABLE IF NOT EXISTS depends (low TEXT, path TEXT, PRIMARY KEY (low, path)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS depends_of ON depends (path, low);
PRAGMA user_version = {VERSION};
"""
TABLES = ("meta", "task", "depends")

_INSERT = f"""
INSERT INTO task ({", ".join(_ROW)}) VALUES ({", ".join(f":{name}" for name in _ROW)})
ON CONFLICT (path) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _ROW if name != "path")}
"""  # noqa: S608 - our own names
_WAITS = """
SELECT count(*) FROM depends WHERE depends.path = task.path AND NOT EXISTS
    (SELECT 1 FROM task AS other WHERE other.low = depends.low AND other.status = 'done')
"""


def row_of(task: TaskHead, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a task; what belongs to its file (path, times, key) is added elsewhere."""
    row: dict[str, Any] = {"error": ""}
    for name in COLUMNS:
        value = getattr(task, name)
        row[name] = (json.dumps(value) if value else "") if name in LISTS else value
    people = [name.casefold() for name in task.assignee if not is_agent(name, settings)]
    return row | {
        "low": task.id.lower(),
        "rank": task.priority.rank,
        "shown": task.status or task.status_word or "no status",
        "project_low": task.project.casefold(),
        "parent_low": task.parent.lower(),
        "names": joined(name.lower() for name in task.assignee),
        "labels": joined(task.tags),
        "people": joined(people),
        "startable": int(task.status in (TaskStatus.INBOX, TaskStatus.ACTIVE)),
    }


def no_row(error: str) -> dict[str, Any]:
    """Return what is kept of a file that is no task."""
    return dict.fromkeys((*COLUMNS, *_ASKED)) | {"error": error, "startable": 0}


def joined(words: Iterable[str]) -> str:
    r"""Return words as one text in which each can be looked for with a newline at both ends."""
    text = "\n".join(word.replace("\n", "\r") for word in words)
    return f"\n{text}\n" if text else ""


def within(word: str) -> str:
    """Return *word* as it stands within what `joined` returns."""
    return joined((word,))


def head_of(row: sqlite3.Row, root: str) -> TaskHead:
    """Return the task that a row stands for."""
    values = {name: row[name] for name in COLUMNS}
    values |= {name: tuple(json.loads(row[name])) if row[name] else () for name in LISTS}
    values |= {name: sys.intern(row[name]) for name in _REPEATED}  # of many tasks, once in memory
    values["status"] = TaskStatus(row["status"]) if row["status"] else None
    values["complexity"] = Complexity(row["complexity"]) if row["complexity"] else None
    values["priority"] = Priority(row["priority"])
    return TaskHead(path=os.path.join(root, row["path"]), **values)


# ------------------------------------------------------------------------ write


def write(database: sqlite3.Connection, rows: Sequence[dict[str, Any]], gone: Sequence[str]) -> None:
    """Put *rows* in, take the paths of *gone* out, and keep up what depends on them; all or nothing."""
    paths = [row["path"] for row in rows] + list(gone)
    with changing(database):
        known = _in(database, "SELECT path, low FROM task WHERE low IS NOT NULL AND path IN", paths)
        old: dict[str, str] = {row["path"]: row["low"] for row in known}
        # Only of these can it have changed whether they are done.
        lows = set(old.values()) | {row["low"] for row in rows if row["low"] is not None}
        done = _done(database, lows)
        database.executemany(_INSERT, rows)
        database.executemany("DELETE FROM task WHERE path = ?", [(path,) for path in gone])
        database.executemany("DELETE FROM depends WHERE path = ?", [(path,) for path in old])
        edges = {(low, row["path"]) for row in rows for low in _names(row["depends_on"])}
        database.executemany("INSERT INTO depends VALUES (?, ?)", sorted(edges))
        flipped = done ^ _done(database, lows)
        waiting = {row["path"] for row in rows if row["depends_on"] or row["path"] in old}
        waiting |= {row[0] for row in _in(database, "SELECT path FROM depends WHERE low IN", flipped)}
        database.executemany(
            f"UPDATE task SET unmet = ({_WAITS}) WHERE path = ? AND unmet != ({_WAITS})",  # noqa: S608
            [(path,) for path in waiting],
        )


@contextlib.contextmanager
def changing(database: sqlite3.Connection) -> Iterator[None]:
    """Make what is changed within one change: all or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # SQLite itself has rolled back where there was no room
            database.execute("ROLLBACK")
        raise


def _done(database: sqlite3.Connection, lows: Iterable[str]) -> set[str]:
    return {row[0] for row in _in(database, "SELECT low FROM task WHERE status = 'done' AND low IN", lows)}


def _names(depends_on: str | None) -> list[str]:
    return [name.lower() for name in json.loads(depends_on)] if depends_on else []


def _in(database: sqlite3.Connection, query: str, values: Iterable[str]) -> Iterator[sqlite3.Row]:
    """Yield the rows of a query that ends in ``IN``, for any number of values."""
    left = list(values)
    for start in range(0, len(left), _AT_ONCE):
        some = left[start : start + _AT_ONCE]
        yield from database.execute(f"{query} ({', '.join('?' * len(some))})", some)


def nonce() -> str:
    """Return what no other cache, and no other life of this one, bears."""
    return os.urandom(8).hex()


def clear(database: sqlite3.Connection, words: str) -> None:
    """Take out all rows: what is put in from now on is made by other *words*."""
    with changing(database):
        for table in TABLES[1:]:
            database.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
        put(database, "words", words)
        put(database, "nonce", nonce())  # who has seen the rows before has to look again


# ------------------------------------------------------------------------- meta


def get(database: sqlite3.Connection, name: str) -> Any:
    """Return what is noted under *name*, None for nothing."""
    row = database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None


def put(database: sqlite3.Connection, name: str, value: Any) -> None:
    """Note *value* under *name*."""
    database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
