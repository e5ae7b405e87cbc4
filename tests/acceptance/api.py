"""A Messages API on 127.0.0.1 whose model says what a test's script tells it to say.

    with ScriptedApi() as api:
        api.main(calls(use("Agent", prompt="pull t-1", subagent_type="x:worker", description="d")), say("ok"))
        api.agent("pull t-1", calls(use("Bash", command="true")), lambda turn: say(turn.results[0].text))

A conversation is the main thread of a session or one subagent; the client names both in the headers of
its requests. Each walks its own copy of the script that fits its prompt. What no script foresees is
answered harmlessly and stands in `surprises`; a test holds that there are none.
"""

from __future__ import annotations

import http.server
import json
import select
import socket
import socketserver
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

from acceptance.replies import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    Failure,
    Hang,
    Message,
    Reply,
    Use,
    Wait,
    calls,
    fail,
    hang,
    message_body,
    message_events,
    say,
    use,
    wait_for,
)
from acceptance.turns import Conversation, Result, Script, Step, Turn

__all__ = [
    "Conversation", "Reply", "Result", "ScriptedApi", "Served", "Step", "Turn", "Use",
    "calls", "fail", "hang", "say", "use", "wait_for",
]  # fmt: skip

#: How often a held connection is looked at: is the condition true, is the client gone?
_LOOK = 0.01


