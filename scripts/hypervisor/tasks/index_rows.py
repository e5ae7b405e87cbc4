"""What the task index keeps of a task: the tables, a task as a row, and how rows are written.

Beside what the file says a row holds what is asked by, and how many tasks it waits for (``unmet``);
``depends`` has the edges.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import apsw

from ..core.model import Complexity, Priority, TaskHead, TaskStatus
from .eligibility import is_agent

#: Raised with every change of what is kept; an index of another version is made anew.
VERSION = 9
COLUMNS = tuple(one.name for one in fields(TaskHead) if one.name != "path")
_LISTS = ("assignee", "depends_on", "files", "needs", "tags", "receipts")
#: Of many tasks, once in memory.
_REPEATED = ("status_word", "project", "type", "parent", "verify")
#: What tells whether a file has to be read again; see `row_of` for the rest.
_OF_FILE = ("path", "mtime_ns", "size", "settled", "plain", "key_hash", "error")
#: What is asked by, beside what the file says.
_ASKED = ("low", "rank", "project_low", "parent_low", "names", "labels", "people", "startable")
ROW = (*_OF_FILE, *COLUMNS, *_ASKED)
HEAD = ", ".join(("path", *COLUMNS))
_FILTERS = "status, complexity, project_low, parent_low, names, labels"
SCHEMA = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE task (
    {", ".join("path TEXT PRIMARY KEY" if name == "path" else name for name in ROW)}, unmet DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX task_stamp ON task (path, mtime_ns, size, settled);
CREATE INDEX task_low ON task (low, status);
CREATE INDEX task_key_hash ON task (key_hash);
CREATE INDEX task_loose ON task (path) WHERE NOT plain;
CREATE INDEX task_error ON task (path) WHERE error != '';
CREATE INDEX task_waiting ON task (path) WHERE unmet;
CREATE INDEX task_listed ON task (rank, path, {_FILTERS}, error) WHERE error = '';
CREATE INDEX task_project ON task (project_low, rank, path, {_FILTERS}, error) WHERE error = '';
CREATE INDEX task_status ON task (status, status_word, error) WHERE error = '';
CREATE INDEX task_complexity ON task (complexity, error) WHERE error = '';
CREATE INDEX task_project_status ON task (project, status, error) WHERE error = '';
CREATE INDEX task_ready ON task (rank, path, people, {_FILTERS}, startable, unmet)
    WHERE startable AND unmet = 0;
CREATE TABLE depends (low TEXT, path TEXT, PRIMARY KEY (low, path)) WITHOUT ROWID;
CREATE INDEX depends_of ON depends (path, low);
"""
PUT = f"""
INSERT INTO task ({", ".join(ROW)}) VALUES ({", ".join(f":{name}" for name in ROW)})
ON CONFLICT (path) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in ROW if name != "path")}
"""  # noqa: S608 - our own names
WAITS = """
SELECT count(*) FROM depends WHERE depends.path = task.path AND NOT EXISTS
    (SELECT 1 FROM task AS other WHERE other.low = depends.low AND other.status = 'done')
"""
WAITING = """
SELECT id, depends.low, EXISTS (SELECT 1 FROM task AS other WHERE other.low = depends.low)
FROM task JOIN depends USING (path)
WHERE unmet AND NOT EXISTS
    (SELECT 1 FROM task AS other WHERE other.low = depends.low AND other.status = 'done')
ORDER BY path, depends.low
"""
#: Of the tasks with one id: what of their dependencies is not done.
NEXT_OF = """
SELECT DISTINCT depends.low FROM task JOIN depends USING (path) WHERE task.low = ? AND NOT EXISTS
    (SELECT 1 FROM task AS other WHERE other.low = depends.low AND other.status = 'done')
ORDER BY depends.low
"""
#: In a query, one of the values of a JSON list: SQLite has a most of single ones.
ONE_OF = "(SELECT value FROM json_each(?))"


def joined(words: Iterable[str]) -> str:
    r"""Return words as one text in which each can be looked for with a newline at both ends."""
    text = "\n".join(word.replace("\n", "\r") for word in words)
    return f"\n{text}\n" if text else ""


