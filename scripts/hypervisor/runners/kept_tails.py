"""Keeps the ends of logs in a store of many machines, once what has written them is over."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable

from ..store.store import Store
from ..store.tails import LogTail


def keep_tails(store: Store, logs: Iterable[tuple[int, str]]) -> None:
    """Keep the ends of logs, where other machines use the store. A fault costs the tails, and no work.

    Args:
        store: The store; on one of one machine nothing is kept.
        logs: Attempts, each with the path of its log without the ending. What is not there is passed over.
    """
    most = 1024 * int(store.settings["store"]["tail_kib"]) if store.shared else 0
    if not most:
        return
    found = []
    for attempt, log in logs:
        (out, more), (err, even) = (_end(log, ending, most // 2) for ending in ("out", "err"))
        if out or err:
            path = os.path.abspath(log)
            found.append(LogTail(attempt=attempt, path=path, out=out, err=err, cut=more or even))
    with contextlib.suppress(OSError):
        store.tails.keep(found)


def _end(log: str, ending: str, most: int) -> tuple[bytes, bool]:
    """Return the end of a stream, from the beginning of a line on, and whether there is more before it."""
    path, number = f"{log}.{ending}", 1
    while os.path.lexists(f"{log}.{ending}.{number}"):  # a long one is in several parts
        path, number = f"{log}.{ending}.{number}", number + 1
    try:
        # A link would lead anywhere, and to open a FIFO would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b"", False
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            return b"", False
        start = max(0, state.st_size - most)
        data = os.pread(descriptor, most, start)
    except OSError:
        return b"", False
    finally:
        os.close(descriptor)
    if start:
        first, _, rest = data.partition(b"\n")
        data = rest or first
    return data, bool(start) or number > 1
