"""The task index of a process that stays: it hears of changes, and looks at what changed only.

What the kernel tells of is all that happened before a call began (`inotify`). It does not tell of what
is written through another name of a file, or through memory: from time to time all files are looked at
in the background, for those who ask next. Where folders cannot be watched, each call looks at all.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.files import matches_any
from ..core.process import file_system_of
from ..core.project import Project
from .finding import PASSED_OVER, folders
from .index import Index
from .inotify import Lost, Watch, can_watch

#: A look at all files is never longer ago than this and one call.
_HEAL_SECONDS = 60.0


class LiveIndex:
    """The index of the project that a server works for; for any number of threads, one at a time."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._index: Index | None = None
        #: Of the cache file that the watch's word is good for; None while it is good for none.
        self._vouched: str | None = None
        self._watch: Watch | None = None
        self._looked = 0.0
        self._healing: threading.Thread | None = None

    @contextlib.contextmanager
    def opened(
        self, project: Project, settings: Mapping[str, Any], *, refreshed: bool = True
    ) -> Iterator[Index]:
        """Yield the index of *project*, to this thread alone.

        Args:
            project: Which.
            settings: Its settings as they are now.
            refreshed: Whether it has to tell of all that happened before this call.
        """
        with self._lock:
            index = Index(project, settings)
            kept = self._index
            if kept is not None and kept.project == project and kept.words == index.words:
                index = kept
            else:
                self.close()
                self._index = index
            if refreshed:
                self._bring_up(index, settings)
            try:
                yield index
            finally:
                if not index.kept:  # it could not be written: perhaps next time
                    self.close()

    def close(self) -> None:
        """Close what is open."""
        with self._lock:
            if self._index is not None:
                self._index.close()
            if self._watch is not None:
                self._watch.close()
            self._index = self._watch = self._vouched = None

    # ---------------------------------------------------------------- details

    def _bring_up(self, index: Index, settings: Mapping[str, Any]) -> None:
        if self._watch is None or self._vouched is None or self._vouched != index.identity():
            index.close()  # another may have taken its place
            self._look(index)
            return
        vouched, self._vouched = self._vouched, None  # what was heard and not heeded would be lost
        try:
            self._hear(index, self._watch)
        except (Lost, OSError):
            self._look(index)
            return
        self._vouched = vouched
        if time.monotonic() - self._looked > _HEAL_SECONDS:
            ago = index.looked()
            if ago is not None and ago < _HEAL_SECONDS:  # another process has
                self._looked = time.monotonic() - ago
            else:
                self._heal(index.project, settings)

    def _look(self, index: Index) -> None:
        """Look at all files; hear of what changes from before that on."""
        self._vouched = None
        if self._watch is not None:
            self._watch.close()
        self._watch = _watch_of(index)
        began = time.monotonic()
        index.refresh()
        self._looked = began
        self._vouched = index.identity() if index.kept else None

    def _hear(self, index: Index, watch: Watch) -> None:
        root = os.path.join(index.project.root, "")
        changed, paths = set(), set(index.loose())
        for change in list(watch.drain()):
            path = os.path.join(change.folder, change.name).rstrip("/") if change.name else change.folder
            path = path[len(root) :]
            if not change.of_folder:
                if matches_any(path, index.globs):
                    paths.add(path)
            elif any(part == path or part.startswith(f"{path}/") or not path for part in index.parts):
                raise Lost  # where tasks lie has changed as a whole
            elif change.name not in PASSED_OVER and any(_lies_in(path, part) for part in index.parts):
                changed.add(path)
        for path in changed:
            for folder in folders(root + path):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    _watched(watch, folder)
        if changed or paths:
            index.refresh_some(changed, paths)

    def _heal(self, project: Project, settings: Mapping[str, Any]) -> None:
        """Look at all files in the background; what differs stands in the same cache then."""

        def look() -> None:
            index = Index(project, settings)
            with contextlib.suppress(Exception):  # the next one looks again
                index.look()
            index.close()

        if self._healing is None or not self._healing.is_alive():
            self._looked = time.monotonic()
            self._healing = threading.Thread(target=look, name="heal", daemon=True)
            self._healing.start()


def _lies_in(path: str, part: str) -> bool:
    return not part or path.startswith(f"{part}/")


def _watch_of(index: Index) -> Watch | None:
    """Watch all folders where tasks may be, and those above them; None where that cannot be done."""
    root = str(index.project.root)
    try:
        watch = Watch()
    except OSError:
        return None
    try:
        seen: set[int] = set()
        for part in index.parts:
            above = [os.path.join(root, *part.split("/")[:depth]) for depth in range(len(part.split("/")))]
            for folder in above if part else ():
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    watch.add(folder, files=False)
            top = os.path.join(root, part) if part else root
            if os.path.realpath(top) != os.path.join(os.path.realpath(root), part).rstrip("/"):
                raise OSError(f"{top} is a link")
            for folder in folders(top):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    _watched(watch, folder, seen)
    except OSError:
        watch.close()
        return None
    return watch


def _watched(watch: Watch, folder: str, seen: set[int] | None = None) -> None:
    """Watch *folder*.

    Raises:
        OSError: It cannot be watched, or its file system does not tell of every change.
    """
    watch.add(folder)
    device = Path(folder).stat().st_dev
    if seen is None or device not in seen:
        if not can_watch(file_system_of(folder)):
            raise OSError(f"{folder}: changes may come without a sign")
        if seen is not None:
            seen.add(device)
