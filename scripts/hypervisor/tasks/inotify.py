"""What Linux tells of changes in folders: inotify(7), through the C library that Python has loaded.

The kernel queues an event before the call that made the change returns. So whoever drains the queue
knows of every change that was finished before, and need not wait.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass

_MODIFY, _ATTRIB = 0x2, 0x4
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _UNMOUNT, _OVERFLOW, _IGNORED = 0x400, 0x800, 0x2000, 0x4000, 0x8000
_ONLY_FOLDERS, _ADDED, _IS_FOLDER = 0x1000000, 0x20000000, 0x40000000
_NAMES = _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
_HEADER = struct.Struct("iIII")
#: Bytes read at a time: some thousand events.
_BUFFER = 1 << 18
#: File systems whose every change passes this kernel. On others (network, shared with another
#: machine or its host) somebody else may change a file without a sign.
_LOCAL = frozenset({
    "ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "ramfs", "f2fs", "zfs", "bcachefs", "jfs", "overlay",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """One event."""

    #: Absolute path of the folder that is watched.
    folder: str
    #: Name of what changed in it; "" for the folder itself.
    name: str
    #: Whether what changed is a folder.
    of_folder: bool


class Lost(Exception):
    """Raised when the kernel had more to tell than it keeps: everything has to be looked at."""


class Watch:
    """A watch of any number of folders, each without those below it.

    Raises:
        OSError: There is none here, or no more than there are.
    """

    def __init__(self) -> None:
        if not sys.platform.startswith("linux"):
            raise OSError("no inotify on this system")
        self._c = ctypes.CDLL(None, use_errno=True)
        # Not blocking, and not for children.
        self._descriptor: int = self._checked(self._c.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._folders: dict[int, str] = {}
        self.close = weakref.finalize(self, os.close, self._descriptor)

    def add(self, folder: str, *, files: bool = True) -> None:
        """Watch *folder* (absolute) from now on.

        Args:
            folder: Which.
            files: Whether changes within its files are told of, beside those of their names.

        Raises:
            FileNotFoundError: It is not there.
            NotADirectoryError: It is no folder.
            OSError: It cannot be watched.
        """
        asked = _NAMES | _ONLY_FOLDERS | _ADDED | (_MODIFY | _ATTRIB if files else 0)
        mark = self._c.inotify_add_watch(self._descriptor, os.fsencode(folder), asked)
        self._folders[self._checked(mark)] = folder

    def drain(self) -> Iterator[Change]:
        """Yield what has changed since the last time, in its order.

        Raises:
            Lost: It was more than is kept.
        """
        while True:
            try:
                data = os.read(self._descriptor, _BUFFER)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                mark, mask, _, length = _HEADER.unpack_from(data, at)
                at += _HEADER.size + length
                if mask & (_OVERFLOW | _UNMOUNT):
                    raise Lost
                if mask & _IGNORED:  # the folder is gone, which was told before
                    self._folders.pop(mark, None)
                    continue
                folder = self._folders.get(mark)
                if folder is None:
                    continue
                name = os.fsdecode(data[at - length : at].rstrip(b"\0"))
                if not name and not mask & (_DELETE_SELF | _MOVE_SELF):
                    continue  # its times, or the like
                yield Change(folder, name, bool(mask & _IS_FOLDER) or not name)

    @staticmethod
    def _checked(answer: int) -> int:
        if answer < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return answer


def can_watch(kind: str) -> bool:
    """Tell whether a file system of this kind (`machine.file_system_of`) tells of every change."""
    return kind in _LOCAL
