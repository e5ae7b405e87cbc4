"""How many tasks a second many servers give out of one project, and whether any is given out twice.

Starts N servers of the tools, each with a client of its own, on a project of M tasks. Every client
asks for the next task and completes it, until there is none. A task that two clients were given is a
double, one that nobody completed is lost; either ends this with 1. As the yardstick the same number
of processes share the same number of rounds of: make a folder, write 1 KB to a new file, sync it,
rename it; on the same file system, right after.

    uv run bench/claim_next.py [--servers 32] [--tasks 1000] [--folder /where]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

SERVER = Path(__file__).resolve().parent.parent / "scripts/mcp_server.py"
#: Servers that start at once: more only take each other's processor.
GROUP = 8
TASK = "---\nid: t-{0}\ntitle: Task {0}\nstatus: active\n---\n# Task {0}\n\nChange one line.\n"

YARDSTICK = """
import os, sys
folder, rounds = sys.argv[1], int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for number in range(rounds):
    path = f"{folder}/{os.getpid()}-{number}"
    os.mkdir(path)
    descriptor = os.open(path + "/new", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(descriptor, b"x" * 1024)
    os.fsync(descriptor)
    os.close(descriptor)
    os.rename(path + "/new", path + "/whole")
"""


class Client:
    """One client of one server of its own."""

    def __init__(self, root: Path, number: int) -> None:
        self.name = f"s-{number}"
        environ = {**os.environ, "CLAUDE_PROJECT_DIR": str(root), "CLAUDE_CODE_SESSION_ID": self.name}
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.claimed: list[str] = []
        self.completed: list[str] = []
        #: Why a call was turned down, and how the asking ended.
        self.refused: list[str] = []
        self.reason = ""
        self._calls = 0
        about = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "b", "version": "1"},
        }
        self._send({"id": 0, "method": "initialize", "params": about})

    def ready(self) -> None:
        """Wait until the server has answered for the first time."""
        self._answer()
        self._send({"method": "notifications/initialized"})

    def work(self) -> None:
        """Take tasks and complete them, until there is none."""
        while True:
            taken = self._call("claim_next_task", caller="claude")
            if taken is None:
                continue
            if taken["task"] is None:
                self.reason = taken["reason"]
                return
            name = taken["task"]["id"]
            self.claimed.append(name)
            done = self._call("complete_task", id=name, outcome="made it")
            if done is not None and done["result"] == "success":
                self.completed.append(name)

    def end(self) -> None:
        """End the server."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def _call(self, tool: str, **given: Any) -> Any:
        self._calls += 1
        arguments = {**given, "caller_session": self.name, "caller_agent": "a1"}
        params = {"name": tool, "arguments": arguments}
        self._send({"id": self._calls, "method": "tools/call", "params": params})
        result = self._answer()["result"]
        text = result["content"][0]["text"]
        if result.get("isError"):
            self.refused.append(f"{tool}: {text}")
            if len(self.refused) > 1000:
                raise RuntimeError(f"{self.name} is refused over and over: {text}")
            return None
        return json.loads(text)

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self.process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server of {self.name} has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def start(root: Path, count: int) -> list[Client]:
    """Start the servers, some at a time."""
    clients: list[Client] = []
    for first in range(0, count, GROUP):
        group = [Client(root, number) for number in range(first, min(first + GROUP, count))]
        for client in group:
            client.ready()
        clients += group
    return clients


def drain(clients: list[Client]) -> float:
    """Let all clients work at once; return the seconds until the last one is done."""
    threads = [threading.Thread(target=client.work) for client in clients]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - begun


def yardstick(folder: Path, processes: int, rounds: int) -> float:
    """Return the seconds that the bare file system takes for as many rounds by as many processes."""
    folder.mkdir()
    shares = [rounds // processes + (number < rounds % processes) for number in range(processes)]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", YARDSTICK, str(folder), str(share)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for share in shares
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    begun = time.monotonic()
    for process in started:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in started:
        process.wait()
    return time.monotonic() - begun


def report(clients: list[Client], root: Path, tasks: int, seconds: float, bare: float) -> bool:
    """Print the figures; tell whether each task was given out once and completed."""
    given = Counter(name for client in clients for name in client.claimed)
    doubles = {name: count for name, count in given.items() if count > 1}
    completed = {name for client in clients for name in client.completed}
    # What the clients were told, what the store keeps and what the files say must be one.
    results = [json.loads(path.read_bytes()) for path in (root / ".hypervisor/results").iterdir()]
    kept = Counter(result["task_id"] for result in results)
    files = sum("\nstatus: done\n" in path.read_text("utf-8") for path in (root / "tasks").iterdir())
    lost = {f"t-{number}" for number in range(tasks)} - (completed & set(kept))
    refused = Counter(text.split(": ")[0] for client in clients for text in client.refused)
    print(f"servers {len(clients)}, tasks {tasks}, {seconds:.1f} s: {tasks / seconds:.1f} claims per second")
    print(f"doubles {len(doubles)}, lost {len(lost)}, results {len(results)}, files that say done {files}")
    print(f"refused races {sum(refused.values())} {dict(refused) if refused else ''}".rstrip())
    shares = sorted(len(client.claimed) for client in clients)
    print(f"tasks per server: {shares[0]} to {shares[-1]}")
    print(
        f"yardstick mkdir+write+fsync+rename: {tasks / bare:.1f} per second by as many processes; "
        f"ratio {seconds / bare:.1f}"
    )
    for text in sorted({text for client in clients for text in client.refused})[:5]:
        print(f"  refused: {text[:160]}")
    return not doubles and not lost and max(kept.values(), default=0) <= 1 and files == tasks


def main() -> int:
    """Run the servers and the yardstick; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--servers", type=int, default=32)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--folder", help="where to make the project; the system's temporary folder if absent")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="claim-next-", dir=options.folder)).resolve()
    clients: list[Client] = []
    try:
        root = scratch / "project"
        (root / "tasks").mkdir(parents=True)
        for number in range(options.tasks):
            (root / f"tasks/t-{number}.md").write_text(TASK.format(number), "utf-8")
        clients = start(root, options.servers)
        seconds = drain(clients)
        for client in clients:
            client.end()
        bare = yardstick(scratch / "yardstick", options.servers, options.tasks)
        return 0 if report(clients, root, options.tasks, seconds, bare) else 1
    finally:
        for client in clients:
            client.process.kill()
            client.process.wait()
        shutil.rmtree(scratch)


if __name__ == "__main__":
    sys.exit(main())
