"""Running the real Claude Code client as a user's script does: headless, with an environment from nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from acceptance.api import ScriptedApi
from commands import Ended, eventually

HERE = Path(__file__).resolve().parent
MODEL = "claude-sonnet-4-5"
#: How long one run may take, in seconds; reached only when a test fails.
PATIENCE = 120.0
#: In the environment of a client and of all that it starts, whichever process group that is in.
_MARK = "ACCEPTANCE_CLIENT"

Event = dict[str, Any]


def find_client(name: str = "claude-code") -> str | None:
    """Return the path of a client that ``install`` has put in its place, else None.

    HYPERVISOR_CLAUDE names another Claude Code.
    """
    if name == "claude-code" and (chosen := os.environ.get("HYPERVISOR_CLAUDE")):
        return chosen
    rows = [line.split() for line in (HERE / "clients").read_text("utf-8").splitlines()]
    _, _, version, command = next(row for row in rows if row[0] == name)
    if name == "claude-code":
        version = os.environ.get("CLAUDE_CODE_VERSION") or version
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = f"{cache}/hypervisor/clients/{name}-{version}/node_modules/.bin/{command}"
    return path if os.access(path, os.X_OK) else None


def marked(mark: str) -> list[psutil.Process]:
    """Return the living processes that a client with this mark has started, itself among them."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


@dataclass(frozen=True, slots=True)
class Session:
    """A run of the client that has ended."""

    code: int
    events: list[Event]
    stderr: str

    def of(self, kind: str, subtype: str = "") -> list[Event]:
        """Return the events of that type, and of that subtype if one is given."""
        return [one for one in self.events if one["type"] == kind and subtype in ("", one.get("subtype"))]

    def _one(self, kind: str, subtype: str, place: int) -> Event:
        found = self.of(kind, subtype)
        assert found, f"no {kind} {subtype}; exit {self.code}: {self.stderr}{self.events[-3:]}"
        return found[place]

    @property
    def init(self) -> Event:
        """What the client had at its start: tools, skills, agents, mcp_servers, plugin_errors."""
        return self._one("system", "init", 0)

    @property
    def result(self) -> Event:
        """The last result; each time that a background agent wakes the client there is one more."""
        return self._one("result", "", -1)

    @property
    def text(self) -> str:
        """The text of the last result."""
        return str(self.result.get("result", ""))

    @property
    def denials(self) -> list[Event]:
        """The tool calls that permissions forbade, of all results."""
        return [denial for one in self.of("result") for denial in one.get("permission_denials", [])]

    @property
    def notifications(self) -> list[Event]:
        """What the main thread was told of background agents that ended."""
        return self.of("system", "task_notification")

    def passed(self) -> Self:
        """Hold that the run did what it was asked; exit 0 alone does not say so."""
        result = self.result
        said = (self.code, result["is_error"], result["subtype"], result["terminal_reason"])
        assert said == (0, False, "success", "completed"), f"{said}: {self.stderr}{result}"
        assert self.text, f"an empty result: {result}"
        return self


