"""The task index of a process that stays: it hears of changes, and looks at what changed only.

The kernel (inotify) queues an event before the call that made the change returns. So whoever drains the
queue knows of every change that was finished before, and need not wait. It does not tell of what is written
through another name of a file, or through memory: from time to time all files are looked at in the
background, for those who ask next. Where folders cannot be watched, each call looks at all.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..core.files import file_system_of, matches_any
from ..core.project import Project
from .discovery import PASSED_OVER, folders
from .index import Index

if TYPE_CHECKING:
    from inotify_simple import INotify  # type: ignore[import-untyped]

#: A look at all files is never longer ago than this and one call.
_HEAL_SECONDS = 60.0
#: File systems whose every change passes this kernel. On others (network, shared with another
#: machine or its host) somebody else may change a file without a sign.
_LOCAL = frozenset({
    "ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "ramfs", "f2fs", "zfs", "bcachefs", "jfs", "overlay",
})  # fmt: skip


class Lost(Exception):
    """Raised when not all changes were told of: everything has to be looked at."""


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
            changed, paths = self._watch.heard(index)
        except (Lost, OSError):
            self._look(index)
            return
        if changed or paths:
            index.refresh_some(changed, paths)
        self._vouched = vouched
        if time.monotonic() - self._looked > _HEAL_SECONDS:
            ago = time.time() - (index.noted("looked") or 0)
            if 0 <= ago < _HEAL_SECONDS:  # another process has
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

    def _heal(self, project: Project, settings: Mapping[str, Any]) -> None:
        """Look at all files in the background; what differs stands in the same cache then."""

        def look() -> None:
            began, index = time.time(), Index(project, settings)
            with contextlib.suppress(Exception):  # the next one looks again
                index.refresh()
                index.note("looked", began)
            index.close()

        if self._healing is None or not self._healing.is_alive():
            self._looked = time.monotonic()
            self._healing = threading.Thread(target=look, name="heal", daemon=True)
            self._healing.start()


class Watch:
    """A watch of any number of folders, each without those below it.

    Raises:
        OSError: There is none here, or no more than there are.
    """

    def __init__(self) -> None:
        try:
            from inotify_simple import INotify, flags  # noqa: PLC0415 - for servers, on Linux

            self._inotify: INotify = INotify()
        except (ImportError, AttributeError) as error:
            raise OSError("no inotify on this system") from error
        self._names = (
            flags.MOVED_FROM | flags.MOVED_TO | flags.CREATE | flags.DELETE | flags.DELETE_SELF
            | flags.MOVE_SELF | flags.ONLYDIR | flags.MASK_ADD
        )  # fmt: skip
        self._content = flags.MODIFY | flags.ATTRIB
        self._lost = flags.Q_OVERFLOW | flags.UNMOUNT
        self._itself = flags.DELETE_SELF | flags.MOVE_SELF
        self._ignored, self._folder = int(flags.IGNORED), int(flags.ISDIR)
        self._folders: dict[int, str] = {}
        self._devices: set[int] = set()

    def close(self) -> None:
        """End it."""
        self._inotify.close()

    def add(self, folder: str, *, files: bool = True) -> None:
        """Watch *folder* (absolute) from now on; one that is not there is none.

        Args:
            folder: Which.
            files: Whether changes within its files are told of, beside those of their names.

        Raises:
            OSError: It cannot be watched, or its file system does not tell of every change.
        """
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            mask = self._names | (self._content if files else 0)
            self._folders[self._inotify.add_watch(folder, mask)] = folder
            device = os.stat(folder).st_dev
            if files and device not in self._devices:
                if file_system_of(folder) not in _LOCAL:
                    raise OSError(f"{folder}: changes may come without a sign")
                self._devices.add(device)

    def heard(self, index: Index) -> tuple[set[str], set[str]]:
        """Return the folders and the files (both relative) of an index that have changed since the last time.

        Raises:
            Lost: That is not known.
            OSError: A new folder cannot be watched.
        """
        root = os.path.join(index.project.root, "")
        changed, paths = set(), set(index.loose())
        for folder, name, of_folder in self._drain():
            path = os.path.join(folder, name)[len(root) :].rstrip("/")
            if not of_folder:
                if matches_any(path, index.globs):
                    paths.add(path)
            elif any(part == path or part.startswith(f"{path}/") or not path for part in index.parts):
                raise Lost  # where tasks lie has changed as a whole
            elif name not in PASSED_OVER and any(_lies_in(path, part) for part in index.parts):
                changed.add(path)
        for path in changed:
            for folder in folders(root + path):
                self.add(folder)
        return changed, paths

    def _drain(self) -> Iterator[tuple[str, str, bool]]:
        """Yield the folder and the name in it ("" for itself) of each change; whether it is a folder's."""
        while events := self._inotify.read(timeout=0):
            for mark, mask, _, name in events:
                if mask & self._lost:
                    raise Lost
                if mask & self._ignored:  # the folder is gone, which was told before
                    self._folders.pop(mark, None)
                elif (folder := self._folders.get(mark)) and (name or mask & self._itself):
                    yield folder, name, bool(mask & self._folder) or not name


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
        for part in index.parts:
            above = [os.path.join(root, *part.split("/")[:depth]) for depth in range(len(part.split("/")))]
            for folder in above if part else ():
                watch.add(folder, files=False)
            top = os.path.join(root, part) if part else root
            if os.path.realpath(top) != os.path.join(os.path.realpath(root), part).rstrip("/"):
                raise OSError(f"{top} is a link")
            for folder in folders(top):
                watch.add(folder)
    except OSError:
        watch.close()
        return None
    return watch
