"""The queue file: one item a line, verbatim, appended to while workers run; and taking it into the store.

The batch's row says up to which byte the file was taken in, and the last bytes before that place. One
process takes in at a time, under a lock on the file; the others go on claiming what is there. A crash
between two blocks loses nothing: the row moves on in the transaction that adds the items.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from ..store.batches import Batches
from ..store.records import Item

#: Bytes that are read at once: of a few thousand lines.
_CHUNK = 1 << 18
#: Lines that one transaction takes in: others wait for it, about a tenth of a second.
BLOCK_LINES = 5000
#: Bytes before the place reached that are kept, by which another file is told.
_TAIL = 64
#: Where leases do not work: for how long a last line without an end must stay as it is.
_SETTLED_SECONDS = 5.0


class TakenIn(Enum):
    """What an attempt to take in lines came to."""

    #: Some lines were taken in; there may be more.
    SOME = "some"
    #: There is nothing that is not taken in.
    NOTHING = "nothing"
    #: Another process is taking in.
    BUSY = "busy"


@dataclass(frozen=True, slots=True, kw_only=True)
class LineBlock:
    """Some lines of the file."""

    lines: list[str]
    #: Byte offset of what follows the last of them.
    stop: int
    #: The last bytes before it.
    tail: bytes


class QueueSource:
    """A queue file.

    Args:
        path: The file.
        separator: What ends an item: a newline, or NUL.
    """

    def __init__(self, path: str, separator: bytes = b"\n") -> None:
        self.path = path
        self.separator = separator

    def lines(self) -> Iterator[str]:
        """Yield all items; blank lines are passed over, a torn last line waits for its end.

        Raises:
            FileNotFoundError: There is no queue file.
        """
        at = 0
        with open(self.path, "rb", buffering=0) as file:
            while (block := self.block(file.fileno(), at)) is not None:
                yield from block.lines
                at = block.stop

    def size(self) -> int:
        """Return how long the file is, in bytes; 0 where there is none."""
        try:
            return os.stat(self.path).st_size
        except FileNotFoundError:
            return 0

    def block(self, descriptor: int, start: int, limit: int | None = None) -> LineBlock | None:
        """Return the next lines from byte *start* on, at most *limit*; None if no line is whole there."""
        data, at, whole = b"", start, False
        while not whole:
            chunk = os.pread(descriptor, _CHUNK, at)
            at += len(chunk)
            data += chunk
            whole = not chunk or self.separator in chunk
        *records, rest = data.split(self.separator, -1 if limit is None else limit)
        # Asked first whether a last line is complete, then whether there is more by now.
        if rest and not chunk and self._complete(descriptor) and os.fstat(descriptor).st_size == at:
            records.append(rest)
        elif not records:
            return None
        stop = min(start + sum(map(len, records)) + len(records), at)
        tail = os.pread(descriptor, _TAIL, max(0, stop - _TAIL))[: min(stop, _TAIL)]
        full = filter(None if self.separator == b"\0" else bytes.strip, records)
        # File names are bytes; what is not UTF-8 survives the way there and back.
        lines = [record.decode("utf-8", "surrogateescape") for record in full]
        return LineBlock(lines=lines, stop=stop, tail=tail)

    def start(self, descriptor: int, offset: int, tail: bytes) -> int | None:
        """Return where to read on after *offset*; None if this is another file, or was shortened.

        That is *offset* itself, but where the last line had no end when it was taken in and was continued.
        """
        if offset == 0:
            return 0
        if os.pread(descriptor, len(tail), offset - len(tail)) != tail:
            return None
        if tail.endswith(self.separator):
            return offset
        following = os.pread(descriptor, 1, offset)
        if following in (b"", self.separator):
            return offset + len(following)
        return self._start_of_line(descriptor, offset)

    def _start_of_line(self, descriptor: int, at: int) -> int:
        while at > 0:
            low = max(0, at - _CHUNK)
            found = os.pread(descriptor, at - low, low).rfind(self.separator)
            if found >= 0:
                return low + found + 1
            at = low
        return 0

    def _complete(self, descriptor: int) -> bool:
        """Return whether a last line without an end is whole: nobody has the file open to write.

        A half-written path may be the path of something else, so that guessing is not safe. A
        read lease (fcntl(2), F_SETLEASE) is granted only where no writer has the file open.
        """
        setlease = getattr(fcntl, "F_SETLEASE", None)
        if setlease is not None:
            try:
                # A writer that comes while the lease is held makes the kernel send a signal, by
                # default SIGIO, which would end this process; SIGURG does nothing.
                fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
                fcntl.fcntl(descriptor, setlease, fcntl.F_RDLCK)
                fcntl.fcntl(descriptor, setlease, fcntl.F_UNLCK)
            except BlockingIOError:
                return False
            except OSError:  # not ours, or a file system without leases
                pass
            else:
                return True
        return time.time() - os.fstat(descriptor).st_mtime > _SETTLED_SECONDS


def take_in(
    source: QueueSource,
    batches: Batches,
    batch: int,
    items: Callable[[list[str]], Sequence[Item]],
    limit: int | None = None,
) -> TakenIn:
    """Take the next lines of a queue file into a batch, in one transaction.

    Args:
        source: The file.
        batches: The store's.
        batch: `BatchRecord.id`.
        items: Makes items of lines.
        limit: The most lines that are wanted now.

    Raises:
        FileNotFoundError: There is no queue file.
    """
    record = batches.get(batch)
    with open(source.path, "rb", buffering=0) as file:
        descriptor = file.fileno()
        start = source.start(descriptor, record.queue_offset, record.queue_tail)
        if start is not None and source.block(descriptor, start, 1) is None:
            return TakenIn.NOTHING  # the usual case, without a lock
        try:
            with contextlib.suppress(PermissionError):  # no lock on this file: the row's guard decides
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return TakenIn.BUSY
        record = batches.get(batch)  # again: another may have been here until now
        start = source.start(descriptor, record.queue_offset, record.queue_tail)
        if start is None:
            print(
                f"hypervisor: {source.path} was replaced or shortened; it is read again from its start, "
                "and items that are known already are not done again",
                file=sys.stderr,
            )
            start = 0
        block = source.block(descriptor, start, min(limit or BLOCK_LINES, BLOCK_LINES))
        if block is None:
            return TakenIn.NOTHING
        batches.take_in(batch, items(block.lines), record.queue_offset, block.stop, block.tail)
        return TakenIn.SOME
