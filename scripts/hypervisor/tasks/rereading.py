"""Task files against the rows of the index: what differs is read again, and written.

A row stands for one file as it was at a modification time and a size; a file that differs is read
again. File systems stamp times in steps of some milliseconds, so that a file which was changed
just before it was read may change once more without a sign: such a row is not settled, and is read
again as well.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import Unreadable
from ..core.files import matches_any
from ..core.project import Project, canonical, item_key
from . import rows
from .finding import Stamp, stamp_of, stamps

#: So many rows are written in one transaction: memory holds them until then.
_WRITTEN = 1000
#: The coarsest step in which a file system in use stamps times, and some more (FAT aside).
_STEP_NS = 50_000_000

#: Modification time (ns), size, and whether it is settled, of rows by their paths.
Known = dict[str, tuple[int, int, int]]


class Files:
    """The task files of one project. Paths are relative to its root.

    Args:
        project: Which.
        settings: What decides which files are tasks, and what they say.
    """

    def __init__(self, project: Project, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._project_root = str(project.root)
        self._root = os.path.join(project.root, "")
        self._real = os.path.join(os.path.realpath(project.root), "")
        #: Which files are tasks.
        self.globs: list[str] = list(settings["tasks"]["globs"])

    def found(self, folders: Iterable[str]) -> Iterator[tuple[str, Stamp]]:
        """Yield the files at and below *folders*, tasks or not, with their stamps.

        Raises:
            OSError: One cannot be looked at.
        """
        for folder in folders:
            for here, files in stamps(self._root + folder if folder else self._root.rstrip("/") or "/"):
                below = here[len(self._root) :]
                prefix = f"{below}/" if below else ""
                for name, stamp in files:
                    yield prefix + name, stamp

    def stamp(self, path: str) -> Stamp | None:
        """Return the stamp of the file at *path*, None if there is none."""
        return stamp_of(self._root + path)

    def as_it_was(self, database: sqlite3.Connection, path: str) -> bool:
        """Tell whether the file at *path* is the one that its row stands for."""
        row, stamp = stamped(database, path), self.stamp(path)
        if row is None:
            return stamp is None or not matches_any(path, self.globs)
        return stamp is not None and row == (*stamp[:2], 1)

    def differs(self, row: tuple[int, int, int] | None, path: str, stamp: Stamp) -> bool:
        """Tell whether the file at *path* has to be read, by its row and its stamp."""
        if row is None:
            return matches_any(path, self.globs)
        return not row[2] or row[0] != stamp[0] or row[1] != stamp[1]

    def bring_up(
        self, database: sqlite3.Connection, known: Known, found: Iterable[tuple[str, Stamp]]
    ) -> None:
        """Write what differs between the rows of *known*, which this empties, and the files *found*."""
        changed: list[dict[str, Any]] = []
        for path, stamp in found:
            if self.differs(known.pop(path, None), path, stamp):
                changed += self._reread(database, path, stamp, known)
            if len(changed) >= _WRITTEN:
                rows.write(database, changed, ())
                changed = []
        gone: list[str] = []
        for path in known:
            now = self.stamp(path)
            if now is None:
                gone.append(path)
            else:  # a folder's listing may pass over what is renamed meanwhile
                changed += self._reread(database, path, now, {})
        if changed or gone:
            rows.write(database, changed, gone)

    def _reread(
        self, database: sqlite3.Connection, path: str, stamp: Stamp, known: Known
    ) -> list[dict[str, Any]]:
        """Read a file; return its row, nothing if that is there already."""
        began = time.time_ns()
        mtime_ns, size, plain = stamp
        row: dict[str, Any] = {"mtime_ns": mtime_ns, "size": size, "plain": int(plain), "read_ns": began}
        row |= {"settled": int(mtime_ns + _STEP_NS < began), "key_hash": None}
        kept_as = stored(path)
        if kept_as == path:
            row |= self._content(path)
        else:
            known.pop(kept_as, None)
            row |= rows.no_row(f"{kept_as}: its name is not UTF-8; rename it")
        row["path"] = kept_as
        old = database.execute("SELECT * FROM task WHERE path = ?", (kept_as,)).fetchone()
        if old and all(old[name] == value for name, value in row.items() if name != "read_ns"):
            return []
        return [row]

    def _content(self, path: str) -> dict[str, Any]:
        from .tasks import read_task  # noqa: PLC0415 - the YAML loader

        file = self._root + path
        real = os.path.realpath(file)
        try:
            if not real.startswith(self._real):
                raise Unreadable(file, "not a file", "a link that leads out of the project")
            row = rows.row_of(read_task(Path(file), self._settings), self._settings)
        except Unreadable as error:
            # Whether a file may be read does not show in its time: it is looked at again.
            unsettled = {"settled": 0} if error.reason == "no access" else {}
            return rows.no_row(str(error)) | unsettled
        # Of a key the hash is enough to find the task by.
        return row | {"key_hash": item_key(canonical(real, self._project_root))[-32:]}


def stored(path: str) -> str:
    """Return *path* as it stands in the cache: SQLite keeps no bytes that are not UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode()


def stamped(database: sqlite3.Connection, path: str) -> tuple[int, int, int] | None:
    """Return what the row of *path* says of its file, as in `Known`; None for no row."""
    query = "SELECT mtime_ns, size, settled FROM task WHERE path = ?"
    row = database.execute(query, (stored(path),)).fetchone()
    return tuple(row) if row else None
