"""The rows of the task index: what SQLite keeps of a task, and what is kept up with each change.

Beside what the file says a row holds what questions are asked by, and how many tasks it waits for;
``depends`` has the edges, ``tally`` the counts. All change in the transaction in which the row does, so
that an answer costs what it tells, and not what the project holds.
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
from .preflight import is_agent

#: Raised with every change of what is kept; an index of another version is made anew.
VERSION = 4
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
    "kind",
)
_ROW = ("path", "mtime_ns", "size", "read_ns", "settled", "plain", "claim", "error", *COLUMNS, *_ASKED)
#: So many paths at a time: SQLite's own limit of values is above a thousand everywhere.
_AT_ONCE = 500

_COUNT = """
INSERT INTO tally SELECT 'status', '', {row}.shown, {by}
    WHERE {row}.error = '' ON CONFLICT DO UPDATE SET n = n + {by};
INSERT INTO tally SELECT 'project', {row}.project, ifnull({row}.status, ''), {by}
    WHERE {row}.error = '' ON CONFLICT DO UPDATE SET n = n + {by};
INSERT INTO tally SELECT 'complexity', '', {row}.complexity, {by}
    WHERE {row}.complexity != '' ON CONFLICT DO UPDATE SET n = n + {by};
INSERT INTO tally SELECT
    'kind', {row}.project_low,
    {row}.kind || CASE WHEN {row}.startable AND {row}.unmet THEN '1' ELSE '0' END, {by}
    WHERE {row}.error = '' ON CONFLICT DO UPDATE SET n = n + {by};
INSERT INTO tally SELECT 'ready', {row}.people, '', {by}
    WHERE {row}.startable AND {row}.unmet = 0 ON CONFLICT DO UPDATE SET n = n + {by};
"""
_WATCHED = "shown, status, complexity, project, people, kind, startable, unmet, error"

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS task (
    {", ".join("path TEXT PRIMARY KEY" if name == "path" else name for name in _ROW)}, unmet DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS task_stamp ON task (path, mtime_ns, size, settled);
CREATE INDEX IF NOT EXISTS task_low ON task (low, status);
CREATE INDEX IF NOT EXISTS task_claim ON task (claim);
CREATE INDEX IF NOT EXISTS task_loose ON task (path) WHERE NOT plain;
CREATE INDEX IF NOT EXISTS task_error ON task (path) WHERE error != '';
CREATE INDEX IF NOT EXISTS task_listed ON task
    (rank, path, status, complexity, project_low, parent_low, names, labels, error) WHERE error = '';
CREATE INDEX IF NOT EXISTS task_project ON task
    (project_low, rank, path, status, complexity, parent_low, names, labels, error) WHERE error = '';
CREATE INDEX IF NOT EXISTS task_ready ON task
    (rank, path, people, status, complexity, project_low, parent_low, names, labels, startable, unmet)
    WHERE startable AND unmet = 0;
CREATE INDEX IF NOT EXISTS task_waits ON task
    (depends_on, kind, people, project_low, complexity, path, startable, unmet)
    WHERE startable AND unmet > 0;
CREATE TABLE IF NOT EXISTS depends (low TEXT, path TEXT, PRIMARY KEY (low, path)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS depends_of ON depends (path, low);
CREATE TABLE IF NOT EXISTS missing (low TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS knot (low TEXT PRIMARY KEY, circle INTEGER, place INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tally
    (of TEXT, name TEXT, word TEXT, n INTEGER, PRIMARY KEY (of, name, word)) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS counted_new AFTER INSERT ON task BEGIN {_COUNT.format(row="NEW", by=1)} END;
CREATE TRIGGER IF NOT EXISTS counted_old AFTER DELETE ON task BEGIN {_COUNT.format(row="OLD", by=-1)} END;
CREATE TRIGGER IF NOT EXISTS counted_anew AFTER UPDATE OF {_WATCHED} ON task BEGIN
    {_COUNT.format(row="OLD", by=-1)} {_COUNT.format(row="NEW", by=1)}
END;
PRAGMA user_version = {VERSION};
"""
TABLES = ("meta", "task", "depends", "missing", "knot", "tally")

_INSERT = f"""
INSERT INTO task ({", ".join(_ROW)}) VALUES ({", ".join(f":{name}" for name in _ROW)})
ON CONFLICT (path) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _ROW if name != "path")}
"""  # noqa: S608 - our own names
_WAITS = """
SELECT count(*) FROM depends WHERE depends.path = task.path AND NOT EXISTS
    (SELECT 1 FROM task AS other WHERE other.low = depends.low AND other.status = 'done')
"""


