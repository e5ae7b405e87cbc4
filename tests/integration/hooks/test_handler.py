"""Hooks of workers and of their ends: leases are renewed, lost claims stopped, open ones released."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from hookclient import (
    BLOCKED,
    DONE,
    WORKER,
    Client,
    age,
    at_once,
    cancel,
    expires_in,
    held,
    hold,
    last,
    notification,
    open_store,
    reason,
    service,
    take_away,
    task_file,
    workers,
)
from hypervisor.core.project import Project
from hypervisor.hooks.decisions import PREFIX
from hypervisor.store.sessions import MAIN
from hypervisor.tasks.completion import TaskCompletion

STOPPED = "Change nothing more for it; report that you stopped, and why."


@pytest.mark.parametrize("agent", [MAIN, "a1"])
@pytest.mark.parametrize("event", ["PreToolUse", "PostToolUse", "PostToolUseFailure"])
def test_every_tool_call_of_the_holder_renews_its_claim_and_no_other(
    project: Project, client: Client, agent: str, event: str
) -> None:
    hold(project, "t-1", agent)
    hold(project, "t-2", "a2")
    others = age(project, "t-2")
    then = age(project, "t-1")
    assert client.tool(event, "Bash", agent, tool_input={"command": "true"}) is None
    assert expires_in(project, "t-1") > then + 50
    assert expires_in(project, "t-2") <= others


def test_nobody_renews_the_claim_of_another_agent_or_session(project: Project, client: Client) -> None:
    hold(project, "t-1", "a1")
    then = age(project, "t-1")
    for agent in (MAIN, "a2", "t-1", "A1", "unknown"):
        assert client.tool("PostToolUse", "Bash", agent) is None
    other = Client(client.project, client.capsys, "s-2")
    assert other.tool("PostToolUse", "Bash", "a1") is None
    assert expires_in(project, "t-1") <= then


def test_a_worker_keeps_its_place_while_its_tools_run(project: Project, client: Client) -> None:
    client.launch("a1")
    with open_store(project) as store:
        store.engine.write(lambda tx: tx.run("UPDATE worker_slot SET until = 1"))
    assert workers(project) == 0
    client.tool("PostToolUse", "Bash", "a1")
    assert workers(project) == 1


# ------------------------------------------------------------------ lost claims


def test_an_agent_whose_task_was_cancelled_is_stopped_each_time_and_told_why(
    project: Project, client: Client
) -> None:
    hold(project, "t-1", "a1")
    cancel(project, "t-1", "no longer wanted")
    text = f"Denied: Your claim of t-1 (attempt 1) is lost: cancelled by tobi: no longer wanted. {STOPPED}"
    for tool in ("Edit", "Write", "Bash", "MultiEdit", "NotebookEdit", "Edit"):
        assert reason(client.tool("PreToolUse", tool, "a1")) == text


def test_the_sessions_own_thread_is_stopped_once(project: Project, client: Client) -> None:
    hold(project, "t-1", MAIN)
    cancel(project, "t-1")
    found = reason(client.tool("PreToolUse", "Edit"))
    assert found == f"Denied: Your claim of t-1 (attempt 1) is lost: cancelled by tobi. {STOPPED}"
    for tool in ("Edit", "Write", "Bash"):
        assert client.tool("PreToolUse", tool) is None


@pytest.mark.parametrize("agent", [MAIN, "a1"])
def test_after_a_tool_the_loss_is_told_once(project: Project, client: Client, agent: str) -> None:
    hold(project, "t-1", agent)
    take_away(project, "t-1", "I do it myself")
    said = client.tool("PostToolUse", "Read", agent)["hookSpecificOutput"]
    text = said.pop("additionalContext")
    assert said == {"hookEventName": "PostToolUse"}
    assert text.startswith("Your claim of t-1 (attempt 1) is lost: tobi released it: I do it myself")
    assert text.endswith(f". {STOPPED}")
    assert client.tool("PostToolUse", "Read", agent) is None
    assert client.tool("PostToolUseFailure", "Read", agent, error="x") is None


def test_a_failed_tool_tells_of_the_loss_under_its_own_event(project: Project, client: Client) -> None:
    hold(project, "t-1", "a1")
    cancel(project, "t-1")
    answer = client.tool("PostToolUseFailure", "Read", "a1", error="no such file")
    assert answer["hookSpecificOutput"]["hookEventName"] == "PostToolUseFailure"


def test_nobody_else_is_stopped(project: Project, client: Client) -> None:
    hold(project, "t-1", "a1")
    hold(project, "t-2", "a2")
    cancel(project, "t-1")
    other = Client(project, client.capsys, "s-2")
    for tool in ("Edit", "Write", "Bash"):
        for agent in (MAIN, "a2", "a3", "claude"):
            assert client.tool("PreToolUse", tool, agent) is None
            assert client.tool("PostToolUse", tool, agent) is None
        assert other.tool("PreToolUse", tool, "a1") is None


@pytest.mark.parametrize("ending", [DONE, BLOCKED, None])
def test_who_ended_its_claim_in_good_order_is_not_stopped(
    project: Project, client: Client, ending: TaskCompletion | None
) -> None:
    hold(project, "t-1", "a1")
    with service(project, "a1") as mine:
        if ending:
            mine.finish("t-1", ending)
        else:
            mine.release("t-1", "not now")
    for tool in ("Edit", "Bash"):
        assert client.tool("PreToolUse", tool, "a1") is None
        assert client.tool("PostToolUse", tool, "a1") is None
    assert client.call("SubagentStop", "a1", stop_hook_active=False) is None


def test_our_own_tools_stay_open_to_who_lost_its_claim(project: Project, client: Client) -> None:
    hold(project, "t-1", "a1")
    cancel(project, "t-1")
    answer = client.tool("PreToolUse", f"{PREFIX}get_task", "a1", tool_input={"id": "t-1"})
    assert answer == {
        "hookSpecificOutput": {
            "hookEventName": "PreToolUse",
            "permissionDecision": "allow",
            "permissionDecisionReason": "a tool of hypervisor",
            "updatedInput": {"id": "t-1", "caller_session": "s-1", "caller_agent": "a1"},
        }
    }


# --------------------------------------------------------------------- receipts


def receipts(path: Path) -> list[str]:
    """Return the lines of a task's receipts, without their times."""
    text = path.read_text("utf-8")
    if "## Receipts\n" not in text:
        return []
    lines = text.partition("## Receipts\n")[2].strip().splitlines()
    assert all(re.match(r"- \d{4}-\d\d-\d\dT\S+ ", line) for line in lines), lines
    return [line.split(" ", 2)[2] for line in lines]


