"""The stream of events of a Gemini CLI run: what it has said so far, line by line.

A field that is missing or odd is passed over: the client changes from release to release. Its events are
as 0.61.0 has them: ``init``, ``message``, ``tool_use``, ``tool_result``, ``error``, ``result``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .foreign import event_of, list_of, map_of, number_of

#: Our server's name among the client's; its policies would misread one with an underscore.
SERVER = "task-manager"
#: What the client calls our tools.
PREFIX = f"mcp_{SERVER}_"
#: Tools that change nothing: an agent that got no further than these was refused what it needed.
_READING = frozenset(
    {"read_file", "read_many_files", "list_directory", "glob", "grep_search", "google_web_search"}
    | {f"{PREFIX}{name}" for name in ("get_task", "list_tasks", "claim_task", "claim_next_task")}
)
#: What begins a subagent.
_SUBAGENT = "invoke_agent"
_REPORTS = frozenset(f"{PREFIX}{name}" for name in ("complete_task", "update_task", "release_task"))


@dataclass(slots=True)
class Heard:
    """What the stream of one run has said so far."""

    result: dict[str, Any] | None = None
    #: What the model has said since it last used a tool.
    said: str = ""
    #: Faults on the way, and the warning that it went in a circle.
    errors: list[str] = field(default_factory=list)
    #: Calls that a policy, a hook or the client's own rules did not let through.
    denials: list[str] = field(default_factory=list)
    #: Whether a tool of ours has answered.
    served: bool = False
    #: Whether one of ours has taken a report of how the task ended.
    reported: bool = False
    #: Whether a tool that may change something has succeeded.
    worked: bool = False
    #: Whether the model will be asked again: it has called for a tool, or has its answer.
    asks: bool = False
    _tools: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Calls that have no answer yet.
    _open: set[str] = field(default_factory=set)

    def line(self, line: bytes) -> None:
        """Take one line; what is no event is passed over."""
        event = event_of(line)
        kind = event.get("type")
        if kind == "result":
            self.result = event
        elif kind == "message" and event.get("role") == "assistant":
            self.said += str(event.get("content") or "")
            self.asks = False
        elif kind == "error":
            self.errors.append(str(event.get("message") or ""))
        elif kind == "tool_use":
            self.said, self.asks = "", True
            self._tools[str(event.get("tool_id"))] = event
            self._open.add(str(event.get("tool_id")))
        elif kind == "tool_result":
            self.asks = True
            self._open.discard(str(event.get("tool_id")))
            self._used(event)

    def _used(self, event: dict[str, Any]) -> None:
        call = self._tools.get(str(event.get("tool_id")), {})
        name = str(call.get("tool_name", ""))
        if event.get("status") == "success":
            self.served |= name.startswith(PREFIX)
            self.reported |= name in _REPORTS
            self.worked |= bool(name) and name not in _READING
            return
        error = map_of(event.get("error"))
        text = str(error.get("message") or event.get("output") or "")
        if error.get("type") == "policy_violation" or "denied by policy" in text or "blocked" in text[:40]:
            self.denials.append(_denial(name, map_of(call.get("parameters")), text))

    @property
    def talks(self) -> int:
        """How many conversations are open: its own, and those of its subagents."""
        return 1 + [self._tools[one].get("tool_name") for one in tuple(self._open)].count(_SUBAGENT)

    def counted(self) -> dict[str, Any]:
        """Return the tokens, as `AgentEnd` names them; nothing where there is no result.

        The client counts what the model thought in the total alone. It knows no money.
        """
        if self.result is None:
            return {}
        stats = map_of(self.result.get("stats"))
        read, total = int(number_of(stats.get("input_tokens"))), int(number_of(stats.get("total_tokens")))
        written = max(int(number_of(stats.get("output_tokens"))), total - read)
        return {"input_tokens": read, "output_tokens": written}

    @property
    def error(self) -> dict[str, Any]:
        """The fault that the result names, if it names one."""
        return map_of(map_of(self.result).get("error"))

    @property
    def models(self) -> list[str]:
        """The models that answered."""
        return list_of(list(map_of(map_of(map_of(self.result).get("stats")).get("models"))))


def _denial(name: str, told: dict[str, Any], why: str) -> str:
    detail = next((str(told[key]) for key in ("command", "file_path", "url", "id") if key in told), "")
    return " ".join(f"{name} {detail}: {why}".split())[:300]