def row_of(task: TaskHead, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a task; what belongs to its file (path, times, claim) is added elsewhere."""
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
        "kind": kind_of(task, bool(people)),
    }


def kind_of(task: TaskHead, people: bool) -> str:
    """Return what decides, beside dependencies and claims, why a task may not be claimed; see `of_kind`."""
    named = task.assignee if people or task.status is TaskStatus.IN_PROGRESS else ()
    word = task.status_word if task.status is None else ""
    return json.dumps([task.complexity, task.needs, task.status, word, named])


def of_kind(kind: str) -> TaskHead:
    """Return a task that may not be claimed for the same reasons as all of its kind."""
    complexity, needs, status, word, named = json.loads(kind)
    return TaskHead(
        path="", id="", title="", status=status and TaskStatus(status), status_word=word,
        assignee=tuple(named), priority=Priority.MEDIUM, project="", type="",
        complexity=complexity and Complexity(complexity), parent="", depends_on=(), files=(),
        needs=tuple(needs), tags=(), receipts=(), receipts_to="", verify="",
    )  # fmt: skip


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
        before = _nodes(database, paths)
        # Only of these can it have changed whether they are done.
        lows = {node[2] for node in before} | {row["low"] for row in rows if row["low"] is not None}
        done = _done(database, lows)
        database.executemany(_INSERT, rows)
        database.executemany("DELETE FROM task WHERE path = ?", [(path,) for path in gone])
        old = {node[0]: node[4] or "" for node in before}
        new = {row["path"]: row["depends_on"] or "" for row in rows}
        edged = [path for path in paths if old.get(path, "") != new.get(path, "")]
        unlinked = [(path,) for path in edged if old.get(path)]
        database.executemany("DELETE FROM depends WHERE path = ?", unlinked)
        edges = {(low, path) for path in edged for low in _names(new.get(path))}
        database.executemany("INSERT INTO depends VALUES (?, ?)", sorted(edges))
        flipped = done ^ _done(database, lows)
        waiting = {path for path in new if new[path]} | {path for path in edged if path in new}
        waiting |= {row[0] for row in _in(database, "SELECT path FROM depends WHERE low IN", flipped)}
        database.executemany(
            f"UPDATE task SET unmet = ({_WAITS}) WHERE path = ? AND unmet != ({_WAITS})",  # noqa: S608
            [(path,) for path in waiting],
        )
        named = {low for path in edged for low in _names(old.get(path))} | {low for low, _ in edges}
        _note_missing(database, lows | named)
        changed = set(before) ^ set(_nodes(database, paths))
        _look_for_circles(database, {node[2] for node in changed})


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


def _nodes(database: sqlite3.Connection, paths: Sequence[str]) -> list[tuple[str, str, str, int, str]]:
    """Return of each task at *paths* what it is in the graph: path, id, in lower case, done, edges."""
    query = "SELECT path, id, low, status IS 'done', depends_on FROM task WHERE low IS NOT NULL AND path IN"
    return [tuple(row) for row in _in(database, query, paths)]


def _done(database: sqlite3.Connection, lows: Iterable[str]) -> set[str]:
    return {row[0] for row in _in(database, "SELECT low FROM task WHERE status = 'done' AND low IN", lows)}


def _names(depends_on: str | None) -> list[str]:
    return [name.lower() for name in json.loads(depends_on)] if depends_on else []


def _note_missing(database: sqlite3.Connection, lows: set[str]) -> None:
    """Keep up which ids tasks depend on that no task bears, as far as *lows* go."""
    wanted = {row[0] for row in _in(database, "SELECT low FROM depends WHERE low IN", lows)}
    there = {row[0] for row in _in(database, "SELECT low FROM task WHERE low IN", wanted)}
    database.executemany("DELETE FROM missing WHERE low = ?", [(low,) for low in lows])
    database.executemany("INSERT INTO missing VALUES (?)", [(low,) for low in sorted(wanted - there)])


def _look_for_circles(database: sqlite3.Connection, lows: set[str]) -> None:
    """Note that circles are to be looked for anew if a change of the tasks *lows* may have changed them.

    An old one can only break, or be told in other words, if something of its knot changed. A new one
    goes through a task that changed, that is open, waits for something, and is waited for.
    """
    if not lows or get(database, "circles") == "unknown":
        return
    through = """
        SELECT 1 FROM task WHERE status IS NOT 'done' AND depends_on != ''
        AND EXISTS (SELECT 1 FROM depends WHERE depends.low = task.low) AND task.low IN
    """
    for query in ("SELECT 1 FROM knot WHERE low IN", through):
        if next(_in(database, query, lows), None):
            put(database, "circles", "unknown")
            return


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
        put(database, "circles", None)
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
