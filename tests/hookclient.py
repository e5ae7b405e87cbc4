"""A client's session in a project: what it says to our hooks, and what it is answered."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT, write_task
from hypervisor.core.model import Outcome, TaskStatus
from hypervisor.core.project import Project
from hypervisor.core.settings import load_settings
from hypervisor.hooks import handler
from hypervisor.mcp.hook_tool import HookTool
from hypervisor.store.sessions import MAIN
from hypervisor.store.store import Store
from hypervisor.tasks.actor import Actor
from hypervisor.tasks.completion import TaskCompletion
from hypervisor.tasks.service import TaskService

DONE = TaskCompletion(outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text="made it")
BLOCKED = TaskCompletion(
    outcome=Outcome.BLOCKED, status=TaskStatus.BLOCKED, text="no key", next_step="get one"
)
WORKER = "hypervisor:worker"
#: As usual, but whatever else the machine does.
USUAL = "[agents]\nmax_ram_percent = 100\n"
#: The client names each use of a tool anew.
_USES = itertools.count(2)


@dataclass(frozen=True, slots=True)
class Client:
    """A client's session."""

    project: Project
    capsys: pytest.CaptureFixture[str]
    session: str = "s-1"
    #: The server that answers; None where each call is a process of its own, as from `scripts/hook.py`.
    server: HookTool | None = None

    @property
    def environ(self) -> dict[str, str]:
        return {"CLAUDE_PROJECT_DIR": str(self.project.root)}

    def raw(self, data: bytes) -> tuple[str, str]:
        """Return what a hook says to *data*, on standard output and on standard error."""
        given = fields_for_tool(data) if self.server is not None else None
        if self.server is None or given is None:
            assert handler.main(io.BytesIO(data), self.environ) == 0
            said = self.capsys.readouterr()
            return said.out, said.err
        answer = self.server.from_memory(given)
        text = answer if isinstance(answer, str) else self.server.answer(given)
        assert isinstance(json.loads(text), dict)
        return "" if text == "{}" else f"{text}\n", self.capsys.readouterr().err

    def call(self, event: str, agent: str = MAIN, **fields: Any) -> Any:
        """Return the answer to a call but for notices, None if there is none; no fault."""
        out, err = self.raw(json.dumps(self.payload(event, agent, **fields)).encode())
        assert err == "", err
        assert len(out.splitlines()) <= 1
        return without_notices(json.loads(out)) if out else None

    def payload(self, event: str, agent: str = MAIN, **fields: Any) -> dict[str, Any]:
        who = {} if agent == MAIN else {"agent_id": agent, "agent_type": WORKER}
        where = {"cwd": str(self.project.root), "transcript_path": "/home/u/.claude/p/x.jsonl"}
        return {"session_id": self.session, **where, "hook_event_name": event, **who, **fields}

    def tool(self, event: str, tool: str, agent: str = MAIN, **fields: Any) -> Any:
        """Say that a tool is about to run, has run, or has failed."""
        fields = {"tool_input": {}, "tool_use_id": f"toolu_{next(_USES)}", **fields}
        return self.call(event, agent, tool_name=tool, **fields)

    def spawn(self, prompt: str, kind: str = WORKER, use: str = "toolu_1") -> str:
        """Ask for an agent; return why it is denied, "" if it is not."""
        answer = self.tool(
            "PreToolUse", "Agent", tool_input={"prompt": prompt, "subagent_type": kind}, tool_use_id=use
        )
        return reason(answer) if answer else ""

    def launch(self, agent: str, by: str = MAIN, prompt: str = "/pull t-1", use: str = "toolu_1") -> None:
        """Say that *by* has put an agent into the background."""
        answer = self.tool(
            "PostToolUse", "Agent", by, tool_use_id=use,
            tool_input={"prompt": prompt, "subagent_type": WORKER, "run_in_background": True},
            tool_response={"isAsync": True, "status": "async_launched", "agentId": agent, "prompt": prompt},
        )  # fmt: skip
        assert answer is None


def fields_for_tool(data: bytes) -> dict[str, str] | None:
    """Return what the client makes of a command hook's input for a tool, None if it is none."""
    try:
        fields = json.loads(data)
        return {key: one if isinstance(one, str) else json.dumps(one) for key, one in fields.items()}
    except (ValueError, RecursionError, AttributeError):
        return None


def without_notices(answer: Any) -> Any:
    """Return an answer without its notices, None if that is all."""
    said = answer.get("hookSpecificOutput", answer)
    key = "additionalContext" if "additionalContext" in said else "reason"
    if "[notice " not in said.get(key, ""):
        return answer
    lines = said[key].split("\n")
    first = next(number for number, line in enumerate(lines) if "[notice " in line)
    said[key] = "\n".join(lines[:first])
    return answer if said[key] else None


