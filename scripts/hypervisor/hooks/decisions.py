"""Decisions of hooks: one function for each question. Pure: a call and facts in, an answer out.

An answer is the object that the client reads from a hook (https://code.claude.com/docs/en/hooks), or None
where there is nothing to say. Hooks fail open, so nothing here is relied on for safety: leases and the
attempt's id are.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..store.sessions import MAIN, AgentClaim
from .call import Call, text_of
from .call import one_line as _line

Answer = dict[str, Any]

#: How the client's names of our tools begin.
PREFIX = "mcp__plugin_hypervisor_task_manager__"
#: Our tools that change nothing: allowed while the user plans.
READ_ONLY = frozenset({
    "list_tasks", "get_task", "get_index_stats", "batch_status", "wait_for_events",
    "get_task_stats", "search_findings",
})  # fmt: skip
#: What the client calls our worker.
WORKER = "hypervisor:worker"
#: The client's tools that change something; a worker that has lost its task is stopped there.
CHANGING = ("Edit", "MultiEdit", "Write", "NotebookEdit", "Bash")
#: The events in which an agent ends.
ENDINGS = ("SubagentStop", "StopFailure")
_PULL = re.compile(r"\s*/(?:hypervisor:)?pull[ \t]+[\"'`]?([^\s\"'`]+)")
_ANY_PULL = re.compile(r"(?:^|[\s\"'`(])/(?:hypervisor:)?pull[ \t]+[\"'`]?([^\s\"'`,;)]+)")
_NOTIFICATION = re.compile(r"<task-notification>(.*?)</task-notification>", re.DOTALL)
_TASK_ID = re.compile(r"<task-id>\s*([^<\s]+)\s*</task-id>")
#: Characters of a tool's input that a receipt repeats.
_INPUT = 240
_ERROR = 120


# ------------------------------------------------------------------------ tools


def own_tool(call: Call) -> Answer | None:
    """Allow a tool of ours, and add who calls, which the server cannot see itself."""
    if not call.tool.startswith(PREFIX):
        return None
    told = {**call.input, "caller_session": call.session, "caller_agent": call.agent}
    if call.mode == "plan" and call.tool.removeprefix(PREFIX) not in READ_ONLY:
        # In plan mode nothing is to be changed: the client decides.
        return {"hookSpecificOutput": {"hookEventName": "PreToolUse", "updatedInput": told}}
    return _before_tool("allow", "a tool of hypervisor", updatedInput=told)


def pulled(call: Call) -> str:
    """Return the id of the task that a spawned agent is to pull, "" if it is none of our workers."""
    prompt = text_of(call.input, "prompt")
    ours = text_of(call.input, "subagent_type") == WORKER
    found = _ANY_PULL.search(prompt) if ours else _PULL.match(prompt)
    return found[1].rstrip(".,;:!?") if found else ""


def is_worker(call: Call) -> bool:
    """Tell whether a spawned agent is one of our workers."""
    return text_of(call.input, "subagent_type") == WORKER or bool(pulled(call))


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What there is to start another worker with."""

    #: Workers of this session that run, or are about to.
    running: int
    cap: int
    #: Memory in use, in percent.
    ram: float
    max_ram: float


def spawn(call: Call, room: Room) -> Answer | None:
    """Decide whether there is room for another worker."""
    task = pulled(call)
    stays = f"{task} stays ready; " if task else ""
    if room.running >= room.cap:
        return _before_tool("deny", (
            f"Denied: {room.running} workers of this session run, and {room.cap} may. "
            f"{stays}spawn again when one has ended."
        ))  # fmt: skip
    if room.running and room.ram > room.max_ram:
        return _before_tool("deny", (
            f"Denied: {room.ram:.0f} % of the memory is in use, and workers are started up to "
            f"{room.max_ram:g} %. {stays}spawn again when one has ended."
        ))  # fmt: skip
    return None


def denied(why: str) -> Answer:
    """Return the answer that keeps a tool from running."""
    return _before_tool("deny", why)


def lost(claims: Sequence[AgentClaim]) -> str:
    """Return what an agent is told whose claims were taken from it, "" for none."""
    return " ".join(
        f"Your claim of {one.task.task} (attempt {one.claim.number}) is lost: {one.status.why}. "
        f"Change nothing more for it; report that you stopped, and why."
        for one in claims
    )


