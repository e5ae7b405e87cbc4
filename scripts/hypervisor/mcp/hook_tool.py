"""The hidden tool ``hook``: what the client's hooks call, answered by the server's own process.

Most calls find nothing to do: the session has nothing of ours, or a worker's claims are as they were a moment
ago. `HookTool` remembers that together with the state of the database, and answers such a call from memory.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..core.errors import HypervisorError
from ..core.settings import settings_of
from ..hooks import decisions
from ..hooks.call import Call, call_of_tool
from ..hooks.decisions import Answer
from ..hooks.handler import HookHandler, fault
from ..store.sessions import MAIN
from ..store.store import Store
from .context import ToolContext

#: Events that may be nothing but a sign of life.
_TOOL_EVENTS = ("PreToolUse", "PostToolUse", "PostToolUseFailure")
#: The client's tools that start agents: more than that.
_SPAWNING = ("Agent", "Task")
#: Claims are renewed after this share of their lease, and after so many seconds at most.
_SHARE, _MOST_SECONDS = 0.05, 30.0
#: Sessions and agents that are remembered; one more, and all are forgotten.
_REMEMBERED = 1000


class _Unknown:
    """What memory does not tell."""


UNKNOWN: Final = _Unknown()


@dataclass(frozen=True, slots=True)
class _Quiet:
    """An agent for which there was nothing to do."""

    #: Of the database, then.
    state: tuple[int, int]
    #: Until when that counts if the database does not change, as `time.monotonic` tells it.
    until: float


class HookTool:
    """Answers the hooks of one client. Calls may come from several threads.

    Args:
        context: What the server's tools act on, too.
    """

    def __init__(self, context: ToolContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._quiet: dict[tuple[str, str], _Quiet] = {}
        self._renewed: dict[tuple[str, str], float] = {}
        #: The session that its own thread has last said something of.
        self._session = ""
        #: Sessions that were seen to have anything of ours, for the end of the client.
        self.ours: set[str] = set()

    def from_memory(self, given: Mapping[str, Any]) -> str | _Unknown:
        """Return the answer to a call for which there is nothing to be done; `UNKNOWN` if there may be."""
        call = call_of_tool(given)
        if call is None:
            return _text(None)
        if call.event not in _TOOL_EVENTS or call.tool in _SPAWNING:
            return UNKNOWN
        try:
            if not self._is_quiet(call):
                return UNKNOWN
        except (OSError, HypervisorError):  # told by whoever carries the call out
            return UNKNOWN
        return _text(decisions.own_tool(call) if call.event == "PreToolUse" else None)

    def _is_quiet(self, call: Call) -> bool:
        store = self._context.open_store()
        if store is None:
            return True
        quiet = self._quiet.get((call.session, call.agent))
        return quiet is not None and time.monotonic() < quiet.until and store.engine.state() == quiet.state

    def answer(self, given: Mapping[str, Any]) -> str:
        """Carry a call out; return what the client is to be told, as JSON. Never raises."""
        call = call_of_tool(given)
        if call is None:
            return _text(None)
        try:
            self._note_session(call)
            return _text(self._answer(call))
        except Exception as error:  # noqa: BLE001 - a fault of ours must not stop the user's work
            self._renewed.pop((call.session, call.agent), None)
            return _text(fault(call, self._context.environ, error))

    def _answer(self, call: Call) -> Answer | None:
        project = self._context.project
        store = self._context.open_store()
        with HookHandler(call, project, store, self._due) as handler:
            answer = handler.answer()
        if store is not None and call.session not in self.ours and store.sessions.is_known(call.session):
            self.ours.add(call.session)
        if store is not None and call.event in _TOOL_EVENTS and call.tool not in _SPAWNING:
            self._remember(call, store)
        return answer

    # ----------------------------------------------------------------- memory

    def _due(self, session: str, agent: str) -> bool:
        """Return whether the claims of an agent are to be renewed, which the caller then does."""
        lease = settings_of(self._context.project.state)["claims"]["lease_seconds"]
        now, who = time.monotonic(), (session, agent)
        with self._lock:
            if now < self._renewed.get(who, 0.0):
                return False
            if len(self._renewed) >= _REMEMBERED:
                self._renewed.clear()
            self._renewed[who] = now + min(lease * _SHARE, _MOST_SECONDS)
        return True

    def _remember(self, call: Call, store: Store) -> None:
        """Remember whether the next call of this agent will find nothing to do, if nothing changes."""
        who = (call.session, call.agent)
        state = store.engine.state()  # before the questions: what comes after it is seen by the next call
        held = store.sessions.open_claims(*who)
        idle = not (
            any(one.task.receipts for one in held)
            or store.sessions.lost_claims(*who)
            or store.review.gates()
            or (call.agent == MAIN and _may_hear(store, call.session))
        )
        with self._lock:
            if len(self._quiet) >= _REMEMBERED:
                self._quiet.clear()
            if not idle:
                self._quiet.pop(who, None)
                return
            until = self._renewed.get(who, 0.0) if call.agent != MAIN or held else float("inf")
            self._quiet[who] = _Quiet(state, until)

    # --------------------------------------------------------------- sessions

    def _note_session(self, call: Call) -> None:
        """End the session before, where the client has gone on with another (``/clear``, ``/resume``)."""
        if call.event != "UserPromptSubmit" or call.agent != MAIN or call.session == self._session:
            return
        before, self._session = self._session, call.session
        if before and before in self.ours:
            with self._context.service({}) as service:
                service.end_session(before, "its session ended (the client went on with another)")


def _may_hear(store: Store, session: str) -> bool:
    """Return whether a session's own thread may be told something although the database has not changed."""
    queue = store.notices(session)
    return bool(queue.pending() or queue.offered() or store.sessions.open_runs(session))


def _text(answer: Answer | None) -> str:
    return json.dumps(answer or {})