class Served(NamedTuple):
    """How many answers the client has got, and what it was told that they cost."""

    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class ScriptedApi:
    """The API; open it with ``with``."""

    #: What answers a connection; None for the Messages API alone.
    handler: type[http.server.BaseHTTPRequestHandler] | None = None

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._mains: list[Script] = []
        self._agents: list[Script] = []
        self._conversations: dict[tuple[str, str], Conversation] = {}
        self._server = _Server(self)
        #: Set when the API closes: nothing is held any longer.
        self.closing = threading.Event()
        #: What no script foresaw, and what went wrong in one.
        self.surprises: list[str] = []
        #: Requests that were wrong, by session, agent and length, and what was said of them.
        self.wrong: dict[tuple[str, str, int], Failure] = {}
        #: Requests of the client's own that belong to no conversation, such as for a title.
        self.side_calls: list[dict[str, Any]] = []
        self.served = Served()

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.drop()
        self._server.server_close()

    @property
    def url(self) -> str:
        """What the client is given as ANTHROPIC_BASE_URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def main(self, *steps: Step, when: str = "") -> None:
        """Script the main thread of every session whose prompt contains *when*."""
        self._add(self._mains, when, steps)

    def agent(self, when: str, *steps: Step) -> None:
        """Script every subagent whose prompt contains *when*."""
        self._add(self._agents, when, steps)

    def _add(self, scripts: list[Script], when: str, steps: tuple[Step, ...]) -> None:
        with self._lock:
            assert all(one.when != when for one in scripts), f"a script for {when!r} is there already"
            scripts.append(Script(when, steps))

    @property
    def conversations(self) -> list[Conversation]:
        """All conversations, in the order in which they began."""
        with self._lock:
            return list(self._conversations.values())

    @property
    def mains(self) -> list[Conversation]:
        """The main threads."""
        return [one for one in self.conversations if not one.agent]

    @property
    def agents(self) -> list[Conversation]:
        """The subagents."""
        return [one for one in self.conversations if one.agent]

    @property
    def unwalked(self) -> list[str]:
        """The scripts of which something has not been said in any conversation."""
        return [one.when for one in [*self._mains, *self._agents] if one.walked < len(one.steps)]

    def of(self, part: str) -> Conversation:
        """Return the one conversation whose prompt contains *part*."""
        found = [one for one in self.conversations if part in one.prompt]
        prompts = [one.prompt for one in self.conversations]
        assert len(found) == 1, f"{len(found)} conversations on {part!r}; there are {prompts}"
        return found[0]

    def take_surprises(self) -> list[str]:
        """Return the surprises, and forget them: the test has expected them."""
        with self._lock:
            taken, self.surprises = self.surprises, []
            return taken

    def surprise(self, what: str) -> None:
        """Note what no script foresaw."""
        with self._lock:
            self.surprises.append(what)

    def serve(self) -> None:
        """Count one answer that has reached the client."""
        with self._lock:
            answers, read, written = self.served
            self.served = Served(answers + 1, read + INPUT_TOKENS, written + OUTPUT_TOKENS)

    def answer(self, session: str, agent: str, request: dict[str, Any]) -> Reply:
        """Say what comes next in the conversation that *request* belongs to."""
        # A conversation offers tools; what the client asks for itself (a title, a summary, whether
        # the key works) does not, but may quote the prompt and must not walk its script.
        if not request.get("tools"):
            with self._lock:
                self.side_calls.append(request)
            return say("(side call)")
        with self._lock:
            talk = self._conversations.get((session, agent))
            if talk is None:
                prompt = Turn(0, request).prompt
                script = Script.matching(self._agents if agent else self._mains, prompt)
                talk = self._conversations[session, agent] = Conversation(session, agent, prompt, script)
        turn, step = talk.enter(request)
        who = f"agent {agent}" if agent else f"main thread of {session}"
        if step is None:
            why = "no script" if talk.script is None else "end of script"
            self.surprise(
                f"{why}: {who}, turn {turn.number}, {talk.prompt[:200]!r}; {turn.last_text[-500:]!r}"
            )
            return self._note(talk, say(f"({why})"))
        try:
            return self._note(talk, step(turn) if callable(step) else step)
        except Exception:  # noqa: BLE001 - whatever a test's function does, the client gets an answer
            self.surprise(f"{who}, turn {turn.number}: {traceback.format_exc()}")
            return self._note(talk, fail(400, "invalid_request_error", "the script failed"))

    @staticmethod
    def _note(talk: Conversation, reply: Reply) -> Reply:
        talk.replies.append(reply)
        return reply


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, api: ScriptedApi) -> None:
        self.api = api
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), api.handler or Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def drop(self) -> None:
        """End every connection, so that no thread waits on one."""
        for one in list(self._open):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                self._open.discard(one)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that goes away is no wonder
            self.api.surprise(traceback.format_exc())


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    server: socketserver.BaseServer

    @property
    def api(self) -> ScriptedApi:
        assert isinstance(self.server, _Server)
        return self.server.api

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._send(200, b"")

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/":
            self.api.surprise(f"GET {self.path}")
        self._send(404, fail(404, "not_found_error").body)

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        path = self.path.partition("?")[0]
        if path == "/v1/messages/count_tokens":
            self._send(200, json.dumps({"input_tokens": INPUT_TOKENS}).encode())
        elif path == "/v1/messages":
            session = self.headers.get("x-claude-code-session-id", "")
            # The older client behind the ACP adapter names it in the body only.
            session = session or str(request.get("metadata", {}).get("user_id", ""))
            agent = self.headers.get("x-claude-code-agent-id", "")
            key = (session, agent, len(request.get("messages", ())))
            # Newer clients repeat a request that was wrong: it is so again.
            self._reply(self.api.wrong.get(key) or self.api.answer(session, agent, request), request, key)
        else:
            self.api.surprise(f"POST {self.path}")
            self._send(404, fail(404, "not_found_error").body)

    def _reply(self, reply: Reply, request: dict[str, Any], key: tuple[str, str, int] | None = None) -> None:
        if isinstance(reply, Wait):
            reply = self._waited(reply)
            self._reply(reply, request, key)
        elif isinstance(reply, Hang):
            self._hold(reply.event.is_set)
            self.close_connection = True
        elif isinstance(reply, Failure):
            if reply.status == 400 and key is not None:
                self.api.wrong[key] = reply
            self._send(reply.status, reply.body, ("x-should-retry", str(reply.retry).lower()))
        else:
            self._message(reply, request)

    def _message(self, message: Message, request: dict[str, Any]) -> None:
        body = message_body(message, request.get("model", ""))
        if request.get("stream"):
            self._send(200, message_events(body), kind="text/event-stream")
        else:
            self._send(200, json.dumps(body).encode())
        self.api.serve()

    def _waited(self, wait: Wait) -> Reply:
        try:
            if self._hold(wait.condition, wait.seconds):
                return wait.reply
            why = f"waited {wait.seconds:g} s in vain"
        except Exception:  # noqa: BLE001 - whatever a test's function does, the client gets an answer
            why = traceback.format_exc()
        if not (self.api.closing.is_set() or self._gone()):
            self.api.surprise(f"wait_for {wait.condition}: {why}")
        return fail(400, "invalid_request_error", "the script waited in vain")

    def _hold(self, condition: Callable[[], object], seconds: float = float("inf")) -> bool:
        """Wait until *condition* holds, or there is nobody left to answer to, or time is up."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.api.closing.wait(_LOOK) or self._gone() or time.monotonic() > deadline:
                return False
        return True

    def _gone(self) -> bool:
        """Tell whether the client has closed the connection."""
        try:
            readable = select.select([self.connection], [], [], 0)[0]
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _send(
        self, status: int, body: bytes, *headers: tuple[str, str], kind: str = "application/json"
    ) -> None:
        self.send_response(status)
        for name, value in (*headers, ("content-type", kind), ("content-length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
