"""Every end reaches its session: what is lost on the way is said again, what arrived is not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commands import ROOT
from hookclient import BLOCKED, WORKER, cancel, finish, held, hold, open_store, release, take_away
from hypervisor.core.project import Project
from hypervisor.hooks import delivery
from hypervisor.store.sessions import MAIN
from stores import a_worker, done, fill
from talkingclient import TalkingClient


@pytest.fixture
def client(project: Project, tmp_path: Path) -> TalkingClient:
    return TalkingClient(project, tmp_path / "transcript.jsonl")


def work(project: Project, *tasks: str) -> None:
    """Let an agent each do these tasks."""
    for task in tasks:
        hold(project, task, f"agent-{task}")
        finish(project, task, f"agent-{task}")


# ------------------------------------------------------------------------- once


def test_what_ended_is_told_once_and_in_one_message(project: Project, client: TalkingClient) -> None:
    for number in (1, 2, 3):
        hold(project, f"t-{number}", f"a{number}")
    assert client.tool() == ""
    finish(project, "t-1", "a1")
    finish(project, "t-2", "a2", BLOCKED)
    release(project, "t-3", "a3")
    head, *lines = client.tool().split("\n")
    assert head.startswith("hypervisor: 3 ended: 1 success, 1 blocked, 1 released, ready again. 0 workers")
    assert lines == [
        "- t-1 success: made it", "- t-2 blocked: no key", "- t-3 released, ready again: not now",
    ]  # fmt: skip
    assert [client.tool(), client.stop(), client.prompt(), client.tool(), client.stop()] == [""] * 5
    assert client.hook("SessionStart", source="resume") == ""


@pytest.mark.parametrize(
    "event", ["SessionStart", "UserPromptSubmit", "PostToolUse", "PostToolUseFailure", "Stop"]
)
def test_every_event_of_the_sessions_own_thread_tells(
    project: Project, client: TalkingClient, event: str
) -> None:
    work(project, "t-1")
    assert "- t-1 success: made it" in client.hook(event, tool_name="Bash", tool_input={}, prompt="x")


def test_no_agent_is_told_and_no_other_session(
    project: Project, client: TalkingClient, tmp_path: Path
) -> None:
    hold(project, "t-2", "a2")
    hold(project, "o-1", "a1", "s-2")
    work(project, "t-1")
    other = TalkingClient(project, tmp_path / "other.jsonl", "s-2")
    for event in ("PostToolUse", "SubagentStop", "PreToolUse"):
        fields = {"tool_name": "Bash", "tool_input": {}, "stop_hook_active": True}
        assert client.hook(event, "a2", **fields) == ""
        assert other.hook(event, "a1", **fields) == ""
    assert [other.tool().count("\n"), other.prompt()] == [1, ""]  # its own worker's end, of just now
    assert "t-1 success" in client.tool()


def test_what_the_own_thread_ended_itself_it_is_not_told(project: Project, client: TalkingClient) -> None:
    hold(project, "t-1", MAIN)
    finish(project, "t-1", MAIN)
    assert [client.tool(), client.prompt(), client.stop()] == [""] * 3


@pytest.mark.parametrize("how", ["cancelled", "released", "reaped"])
def test_what_others_end_is_told_to_whose_it_was(project: Project, client: TalkingClient, how: str) -> None:
    hold(project, "t-1", "a1")
    if how == "cancelled":
        cancel(project, "t-1", "not wanted")
    elif how == "released":
        take_away(project, "t-1", "mine")
    else:
        with open_store(project) as store:
            store.claims.revoke(store.claims.held_all()[0].attempt, "its client was killed")
    said = client.tool()
    assert said.count("\n") == 1
    assert {
        "cancelled": "t-1 cancelled: cancelled by tobi", "released": "t-1 released, ready again",
        "reaped": "t-1 lost its worker: its client was killed",
    }[how] in said  # fmt: skip
    assert client.tool() == ""


def test_a_worker_that_leaves_without_a_task_is_told_of_once(project: Project, client: TalkingClient) -> None:
    hold(project, "t-1", "a1")
    for agent in ("a1", "a2"):
        client.hook("SubagentStart", agent, agent_type=WORKER)
    client.hook("SubagentStop", "a2", stop_hook_active=False)
    assert "a2 left without a task" in client.prompt(
        text="<task-notification><task-id>a2</task-id></task-notification>"
    )
    finish(project, "t-1", "a1")
    client.hook("SubagentStop", "a1", stop_hook_active=False)
    said = client.tool()
    assert "t-1 success" in said
    assert "left" not in said


# ------------------------------------------------------------------------- lost


@pytest.mark.slow
def test_what_a_blocked_prompt_has_lost_is_said_again_until_it_arrives(
    project: Project, client: TalkingClient
) -> None:
    work(project, "t-1")
    for _ in range(3):
        assert "t-1 success" in client.prompt(blocked=True)
    assert "t-1 success" in client.prompt()
    assert [client.prompt(), client.tool(), client.stop()] == [""] * 3
    assert len(client.given) == 1


def test_a_hook_whose_output_went_nowhere_is_no_proof(project: Project, client: TalkingClient) -> None:
    work(project, "t-1")
    said = client.tool(lost=True)
    # That it was said is noted by the client as well; that is not before the model. Nor is a subagent's.
    client.write(type="attachment", attachment={"type": "hook_success", "stdout": said})
    client.write(type="user", isSidechain=True, message={"role": "user", "content": said})
    client.write(type="queue-operation", operation="enqueue", content=said)
    assert client.tool(use="toolu_2") == ""  # it may still be on its way
    assert "t-1 success" in client.stop()
    assert client.tool(use="toolu_3") == ""


def test_within_a_long_turn_what_is_overdue_is_said_again(
    project: Project, client: TalkingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_OVERDUE_MS", -1)
    work(project, "t-1")
    client.tool(lost=True)
    assert "t-1 success" in client.tool(use="toolu_2")
    assert client.tool(use="toolu_3") == ""


def test_parallel_tools_do_not_make_it_told_twice(project: Project, client: TalkingClient) -> None:
    work(project, "t-1")
    first = client.hook("PostToolUse", tool_name="Bash", tool_input={}, tool_use_id="u1")
    assert "t-1 success" in first
    for use in ("u2", "u3"):  # of the same message: the first one's result is not written down yet
        assert client.hook("PostToolUse", tool_name="Bash", tool_input={}, tool_use_id=use) == ""
    client.write(type="user", message={"content": [{"type": "tool_result", "tool_use_id": "u1"}]})
    client.give(first, "PostToolUse")
    client.speak()
    assert client.stop() == ""


def test_at_the_end_of_a_turn_what_is_lost_makes_it_go_on(project: Project, client: TalkingClient) -> None:
    work(project, "t-1")
    client.tool(lost=True)
    assert "t-1 success" in client.stop()
    assert client.stop() == ""


def test_a_client_that_writes_late_is_waited_for(
    project: Project, client: TalkingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(project, "t-1")
    said = client.hook("PostToolUse", tool_name="Bash", tool_input={}, tool_use_id="u1")

    def late(_: float) -> None:
        client.write(type="user", message={"content": [{"type": "tool_result", "tool_use_id": "u1"}]})
        client.give(said, "PostToolUse")

    monkeypatch.setattr(time, "sleep", late)
    assert client.hook("Stop", stop_hook_active=False) == ""


def test_a_session_that_never_confirms_is_told_three_times_at_most(
    project: Project, client: TalkingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_FLUSH_SECONDS", 0.0)
    client.write(type="user", message={"content": "hello"})
    work(project, "t-1")
    blocks = [client.hook("Stop", stop_hook_active=number > 0) for number in range(10)]
    assert [bool(text) for text in blocks] == [True] * 3 + [False] * 7
    assert client.prompt() == ""


@pytest.mark.parametrize(("cap", "blocked"), [("", 7), ("3", 2), ("0", 12), ("x", 7)])
def test_a_session_is_kept_from_stopping_less_often_than_its_client_allows(
    project: Project, client: TalkingClient, monkeypatch: pytest.MonkeyPatch, cap: str, blocked: int
) -> None:
    monkeypatch.setenv("CLAUDE_CODE_STOP_HOOK_BLOCK_CAP", cap)
    said = []
    for number in range(12):
        work(project, f"t-{number}")
        said.append(client.stop())
    assert [bool(text) for text in said] == [True] * blocked + [False] * (12 - blocked)
    if blocked < 12:  # and what is left is told at the next prompt
        assert f"{12 - blocked} ended" in client.prompt()


def test_without_a_transcript_the_clients_going_on_is_the_proof(
    project: Project, client: TalkingClient
) -> None:
    client.transcript = client.transcript.parent / "nowhere/x.jsonl"
    work(project, "t-1")
    assert "t-1 success" in client.hook("UserPromptSubmit", prompt="x")  # blocked: a new prompt comes
    assert "t-1 success" in client.hook("UserPromptSubmit", prompt="y")
    assert client.hook("PostToolUse", tool_name="Bash", tool_input={}) == ""
    assert [client.hook("Stop", stop_hook_active=False), client.hook("UserPromptSubmit", prompt="z")] == [
        "",
        "",
    ]


def test_a_resumed_session_is_told_what_it_was_not(project: Project, client: TalkingClient) -> None:
    hold(project, "t-1", "a1")
    hold(project, "t-2", "a2")
    finish(project, "t-1", "a1")
    client.hook("SessionEnd", reason="other")
    said = client.hook("SessionStart", source="resume")
    client.give(said, "SessionStart")
    client.speak()
    assert "- t-1 success" in said
    assert "- t-2 released, ready again: its session ended (other)" in said
    assert [client.prompt(), client.tool(), client.stop()] == ["", "", ""]


# ------------------------------------------------------------------------- runs


def test_a_run_that_the_session_has_begun_tells_its_end_with_its_items(
    project: Project, client: TalkingClient
) -> None:
    hold(project, "t-1", MAIN)
    worker = a_worker()
    with open_store(project) as store:
        store.claims.add_worker(worker)
        batch = fill(store, "a", "b", name="b-1")
        with store.sessions.background_run("s-1", batch) as run:
            one, two = store.claims.claim_next(worker, batch, 2)
            store.claims.complete([done(one, outcome="made it"), done(two, "blocked", "no key")])
            assert client.tool() == ""
            run.came_to = "1 success, 1 blocked"
    head, *lines = client.tool().split("\n")
    assert head.startswith("hypervisor: 1 ended: 1 run over. 0 workers still at work.")
    assert lines == [
        "- b-1 run over: 1 success, 1 blocked", "  - path/b blocked: no key", "  - path/a success: made it",
    ]  # fmt: skip
    assert client.tool() == ""


# --------------------------------------------------------------------- concurrent

_HOOK = """
import io, json, sys
sys.path.insert(0, {scripts!r})
from hypervisor.hooks import handler
call = json.dumps({call!r} | {{"tool_use_id": sys.argv[1]}}).encode()
sys.stdin.readline()
handler.main(io.BytesIO(call), {{"CLAUDE_PROJECT_DIR": {root!r}}})
"""


@pytest.mark.slow
def test_of_many_hooks_at_once_one_tells(project: Project, client: TalkingClient) -> None:
    work(project, *[f"t-{number}" for number in range(12)])
    call = {
        "session_id": "s-1", "hook_event_name": "PostToolUse", "tool_name": "Bash", "tool_input": {},
        "transcript_path": str(client.transcript), "prompt_id": "p1",
    }  # fmt: skip
    client.write(type="user", message={"content": "go"})
    code = _HOOK.format(scripts=str(ROOT / "scripts"), call=call, root=str(project.root))
    hooks = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"u{number}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for number in range(6)
    ]
    said = b""
    for hook in hooks:
        assert hook.stdin is not None
        hook.stdin.write(b"go\n")
        hook.stdin.flush()
    for hook in hooks:
        said += hook.communicate(timeout=100)[0]
    assert [said.count(f"- t-{number} success".encode()) for number in range(12)] == [1] * 12


# ------------------------------------------------------------------------- killed

#: Ends a task as an agent does, and dies just before or after the transaction that ends the claim.
_KILLED = """
import os, signal, sys
from pathlib import Path
from hookclient import BLOCKED, DONE, service
from hypervisor.core.project import Project
from hypervisor.store.sqlite import SqliteEngine
root, when, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
write = SqliteEngine.write
def dying(engine, body, *, durable=False):
    before = engine.read("SELECT count(*) FROM attempt WHERE ended_at IS NULL")
    if when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    answer = write(engine, body, durable=durable)
    if engine.read("SELECT count(*) FROM attempt WHERE ended_at IS NULL") != before:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer
SqliteEngine.write = dying
with service(Project(root, root / ".hypervisor"), "a1") as mine:
    if how == "release":
        mine.release("t-1", "made it")
    else:
        mine.finish("t-1", DONE if how == "complete" else BLOCKED)
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["complete", "block", "release"])
def test_whoever_dies_at_the_end_of_a_claim_the_session_is_told_what_is_so_and_once(
    project: Project, client: TalkingClient, how: str, when: str
) -> None:
    hold(project, "t-1", "a1")
    environ = {"PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT / 'tests'}", "HOME": str(project.root.parent)}
    words = [sys.executable, "-c", _KILLED, str(project.root), when, how]
    assert subprocess.run(words, env=environ, timeout=60, check=False).returncode == -signal.SIGKILL
    if when == "before":
        assert client.tool() == ""
        assert held(project) == {"t-1"}
        return
    word = {
        "complete": "success: made it",
        "block": "blocked: no key",
        "release": "released, ready again: made it",
    }
    assert f"- t-1 {word[how]}" in client.tool()
    assert [client.tool(), client.stop(), client.prompt()] == [""] * 3
    assert held(project) == set()
