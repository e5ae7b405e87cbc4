"""What a session's worker said is kept as the output of its attempts, and shown by `hypervisor log`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Shell, write_task
from hypervisor.core.project import Project
from hypervisor.core.settings import settings_of
from hypervisor.tasks.actor import Actor
from hypervisor.tasks.service import TaskService
from inprocess import in_process
from talkingclient import TalkingClient


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with in_process(tmp_path) as made:
        write_task(made.cwd / "tasks/t-1.md")
        yield made


@pytest.fixture
def client(user: Shell) -> TalkingClient:
    project = Project(user.cwd, user.cwd / ".hypervisor")
    folder = user.home / "projects"
    (folder / "s-1/subagents").mkdir(parents=True)
    return TalkingClient(project, folder / "s-1.jsonl")


def service(client: TalkingClient, agent: str = "a1") -> TaskService:
    actor = Actor(name="claude", session=client.session, agent=agent)
    return TaskService(client.project, settings_of(client.project.state), actor)


def says(client: TalkingClient, *texts: str, agent: str = "a1") -> Path:
    path = client.transcript.parent / f"s-1/subagents/agent-{agent}.jsonl"
    with path.open("a") as file:
        for text in texts:
            content = [{"type": "text", "text": text}]
            file.write(json.dumps({"type": "assistant", "message": {"content": content}}) + "\n")
    return path


def test_the_end_of_a_workers_transcript_outlives_it(user: Shell, client: TalkingClient) -> None:
    with service(client) as tasks:
        tasks.claim("t-1")
    path = says(client, "Looking.", "COMPLETED t-1: made it")
    with service(client) as tasks:
        tasks.release("t-1", "later")
    client.hook("SubagentStop", "a1", stop_hook_active=False, agent_transcript_path=str(path))
    path.unlink()
    told = user.hypervisor("log", "t-1").passed()
    assert told.out == "Looking.\nCOMPLETED t-1: made it\n"
    assert told.err == (
        f"t-1: attempt 1, again; its transcript, which the client keeps for a while as {path}\n"
    )
    assert "assistant" in user.hypervisor("log", "t-1", "--raw").passed().out
    assert user.hypervisor("log", "t-1", "--json").passed().json["log"] == str(path)
    user.hypervisor("preflight", "--all", "--batch").passed()
    assert "Looking." in user.hypervisor("log", "t-1").passed().out


@pytest.mark.parametrize("event", ["StopFailure", "PostToolUse"])
def test_an_end_that_names_no_transcript_finds_it_beside_the_sessions(
    user: Shell, client: TalkingClient, event: str
) -> None:
    with service(client) as tasks:
        tasks.claim("t-1")
    says(client, "Half of it.")
    if event == "StopFailure":
        client.hook(event, "a1", error="rate_limit")
    else:
        client.hook(event, tool_name="Agent", tool_response={"status": "completed", "agentId": "a1"})
    assert user.hypervisor("log", "t-1").passed().out == "Half of it.\n"


def test_of_a_long_transcript_whole_lines_of_the_end_are_kept(user: Shell, client: TalkingClient) -> None:
    with service(client) as tasks:
        tasks.claim("t-1")
    says(client, *("x" * 1000 for _ in range(200)), "the last")
    client.hook("StopFailure", "a1", error="rate_limit")
    told = user.hypervisor("log", "t-1").passed()
    assert told.lines[-1] == "the last"
    assert {len(line) for line in told.lines[:-1]} == {1000}
    assert 40 < len(told.lines) < 65
    assert "the end of its transcript" in told.err


def test_of_a_last_line_that_is_longer_than_what_is_kept_its_end_is_shown(
    user: Shell, client: TalkingClient
) -> None:
    with service(client) as tasks:
        tasks.claim("t-1")
    says(client, "short", "x" * 100_000)
    client.hook("StopFailure", "a1", error="rate_limit")
    assert user.hypervisor("log", "t-1").passed().out.startswith("xxx")


@pytest.mark.parametrize("kind", ["folder", "pipe", "bytes"])
def test_what_is_no_transcript_costs_nobody_a_claim(user: Shell, client: TalkingClient, kind: str) -> None:
    with service(client) as tasks:
        tasks.claim("t-1")
    path = client.transcript.parent / "s-1/subagents/agent-a1.jsonl"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"\xff\0\x1b[2J\n{\n[]\n")
    client.hook("StopFailure", "a1", error="rate_limit")
    told = user.hypervisor("log", "t-1")
    assert "\x1b" not in told.out
    assert "given back" in user.hypervisor("task", "show", "t-1").passed().out


@pytest.mark.parametrize("agent", ["../../a1", "a1/../a1", "b" * 300])
def test_a_strange_name_of_an_agent_leads_nowhere(user: Shell, client: TalkingClient, agent: str) -> None:
    with service(client, agent) as tasks:
        tasks.claim("t-1")
    says(client, "not theirs")
    client.hook("StopFailure", agent, error="rate_limit")
    assert user.hypervisor("log", "t-1").code == 3


def test_a_link_in_the_place_of_a_transcript_is_not_followed(user: Shell, client: TalkingClient) -> None:
    with service(client) as tasks:
        tasks.claim("t-1")
    secret = user.home / "secret"
    secret.write_text("secret\n")
    (client.transcript.parent / "s-1/subagents/agent-a1.jsonl").symlink_to(secret)
    client.hook("StopFailure", "a1", error="rate_limit")
    assert "secret" not in user.hypervisor("log", "t-1").out
