"""A batch's page, live, for browsers on this machine: HTTP on 127.0.0.1, to look at and nothing else.

Other users of the machine can connect as well, and any page in the browser can try to: the address holds
a secret, and a request that names another host (DNS rebinding) is refused. Nothing can be changed here.
"""

from __future__ import annotations

import contextlib
import gzip
import hmac
import json
import secrets
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..core.errors import HypervisorError
from .page import page, policy
from .report import ReportBuilder

HOST = "127.0.0.1"
#: A look is good for this long, in seconds, however many browsers ask ...
_FRESH_SECONDS = 0.2
#: ... and for so many times what it cost: a batch of any size is looked at in a tenth of the time at most.
_REST = 9.0
#: A client that sends nothing is let go of after so many seconds.
_TIMEOUT = 20.0
#: Answers of at least so many bytes are packed.
_PACKED = 4096


@dataclass(slots=True)
class WatchedBatch:
    """One batch, looked at for several browsers at once."""

    builder: ReportBuilder
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _looked: float = float("-inf")
    _cost: float = 0.0

    def state(self, instance: str, since: int) -> dict[str, Any]:
        """Return the news since the look *since* of *instance*: all there is, if that is not ours."""
        with self._lock:
            self._look()
            head = self.builder.head()
            if instance != head["instance"]:
                since = 0
            elif since == head["version"]:
                return head
            return head | self.builder.body(since)

    def logs(self, instance: str, row: int) -> list[dict[str, Any]] | None:
        """Return the ends of the logs of a row; None if there is no such row."""
        with self._lock:
            follower = self.builder.follower
            if instance != follower.instance or not 0 <= row < len(follower.items):
                return None
            return self.builder.logs(row)

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked >= max(_FRESH_SECONDS, min(5.0, _REST * self._cost)):
            first = self._looked == float("-inf")
            before = time.thread_time()  # CPU: on a busy machine a look takes long and costs no more
            self.builder.look()
            # The first takes in the whole batch, those that follow what is new: it says nothing of them.
            self._cost = 0.0 if first else time.thread_time() - before
            self._looked = time.monotonic()


class ReportServer(ThreadingHTTPServer):
    """Serves one batch until it is shut down.

    Args:
        builder: What there is to see.
        port: 0 for any that is free.

    Raises:
        OSError: The port is taken.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, builder: ReportBuilder, port: int = 0) -> None:
        self.watched = WatchedBatch(builder)
        self.token = secrets.token_urlsafe(24)
        self.document = page(None, title=builder.batch.id).encode()
        super().__init__((HOST, port), _Handler)

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over what goes wrong with one connection: the browser has gone, or asks again."""


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT
    server_version = "hypervisor"
    sys_version = ""

    def do_GET(self) -> None:
        if not self._is_for_us():
            self._send(
                HTTPStatus.FORBIDDEN, "text/plain", b"open the address that `hypervisor serve` prints\n"
            )
            return
        parts = urlsplit(self.path)
        _, token, name = [*parts.path.split("/", 2), "", ""][:3]
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"no such page\n")
            return
        asked = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        try:
            self._answer(name, asked)
        except (OSError, HypervisorError) as error:  # the batch's folder, not the connection
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"{error}\n".encode())

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, name: str, asked: dict[str, str]) -> None:
        watched = self.server.watched
        if name == "":
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.document)
        elif name == "state":
            since = int(asked["since"]) if asked.get("since", "").isdecimal() else 0
            self._send_json(watched.state(asked.get("instance", ""), since))
        elif name == "log" and asked.get("row", "").isdecimal():
            found = watched.logs(asked.get("instance", ""), int(asked["row"][:12]))
            if found is None:
                self._send(HTTPStatus.NOT_FOUND, "text/plain", b"no such item\n")
            else:
                self._send_json(found)
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"no such page\n")

    def _is_for_us(self) -> bool:
        port = self.server.server_port
        return self.headers.get("Host", "").lower() in (f"{HOST}:{port}", f"localhost:{port}")

    def _send_json(self, data: object) -> None:
        self._send(HTTPStatus.OK, "application/json", json.dumps(data, separators=(",", ":")).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        packed = len(body) >= _PACKED and "gzip" in self.headers.get("Accept-Encoding", "")
        if packed:
            body = gzip.compress(body, 1)
        with contextlib.suppress(ConnectionError, TimeoutError):
            self.send_response(status)
            for key, value in (
                ("Content-Type", kind),
                ("Content-Length", str(len(body))),
                *((("Content-Encoding", "gzip"),) if packed else ()),
                ("Cache-Control", "no-store"),
                ("Content-Security-Policy", f"{policy(live=True)}; frame-ancestors 'none'"),
                ("Cross-Origin-Resource-Policy", "same-origin"),
                ("Referrer-Policy", "no-referrer"),
                ("X-Content-Type-Options", "nosniff"),
            ):
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as http.server names it
        """Say nothing: the address holds the secret."""
