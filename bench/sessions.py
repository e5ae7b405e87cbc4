"""P5 and P11: what the plugin costs a session of the real clients; a server's start beside a bare one.

The clients are headless, the model is a script on loopback (`tests/acceptance`), and no service is called. Of
writes: a session that writes forty files, less one that writes none, so that a client's start does not
count; without the plugin, with the plugin in a project that does not use it, and in a worker that has claimed
a task.
CPU is that of the client and of all that it starts; processes are counted with strace in another session.
Of starts: the time until the client makes its first request. Needs the clients: tests/acceptance/install.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import ROOT, SCRIPTS, Figures, Row, Say, ground

sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from acceptance.api import Reply, ScriptedApi, Turn, calls, say, use  # noqa: E402
from acceptance.client import Client, find_client  # noqa: E402
from acceptance.product import RULES, claim, done, worker  # noqa: E402
from commands import script, write_task  # noqa: E402

#: Names that `tests/acceptance/clients` gives the newest and the oldest client that is tested.
_CLIENTS = ("claude-code", "claude-code-older")
_PLAIN, _UNUSED, _WORKER = "without the plugin", "with the plugin, unused", "a worker"
#: Seconds that a session may take.
_PATIENCE = 600.0
#: Runs the client, and writes down what it and its children have used.
_METER = """import json, os, sys
code = os.spawnv(os.P_WAIT, sys.argv[2], sys.argv[2:])
used = os.times()
open(sys.argv[1], "w").write(json.dumps(used.children_user + used.children_system))
sys.exit(code)
"""
_BARE = "from mcp.server.mcpserver import MCPServer\nMCPServer('bare').run()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What one session used, in seconds."""

    cpu: float
    wall: float
    #: From its start to its first request.
    first: float
    #: Programs that were started; 0 where they were not counted.
    processes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A home in which both clients and the plugin have been used before, and a folder for projects."""

    home: Path
    place: Path

    @classmethod
    def new(cls, folder: Path) -> User:
        """Make one; the packages that the plugin needs are there."""
        home = folder / "home"
        home.mkdir()
        keep = {"PATH": os.environ["PATH"], "HOME": str(home), "UV_CACHE_DIR": _uv_cache()}
        subprocess.run([SCRIPTS / "prepare"], env=keep, check=True)
        return cls(home=home, place=folder)

    def session(self, path: str, mode: str, writes: int, *, count: bool = False, tasks: bool = True) -> Used:
        """Run one session of the client at *path* to its end."""
        project = self.place / f"project-{time.monotonic_ns()}"
        project.mkdir()
        meter, log = self.place / "meter.json", self.place / "execve"
        log.unlink(missing_ok=True)
        words = f"exec {sys.executable} -c '{_METER}' {meter} {path} \"$@\""
        if count:
            words = f'exec strace -f -qq -e trace=execve -e status=successful -o {log} {path} "$@"'
        if mode == _WORKER or (tasks and mode == "start"):
            write_task(project / "tasks/t-1.md")
        plugins = [] if mode == _PLAIN else [ROOT]
        asked: list[float] = []

        def first(_: Turn) -> Reply:
            asked.append(time.monotonic())
            if mode == _WORKER:
                return calls(worker("t-1", run_in_background=False))
            return _write(project, 0) if writes else say("nothing to do")

        more = [_write(project, number) for number in range(writes)]
        with ScriptedApi() as api, contextlib.ExitStack() as stack:
            if mode == _WORKER:
                api.agent("t-1", calls(claim("t-1")), *more, calls(done("t-1")), say("did it"))
                api.main(first, say("all done"))
            else:
                api.main(first, *more[1:], say("all done"))
            client = stack.enter_context(
                Client(script(self.place, "client", words), api, self.home, project, plugins)
            )
            began = time.monotonic()
            client.run("go on", *RULES, "--permission-mode", "acceptEdits", timeout=_PATIENCE).passed()
            wall = time.monotonic() - began
        cpu = 0.0 if count else float(json.loads(meter.read_text("utf-8")))
        started = (
            sum("execve(" in line for line in log.read_text("utf-8", "replace").splitlines()) if count else 0
        )
        return Used(cpu=cpu, wall=wall, first=asked[0] - began, processes=started)


def _write(project: Path, number: int) -> Reply:
    return calls(use("Write", file_path=str(project / f"f-{number}.txt"), content=f"{number}\n"))


def _uv_cache() -> str:
    uv = subprocess.run([SCRIPTS / "ensure-uv"], capture_output=True, text=True, check=True).stdout.strip()
    return subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()


def _clients() -> Iterator[tuple[str, str]]:
    """Yield version and path of each client that is installed."""
    for name in _CLIENTS:
        if path := find_client(name):
            told = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
            yield told.split()[0], path


def tool_calls(where: Path, rounds: int, writes: int, say: Say) -> list[Row]:
    """Measure P5: what each of so many writes costs, by client."""
    found = Figures("P5", say)
    with ground(where) as folder:
        user = User.new(folder)
        for version, path in _clients():
            for number in range(rounds + 1):
                plain = 0.0
                for mode in (_PLAIN, _UNUSED, _WORKER):
                    none, some = (user.session(path, mode, count) for count in (0, writes))
                    took = 1000 * (some.cpu - none.cpu) / writes
                    plain = plain if mode != _PLAIN else took
                    if number:  # the first warms the caches
                        found.add(f"{version}, {mode}", CPU_ms_a_call=took, more_CPU_ms_a_call=took - plain,
                                  wall_ms_a_call=1000 * (some.wall - none.wall) / writes)  # fmt: skip
            base = 0.0
            for mode in (_PLAIN, _UNUSED, _WORKER) if shutil.which("strace") else ():
                none, some = (user.session(path, mode, count, count=True) for count in (0, writes))
                each = (some.processes - none.processes) / writes
                base = base if mode != _PLAIN else each
                found.add(f"{version}, {mode}", processes_in_all=some.processes, processes_a_call=each,
                          more_processes_a_call=each - base)  # fmt: skip
    return found.rows


def session_starts(where: Path, rounds: int, say: Say) -> list[Row]:
    """Measure how long a session takes to its first request."""
    found = Figures("start", say)
    with ground(where) as folder:
        user = User.new(folder)
        for version, path in _clients():
            for number in range(rounds + 1):
                for name, mode, tasks in (
                    (_PLAIN, _PLAIN, False),
                    ("with the plugin, an empty folder", "start", False),
                    ("with the plugin, a folder with tasks", "start", True),
                ):
                    used = user.session(path, mode, 0, tasks=tasks)
                    if number:
                        found.add(f"{version}, {name}", first_request_s=used.first, CPU_s=used.cpu)
    return found.rows


def server_starts(where: Path, rounds: int, say: Say) -> list[Row]:
    """Measure P11: from a server's start to its tools, beside a bare server on the Python SDK."""
    found = Figures("P11", say)
    with ground(where) as folder:
        user = User.new(folder)
        (folder / "tasks").mkdir()
        ways = {
            "a bare server on the Python SDK": [sys.executable, "-c", _BARE],
            "**Hypervisor**": ["sh", str(SCRIPTS / "launch"), "mcp_server.py"],
        }
        for number in range(rounds + 1):
            base = 0.0
            for name, words in ways.items():
                cpu, wall = _listed(words, folder, user.home)
                base = base or cpu
                if number:
                    found.add(name, CPU_ms=1000 * cpu, wall_ms=1000 * wall, ratio=cpu / base)
    return found.rows


def _listed(words: list[str], cwd: Path, home: Path) -> tuple[float, float]:
    """Return the seconds of CPU and of wall time from a server's start until it has listed its tools."""
    hello = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "bench", "version": "1"},
    }
    said: tuple[dict[str, Any], ...] = (
        {"id": 1, "method": "initialize", "params": hello},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/list", "params": {}},
    )
    began = time.monotonic()
    with subprocess.Popen(
        words, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
    ) as server:  # fmt: skip
        assert server.stdin is not None
        assert server.stdout is not None
        for one in said:
            server.stdin.write(json.dumps({"jsonrpc": "2.0", **one}).encode() + b"\n")
            server.stdin.flush()
            if "id" in one:
                while json.loads(server.stdout.readline()).get("id") != one["id"]:
                    pass
        wall = time.monotonic() - began
        fields = Path(f"/proc/{server.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        cpu = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # with that of children that have ended
        server.stdin.close()
    return cpu, wall
