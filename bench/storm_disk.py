"""A disk for a storm that is full for a while."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

_TICK = 0.01


@contextlib.contextmanager
def ground(items: int, folder: str, *, small: bool) -> Iterator[str]:
    """Give a storm its folder: a disk of its own, just large enough, if that is to be full."""
    if not small:
        yield folder
        return
    disk = os.path.join(folder, "disk")
    os.makedirs(disk)
    options = f"size={items * 3 * 4096 + (32 << 20)},nr_inodes={items * 2 + 4000}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "storm", disk], check=True)
    try:
        yield os.path.join(disk, "store")
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def fill(
    folder: Path, seconds: float, finished: Callable[[], int], over: threading.Event, counts: Counter[str]
) -> None:
    """Fill the disk, names first, and keep it full for a while.

    Args:
        folder: A new folder on the disk.
        seconds: For how long.
        finished: Tells how many items have a result.
        over: Set when the storm is over.
        counts: Gets what was taken, and what was finished meanwhile.
    """
    folder.mkdir()
    full, before = 0.0, 0
    with open(folder / "data", "ab", buffering=0) as data:
        while not (full and time.monotonic() > full + seconds) and not over.wait(_TICK):
            with contextlib.suppress(OSError):
                while True:
                    (folder / str(counts["names taken"])).touch()
                    counts["names taken"] += 1
            with contextlib.suppress(OSError):
                while data.write(bytes(1 << 16)):
                    counts["fillings"] += 1
            full, before = full or time.monotonic(), before or finished()
    counts["results while the disk was full"] = finished() - before
    shutil.rmtree(folder)
