"""The real MCP server, spoken to line by line over its pipes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from commands import PATIENCE, ROOT, eventually
from hypervisor.core.project import Project
from hypervisor.core.settings import settings_of
from hypervisor.store.events import RunEvent
from hypervisor.store.store import Store

SERVER = (sys.executable, str(ROOT / "scripts/mcp_server.py"))

#: Every tool once, in an order in which each has something to do.
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("list_tasks", {"ready": True, "limit": 5}),
    ("get_task", {"id": "t-1"}),
    ("get_index_stats", {"include_projects": True}),
    ("preflight", {"create_batch": True}),
    ("claim_task", {"id": "t-1", "caller": "claude"}),
    ("update_task", {"id": "t-1", "body": "A note.", "priority": "high"}),
    ("complete_task", {"id": "t-1", "outcome": "made it", "commit": "3f2c1ab"}),
    ("claim_next_task", {"caller": "claude"}),
    ("release_task", {"id": "t-2", "reason": "later"}),
    ("claim_task", {"id": "t-3", "caller": "claude"}),
    ("ask_user", {"id": "t-3", "question": "Which of the two?", "choices": ["this", "that"]}),
    ("batch_status", {}),
    ("wait_for_events", {"timeout": 1}),
    ("batch_summary", {}),
    ("share_finding", {"text": "The index is read twice.", "task_id": "t-1"}),
    ("search_findings", {"query": "index"}),
    ("learn_parallelization", {"task_type": "audit", "parallel_benefit": 0.85, "resource_cost": {"ram": 50}}),
    ("get_task_stats", {}),
    ("spawn_parallel_tasks", {"tasks": [{"description": "Look around."}], "strategy": "parallel"}),
]


class Wire:
    """A server, spoken to line by line."""

    def __init__(self, words: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            words,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.answers: dict[Any, dict[str, Any]] = {}
        self.errors = b""
        #: Lines that are no JSON-RPC.
        self.noise: list[bytes] = []
        self._readers = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                message = json.loads(line)
                assert message["jsonrpc"] == "2.0"
                self.answers[message["id"]] = message
            except (ValueError, KeyError, TypeError, AssertionError):
                self.noise.append(line)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()

    def send(self, *lines: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(line + b"\n" for line in lines))
        self.process.stdin.flush()

    def answer(self, number: Any, seconds: float = 60) -> dict[str, Any]:
        eventually(lambda: number in self.answers, f"the answer to call {number}", seconds=seconds)
        return self.answers[number]

    def ask(self, method: str, **params: Any) -> Any:
        number = f"ask-{len(self.answers)}"
        self.send(request(number, method, params))
        return self.answer(number)

    def initialize(self, version: str = "2025-11-25") -> dict[str, Any]:
        about = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        found: dict[str, Any] = self.ask("initialize", **about)["result"]
        self.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        return found

    def call(self, tool: str, **arguments: Any) -> Any:
        """Call a tool; return its answer, or the text of its refusal."""
        result = self.ask("tools/call", name=tool, arguments=arguments)["result"]
        (content,) = result["content"]
        return content["text"] if result.get("isError") else json.loads(content["text"])

    def end(self) -> int:
        """Close its input; wait for its end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self._wait()

    def signal(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self._wait()

    def _wait(self) -> int:
        code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    def close(self) -> None:
        self.process.kill()
        self._wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


def request(number: Any, method: str, params: Mapping[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode()


def spawning(project: Project, command: str) -> None:
    """Let the tool that spawns run *command*, and no client that may be installed here."""
    project.prepare()
    (project.state / "config.toml").write_text(f'[spawn]\nagent = "exec"\ncommand = "{command}"\n', "utf-8")


def spawned_is_over(project: Project) -> None:
    """Wait for the coordinators that were started."""
    with Store.open(project.state, settings_of(project.state), create=False) as store:

        def runs(kind: RunEvent) -> int:
            return sum(event.kind == kind for event in store.events.since(0))

        eventually(
            lambda: 0 < runs(RunEvent.STARTED) == runs(RunEvent.FINISHED), "the end of what was spawned"
        )
