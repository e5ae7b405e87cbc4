"""Time, for people and for judging silence. Safety never depends on it."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now_text() -> str:
    """Return the time of day in UTC, as in ``2026-03-01T12:00:00.123Z``."""
    return text_of(time.time())


def text_of(seconds: float) -> str:
    """Return a time, in seconds since the epoch, as `now_text` does."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_of(text: str) -> float:
    """Return what `now_text` said as seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def seconds_between(start: str, end: str) -> float:
    """Return the seconds from one `now_text` to another, 0 if they lie the other way round."""
    span = datetime.fromisoformat(end) - datetime.fromisoformat(start)
    return round(max(0.0, span.total_seconds()), 3)


def suspended_seconds() -> float:
    """Return for how long this machine has slept since it booted.

    On Linux that is CLOCK_BOOTTIME, which goes on while the machine sleeps, less
    CLOCK_MONOTONIC, which does not (clock_gettime(2)). Elsewhere it is not known, and 0.0
    is returned: a silent claim may then expire while the machine sleeps.
    """
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is None:
        return 0.0
    return max(0.0, time.clock_gettime(boottime) - time.clock_gettime(time.CLOCK_MONOTONIC))
