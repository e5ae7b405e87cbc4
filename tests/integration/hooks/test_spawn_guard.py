"""A session starts workers only for tasks that may be claimed, and only as many as there is room for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from commands import tree
from hookclient import (
    DONE,
    USUAL,
    WORKER,
    Client,
    at_once,
    cancel,
    held,
    notification,
    open_store,
    reason,
    service,
    set_config,
    task_file,
    workers,
)
from hypervisor.core.project import Project
from hypervisor.hooks import handler


def refused_task(project: Project, how: str) -> str:
    """Write t-1 so that it may not be claimed; return the refusal."""
    keys = {"status": "blocked"} if how == "blocked" else {"assignee": "tobi"} if how == "a person's" else {}
    if how != "unknown":
        task_file(project, **({"depends_on": "[t-2]"} if how == "waits" else keys))
    task_file(project, "t-2")
    if how == "done":
        with service(project) as persons:
            persons.finish("t-1", DONE)
    elif how == "cancelled":
        cancel(project, "t-1")
    elif how == "held":
        with service(project, "a7", name="gemini") as other:
            other.claim("t-1")
    return {
        "done": "t-1: already complete",
        "cancelled": "t-1: cancelled",
        "held": "t-1: held by gemini",
        "blocked": "t-1: its status is blocked; set it to active to run it",
        "a person's": "t-1: assigned to tobi, a person",
        "unknown": f"t-1: no such task in {project.root}; see `hypervisor task list`",
        "waits": "t-1: waits for t-2",
    }[how]


@pytest.mark.parametrize("kind", [WORKER, "general-purpose"])
@pytest.mark.parametrize("how", ["done", "cancelled", "held", "blocked", "a person's", "unknown", "waits"])
def test_a_worker_for_a_task_that_may_not_be_claimed_is_not_started(
    project: Project, client: Client, how: str, kind: str
) -> None:
    set_config(project, USUAL)
    text = refused_task(project, how)
    before = tree(project.root / "tasks")
    assert client.spawn("/pull t-1", kind) == f"Denied, nothing was started: {text}"
    assert client.spawn("/hypervisor:pull t-1", kind) == f"Denied, nothing was started: {text}"
    assert tree(project.root / "tasks") == before
    assert workers(project) == 0


@pytest.mark.parametrize("prompt", ["/pull t-1", "/pull T-1", "/pull tasks/t-1.md", "/pull", "  /pull 't-1'"])
def test_a_worker_for_a_task_that_is_ready_is_started_without_a_word(
    project: Project, client: Client, prompt: str
) -> None:
    set_config(project, USUAL)
    path = task_file(project)
    before = path.read_bytes()
    assert client.spawn(prompt) == ""
    assert path.read_bytes() == before
    assert held(project) == set()
    assert workers(project) == 1


def test_a_task_with_a_dot_in_its_id_is_meant_whole(project: Project, client: Client) -> None:
    set_config(project, USUAL)
    task_file(project, "task-1", status="done")
    task_file(project, "task-1.2")
    assert client.spawn("/pull task-1.2") == ""
    assert (
        client.spawn("/pull task-1", use="toolu_2") == "Denied, nothing was started: task-1: already complete"
    )


@pytest.mark.slow
def test_of_twenty_that_ask_at_once_eight_are_started(project: Project, client: Client) -> None:
    set_config(project, USUAL)
    calls = []
    for number in range(20):
        task_file(project, f"t-{number}")
        given = {"prompt": f"/pull t-{number}", "subagent_type": WORKER, "run_in_background": True}
        use = f"toolu_{number}"
        calls.append([client.payload("PreToolUse", tool_name="Agent", tool_input=given, tool_use_id=use)])
    with open_store(project):
        pass  # the database is made
    with at_once(project, calls) as said:
        denied = [reason(json.loads(text)) for text in said if text]
    assert len(denied) == 12
    started = {number for number, text in enumerate(said) if not text}
    for number, text in enumerate(said):
        if number not in started:
            assert reason(json.loads(text)) == (
                f"Denied: 8 workers of this session run, and 8 may. "
                f"t-{number} stays ready; spawn again when one has ended."
            )
    assert held(project) == set()


def test_places_are_given_on_to_the_agents_that_start_and_freed_when_they_end(
    project: Project, client: Client
) -> None:
    set_config(project, USUAL)
    for number in range(8):
        assert client.spawn("/pull", use=f"toolu_{number}") == ""
    full = "Denied: 8 workers of this session run, and 8 may. spawn again when one has ended."
    assert client.spawn("/pull", use="toolu_8") == full
    for number in range(8):
        client.call("SubagentStart", f"a{number}")
        assert client.spawn("/pull", use="toolu_8") == full
        client.launch(f"a{number}", use=f"toolu_{number}")
        assert client.spawn("/pull", use="toolu_8") == full
    ends: list[Callable[[str], Any]] = [
        lambda agent: client.call("SubagentStop", agent, stop_hook_active=False),
        lambda agent: client.call("StopFailure", agent, error="x"),
        lambda agent: client.call("UserPromptSubmit", prompt=notification(agent)),
    ]
    for number, end in enumerate(ends):
        assert end(f"a{number}") is None
        assert client.spawn("/pull", use=f"toolu_next_{number}") == ""
        assert client.spawn("/pull", use="toolu_x") == full
    # Another session has places of its own.
    assert Client(project, client.capsys, "s-2").spawn("/pull") == ""


def test_a_worker_of_which_no_hook_told_the_end_frees_its_place_when_the_turn_ends(
    project: Project, client: Client
) -> None:
    set_config(project, "[agents]\nper_session = 1\nmax_ram_percent = 100\n")
    assert client.spawn("/pull", use="toolu_1") == ""
    client.launch("a1")
    assert client.spawn("/pull", use="toolu_2") != ""
    client.call("Stop", background_tasks=[])
    assert client.spawn("/pull", use="toolu_3") == ""


def test_memory_that_is_used_up_stops_all_but_the_first(
    project: Project, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "_ram_percent", lambda: 91.4)
    task_file(project)
    assert client.spawn("/pull t-1") == ""
    assert client.spawn("/pull t-1", use="toolu_2") == (
        "Denied: 91 % of the memory is in use, and workers are started up to 85 %. "
        "t-1 stays ready; spawn again when one has ended."
    )


def test_other_agents_of_the_user_are_neither_counted_nor_denied(project: Project, client: Client) -> None:
    set_config(project, "[agents]\nper_session = 1\nmax_ram_percent = 0.1\n")
    task_file(project, status="done")
    prompts = ["Find out what /pull t-1 does", "Look around", "", "pull t-1", "Run `/pull t-1`"]
    for _ in range(3):
        for kind in ("Explore", "general-purpose", "other:worker"):
            for prompt in prompts:
                assert client.spawn(prompt, kind) == ""
                client.call("SubagentStart", "e1", agent_type=kind)
                answer = client.tool(
                    "PostToolUse", "Agent", tool_input={"prompt": prompt, "subagent_type": kind},
                    tool_response={"isAsync": True, "status": "async_launched", "agentId": "e1"},
                )  # fmt: skip
                assert answer is None
    assert workers(project) == 0
