"""An agent that speaks the Agent Client Protocol (ACP) on its standard streams: Codex, Goose, Gemini ..."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .acp_session import AcpSession
from .base import AgentEnd, Assignment, How
from .child import ChildEnd, run_child
from .exec import ended_otherwise
from .pump import Input

#: Seconds that an agent has to end its turn when it is asked to, and to end once its input is closed.
_CANCEL, _EXIT = 3.0, 5.0
#: The protocol's "authentication required".
_AUTH_REQUIRED = -32000
_LINE_BYTES = 64 * 2**20
_FAULTS = (
    (re.compile(r"usage limit|quota exceeded|out of credits|insufficient_quota", re.I), How.USAGE_LIMIT),
    (re.compile(r"rate.?limit|too many requests|\b429\b|RESOURCE_EXHAUSTED", re.I), How.RATE_LIMIT),
    (re.compile(r"overloaded|\b529\b|\b503\b|UNAVAILABLE", re.I), How.OVERLOAD),
    (re.compile(r"not logged in|authenticat|unauthorized|api key|\b401\b", re.I), How.LOGGED_OUT),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class AcpAgent:
    """Runs an agent on a task, in a session of its own."""

    #: Program and arguments.
    command: Sequence[str]
    name: str = "acp"
    #: See `AcpSession`.
    auth: str = ""
    mode: str = ""
    #: Whether it may do everything, unasked.
    skip_permissions: bool = False
    briefing: Sequence[str] = ("acp-task-worker.md",)

    @property
    def permissions(self) -> str:
        """What it may do when it asks; what it does without asking is its own setting."""
        if self.skip_permissions:
            return "may do everything that it asks for"
        return "may edit the task's files, read its folder, and run the verify command"

    @property
    def starts(self) -> Sequence[str]:
        """Its command."""
        return self.command

    def words(self, allowed: Sequence[str] = ()) -> list[str]:  # noqa: ARG002 - nothing is held back by flags
        """Return its command."""
        return list(self.command)

    def run(self, assignment: Assignment) -> AgentEnd:
        """Run the agent for one turn, then end it."""
        talk, ends = Input(), threading.Event()
        session = AcpSession(
            assignment, lambda line: talk.write(line + b"\n"), auth=self.auth, mode=self.mode,
            everything=self.skip_permissions,
        )  # fmt: skip
        gone = threading.Event()
        watch = threading.Thread(target=_watch, args=(session, assignment, talk, ends, gone), daemon=True)
        if assignment.stopped.is_set():
            ends.set()
        session.begin()
        watch.start()
        try:
            held = replace(assignment, stopped=ends, prompt="")
            end = run_child(self.command, held, on_line=session.line, line_bytes=_LINE_BYTES, talk=talk)
        finally:
            gone.set()
            watch.join()
        return self._end(session, end, assignment)

    def _end(self, session: AcpSession, end: ChildEnd, assignment: Assignment) -> AgentEnd:
        told: dict[str, Any] = {
            "exit": end.code, "denials": tuple(session.denials), "survivors": end.survivors,
            "input_tokens": session.input_tokens, "output_tokens": session.output_tokens,
            "cost_usd": session.cost_usd,
        }  # fmt: skip
        text = " ".join(session.text.split())[:400]
        if assignment.stopped.is_set() and session.stop_reason != "end_turn":
            return AgentEnd(how=How.STOPPED, text="stopped", **told)
        if session.stop_reason:
            # Its process is ended once its turn is over: how it exits says nothing.
            how, why = _how(session, text)
            return AgentEnd(how=how, text=why, **{**told, "exit": 0 if how is How.ENDED else None})
        if session.error:
            how, why = _fault(session)
            return AgentEnd(how=how, text=why, **{**told, "exit": None})
        if other := ended_otherwise(end, assignment, self.command[0]):
            return other
        last = end.stderr.strip().rpartition("\n")[2][:400]
        why = f"exit {end.code}, before it had answered{f': {last}' if last else ''}"
        return AgentEnd(how=How.FAILED, text=why, **told)


def _watch(
    session: AcpSession, assignment: Assignment, talk: Input, ends: threading.Event, gone: threading.Event
) -> None:
    """End the agent once its turn is over, or when it must stop; ask it first."""
    while not session.over.wait(0.05):
        if gone.is_set():
            return
        if assignment.stopped.is_set():
            session.cancel()
            session.over.wait(_CANCEL)
            ends.set()
            return
    talk.close()
    if not gone.wait(_EXIT):
        ends.set()


def _how(session: AcpSession, text: str) -> tuple[How, str]:
    reason = session.stop_reason
    if reason == "max_turn_requests":
        return How.TURN_LIMIT, text or reason
    if reason == "cancelled":  # some end their turn where they are denied something
        return (How.REFUSED, session.denials[-1]) if session.denials else (How.FAILED, "cancelled its turn")
    if reason != "end_turn":
        return How.FAILED, f"{reason}{f': {text}' if text else ''}"
    if not text and session.denials:
        return How.REFUSED, session.denials[-1]
    if not text and not session.tools:
        return How.EMPTY, "it ended without having said anything"
    return How.ENDED, text or "ended without a word"


def _fault(session: AcpSession) -> tuple[How, str]:
    error: Mapping[str, Any] = session.error
    data = error.get("data")
    details = data.get("details", data.get("message", "")) if isinstance(data, Mapping) else data or ""
    text = " ".join(f"{session.failed}: {error.get('message', 'failed')} {details}".split())[:400]
    if error.get("code") == _AUTH_REQUIRED and session.failed != "session/prompt":
        return How.LOGGED_OUT, text
    how = next((how for words, how in _FAULTS if words.search(text)), How.API_ERROR)
    return how, text