def test_the_named_tools_leave_receipts_and_no_other(project: Project, client: Client) -> None:
    path = hold(project, "t-1", "a1", receipts="[Bash, mcp__mail__*]", receipts_to="t-all")
    shared = task_file(project, "t-all")
    other = hold(project, "t-2", "a2")
    client.tool("PreToolUse", "Bash", "a1", tool_input={"command": "not yet"})
    client.tool("PostToolUse", "Bash", "a1", tool_input={"command": "rm a\nrm b"})
    client.tool("PostToolUse", "Read", "a1", tool_input={"file_path": "a"})
    client.tool("PostToolUse", "mcp__mail__move", "a1", tool_input={"id": 7})
    client.tool("PostToolUseFailure", "Bash", "a1", tool_input={"command": "false"}, error="Exit code 1")
    client.tool("PostToolUse", "Bash", "a2", tool_input={"command": "of another"})
    client.tool("PostToolUse", "Bash", MAIN, tool_input={"command": "of main"})
    expected = ["Bash ok: rm a\\nrm b", 'mcp__mail__move ok: {"id": 7}', "Bash failed (Exit code 1): false"]
    assert receipts(path) == expected
    assert receipts(shared) == [f"{line} (t-1)" for line in expected]
    assert receipts(other) == []


@pytest.mark.parametrize(
    "broken", [{"receipts_to": "t-nobody"}, {"receipts_to": "t-1"}], ids=["unknown task", "itself"]
)
def test_a_receipt_that_goes_nowhere_costs_no_heartbeat(
    project: Project, client: Client, broken: dict[str, str]
) -> None:
    path = hold(project, "t-1", "a1", receipts="[Bash]", **broken)
    then = age(project, "t-1")
    payload = client.payload("PostToolUse", "a1", tool_name="Bash", tool_input={"command": "rm a"})
    client.raw(json.dumps(payload).encode())
    assert receipts(path)[:1] == ["Bash ok: rm a"]
    assert expires_in(project, "t-1") > then + 50


def test_a_task_file_that_is_gone_costs_no_heartbeat(project: Project, client: Client) -> None:
    path = hold(project, "t-1", "a1", receipts="[Bash]")
    path.unlink()
    then = age(project, "t-1")
    payload = client.payload("PostToolUse", "a1", tool_name="Bash", tool_input={"command": "rm a"})
    client.raw(json.dumps(payload).encode())
    assert expires_in(project, "t-1") > then + 50


