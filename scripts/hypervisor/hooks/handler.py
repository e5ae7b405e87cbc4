"""Hooks at work: a call comes in, facts are gathered from the store, decisions carried out.

Each tool call of each worker comes through here, so that everything which is not needed for every call is
imported where it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any

from ..core.errors import HypervisorError, UsageError
from ..core.project import Project, session_project
from ..core.settings import default_settings, settings_of
from ..core.text import now_text
from ..store.sessions import MAIN, AgentClaim
from ..store.store import Store
from . import decisions, transcript
from .call import Call, read_call
from .decisions import Answer
from .delivery import deliver_at_hook, settle

if TYPE_CHECKING:
    from ..tasks.service import TaskService

#: Events at which the session's own thread can be told something.
_TELLING = ("SessionStart", "UserPromptSubmit", "PostToolUse", "PostToolUseFailure", "Stop")
#: Of the end of a worker's transcript.
_KEPT_BYTES = 64 * 1024


def main(source: IO[bytes], environ: Mapping[str, str], events: Collection[str] = ()) -> int:
    """Answer one call of the client; always return 0, as another code could stop its tool.

    Args:
        source: The call.
        environ: The environment.
        events: Those that are answered; all if there are none.
    """
    try:
        data = json.loads(source.read())
    except (ValueError, RecursionError):
        return 0
    call = read_call(data)
    if call is None or (events and call.event not in events):
        return 0
    try:
        with HookHandler(call, session_project(environ)) as handler:
            answer = handler.answer()
    except Exception as error:  # noqa: BLE001 - a fault of ours must not stop the user's work
        answer = fault(call, environ, error)
    if answer:
        print(json.dumps(answer))
    return 0


def fault(call: Call, environ: Mapping[str, str], error: Exception) -> Answer | None:
    """Return what is said of a fault of ours, which lets the call pass; None if that was said before."""
    text = f"hypervisor: a hook failed at {call.event} and let it pass ({type(error).__name__}: {error})"
    print(text, file=sys.stderr)
    try:
        # With the defaults, as the project's settings may be what is wrong.
        with Store.open(session_project(environ).state, default_settings(), create=False) as store:
            ours = store.sessions.is_known(call.session)
            return {"systemMessage": text} if ours and store.sessions.first(call.session, "fault") else None
    except (OSError, HypervisorError):
        return None


class HookHandler:
    """One call.

    Args:
        call: The call.
        project: The session's project.
        store: The project's store, if it is open already; it is not closed then.
        due: Whether the claims of an agent of a session are to be renewed; without it they always are.
    """

    def __init__(
        self,
        call: Call,
        project: Project,
        store: Store | None = None,
        due: Callable[[str, str], bool] = lambda _session, _agent: True,
    ) -> None:
        self.call = call
        self.project = project
        self._given = store
        self._due = due

    def __enter__(self) -> HookHandler:
        return self

    def __exit__(self, *_: object) -> None:
        opened = self.__dict__.get("store")
        if opened is not None and opened is not self._given:
            opened.close()

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The project's settings."""
        return settings_of(self.project.state)

    @cached_property
    def store(self) -> Store | None:
        """The project's store; None where there is none."""
        if self._given is not None:
            return self._given
        try:
            return Store.open(self.project.state, self.settings, create=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

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
            answer = self._with_notices(answer)
        return answer

    # ---------------------------------------------------------------- session

    def _session_start(self) -> Answer | None:
        if not self.project.state.is_dir():
            return self._newcomer()
        if self.store is not None:
            self.store.sessions.forget_old()
        from ..report.listing import index_stats  # noqa: PLC0415 - at a session's start only

        with self._service() as service:
            service.rescue()
            stats = index_stats(service.catalog, projects=False)
        if not stats["total"]:
            return None
        counts = ", ".join(f"{n} {word}" for word, n in stats["by_status"].items())
        text = f"hypervisor: tasks of this project: {counts}; {stats['ready']} ready to be claimed."
        return decisions.spoken("SessionStart", text)

    def _newcomer(self) -> Answer | None:
        """Name the task files of a project that was never worked on; leave nothing behind in it."""
        from ..tasks.discovery import find_task_files  # noqa: PLC0415

        count = sum(1 for _ in find_task_files(self.project.root, self.settings))
        if not count:
            return None
        text = f"hypervisor: task files of this project: {count}; see `hypervisor preflight --all`."
        return decisions.spoken("SessionStart", text)

    def _session_end(self) -> Answer | None:
        if self.store is None:
            return None
        queue = self.store.notices(self.call.session)
        settle(queue, self.call)
        why = f"its session ended ({self.call.reason or 'no reason given'})"
        if self._holds():
            with self._service() as service:
                service.end_session(self.call.session, why)
        else:
            self.store.sessions.end(self.call.session, why)
        return None  # what it was not told is told when it is resumed

    # ------------------------------------------------------------------ tools

    def _before_tool(self) -> Answer | None:
        if why := self._bulk_refusal():
            return decisions.denied(why)
        if self.call.tool in ("Agent", "Task"):
            return self._spawn() if decisions.is_worker(self.call) else None
        return decisions.own_tool(self.call) or (
            self._edit() if self.call.tool in decisions.CHANGING else None
        )

    def _bulk_refusal(self) -> str | None:
        if self.store is None:
            return None
        from ..review.approvals import shut_for_tool  # noqa: PLC0415

        main = self.call.agent == MAIN
        return shut_for_tool(self.store.review, self.call.tool, self.call.input, main=main)

    def _spawn(self) -> Answer | None:
        """Decide whether a worker may be started, and take its place."""
        task = decisions.pulled(self.call)
        refusal = self._refusal(task) if task else None
        if refusal is not None:
            return decisions.denied(f"Denied, nothing was started: {refusal}")
        self.project.prepare()
        agents = self.settings["agents"]
        sessions = self._made().sessions
        running = sessions.workers(self.call.session)
        room = decisions.Room(
            running=running, cap=agents["per_session"],
            ram=_ram_percent() if running else 0.0, max_ram=agents["max_ram_percent"],
        )  # fmt: skip
        answer = decisions.spawn(self.call, room)
        if answer is None and self.call.use:
            full = sessions.ask(self.call.session, self.call.use, room.cap)
            if full is not None:  # others were quicker
                return decisions.spawn(self.call, replace(room, running=full))
        return answer

    def _refusal(self, task: str) -> str | None:
        with self._service() as service:
            try:
                found = service.find(task)
            except UsageError as error:
                return str(error)
            why = service.why_not(found)
        return f"{found.id}: {why}" if why else None

    def _edit(self) -> Answer | None:
        lost = self._lost_after_beat()
        if self.call.agent == MAIN:
            # A session goes on with other things after its task is gone: it is told once.
            lost = [one for one in lost if self._first(f"lost {one.claim.attempt}")]
        return decisions.denied(f"Denied: {decisions.lost(lost)}") if lost else None

    def _after_tool(self) -> Answer | None:
        call = self.call
        if call.tool in ("Agent", "Task"):
            agent = decisions.launched(call)
            if agent and decisions.is_worker(call):
                sessions = self._made().sessions
                sessions.started(call.session, agent, call.use, background=call.agent == MAIN)
            elif call.event == "PostToolUseFailure" and self.store is not None:  # never begun
                self.store.sessions.withdraw(call.session, call.use)
            self._end_agents()
        # The heartbeat comes first: a receipt that cannot be written must not cost the claim.
        lost = [one for one in self._lost_after_beat() if self._first(f"told {one.claim.attempt}")]
        if call.tool not in ("Agent", "Task"):
            self._receipts()
        return decisions.spoken(call.event, decisions.lost(lost)) if lost else None

    def _lost_after_beat(self) -> list[AgentClaim]:
        """Renew what this agent holds, if that is due; return the claims that were taken from it."""
        if self.store is None:
            return []
        session, agent = self.call.session, self.call.agent
        if not self._due(session, agent):
            return self.store.sessions.lost_claims(session, agent)
        return self.store.sessions.beat(session, agent)

    def _receipts(self) -> None:
        when = now_text()
        claims = self.store.sessions.open_claims(self.call.session, self.call.agent) if self.store else []
        for one in claims:
            line = decisions.receipt(self.call, one, when)
            if line is None or self.store is None:
                continue
            from ..tasks.receipts import append_receipt  # noqa: PLC0415 - the YAML loader

            # By the tool call, as the client, or a second copy of us, may report it twice.
            root = self.project.root
            append_receipt(self.store, one.claim.key, root, root / one.claim.text, line, self.call.use)
            if one.task.receipts_to:
                item = f"{self.call.use} ({one.task.task})" if self.call.use else ""
                with self._service() as service:
                    service.receipt(one.task.receipts_to, f"{line} ({one.task.task})", item)

    # ---------------------------------------------------------------- notices

    def _with_notices(self, answer: Answer | None) -> Answer | None:
        """Add to *answer* what the session's own thread was not told of its agents and runs."""
        if self.store is None:
            return answer
        sessions, session = self.store.sessions, self.call.session
        if is_quiet(self.store, session):
            return answer
        if self.call.event != "Stop":
            sessions.set_went_on(session, went_on=False)
        sessions.open_runs(session)  # notes those that died
        text = deliver_at_hook(self.store.notices(session), self.call, sessions.workers(session))
        answer = decisions.with_notices(self.call, answer, text)
        if self.call.event == "Stop" and answer:
            sessions.set_went_on(session, went_on=True)
        return answer

    # ----------------------------------------------------------------- agents

    def _agent_start(self) -> Answer | None:
        if self.call.agent_type == decisions.WORKER and self.call.agent != MAIN:
            sessions = self._made().sessions
            sessions.started(self.call.session, self.call.agent)
        return None

    def _agent_stop(self) -> Answer | None:
        return self._ask_to_end() or self._end_agents()

    def _stop(self) -> Answer | None:
        self._end_agents()
        return self._ask_to_end()

    def _ask_to_end(self) -> Answer | None:
        if self.store is None or self.call.asked:
            return None
        held = self.store.sessions.open_claims(self.call.session, self.call.agent)
        return decisions.stop([one for one in held if self._first(f"asked {one.claim.attempt}")])

    def _end_agents(self) -> Answer | None:
        if self.store is not None:
            background = self.store.sessions.background_agents(self.call.session)
            for agent, why in decisions.ended_agents(self.call, background).items():
                self.agent_over(agent, why)
        return None

    def agent_over(self, agent: str, why: str) -> None:
        """Release what an agent holds whose end is known, and free its place."""
        if self.store is None:
            return
        self._keep_transcript(agent)
        self.store.sessions.ended(self.call.session, agent)
        if self._holds(agent):
            with self._service() as service:
                service.release_agent(self.call.session, agent, why)
        else:
            self.store.sessions.unassign(self.call.session, agent)

    # ---------------------------------------------------------------- details

    def _keep_transcript(self, agent: str) -> None:
        """Keep the end of an agent's transcript as the output of its attempts: clients delete theirs."""
        assert self.store is not None  # noqa: S101 - for the type checker
        attempts = self.store.sessions.attempts_of(self.call.session, agent)
        named = self.call.agent_transcript if agent == self.call.agent else ""
        path = named or transcript.path_of_agent(self.call.transcript, agent)
        if not attempts or not path:
            return
        from ..store.tails import LogTail  # noqa: PLC0415 - at the end of a worker only

        with suppress(OSError):  # a help; the claim is ended without it
            out, cut = transcript.tail(path, _KEPT_BYTES)
            self.store.tails.keep(
                LogTail(attempt=one, path=path, out=out, err=b"", cut=cut) for one in attempts
            )

    def _holds(self, agent: str | None = None) -> bool:
        """Return whether an agent, or anyone of the session, has a claim of its own to be released."""
        claims = self.store.sessions.open_claims(self.call.session, agent) if self.store else []
        return any(not one.assigned for one in claims)

    def _first(self, what: str) -> bool:
        return self.store is not None and self.store.sessions.first(self.call.session, what)

    def _made(self) -> Store:
        """Return the store, made if it is missing."""
        if self.store is None:
            self.project.prepare()
            self.__dict__["store"] = Store.open(self.project.state, self.settings)
        assert self.store is not None  # noqa: S101 - for the type checker
        return self.store

    def _service(self) -> TaskService:
        from ..tasks.actor import Actor  # noqa: PLC0415 - the YAML loader
        from ..tasks.service import TaskService  # noqa: PLC0415

        actor = Actor(name="claude", session=self.call.session)
        return TaskService(self.project, self.settings, actor, self.store)


def is_quiet(store: Store, session: str) -> bool:
    """Return whether a session has nothing under way, and was told of all that has ended."""
    if not store.sessions.is_idle(session):
        return False
    queue = store.notices(session)
    return not (queue.pending() or queue.offered())


def _ram_percent() -> float:
    import psutil  # noqa: PLC0415 - 100 ms, and only where a worker is started

    return float(psutil.virtual_memory().percent)
