"""The stream of events of a Claude Code run: what it has said so far, line by line.

A field that is missing or odd is passed over: the client changes from release to release.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .foreign import event_of, list_of, map_of, number_of

#: Tools that change nothing: an agent that got no further than these was refused what it needed.
_READING = frozenset(
    {"Read", "Glob", "Grep", "LS", "ToolSearch", "Skill", "TodoWrite", "TaskList", "TaskGet", "WebFetch"}
)
#: How the result of a call begins that began a subagent in the background.
_LAUNCHED = "Async agent launched"


@dataclass(slots=True)
class Heard:
    """What the stream of one run has said so far."""

    result: dict[str, Any] | None = None
    #: The client's word for what went wrong with the main thread's last message, such as ``rate_limit``.
    error: str = ""
    #: The last attempt to repeat a request: ``error_status``, ``error``.
    retry: Mapping[str, Any] = field(default_factory=dict)
    #: The limit that rejected a request: ``resetsAt``, in seconds. Only users with a plan are told.
    limit: Mapping[str, Any] = field(default_factory=dict)
    #: Whether a tool that may change something has succeeded.
    worked: bool = False
    denials: list[str] = field(default_factory=list)
    #: See `Assignment.used`.
    used: Callable[[int, int, bool], None] = lambda _tokens, _talks, _again: None
    _tools: dict[str, str] = field(default_factory=dict)
    #: Tokens by answer: each of an answer's events repeats its usage so far.
    _usage: dict[str, int] = field(default_factory=dict)
    #: The calls that began subagents which still work, and the tasks that the client made of them.
    _talks: set[str] = field(default_factory=set)
    _tasks: dict[str, str] = field(default_factory=dict)

    def line(self, line: bytes) -> None:
        """Take one line; what is no event is passed over."""
        event = event_of(line)
        kind = event.get("type")
        if kind == "result":
            # A background agent that ends wakes the client: one more result, whose totals hold all.
            self.result = event
            self.denials += [_denial(one) for one in list_of(event.get("permission_denials"))]
        elif kind == "rate_limit_event" and map_of(event.get("rate_limit_info")).get("status") == "rejected":
            self.limit = map_of(event["rate_limit_info"])
        elif kind == "system" and event.get("subtype") == "api_retry":
            self.retry = event
        elif kind == "system":
            self._follow(event)
        elif kind in ("assistant", "user"):
            self._hear(event, of_agent=kind == "assistant")

    def _hear(self, event: Mapping[str, Any], *, of_agent: bool) -> None:
        """Take a message, of the agent or to it."""
        if of_agent and not event.get("parent_tool_use_id"):
            self.error = str(event.get("error") or "")
        message = map_of(event.get("message"))
        for block in map(map_of, list_of(message.get("content"))):
            if block.get("type") == "tool_use":
                self._tools[str(block.get("id"))] = str(block.get("name"))
                if block.get("name") in ("Agent", "Task"):
                    self._talks.add(str(block.get("id")))
            elif block.get("type") == "tool_result":
                call = str(block.get("tool_use_id"))
                if not block.get("is_error"):
                    self.worked |= self._tools.get(call, "Read") not in _READING
                if _LAUNCHED not in str(block.get("content")):
                    self._talks.discard(call)
        if of_agent:
            self._count(message)

    def _count(self, message: Mapping[str, Any]) -> None:
        """Tell what the answers so far have used."""
        usage, name = map_of(message.get("usage")), str(message.get("id"))
        read = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
        tokens = sum(int(number_of(usage.get(key))) for key in read)
        self._usage[name] = max(tokens, self._usage.get(name, 0))
        asks = any(map_of(one).get("type") == "tool_use" for one in list_of(message.get("content")))
        self.used(sum(self._usage.values()), 1 + len(self._talks), asks)

    def _follow(self, event: Mapping[str, Any]) -> None:
        """Note the end of a subagent in the background."""
        task, call = str(event.get("task_id")), str(event.get("tool_use_id"))
        if event.get("subtype") == "task_started":
            self._tasks[task] = call
        elif event.get("subtype") == "task_notification":
            self._talks -= {call, self._tasks.get(task, "")}

    def counted(self) -> dict[str, Any]:
        """Return tokens, money and turns, as `AgentEnd` names them; nothing where there is no result."""
        if self.result is None:
            return {}
        # `usage` is the main thread's last turn only; `modelUsage` has the subagents too.
        models = [map_of(one) for one in map_of(self.result.get("modelUsage")).values()]
        read = ("inputTokens", "cacheReadInputTokens", "cacheCreationInputTokens")
        cost, turns = self.result.get("total_cost_usd"), self.result.get("num_turns")
        return {
            "input_tokens": sum(int(number_of(one.get(name))) for one in models for name in read),
            "output_tokens": sum(int(number_of(one.get("outputTokens"))) for one in models),
            "cost_usd": float(number_of(cost)) if cost is not None else None,
            "turns": int(number_of(turns)) if turns is not None else None,
        }


def _denial(value: object) -> str:
    what = map_of(value)
    told = map_of(what.get("tool_input"))
    detail = next((str(told[key]) for key in ("command", "file_path", "url", "skill") if key in told), "")
    return " ".join(f"{what.get('tool_name', value)} {detail}".split())[:300]
