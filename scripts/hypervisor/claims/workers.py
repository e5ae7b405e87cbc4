"""One file per worker, locked for as long as it lives: the kernel tells of any death at once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from typing import Literal

#: Holds any name of a generation and most items; one write.
_RECORD = 1024
#: Longer than a living process takes from a file's making to its lock.
_NEWBORN_SECONDS = 3600.0
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


def new_worker_id(name: str, pid: int) -> str:
    """Return a name that no other worker ever bore."""
    return f"{_UNSAFE.sub('-', name)[:40]}-{pid}-{secrets.token_hex(4)}"


class WorkerFile:
    """The file of a living worker. Its lock passes to the children that are given `descriptor`.

    So a child that outlives its worker still holds the lock, and whoever takes over knows that
    there is something to end first.
    """

    def __init__(self, folder: str, worker: str) -> None:
        #: Inherited by children only where they are given it.
        self.path = os.path.join(folder, worker)
        newborn = os.path.join(folder, f".{worker}")
        self.descriptor = os.open(newborn, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
            # Locked before it bears its name, so that nobody ever sees a living worker's file free.
            os.rename(newborn, self.path)
        except BaseException:  # so that it can be tried again where the disk was full
            with contextlib.suppress(OSError):
                os.unlink(newborn)
            os.close(self.descriptor)
            raise

    def intend(self, name: str, item: str = "") -> None:
        """Note which claim is about to be made, and for what, before it is made.

        A claim whose maker died before it could sign is then known to be his.
        """
        record = f"{name}\n{item}".encode("utf-8", "surrogateescape")
        if len(record) > _RECORD:
            record = f"{name}\n".encode()
        os.pwrite(self.descriptor, record.ljust(_RECORD, b"\0"), 0)

    def close(self, *, owes_nothing: bool) -> None:
        """Give the lock up.

        Args:
            owes_nothing: Whether no claim is open in this worker's name. Else the file stays: free,
                it shows that those claims are nobody's.
        """
        try:
            if owes_nothing:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.path)
        finally:
            os.close(self.descriptor)


LockState = Literal["held", "free", "missing"]


def lock_state(folder: str, worker: str) -> LockState:
    """Tell whether the file of *worker* is locked."""
    try:
        descriptor = os.open(os.path.join(folder, worker), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return "missing"
    try:
        # Shared, so that two who look at once do not take each other for the owner.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "held"
    finally:
        os.close(descriptor)
    return "free"


def intending(folder: str, name: str) -> Iterator[tuple[str, str]]:
    """Yield each worker whose last noted intent was the claim *name*, and what it was for."""
    for worker in os.listdir(folder):
        if worker.startswith("."):
            continue
        try:
            with open(os.path.join(folder, worker), "rb") as file:
                noted, _, item = file.read(_RECORD).rstrip(b"\0").partition(b"\n")
        except FileNotFoundError:
            continue
        if noted == name.encode():
            yield worker, item.decode("utf-8", "surrogateescape")


def forget_dead(folder: str) -> None:
    """Delete the files of dead workers. Only where no claim is open: one may need its file."""
    for worker in os.listdir(folder):
        path = os.path.join(folder, worker)
        with contextlib.suppress(FileNotFoundError):
            # Free and without its name: about to be locked, unless its maker died between the two.
            newborn = worker.startswith(".") and time.time() - os.stat(path).st_mtime < _NEWBORN_SECONDS
            if not newborn and lock_state(folder, worker) == "free":
                os.unlink(path)