def row_of(task: TaskHead, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a task beside what belongs to its file."""
    row: dict[str, Any] = {"error": ""}
    for name in COLUMNS:
        value = getattr(task, name)
        row[name] = (json.dumps(value) if value else "") if name in _LISTS else value
    row["accept_reports"] = None if task.accept_reports is None else int(task.accept_reports)
    return row | {
        "low": task.id.lower(),
        "rank": task.priority.rank,
        "project_low": task.project.casefold(),
        "parent_low": task.parent.lower(),
        "names": joined(name.lower() for name in task.assignee),
        "labels": joined(task.tags),
        "people": joined(name.casefold() for name in task.assignee if not is_agent(name, settings)),
        "startable": int(task.status in (TaskStatus.INBOX, TaskStatus.ACTIVE)),
    }


def stored(path: str) -> str:
    """Return *path* as it stands in the cache: SQLite keeps no bytes that are not UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode()


def head_of(row: Sequence[Any], root: str) -> TaskHead:
    """Return the task that a row of `HEAD` stands for, in a project at *root*."""
    values = dict(zip(COLUMNS, row[1:], strict=True))
    values |= {name: tuple(json.loads(values[name])) if values[name] else () for name in _LISTS}
    values |= {name: sys.intern(values[name]) for name in _REPEATED}
    values["status"] = TaskStatus(values["status"]) if values["status"] else None
    values["complexity"] = Complexity(values["complexity"]) if values["complexity"] else None
    values["priority"] = Priority(values["priority"])
    values["accept_reports"] = None if values["accept_reports"] is None else bool(values["accept_reports"])
    return TaskHead(path=os.path.join(root, row[0]), **values)


def write(database: apsw.Connection, rows: Sequence[Mapping[str, Any]], paths: Sequence[str]) -> None:
    """Replace the rows of *paths* by *rows*, and what other rows say of what they wait for.

    What is known of all dependencies ("faults" in ``meta``) is forgotten where it may have changed. A task
    that begins changes none of it, nor does one that ends and had waited for nothing.
    """
    run, among = database.execute, (json.dumps(paths),)
    old = run(f"SELECT path, id, low, unmet FROM task WHERE path IN {ONE_OF}", among).fetchall()  # noqa: S608
    edges = {(name.lower(), row["path"]) for row in rows for name in json.loads(row["depends_on"] or "[]")}
    same = edges == set(run(f"SELECT low, path FROM depends WHERE path IN {ONE_OF}", among))  # noqa: S608
    same = same and {row[:2] for row in old} == {(row["path"], row["id"]) for row in rows}
    # Only of these can it have changed whether they are done.
    lows = {row[2] for row in old if row[2]} | {row["low"] for row in rows if row["low"]}
    done = _done(database, lows)
    gone = set(paths) - {row["path"] for row in rows}
    database.executemany("DELETE FROM task WHERE path = ?", [(path,) for path in gone])
    database.executemany(PUT, rows)
    if not same:
        run(f"DELETE FROM depends WHERE path IN {ONE_OF}", among)  # noqa: S608
        database.executemany("INSERT INTO depends VALUES (?, ?)", sorted(edges))
    now = _done(database, lows)
    if not same or done - now or (now - done) & {row[2] for row in old if row[3]}:
        run("DELETE FROM meta WHERE name = 'faults'")
    flipped = json.dumps(sorted(done ^ now))
    run(
        f"UPDATE task SET unmet = ({WAITS}) WHERE unmet != ({WAITS}) AND"  # noqa: S608
        f" path IN (SELECT value FROM json_each(?) UNION SELECT path FROM depends WHERE low IN {ONE_OF})",
        (*among, flipped),
    )


def _done(database: apsw.Connection, lows: Collection[Any]) -> set[str]:
    query = f"SELECT low FROM task WHERE status = 'done' AND low IN {ONE_OF}"  # noqa: S608
    return {str(row[0]) for row in database.execute(query, (json.dumps(sorted(lows)),))}