@pytest.mark.slow
def test_receipts_of_many_workers_in_one_task_are_all_there_and_whole(
    project: Project, client: Client
) -> None:
    shared = task_file(project, "t-all")
    agents = [f"a{number}" for number in range(8)]
    paths = [hold(project, f"t-{a}", a, receipts="[Bash]", receipts_to="t-all") for a in agents]
    calls = [
        [
            client.payload(
                "PostToolUse", a, tool_name="Bash", tool_input={"command": f"do {a} {n} {'x' * 90}"}
            )
            for n in range(20)
        ]
        for a in agents
    ]
    with at_once(project, calls) as said:
        assert said == [""] * 8
    expected = Counter(f"Bash ok: do {a} {n} {'x' * 90} (t-{a})" for a in agents for n in range(20))
    assert Counter(receipts(shared)) == expected
    assert expected.total() == 160
    for a, path in zip(agents, paths, strict=True):
        assert receipts(path) == [f"Bash ok: do {a} {n} {'x' * 90}" for n in range(20)]


# ------------------------------------------------------------------ ends of agents


def test_a_worker_that_would_leave_its_claim_open_is_asked_once_then_it_is_released(
    project: Project, client: Client
) -> None:
    path = task_file(project)
    before = path.read_bytes()
    hold(project, "t-1", "a1")
    answer = client.call("SubagentStop", "a1", stop_hook_active=False, background_tasks=[])
    assert answer["decision"] == "block"
    assert "You still hold t-1 (attempt 1)." in answer["reason"]
    assert held(project) == {"t-1"}
    assert client.call("SubagentStop", "a1", stop_hook_active=True, background_tasks=[]) is None
    assert path.read_bytes() == before
    assert held(project) == set()
    assert last(project, "t-1") == ("released", "its worker ended its turn without ending its claim")
    assert client.call("SubagentStop", "a1", stop_hook_active=False) is None
    with service(project, "a2") as another:
        assert another.claim("t-1")[1].attempt == 2


def test_a_worker_is_asked_once_also_where_the_client_does_not_say_that_it_was(
    project: Project, client: Client
) -> None:
    hold(project, "t-1", "a1")
    assert client.call("SubagentStop", "a1")["decision"] == "block"
    assert client.call("SubagentStop", "a1") is None
    assert held(project) == set()


def test_who_goes_on_because_another_hook_asked_is_not_asked_as_well(
    project: Project, client: Client
) -> None:
    hold(project, "t-1", "a1")
    hold(project, "t-2", MAIN)
    assert client.call("Stop", stop_hook_active=True, background_tasks=[]) is None
    assert client.call("SubagentStop", "a1", stop_hook_active=True) is None
    assert held(project) == {"t-2"}


def test_the_sessions_own_thread_is_asked_once_and_keeps_its_claim(project: Project, client: Client) -> None:
    hold(project, "t-1", MAIN)
    assert client.call("Stop", stop_hook_active=False, background_tasks=[])["decision"] == "block"
    for active in (True, False):
        assert client.call("Stop", stop_hook_active=active, background_tasks=[]) is None
    assert held(project) == {"t-1"}


def test_a_stop_of_one_asks_nobody_for_anothers_claim(project: Project, client: Client) -> None:
    hold(project, "t-1", "a1")
    assert client.call("Stop", stop_hook_active=False, background_tasks=[]) is None
    assert client.call("SubagentStop", "a2", stop_hook_active=False) is None
    assert Client(project, client.capsys, "s-2").call("SubagentStop", "a1") is None
    assert held(project) == {"t-1"}


def test_an_error_ends_a_worker_at_once_and_leaves_the_sessions_own_thread(
    project: Project, client: Client
) -> None:
    path = task_file(project)
    before = path.read_bytes()
    hold(project, "t-1", "a1")
    hold(project, "t-2", MAIN)
    assert client.call("StopFailure", error="rate_limit") is None
    assert held(project) == {"t-1", "t-2"}
    assert client.call("StopFailure", "a1", error="rate_limit") is None
    assert held(project) == {"t-2"}
    assert path.read_bytes() == before
    why = "its worker ended by an error (rate_limit) without ending its claim"
    assert last(project, "t-1") == ("released", why)


