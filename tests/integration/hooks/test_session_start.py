"""The start of a session, and faults of ours: both leave the user's work alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from commands import tree
from hookclient import Client, age, cancel, held, hold, open_store, service, set_config, task_file
from hypervisor.core.project import Project
from hypervisor.store.sessions import Sessions


def test_a_session_begins_with_one_line_of_where_the_queue_stands(project: Project, client: Client) -> None:
    task_file(project, "t-1")
    task_file(project, "t-2", depends_on="[t-1]")
    task_file(project, "t-3", status="done")
    project.prepare()
    for source in ("startup", "resume"):
        assert client.call("SessionStart", source=source) == {
            "hookSpecificOutput": {
                "hookEventName": "SessionStart",
                "additionalContext": (
                    "hypervisor: tasks of this project: 2 active, 1 done; 1 ready to be claimed."
                ),
            }
        }


def test_a_session_begins_by_freeing_what_the_silent_held(project: Project, client: Client) -> None:
    hold(project, "t-1", "a1", "s-9")
    age(project, "t-1", 5000)
    answer = client.call("SessionStart", source="startup")
    text = answer["hookSpecificOutput"]["additionalContext"]
    assert text == "hypervisor: tasks of this project: 1 active; 1 ready to be claimed."
    assert held(project) == set()


def test_a_session_of_a_week_ago_is_forgotten_and_a_newer_one_is_not(
    project: Project, client: Client
) -> None:
    hold(project, "t-1", "a1", "s-old")
    hold(project, "t-2", "a1", "s-new")
    with service(project, "a1", "s-old") as mine:
        mine.release("t-1", "x")
    with open_store(project) as store:
        ms = 8 * 86_400_000
        store.engine.write(
            lambda tx: tx.run(f"UPDATE session SET seen_at = seen_at - {ms} WHERE id = 's-old'")
        )
    client.call("SessionStart", source="startup")
    with open_store(project) as store:
        assert [store.sessions.is_known(name) for name in ("s-old", "s-new")] == [False, True]


def test_a_project_without_tasks_is_told_nothing_and_stays_as_it_is(project: Project, client: Client) -> None:
    (project.root / "tasks").rmdir()
    before = tree(project.root.parent)
    for event in ("SessionStart", "UserPromptSubmit", "Stop", "SessionEnd", "SubagentStop", "StopFailure"):
        assert client.call(event, prompt="hello", source="startup", background_tasks=[]) is None
    for event in ("PreToolUse", "PostToolUse", "PostToolUseFailure"):
        assert client.tool(event, "Bash", "a1") is None
    assert client.spawn("Look around", "Explore") == ""
    assert tree(project.root.parent) == before


def test_a_state_folder_without_tasks_is_told_nothing(project: Project, client: Client) -> None:
    project.prepare()
    assert client.call("SessionStart", source="startup") is None


def test_a_project_that_was_never_worked_on_is_told_of_and_left_alone(
    project: Project, client: Client
) -> None:
    task_file(project, "t-1")
    task_file(project, "t-2")
    before = tree(project.root.parent)
    assert client.call("SessionStart", source="startup") == {
        "hookSpecificOutput": {
            "hookEventName": "SessionStart",
            "additionalContext": (
                "hypervisor: task files of this project: 2; see `hypervisor preflight --all`."
            ),
        }
    }
    assert tree(project.root.parent) == before


@pytest.mark.parametrize("what", ["spawn", "start"])
def test_a_state_folder_that_a_hook_makes_is_as_any_other(
    project: Project, client: Client, what: str
) -> None:
    task_file(project)
    if what == "spawn":
        assert client.spawn("/pull") == ""
    else:
        assert client.call("SubagentStart", "a1") is None
    assert (project.state / ".gitignore").read_text() == "*\n"
    assert project.state.stat().st_mode & 0o777 == 0o700


# ----------------------------------------------------------------------- faults


def test_what_is_no_call_is_passed_over(project: Project, client: Client) -> None:
    task_file(project)
    before = tree(project.root.parent)
    for data in (
        b"", b"{", b"null", b"[]", b"5", b'"x"', b"\xff\xfe", b"{}", b"[" * 100_000, b'{"session_id": "s-1"}',
        b'{"session_id": "s-1", "hook_event_name": "NoSuchEvent"}', b"9" * 5000, b"NaN",
        b'{"session_id": "s-1", "hook_event_name": "Stop", "background_tasks": NaN}',
    ):  # fmt: skip
        assert client.raw(data) == ("", "")
    assert tree(project.root.parent) == before


def told_once(client: Client, payload: Mapping[str, Any], words: str) -> None:
    """Hold that a call which cannot be carried out lets the tool pass, and says so once in a session."""
    data = json.dumps(payload).encode()
    out, err = client.raw(data)
    message = json.loads(out)
    assert set(message) == {"systemMessage"}
    assert re.search(words, message["systemMessage"])
    assert message["systemMessage"].startswith(f"hypervisor: a hook failed at {payload['hook_event_name']} ")
    assert err == message["systemMessage"] + "\n"
    for _ in range(2):
        out, again = client.raw(data)
        assert (out, again) == ("", err)


def test_settings_that_cannot_be_read_stop_no_tool(project: Project, client: Client) -> None:
    hold(project, "t-1", "a1")
    set_config(project, "[agents\n")
    told_once(client, client.payload("PreToolUse", tool_name="Edit", tool_input={}), "config.toml")
    other = Client(project, client.capsys, "s-2")
    data = json.dumps(other.payload("PreToolUse", tool_name="Edit", tool_input={})).encode()
    out, err = other.raw(data)  # a session that has nothing here is not bothered
    assert out == ""
    assert "config.toml" in err


def test_a_database_that_cannot_be_read_stops_no_tool(
    project: Project, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(project, "t-1", "a1")
    cancel(project, "t-1")

    def closed(*_: object) -> list[object]:
        raise PermissionError(13, "Permission denied", str(project.state))

    monkeypatch.setattr(Sessions, "beat", closed)
    told_once(client, client.payload("PreToolUse", "a1", tool_name="Edit", tool_input={}), "PermissionError")


def test_a_database_that_is_damaged_stops_no_tool_and_no_end(project: Project, client: Client) -> None:
    hold(project, "t-1", "a1")
    for path in project.state.glob("hypervisor.db*"):
        path.write_bytes(b"no database" * 1000)
    for event in ("SessionStart", "PreToolUse", "PostToolUse", "SubagentStop", "Stop", "SessionEnd"):
        out, err = client.raw(json.dumps(client.payload(event, "a1", tool_name="Edit")).encode())
        assert "permissionDecision" not in out
        assert "Traceback" not in err


def test_a_state_folder_that_is_a_file_stops_no_tool(project: Project, client: Client) -> None:
    task_file(project)
    project.state.write_text("not a folder\n")
    before = tree(project.root.parent)
    for event in ("SessionStart", "PreToolUse", "PostToolUse", "SubagentStart", "SubagentStop", "SessionEnd"):
        for tool in ("Edit", "Agent"):
            payload = client.payload(
                event, "a1", tool_name=tool, tool_input={"prompt": "/pull t-1"}, tool_use_id="u"
            )
            out, err = client.raw(json.dumps(payload).encode())
            assert "permissionDecision" not in out
            assert "Traceback" not in err
    assert tree(project.root.parent) == before
