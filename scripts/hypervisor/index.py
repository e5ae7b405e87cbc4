"""The task index: an SQLite cache over the task files. Deleting it costs one rescan.

A row stands for one file as it was at a modification time and a size; a file that differs is read
again. File systems stamp times in steps of some milliseconds, so that a file which was changed
just before it was read may change once more without a sign: such a row is read again as well.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from .errors import Unreadable
from .machine import on_network
from .model import Complexity, Priority, TaskHead, TaskStatus
from .paths import Project
from .tasks import read_task, task_paths

#: Raised with every change of what a row holds; an index of another version is made anew.
_VERSION = 2
#: So many rows are written in one transaction: others wait for it, and memory holds them until then.
_WRITTEN = 1000
#: The coarsest step in which a file system in use stamps times, and some more (FAT aside).
_STEP_NS = 50_000_000
_BUSY_SECONDS = 30.0
_REPEATED = ("status_word", "project", "type", "parent", "verify")
_LISTS = ("assignee", "depends_on", "files", "needs", "tags", "receipts")
_COLUMNS = tuple(field.name for field in fields(TaskHead) if field.name != "path")

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS task (
    path TEXT PRIMARY KEY, mtime_ns INTEGER, size INTEGER, read_ns INTEGER, words TEXT, error TEXT,
    {", ".join(_COLUMNS)}
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS task_by_id ON task (id COLLATE NOCASE);
PRAGMA user_version = {_VERSION};
"""


