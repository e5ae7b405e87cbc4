"""The protocol of an MCP server over its pipes: a line of JSON-RPC for each message.

As much of it as a server that has tools and nothing else needs
(https://modelcontextprotocol.io/specification/2025-11-25): to import the SDK takes ten times as long as all
else that happens between the start of the server and the list of its tools.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

#: The versions of the protocol that are spoken, the newest first. What tools need is the same in all.
VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
_NO_METHOD, _WRONG_PARAMETERS = -32601, -32602

Params = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A message that asks for an answer, or tells something (its id is None then)."""

    id: str | int | None
    method: str
    params: Params


class WrongRequest(Exception):
    """A request that cannot be carried out as it stands."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def read_request(line: bytes) -> Request | None:
    """Return the request in a line, None if there is none: a server passes over what it does not understand.

    Half a surrogate pair (a text that was cut within a letter) becomes a "?": nothing can store it.
    """
    try:
        text = line.decode("utf-8", "replace")
        data = json.loads(text)
        if "\\ud" in text.lower():
            data = json.loads(json.dumps(data, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("method"), str):
        return None
    number, params = data.get("id"), data.get("params")
    if number is not None and (isinstance(number, bool) or not isinstance(number, str | int)):
        return None
    return Request(id=number, method=data["method"], params=params if isinstance(params, dict) else {})


class Connection:
    """The pipes of a server. Answers may come from several threads.

    Args:
        source: What the client says.
        target: Where the answers go.
    """

    def __init__(self, source: Iterable[bytes], target: BinaryIO) -> None:
        self._source, self._target = source, target
        self._lock = threading.Lock()
        self._cancelled: set[str | int] = set()

    def requests(self) -> Iterator[Request]:
        """Yield what is asked, until the client closes its end."""
        for line in self._source:
            request = read_request(line)
            if request is None:
                continue
            if request.method == "notifications/cancelled":
                number = request.params.get("requestId")
                if isinstance(number, str | int):
                    self._cancelled.add(number)
            elif request.id is not None:
                self._cancelled.discard(request.id)
                yield request

    def answer(self, request: Request, result: Mapping[str, Any]) -> None:
        """Send the answer to a request."""
        self._send(request, {"result": result})

    def refuse(self, request: Request, error: WrongRequest) -> None:
        """Say why a request is not carried out."""
        self._send(request, {"error": {"code": error.code, "message": str(error)}})

    def _send(self, request: Request, said: Mapping[str, Any]) -> None:
        line = json.dumps(
            {"jsonrpc": "2.0", "id": request.id, **said}, ensure_ascii=False, separators=(",", ":")
        )
        data = line.encode("utf-8", "replace") + b"\n"
        with self._lock:
            if request.id in self._cancelled:
                self._cancelled.discard(request.id)
                return
            try:
                self._target.write(data)
                self._target.flush()
            except (BrokenPipeError, ValueError):  # the client has gone: its end of input follows
                return


def hello(request: Request, name: str, version: str, instructions: str) -> dict[str, Any]:
    """Return the answer to ``initialize``, in the client's version of the protocol if it is spoken here."""
    asked = request.params.get("protocolVersion")
    return {
        "protocolVersion": asked if asked in VERSIONS else VERSIONS[0],
        "capabilities": {"tools": {"listChanged": False}},
        "serverInfo": {"name": name, "version": version},
        "instructions": instructions,
    }


def tool_call(request: Request) -> tuple[str, Params]:
    """Return the name and the arguments of a ``tools/call``.

    Raises:
        WrongRequest: There is no name, or the arguments are no object.
    """
    name, arguments = request.params.get("name"), request.params.get("arguments") or {}
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise WrongRequest(_WRONG_PARAMETERS, "tools/call takes a name and an object of arguments")
    return name, arguments


def unknown(request: Request) -> WrongRequest:
    """Return what is said of a method that is not there."""
    return WrongRequest(_NO_METHOD, f"{request.method[:80]}: no such method")


def tool_result(text: str, *, failed: bool = False) -> dict[str, Any]:
    """Return the result of a tool: one text, and whether it is a refusal."""
    return {"content": [{"type": "text", "text": text}], "isError": failed}


class Calls:
    """Calls that are at work, each in a thread of its own: none of them keeps the next from being read."""

    def __init__(self) -> None:
        self._running: set[threading.Thread] = set()
        self._lock = threading.Lock()

    def begin(self, work: Callable[[], None]) -> None:
        """Carry *work* out beside whatever else is done."""

        def run() -> None:
            try:
                work()
            finally:
                with self._lock:
                    self._running.discard(threading.current_thread())

        thread = threading.Thread(target=run, name="call")
        with self._lock:
            self._running.add(thread)
        thread.start()

    def wait(self) -> None:
        """Wait for all of them: what was begun is carried to its end."""
        while True:
            with self._lock:
                left = next(iter(self._running), None)
            if left is None:
                return
            left.join()
