"""What the client asked: one request read as a turn of a conversation, and the conversations."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

from acceptance.replies import Reply

_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)
#: What newer clients put before the reason of a hook that denies a call.
_OF_HOOK = re.compile(r"^PreToolUse:\w+ hook error: ")


def _blocks(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content or [])


def _text(blocks: Iterable[dict[str, Any]]) -> str:
    parts = []
    for block in blocks:
        if block["type"] == "text":
            parts.append(block["text"])
        elif block["type"] == "tool_result":
            parts.append(_text(_blocks(block.get("content"))))
        elif block["type"] == "tool_reference":
            parts.append(block["tool_name"])
    return "\n".join(parts)


@dataclass(frozen=True, slots=True)
class Result:
    """What the model is told of one of its calls."""

    id: str
    name: str
    #: Without what the client adds: now and then reminders (they are in `told`), the hook that denied it.
    text: str
    told: str
    is_error: bool
    #: What the call was given.
    arguments: Mapping[str, Any]

    @property
    def json(self) -> Any:
        """The text as the JSON document that it is."""
        return json.loads(self.text)


def _results(messages: Sequence[dict[str, Any]], after: int = 0) -> list[Result]:
    """Return the results in *messages* from place *after* on, in the order of the calls.

    The client sends the results of calls that run side by side as they end; a test has no use for that.
    """
    uses: dict[str, dict[str, Any]] = {}
    found: dict[str, Result] = {}
    for place, message in enumerate(messages):
        for block in _blocks(message["content"]):
            if block["type"] == "tool_use":
                uses[block["id"]] = block
            elif block["type"] == "tool_result" and place >= after:
                key = block["tool_use_id"]
                told = _text(_blocks(block.get("content")))
                text = _OF_HOOK.sub("", _REMINDER.sub("", told).strip())
                use, failed = uses.get(key, {}), bool(block.get("is_error"))
                found[key] = Result(key, use.get("name", ""), text, told, failed, use.get("input", {}))
    order = list(uses)
    return sorted(found.values(), key=lambda one: order.index(one.id) if one.id in uses else -1)


@dataclass(frozen=True)
class Turn:
    """One request for the model's next message."""

    number: int
    request: dict[str, Any]
    session: str = ""
    #: The subagent's id; "" for a main thread.
    agent: str = ""

    @cached_property
    def _new(self) -> int:
        """Where that begins which the model has not answered yet."""
        messages = self.request["messages"]
        said = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        return said[-1] + 1 if said else 0

    @cached_property
    def results(self) -> list[Result]:
        """The results of the calls of the model's last message, in the order of the calls."""
        return _results(self.request["messages"], self._new)

    @cached_property
    def all_results(self) -> list[Result]:
        """The results of every call that the request still tells of."""
        return _results(self.request["messages"])

    @cached_property
    def prompt(self) -> str:
        """The text of the first user message without the client's reminders."""
        first = next((one for one in self.request["messages"] if one["role"] == "user"), {"content": ""})
        return _REMINDER.sub("", _text(_blocks(first["content"]))).strip()

    @cached_property
    def last_text(self) -> str:
        """All that was told to the model since its last message: texts, results, reminders."""
        return "\n".join(_text(_blocks(one["content"])) for one in self.request["messages"][self._new :])

    @cached_property
    def text(self) -> str:
        """All text of all messages."""
        return "\n".join(_text(_blocks(one["content"])) for one in self.request["messages"])

    @cached_property
    def tools(self) -> list[str]:
        """The names of the tools whose schemas the model has; deferred ones are not among them."""
        return [one["name"] for one in self.request.get("tools", []) if not one.get("defer_loading")]

    @cached_property
    def system(self) -> str:
        """The system prompt."""
        return _text(_blocks(self.request.get("system")))


#: What stands in a script: a reply, or a function that makes it of the request.
Step: TypeAlias = Reply | Callable[[Turn], Reply]


@dataclass(slots=True)
class Script:
    """What is said in every conversation whose prompt contains *when*."""

    when: str
    steps: tuple[Step, ...]
    #: How far the conversation that walked farthest has come.
    walked: int = 0

    @classmethod
    def matching(cls, scripts: Sequence[Script], prompt: str) -> Script | None:
        """Return the script whose `when` fits most closely: "t-10" goes before "t-1"."""
        fitting = [one for one in scripts if one.when in prompt]
        return max(fitting, key=lambda one: len(one.when), default=None)


@dataclass(slots=True)
class Conversation:
    """The main thread of one session, or one subagent: what was asked and what was answered."""

    session: str
    agent: str
    prompt: str
    script: Script | None
    turns: list[Turn] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The bodies of its requests."""
        return [turn.request for turn in self.turns]

    @property
    def results(self) -> list[Result]:
        """The results of all its tool calls, each once, in their order."""
        return list({one.id: one for turn in list(self.turns) for one in turn.all_results}.values())

    def tool_result(self, which: str | int) -> Result:
        """Return the one result of the tool of that name, or the result at that place."""
        results = self.results
        if isinstance(which, int):
            assert -len(results) <= which < len(results), f"{len(results)} results: {results}"
            return results[which]
        found = [one for one in results if one.name == which]
        assert len(found) == 1, f"{len(found)} results of {which!r}; there are {results}"
        return found[0]

    def enter(self, request: dict[str, Any]) -> tuple[Turn, Step | None]:
        """Take the next turn: the request as a `Turn`, and the script's next step if it has one."""
        with self._lock:
            turn = Turn(len(self.turns), request, self.session, self.agent)
            self.turns.append(turn)
            if self.script is None or turn.number >= len(self.script.steps):
                return turn, None
            self.script.walked = max(self.script.walked, turn.number + 1)
            return turn, self.script.steps[turn.number]
