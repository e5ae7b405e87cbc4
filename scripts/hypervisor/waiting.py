"""Waiting for something to end: a look at a few files' sizes many times a second, at the truth now and then.

Whoever ends something adds a line to a log. A line may be missing where somebody died before he wrote it,
so the claims and results themselves are looked at every few seconds as well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

#: How often it is seen whether a file has changed: some microseconds each time.
TICK_SECONDS = 0.05
#: How often the truth is looked at, whatever the files say.
SAFETY_SECONDS = 5.0
#: Of the time, this share at most goes into looking, however long a look takes.
_SHARE = 0.3

Found = TypeVar("Found")


def wait_until(
    look: Callable[[bool], Found | None],
    paths: Sequence[str],
    deadline: float | None,
    *,
    tick: float = TICK_SECONDS,
    stopped: Callable[[], bool] = lambda: False,
) -> Found | None:
    """Wait until *look* finds something.

    Args:
        look: Called at once, whenever one of *paths* has changed, and every few seconds; told whether
            it is to look at the truth and not only at what has changed. None: nothing yet.
        paths: Files and folders whose change may mean something.
        deadline: When to give up, as `time.monotonic` tells it; None for never.
        tick: Seconds between two looks at the paths.
        stopped: Asked each time; True: give up.

    Returns:
        What was found, None at the deadline.
    """
    before, whole = states(paths), 0.0
    while True:
        begun = time.monotonic()
        truth = begun >= whole
        found = look(truth)
        cost = time.monotonic() - begun
        if found is not None:
            return found
        if truth:
            whole = begun + SAFETY_SECONDS + cost / _SHARE
        rest = time.monotonic() + cost / _SHARE
        while True:
            now = time.monotonic()
            if stopped() or (deadline is not None and now >= deadline):
                return None
            if now >= whole or (now >= rest and states(paths) != before):
                before = states(paths)
                break
            time.sleep(tick if deadline is None else max(0.0, min(tick, deadline - now)))


def states(paths: Sequence[str]) -> list[tuple[int, int] | None]:
    """Return what changes when one of *paths* does; None for what is not there."""
    found: list[tuple[int, int] | None] = []
    for path in paths:
        try:
            state = os.stat(path)
            found.append((state.st_mtime_ns, state.st_size))
        except OSError:
            found.append(None)
    return found
