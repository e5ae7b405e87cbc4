"""What all that run a program share: waiting for its end, and the last line that it said."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from typing import Literal

#: How often a running program is looked at, in seconds: at least, where the kernel does not tell its
#: end; and at most, as nothing but a look tells that it has to stop.
_FIRST_POLL, _LAST_POLL = 0.001, 0.1

EndedBy = Literal["", "stopped", "timed out"]


def wait_for_end(pid: int, stopped: threading.Event, timeout: float | None) -> EndedBy:
    """Wait until a child has ended, or must be ended.

    It is not reaped: it stays a zombie until its group is ended, so that the group's number cannot be
    given to somebody else's processes meanwhile.

    Args:
        pid: The child.
        stopped: Set when it has to stop.
        timeout: Seconds that it has; None for as long as it takes.

    Returns:
        "" if it has ended by itself, else why it must be ended.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = _FIRST_POLL
    with contextlib.ExitStack() as held:
        end = _end_of(pid, held)
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if stopped.is_set():
                return "stopped"
            if deadline is not None and time.monotonic() > deadline:
                return "timed out"
            if end is not None:
                end.poll(1000 * _LAST_POLL)
            else:
                stopped.wait(pause)
                pause = min(pause * 2, _LAST_POLL)
    return ""


def _end_of(pid: int, held: contextlib.ExitStack) -> select.poll | None:
    """Return what wakes at a child's end, where the kernel has that (Linux 5.3)."""
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
    held.callback(os.close, descriptor)
    end = select.poll()
    end.register(descriptor, select.POLLIN)
    return end


def last_line(text: str) -> str:
    """Return the last line of *text* that says something, 500 characters of it at most; "" if none does."""
    full = [line.strip() for line in text.splitlines() if line.strip()]
    return full[-1][:500] if full else ""
