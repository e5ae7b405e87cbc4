"""A disk under SQLite that fails, is full, or loses its power at one chosen operation: an APSW VFS.

Every write, sync, truncation and deletion of the database and its log is counted. At the chosen one the fault
happens. What was not synced by then is known, so that `Disk.after_power_loss` can write the files as they may
be found afterwards: without any of it, or with some of it, in any order, and torn.

The shared-memory file (``-shm``) is not part of this: it holds nothing that SQLite believes after a crash.
"""

from __future__ import annotations

import os
import random
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import apsw

Fault = Literal["none", "io", "full", "power"]

_SECTOR = 512


class PowerLossError(BaseException):
    """Raised by every operation after the power is gone; nothing that handles errors may handle it."""


@dataclass(slots=True)
class _File:
    synced: bytes = b""
    #: Since the last sync: where and what was written; None and a length for a truncation.
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)


@dataclass(slots=True)
class Disk:
    """A VFS; `name` is what SQLite opens files by.

    Args:
        fault: What happens at the operation *at*: it fails once with EIO; it and all that need more room fail
            with ENOSPC until `heal`; or the power goes.
        at: The number of the operation, from 1.
        torn: Whether the failing write is carried out in part.
    """

    fault: Fault = "none"
    at: int = 0
    torn: bool = False
    count: int = 0
    #: The operations so far, for messages.
    log: list[str] = field(default_factory=list)
    files: dict[str, _File] = field(default_factory=dict)
    name: str = field(default_factory=lambda: f"broken-{secrets.token_hex(4)}")
    _full: bool = False
    _off: bool = False
    _vfs: apsw.VFS | None = None

    def __post_init__(self) -> None:
        self._vfs = _Vfs(self)

    @property
    def broke(self) -> bool:
        """Whether the fault has happened."""
        return self.fault != "none" and self.count >= self.at

    def heal(self) -> None:
        """Make room again."""
        self._full = False

    def unregister(self) -> None:
        """Take the VFS away; its files must be closed."""
        if self._vfs is not None:
            self._vfs.unregister()

    def step(self, path: str, what: str, *, needs_room: bool = False) -> bool:
        """Count an operation; return whether it is to be carried out in part and then to fail."""
        if self._off:
            raise PowerLossError
        self.count += 1
        self.log.append(f"{what} {os.path.basename(path)}")
        if self.fault != "none" and self.count == self.at:
            if self.fault == "power":
                self._off = True
                raise PowerLossError
            if self.fault == "full":
                self._full = True
            if self.fault == "io":
                if self.torn and needs_room:
                    return True
                raise apsw.exception_for(apsw.SQLITE_IOERR_WRITE)
        if self._full and needs_room:
            if self.torn:
                return True
            raise apsw.exception_for(apsw.SQLITE_FULL)
        return False

    def fail_torn(self) -> None:
        """Raise what a torn write ends with."""
        raise apsw.exception_for(apsw.SQLITE_FULL if self._full else apsw.SQLITE_IOERR_WRITE)

    def after_power_loss(self, folder: Path, seed: int | None = None) -> None:
        """Write the files into *folder* as they may be found: without what was not synced, or (with a seed)
        with a random part of it.
        """  # fmt: skip
        chance = random.Random(seed)
        folder.mkdir(parents=True, exist_ok=True)
        for path, file in self.files.items():
            data = bytearray(file.synced)
            for offset, written in file.pending if seed is not None else ():
                if chance.random() < 0.5:
                    continue
                if written is None:
                    del data[offset:]
                    continue
                # A sector is written whole or not at all.
                sectors = len(written) // _SECTOR + 1
                some = written[: chance.randint(0, sectors) * _SECTOR] if chance.random() < 0.3 else written
                data.extend(bytes(max(0, offset + len(some) - len(data))))
                data[offset : offset + len(some)] = some
            (folder / os.path.basename(path)).write_bytes(data)


class _Vfs(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        super().__init__(disk.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        if name is None:
            return super().xOpen(name, flags)
        return _VfsFile(self._disk, name if isinstance(name, str) else name.filename(), name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        self._disk.step(filename, "delete")
        super().xDelete(filename, syncdir)
        self._disk.files.pop(filename, None)

    def excepthook(self, *_: object) -> bool:
        """Pass over faults where SQLite takes none: it goes on without."""
        return True


class _VfsFile(apsw.VFSFile):
    def __init__(self, disk: Disk, path: str, name: str | apsw.URIFilename, flags: list[int]) -> None:
        self._disk, self._path = disk, path
        super().__init__("", name, flags)
        if path not in disk.files:
            disk.files[path] = _File(synced=Path(path).read_bytes() if os.path.exists(path) else b"")

    def excepthook(self, *_: object) -> bool:
        """Pass over faults where SQLite takes none: it goes on without."""
        return True

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        if self._disk.step(self._path, f"write {len(data)}", needs_room=True):
            self._write(data[: len(data) // 2], offset)
            self._disk.fail_torn()
        self._write(data, offset)

    def _write(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        self._disk.files[self._path].pending.append((offset, bytes(data)))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._disk.step(self._path, "truncate")
        super().xTruncate(size)
        self._disk.files[self._path].pending.append((size, None))

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.step(self._path, "sync")
        super().xSync(flags)
        file = self._disk.files[self._path]
        data = bytearray(file.synced)
        for offset, written in file.pending:
            if written is None:
                del data[offset:]
            else:
                data.extend(bytes(max(0, offset + len(written) - len(data))))
                data[offset : offset + len(written)] = written
        file.synced = bytes(data)
        file.pending.clear()