def reason(answer: Any) -> str:
    """Return why a tool call is denied."""
    said = answer["hookSpecificOutput"]
    assert (said["hookEventName"], said["permissionDecision"]) == ("PreToolUse", "deny")
    assert set(said) == {"hookEventName", "permissionDecision", "permissionDecisionReason"}
    return str(said["permissionDecisionReason"])


def open_store(project: Project) -> Store:
    """Open the project's store, which must be closed."""
    return Store.open(project.state, load_settings(project.state))


def service(project: Project, agent: str = "", session: str = "s-1", name: str = "claude") -> TaskService:
    """Return the project's tasks, for an agent or a person."""
    actor = Actor(name=name, session=session if agent else "", agent=agent)
    project.prepare()
    return TaskService(project, load_settings(project.state), actor)


def task_file(project: Project, name: str = "t-1", **keys: str) -> Path:
    return write_task(project.root / "tasks" / f"{name}.md", **keys)


def hold(project: Project, task: str, agent: str, session: str = "s-1", **keys: str) -> Path:
    """Write a task and let an agent claim it; return its file."""
    path = task_file(project, task, **keys)
    with service(project, agent, session) as mine:
        mine.claim(task)
    return path


def finish(project: Project, task: str, agent: str, completion: TaskCompletion = DONE) -> None:
    """Let an agent complete a task."""
    with service(project, agent) as mine:
        mine.finish(task, completion)


def release(project: Project, task: str, agent: str, why: str = "not now") -> None:
    """Let an agent release a task."""
    with service(project, agent) as mine:
        mine.release(task, why)


def cancel(project: Project, task: str, why: str = "") -> None:
    """Let a person cancel a task."""
    with service(project, name="tobi") as persons:
        persons.cancel(task, why)


def take_away(project: Project, task: str, why: str = "I do it myself") -> None:
    """Let a person release what an agent holds."""
    with service(project, name="tobi") as persons:
        persons.release(task, why, 1)


def set_config(project: Project, text: str) -> None:
    project.prepare()
    (project.state / "config.toml").write_text(text, "utf-8")


def expires_in(project: Project, task: str) -> float:
    """Return the seconds until a claim's lease ends."""
    with open_store(project) as store:
        found = [one for one in store.claims.held_all() if one.text == f"tasks/{task}.md"]
        assert len(found) == 1, found
        return found[0].expires_in / 1000


def age(project: Project, task: str, seconds: float = 100.0) -> float:
    """Make a claim's last heartbeat so much older; return the seconds until its lease ends."""
    statement = (
        "UPDATE attempt SET lease_until = lease_until - :ms "
        "WHERE work IN (SELECT id FROM work WHERE text = :text) AND ended_at IS NULL"
    )
    with open_store(project) as store:
        parameters = {"ms": round(seconds * 1000), "text": f"tasks/{task}.md"}
        store.engine.write(lambda tx: tx.run(statement, parameters))
    return expires_in(project, task)


def held(project: Project) -> set[str]:
    """Return the ids of the tasks that somebody holds."""
    with open_store(project) as store:
        return {Path(one.text).stem for one in store.claims.held_all()}


def last(project: Project, task: str) -> tuple[str, str]:
    """Return what happened to a task last, and why."""
    with open_store(project) as store:
        found = [event for event in store.events.since(0) if event.text == f"tasks/{task}.md"]
    return found[-1].kind, found[-1].detail


def workers(project: Project, session: str = "s-1") -> int:
    """Return how many workers a session runs."""
    with open_store(project) as store:
        return store.sessions.workers(session)


def notification(agent: str, text: str = "COMPLETED t-1: did it") -> str:
    """Return a prompt by which the client says that an agent is over."""
    return (
        f"<task-notification>\n<task-id>{agent}</task-id>\n<tool-use-id>toolu_1</tool-use-id>\n"
        f'<status>completed</status>\n<summary>Agent "t-1" finished</summary>\n<result>{text}</result>\n'
        f"</task-notification>"
    )


def text_of(payload: Mapping[str, Any], key: str) -> str:
    """Return a text of a payload, "" where there is something else."""
    value = payload.get(key)
    return value if isinstance(value, str) else ""


CHILD = """
import io, json, sys
from hypervisor.hooks import handler
root, say, calls = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for call in calls:
    handler.main(io.BytesIO(json.dumps(call).encode()), {"CLAUDE_PROJECT_DIR": root})
    if say:
        print(flush=True)
"""


@contextmanager
def at_once(project: Project, calls: list[list[dict[str, Any]]], say: str = "") -> Iterator[list[str]]:
    """Say each list of calls in a process of its own, all beginning at once; give what each printed."""
    environ = {"PYTHONPATH": str(ROOT / "scripts"), "HOME": os.environ["HOME"], "PATH": os.defpath}
    words = [sys.executable, "-c", CHILD, str(project.root), say]
    running = [
        subprocess.Popen(
            [*words, json.dumps(mine)], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for mine in calls
    ]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        yield [process.communicate(timeout=100)[0] for process in running]
        assert {process.returncode for process in running} == {0}
    finally:
        for process in running:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
