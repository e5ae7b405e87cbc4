"""One conversation with an agent by the Agent Client Protocol (ACP), version 1: JSON-RPC in lines.

Lines of the agent's go in, lines for it come out, and what was seen stays here. Whether a request for
permission is granted is decided from the task alone. The protocol is at https://agentclientprotocol.com.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .base import Assignment, event_of, list_of, map_of

#: What we do for an agent: write files, so each write is seen before it happens. It reads by itself: the
#: Gemini CLI 0.61.0 takes our answer that there is no such file for a fault, and then writes no new file.
_ABILITIES = {"fs": {"readTextFile": False, "writeTextFile": True}, "terminal": False}
_CLIENT = {"name": "hypervisor", "title": "Hypervisor", "version": "1"}
#: Kinds of tool calls that change files; and that only look, or stay within the agent.
_CHANGES, _LOOKS = frozenset({"edit", "delete", "move"}), frozenset({"read", "search", "think"})
#: JSON-RPC: no such method; wrong arguments.
_NO_METHOD, _WRONG = -32601, -32602
_SHELLS = frozenset({"sh", "bash", "zsh", "/bin/sh", "/bin/bash", "/bin/zsh", "/usr/bin/bash"})


class _Denied(Exception):
    """Raised for a request of the agent's that is not granted; the message says why."""


