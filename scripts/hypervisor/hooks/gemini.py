"""Hooks of the Gemini CLI: its calls are put into the other client's words, and answers back into its own.

`decisions` and `scope_guard` decide; here are names, shapes, and what only this client needs: it lets a tool
run whose hook answers in the other client's way, takes a timeout for a yes, and leaves ``@file`` in a prompt
as it stands where it cannot read that file.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from ..core.assignment import TASK
from ..core.errors import HypervisorError, Refused
from ..core.project import Project, session_project
from ..git.oversight import is_ours
from ..orchestrator.verdict import Failed
from ..runners.gemini_events import PREFIX as GEMINI_PREFIX
from . import call as calls
from . import decisions
from .call import Call
from .decisions import PREFIX, Answer
from .handler import HookHandler
from .scope_guard import Bounds, first_refusal

_EVENTS = {
    "SessionStart": "SessionStart",
    "BeforeAgent": "UserPromptSubmit",
    "BeforeTool": "PreToolUse",
    "AfterTool": "PostToolUse",
    "AfterAgent": "Stop",
    "SessionEnd": "SessionEnd",
}
_TOOLS = {"write_file": "Write", "replace": "Edit", "run_shell_command": "Bash", "invoke_agent": "Agent"}
#: A verification that a session is held to may take so long; the client waits for a hook for ten minutes.
_VERIFY_SECONDS = 300.0
#: As whom a session claims: like a worker it has one task at a time, and asking again answers with that one.
AGENT = "gemini"
#: The worker's prompt, named with an @ that the client does not read from another project's folder.
_NAMED = re.compile(r"@\S*gemini-task-worker\.md")
_PROMPT = Path(__file__).resolve().parents[3] / "prompts/gemini-task-worker.md"
_CONTEXT = re.compile(r"^\s*<hook_context>.*?</hook_context>\s*", re.DOTALL)
#: What stands in that prompt alone: with it, the client has read the file.
_SEAL = "QUEUE EMPTY:"


def main(source: IO[bytes], environ: Mapping[str, str]) -> int:
    """Answer one call of the client; always return 0, as 2 would stop its tool."""
    try:
        data = json.loads(source.read())
    except (ValueError, RecursionError):
        return 0
    call = read_call(data)
    if call is None:
        return 0
    try:
        answer = answer_to(call, data, environ)
    except Exception as error:  # noqa: BLE001 - a fault of ours must not stop the user's work
        text = f"hypervisor: a hook failed at {call.event} and let it pass ({type(error).__name__}: {error})"
        print(text, file=sys.stderr)
        return 0
    if answer:
        print(json.dumps(answer))
    return 0


def read_call(data: object) -> Call | None:
    """Return the call that a hook's standard input tells of, in the other client's words."""
    if not isinstance(data, dict) or data.get("hook_event_name") not in _EVENTS:
        return None
    event, tool = _EVENTS[data["hook_event_name"]], str(data.get("tool_name") or "")
    given = _map(data.get("tool_input"))
    if tool == "invoke_agent":
        given = {"subagent_type": str(given.get("agent_name", "")), "prompt": str(given.get("prompt", ""))}
    error = _error(data.get("tool_response"))
    if event == "PreToolUse":
        ours = tool.startswith(GEMINI_PREFIX)
        tool = PREFIX + tool.removeprefix(GEMINI_PREFIX) if ours else _TOOLS.get(tool, tool)
    elif tool == "invoke_agent":
        tool = _TOOLS[tool]
    if event == "PostToolUse" and error:
        event = "PostToolUseFailure"
    return calls.read_call({
        **data, "hook_event_name": event, "agent_id": AGENT, "tool_name": tool, "tool_input": given,
        "error": error, "tool_response": None,
    })  # fmt: skip


def _map(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _error(response: object) -> str:
    if not isinstance(response, dict) or not response.get("error"):
        return ""
    error = response["error"]
    return str(error.get("message") if isinstance(error, dict) else error) or "failed"


def answer_to(call: Call, data: Mapping[str, Any], environ: Mapping[str, str]) -> Answer | None:
    """Carry a call out; return what the client is to be told."""
    with HookHandler(call, session_project(environ)) as handler:
        return _answer_of(handler, data, environ)


def _answer_of(handler: HookHandler, data: Mapping[str, Any], environ: Mapping[str, str]) -> Answer | None:
    call = handler.call
    if call.event == "PreToolUse":
        bounds = list(bounds_of(handler, str(data.get("cwd") or os.getcwd()), environ))
        refusal = first_refusal(bounds, lambda one: _judge(one, data))
        if refusal is not None:
            return denied(f"Denied: {refusal}.")
        if call.tool == f"{PREFIX}complete_task" and (failed := _unverified(handler, call, bounds, environ)):
            return denied(f"Denied, the claim is still yours: {failed}")
    if call.event == "UserPromptSubmit":
        return _prompted(handler, call)
    answer = handler.answer()
    if call.event == "SessionStart":
        return None  # the client puts what is said here before the prompt, and then knows no /command in it
    return translated(answer, str(data["hook_event_name"]))


def _prompted(handler: HookHandler, call: Call) -> Answer | None:
    """Look at a prompt before the model does: a task that may not be claimed costs nothing."""
    prompt = _CONTEXT.sub("", call.prompt)  # what other hooks have said at the session's start
    spawned = replace(call, event="PreToolUse", tool="Agent", input={"prompt": prompt})
    if decisions.pulled(spawned):
        with HookHandler(spawned, handler.project, handler.store) as spawning:
            if refused := spawning.answer():
                return translated(refused, "BeforeAgent")
    answer = handler.answer()
    if _NAMED.search(call.prompt) and _SEAL not in call.prompt:
        told = (answer or {}).get("hookSpecificOutput", {}).get("additionalContext", "")
        answer = decisions.spoken(call.event, f"{told}\n\n{_PROMPT.read_text('utf-8')}".strip())
    return translated(answer, "BeforeAgent")


# ----------------------------------------------------------------------- guard


def bounds_of(handler: HookHandler, cwd: str, environ: Mapping[str, str]) -> Iterator[Bounds]:
    """Yield what the agent of this call is held to: the task it was started for, else what it has claimed."""
    project = handler.project
    own = environ.get("HYPERVISOR_TASK_FILE", "") if environ.get(TASK) else ""
    held = handler.store.sessions.open_claims(handler.call.session, AGENT) if handler.store else []
    paths = [own] if own else [str(project.root / one.claim.text) for one in held]
    if not paths:
        return
    from ..tasks.files import read_task  # noqa: PLC0415 - the YAML loader

    globs = handler.settings["tasks"]["globs"]
    for path in paths:
        try:
            task = read_task(Path(path), handler.settings)
        except (HypervisorError, OSError):
            continue
        yield Bounds(
            task=task.id, folder=_top(project, cwd), root=str(project.root), files=task.files,
            verify=task.verify, secrets=tuple(handler.settings["agents"]["secrets"]),
            is_task_file=lambda below: is_ours(below, globs), file=path,
        )  # fmt: skip


def _unverified(
    handler: HookHandler, call: Call, bounds: Sequence[Bounds], environ: Mapping[str, str]
) -> str:
    """Return why a task that a session calls done is not, "" if nothing says so.

    What a coordinator has started is verified by it, when the agent has ended.
    """
    held = [one for one in bounds if one.verify and one.task.lower() == str(call.input.get("id", "")).lower()]
    if not held or environ.get(TASK):
        return ""
    from ..orchestrator.checks import Checks  # noqa: PLC0415 - with the monitor; few calls need it
    from ..orchestrator.commands import WantedCommand, require_trusted  # noqa: PLC0415

    wanted = WantedCommand(
        kind="verify", text=held[0].verify, files=(Path(held[0].file),), tasks=(held[0].task,)
    )
    try:
        require_trusted(handler.project, handler.settings, [wanted])
    except Refused as error:
        return f"it cannot be verified, as {error}: ask the user"
    result = Checks(seconds=_VERIFY_SECONDS).run(held[0].verify, Path(held[0].folder))
    if not isinstance(result, Failed) or result.code is None:  # one that takes longer is not known to fail
        return ""
    said = f": {result.line}" if result.line else ""
    return f"its verification fails, `{result.command}` with exit {result.code}{said}"


def _top(project: Project, cwd: str) -> str:
    """Return the root of the checkout that *cwd* lies in: a task's paths are relative to it."""
    folder = Path(os.path.realpath(cwd))
    for above in (folder, *folder.parents):
        if above == Path(os.path.realpath(project.root)) or (above / ".git").exists():
            return str(above)
    return str(folder)