class Index:
    """The tasks of one project, without their bodies.

    Safe with any number of processes: whoever finds it stale refreshes it, and two who do so at
    once write the same.
    """

    def __init__(self, project: Project, settings: Mapping[str, Any]) -> None:
        self._project = project
        self._settings = settings
        #: The cache file; "" for a project that cannot be written to, which is read each time.
        self._path = str(project.state / "index.sqlite3")
        # What a file's words mean depends on these; other settings, other rows.
        tables = {name: settings[name] for name in ("tasks", "status", "priority")}
        self._words = hashlib.blake2b(json.dumps(tables, sort_keys=True).encode(), digest_size=16).hexdigest()
        self._database: sqlite3.Connection | None = None

    def close(self) -> None:
        """Close the cache file."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def refresh(self) -> None:
        """Bring the index up to the files as they are now."""
        try:
            self._refresh()
        except (sqlite3.DatabaseError, PermissionError):
            # Damaged, or of another program: it is a cache, and made anew.
            self.close()
            try:
                for tail in ("", "-wal", "-shm", "-journal"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(f"{self._path}{tail}")
                self._refresh()
            except (sqlite3.DatabaseError, OSError):
                self.close()
                self._path = ""
                self._refresh()

    def heads(self) -> Iterator[TaskHead]:
        """Yield every readable task, in the order of their paths; as of the last `refresh`."""
        for row in self._open().execute("SELECT * FROM task WHERE error = '' ORDER BY path"):
            yield self._head(row)

    def at(self, path: str) -> TaskHead | None:
        """Return the task whose file is at *path* below the root; as of the last `refresh`."""
        query = "SELECT * FROM task WHERE error = '' AND path = ?"
        row = self._open().execute(query, (path,)).fetchone()
        return self._head(row) if row else None

    def by_id(self, name: str) -> list[TaskHead]:
        """Return the tasks that bear this id, in whatever case."""
        query = "SELECT * FROM task WHERE error = '' AND id = ? COLLATE NOCASE ORDER BY path"
        return [self._head(row) for row in self._open().execute(query, (name,))]

    def find(self, name: str) -> TaskHead | None:
        """Return the one task with this id, or at this path, if that can be told from its own file.

        That is the quick way, which looks at one file only; None says to take the long one.
        """
        if not self._path or not os.path.exists(self._path):
            return None
        path = os.path.relpath(os.path.join(self._project.root, name), self._project.root)
        query = "SELECT * FROM task WHERE error = '' AND (id = ? COLLATE NOCASE OR path = ?)"
        try:
            rows = self._open().execute(query, (name, path)).fetchall()
            if len(rows) != 1:
                return None
            row = rows[0]
            file = os.path.join(self._project.root, row["path"])
            stat = os.stat(file)
            same = _still_so((row["mtime_ns"], row["size"], row["read_ns"]), stat)
            if same and row["words"] == self._words:
                return self._head(row)
            task = read_task(Path(file), self._settings)
        except (sqlite3.DatabaseError, OSError, ValueError, Unreadable):
            return None
        return task if task.id == row["id"] else None

    def unreadable(self) -> list[str]:
        """Return why the files that are no tasks could not be read, a line each."""
        return [
            row["error"]
            for row in self._open().execute("SELECT error FROM task WHERE error != '' ORDER BY path")
        ]

    # ---------------------------------------------------------------- details

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            if self._path:
                self._project.prepare()
            database = sqlite3.connect(self._path or ":memory:", timeout=_BUSY_SECONDS, isolation_level=None)
            database.row_factory = sqlite3.Row
            # A write-ahead log needs memory shared between its users, which a network file system
            # has not (sqlite.org/wal.html).
            journal = "DELETE" if on_network(str(self._project.state)) else "WAL"
            database.execute(f"PRAGMA journal_mode = {journal}")
            database.execute("PRAGMA synchronous = OFF")  # a cache: after a power loss it is made anew
            if database.execute("PRAGMA user_version").fetchone()[0] not in (0, _VERSION):
                database.execute("DROP TABLE IF EXISTS task")
            database.executescript(_SCHEMA)
            self._database = database
        return self._database

    def _refresh(self) -> None:
        database = self._open()
        # A row in other words stands for no file as it is: its size is none that a file can have.
        query = "SELECT path, mtime_ns, CASE words WHEN ? THEN size ELSE -1 END, read_ns FROM task"
        known: dict[str, tuple[int, int, int]] = {
            path: (mtime, size, read) for path, mtime, size, read in database.execute(query, (self._words,))
        }
        changed = []
        start = len(os.path.join(self._project.root, ""))
        for path in task_paths(self._project.root, self._settings):
            relative = path[start:]
            try:
                stat = os.stat(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG, errno.ENOTDIR):
                    raise
                stat = os.lstat(path)  # what is wrong with it is told where it is read
            row = known.pop(relative, None)
            if row is None or not _still_so(row, stat):
                changed.append(self._row(path, relative, stat))
                if len(changed) == _WRITTEN:
                    self._write(database, changed, ())
                    changed = []
        if changed or known:
            self._write(database, changed, known)

    def _write(self, database: sqlite3.Connection, rows: list[dict[str, Any]], gone: Iterable[str]) -> None:
        names = ("path", "mtime_ns", "size", "read_ns", "words", "error", *_COLUMNS)
        marks = ", ".join(f":{name}" for name in names)
        insert = f"INSERT OR REPLACE INTO task ({', '.join(names)}) VALUES ({marks})"  # noqa: S608 - our own names
        database.execute("BEGIN IMMEDIATE")
        try:
            database.executemany(insert, rows)
            database.executemany("DELETE FROM task WHERE path = ?", [(path,) for path in gone])
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise

    def _row(self, path: str, relative: str, stat: os.stat_result) -> dict[str, Any]:
        row: dict[str, Any] = dict.fromkeys(_COLUMNS)
        row |= {"path": relative, "mtime_ns": stat.st_mtime_ns, "size": stat.st_size, "error": ""}
        row |= {"read_ns": time.time_ns(), "words": self._words}
        try:
            if not os.path.realpath(path).startswith(os.path.join(os.path.realpath(self._project.root), "")):
                raise Unreadable(path, "not a file", "a link that leads out of the project")
            task = read_task(Path(path), self._settings)
        except Unreadable as error:
            # Whether a file may be read does not show in its time: it is looked at again.
            unsettled = {"read_ns": 0} if error.reason == "no access" else {}
            return row | {"error": str(error)} | unsettled
        for name in _COLUMNS:
            value = getattr(task, name)
            row[name] = (json.dumps(value) if value else "") if name in _LISTS else value
        return row

    def _head(self, row: sqlite3.Row) -> TaskHead:
        values = {name: row[name] for name in _COLUMNS}
        values |= {name: tuple(json.loads(row[name])) if row[name] else () for name in _LISTS}
        values |= {name: sys.intern(row[name]) for name in _REPEATED}  # of many tasks, once in memory
        values["status"] = TaskStatus(row["status"]) if row["status"] else None
        values["complexity"] = Complexity(row["complexity"]) if row["complexity"] else None
        values["priority"] = Priority(row["priority"])
        return TaskHead(path=os.path.join(self._project.root, row["path"]), **values)


def _still_so(row: tuple[int, int, int], stat: os.stat_result) -> bool:
    """Tell whether a row (mtime_ns, size, read_ns) stands for the file as it is."""
    mtime_ns, size, read_ns = row
    return mtime_ns + _STEP_NS < read_ns and (mtime_ns, size) == (stat.st_mtime_ns, stat.st_size)
