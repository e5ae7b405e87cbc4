"""Waiting for something that a store can tell: no notification is needed, and none can be missed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from .store import Store

#: How often it is asked whether the database changed: some microseconds each time.
TICK_SECONDS = 0.05
#: How often dead workers are looked for: nobody else may be there to write down that they are gone.
RESCUE_SECONDS = 0.5
#: Of the time, this share at most goes into queries, however long one takes.
_SHARE = 0.3

Found = TypeVar("Found")


def wait_until(
    store: Store,
    look: Callable[[], Found | None],
    deadline: float | None,
    *,
    tick: float = TICK_SECONDS,
    stopped: Callable[[], bool] = lambda: False,
) -> Found | None:
    """Wait until *look* finds something.

    Claims of workers that died are taken from them meanwhile, so that their ends are seen too.

    Args:
        store: The store that *look* asks.
        look: Called at once, and whenever another process has changed the database; None: nothing yet.
        deadline: When to give up, as `time.monotonic` tells it; None for never.
        tick: Seconds between two questions whether the database changed.
        stopped: Asked each time; True: give up.

    Returns:
        What was found; None at the deadline.
    """
    while True:
        seen = store.engine.version()  # before the look: what comes after it is seen by the next
        begun = time.monotonic()
        freed = store.rescuer.rescue_now_and_then(RESCUE_SECONDS)
        found = look()
        if found is not None:
            return found
        rest = time.monotonic() + (time.monotonic() - begun) / _SHARE
        while not freed:
            now = time.monotonic()
            if stopped() or (deadline is not None and now >= deadline):
                return None
            if now >= rest and store.engine.version() != seen:
                break
            freed = store.rescuer.rescue_now_and_then(RESCUE_SECONDS)
            if not freed:
                time.sleep(tick if deadline is None else max(0.0, min(tick, deadline - now)))
