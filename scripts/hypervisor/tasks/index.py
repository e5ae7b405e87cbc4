"""The task index: an SQLite cache over the task files. Deleting it costs one rescan.

Rows are written only by whoever holds `index.lock`, from files that were read while it was held. So no
row is ever replaced by what its file said before.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import Unreadable
from ..core.model import TaskHead
from ..core.project import Project
from . import rows
from .cachefile import CacheFile, Stuck, is_whole
from .finding import fixed_parts
from .rereading import Files, Known, stamped, stored


class Index:
    """The tasks of one project, without their bodies.

    Safe with any number of processes: whoever finds it stale refreshes it, and those who wait for
    him take what he found, if he began after they came.
    """

    def __init__(self, project: Project, settings: Mapping[str, Any], *, kept: bool = True) -> None:
        self.project = project
        self._settings = settings
        self._root = os.path.join(project.root, "")
        self._files = Files(project, settings)
        # A project that cannot be written to is read each time.
        self._cache = CacheFile(project, kept=kept)
        #: What rows are made by beside the files.
        self.words = self._words()

    def close(self) -> None:
        """Close the cache file."""
        self._cache.close()

    @property
    def database(self) -> sqlite3.Connection:
        """The cache, to ask; as of the last `refresh`."""
        return self._cache.database

    @property
    def kept(self) -> bool:
        """Whether it is a file, and not only in memory."""
        return bool(self._cache.path)

    @property
    def globs(self) -> list[str]:
        """Which files are tasks."""
        return self._files.globs

    @property
    def parts(self) -> list[str]:
        """The folders at and below which there may be tasks, relative to the root."""
        return fixed_parts(self.globs)

    def identity(self) -> str | None:
        """Return what tells this cache, made by these words, from one that took its place; None for none."""
        found = self._cache.identity()
        return found if found and self._noted("words") == self.words else None

    def refresh(self) -> None:
        """Bring the index up to the files as they are now."""
        self._mended(self._refresh)

    def look(self) -> None:
        """Do what `refresh` does, and keep others waiting only while what differs is read."""
        self._mended(self._look)

    def looked(self) -> float | None:
        """Return the seconds since somebody began to look at all files; None where that is not known."""
        ago = time.time() - (self._noted("looked") or 0)
        return ago if ago >= 0 else None

    def refresh_some(self, folders: Iterable[str], paths: Iterable[str]) -> None:
        """Bring the index up to what is now at and below *folders*, and at *paths*; all relative."""
        self._mended(lambda: self._refresh_some(folders, paths))

    def heads(self) -> Iterator[TaskHead]:
        """Yield every readable task, in the order of their paths; as of the last `refresh`."""
        for row in self.database.execute("SELECT * FROM task WHERE error = '' ORDER BY path"):
            yield self.head(row)

    def head(self, row: sqlite3.Row) -> TaskHead:
        """Return the task of a row."""
        return rows.head_of(row, self._root)

    def at(self, path: str) -> TaskHead | None:
        """Return the task whose file is at *path* below the root; as of the last `refresh`."""
        query = "SELECT * FROM task WHERE error = '' AND path = ?"
        row = self.database.execute(query, (stored(path),)).fetchone()
        return self.head(row) if row else None

    def by_id(self, name: str) -> list[TaskHead]:
        """Return the tasks that bear this id, in whatever case; as of the last `refresh`."""
        query = "SELECT * FROM task WHERE low = ? ORDER BY path"
        return [self.head(row) for row in self.database.execute(query, (stored(name.lower()),))]

    def named(self, name: str) -> list[TaskHead]:
        """Return the tasks with this id, or at this path; as of the last `refresh`."""
        at = None if "\0" in name else self.at(os.path.relpath(os.path.join(self._root, name), self._root))
        found = self.by_id(name)
        return found if at is None or at in found else [*found, at]

    def find(self, name: str) -> TaskHead | None:
        """Return the one task with this id, or at this path, if that can be told from its own file.

        That is the quick way, which looks at one file only; None says to take the long one.
        """
        if not self.kept or not os.path.exists(self._cache.path):
            return None
        from .tasks import read_task  # noqa: PLC0415 - the YAML loader

        try:
            found = self.named(name)
            if len(found) != 1:
                return None
            task = found[0]
            path = task.path.removeprefix(self._root)
            if self._files.as_it_was(self.database, path) and self._noted("words") == self.words:
                return task
            fresh = read_task(Path(task.path), self._settings)
        except (sqlite3.DatabaseError, OSError, ValueError, Unreadable, Stuck):
            return None
        return fresh if fresh.id == task.id else None

    def unreadable(self) -> list[str]:
        """Return why the files that are no tasks could not be read, a line each."""
        query = "SELECT error FROM task WHERE error != '' ORDER BY path"
        return [row["error"] for row in self.database.execute(query)]

    def loose(self) -> list[str]:
        """Return the paths of the files that may change without a sign in their folder: links."""
        return [row["path"] for row in self.database.execute("SELECT path FROM task WHERE NOT plain")]

    # ---------------------------------------------------------------- details

    def _words(self) -> str:
        tables: dict[str, Any] = {name: self._settings[name] for name in ("tasks", "status", "priority")}
        tables["agents"] = self._settings["agents"]["names"]
        # A task's key depends on where the links above a file lead.
        tables["folders"] = [os.path.realpath(self._root + part) for part in self.parts]
        return hashlib.blake2b(json.dumps(tables, sort_keys=True).encode(), digest_size=16).hexdigest()

    def _noted(self, name: str) -> Any:
        return rows.get(self.database, name)

    def _mended(self, act: Callable[[], None]) -> None:
        """Do *act*; a cache that is damaged, or of another program, is made anew, if need be in memory."""
        try:
            try:
                act()
            except sqlite3.DatabaseError as error:
                if is_whole(error):
                    raise
                self._cache.remove()
                self._refresh()
        except (sqlite3.DatabaseError, OSError, Stuck) as error:
            self._cache.leave(error)
            self._refresh()

    def _refresh(self) -> None:
        database = self.database
        came = self._noted("begun") or 0
        with self._cache.locked():
            same = self._noted("words") == self.words
            if same and (self._noted("ended") or 0) > came:
                return  # somebody who began after we came has looked at all files
            number = (self._noted("begun") or 0) + 1
            rows.put(database, "begun", number)
            if not same:
                rows.clear(database, self.words)
            began = time.time()
            self._files.bring_up(database, self._known(), self._files.found(self.parts))
            rows.put(database, "ended", number)
            rows.put(database, "looked", began)

    def _look(self) -> None:
        if self._noted("words") != self.words:
            self._refresh()
            return
        began = time.time()
        known = self._known()
        found = self._files.found(self.parts)
        differ = [path for path, stamp in found if self._files.differs(known.pop(path, None), path, stamp)]
        self._refresh_some((), [*differ, *known])
        rows.put(self.database, "looked", began)

    def _known(self) -> Known:
        query = "SELECT path, mtime_ns, size, settled FROM task"
        return {path: (mtime, size, ok) for path, mtime, size, ok in self.database.execute(query)}

    def _refresh_some(self, folders: Iterable[str], paths: Iterable[str]) -> None:
        database = self.database
        if self._noted("words") != self.words:
            self._refresh()
            return
        changed = [path for path in paths if not self._files.as_it_was(database, path)]
        folders = sorted(folders)
        if not changed and not folders:
            return
        with self._cache.locked():
            known: Known = {}
            for folder in folders:
                query = "SELECT path, mtime_ns, size, settled FROM task WHERE path > ? AND path < ?"
                below = (f"{folder}/", f"{folder}0") if folder else ("", "\U0010ffff")
                known |= {row[0]: tuple(row)[1:] for row in database.execute(query, below)}
            found = list(self._files.found(folders))
            for path in changed:
                row, stamp = stamped(database, path), self._files.stamp(path)
                if row is not None:
                    known[stored(path)] = row
                if stamp is not None:
                    found.append((path, stamp))
            self._files.bring_up(database, known, dict(found).items())