@dataclass(slots=True)
class AcpSession:
    """The state of one conversation. `line` is called by one thread, `cancel` by any."""

    assignment: Assignment
    #: Takes a line for the agent.
    send: Callable[[bytes], None]
    #: The id of the login method that the agent is told to use; "" for what it uses by itself.
    auth: str = ""
    #: The id of the session mode that it is set to; "" for its own default.
    mode: str = ""
    #: Whether it may do everything.
    everything: bool = False
    #: Set when nothing more comes of it.
    over: threading.Event = field(default_factory=threading.Event)
    #: Why its turn ended, in the protocol's word; "" before that, and if it failed.
    stop_reason: str = ""
    #: The error that ended it, and the method that it answered; empty if there was none.
    error: Mapping[str, Any] = field(default_factory=dict)
    failed: str = ""
    #: Its last words; and how many tool calls it began.
    text: str = ""
    tools: int = 0
    denials: list[str] = field(default_factory=list)
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    _session: str = ""
    _number: int = 0
    _asked: dict[int, str] = field(default_factory=dict)
    #: What is known of each tool call, by its id.
    _calls: dict[str, dict[str, Any]] = field(default_factory=dict)
    _speaks: bool = False

    def begin(self) -> None:
        """Greet the agent; its answers lead to everything else."""
        self._ask("initialize", protocolVersion=1, clientCapabilities=_ABILITIES, clientInfo=_CLIENT)

    def cancel(self) -> None:
        """Ask the agent to end its turn."""
        if self._session and not self.over.is_set():
            self._say(method="session/cancel", params={"sessionId": self._session})

    def line(self, line: bytes) -> None:
        """Take a line of the agent's; one that is no message is passed over."""
        message = event_of(line)
        number = message.get("id")
        if "method" in message:
            params = map_of(message.get("params"))
            if message["method"] == "session/update":
                self._update(map_of(params.get("update")))
            elif number is not None:
                self._say(id=number, **self._served(str(message["method"]), params))
        elif isinstance(number, int) and (method := self._asked.pop(number, "")):
            if "error" in message:
                self.error, self.failed = map_of(message["error"]), method
                self.over.set()
            else:
                self._go_on(method, map_of(message.get("result")))

    # ------------------------------------------------------------- our requests

    def _say(self, **message: Any) -> None:
        self.send(json.dumps({"jsonrpc": "2.0", **message}).encode())

    def _ask(self, method: str, **params: Any) -> None:
        number, self._number = self._number, self._number + 1
        self._asked[number] = method
        self._say(id=number, method=method, params=params)

    def _go_on(self, method: str, result: Mapping[str, Any]) -> None:
        """Ask what comes after the answer to *method*."""
        if method == "initialize" and self.auth:
            self._ask("authenticate", methodId=self.auth)
        elif method in ("initialize", "authenticate"):
            self._ask("session/new", cwd=self.assignment.cwd, mcpServers=[])
        elif method == "session/new":
            self._session = str(result.get("sessionId", ""))
            if self.mode:
                self._ask("session/set_mode", sessionId=self._session, modeId=self.mode)
            else:
                self._prompt()
        elif method == "session/set_mode":
            self._prompt()
        elif method == "session/prompt":
            self.stop_reason = str(result.get("stopReason", ""))
            self._count(result)
            self.over.set()

    def _prompt(self) -> None:
        words = [{"type": "text", "text": self.assignment.prompt}]
        self._ask("session/prompt", sessionId=self._session, prompt=words)

    def _count(self, result: Mapping[str, Any]) -> None:
        """Note what the turn has used, as the protocol or the Gemini CLI tells it."""
        usage = map_of(result.get("usage"))
        quota = map_of(map_of(map_of(result.get("_meta")).get("quota")).get("token_count"))
        read, written = usage.get("inputTokens"), usage.get("outputTokens")
        if usage:
            cached = [usage.get("cachedReadTokens"), usage.get("cachedWriteTokens")]
            read = sum(n for n in (read, *cached) if isinstance(n, int))
        else:
            read, written = quota.get("input_tokens"), quota.get("output_tokens")
        if isinstance(read, int) and isinstance(written, int):
            self.input_tokens, self.output_tokens = read, written
            self.assignment.used(read + written, 0, False)

    # -------------------------------------------------------- what it tells us

    def _update(self, update: Mapping[str, Any]) -> None:
        kind = update.get("sessionUpdate")
        if kind == "agent_message_chunk":
            piece = str(map_of(update.get("content")).get("text", ""))
            self.text = self.text + piece if self._speaks else piece
            self._speaks = True
        elif kind in ("tool_call", "tool_call_update"):
            self._speaks = False
            self.tools += kind == "tool_call"
            self._call(update)
        elif kind == "usage_update":
            cost = map_of(update.get("cost"))
            if cost.get("currency") == "USD" and isinstance(cost.get("amount"), int | float):
                self.cost_usd = float(cost["amount"])

    def _call(self, told: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return all that is known of a tool call."""
        call = self._calls.setdefault(str(told.get("toolCallId", "")), {})
        call.update({key: value for key, value in told.items() if value not in (None, [], {})})
        return call

    # ------------------------------------------------------- what it asks of us

    def _served(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request of the agent's."""
        try:
            if method == "session/request_permission":
                return {"result": {"outcome": self._permission(params)}}
            if method == "fs/write_text_file":
                self._write(str(params.get("path", "")), str(params.get("content", "")))
                return {"result": {}}
        except _Denied as error:
            self.denials.append(str(error))
            return {"error": {"code": _WRONG, "message": f"denied: {error}"}}
        except (OSError, UnicodeError) as error:
            return {"error": {"code": _WRONG, "message": f"{type(error).__name__}: {error}"}}
        return {"error": {"code": _NO_METHOD, "message": f"{method}: not offered"}}

    def _permission(self, params: Mapping[str, Any]) -> dict[str, str]:
        """Choose among the options; once, as another call may be another matter."""
        call = self._call(map_of(params.get("toolCall")))
        try:
            self._require_granted(call)
            wanted = ("allow_once", "allow_always")
        except _Denied as error:
            self.denials.append(str(error))
            wanted = ("reject_once", "reject_always")
        options = [map_of(one) for one in list_of(params.get("options"))]
        for kind in wanted:
            for option in options:
                if option.get("kind") == kind:
                    return {"outcome": "selected", "optionId": str(option.get("optionId"))}
        return {"outcome": "cancelled"}

    def _require_granted(self, call: Mapping[str, Any]) -> None:
        """Raise unless the task lets the agent make this call."""
        if self.everything:
            return
        kind, title = str(call.get("kind", "other")), str(call.get("title", ""))[:200]
        paths = list(_paths(call))
        if kind in _CHANGES:
            if not paths:
                raise _Denied(f"{kind}: names no file ({title})")
            for path in paths:
                self._require_in_scope(path)
        elif kind in _LOOKS:
            for path in paths:
                self._inside(path)
        elif kind == "execute" and (command := _command(call)):
            allowed = any(fnmatch.fnmatchcase(command, rule) for rule in self.assignment.allowed)
            if command != self.assignment.verify and not allowed:
                raise _Denied(f"command: {command[:200]}")
        elif not any(fnmatch.fnmatchcase(title, rule) for rule in self.assignment.allowed):
            raise _Denied(f"{kind}: {title}")

    def _inside(self, path: str) -> str:
        """Return a path below the agent's folder, links followed; raise if it lies elsewhere."""
        folder = os.path.realpath(self.assignment.cwd)
        real = os.path.realpath(os.path.join(folder, path))
        inside = os.path.relpath(real, folder)
        if inside == ".." or inside.startswith("../"):
            raise _Denied(f"{path}: outside of the agent's folder")
        return inside

    def _require_in_scope(self, path: str) -> None:
        inside = self._inside(path)
        if inside.split("/")[0] == ".git" or not self.assignment.in_scope(inside):
            raise _Denied(f"{inside}: outside of the task's files")

    def _write(self, path: str, content: str) -> None:
        if self.everything and self.assignment.sandbox is None:
            place = Path(self.assignment.cwd, path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content, "utf-8")
            return
        if not self.everything:
            self._require_in_scope(path)
        # We write outside of its sandbox: what it may do there ends at its folder.
        _write_below(os.path.realpath(self.assignment.cwd), self._inside(path), content)


def _write_below(folder: str, inside: str, content: str) -> None:
    """Write a file below *folder* through no link, not even one that was put there after a check."""
    *parents, name = inside.split("/")
    with contextlib.ExitStack() as held:

        def opened(path: str, flags: int, within: int | None = None) -> int:
            number = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666, dir_fd=within)
            held.callback(os.close, number)
            return number

        place = opened(folder, os.O_DIRECTORY)
        for parent in parents:
            with contextlib.suppress(FileExistsError):
                os.mkdir(parent, dir_fd=place)
            place = opened(parent, os.O_DIRECTORY, place)
        number = opened(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, place)
        with open(number, "w", encoding="utf-8", closefd=False) as file:
            file.write(content)


def _paths(call: Mapping[str, Any]) -> Iterator[str]:
    """Yield each path that a tool call names."""
    found = [map_of(one).get("path") for one in list_of(call.get("locations"))]
    found += [map_of(one).get("path") for one in list_of(call.get("content"))]
    given = map_of(call.get("rawInput"))
    found += [given.get(key) for key in ("file_path", "path", "abs_path", "filePath")]
    changes = given.get("changes")
    found += list(changes) if isinstance(changes, Mapping) else []
    yield from dict.fromkeys(one for one in found if isinstance(one, str) and one)


def _command(call: Mapping[str, Any]) -> str:
    """Return the command line that a call runs, "" if unknown; of a shell's, what it is given."""
    given = map_of(call.get("rawInput")).get("command")
    if isinstance(given, list) and all(isinstance(word, str) for word in given):
        if len(given) == 3 and given[0] in _SHELLS and given[1] in ("-c", "-lc"):
            return str(given[2])
        return " ".join(given)
    if isinstance(given, str):
        return given
    title = str(call.get("title", ""))
    with contextlib.suppress(ValueError):  # the Gemini CLI tells "COMMAND [in FOLDER] (WHY)" only
        title = title[: title.index(" [")]
    return title
