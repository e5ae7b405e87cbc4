"""What happened, one JSON line each: a project's tasks in `.hypervisor/events.jsonl`, a run in its batch's.

A log tells; it decides nothing. Claims and results are the truth, and a line may be missing where a
process died between the deed and the line.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from . import clock
from .paths import Project

FILE = "events.jsonl"


class Happening(StrEnum):
    """What an event tells of."""

    CLAIMED = "claimed"  #: somebody began with a task
    COMPLETED = "completed"  #: it is done
    BLOCKED = "blocked"  #: its worker stopped, and says what it waits for
    CANCELLED = "cancelled"  #: it will not be done
    RELEASED = "released"  #: its claim ended without a result; the task is as it was before
    REAPED = "reaped"  #: the same, as its holder was dead or silent
    MOVED_ON = "moved on"  #: a batch's work came to the user's branch; `task` is the batch


class RunEvent(StrEnum):
    """What an event of a batch tells of."""

    STARTED = "started"  #: a coordinator took the batch on; ``limit``
    BEGUN = "begun"  #: an agent got a task; ``generation``, ``log``
    ENDED = "ended"  #: it is over; ``how``, ``why``, ``seconds``, ``tokens``, ``cost_usd``
    PAUSED = "paused"  #: nothing is begun ``until`` then; ``why``
    LOWERED = "lowered"  #: fewer at once, as a service said "too many"; ``limit``
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

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the events, the oldest first; a torn line is passed over."""
        try:
            file = open(self.path, "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            return
        with file:
            for line in file:
                try:
                    event = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(event, dict):
                    yield event


def log_of(folder: str | os.PathLike[str]) -> Log:
    """Return the log in *folder*: a project's state folder, or a batch's."""
    return Log(os.path.join(folder, FILE))


def tell(project: Project, what: Happening, task: str, **details: Any) -> None:
    """Add an event to a project's log; see `Log.tell`. Its state folder must be there."""
    log_of(project.state).tell(what, task, **details)


def read(project: Project, task: str = "") -> Iterator[dict[str, Any]]:
    """Yield the events of a project, or those of one task, the oldest first."""
    for event in log_of(project.state).read():
        if not task or str(event.get("task")).lower() == task.lower():
            yield event
