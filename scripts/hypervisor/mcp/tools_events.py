"""The tool that waits for ends: what `hypervisor wait` does, for agents."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Protocol

from ..claims.port import MAIN
from ..core.errors import UsageError
from ..core.machine import Identity, life_of, this_process
from ..core.paths import Project
from ..events import ENDS, Happening, log_of
from ..hooks.telling import hand_over
from ..inbox import Inbox
from ..underway import under_way
from ..waiting import wait_until
from .arguments import Arguments

#: Seconds: clients give up on a tool after 60 as a rule.
_USUAL, _MOST = 25, 50
#: As many events as an answer shows.
_SHOWN = 50
_TOLD = (*ENDS, Happening.RUN_OVER, Happening.LEFT)


class Box(Protocol):
    """A server's tools, as far as this needs it."""

    environ: Mapping[str, str]
    client: Identity | None

    @property
    def project(self) -> Project:
        """The project, as it is now."""


def wait_for_events(box: Box, arguments: Arguments) -> Any:
    """Answer with what has ended since a cursor; to a session's own thread, with what it was not told."""
    seconds = arguments.get("timeout", _USUAL)
    deadline = time.monotonic() + min(seconds, _MOST)
    project, session = (
        box.project,
        arguments.get("caller_session", box.environ.get("CLAUDE_CODE_SESSION_ID", "")),
    )
    log = log_of(project.state)
    parent = os.getppid()

    def stopped() -> bool:  # whoever asked is gone: the server must not outlive him by this call
        dead = box.client is not None and life_of(box.client, this_process()) == "dead"
        return dead or os.getppid() != parent

    if session and arguments.get("caller_agent") == MAIN and Inbox(project.state, session).is_there():
        inbox = Inbox(project.state, session)

        def pending(_: bool) -> bool | None:
            return True if inbox.pending() else None if under_way(project, session) else False

        found = wait_until(pending, [log.path], deadline, stopped=stopped)
        text, notices = hand_over(inbox, "wait", None) if found else ("", [])
        rows = [{"event": one.event, "task": one.task} for one in notices[:_SHOWN]]
        answer: dict[str, Any] = {"said": text, "events": rows, "cursor": str(log.size())}
        return answer if found is not False else answer | {"said": "nothing of this session is under way"}
    place = _place(arguments.get("since", ""), log.size())
    events: list[dict[str, Any]] = []

    def look(_: bool) -> bool | None:
        nonlocal place
        for at, event in log.since(place):
            place = at
            if event.get("event") in _TOLD:
                events.append({key: event[key] for key in event if key not in ("session", "run")})
            if len(events) == _SHOWN:
                break
        return bool(events) or None

    wait_until(look, [log.path], deadline, stopped=stopped)
    return {"events": events, "cursor": str(place)}


def _place(since: str, end: int) -> int:
    if not since:
        return end
    if not since.isdecimal() or len(since) > 18:
        raise UsageError(
            f"wait_for_events: since must be the cursor of an earlier answer, not {since[:40]!r}"
        )
    return int(since)
