"""Hooks at work: what the client says comes in as JSON, facts are gathered, decisions carried out.

Each tool call of each worker comes through here, so that everything which is not needed for every
call is imported where it is.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from .. import errands, events, gates
from ..claims.directory import DirectoryStore, Policy
from ..claims.port import MAIN
from ..core import clock
from ..core.config import settings_of
from ..core.errors import ClaimLost
from ..core.paths import Project, session_project
from ..crowd import Crowd
from ..events import Happening
from ..inbox import Inbox
from ..mending import untold
from ..sessions import Note, Session, fate_of
from . import hooks, spawn_guard
from .hookcall import Call, read_call
from .hooks import Answer
from .telling import confirm, tell

#: Events at which the session's own thread can be told something.
_TELLING = ("SessionStart", "UserPromptSubmit", "PostToolUse", "PostToolUseFailure", "Stop")
#: Touched in a session's folder when it was kept from stopping; `attending` looks for it.
WENT_ON = ".went-on"


def main(source: IO[bytes], environ: Mapping[str, str]) -> int:
    """Answer one call of the client; always return 0, as another code could stop its tool."""
    try:
        data = json.loads(source.read())
    except (ValueError, RecursionError):
        return 0
    call = read_call(data)
    if call is None:
        return 0
    try:
        answer = Hook(call, session_project(environ)).answer()
    except Exception as error:  # noqa: BLE001 - a fault of ours must not stop the user's work
        answer = _fault(call, environ, error)
    if answer:
        print(json.dumps(answer))
    return 0


def _fault(call: Call, environ: Mapping[str, str], error: Exception) -> Answer | None:
    text = f"hypervisor: a hook failed at {call.event} and let it pass ({type(error).__name__}: {error})"
    print(text, file=sys.stderr)
    try:
        session = Session(session_project(environ).state, call.session)
        return {"systemMessage": text} if session.folder.is_dir() and session.first("fault") else None
    except OSError:
        return None


class Hook:
    """One call."""

    def __init__(self, call: Call, project: Project) -> None:
        self.call = call
        self.project = project
        self.session = Session(project.state, call.session)
        self.settings = settings_of(project.state)

    def answer(self) -> Answer | None:
        """Carry the call out; return what the client is to be told."""
        acts: Mapping[str, Callable[[], Answer | None]] = {
            "SessionStart": self._session_start,
            "UserPromptSubmit": self._end_agents,
            "PreToolUse": self._before_tool,
            "PostToolUse": self._after_tool,
            "PostToolUseFailure": self._after_tool,
            "SubagentStart": self._agent_start,
            "SubagentStop": self._agent_stop,
            "StopFailure": self._end_agents,
            "Stop": self._stop,
            "SessionEnd": self._session_end,
        }
        act = acts.get(self.call.event)
        answer = act() if act else None
        if self.call.agent == MAIN and self.call.event in _TELLING:
            answer = hooks.told(self.call, answer, self._untold())
            if self.call.event == "Stop" and answer:
                (self.session.folder / WENT_ON).touch()
        return answer

    # ---------------------------------------------------------------- session

    def _session_start(self) -> Answer | None:
        if not self.project.state.is_dir():
            return self._newcomer()
        from ..queue import leftovers  # noqa: PLC0415 - at a session's start only
        from ..report.listing import index_stats  # noqa: PLC0415 - SQLite

        desk = self._desk()
        desk.reap()
        for folder in leftovers.old_sessions(self.project.state):
            with contextlib.suppress(OSError):  # then the next session does it
                leftovers.remove(folder)
        stats = index_stats(desk, projects=False)
        if not stats["total"]:
            return None
        counts = ", ".join(f"{n} {word}" for word, n in stats["by_status"].items())
        text = f"hypervisor: tasks of this project: {counts}; {stats['ready']} ready to be claimed."
        return hooks.spoken("SessionStart", text)

    def _newcomer(self) -> Answer | None:
        """Tell of task files in a project that was never worked on; leave nothing behind in it."""
        from ..tasks.tasks import find_task_files  # noqa: PLC0415 - the YAML loader

        count = sum(1 for _ in find_task_files(self.project.root, self.settings))
        if not count:
            return None
        text = f"hypervisor: task files of this project: {count}; see `hypervisor preflight --all`."
        return hooks.spoken("SessionStart", text)

    def _session_end(self) -> Answer | None:
        inbox = self._inbox()
        if inbox.is_there():
            self._look_for_untold(inbox)
            confirm(inbox, self.call)
        why = f"its session ended ({self.call.reason or 'no reason given'})"
        self._desk().end_session(self.call.session, why)
        return None

    # ------------------------------------------------------------------ tools

    def _before_tool(self) -> Answer | None:
        main = self.call.agent == MAIN
        if why := gates.shut_for_tool(self.project.state, self.call.tool, self.call.input, main=main):
            return hooks.denied(why)
        if self.call.tool in ("Agent", "Task"):
            return spawn_guard.answer(self.call, self.project, self.settings, self._crowd(), self._desk)
        return hooks.own_tool(self.call) or (self._edit() if self.call.tool in hooks.CHANGING else None)

    def _edit(self) -> Answer | None:
        lost = self._lost_after_beat()
        if self.call.agent == MAIN:
            # A session goes on with other things after its task is gone: it is told once.
            lost = [(note, why) for note, why in lost if self.session.first(f"lost {note.token}")]
        return hooks.edit(lost)

    def _after_tool(self) -> Answer | None:
        call = self.call
        if call.tool in ("Agent", "Task"):
            agent = hooks.launched(call)
            if agent and hooks.is_worker(call):
                self._crowd().started(agent, call.use, of_main=call.agent == MAIN)
            elif call.event == "PostToolUseFailure":  # never begun
                self._crowd().withdraw(call.use)
            self._end_agents()
        self._crowd().seen(call.agent)
        # The heartbeat comes first: a receipt that cannot be written must not cost the claim.
        lost = [
            (note, why) for note, why in self._lost_after_beat() if self.session.first(f"told {note.token}")
        ]
        if call.tool not in ("Agent", "Task"):
            self._receipts()
        answer = hooks.tool_done(lost)
        return hooks.spoken(call.event, answer["context"]) if answer else None

    def _lost_after_beat(self) -> list[tuple[Note, str]]:
        """Renew the claims that this agent holds; return those that were taken from it, and why."""
        lost = []
        store = None
        for note in self.session.notes(self.call.agent):
            store = store or self._store()
            try:
                store.beat(note.claim)
            except ClaimLost:
                fate = fate_of(store, note)
                if fate.how == "lost":
                    lost.append((note, fate.why))
        return lost

    def _receipts(self) -> None:
        when = clock.now_text()
        for note in self.session.notes(self.call.agent):
            line = hooks.receipt(self.call, note, when)
            if line is None:
                continue
            from ..tasks.tasks import append_receipt  # noqa: PLC0415 - the YAML loader

            # By the tool call, as the client, or a second copy of us, may tell of it twice.
            append_receipt(Path(note.path), line, self.call.use)
            if note.receipts_to:
                item = f"{self.call.use} ({note.task})" if self.call.use else ""
                self._desk().receipt(note.receipts_to, f"{line} ({note.task})", item)

    # ---------------------------------------------------------------- notices

    def _untold(self) -> str:
        """Return what the session's own thread has not been told of its agents and runs."""
        inbox = self._inbox()
        if self.call.event != "Stop":
            (self.session.folder / WENT_ON).unlink(missing_ok=True)
        if not inbox.is_there():
            return ""
        self._look_for_untold(inbox)
        return tell(inbox, self.call, self._crowd().running(), only_waking=self.call.event == "Stop")

    def mend(self) -> None:
        """Write the lines of ends of which nobody has told."""
        self._desk().mend(self.call.session)

    def _look_for_untold(self, inbox: Inbox) -> None:
        """Write the lines of which the log has none, as whoever should have told died."""
        if next(untold(self.session, self._store(), inbox.known()), None) is not None:
            self.mend()
        errands.look(self.project, self.call.session)

    # ----------------------------------------------------------------- agents

    def _agent_start(self) -> Answer | None:
        if self.call.agent_type == hooks.WORKER and self.call.agent != MAIN:
            self.project.prepare()
            self._crowd().started(self.call.agent)
        return None

    def _agent_stop(self) -> Answer | None:
        return self._ask_to_end() or self._end_agents()

    def _stop(self) -> Answer | None:
        self._end_agents()
        return self._ask_to_end()

    def _ask_to_end(self) -> Answer | None:
        notes = self.session.notes(self.call.agent) if not self.call.asked else []
        if not notes:
            return None
        store = self._store()
        held = [note for note in notes if fate_of(store, note).how == "open"]
        return hooks.stop([note for note in held if self.session.first(f"asked {note.token}")])

    def _end_agents(self) -> Answer | None:
        for agent, why in hooks.ended_agents(self.call, self._crowd().of_main()).items():
            self.agent_over(agent, why)
        return None

    def agent_over(self, agent: str, why: str) -> None:
        """Let go of what an agent holds whose end is known; tell of one that never held anything."""
        was_ours = self._crowd().ended(agent)
        if self.session.notes(agent):
            self._desk().let_go(self.call.session, agent, why)
        elif was_ours:
            having, log = json.dumps(agent).encode(), events.log_of(self.project.state)
            if not any(event.get("agent") == agent for _, event in log.since(0, having)):
                self._inbox().begin()
                events.tell(self.project, Happening.LEFT, agent, session=self.call.session, agent=agent)

    # ---------------------------------------------------------------- details

    def _inbox(self) -> Inbox:
        return Inbox(self.project.state, self.call.session)

    def _crowd(self) -> Crowd:
        return Crowd(self.session, self.settings["claims"]["lease_seconds"])

    def _store(self) -> DirectoryStore:
        return DirectoryStore(str(self.project.state), policy=Policy(patient=False))

    def _desk(self) -> Any:
        from ..tasks.desk import Desk  # noqa: PLC0415 - the YAML loader
        from ..tasks.tasklist import Caller  # noqa: PLC0415

        return Desk(self.project, self.settings, Caller(name="claude", session=self.call.session))
