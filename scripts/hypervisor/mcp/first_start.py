"""The server of a first start, while `scripts/prepare` fetches the packages: it needs nothing but Python.

A client gives a server some seconds, and then does without it, for later sessions too. So the tools are told
at once. Whoever calls one waits until the packages are there, or is told why they are not; then the real
server takes this one's place: same process, same pipes, and the call in hand is its first.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.bootstrap import has_environment
from .schema import PREFIX
from .server import HOOK, hello_answer, list_answer
from .wire import Connection, Params, Request, WrongRequest, read_request, tool_call, tool_result, unknown

_SCRIPTS = Path(__file__).resolve().parents[2]
#: For how long a call waits for the packages, in seconds: less than clients wait for a tool.
_PATIENCE = 25
#: How often it is seen whether they are there, in seconds.
_LOOK_SECONDS = 0.5
#: The longest call that is handed on: an argument of a program.
_LONGEST = 100_000
_FETCHING = (
    "hypervisor: what it needs (uv, packages) is being fetched, once. "
    "Nothing was done; call it again in a minute."
)


def main() -> int:
    """Serve until the packages are there, and become the real server; or until the client has gone."""
    connection = Connection((), sys.stdout.buffer)
    for line in _lines():
        request = read_request(line)
        if request is None or request.id is None:
            continue
        try:
            _answer(connection, request, line)
        except WrongRequest as error:
            connection.refuse(request, error)
    return 0


def _lines() -> Iterator[bytes]:
    """Yield what the client says, a line each; nothing behind it is read, as the real server reads on."""
    while True:
        if has_environment():
            _become_the_server()
        if select.select([0], [], [], _LOOK_SECONDS)[0]:
            line = b""
            while not line.endswith(b"\n"):
                if not (byte := os.read(0, 1)):
                    return
                line += byte
            yield line


def _answer(connection: Connection, request: Request, line: bytes) -> None:
    if request.method == "tools/call":
        name, given = tool_call(request)
        if name == HOOK:
            connection.answer(request, tool_result(json.dumps(_hook(given))))
            return
        done = subprocess.run(
            [_SCRIPTS / "prepare", str(_PATIENCE)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", check=False,
        )  # fmt: skip
        if done.returncode == 0 and len(line) < _LONGEST:
            _become_the_server(line.decode("utf-8", "replace").strip())
        reason = done.stderr.strip() if done.returncode == 2 else ""
        text = f"hypervisor: its tools cannot work here. {reason}" if reason else _FETCHING
        connection.answer(request, tool_result(text, failed=True))
    elif request.method == "initialize":
        connection.answer(request, hello_answer(request))
    elif request.method == "tools/list":
        connection.answer(request, list_answer(os.environ))
    elif request.method == "ping":
        connection.answer(request, {})
    else:
        raise unknown(request)


def _hook(given: Params) -> dict[str, Any]:
    """Let a tool of ours be called, in the name of whoever calls; all else is decided by the real server."""
    ours = str(given.get("tool_name")).startswith(PREFIX) and given.get("hook_event_name") == "PreToolUse"
    if not ours or given.get("permission_mode") == "plan":
        return {}
    try:
        told = dict(json.loads(given["tool_input"]))
    except (KeyError, ValueError, TypeError):
        return {}
    who = {"caller_session": given.get("session_id", ""), "caller_agent": given.get("agent_id") or "main"}
    allowed = {"permissionDecision": "allow", "permissionDecisionReason": "a tool of hypervisor"}
    return {"hookSpecificOutput": {"hookEventName": "PreToolUse", **allowed, "updatedInput": {**told, **who}}}


def _become_the_server(*pending: str) -> None:
    words = ["sh", str(_SCRIPTS / "launch"), "mcp_server.py", *(("pending", *pending) if pending else ())]
    os.execv("/bin/sh", words)  # noqa: S606 - our own
