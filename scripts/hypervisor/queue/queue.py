"""The queue file, and the cursor that makes a claim cost the same at any length.

A queue is append-only: one item a line, verbatim, or a record ended by NUL. The cursor hands out
blocks of lines under a lock. It is a hint: a worker that dies with a block in hand loses nothing,
as the sweep at the queue's end looks at every line again, and losing the cursor costs time only.

The sweep is shared: the queue is cut into segments of equal length, a line belongs to that in which it
starts, and a segment is *settled* once somebody saw a result for each of its lines. The cursor's file
keeps a byte for each segment behind its head.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

#: Lines are read in blocks that grow from the first size to the last: whoever wants one line
#: reads little, whoever wants all of them reads fast.
_FIRST_CHUNK, _LAST_CHUNK = 1 << 10, 1 << 16
#: Bytes of a segment: some hundred lines, looked at in a hundredth of a second.
SEGMENT = 1 << 13
SETTLED = b"+"
#: Where leases do not work: for how long a last line without an end must stay as it is.
_SETTLED_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Line:
    """One item of the queue, and where it stands."""

    item: str
    #: Byte offsets of its start and of what follows its end.
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far the queue was handed out."""

    #: Byte offset of the next line to hand out.
    next: int = 0
    #: Changes when finished items are opened again, so that a sweep of before settles nothing.
    epoch: str = field(default_factory=lambda: secrets.token_hex(8))

    def to_bytes(self) -> bytes:
        """Return the head of the cursor's file: always the same length."""
        return f"{self.epoch:16s} {self.next:020d}\n".encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Cursor | None:
        """Read back what `to_bytes` wrote; None if it is damaged."""
        found = _HEAD.fullmatch(data)
        return cls(epoch=found[1].decode(), next=int(found[2])) if found else None


_HEAD = re.compile(rb"([0-9a-f]{16}) (\d{20})\n")
#: Length of the head of a cursor's file; what follows is a byte for each segment.
HEAD_BYTES = len(Cursor().to_bytes())


