"""The tools of an agent: their names, what they take, and how arguments are read. Pure.

The schemas are short on purpose: every session and every worker pays for them in its context.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import UsageError

SERVER = "task_manager"
#: What the client calls our tools: plugin, server, tool.
PREFIX = f"mcp__plugin_hypervisor_{SERVER}__"

INSTRUCTIONS = (
    "Tasks are markdown files of the project. Claim before you work on one; end every claim with "
    "complete_task, update_task(status=blocked) or release_task. A refusal says what to do next."
)

Property = Mapping[str, Any]


def _text(about: str = "") -> Property:
    return {"type": "string", "description": about} if about else {"type": "string"}


def _number(about: str = "") -> Property:
    return {"type": "integer", "description": about} if about else {"type": "integer"}


def _flag(about: str = "") -> Property:
    return {"type": "boolean", "description": about} if about else {"type": "boolean"}


def _names(about: str = "") -> Property:
    listed = {"type": "array", "items": {"type": "string"}}
    return {**listed, "description": about} if about else listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool."""

    name: str
    description: str
    takes: Mapping[str, Property] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    #: Whether a client may run it beside others, as it changes nothing.
    read_only: bool = False

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of its arguments."""
        schema: dict[str, Any] = {"type": "object", "properties": dict(self.takes)}
        return schema | {"required": list(self.required)} if self.required else schema


_ID = _text("id, or path below the project root")
_CALLER = _text("your name, e.g. claude; becomes the assignee")
_GENERATION = _number("of your claim")
_BATCH = _text("batch id; newest if absent")

TOOLS: tuple[Tool, ...] = (
    Tool(
        name="list_tasks",
        description="List tasks, most urgent first.",
        takes={
            "status": _text("inbox active in_progress blocked review done cancelled"),
            "project": _text(),
            "assignee": _text(),
            "complexity": _text("mechanical multi-step requires-judgment needs-decomposition blocked-human"),
            "tags": _names(),
            "parent": _text(),
            "ready": _flag("only what an agent may claim now"),
            "limit": _number("default 50"),
            "offset": _number(),
        },
        read_only=True,
    ),
    Tool(
        name="get_task",
        description="One task: keys, body, claim, history, and whether it is ready or why not.",
        takes={"id": _ID},
        required=("id",),
        read_only=True,
    ),
    Tool(
        name="preflight",
        description="What would run, and what is skipped and why; all tasks if none are named.",
        takes={
            "ids": _names(),
            "parent": _text("the tasks below this one"),
            "create_batch": _flag("make a batch of what would run"),
        },
    ),
    Tool(
        name="claim_task",
        description="Take this task before working on it. Refused, with the reason, if it may not be taken.",
        takes={"id": _ID, "caller": _CALLER},
        required=("id", "caller"),
    ),
    Tool(
        name="claim_next_task",
        description="Take the most urgent ready task; {task: null, reason} if there is none.",
        takes={
            "caller": _CALLER,
            "project": _text(),
            "complexity": _text("only this one; judgment and human ones are given only so"),
            "batch": _text("only tasks of this batch"),
            "needs": _names("what you have that tasks may need, e.g. mcp:outlook"),
        },
        required=("caller",),
    ),
    Tool(
        name="update_task",
        description=(
            "Change a task. body is appended. status blocked or review ends your claim (say reason, "
            "evidence, next_step); in_progress claims; cancelled cancels; done: use complete_task."
        ),
        takes={
            "id": _ID,
            "status": _text(),
            "reason": _text(),
            "evidence": _text(),
            "next_step": _text("what would let it go on"),
            "body": _text("text to append"),
            "assignee": _text(),
            "priority": _text("critical high medium low"),
            "complexity": _text(),
            "project": _text(),
            "generation": _GENERATION,
        },
        required=("id",),
    ),
    Tool(
        name="complete_task",
        description="End your claim: the task is done.",
        takes={
            "id": _ID,
            "outcome": _text("one line: what was done"),
            "commit": _text("hash"),
            "evidence": _text("what shows that it is done"),
            "generation": _GENERATION,
        },
        required=("id", "outcome"),
    ),
    Tool(
        name="release_task",
        description="Give a task back as it was before your claim.",
        takes={"id": _ID, "reason": _text(), "generation": _GENERATION},
        required=("id", "reason"),
    ),
    Tool(
        name="get_index_stats",
        description="Count tasks by status; name dependency circles, unknown ids and unreadable files.",
        takes={"include_projects": _flag()},
        read_only=True,
    ),
    Tool(
        name="batch_status",
        description="Census of a batch, who runs what, what waits.",
        takes={"id": _BATCH},
        read_only=True,
    ),
    Tool(
        name="batch_summary",
        description="What each item came to, and what needs the user; writes summary.json.",
        takes={"id": _BATCH},
    ),
)

BY_NAME: Mapping[str, Tool] = {tool.name: tool for tool in TOOLS}
#: Added by the client's hook, not by the model: who calls.
IDENTITY = ("caller_session", "caller_agent")


def read_arguments(tool: Tool, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call in the types of the tool's schema.

    Models send ``"5"`` for 5 and ``'["a"]'`` for a list: that is taken as it is meant. Arguments
    that the tool does not know are left out, as are those that are null.

    Raises:
        UsageError: One is missing, or of another type.
    """
    found = {}
    for name, schema in tool.takes.items():
        value = given.get(name)
        if value is not None:
            found[name] = _read(f"{tool.name}: {name}", schema["type"], value)
    for name in tool.required:
        if found.get(name) in (None, ""):
            raise UsageError(f"{tool.name}: {name} is missing; it takes {', '.join(tool.takes)}")
    for name in IDENTITY:
        if isinstance(given.get(name), str):
            found[name] = given[name]
    return found


def _read(what: str, kind: str, value: Any) -> Any:
    if kind == "string":
        if isinstance(value, str):
            _must_be_plain(what, value)
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    elif kind == "integer":
        return _integer(what, value)
    elif kind == "boolean":
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
    elif kind == "array":
        return _list(what, value)
    raise UsageError(f"{what} must be {_A[kind]}, not {json.dumps(value, default=str)[:80]}")


_A = {"string": "a text", "integer": "a whole number", "boolean": "true or false", "array": "a list of texts"}


def _integer(what: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UsageError(f"{what} must be a whole number, not {json.dumps(value, default=str)[:80]}")
    try:
        number = int(value)
    except (ValueError, OverflowError):
        number = -1
    if number < 0 or number > 10**12 or (isinstance(value, float) and value != number):
        raise UsageError(f"{what} must be a whole number, not {json.dumps(value)[:80]}")
    return number


def _list(what: str, value: Any) -> list[str]:
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = [value]
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UsageError(f"{what} must be a list of texts")
    for one in value:
        _must_be_plain(what, one)
    return value


def _must_be_plain(what: str, value: str) -> None:
    if "\0" in value:
        raise UsageError(f"{what} holds a NUL, which no file's text can")
