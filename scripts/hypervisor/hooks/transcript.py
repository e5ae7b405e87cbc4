"""The client's transcript of a session: what its model has been given. Reads; changes nothing.

One JSON line for each message, appended as the session goes on (measured with Claude Code 2.1.197). What
a hook says stands there twice: as it was said (``hook_success``), which proves nothing, and as it was put
before the model (``hook_additional_context``, or a message of the user's).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any

#: Attachments that go before the model.
_SHOWN = frozenset({"hook_additional_context", "hook_blocking_error", "queued_command"})
_OVER = re.compile(r"<task-id>\s*([^<\s]+)\s*</task-id>")


def length(path: str) -> int:
    """Return how long the transcript is, in bytes; 0 where there is none yet."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def path_of_agent(session: str, agent: str) -> str:
    """Return where the transcript of an agent lies, by that of its session; "" for a strange name."""
    plain = agent.isascii() and agent.replace("-", "").replace("_", "").isalnum()
    return f"{session.removesuffix('.jsonl')}/subagents/agent-{agent}.jsonl" if session and plain else ""


def tail(path: str, most: int) -> tuple[bytes, bool]:
    """Return the last whole lines of a transcript, *most* bytes of them, and whether there is more.

    Of a last line that is longer it is the end.

    Raises:
        OSError: There is none.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        start = max(0, os.fstat(descriptor).st_size - most)
        data = os.pread(descriptor, most, start)
    finally:
        os.close(descriptor)
    whole = data.partition(b"\n")[2] if start else data
    return whole or data, start > 0


def shown(path: str, place: int, marks: Collection[str]) -> set[str] | None:
    """Return those of *marks* that the model has been given after *place*; None if it cannot be read."""
    found: set[str] = set()
    try:
        for _, line in _lines(path, place):
            there = [mark for mark in marks if mark.encode() in line]
            if there and _is_shown(_entry(line)):
                found.update(there)
    except OSError:
        return None
    return found


def ended(path: str, place: int, since: float = 0.0) -> tuple[int, list[str]]:
    """Return where the transcript ends, and the agents of which the client has noted the end after *place*.

    The client notes that where it queues its own notice, which may be lost later.

    Args:
        path: The transcript.
        place: Where to begin, in bytes; what is no whole line there is passed over.
        since: Seconds since the epoch; what was noted before does not count.
    """
    found = []
    try:
        for end, line in _lines(path, place):
            place = end
            if b'"queue-operation"' in line and b"<task-id>" in line:
                entry = _entry(line)
                enqueued = entry.get("type") == "queue-operation" and entry.get("operation") == "enqueue"
                if enqueued and _seconds(entry.get("timestamp")) >= since:
                    found += _OVER.findall(str(entry.get("content", "")))[:1]
    except OSError:
        return place, found
    return place, found


def _lines(path: str, place: int) -> Iterator[tuple[int, bytes]]:
    with open(path, "rb") as file:
        file.seek(place)
        for line in file:
            if not line.endswith(b"\n"):
                return
            place += len(line)
            yield place, line


def _entry(line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _seconds(timestamp: object) -> float:
    """Return the seconds since the epoch of a note; those without a readable time are the newest."""
    try:
        return datetime.fromisoformat(str(timestamp)).timestamp()
    except ValueError:
        return float("inf")


def _is_shown(entry: dict[str, Any]) -> bool:
    if entry.get("isSidechain") is True:
        return False
    if entry.get("type") == "user":
        return True
    attachment = entry.get("attachment")
    kind = attachment.get("type") if isinstance(attachment, dict) else None
    return entry.get("type") == "attachment" and kind in _SHOWN
