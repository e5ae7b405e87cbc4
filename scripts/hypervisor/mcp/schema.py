"""The tools of an agent: their names, and what they take. Pure.

The schemas are short on purpose: every session and every worker pays for them in its context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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


def _tables(about: str) -> Property:
    return {"type": "array", "items": {"type": "object"}, "description": about}


def _share(about: str) -> Property:
    return {"type": "number", "description": about}


def _table(about: str) -> Property:
    return {"type": "object", "description": about}


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

    def to_json(self) -> dict[str, Any]:
        """Return the tool as it is listed."""
        row = {"name": self.name, "description": self.description, "inputSchema": self.schema()}
        return row | {"annotations": {"readOnlyHint": True}} if self.read_only else row


_ID = _text("id, or path below the project root")
_CALLER = _text("your name, e.g. claude; becomes the assignee")
_ATTEMPT = _number("of your claim")
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
        description="Take this task before working on it.",
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
            "evidence, next_step); in_progress claims; cancelled cancels."
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
            "attempt": _ATTEMPT,
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
            "attempt": _ATTEMPT,
        },
        required=("id",),
    ),
    Tool(
        name="release_task",
        description="Give a task back as it was before your claim.",
        takes={"id": _ID, "reason": _text(), "attempt": _ATTEMPT},
        required=("id", "reason"),
    ),
    Tool(
        name="ask_user",
        description="Ask a person; the task waits for the answer. End your turn.",
        takes={"id": _text(), "question": _text(), "choices": _names()},
        required=("id", "question"),
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
        name="wait_for_events",
        description="Wait until a task or worker has ended; at once if one has that you were not told of.",
        takes={"since": _text("cursor of the last answer"), "timeout": _number("seconds, 50 at most")},
        read_only=True,
    ),
    Tool(
        name="batch_summary",
        description="Per-item results and items that need attention; writes summary.json.",
        takes={"id": _BATCH},
    ),
)

_BRANCH = _text("hive branch; your batch's, or the git branch, if absent")

TOOLS += (
    Tool(
        name="spawn_parallel_tasks",
        description=(
            "Make tasks of free text and run an agent on each, in the background; answers with a batch id."
        ),
        takes={
            "tasks": _tables(
                "{description, type, priority, files: [paths], verify: command}; description is enough"
            ),
            "branch_id": _text("hive branch that they share"),
            "strategy": _text(
                "auto parallel sequential adaptive; pipeline: each waits for the one before; "
                "map-reduce: the last gets all others' results"
            ),
        },
        required=("tasks",),
    ),
    Tool(
        name="get_task_stats",
        description="What runs and is queued, per batch and branch; the machine's zone.",
        read_only=True,
    ),
    Tool(
        name="learn_parallelization",
        description=(
            "Advice on how many tasks of a type to run at once; keeps what you say of the type until it is "
            "measured."
        ),
        takes={
            "task_type": _text(),
            "parallel_benefit": _share("0 none, 1 each further agent adds as much as the first"),
            "notes": _text(),
            "resource_cost": _table("of one agent: {cpu: cores, ram: MB}, or both as shares of the machine"),
        },
        required=("task_type",),
    ),
    Tool(
        name="share_finding",
        description="Tell other agents what you found, and where it stands. Keep it short.",
        takes={"text": _text(), "branch_id": _BRANCH, "task_id": _text()},
        required=("text",),
    ),
    Tool(
        name="search_findings",
        description="What other agents have found, best match first; newest without a query.",
        takes={"query": _text("words"), "branch_id": _text("all if absent")},
        read_only=True,
    ),
)

BY_NAME: Mapping[str, Tool] = {tool.name: tool for tool in TOOLS}
#: Added by the client's hook, not by the model: who calls.
IDENTITY = ("caller_session", "caller_agent")
