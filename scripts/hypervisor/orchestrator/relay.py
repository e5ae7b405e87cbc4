"""Our server and commands for an agent in a sandbox: they run outside, and it talks to them through a socket.

The socket is of one attempt: only the sandbox of that attempt has it. What an agent starts of ours there
hands its words on (`core/relayed`), and runs here with the environment of the attempt, in which the agent has
no say. Only what an agent needs can be started: the server, the hooks, and the commands by which it reports
and shares findings.
"""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.relayed import SAID, SERVER

_ROOT = Path(__file__).resolve().parents[3]
#: What may be started, and where it is; the server is talked to for as long as it lives.
_SCRIPTS: Mapping[str, Path] = {
    SERVER: _ROOT / "scripts",
    "hypervisor_cli.py": _ROOT / "scripts",
    "hook.py": _ROOT / "scripts",
    "gemini_hook.py": _ROOT / "scripts",
    "preflight.py": _ROOT / "hooks",
    "receipt.py": _ROOT / "hooks",
}
#: The commands, by their first two words.
_COMMANDS = frozenset(
    [
        ("task", verb)
        for verb in ("show", "list", "claim", "complete", "block", "release", "receipt", "update", "ask")
    ]
    + [("hive", verb) for verb in ("add", "search")]
)
#: Bytes: what is asked at most, with what goes in; what comes out; the memory of what is started.
_ASKED, _ANSWERED, _MEMORY = 4 * 2**20, 4 * 2**20, 2**31
#: How many are answered at once, and how long a command may take, in seconds.
_AT_ONCE, _PATIENCE = 16, 600.0


@dataclass(slots=True)
class Relay:
    """The socket of one attempt, and what was started through it.

    Args:
        environment: The attempt's, with which everything is started.
        folder: The folder in which commands run.
    """

    environment: Mapping[str, str]
    folder: str
    _place: str = ""
    _listener: socket.socket | None = None
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _threads: set[threading.Thread] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: bool = False

    def open(self) -> str:
        """Listen; return the path of the socket."""
        self._place = tempfile.mkdtemp(prefix="hypervisor-")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(f"{self._place}/relay")
        listener.listen(_AT_ONCE)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True, name="relay").start()
        return f"{self._place}/relay"

    def close(self) -> None:
        """Answer nobody any more, and end what was started."""
        self._closed = True
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        with self._lock:
            running, threads = list(self._running), list(self._threads)
        for process in running:
            process.kill()
        for thread in threads:
            thread.join()
        shutil.rmtree(self._place, ignore_errors=True)

    # ---------------------------------------------------------------- details

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(caller,), daemon=True, name="relayed")
            with self._lock:
                if self._closed or len(self._threads) >= _AT_ONCE:
                    caller.close()
                    continue
                self._threads.add(thread)
            thread.start()

    def _serve(self, caller: socket.socket) -> None:
        try:
            with caller, contextlib.suppress(OSError, ValueError, RecursionError):
                caller.settimeout(_PATIENCE)
                asked = json.loads(_line(caller))
                self._answer(caller, asked if isinstance(asked, dict) else {})
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _answer(self, caller: socket.socket, asked: Mapping[str, Any]) -> None:
        words, given = asked.get("words"), asked.get("input")
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            return
        if why := _refusal(words):
            _reply(caller, {"code": 1, "out": "", "err": f"{why}\n"})
            return
        said = asked.get("environment")
        session = {
            name: value
            for name, value in (said.items() if isinstance(said, dict) else ())
            if name in SAID and isinstance(value, str) and value.isprintable() and len(value) < 200
        }
        environment = {**self.environment, **session}
        command = [sys.executable, str(_SCRIPTS[words[0]] / words[0]), *words[1:]]
        if words[0] == SERVER:
            caller.settimeout(None)
            with self._started(command, environment, caller, caller, subprocess.DEVNULL) as process:
                _reply(caller, {"code": 0})
                process.wait()
            return
        data = given.encode("utf-8", "surrogatepass") if isinstance(given, str) else b""
        with self._started(
            command, environment, subprocess.PIPE, subprocess.PIPE, subprocess.PIPE
        ) as process:
            try:
                out, err = process.communicate(data, _PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
        told = {"code": process.returncode, "out": out[:_ANSWERED], "err": err[:_ANSWERED]}
        _reply(caller, {key: _text(value) for key, value in told.items()})

    @contextlib.contextmanager
    def _started(
        self, command: list[str], environment: Mapping[str, str], given: Any, out: Any, err: Any
    ) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            command, cwd=self.folder, env=dict(environment), stdin=given, stdout=out, stderr=err,
            start_new_session=True,
        )  # fmt: skip
        if hasattr(resource, "prlimit"):  # what it is told comes from an agent
            with contextlib.suppress(OSError):
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
        with self._lock:
            self._running.add(process)
            closed = self._closed
        try:
            if closed:
                process.kill()
            yield process
        finally:
            with self._lock:
                self._running.discard(process)
            if process.poll() is None:
                process.kill()
            process.wait()


def _refusal(words: list[str]) -> str:
    """Return why an agent may not start that, "" if it may."""
    if words[0] not in _SCRIPTS or (words[0] == SERVER and len(words) > 1):
        return f"{words[0][:80]}: not for an agent in a sandbox"
    if words[0] == "hypervisor_cli.py" and words[1:] != ["--version"]:
        verbs = tuple(word for word in words[1:3])
        if verbs not in _COMMANDS:
            known = "; ".join(sorted({f"{first} ..." for first, _ in _COMMANDS}))
            return f"hypervisor {' '.join(verbs)[:80]}: an agent in a sandbox has only: {known}"
    return ""


def _line(caller: socket.socket) -> bytes:
    """Return the first line that is sent, and take nothing that follows it.

    Raises:
        ValueError: It is too long, or has no end.
    """
    line = b""
    while len(line) < _ASKED:
        ahead = caller.recv(2**16, socket.MSG_PEEK)
        if not ahead:
            break
        end = ahead.find(b"\n") + 1
        line += caller.recv(end or len(ahead))
        if end:
            return line
    raise ValueError("no line")


def _reply(caller: socket.socket, answer: Mapping[str, Any]) -> None:
    caller.sendall(json.dumps(answer).encode() + b"\n")


def _text(value: object) -> object:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
