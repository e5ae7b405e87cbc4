"""The tool that waits for ends: what `hypervisor wait` does, for agents."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from ...core.errors import UsageError
from ...core.process import life_of, this_process
from ...core.project import Project
from ...hooks.delivery import deliver, wait_answer
from ...report.ends import EventReader, ends_answer
from ...store.sessions import MAIN
from ...store.store import Store
from ...store.waiting import TICK_SECONDS, wait_until
from ..arguments import Arguments
from ..context import ToolContext

#: Seconds: clients give up on a tool after 60 as a rule.
_USUAL, _MOST = 25, 50
#: The most events that an answer shows.
_SHOWN = 50


def _wait_for_events(context: ToolContext, arguments: Arguments) -> Any:
    """Return what has ended since a cursor; to a session's own thread, what it was not told of."""
    deadline = time.monotonic() + min(arguments.get("timeout", _USUAL), _MOST)
    since = _cursor(arguments.get("since", ""))
    parent = os.getppid()

    def stopped() -> bool:  # the caller is gone: the server must not outlive it by this call
        dead = context.client is not None and life_of(context.client, this_process()) == "dead"
        return dead or os.getppid() != parent

    while not stopped():
        with context.service(arguments) as service:
            store, actor = service.catalog.store, service.actor
            if store is not None and actor.agent == MAIN and store.sessions.is_known(actor.session):
                return _for_session(store, actor.session, deadline, stopped)
            if store is not None:
                return _for_project(store, service.project, since, deadline, stopped)
        if time.monotonic() >= deadline:  # nobody has begun anything
            break
        time.sleep(TICK_SECONDS)
    return ends_answer([], 0)


def _for_session(store: Store, session: str, deadline: float, stopped: Callable[[], bool]) -> dict[str, Any]:
    queue = store.notices(session)

    def pending() -> bool | None:
        return True if queue.pending() else None if store.sessions.under_way(session) else False

    found = wait_until(store, pending, deadline, stopped=stopped)
    text, notices = deliver(queue, "wait", None) if found else ("", [])
    said = "nothing of this session is under way" if found is False else text
    return wait_answer(said, notices[:_SHOWN], store.events.last())


def _for_project(
    store: Store, project: Project, since: int, deadline: float, stopped: Callable[[], bool]
) -> dict[str, Any]:
    reader = EventReader(store, project, since)
    events = wait_until(store, lambda: reader.ends(_SHOWN) or None, deadline, stopped=stopped)
    return ends_answer(events or [], reader.place)


def _cursor(since: str) -> int:
    """Return the id of the event to go on from; -1 for the latest."""
    if not since:
        return -1
    if not since.isdecimal() or len(since) > 18:
        raise UsageError(
            f"wait_for_events: since must be the cursor of an earlier answer, not {since[:40]!r}"
        )
    return int(since)


TOOLS: Mapping[str, Callable[[ToolContext, Arguments], Any]] = {"wait_for_events": _wait_for_events}
