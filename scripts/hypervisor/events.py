"""What happened to a project's tasks, one JSON line each: `.hypervisor/events.jsonl`.

The log tells; it decides nothing. Claims and results are the truth, and a line may be missing where
a process died between the deed and the line.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
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


def tell(project: Project, what: Happening, task: str, **details: Any) -> None:
    """Add an event to the log.

    Args:
        project: Whose log; its state folder must be there.
        what: What happened.
        task: The id of the task.
        details: What else is known (``generation``, ``by``, ``why`` ...); empty ones are left out.
    """
    known = {key: value for key, value in details.items() if value not in ("", None)}
    record = {"at": clock.now_text(), "event": what.value, "task": task, **known}
    line = json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
    descriptor = os.open(project.state / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line  # the last writer died within its line
        while line:
            line = line[os.write(descriptor, line) :]
    finally:
        os.close(descriptor)


def read(project: Project, task: str = "") -> Iterator[dict[str, Any]]:
    """Yield the events, the oldest first; a torn line is passed over.

    Args:
        project: Whose log.
        task: Only the events of this task.
    """
    try:
        file = open(project.state / FILE, "rb")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        return
    with file:
        for line in file:
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict) and (not task or str(event.get("task")).lower() == task.lower()):
                yield event
