"""The task index: an SQLite cache over the task files.

A row stands for one file as it was at a modification time and a size; a file that differs is read again.
File systems stamp times in steps of some milliseconds, so that a file which was changed just before it was
read may change once more without a sign: such a row is not settled, and is read again as well.

Deleting the cache costs one rescan, and so does damage: it is made anew. Who holds a task is not kept here:
that is the store's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import apsw

from ..core.errors import Unreadable
from ..core.files import file_identity, matches_any, on_network, real_path
from ..core.model import TaskHead
from ..core.project import Project, canonical, item_key
from .discovery import Stamp, fixed_parts, stamp_of, stamps
from .index_rows import HEAD, NEXT_OF, ROW, SCHEMA, VERSION, WAITING, head_of, row_of, stored, write

T = TypeVar("T")

#: The coarsest step in which a file system in use stamps times, and some more (FAT aside).
_STEP_NS = 50_000_000
#: So many files are written in one transaction.
_AT_ONCE = 500
_BUSY_SECONDS, _PAUSE = 30.0, 0.001
#: What SQLite meets in a cache that is whole: there was no room, or no turn.
_WHOLE = (apsw.FullError, apsw.BusyError, apsw.LockedError, apsw.NoMemError, apsw.ReadOnlyError)


class Index:
    """The tasks of one project, without their bodies.

    Safe with any number of processes; one thread at a time. Answers are as of the last refresh. Paths are
    relative to the project's root unless said otherwise.

    Args:
        project: Which.
        settings: What decides which files are tasks, and what they say.
        kept: False for one in memory, which leaves nothing behind.
    """

    def __init__(self, project: Project, settings: Mapping[str, Any], *, kept: bool = True) -> None:
        self.project = project
        self._settings = settings
        self._root = os.path.join(project.root, "")
        self._real = os.path.join(real_path(project.root), "")
        #: Which files are tasks.
        self.globs: list[str] = list(settings["tasks"]["globs"])
        #: The folders at and below which there may be tasks.
        self.parts = fixed_parts(self.globs)
        #: What rows are made by beside the files.
        self.words = self._words()
        self._path = str(project.state / "index.db") if kept else ""
        self._database: apsw.Connection | None = None
        self._opened: tuple[int, int] | None = None

    # ------------------------------------------------------------------- file

    @property
    def kept(self) -> bool:
        """Whether it is a file, and not only in memory."""
        return bool(self._path)

    @property
    def database(self) -> apsw.Connection:
        """The cache; opened, and made, if need be."""
        if self._database is None:
            if self._path:
                self.project.prepare()
            database = _connected(self._path or ":memory:")
            try:
                self._opened = file_identity(self._path)
                self._make(database)
            except BaseException:
                database.close()
                raise
            self._database = database
        return self._database

    def close(self) -> None:
        """Close the cache; it opens again when it is asked."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def identity(self) -> str | None:
        """Return what tells this cache from one that took its place, or was emptied; None for none."""
        with contextlib.suppress(apsw.Error):
            if self._database is not None and self._opened and self._opened == file_identity(self._path):
                version, words = self._database.pragma("user_version"), self.noted("words")
                if (version, words) == (VERSION, self.words):
                    return f"{self._opened} {self.noted('emptied')}"
        return None

    def noted(self, name: str) -> Any:
        """Return what is noted under *name*, None for nothing."""
        return self.database.execute("SELECT value FROM meta WHERE name = ?", (name,)).get

    def note(self, name: str, value: Any) -> None:
        """Note *value* under *name*."""
        self.database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def _make(self, database: apsw.Connection) -> None:
        if database.pragma("user_version") == VERSION:
            return
        if self._path:
            # A write-ahead log needs memory shared between its users, which a network file system
            # has not (sqlite.org/wal.html). Whoever changes the mode keeps others from it.
            mode = "delete" if on_network(str(self.project.state)) else "wal"
            with contextlib.suppress(apsw.BusyError, apsw.LockedError):
                database.pragma("journal_mode", mode)
        with _writing(database):
            if database.pragma("user_version") == VERSION:  # another was faster
                return
            for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
                database.execute(f'DROP TABLE "{name}"')
            database.execute(f"{SCHEMA} PRAGMA user_version = {VERSION};")

    def _mended(self, act: Callable[[], None]) -> None:
        """Do *act*; a cache that is damaged, or of another program, is made anew, if need be in memory."""
        try:
            for mend in (self.close, self._reset):  # another may have made it anew already
                try:
                    act()
                except _WHOLE:
                    raise
                except apsw.Error:
                    mend()
                else:
                    return
            act()
        except (apsw.Error, OSError) as error:
            memory = _connected(":memory:")
            if self._database is not None and isinstance(error, _WHOLE):  # its rows can be believed
                with memory.backup("main", self._database, "main") as backup:
                    backup.step()
            self.close()
            self._path, self._database = "", memory
            self._make(memory)
            act()

    def _reset(self) -> None:
        """Empty the file in its place, whatever it holds: others may have it open."""
        self.close()
        if not self._path:
            return
        database = _connected(self._path)
        try:
            database.config(apsw.SQLITE_DBCONFIG_RESET_DATABASE, 1)
            database.execute("VACUUM")
            database.config(apsw.SQLITE_DBCONFIG_RESET_DATABASE, 0)
        finally:
            database.close()

    # ------------------------------------------------------------------- look

    def heads(self) -> list[TaskHead]:
        """Return every readable task, in the order of their paths."""
        return self.select("error = '' ORDER BY path")

    def select(self, where: str, values: Sequence[Any] = ()) -> list[TaskHead]:
        """Return the tasks of the rows that a condition in SQL means, and maybe an order."""
        query = f"SELECT {HEAD} FROM task WHERE {where}"  # noqa: S608 - our own words
        return [head_of(row, self._root) for row in self.database.execute(query, values)]

    def at(self, path: str) -> TaskHead | None:
        """Return the task whose file is at *path*."""
        return next(iter(self.select("error = '' AND path = ?", (stored(path),))), None)

    def named(self, name: str) -> list[TaskHead]:
        """Return the tasks with this id, in whatever case, or at this path."""
        at = None if "\0" in name else self.at(os.path.relpath(os.path.join(self._root, name), self._root))
        found = self.select("low = ? ORDER BY path", (stored(name.lower()),))
        return found if at is None or at in found else [*found, at]

    def find(self, name: str) -> TaskHead | None:
        """Return the one task with this id, or at this path, if that can be told from its own file.

        That is the quick way, which needs no refresh; None says to take the long one.
        """
        if not self.kept or not os.path.exists(self._path):
            return None
        from .files import read_task  # noqa: PLC0415 - the YAML loader

        try:
            found = self.named(name)
            if len(found) != 1:
                return None
            task = found[0]
            if self._as_it_was(task.path.removeprefix(self._root)) and self.noted("words") == self.words:
                return task
            fresh = read_task(Path(task.path), self._settings)
        except (apsw.Error, OSError, ValueError, Unreadable):
            return None
        return fresh if fresh.id == task.id else None

    def is_done(self, name: str) -> bool:
        """Tell whether a task with this id, in whatever case, is done."""
        query = "SELECT count(*) FROM task WHERE low = ? AND status = 'done'"
        return bool(self.database.execute(query, (name.lower(),)).get)

    def name_of(self, low: str) -> str | None:
        """Return an id as the first task that bears it spells it, None if there is none."""
        query = "SELECT id FROM task WHERE low = ? ORDER BY path LIMIT 1"
        return next((str(row[0]) for row in self.database.execute(query, (low,))), None)

    def next_of(self, low: str) -> list[str]:
        """Return the ids, in lower case, for which the tasks with this id wait."""
        return [str(row[0]) for row in self.database.execute(NEXT_OF, (low,))]

    def faults(self, find: Callable[[list[tuple[str, str, bool]]], T]) -> T:
        """Return what *find* finds wrong with all dependencies, as JSON has it; kept until one changes.

        It is given who waits for whom: an id, an id in lower case, whether any task bears that.
        """
        kept = self.noted("faults")
        if kept is None:
            with _writing(self.database):
                rows = self.database.execute(WAITING)
                kept = json.dumps(find([(name, low, bool(known)) for name, low, known in rows]))
                self.note("faults", kept)
        found: T = json.loads(kept)
        return found

    def unreadable(self) -> list[str]:
        """Return why the files that are no tasks could not be read, a line each."""
        query = "SELECT error FROM task WHERE error != '' ORDER BY path"
        return [row[0] for row in self.database.execute(query)]

    def loose(self) -> list[str]:
        """Return the paths of the files that may change without a sign in their folder: links."""
        return [row[0] for row in self.database.execute("SELECT path FROM task WHERE NOT plain")]

    # ---------------------------------------------------------------- refresh

    def refresh(self) -> None:
        """Bring the index up to the files as they are now."""
        self._mended(lambda: self._bring_up(self._differing(self.parts, "")))

    def refresh_some(self, folders: Iterable[str], paths: Iterable[str]) -> None:
        """Bring the index up to what is now at and below *folders*, and at *paths*."""

        def act() -> None:
            if self.noted("words") != self.words:
                self._bring_up(self._differing(self.parts, ""))
                return
            differ = [path for path in paths if not self._as_it_was(path)]
            for folder in sorted(folders):
                differ += self._differing([folder], f"{folder}/" if folder else "")
            self._bring_up(differ)

        self._mended(act)

    def _differing(self, folders: Iterable[str], below: str) -> list[str]:
        """Return the paths at which files differ from the rows below *below*: changed, new, and gone ones."""
        self._require_words()
        query = "SELECT path, mtime_ns, size, settled FROM task WHERE path >= ? AND path < ?"
        above = f"{below[:-1]}0" if below else "\U0010ffff"
        known = {row[0]: row[1:] for row in self.database.execute(query, (below, above))}
        differ = []
        for folder in folders:
            for here, files in stamps(self._root + folder if folder else self._root.rstrip("/") or "/"):
                prefix = here[len(self._root) :]
                prefix = f"{prefix}/" if prefix else ""
                for name, stamp in files:
                    path = prefix + name
                    row = known.pop(path, None) or known.pop(stored(path), None)
                    if self._differs(row, path, stamp):
                        differ.append(path)
        return differ + list(known)

    def _bring_up(self, paths: Sequence[str]) -> None:
        """Read the files at *paths* again where they differ from their rows, and write what they say.

        No row is ever replaced by what its file said before: what is written was read in the transaction, or
        the file has not changed since.
        """
        for start in range(0, len(paths), _AT_ONCE):
            some = [path for path in paths[start : start + _AT_ONCE] if not self._as_it_was(path)]
            read = {path: self._read(path) for path in some}
            with _writing(self.database):
                rows = []
                for path, row in read.items():
                    now = stamp_of(self._root + path) or ()
                    if not row or not row["settled"] or now[:2] != (row["mtime_ns"], row["size"]):
                        row = self._read(path)  # noqa: PLW2901
                    rows += [row] if row else []
                write(self.database, rows, [stored(path) for path in some])

    def _require_words(self) -> None:
        if self.noted("words") != self.words:
            with _writing(self.database):
                self.database.execute(
                    "DELETE FROM task; DELETE FROM depends; DELETE FROM meta WHERE name = 'faults'"
                )
                self.note("words", self.words)
                self.note("emptied", (self.noted("emptied") or 0) + 1)  # who has seen the rows looks again

    def _words(self) -> str:
        tables: dict[str, Any] = {name: self._settings[name] for name in ("tasks", "status", "priority")}
        tables["agents"] = self._settings["agents"]["names"]
        # A task's key depends on where the links above a file lead.
        tables["folders"] = [real_path(self._root + part) for part in self.parts]
        return hashlib.blake2b(json.dumps(tables, sort_keys=True).encode(), digest_size=16).hexdigest()

    def _as_it_was(self, path: str) -> bool:
        """Tell whether the file at *path* is the one that its row stands for."""
        query = "SELECT mtime_ns, size, settled FROM task WHERE path = ?"
        row = self.database.execute(query, (stored(path),)).fetchone()
        stamp = stamp_of(self._root + path)
        return row is None if stamp is None else not self._differs(row, path, stamp)

    def _differs(self, row: Sequence[Any] | None, path: str, stamp: Stamp) -> bool:
        """Tell whether the file at *path* has to be read, by its row's times and its stamp."""
        if row is None:
            return matches_any(path, self.globs)
        return not row[2] or row[0] != stamp[0] or row[1] != stamp[1]

    def _read(self, path: str) -> dict[str, Any] | None:
        """Read a file; return its row, None for no file."""
        from .files import read_task  # noqa: PLC0415 - the YAML loader

        file, kept_as = self._root + path, stored(path)
        began, stamp = time.time_ns(), stamp_of(file)
        if stamp is None:
            return None
        row: dict[str, Any] = dict.fromkeys(ROW) | {"path": kept_as, "startable": 0}
        row |= {"mtime_ns": stamp[0], "size": stamp[1], "plain": int(stamp[2])}
        row |= {"settled": int(stamp[0] + _STEP_NS < began)}
        if kept_as != path:
            return row | {"error": f"{kept_as}: its name is not UTF-8; rename it"}
        real = real_path(file)
        try:
            if not real.startswith(self._real):
                raise Unreadable(file, "not a file", "a link that leads out of the project")
            row |= row_of(read_task(Path(file), self._settings), self._settings)
        except Unreadable as error:
            # Whether a file may be read does not show in its time: it is looked at again.
            return row | {"error": str(error)} | ({"settled": 0} if error.reason == "no access" else {})
        # Of a key the hash is enough to find the task by.
        return row | {"key_hash": item_key(canonical(real, str(self.project.root)))[-32:]}


def _connected(path: str) -> apsw.Connection:
    database = apsw.Connection(path)
    database.set_busy_handler(_wait)
    database.pragma("synchronous", "off")  # a cache: after a power loss it is made anew
    return database


def _wait(tries: int) -> bool:
    # SQLite's own pauses grow to a tenth of a second; whoever writes here is done in a few milliseconds.
    time.sleep(_PAUSE)
    return tries * _PAUSE < _BUSY_SECONDS


@contextlib.contextmanager
def _writing(database: apsw.Connection) -> Iterator[None]:
    """Make what is changed within one change: all or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # SQLite itself has rolled back where there was no room
            database.execute("ROLLBACK")
        raise