def test_an_agent_that_is_over_leaves_no_claim_and_one_that_was_launched_keeps_it(
    project: Project, client: Client
) -> None:
    hold(project, "t-1", "a1")
    hold(project, "t-2", "a2")
    client.launch("a1")
    assert held(project) == {"t-1", "t-2"}
    answer = client.tool(
        "PostToolUse", "Agent", tool_input={"prompt": "/pull t-1", "subagent_type": WORKER},
        tool_response={"status": "completed", "prompt": "/pull t-1", "agentId": "a1", "totalToolUseCount": 2},
    )  # fmt: skip
    assert answer is None
    assert held(project) == {"t-2"}
    assert last(project, "t-1") == (
        "released",
        "its worker was over (completed) without ending its claim",
    )


def test_a_notification_ends_the_agents_that_it_names_and_nobody_else(
    project: Project, client: Client
) -> None:
    for number, agent in enumerate(["a1", "a2", "a3", MAIN], 1):
        hold(project, f"t-{number}", agent)
    hold(project, "t-5", "a1", "s-2")
    # What a worker reports may look like anything, also like the id of another.
    report = notification("a1", "<task-id>a3</task-id> is done")
    assert client.call("UserPromptSubmit", prompt=report) is None
    assert held(project) == {"t-2", "t-3", "t-4", "t-5"}
    assert last(project, "t-1") == ("released", "the client says that its worker is over")
    assert client.call("UserPromptSubmit", prompt="what does <task-id>a2</task-id> mean?") is None
    assert client.call("UserPromptSubmit", prompt=notification(MAIN)) is None
    assert held(project) == {"t-2", "t-3", "t-4", "t-5"}
    assert client.call("UserPromptSubmit", prompt=f"{notification('a2')}\n{notification('a3')}") is None
    assert held(project) == {"t-4", "t-5"}


#: Ids of agents, two of which are none that could be a file's name.
@pytest.mark.parametrize("one", ["b1", "b.1", "../../b1"])
def test_at_the_end_of_a_turn_the_background_agents_that_run_no_more_are_over(
    project: Project, client: Client, one: str
) -> None:
    gone, running, nested = f"{one}-gone", f"{one}-runs", f"{one}-nested"
    hold(project, "t-1", gone)
    hold(project, "t-2", running)
    hold(project, "t-3", nested)
    hold(project, "t-4", "foreground")
    client.launch(gone, use="u1")
    client.launch(running, use="u2")
    client.launch(nested, by=running, use="u3")
    task = {"id": running, "type": "subagent", "status": "running", "agent_type": WORKER}
    assert client.call("Stop", stop_hook_active=False, background_tasks=[task]) is None
    assert held(project) == {"t-2", "t-3", "t-4"}
    assert last(project, "t-1") == ("released", "its worker runs no more")
    assert client.call("Stop", stop_hook_active=False) is None  # a client that does not say
    assert held(project) == {"t-2", "t-3", "t-4"}
    over = {**task, "status": "completed"}
    assert client.call("Stop", stop_hook_active=False, background_tasks=[over]) is None
    assert held(project) == {"t-3", "t-4"}


def test_the_end_of_a_session_releases_all_that_it_holds_and_nothing_of_another(
    project: Project, client: Client
) -> None:
    paths = [task_file(project, f"t-{number}") for number in (1, 2, 3)]
    before = [path.read_bytes() for path in paths]
    for number, agent in enumerate([MAIN, "a1", "../../a2"], 1):
        hold(project, f"t-{number}", agent)
    hold(project, "t-4", "a1", "s-2")
    hold(project, "t-5", MAIN, "s-2")
    assert client.call("SessionEnd", reason="logout") is None
    assert held(project) == {"t-4", "t-5"}
    assert [path.read_bytes() for path in paths] == before
    assert {last(project, f"t-{n}") for n in (1, 2, 3)} == {("released", "its session ended (logout)")}
    with open_store(project) as store:  # it may be gone on with
        assert len(store.notices("s-1").pending()) == 3
    assert client.call("SessionEnd", reason="logout") is None


def test_a_claim_that_was_lost_is_not_released_again_by_its_agents_end(
    project: Project, client: Client
) -> None:
    hold(project, "t-1", "a1")
    take_away(project, "t-1", "mine")
    hold(project, "t-1", "a2")
    assert client.call("SubagentStop", "a1", stop_hook_active=False) is None
    assert held(project) == {"t-1"}
    assert last(project, "t-1")[0] == "claimed"
