"""A call of a hook: what the client sent, read so that nothing odd in it can do harm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..store.sessions import MAIN

#: Characters that are kept of a reason.
_REASON = 120
#: Fields that are no texts.
_OBJECTS = {"tool_input", "tool_response", "background_tasks"}
#: PATH_MAX of Linux.
_LONGEST_PATH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a hook, as far as it can be understood."""

    event: str
    session: str
    #: The id of the agent in which it happened, `MAIN` for the session's own thread.
    agent: str = MAIN
    agent_type: str = ""
    tool: str = ""
    input: Mapping[str, Any] = field(default_factory=dict)
    #: Of the tool call; "" where there is none.
    use: str = ""
    #: What the user lets the session do: ``default``, ``plan`` ...
    mode: str = ""
    response: Any = None
    error: str = ""
    prompt: str = ""
    #: Whether the client goes on because a hook asked it to.
    asked: bool = False
    #: Ids of the agents that run in the background; None where the client does not say.
    background: frozenset[str] | None = None
    #: Why a session ends, what an API error was.
    reason: str = ""
    #: The client's transcript of the session, and the name that it gives to the prompt it works on.
    transcript: str = ""
    #: That of the agent that ends; "" where the client does not name it.
    agent_transcript: str = ""
    prompt_id: str = ""


def read_call(data: object) -> Call | None:
    """Return the call in a hook's input, None if there is none."""
    if not isinstance(data, dict):
        return None
    given = data
    event, session = text_of(given, "hook_event_name"), text_of(given, "session_id")
    if not event or not session:
        return None
    tool_input = given.get("tool_input")
    return Call(
        event=event,
        session=session,
        agent=text_of(given, "agent_id") or MAIN,
        agent_type=text_of(given, "agent_type"),
        tool=text_of(given, "tool_name"),
        input=tool_input if isinstance(tool_input, dict) else {},
        use=text_of(given, "tool_use_id"),
        mode=text_of(given, "permission_mode"),
        response=given.get("tool_response"),
        error=text_of(given, "error"),
        prompt=text_of(given, "prompt"),
        asked=given.get("stop_hook_active") is True,
        background=_running(given.get("background_tasks")),
        reason=one_line(text_of(given, "reason") or text_of(given, "error"), _REASON),
        transcript=_path(given, "transcript_path"),
        agent_transcript=_path(given, "agent_transcript_path"),
        prompt_id=text_of(given, "prompt_id"),
    )


def call_of_tool(given: Mapping[str, Any]) -> Call | None:
    """Return the call in the arguments of our hidden tool, None if there is none.

    They are the fields of a command hook's input, as the client puts them into texts: an object is its JSON,
    and what the event lacks is "".
    """
    data = {key: value for key, value in given.items() if value != ""}
    for key in _OBJECTS & data.keys():
        if isinstance(data[key], str):
            try:
                data[key] = json.loads(data[key])
            except (ValueError, RecursionError):
                del data[key]
    data["stop_hook_active"] = data.get("stop_hook_active") in (True, "true")
    return read_call(data)


def text_of(data: Mapping[Any, Any], key: str) -> str:
    """Return the text under *key*; "" where there is none, or something else."""
    value = data.get(key)
    return value if isinstance(value, str) else ""


def _path(data: Mapping[Any, Any], key: str) -> str:
    path = text_of(data, key)
    plain = path.isprintable() and path.encode("utf-8", "replace").decode() == path
    return path if plain and path.startswith("/") and len(path) < _LONGEST_PATH else ""


def _running(tasks: object) -> frozenset[str] | None:
    if not isinstance(tasks, list):
        return None
    over = ("completed", "failed", "killed", "stopped")
    return frozenset(
        str(task.get("id")) for task in tasks if isinstance(task, dict) and task.get("status") not in over
    )


def one_line(text: str, length: int) -> str:
    """Return *text* as one printable line of at most *length* characters."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text.strip())
    line = line.encode("utf-8", "backslashreplace").decode()
    return line if len(line) <= length else f"{line[: length - 1]}…"
