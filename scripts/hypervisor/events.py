"""What happened, one JSON line each: a project's tasks in `.hypervisor/events.jsonl`, a run in its batch's.

A log tells; it decides nothing. Claims and results are the truth, and a line may be missing where a
process died between the deed and the line.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .core import clock
from .core.paths import Project

FILE = "events.jsonl"
#: Bytes by which a place in a log is known again: the end of a line, with what tells it from others.
_TAIL = 96


class Happening(StrEnum):
    """What an event tells of."""

    CLAIMED = "claimed"  #: somebody began with a task
    COMPLETED = "completed"  #: it is done
    BLOCKED = "blocked"  #: its worker stopped, and says what it waits for
    CANCELLED = "cancelled"  #: it will not be done
    RELEASED = "released"  #: its claim ended without a result; the task is as it was before
    REAPED = "reaped"  #: the same, as its holder was dead or silent
    MOVED_ON = "moved on"  #: a batch's work came to the user's branch; `task` is the batch
    LEFT = "left"  #: a session's worker is over that had no task; `task` is the worker
    RUN_OVER = "run over"  #: a run that a session has begun is over, or dead; `task` is the batch


#: What ends a claim; each does so once.
ENDS = frozenset({
    Happening.COMPLETED, Happening.BLOCKED, Happening.CANCELLED, Happening.RELEASED, Happening.REAPED,
})  # fmt: skip


class RunEvent(StrEnum):
    """What an event of a batch tells of."""

    STARTED = "started"  #: a coordinator took the batch on; ``limit``
    BEGUN = "begun"  #: an agent got a task; ``generation``, ``log``
    ENDED = "ended"  #: it is over; ``how``, ``why``, ``seconds``, ``tokens``, ``cost_usd``
    TRIED = "tried"  #: the same, and its verdict: ``how``, ``began``, ``until``; see `learnings`
    PACED = "paced"  #: of a kind of task, ``type`` and ``pattern``, ``limit`` may run at once; ``why``
    PAUSED = "paused"  #: nothing is begun ``until`` then; ``why``
    LOWERED = "lowered"  #: fewer at once, as a service said "too many"; ``limit``
    LEVEL = "level"  #: more or fewer may run; ``level``, ``was``, ``room``, ``why``, the machine's figures
    READING = "reading"  #: the machine's figures, now and then while agents run; ``zone``, ``why``
    OVERSEEN = "overseen"  #: an agent is near a limit, or ended; ``act``, ``measure``, ``figure``, ``limit``
    HALTED = "halted"  #: nothing more is begun; ``why``
    FINISHED = "finished"  #: the coordinator is done with the batch


@dataclass(frozen=True, slots=True)
class Log:
    """A file of events, appended to by any number of processes."""

    path: str

    def tell(self, what: StrEnum, task: str, **details: Any) -> None:
        """Add an event.

        Args:
            what: What happened.
            task: The id of the task; "" for none.
            details: What else is known (``generation``, ``by``, ``why`` ...); empty ones are left out.
        """
        known = {key: value for key, value in ({"task": task} | details).items() if value not in ("", None)}
        record = {"at": clock.now_text(), "event": what.value, **known}
        line = json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line  # the last writer died within its line
            while line:
                line = line[os.write(descriptor, line) :]
        finally:
            os.close(descriptor)

    def size(self) -> int:
        """Return how long the log is, in bytes: a place from which to read on."""
        try:
            return os.stat(self.path).st_size
        except FileNotFoundError:
            return 0

    def before(self, place: int) -> str:
        """Return what stands right before *place*: by that a log is known that was replaced by another."""
        try:
            with open(self.path, "rb") as file:
                start = max(0, place - _TAIL)
                return os.pread(file.fileno(), place - start, start).decode("latin-1")
        except FileNotFoundError:
            return ""

    def since(self, place: int, having: bytes = b"") -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the events after *place*, each with the place behind it, and at last where to read on.

        Args:
            place: What `size` or this has said; in a log that has become shorter, its beginning.
            having: Only lines with these bytes are looked at: a log may be long.

        Yields:
            Place and event; the event of the last is empty.
        """
        size = self.size()
        place = place if place <= size else 0
        if size > place:
            with open(self.path, "rb") as file:
                file.seek(place)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # still being written
                    place += len(line)
                    if having in line and (event := _event(line)) is not None:
                        yield place, event
        yield place, {}

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the events, the oldest first; a torn line is passed over."""
        try:
            file = open(self.path, "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            return
        with file:
            for line in file:
                event = _event(line)
                if event is not None:
                    yield event


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def claim_end(event: Mapping[str, Any]) -> str:
    """Return which end of which claim an event tells of, "" if it tells of none.

    A line may stand twice: whoever misses one that another is about to write adds it.
    """
    if event.get("event") not in ENDS or "generation" not in event:
        return ""
    return f"{event.get('task')}#{event['generation']}"


def log_of(folder: str | os.PathLike[str]) -> Log:
    """Return the log in *folder*: a project's state folder, or a batch's."""
    return Log(os.path.join(folder, FILE))


def tell(project: Project, what: Happening, task: str, **details: Any) -> None:
    """Add an event to a project's log; see `Log.tell`. Its state folder must be there."""
    log_of(project.state).tell(what, task, **details)


def read(project: Project, task: str = "") -> Iterator[dict[str, Any]]:
    """Yield the events of a project, or those of one task, the oldest first; each end of a claim once."""
    ends: set[str] = set()
    for event in log_of(project.state).read():
        if not task or str(event.get("task")).lower() == task.lower():
            end = claim_end(event)
            if not end or end not in ends:
                yield event
            ends.add(end)