class RunningSession:
    """A client that runs; `events` grows while it does."""

    def __init__(self, words: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> None:
        self.mark = uuid.uuid4().hex
        self.events: list[Event] = []
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - `close` does
        self.process = subprocess.Popen(
            words,
            cwd=cwd,
            env={**environment, _MARK: self.mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"type": "not JSON", "line": line.decode("utf-8", "replace")}
            self.events.append(event)

    @property
    def pid(self) -> int:
        """The client's process id, and its process group's."""
        return self.process.pid

    @property
    def stderr(self) -> str:
        """What it has said on standard error so far."""
        size = os.fstat(self._stderr.fileno()).st_size
        return os.pread(self._stderr.fileno(), size, 0).decode("utf-8", "replace")

    @property
    def processes(self) -> list[int]:
        """The pids of the client and of all that it started and that still runs."""
        return [one.pid for one in marked(self.mark)]

    def until(self, look: Callable[[Event], object], *, seconds: float = PATIENCE) -> Event:
        """Wait for an event of which *look* is true; return it."""

        def found() -> Event | None:
            ended = self.process.poll() is not None and not self._reader.is_alive()
            event = next((one for one in list(self.events) if look(one)), None)
            assert event or not ended, f"it ended without: {self.stderr}{self.events[-3:]}"
            return event

        event = eventually(found, "an event of the client", seconds=seconds)
        assert event is not None
        return event

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the client itself."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End the client as a crash does (SIGKILL); what it started is not touched."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def wait(self, timeout: float = PATIENCE) -> Session:
        """Wait for its end."""
        deadline = time.monotonic() + timeout
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the client ran for {timeout:g} s: {self.stderr}{self.events[-3:]}"
            ) from None
        # What its server has begun at its end: it releases what was held.
        while any("mcp_server.py end " in " ".join(_words(one)) for one in marked(self.mark)):
            assert time.monotonic() < deadline, "what is to be done at the client's end is not"
            time.sleep(0.02)
        self._reader.join(max(1.0, deadline - time.monotonic()))
        assert not self._reader.is_alive(), f"somebody holds its output open: {marked(self.mark)}"
        return Session(code, list(self.events), self.stderr)

    def close(self) -> None:
        """End it and all that it started, and let go of its pipes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        # The client gives some of its children groups of their own: the mark finds those. One that is
        # just being started may show only at the second look.
        while left := marked(self.mark):
            for one in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            psutil.wait_procs(left, timeout=PATIENCE)
        self._reader.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._stderr.close()


@dataclass(slots=True)
class Client:
    """A user of the client: a home, a folder to work in, and plugins."""

    path: str
    api: ScriptedApi
    home: Path
    cwd: Path
    plugins: Sequence[Path] = ()
    model: str = MODEL
    tool_search: bool = False
    #: What the environment has beside the usual, for every run.
    extra: Mapping[str, str] = field(default_factory=dict)
    _started: list[RunningSession] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in self._started:
            running.close()

    @property
    def environment(self) -> dict[str, str]:
        """All that the client finds."""
        folders = [*os.defpath.split(":"), "/usr/local/bin"]
        folders += [os.path.dirname(place) for tool in ("git", "uv") if (place := shutil.which(tool))]
        temporary = self.home / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        made = {
            "PATH": ":".join(dict.fromkeys(folders)),
            "HOME": str(self.home),
            "TMPDIR": str(temporary),
            "CLAUDE_CODE_TMPDIR": str(temporary),
            "CLAUDE_CONFIG_DIR": str(self.home / ".claude"),
            "ANTHROPIC_BASE_URL": self.api.url,
            "ANTHROPIC_API_KEY": "sk-ant-of-no-worth",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_ERROR_REPORTING": "1",
            "DISABLE_TELEMETRY": "1",
            "CLAUDE_CODE_MAX_RETRIES": "1",
        }
        if os.geteuid() == 0:  # else it refuses to skip permissions
            made["IS_SANDBOX"] = "1"
        if self.tool_search:
            made["ENABLE_TOOL_SEARCH"] = "true"
        return {**made, **self.extra}

    def start(self, prompt: str, *flags: str, env: Mapping[str, str] | None = None) -> RunningSession:
        """Start a session on *prompt*."""
        # The prompt stands right after -p: several flags take all words that follow them.
        words = [self.path, "-p", prompt, "--output-format", "stream-json", "--verbose"]
        words += ["--model", self.model]
        for plugin in self.plugins:
            words += ["--plugin-dir", str(plugin)]
        running = RunningSession([*words, *flags], self.cwd, {**self.environment, **(env or {})})
        self._started.append(running)
        return running

    def run(
        self, prompt: str, *flags: str, env: Mapping[str, str] | None = None, timeout: float = PATIENCE
    ) -> Session:
        """Run a session on *prompt* to its end."""
        running = self.start(prompt, *flags, env=env)
        try:
            return running.wait(timeout)
        finally:
            running.close()

    def command(self, *words: str, timeout: float = PATIENCE) -> Ended:
        """Run one of the client's verbs, such as ``plugin validate``, to its end."""
        done = subprocess.run(
            [self.path, *words],
            cwd=self.cwd,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        out, err = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        return Ended(done.returncode, out, err, done.stdout)
