"""A session that rests is woken when a worker or a run of it has ended, by a hook or by a monitor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT, Running, Shell, eventually, shell
from hookclient import WORKER, age, finish, held, hold, open_store
from hypervisor.core.project import Project
from hypervisor.hooks import delivery
from hypervisor.hooks.call import Call
from hypervisor.hooks.waker import WAKE, SessionWaker
from hypervisor.store.sessions import MAIN
from talkingclient import TalkingClient


@pytest.fixture
def client(project: Project, tmp_path: Path) -> TalkingClient:
    return TalkingClient(project, tmp_path / "transcript.jsonl")


@pytest.fixture
def user(project: Project, tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        made.cwd = project.root
        yield made


def work(project: Project, *tasks: str) -> None:
    """Let an agent each do these tasks."""
    for task in tasks:
        hold(project, task, f"agent-{task}")
        finish(project, task, f"agent-{task}")


def _sleeps(running: Running) -> bool:
    """Return whether a command waits already: it has looked once."""
    try:
        where = Path(f"/proc/{running.pid}/wchan").read_text()
    except OSError:
        time.sleep(1.0)
        return True
    return "sleep" in where


@pytest.fixture
def attend(project: Project, client: TalkingClient, user: Shell) -> Callable[..., Running]:
    """A function that starts `attend.py` as the client's hook does."""
    user.extra |= {"CLAUDE_PROJECT_DIR": str(project.root), "CLAUDE_CODE_SESSION_ID": "s-1"}
    client.write(type="user", message={"content": "go"})

    def start(*words: str, pid: int = os.getpid(), **fields: Any) -> Running:
        call = {
            "session_id": "s-1", "hook_event_name": "Stop", "stop_hook_active": False,
            "transcript_path": str(client.transcript), "prompt_id": "p1", **fields,
        }  # fmt: skip
        path = project.root.parent / "call.json"
        path.write_text(json.dumps(call))
        user.extra["HYPERVISOR_CLIENT_PID"] = str(pid)
        command = f"exec {sys.executable} {ROOT}/scripts/attend.py {' '.join(words)} < {path}"
        return user._start(["sh", "-c", command], None, {})

    return start


@pytest.mark.slow
def test_at_the_end_of_a_turn_a_hook_waits_for_the_workers_and_wakes_the_client(
    project: Project, client: TalkingClient, attend: Callable[..., Running]
) -> None:
    assert attend().end().code == 0  # nothing is under way
    for agent in ("a1", "a2"):
        client.hook("SubagentStart", agent, agent_type=WORKER)
    hold(project, "t-1", "a1")
    waiting = attend()
    eventually(lambda: _sleeps(waiting), "the hook")
    assert attend().end().code == 0  # one is enough
    finish(project, "t-1", "a1")
    woken = waiting.end()
    assert woken.code == WAKE
    assert "- t-1 success: made it" in woken.err
    client.give(woken.err, "Stop")
    client.speak()
    # A worker of which no hook tells the end: the client has noted it where it queued its own notice.
    again = attend()
    eventually(lambda: _sleeps(again), "the hook")
    for agent in ("a1", "a2"):
        note = f"<task-notification>\n<task-id>{agent}</task-id>\n</task-notification>"
        client.write(type="queue-operation", operation="enqueue", content=note)
    woken = again.end()
    assert woken.code == WAKE
    assert "a2 left without a task" in woken.err
    assert "t-1" not in woken.err


def test_a_hook_that_waits_ends_when_the_turn_goes_on_and_when_the_client_is_gone(
    project: Project, client: TalkingClient, attend: Callable[..., Running]
) -> None:
    client.hook("SubagentStart", "a1", agent_type=WORKER)
    hold(project, "t-1", MAIN)
    hold(project, "t-2", "a1")
    waiting = attend()
    eventually(lambda: _sleeps(waiting), "the hook")
    assert client.hook("Stop", stop_hook_active=False) == ""  # it asks for t-1 to be ended
    assert waiting.end().code == 0
    sleeper = subprocess.Popen(["sleep", "60"])
    waiting = attend(pid=sleeper.pid)
    eventually(lambda: _sleeps(waiting), "the hook")
    sleeper.kill()
    sleeper.wait()
    assert waiting.end().code == 0


@pytest.mark.parametrize("arrives", [False, True])
def test_what_stood_in_a_prompt_that_was_blocked_wakes_the_client(
    project: Project, client: TalkingClient, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    monkeypatch.setattr(delivery, "_BLOCKED_MS", 60_000 if arrives else 500)  # so it has to stay
    client.hook("SubagentStart", "agent-t-1", agent_type=WORKER)
    work(project, "t-1")
    said = client.hook("UserPromptSubmit", prompt="the client's own notice")
    assert "- t-1 success: made it" in said
    client.hook("SubagentStop", "agent-t-1", agent_type=WORKER)
    if arrives:
        client.give(said, "UserPromptSubmit")
    call = Call(event="Stop", session="s-1", transcript=str(client.transcript))
    with open_store(project) as store:
        woken = SessionWaker(project, store, call, lambda: False).await_end({})
    assert ("- t-1 success: made it" in woken) is not arrives


def test_what_a_silent_worker_held_is_free_before_the_client_is_woken(
    project: Project, client: TalkingClient
) -> None:
    client.hook("SubagentStart", "a1", agent_type=WORKER)
    path = hold(project, "t-1", "a1")
    age(project, "t-1", 5000)
    call = Call(event="Stop", session="s-1", transcript=str(client.transcript))
    with open_store(project) as store:
        woken = SessionWaker(project, store, call, lambda: False).await_end({})
    assert "- t-1 lost its worker: silent for longer than its lease" in woken
    assert held(project) == set()
    assert "status: active" in path.read_text("utf-8")


def test_a_run_that_died_wakes_the_client(project: Project, client: TalkingClient) -> None:
    hold(project, "t-1", MAIN)
    with open_store(project) as store:
        batch = store.batches.create("b-1", "b-1", {}).id
        with store.sessions.background_run("s-1", batch):
            store.engine.write(lambda tx: tx.run("UPDATE background_run SET process_start = '0'"))
            call = Call(event="Stop", session="s-1", transcript=str(client.transcript))
            woken = SessionWaker(project, store, call, lambda: False).await_end({})
    assert "- b-1 run over: its coordinator died; resume it with `hypervisor run --resume b-1`" in woken
