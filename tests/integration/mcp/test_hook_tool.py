"""The hooks of a client, answered by its server: from memory where nothing has changed, and beside a tool."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import eventually
from hookclient import (
    cancel,
    expires_in,
    finish,
    held,
    hold,
    last,
    open_store,
    release,
    set_config,
    task_file,
)
from hypervisor.core.project import Project
from hypervisor.hooks.decisions import PREFIX
from hypervisor.mcp.context import ToolContext
from hypervisor.mcp.hook_tool import HookTool
from hypervisor.store.review_records import ApprovalGate
from hypervisor.store.sessions import MAIN
from mcp_wire import SERVER, Wire, request

Start = Callable[..., Wire]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project"
    (root / "tasks").mkdir(parents=True)
    return Project(root, root / ".hypervisor")


@pytest.fixture
def hooks(project: Project) -> Iterator[HookTool]:
    context = ToolContext({"CLAUDE_PROJECT_DIR": str(project.root)})
    yield HookTool(context)
    context.close()


@pytest.fixture
def start(project: Project, tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "home").mkdir()
    environment = {
        "PATH": os.defpath, "HOME": str(tmp_path / "home"), "CLAUDE_PROJECT_DIR": str(project.root),
        "CLAUDE_CODE_SESSION_ID": "s-1",
    }  # fmt: skip
    started: list[Wire] = []

    def new(**more: str) -> Wire:
        started.append(Wire(SERVER, {**environment, **more}))
        started[-1].initialize()
        return started[-1]

    yield new
    for wire in started:
        wire.close()


@pytest.fixture
def client() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def fields(
    event: str, agent: str = MAIN, tool: str = "Bash", session: str = "s-1", **more: str
) -> dict[str, str]:
    return {
        "hook_event_name": event, "session_id": session, "agent_id": "" if agent == MAIN else agent,
        "tool_name": tool, "tool_input": "{}", "tool_use_id": "toolu_1", **more,
    }  # fmt: skip


def said(hooks: HookTool, *words: str, **more: str) -> tuple[Any, bool]:
    """Return the answer to a call, and whether it came from memory."""
    given = fields(*words, **more)
    known = hooks.from_memory(given)
    remembered = isinstance(known, str)
    return json.loads(known if isinstance(known, str) else hooks.answer(given)), remembered


def reason(answer: Any) -> str:
    return str(answer["hookSpecificOutput"]["permissionDecisionReason"])


# --------------------------------------------------------------------- memory


@pytest.mark.parametrize("event", ["PreToolUse", "PostToolUse", "PostToolUseFailure"])
def test_in_a_project_that_was_never_worked_on_all_is_known(
    project: Project, hooks: HookTool, event: str
) -> None:
    assert said(hooks, event) == ({}, True)
    assert said(hooks, event, "a1", "Edit") == ({}, True)
    assert not project.state.exists()


def test_a_session_that_does_not_use_the_queue_is_asked_about_once(project: Project, hooks: HookTool) -> None:
    hold(project, "t-1", "a1", "s-2")
    assert said(hooks, "PreToolUse") == ({}, False)
    for event in ("PostToolUse", "PreToolUse", "PostToolUseFailure"):
        assert said(hooks, event) == ({}, True)


def test_a_worker_is_known_until_its_claim_is_to_be_renewed(project: Project, hooks: HookTool) -> None:
    set_config(project, "[claims]\nlease_seconds = 10\n")
    hold(project, "t-1", "a1")
    assert said(hooks, "PostToolUse", "a1") == ({}, False)
    with open_store(project) as store:
        before = store.engine.version()
        for event in ("PreToolUse", "PostToolUse") * 5:
            assert said(hooks, event, "a1") == ({}, True)
        assert store.engine.version() == before, "nothing was written"
    eventually(lambda: said(hooks, "PostToolUse", "a1") == ({}, False), "the time to renew it")
    assert expires_in(project, "t-1") > 9


def test_that_a_claim_is_lost_is_seen_at_the_next_call(project: Project, hooks: HookTool) -> None:
    hold(project, "t-1", "a1")
    for _ in range(3):
        said(hooks, "PostToolUse", "a1")
    assert said(hooks, "PreToolUse", "a1", "Edit") == ({}, True)
    cancel(project, "t-1", "no longer wanted")
    for _ in range(2):
        answer, remembered = said(hooks, "PreToolUse", "a1", "Edit")
        assert "Your claim of t-1 (attempt 1) is lost: cancelled by tobi: no longer wanted." in reason(answer)
        assert not remembered


def test_a_task_that_asks_for_receipts_gets_each_of_them(project: Project, hooks: HookTool) -> None:
    path = hold(project, "t-1", "a1", receipts="[Bash]")
    for number in range(3):
        more = {"tool_input": json.dumps({"command": f"echo {number}"}), "tool_use_id": f"toolu_{number}"}
        assert said(hooks, "PostToolUse", "a1", **more) == ({}, False)
    assert [path.read_text("utf-8").count(f"Bash ok: echo {number}") for number in range(3)] == [1] * 3


def test_a_bulk_action_that_comes_to_wait_is_denied_at_the_next_call(
    project: Project, hooks: HookTool, tmp_path: Path
) -> None:
    hold(project, "t-1", "a1", "s-2")
    said(hooks, "PostToolUse")
    assert said(hooks, "PreToolUse", MAIN, "mcp__mail__archive") == ({}, True)
    folder = tmp_path / "batch"
    folder.mkdir()
    with open_store(project) as store:
        store.review.add_gate(ApprovalGate(folder=str(folder), task="", patterns=("mcp__mail__*",)))
    _, remembered = said(hooks, "PreToolUse", MAIN, "mcp__mail__archive")
    assert not remembered


def test_who_calls_is_told_to_our_tools_from_memory_as_well(project: Project, hooks: HookTool) -> None:
    for agent in (MAIN, "a1"):
        answer, remembered = said(
            hooks, "PreToolUse", agent, f"{PREFIX}claim_task", tool_input='{"id": "t-1"}'
        )
        assert remembered
        told = answer["hookSpecificOutput"]
        assert told["permissionDecision"] == "allow"
        assert told["updatedInput"] == {"id": "t-1", "caller_session": "s-1", "caller_agent": agent}


def test_what_has_ended_is_told_at_the_next_call(project: Project, hooks: HookTool) -> None:
    hold(project, "t-1", "a1")
    said(hooks, "PostToolUse")
    assert said(hooks, "PostToolUse") == ({}, True)
    release(project, "t-1", "a1")
    answer, _ = said(hooks, "PostToolUse")
    assert "- t-1 released, ready again" in answer["hookSpecificOutput"]["additionalContext"]


def test_a_session_that_the_client_has_left_for_another_holds_nothing(
    project: Project, hooks: HookTool
) -> None:
    said(hooks, "UserPromptSubmit")
    hold(project, "t-1", MAIN)
    said(hooks, "PostToolUse")
    said(hooks, "UserPromptSubmit")
    assert held(project) == {"t-1"}
    said(hooks, "UserPromptSubmit", session="s-2")
    assert held(project) == set()
    assert last(project, "t-1") == ("released", "its session ended (the client went on with another)")


# ---------------------------------------------------------------- the process


def test_a_hook_is_answered_while_a_tool_is_at_work(project: Project, start: Start) -> None:
    hold(project, "t-1", "a1")
    wire = start()
    waiting = {"name": "wait_for_events", "arguments": {"since": "0", "timeout": 50}}
    wire.send(request("wait", "tools/call", waiting))
    for number in range(3):
        wire.send(request(number, "tools/call", {"name": "hook", "arguments": fields("PreToolUse", "a1")}))
        assert wire.answer(number, seconds=10)["result"]["content"][0]["text"] == "{}"
    assert "wait" not in wire.answers
    finish(project, "t-1", "a1")
    assert "t-1" in wire.answer("wait", seconds=20)["result"]["content"][0]["text"]


def test_the_hooks_tool_is_not_listed(start: Start) -> None:
    listed = start().ask("tools/list")["result"]["tools"]
    assert "hook" not in {tool["name"] for tool in listed}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("dies", [True, False])
def test_what_a_client_holds_that_ends_its_server_is_released_once_it_is_gone(
    project: Project, start: Start, client: subprocess.Popen[bytes], number: signal.Signals, dies: bool
) -> None:
    before = task_file(project, "t-1").read_bytes()
    wire = start(HYPERVISOR_CLIENT_PID=str(client.pid))
    wire.call("claim_task", id="t-1", caller="claude", caller_session="s-1", caller_agent="a1")
    wire.call("hook", **fields("PostToolUse", "a1", f"{PREFIX}claim_task"))
    assert wire.signal(number) == 0
    assert wire.errors == b""
    assert held(project) == {"t-1"}, "the client lives: it may go on with another server"
    if dies:
        client.kill()
        client.wait()
        eventually(lambda: held(project) == set(), "the release")
        eventually(lambda: (project.root / "tasks/t-1.md").read_bytes() == before, "the file as it was")
        assert last(project, "t-1") == ("released", "its session ended (the client is gone)")
    else:
        again = start(HYPERVISOR_CLIENT_PID=str(client.pid))
        done = again.call(
            "complete_task", id="t-1", outcome="made it", caller_session="s-1", caller_agent="a1"
        )
        assert done["result"] == "success"
