"""What happened to one task, from the end of its project's log: the log of years is not read for it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from .core.paths import Project
from .events import log_of

_BLOCK = 1 << 20


def last(project: Project, task: str, most: int) -> list[dict[str, Any]]:
    """Return the last events of *task* (in whatever case), *most* at most, the oldest first."""
    found: list[dict[str, Any]] = []
    wanted = task.lower()
    # Whole lines only are parsed that may be meant; JSON may write any letter as an escape.
    mark = None if not task.isascii() or json.dumps(task) != f'"{task}"' else wanted.encode()
    for line in _backwards(log_of(project.state).path, mark):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and str(event.get("task")).lower() == wanted:
            found.append(event)
            if len(found) == most:
                break
    return found[::-1]


def _backwards(path: str, mark: bytes | None) -> Iterator[bytes]:
    """Yield the lines of a file, the last first; with a *mark* (in lower case) only those that hold it."""
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        return
    with file:
        left = file.seek(0, os.SEEK_END)
        tail = b""
        while left:
            size = min(_BLOCK, left)
            left -= size
            file.seek(left)
            block = file.read(size) + tail
            tail = b""
            if left:
                tail, newline, block = block.partition(b"\n")
                if not newline:
                    tail, block = tail + block, b""
            if mark is None or mark in block.lower():
                for line in reversed(block.split(b"\n")):
                    if mark is None or mark in line.lower():
                        yield line
