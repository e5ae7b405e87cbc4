"""The task index: an SQLite cache over the task files. Deleting it costs one rescan.

A row stands for one file as it was at a modification time and a size; a file that differs is read
again. File systems stamp times in steps of some milliseconds, so that a file which was changed
just before it was read may change once more without a sign: such a row is not settled, and is read
again as well.

Rows are written only by whoever holds `index.lock`, from files that were read while it was held. So no
row is ever replaced by what its file said before.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from . import rows
from .errors import Unreadable
from .finding import Stamp, fixed_parts, stamp_of, stamps
from .globs import matches_any
from .keys import canonical, item_key
from .machine import on_network
from .model import TaskHead
from .paths import Project

LOCK = "index.lock"
#: So many rows are written in one transaction: memory holds them until then.
_WRITTEN = 1000
#: The coarsest step in which a file system in use stamps times, and some more (FAT aside).
_STEP_NS = 50_000_000
_BUSY_SECONDS = 30.0
#: So long somebody may keep the lock without having written anything before he is taken for stopped;
#: then the files are read into memory instead.
_STUCK_SECONDS = 20.0

_Known = dict[str, tuple[int, int, int]]


class Index:
    """The tasks of one project, without their bodies.

    Safe with any number of processes: whoever finds it stale refreshes it, and those who wait for
    him take what he found, if he began after they came.
    """

    def __init__(self, project: Project, settings: Mapping[str, Any], *, kept: bool = True) -> None:
        self.project = project
        self._settings = settings
        self._root = os.path.join(project.root, "")
        self._real = os.path.realpath(project.root)
        #: The cache file; "" for a project that cannot be written to, which is read each time.
        self._path = str(project.state / "index.sqlite3") if kept else ""
        self._database: sqlite3.Connection | None = None
        #: Which files are tasks.
        self.globs: list[str] = list(settings["tasks"]["globs"])
        #: What rows are made by beside the files.
        self.words = self._words()

    def close(self) -> None:
        """Close the cache file."""
        if self._database is not None:
            self._database.close()
            self._database = None

    @property
    def database(self) -> sqlite3.Connection:
        """The cache, to ask; as of the last `refresh`."""
        return self._open()

    @property
    def kept(self) -> bool:
        """Whether it is a file, and not only in memory."""
        return bool(self._path)

    @property
    def parts(self) -> list[str]:
        """The folders at and below which there may be tasks, relative to the root."""
        return fixed_parts(self.globs)

    def identity(self) -> str | None:
        """Return what tells this cache, made by these words, from one that took its place; None for none."""
        if not self._path or self._database is None:
            return None
        try:
            found = os.stat(self._path)
            noted = [rows.get(self._database, name) for name in ("nonce", "words")]
        except (OSError, sqlite3.DatabaseError):
            return None
        return f"{found.st_dev} {found.st_ino} {noted[0]}" if noted[1] == self.words else None

    def refresh(self) -> None:
        """Bring the index up to the files as they are now."""
        self._mended(self._refresh)

    def refresh_some(self, folders: Iterable[str], paths: Iterable[str]) -> None:
        """Bring the index up to what is now at and below *folders*, and at *paths*; all relative."""
        self._mended(lambda: self._refresh_some(folders, paths))

    def heads(self) -> Iterator[TaskHead]:
        """Yield every readable task, in the order of their paths; as of the last `refresh`."""
        for row in self._open().execute("SELECT * FROM task WHERE error = '' ORDER BY path"):
            yield self.head(row)

    def head(self, row: sqlite3.Row) -> TaskHead:
        """Return the task of a row."""
        return rows.head_of(row, self._root)

    def at(self, path: str) -> TaskHead | None:
        """Return the task whose file is at *path* below the root; as of the last `refresh`."""
        query = "SELECT * FROM task WHERE error = '' AND path = ?"
        row = self._open().execute(query, (_stored(path),)).fetchone()
        return self.head(row) if row else None

    def by_id(self, name: str) -> list[TaskHead]:
        """Return the tasks that bear this id, in whatever case; as of the last `refresh`."""
        query = "SELECT * FROM task WHERE low = ? ORDER BY path"
        return [self.head(row) for row in self._open().execute(query, (_stored(name.lower()),))]

    def named(self, name: str) -> list[TaskHead]:
        """Return the tasks with this id, or at this path; as of the last `refresh`."""
        at = None if "\0" in name else self.at(os.path.relpath(os.path.join(self._root, name), self._root))
        found = self.by_id(name)
        return found if at is None or at in found else [*found, at]

    def find(self, name: str) -> TaskHead | None:
        """Return the one task with this id, or at this path, if that can be told from its own file.

        That is the quick way, which looks at one file only; None says to take the long one.
        """
        if not self._path or not os.path.exists(self._path):
            return None
        from .tasks import read_task  # noqa: PLC0415 - the YAML loader

        try:
            found = self.named(name)
            if len(found) != 1:
                return None
            task = found[0]
            row = self._stamped(task.path.removeprefix(self._root))
            stamp = stamp_of(task.path)
            if stamp and row == (*stamp[:2], 1) and rows.get(self._open(), "words") == self.words:
                return task
            fresh = read_task(Path(task.path), self._settings)
        except (sqlite3.DatabaseError, OSError, ValueError, Unreadable):
            return None
        return fresh if fresh.id == task.id else None

    def unreadable(self) -> list[str]:
        """Return why the files that are no tasks could not be read, a line each."""
        query = "SELECT error FROM task WHERE error != '' ORDER BY path"
        return [row["error"] for row in self._open().execute(query)]

    def loose(self) -> list[str]:
        """Return the paths of the files that may change without a sign in their folder: links."""
        return [row["path"] for row in self._open().execute("SELECT path FROM task WHERE NOT plain")]

    # ------------------------------------------------------------------- open

    def _words(self) -> str:
        tables: dict[str, Any] = {name: self._settings[name] for name in ("tasks", "status", "priority")}
        tables["agents"] = self._settings["agents"]["names"]
        # What a claim is called depends on where the links above a file lead.
        tables["folders"] = [os.path.realpath(self._root + part) for part in self.parts]
        return hashlib.blake2b(json.dumps(tables, sort_keys=True).encode(), digest_size=16).hexdigest()

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            if self._path:
                self.project.prepare()
            # Used by one thread at a time; `LiveIndex` sees to that.
            database = sqlite3.connect(
                self._path or ":memory:", timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                database.row_factory = sqlite3.Row
                database.execute("PRAGMA synchronous = OFF")  # a cache: after a power loss it is made anew
                if _version(database) != rows.VERSION:
                    with self._locked():
                        self._make(database)
            except BaseException:
                database.close()
                raise
            self._database = database
        return self._database

    def _make(self, database: sqlite3.Connection) -> None:
        version = _version(database)
        if version == rows.VERSION:
            return
        # A write-ahead log needs memory shared between its users, which a network file system
        # has not (sqlite.org/wal.html).
        journal = "DELETE" if on_network(str(self.project.state)) else "WAL"
        database.execute(f"PRAGMA journal_mode = {journal}")
        drop = "".join(f"DROP TABLE IF EXISTS {name};" for name in rows.TABLES) if version else ""
        database.executescript(f"BEGIN IMMEDIATE; {drop} {rows.SCHEMA} COMMIT;")
        rows.put(database, "nonce", os.urandom(8).hex())

    def _mended(self, act: Callable[[], None]) -> None:
        """Do *act*; a cache that is damaged, or of another program, is made anew."""
        try:
            act()
        except (sqlite3.DatabaseError, PermissionError, _Stuck) as error:
            self.close()
            try:
                if isinstance(error, _Stuck):
                    raise
                for tail in ("", "-wal", "-shm", "-journal"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(f"{self._path}{tail}")
                self._refresh()
            except (sqlite3.DatabaseError, OSError, _Stuck):
                self.close()
                self._path = ""
                self._refresh()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if not self._path:
            yield
            return
        descriptor = os.open(self.project.state / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _wait_for(descriptor, self._path)
            yield
        finally:
            os.close(descriptor)

    # ---------------------------------------------------------------- refresh

    def _refresh(self) -> None:
        database = self._open()
        came = rows.get(database, "begun") or 0
        with self._locked():
            same = rows.get(database, "words") == self.words
            if same and (rows.get(database, "ended") or 0) > came:
                return  # somebody who began after we came has looked at all files
            number = (rows.get(database, "begun") or 0) + 1
            rows.put(database, "begun", number)
            if not same:
                rows.clear(database, self.words)
            query = "SELECT path, mtime_ns, size, settled FROM task"
            known: _Known = {path: (mtime, size, ok) for path, mtime, size, ok in database.execute(query)}
            self._bring_up(known, self._found(self.parts))
            rows.put(database, "ended", number)

    def _refresh_some(self, folders: Iterable[str], paths: Iterable[str]) -> None:
        database = self._open()
        if rows.get(database, "words") != self.words:
            self._refresh()
            return
        changed = [path for path in paths if not self._as_it_was(path)]
        folders = sorted(folders)
        if not changed and not folders:
            return
        with self._locked():
            known: _Known = {}
            for folder in folders:
                query = "SELECT path, mtime_ns, size, settled FROM task WHERE path > ? AND path < ?"
                below = (f"{folder}/", f"{folder}0") if folder else ("", "\U0010ffff")
                known |= {row[0]: tuple(row)[1:] for row in database.execute(query, below)}
            found = list(self._found(folders))
            for path in changed:
                row, stamp = self._stamped(path), stamp_of(self._root + path)
                if row is not None:
                    known[_stored(path)] = row
                if stamp is not None:
                    found.append((path, stamp))
            self._bring_up(known, dict(found).items())

    def _found(self, folders: Iterable[str]) -> Iterator[tuple[str, Stamp]]:
        for folder in folders:
            for here, files in stamps(self._root + folder if folder else self._root.rstrip("/") or "/"):
                below = here[len(self._root) :]
                prefix = f"{below}/" if below else ""
                for name, stamp in files:
                    yield prefix + name, stamp

    def _bring_up(self, known: _Known, found: Iterable[tuple[str, Stamp]]) -> None:
        """Write what differs between the rows of *known*, which this empties, and the files *found*."""
        database = self._open()
        changed: list[dict[str, Any]] = []
        for path, stamp in found:
            row = known.pop(path, None)
            if row is not None and row[2] and row[0] == stamp[0] and row[1] == stamp[1]:
                continue
            if row is None and not matches_any(path, self.globs):
                continue
            changed += self._reread(path, stamp, known)
            if len(changed) >= _WRITTEN:
                rows.write(database, changed, ())
                changed = []
        gone: list[str] = []
        for path in known:
            now = stamp_of(self._root + path)
            if now is None:
                gone.append(path)
            else:  # a folder's listing may pass over what is renamed meanwhile
                changed += self._reread(path, now, {})
        if changed or gone:
            rows.write(database, changed, gone)

    def _as_it_was(self, path: str) -> bool:
        row, stamp = self._stamped(path), stamp_of(self._root + path)
        if row is None:
            return stamp is None or not matches_any(path, self.globs)
        return stamp is not None and row == (*stamp[:2], 1)

    def _stamped(self, path: str) -> tuple[int, int, int] | None:
        query = "SELECT mtime_ns, size, settled FROM task WHERE path = ?"
        row = self._open().execute(query, (_stored(path),)).fetchone()
        return tuple(row) if row else None

    def _reread(self, path: str, stamp: Stamp, known: _Known) -> list[dict[str, Any]]:
        """Read a file; return its row, nothing if that is there already."""
        began = time.time_ns()
        mtime_ns, size, plain = stamp
        row: dict[str, Any] = {"mtime_ns": mtime_ns, "size": size, "plain": int(plain), "read_ns": began}
        row |= {"settled": int(mtime_ns + _STEP_NS < began), "claim": None}
        stored = _stored(path)
        if stored == path:
            row |= self._content(path)
        else:
            known.pop(stored, None)
            row |= rows.no_row(f"{stored}: its name is not UTF-8; rename it")
        row["path"] = stored
        old = self._open().execute("SELECT * FROM task WHERE path = ?", (stored,)).fetchone()
        if old and all(old[name] == value for name, value in row.items() if name != "read_ns"):
            return []
        return [row]

    def _content(self, path: str) -> dict[str, Any]:
        from .tasks import read_task  # noqa: PLC0415 - the YAML loader

        file = self._root + path
        real, root = os.path.realpath(file), self._real
        try:
            if not real.startswith(os.path.join(root, "")):
                raise Unreadable(file, "not a file", "a link that leads out of the project")
            row = rows.row_of(read_task(Path(file), self._settings), self._settings)
        except Unreadable as error:
            # Whether a file may be read does not show in its time: it is looked at again.
            unsettled = {"settled": 0} if error.reason == "no access" else {}
            return rows.no_row(str(error)) | unsettled
        # Of a claim's name the hash is enough to find the task by.
        return row | {"claim": item_key(canonical(real, str(self.project.root)))[-32:]}


class _Stuck(Exception):
    """Raised when whoever has the lock seems to be stopped."""


def _stored(path: str) -> str:
    """Return *path* as it stands in the cache: SQLite keeps no bytes that are not UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode()


def _version(database: sqlite3.Connection) -> int:
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    return version


def _wait_for(descriptor: int, path: str) -> None:
    """Take the lock.

    Raises:
        _Stuck: Whoever has it has written nothing for long.
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
                raise _Stuck from None
            time.sleep(pause)
            pause = min(pause * 2, 0.01)
        else:
            return