def receipt(call: Call, claim: AgentClaim, when: str) -> str | None:
    """Return the receipt of a tool call for a task, None if the task does not ask for one."""
    if not any(fnmatch.fnmatchcase(call.tool, pattern) for pattern in claim.task.receipts):
        return None
    command = call.input.get("command")
    said = (
        command if isinstance(command, str) else json.dumps(dict(call.input), ensure_ascii=False, default=str)
    )
    how = (
        "ok" if call.event == "PostToolUse" else f"failed ({_line(call.error, _ERROR) or 'no reason given'})"
    )
    return f"- {when} {_line(call.tool, _ERROR)} {how}: {_line(said, _INPUT)}"


# ------------------------------------------------------------------------- ends


def launched(call: Call) -> str:
    """Return the id of the agent that an `Agent` call has put into the background, "" if none."""
    response = call.response if isinstance(call.response, dict) else {}
    return text_of(response, "agentId") if response.get("isAsync") is True else ""


def ended_agents(call: Call, background: Sequence[str]) -> dict[str, str]:
    """Return the agents whose end follows from this call, each with how it is known.

    Args:
        call: Any call.
        background: Agents that the session's own thread has put into the background.
    """
    if call.event in ENDINGS and call.agent != MAIN:
        how = f"by an error ({call.reason or 'not named'})" if call.event == "StopFailure" else "its turn"
        return {call.agent: f"its worker ended {how} without ending its claim"}
    if call.event == "PostToolUse" and call.tool in ("Agent", "Task"):
        response = call.response if isinstance(call.response, dict) else {}
        agent = text_of(response, "agentId")
        if agent and agent != MAIN and not launched(call):
            how = _line(text_of(response, "status"), _ERROR) or "ended"
            return {agent: f"its worker was over ({how}) without ending its claim"}
    if call.event == "UserPromptSubmit":
        blocks = _NOTIFICATION.findall(call.prompt)
        found = [match[1] for block in blocks if (match := _TASK_ID.search(block))]
        found = [agent for agent in found if agent != MAIN]
        return dict.fromkeys(found, "the client says that its worker is over")
    if call.event == "Stop" and call.background is not None:
        gone = [agent for agent in background if agent not in call.background]
        return dict.fromkeys(gone, "its worker runs no more")
    return {}


def stop(claims: Sequence[AgentClaim]) -> Answer | None:
    """Ask a worker that would end with open claims to end those first.

    Args:
        claims: What it holds and has not been asked about.
    """
    if not claims:
        return None
    names = ", ".join(f"{one.task.task} (attempt {one.claim.number})" for one in claims)
    first = claims[0].task.task
    return {"decision": "block", "reason": (
        f"You still hold {names}. Before you end: complete_task(id={first!r}, outcome, commit, evidence) "
        f"if it is done; update_task(id={first!r}, status='blocked', reason, evidence, next_step) if it "
        f"cannot go on; release_task(id={first!r}, reason) if you leave it. If you wait for the user, say "
        f"so and end again."
    )}  # fmt: skip


def with_notices(call: Call, answer: Answer | None, text: str) -> Answer | None:
    """Add notices to the answer to *call*, in the form in which the model gets them there.

    At `Stop` they make the client go on.
    """
    if not text:
        return answer
    if call.event == "Stop":
        before = f"{answer['reason']}\n" if answer else ""
        return {"decision": "block", "reason": before + text}
    before = f"{answer['hookSpecificOutput']['additionalContext']}\n" if answer else ""
    return spoken(call.event, before + text)


# ---------------------------------------------------------------------- answers


def _before_tool(decision: str, reason: str, **more: Any) -> Answer:
    # Without its event's name the client would not obey the answer.
    return {
        "hookSpecificOutput": {
            "hookEventName": "PreToolUse",
            "permissionDecision": decision,
            "permissionDecisionReason": reason,
            **more,
        }
    }


def spoken(event: str, text: str) -> Answer:
    """Return the answer that puts *text* before the model."""
    return {"hookSpecificOutput": {"hookEventName": event, "additionalContext": text}}