class Queue:
    """A queue file and its cursor.

    Args:
        path: The queue file.
        cursor: The cursor file; made when missing.
        separator: What ends an item: a newline, or NUL.
    """

    def __init__(self, path: str, cursor: str, separator: bytes = b"\n") -> None:
        self.path = path
        self._cursor_path = cursor
        self._separator = separator

    def take(self, count: int) -> list[Line]:
        """Hand out the next lines; nobody else is handed the same ones.

        A torn last line waits for its end (`_complete`).

        Args:
            count: The most that are wanted. One for a process that claims once and ends.

        Raises:
            FileNotFoundError: There is no queue file.
        """
        with self._locked() as (descriptor, cursor):
            at = cursor.next
            lines = []
            for line in self.lines(at):
                lines.append(line)
                at = line.stop
                if len(lines) == count:
                    break
            if at != cursor.next:
                self._write(descriptor, replace(cursor, next=at))
        return lines

    def lines(self, start: int = 0) -> Iterator[Line]:
        """Yield the items from byte *start* on; blank lines are passed over."""
        separator = self._separator
        with open(self.path, "rb", buffering=0) as file:
            file.seek(start)
            pending, size = b"", _FIRST_CHUNK
            while chunk := file.read(size):
                size = min(size * 4, _LAST_CHUNK)
                *records, pending = (pending + chunk).split(separator)
                for record in records:
                    stop = start + len(record) + 1
                    if not self._blank(record):
                        yield Line(_decode(record), start, stop)
                    start = stop
            # Asked first whether it is whole, then whether there is more by now.
            whole = not self._blank(pending) and self._complete(file.fileno())
            if whole and os.fstat(file.fileno()).st_size == start + len(pending):
                # Its offset is no start of a line: whoever comes next looks from the top.
                yield Line(_decode(pending), start, start + len(pending))

    def cursor(self) -> Cursor:
        """Return the cursor as it stands."""
        with self._locked() as (_, cursor):
            return cursor

    def grown(self) -> bool:
        """Tell whether there are lines that were not handed out."""
        return next(self.lines(self.cursor().next), None) is not None

    def unsettled(self) -> tuple[str, list[int]]:
        """Return the cursor's epoch, and the numbers of the segments that nobody has settled in it."""
        with self._locked() as (descriptor, cursor):
            count = -(-os.stat(self.path).st_size // SEGMENT)
            marks = os.pread(descriptor, count, HEAD_BYTES)
        return cursor.epoch, [number for number in range(count) if marks[number : number + 1] != SETTLED]

    def is_settled(self, number: int) -> bool:
        """Tell whether somebody has settled a segment, and nobody opened anything again since."""
        with self._locked() as (descriptor, _):
            return os.pread(descriptor, 1, HEAD_BYTES + number) == SETTLED

    def segment(self, number: int) -> tuple[list[Line], bool]:
        """Return the lines of a segment, and whether it may be settled: the last may not, as it can grow."""
        found: list[Line] = []
        for line in self.lines(self._first_start(number * SEGMENT)):
            if line.start >= (number + 1) * SEGMENT:
                return found, True
            found.append(line)
        return found, False

    def settle(self, number: int, epoch: str) -> None:
        """Note that all lines of a segment have a result, unless some were opened again since.

        Args:
            number: Of the segment, which `segment` said may be settled.
            epoch: The cursor's, from before the sweep began.
        """
        with self._locked() as (descriptor, cursor):
            if cursor.epoch == epoch:
                with contextlib.suppress(OSError):  # no room: others look at it again
                    os.pwrite(descriptor, SETTLED, HEAD_BYTES + number)

    @contextlib.contextmanager
    def reopening(self) -> Iterator[None]:
        """Hold the cursor while finished items are opened again; then the next sweep sees them."""
        with self._locked() as (descriptor, cursor):
            os.ftruncate(descriptor, HEAD_BYTES)
            self._write(descriptor, Cursor(next=cursor.next))
            yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[tuple[int, Cursor]]:
        descriptor = os.open(self._cursor_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            cursor = Cursor.from_bytes(os.pread(descriptor, HEAD_BYTES, 0))
            if cursor is None or not self._begins_line(cursor.next):
                # New, damaged, or of another queue: what it says is settled counts no more either.
                cursor = Cursor()
                os.ftruncate(descriptor, 0)
                self._write(descriptor, cursor)
            yield descriptor, cursor
        finally:
            os.close(descriptor)

    def _write(self, descriptor: int, cursor: Cursor) -> None:
        head = cursor.to_bytes()
        if os.pwrite(descriptor, head, 0) != len(head):  # what is not noted is not handed out
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._cursor_path)

    def _begins_line(self, at: int) -> bool:
        """Tell whether a line starts at *at*: not in another queue, nor where a last line has grown."""
        if at == 0:
            return True
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            last = os.pread(descriptor, 1, at - 1) if at <= size else b""
        finally:
            os.close(descriptor)
        # At the very end it may stand behind a last line without an end.
        return at == size or last == self._separator

    def _first_start(self, at: int) -> int:
        """Return where the first line starts at or after *at*; if none does within the segment, its end."""
        end = at + SEGMENT
        with open(self.path, "rb", buffering=0) as file:
            passed = file.seek(max(at - 1, 0))
            while at and passed < end and (chunk := file.read(_FIRST_CHUNK)):
                found = chunk.find(self._separator)
                if found >= 0:
                    return passed + found + 1
                passed += len(chunk)
        return end if at else 0

    def _blank(self, record: bytes) -> bool:
        return not (record if self._separator == b"\0" else record.strip())

    def _complete(self, descriptor: int) -> bool:
        """Tell whether a last line without an end is whole: nobody has the file open to write.

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


def _decode(record: bytes) -> str:
    # File names are bytes; what is not UTF-8 survives the way there and back.
    return record.decode("utf-8", "surrogateescape")
