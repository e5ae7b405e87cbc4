"""What a hook of the client decides: one function for each question. Pure: a call in, an answer out.

An answer is the object that the client reads from a hook's standard output
(https://code.claude.com/docs/en/hooks), or None where there is nothing to say. Hooks fail open, so
nothing here is relied on for safety: leases and generations are.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..claims.port import MAIN
from ..mcp.toolspec import BY_NAME, PREFIX
from ..sessions import Note, file_name
from .hookcall import Call, text_of
from .notices import one_line as _line

Answer = dict[str, Any]

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
    """Allow a tool of ours, and tell the server who calls: it cannot see that itself."""
    if not call.tool.startswith(PREFIX):
        return None
    told = {**call.input, "caller_session": call.session, "caller_agent": call.agent}
    tool = BY_NAME.get(call.tool.removeprefix(PREFIX))
    if call.mode == "plan" and not (tool and tool.read_only):
        # Whoever plans has said that nothing is to be changed: then the client decides.
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


def spawn(call: Call, refusal: str | None, room: Room) -> Answer | None:
    """Decide whether a worker may be started.

    Args:
        call: The `Agent` call.
        refusal: Why its task may not be claimed; None if it may, or is not named.
        room: What there is to start it with.
    """
    task = pulled(call)
    if refusal is not None:
        return _before_tool("deny", f"Denied, nothing was started: {refusal}")
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


def edit(lost: Sequence[tuple[Note, str]]) -> Answer | None:
    """Stop a worker that changes files under a claim that it has no more.

    Args:
        lost: The claims that were taken from it, and why.
    """
    if not lost:
        return None
    return _before_tool("deny", "Denied: " + " ".join(_loss(note, why) for note, why in lost))


def tool_done(lost: Sequence[tuple[Note, str]]) -> Answer | None:
    """Tell a worker, after some tool, that its claim was taken from it."""
    if not lost:
        return None
    return {"context": " ".join(_loss(note, why) for note, why in lost)}


def _loss(note: Note, why: str) -> str:
    return (
        f"Your claim of {note.task} (generation {note.number}) is lost: {why}. "
        f"Change nothing more for it; report that you stopped, and why."
    )


def receipt(call: Call, note: Note, when: str) -> str | None:
    """Return the receipt of a tool call for a task, None if the task does not ask for one."""
    if not any(fnmatch.fnmatchcase(call.tool, pattern) for pattern in note.receipts):
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


def ended_agents(call: Call, of_main: Sequence[str]) -> dict[str, str]:
    """Return the agents whose end this call tells of, each with how it is known.

    Args:
        call: Any call.
        of_main: Agents that the session's own thread has put into the background, as file names.
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
        running = {file_name(agent) for agent in call.background}
        gone = [agent for agent in of_main if agent not in running]
        return dict.fromkeys(gone, "its worker runs no more")
    return {}


def stop(open_notes: Sequence[Note]) -> Answer | None:
    """Ask a worker that would end with open claims to end those first.

    Args:
        open_notes: What it holds and has not been asked about.
    """
    if not open_notes:
        return None
    names = ", ".join(f"{note.task} (generation {note.number})" for note in open_notes)
    first = open_notes[0].task
    return {"decision": "block", "reason": (
        f"You still hold {names}. Before you end: complete_task(id={first!r}, outcome, commit, evidence) "
        f"if it is done; update_task(id={first!r}, status='blocked', reason, evidence, next_step) if it "
        f"cannot go on; release_task(id={first!r}, reason) if you leave it. If you wait for the user, say "
        f"so and end again."
    )}  # fmt: skip


def told(call: Call, answer: Answer | None, text: str) -> Answer | None:
    """Add *text* to what the client is answered at *call*, in the form in which the model is told it there.

    At `Stop` it makes the client go on; elsewhere it is said beside the rest.
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
