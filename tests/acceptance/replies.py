"""What a scripted model says, and how that looks on the wire of the Messages API."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

#: What each answer is said to have cost; an answer's own length would tell a test nothing.
INPUT_TOKENS, OUTPUT_TOKENS = 100, 10


@dataclass(frozen=True, slots=True)
class Use:
    """One call of a tool."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """Text, or calls of tools, or both."""

    text: str = ""
    uses: tuple[Use, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of the API."""

    status: int
    kind: str
    message: str
    retry: bool = False

    @property
    def body(self) -> bytes:
        """The body of the answer."""
        error = {"type": self.kind, "message": self.message}
        return json.dumps({"type": "error", "error": error}).encode()


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer: the connection is held until *event*, and then dropped."""

    event: threading.Event


@dataclass(frozen=True, slots=True)
class Wait:
    """An answer that is given when *condition* holds, and not before."""

    condition: Callable[[], object]
    reply: Reply
    seconds: float


Reply: TypeAlias = Message | Failure | Hang | Wait


def say(text: str) -> Message:
    """Answer with *text* and end the turn."""
    return Message(text)


def use(name: str, /, **arguments: Any) -> Use:
    """Name one call of a tool, for `calls`."""
    return Use(name, arguments)


def calls(*uses: Use, text: str = "") -> Message:
    """Answer with calls of tools, all in one message, after *text* if there is some."""
    return Message(text, uses)


def fail(
    status: int = 400, kind: str = "invalid_request_error", message: str = "scripted", *, retry: bool = False
) -> Failure:
    """Answer with an error, which the client is told to retry or not to retry.

    It heeds that for every status but 529, which it retries as often as CLAUDE_CODE_MAX_RETRIES says.
    """
    return Failure(status, kind, message, retry)


def hang(event: threading.Event | None = None) -> Hang:
    """Never answer; drop the connection when *event* is set, if the client is still there."""
    return Hang(event or threading.Event())


def wait_for(
    condition: threading.Event | Callable[[], object], reply: Reply, *, seconds: float = 60.0
) -> Wait:
    """Give *reply* when *condition* holds; after *seconds*, an error and a surprise."""
    return Wait(condition.is_set if isinstance(condition, threading.Event) else condition, reply, seconds)


def message_body(message: Message, model: str) -> dict[str, Any]:
    """Return the message as the API spells it, with new ids."""
    content: list[dict[str, Any]] = []
    if message.text or not message.uses:
        content.append({"type": "text", "text": message.text})
    for one in message.uses:
        name = f"toolu_{uuid.uuid4().hex[:24]}"
        content.append({"type": "tool_use", "id": name, "name": one.name, "input": dict(one.arguments)})
    return {
        "id": f"msg_{uuid.uuid4().hex[:24]}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": "tool_use" if message.uses else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS},
    }


def message_events(body: Mapping[str, Any]) -> bytes:
    """Return the same message as the stream of events that carries it."""
    start = {**body, "content": [], "stop_reason": None}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(body["content"]):
        if block["type"] == "text":
            empty, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
        else:
            empty = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        events += [
            {"type": "content_block_start", "index": index, "content_block": empty},
            {"type": "content_block_delta", "index": index, "delta": delta},
            {"type": "content_block_stop", "index": index},
        ]
    end = {"stop_reason": body["stop_reason"], "stop_sequence": None}
    events.append({"type": "message_delta", "delta": end, "usage": body["usage"]})
    events.append({"type": "message_stop"})
    return "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in events).encode()