def _judge(bounds: Bounds, data: Mapping[str, Any]) -> str | None:
    tool = data.get("tool_name")
    given = _map(data.get("tool_input"))
    if tool in ("write_file", "replace"):
        return bounds.write(str(given.get("file_path", "")))
    if tool == "run_shell_command":
        return bounds.run(str(given.get("command", "")))
    for path in _read_paths(given) if tool in ("read_file", "read_many_files", "grep_search") else ():
        if why := bounds.read(path):
            return why
    return None


def _read_paths(given: Mapping[str, Any]) -> Iterator[str]:
    for key in ("file_path", "absolute_path", "path", "dir_path", "include_pattern", "paths", "include"):
        value = given.get(key)
        values = value if isinstance(value, list) else [value]
        yield from (one for one in values if isinstance(one, str))


# ---------------------------------------------------------------------- answers


def denied(reason: str) -> Answer:
    """Return the answer that stops a call."""
    return {"decision": "deny", "reason": reason}


def translated(answer: Answer | None, event: str) -> Answer | None:
    """Return an answer for the other client as this one obeys it."""
    if answer is None:
        return None
    told = answer.get("hookSpecificOutput", {})
    if told.get("permissionDecision") == "deny":
        return denied(told.get("permissionDecisionReason", "denied"))
    if answer.get("decision") == "block":
        return denied(str(answer.get("reason", "")))
    made: Answer = {key: answer[key] for key in ("systemMessage",) if key in answer}
    inner: Answer = {}
    if "updatedInput" in told:
        inner["tool_input"] = told["updatedInput"]
    if "additionalContext" in told:
        inner["additionalContext"] = told["additionalContext"]
    if inner:
        made["hookSpecificOutput"] = {"hookEventName": event, **inner}
    return made or None
