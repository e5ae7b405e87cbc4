"""The tools and the commands on 1,000 to 100,000 tasks, with 1 and 16 processes: p50 and p99 of each.

A server is the real one, `scripts/mcp_server.py` with uv, spoken to over its pipes, so that a figure is
what a client waits for. A command is a whole process, from `uv run` on. Every process works as agents do:
it looks, claims the next task, notes something, and completes it or gives it back. Beside the time that
passes stands the CPU time of the server, or of the command, which other load changes little.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench.measure import SCRIPTS, Figures, Row, Say, Times, ground, percentiles, together

_STATUSES = ["To Do"] * 6 + ["Done"] * 3 + ["In Progress"]
_CONFIG = """project_name: "demo"
default_status: "To Do"
statuses: ["To Do", "In Progress", "Done"]
labels: []
date_format: yyyy-mm-dd
auto_open_browser: false
remote_operations: false
auto_commit: false
filesystem_only: true
check_active_branches: false
task_prefix: "task"
"""
#: What `uv run` and Python's start take by themselves, as a yardstick.
_EMPTY = '# /// script\n# requires-python = ">=3.11"\n# dependencies = []\n# ///\n'


def _tasks(size: int) -> Iterator[tuple[int, str, str, list[int]]]:
    """Yield number, status, priority, and what it waits for: with a third, one to three earlier ones."""
    rolled = random.Random(1)
    for number in range(1, size + 1):
        waits = rolled.sample(range(1, number), min(number - 1, rolled.choice([0, 0, 0, 0, 1, 3])))
        yield number, rolled.choice(_STATUSES), rolled.choice(["high", "medium", "low"]), waits


def lay_out(folder: Path, size: int) -> None:
    """Make a project of *size* tasks, a file each, as Backlog.md keeps them; we read the same."""
    tasks = folder / "backlog/tasks"
    tasks.mkdir(parents=True)
    (folder / ".hypervisor").mkdir(mode=0o700)
    (folder / "backlog/config.yml").write_text(_CONFIG, "utf-8")
    for number, status, priority, waits in _tasks(size):
        (tasks / f"task-{number} - Task-{number}.md").write_text(
            f"---\nid: task-{number}\ntitle: Task {number}\nstatus: {status}\nassignee: []\n"
            f"created_date: '2026-01-01 12:00'\nlabels: [l-{number % 7}]\nproject: p-{number % 20}\n"
            f"priority: {priority}\ndependencies: [{', '.join(f'task-{other}' for other in waits)}]\n---\n\n"
            f"## Description\n\nWhat has to be done for number {number}, in a sentence or two.\n",
            "utf-8",
        )


def uv() -> str:
    """Return the uv that is run: not a shim of pyenv or the like, which takes longer than uv itself."""
    beside = os.path.join(sys.base_prefix, "bin", "uv")
    if os.access(beside, os.X_OK):
        return beside
    for folder in os.environ["PATH"].split(os.pathsep):
        path = os.path.join(folder, "uv")
        if os.access(path, os.X_OK) and not folder.endswith("shims"):
            return path
    return shutil.which("uv") or "uv"


def script(name: str) -> list[str]:
    """Return the command that runs one of our scripts, as the plugin and `bin/hypervisor` do."""
    return ["sh", str(SCRIPTS / "launch"), name]


def environment(folder: Path) -> dict[str, str]:
    """Return an environment with nothing that the user has set for the product."""
    # PYTHONDONTWRITEBYTECODE, which some shells set, has each start compile all of us.
    left_out = ("HYPERVISOR_", "CLAUDE_", "VIRTUAL_ENV", "PYTHON")
    mine = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
    return mine | {"CLAUDE_PROJECT_DIR": str(folder), "HYPERVISOR_CALLER": "claude"}


class Server:
    """An MCP server that runs, and its client."""

    def __init__(self, folder: Path, session: str) -> None:
        began = time.perf_counter()
        self._process = subprocess.Popen(
            script("mcp_server.py"), cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=environment(folder) | {"CLAUDE_CODE_SESSION_ID": session},
        )  # fmt: skip
        self._number = 0
        self._server = 0
        self._ask("initialize", {
            "protocolVersion": "2025-06-18", "capabilities": {},
            "clientInfo": {"name": "bench", "version": "1"},
        })  # fmt: skip
        self._say({"method": "notifications/initialized"})
        #: Seconds from its start to its first answer.
        self.started = time.perf_counter() - began

    def call(self, tool: str, **arguments: Any) -> Any:
        """Call a tool; return its answer.

        Raises:
            RuntimeError: It was refused.
        """
        answer = self._ask("tools/call", {"name": tool, "arguments": arguments})
        text = answer["content"][0]["text"]
        if answer.get("isError"):
            raise RuntimeError(f"{tool}: {text}")
        return json.loads(text)

    @property
    def pid(self) -> int:
        """The server's own process, which uv has started: the largest of them."""
        import psutil  # noqa: PLC0415 - of the environment that runs this

        if not self._server:
            first = psutil.Process(self._process.pid)
            found = [first, *first.children(recursive=True)]
            self._server = max(found, key=lambda one: one.memory_info().rss).pid
        return self._server

    @property
    def memory(self) -> int:
        """Bytes of memory in use."""
        import psutil  # noqa: PLC0415 - of the environment that runs this

        memory: int = psutil.Process(self.pid).memory_info().rss
        return memory

    @property
    def cpu(self) -> float | None:
        """Seconds of CPU time so far, to the nanosecond; None where the system does not tell."""
        total = 0
        try:
            for thread in Path(f"/proc/{self.pid}/task").iterdir():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    total += int((thread / "schedstat").read_text("ascii").split()[0])
        except FileNotFoundError:
            return None
        return total / 1e9 if total else None

    def close(self) -> None:
        """End it, as a client does."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _ask(self, method: str, params: Any) -> Any:
        self._number += 1
        self._say({"id": self._number, "method": method, "params": params})
        assert self._process.stdout is not None
        while True:
            line = self._process.stdout.readline()
            if not line:
                raise RuntimeError(f"the server ended at {method}")
            message = json.loads(line)
            if message.get("id") == self._number:
                return message["result"]

    def _say(self, message: Row) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self._process.stdin.flush()


# ------------------------------------------------------------------------ tools


def tools(folder: Path, size: int, processes: int, calls: int) -> list[Row]:
    """Measure the tools of *processes* servers on the *size* tasks of *folder*, *calls* rounds in all."""
    opened: list[Server | None] = [None] * processes
    times = Times()

    def start(number: int) -> None:
        opened[number] = Server(folder, f"s-{number}")
        with times.of("first list_tasks"):
            server(number).call("list_tasks")

    def server(number: int) -> Server:
        found = opened[number]
        assert found is not None
        return found

    together(processes, start)
    what = {"kind": "tool", "size": size, "processes": processes}
    began = [one.started for one in opened if one]
    rows = [what | {"name": "start-up, to the first answer", **percentiles(began)}]
    # Warm: the round in which each tool is called for the first time does not count.
    together(processes, lambda number: _work(server(number), number, size, 2, Times()))
    together(processes, lambda number: _work(server(number), number, size, max(calls // processes, 3), times))
    rows += times.rows(**what)
    memory = sorted(one.memory for one in opened if one)
    rows.append(what | {"name": "memory of a server", "mib": round(memory[len(memory) // 2] / (1 << 20), 1)})
    together(processes, lambda number: server(number).close())
    return rows


def _work(server: Server, number: int, size: int, rounds: int, times: Times) -> None:
    mine = {"caller_session": f"s-{number}", "caller_agent": "main"}
    of = partial(times.of, server=server)
    for turn in range(rounds):
        some = f"task-{(turn * 7919 + number * 104729) % size + 1}"
        with of("list_tasks"):
            server.call("list_tasks", limit=50)
        with of("list_tasks status, project"):
            server.call("list_tasks", status="active", project="p-3", limit=50)
        with of("list_tasks ready"):
            server.call("list_tasks", ready=True, limit=50)
        with of("get_task"):
            server.call("get_task", id=some)
        with of("get_index_stats"):
            server.call("get_index_stats", include_projects=True)
        with of("preflight 5 ids"):
            server.call("preflight", ids=[f"task-{(turn * 5 + n) % size + 1}" for n in range(5)])
        with of("claim_next_task"):
            taken = server.call("claim_next_task", caller="claude", **mine)["task"]
        if taken is None:
            return
        with of("update_task"):
            server.call("update_task", id=taken["id"], body="Half of it is done.", **mine)
        if turn % 4 == 3:
            with of("release_task"):
                server.call("release_task", id=taken["id"], reason="not now", **mine)
        else:
            with of("complete_task"):
                server.call("complete_task", id=taken["id"], outcome="made it", **mine)
        if turn % 4 == 1:
            with of("claim_task"), contextlib.suppress(RuntimeError):
                server.call("claim_task", id=some, caller="claude", **mine)
            with contextlib.suppress(RuntimeError):
                server.call("release_task", id=some, reason="only to see", **mine)


# --------------------------------------------------------------------- commands


def commands(folder: Path, size: int, processes: int, calls: int) -> list[Row]:
    """Measure whole commands, *processes* at once, with *size* tasks in *folder*, *calls* of each in all."""
    times = Times()
    environ = environment(folder)
    empty = folder / "empty.py"
    empty.write_text(_EMPTY, "utf-8")

    def run(name: str, *words: str) -> str:
        return timed(name, *script("hypervisor_cli.py"), *words)

    def timed(name: str, *words: str) -> str:
        began = time.perf_counter()
        process = subprocess.Popen(
            words, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        with process.stdout:
            said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)  # of uv, and of what it has started
        process.returncode = os.waitstatus_to_exitcode(status)
        times.add(name, time.perf_counter() - began, used.ru_utime + used.ru_stime)
        if process.returncode not in (0, 3):
            raise RuntimeError(f"{' '.join(words)}: {said}")
        return said

    def work(number: int) -> None:
        for turn in range(max(calls // processes, 1)):
            some = str((turn * 7919 + number * 104729) % size + 1)
            timed("(an empty script)", uv(), "run", "--quiet", "--python", ">=3.11", "--script", str(empty))
            run("--help", "--help")
            run("task list --limit 50", "task", "list", "--limit", "50")
            run("task list --ready --limit 50", "task", "list", "--ready", "--limit", "50")
            run("task show ID", "task", "show", f"task-{some}")
            run("status", "status")
            run("preflight ID ID", "preflight", f"task-{some}", "task-1")
            taken = run("task claim --next", "task", "claim", "--next", "--json")
            task = json.loads(taken)["task"]
            if task is not None:
                claim = str(json.loads(taken)["claim"]["attempt"])
                end = ["--attempt", claim, "--outcome", "made it"]
                run("task complete", "task", "complete", task["id"], *end)

    run("first look at all files", "task", "list", "--limit", "1")
    if calls:
        together(processes, work)
    return times.rows(kind="command", size=size, processes=processes)


def scale(where: Path, sizes: dict[int, int], processes: tuple[int, ...], calls: int, say: Say) -> list[Row]:
    """Measure P4: the tools on projects of several sizes, and the commands.

    Args:
        where: Where to work.
        sizes: Of each number of tasks, how often each command is measured; 0 for not at all.
        processes: How many servers there are at once, in turn.
        calls: How often each tool is called.
        say: Shows one line.
    """
    found = Figures("P4", say)
    for size, rounds in sizes.items():
        with ground(where) as folder:
            lay_out(folder, size)
            rows = commands(folder, size, 1, rounds)
            for count in processes:
                rows += tools(folder, size, count, calls)
            for row in rows:
                servers = f", {row['processes']} servers" if row["kind"] == "tool" else ""
                found.add(
                    f"{row['kind']}, {size:,} tasks{servers}: {row['name']}", p50_ms=row.get("p50_ms"),
                    p99_ms=row.get("p99_ms"), CPU_ms=row.get("cpu_ms"), MiB=row.get("mib"),
                )  # fmt: skip
    return found.rows
