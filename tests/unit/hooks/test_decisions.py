"""What a hook of the client decides, as tables: a call in, an answer out."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from hypervisor.hooks import decisions
from hypervisor.hooks.call import Call, read_call
from hypervisor.hooks.decisions import PREFIX, READ_ONLY, Room
from hypervisor.mcp import schema
from hypervisor.mcp.schema import BY_NAME, IDENTITY
from hypervisor.store.records import AgentTask, Claim
from hypervisor.store.sessions import MAIN, AgentClaim, ClaimStatus


def claim(task: str = "t-1", number: int = 3, why: str = "", *receipts: str) -> AgentClaim:
    """Return a claim of an agent: open, or lost for that reason."""
    return AgentClaim(
        session="s-1", agent="a1", assigned=False, task=AgentTask(task=task, receipts=receipts),
        status=ClaimStatus(how="lost" if why else "open", why=why),
        claim=Claim(attempt=70 + number, work=1, key=task, cycle=1, number=number, text="t", worker="w"),
    )  # fmt: skip


OF_TOOLS = claim("t-1", 3, "", "Bash", "mcp__mail__*")
WHEN = "2026-01-02T03:04:05Z"


def call(event: str = "PreToolUse", **fields: Any) -> Call:
    return Call(event=event, session="s-1", **fields)


def spawning(prompt: str, kind: str = "hypervisor:worker", **fields: Any) -> Call:
    return call(tool="Agent", input={"prompt": prompt, "subagent_type": kind}, **fields)


# -------------------------------------------------------------------- read_call


@pytest.mark.parametrize(
    "data",
    [
        None, 5, "text", [], [{"session_id": "s-1", "hook_event_name": "Stop"}], {},
        {"session_id": "s-1"}, {"hook_event_name": "Stop"},
        {"session_id": "", "hook_event_name": "Stop"}, {"session_id": "s-1", "hook_event_name": ""},
        {"session_id": 7, "hook_event_name": "Stop"}, {"session_id": "s-1", "hook_event_name": ["Stop"]},
    ],
)  # fmt: skip
def test_what_names_no_event_or_no_session_is_no_call(data: object) -> None:
    assert read_call(data) is None


def test_a_call_says_what_the_client_said() -> None:
    data = {
        "session_id": "s-1", "transcript_path": "/x.jsonl", "cwd": "/p", "permission_mode": "default",
        "hook_event_name": "PostToolUse", "agent_id": "a1", "agent_type": "hypervisor:worker",
        "tool_name": "Bash", "tool_input": {"command": "echo hi"}, "tool_use_id": "toolu_1",
        "tool_response": {"stdout": "hi"}, "duration_ms": 101,
    }  # fmt: skip
    assert read_call(data) == call(
        "PostToolUse", agent="a1", agent_type="hypervisor:worker", tool="Bash",
        input={"command": "echo hi"}, use="toolu_1", response={"stdout": "hi"}, mode="default",
        transcript="/x.jsonl",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"agent": MAIN, "background": None, "asked": False, "input": {}}),
        ({"agent_id": None}, {"agent": MAIN}),
        ({"agent_id": ""}, {"agent": MAIN}),
        ({"agent_id": 5}, {"agent": MAIN}),
        ({"agent_id": ["a1"]}, {"agent": MAIN}),
        ({"agent_id": "a1"}, {"agent": "a1"}),
        ({"tool_input": ["command"]}, {"input": {}}),
        ({"tool_input": "echo"}, {"input": {}}),
        ({"tool_name": None}, {"tool": ""}),
        ({"stop_hook_active": True}, {"asked": True}),
        ({"stop_hook_active": "true"}, {"asked": False}),
        ({"stop_hook_active": 1}, {"asked": False}),
        ({"background_tasks": None}, {"background": None}),
        ({"background_tasks": {"a1": "running"}}, {"background": None}),
        ({"background_tasks": []}, {"background": frozenset()}),
        ({"background_tasks": [{"id": "a1", "status": "running"}, {"id": "a2", "status": "completed"}]},
         {"background": frozenset({"a1"})}),
        ({"background_tasks": [{"id": "a1"}, "a2", None, {"id": "a3", "status": []}]},
         {"background": frozenset({"a1", "a3"})}),
        *[({"background_tasks": [{"id": "a1", "status": word}]}, {"background": frozenset()})
          for word in ("completed", "failed", "killed", "stopped")],
        ({"error": "rate_limit"}, {"error": "rate_limit", "reason": "rate_limit"}),
        ({"reason": "other", "error": "e"}, {"error": "e", "reason": "other"}),
    ],
)  # fmt: skip
def test_a_missing_or_odd_field_is_as_if_it_were_not_there(
    fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = read_call({"session_id": "s-1", "hook_event_name": "Stop", **fields})
    said: dict[str, Any] = {"reason": fields.get("reason") or fields.get("error") or "", **expected}
    assert found == replace(call("Stop"), **said)


def test_a_call_is_read_however_deep_its_odd_fields_are() -> None:
    deep: Any = "a1"
    for _ in range(500):
        deep = [deep]
    data = {"session_id": "s-1", "hook_event_name": "Stop", "background_tasks": [{"id": deep}, {"id": "a2"}]}
    found = read_call(json.loads(json.dumps(data)))
    assert found is not None
    assert "a2" in (found.background or ())


# --------------------------------------------------------------------- own_tool


@pytest.mark.parametrize("agent", [MAIN, "a1"])
@pytest.mark.parametrize("name", BY_NAME)
def test_a_tool_of_ours_is_allowed_and_told_who_calls(name: str, agent: str) -> None:
    given = {"id": "t-1", "caller_session": "forged", "caller_agent": "forged", "unknown": [1, {"a": None}]}
    answer = decisions.own_tool(call(tool=PREFIX + name, input=given, agent=agent))
    assert answer is not None
    said = answer["hookSpecificOutput"]
    assert (said["hookEventName"], said["permissionDecision"]) == ("PreToolUse", "allow")
    told = {"caller_session": "s-1", "caller_agent": agent}
    assert set(told) == set(IDENTITY)
    assert said["updatedInput"] == {**given, **told}
    assert given["caller_agent"] == "forged", "the call itself was changed"


def test_the_sessions_own_thread_is_called_main() -> None:
    assert MAIN == "main"
    read = read_call({"session_id": "s-1", "hook_event_name": "PreToolUse", "tool_name": f"{PREFIX}get_task"})
    assert read is not None
    answer = decisions.own_tool(read)
    assert answer is not None
    assert answer["hookSpecificOutput"]["updatedInput"] == {"caller_session": "s-1", "caller_agent": "main"}


@pytest.mark.parametrize("name", BY_NAME)
def test_in_plan_mode_only_a_tool_that_changes_nothing_is_allowed(name: str) -> None:
    answer = decisions.own_tool(call(tool=PREFIX + name, input={"id": "t-1"}, mode="plan"))
    assert answer is not None
    said = answer["hookSpecificOutput"]
    assert ("permissionDecision" in said) is BY_NAME[name].read_only
    assert said["updatedInput"] == {"id": "t-1", "caller_session": "s-1", "caller_agent": MAIN}


@pytest.mark.parametrize(
    "tool",
    [
        "", "Bash", "Agent", "claim_task", "mcp__task_manager__claim_task",
        "mcp__plugin_hypervisor_other__claim_task", "mcp__plugin_other_task_manager__claim_task",
        "mcp__plugin_hypervisor_task_manager_claim_task", "xmcp__plugin_hypervisor_task_manager__claim_task",
        "mcp__plugin_hypervisor_task_manager2__claim_task", PREFIX.upper() + "claim_task", " " + PREFIX + "x",
    ],
)  # fmt: skip
def test_another_tool_is_not_allowed_by_us(tool: str) -> None:
    assert decisions.own_tool(call(tool=tool)) is None


# ------------------------------------------------------------------------ spawn

#: A prompt; the task for our worker; the task for an agent of another kind.
PROMPTS = [
    ("/pull t-1", "t-1", "t-1"),
    ("/hypervisor:pull t-1", "t-1", "t-1"),
    ("  \n\t/pull t-1", "t-1", "t-1"),
    ("/pull   t-1  ", "t-1", "t-1"),
    ("/pull 't-1'", "t-1", "t-1"),
    ('/pull "t-1"', "t-1", "t-1"),
    ("/pull t-1\nWork in the folder app.", "t-1", "t-1"),
    ("/pull tasks/t-1.md", "tasks/t-1.md", "tasks/t-1.md"),
    ("/pull task-12.3", "task-12.3", "task-12.3"),
    ("Please /pull t-1 now", "t-1", ""),
    ("Please run `/pull t-1`.", "t-1", ""),
    ("Please run /pull t-1.", "t-1", ""),
    ("Please run /pull task-12.3.", "task-12.3", ""),
    ("Do this: /hypervisor:pull t-1, then report.", "t-1", ""),
    ("Explain what /pull does in this plugin", "does", ""),
    ("/pull", "", ""),
    ("/pull\nTake the next one.", "", ""),
    ("/pulls t-1", "", ""),
    ("/other:pull t-1", "", ""),
    ("see docs/pull t-1", "", ""),
    ("https://example.org/pull t-1", "", ""),
    ("Look at pull t-1", "", ""),
    ("", "", ""),
]


@pytest.mark.parametrize(("prompt", "worker", "other"), PROMPTS)
def test_a_spawn_names_its_task(prompt: str, worker: str, other: str) -> None:
    assert decisions.pulled(spawning(prompt)) == worker
    assert decisions.is_worker(spawning(prompt)) is True
    for kind in ("general-purpose", "Explore", "worker", "other:worker", ""):
        found = spawning(prompt, kind)
        assert decisions.pulled(found) == other
        assert decisions.is_worker(found) is bool(other)


@pytest.mark.parametrize(
    "given",
    [{}, {"prompt": None}, {"prompt": ["/pull t-1"]}, {"prompt": {"text": "/pull t-1"}},
     {"subagent_type": ["hypervisor:worker"]}, {"prompt": 5, "subagent_type": 5}],
)  # fmt: skip
def test_a_spawn_of_odd_arguments_is_none_of_ours(given: dict[str, Any]) -> None:
    assert decisions.pulled(call(tool="Agent", input=given)) == ""
    assert decisions.is_worker(call(tool="Agent", input=given)) is False


#: Workers that run, memory in use in percent, and what a denial says ("" for none).
ROOMS = [
    (0, 10.0, ""),
    (7, 10.0, ""),
    (8, 10.0, "Denied: 8 workers of this session run, and 8 may. {}spawn again when one has ended."),
    (11, 10.0, "Denied: 11 workers of this session run, and 8 may. {}spawn again when one has ended."),
    (0, 99.0, ""),  # one may always run
    (7, 85.0, ""),
    (1, 85.6, "Denied: 86 % of the memory is in use, and workers are started up to 85 %. "
              "{}spawn again when one has ended."),
]  # fmt: skip


@pytest.mark.parametrize(("running", "ram", "text"), ROOMS)
def test_a_worker_is_started_where_there_is_room(running: int, ram: float, text: str) -> None:
    room = Room(running=running, cap=8, ram=ram, max_ram=85)
    for prompt, stays in (("/pull t-1", "t-1 stays ready; "), ("/pull", "")):
        answer = decisions.spawn(spawning(prompt), room)
        if not text:
            assert answer is None
            continue
        assert answer == {
            "hookSpecificOutput": {
                "hookEventName": "PreToolUse",
                "permissionDecision": "deny",
                "permissionDecisionReason": text.format(stays),
            }
        }


# --------------------------------------------------------------- lost claims


def test_who_lost_nothing_is_told_nothing() -> None:
    assert decisions.lost([]) == ""
    assert decisions.stop([]) is None


def test_who_lost_a_claim_is_told_which_and_why() -> None:
    assert decisions.lost([claim("t-1", 3, "cancelled by tobi"), claim("t-2", 1, "silent for 901 s")]) == (
        "Your claim of t-1 (attempt 3) is lost: cancelled by tobi. "
        "Change nothing more for it; report that you stopped, and why. "
        "Your claim of t-2 (attempt 1) is lost: silent for 901 s. "
        "Change nothing more for it; report that you stopped, and why."
    )


def test_a_denial_and_a_word_are_what_the_client_obeys() -> None:
    assert decisions.denied("no") == {
        "hookSpecificOutput": {
            "hookEventName": "PreToolUse",
            "permissionDecision": "deny",
            "permissionDecisionReason": "no",
        }
    }
    assert decisions.spoken("PostToolUse", "look") == {
        "hookSpecificOutput": {"hookEventName": "PostToolUse", "additionalContext": "look"}
    }


@pytest.mark.parametrize("event", ["UserPromptSubmit", "PostToolUse", "SessionStart"])
def test_notices_stand_beside_what_else_is_said(event: str) -> None:
    other = decisions.spoken(event, "first")
    assert decisions.with_notices(call(event), other, "") == other
    assert decisions.with_notices(call(event), None, "second") == decisions.spoken(event, "second")
    assert decisions.with_notices(call(event), other, "second") == decisions.spoken(event, "first\nsecond")


def test_at_the_end_of_a_turn_notices_keep_it_going() -> None:
    block = {"decision": "block", "reason": "first"}
    assert decisions.with_notices(call("Stop"), None, "second") == {"decision": "block", "reason": "second"}
    both = decisions.with_notices(call("Stop"), block, "second")
    assert both == {"decision": "block", "reason": "first\nsecond"}


# --------------------------------------------------------------------- receipts


@pytest.mark.parametrize(
    ("patterns", "tool", "noted"),
    [
        (("Bash",), "Bash", True),
        (("Bash",), "bash", False),
        (("Bash",), "BashOutput", False),
        (("mcp__mail__*",), "mcp__mail__move", True),
        (("mcp__mail__*",), "mcp__mailer__move", False),
        (("mcp__*__move",), "mcp__mail__move", True),
        (("Edit", "Wr?te"), "Write", True),
        (("*",), "anything", True),
        ((), "Bash", False),
        (("",), "Bash", False),
    ],
)
def test_a_receipt_is_for_the_named_tools_only(patterns: tuple[str, ...], tool: str, noted: bool) -> None:
    made = decisions.receipt(call("PostToolUse", tool=tool), claim("t-1", 3, "", *patterns), WHEN)
    assert (made is not None) is noted


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"tool": "Bash", "input": {"command": "rm a.txt", "description": "d"}}, "Bash ok: rm a.txt"),
        ({"tool": "mcp__mail__move", "input": {"id": 5, "to": "Gelöscht"}},
         'mcp__mail__move ok: {"id": 5, "to": "Gelöscht"}'),
        ({"tool": "mcp__mail__move", "input": {"command": ["a"]}}, 'mcp__mail__move ok: {"command": ["a"]}'),
        ({"tool": "mcp__mail__move"}, "mcp__mail__move ok: {}"),
        ({"tool": "Bash", "event": "PostToolUseFailure", "error": "Exit code 1"},
         "Bash failed (Exit code 1): {}"),
        ({"tool": "Bash", "event": "PostToolUseFailure", "input": {"command": "rm a"}},
         "Bash failed (no reason given): rm a"),
        ({"tool": "Bash", "input": {"command": "a\nb\tc"}}, "Bash ok: a\\nb\\tc"),
    ],
)  # fmt: skip
def test_a_receipt_says_when_what_and_how(fields: dict[str, Any], line: str) -> None:
    fields = {"event": "PostToolUse", **fields}
    assert decisions.receipt(call(**fields), OF_TOOLS, WHEN) == f"- {WHEN} {line}"


NASTY = [
    "x" * 100_000, "a\nb\r\nc", "\n\n", "", "\x00\x01\x1b[31m\x7f", "\ud800\udfff", "\u2028\u2029\x85",
    "\u202e", "é" * 5000, "\ud800" * 5000, "a\u00a0b", "🙂" * 500, "\n" * 5000 + "end", "- a\n- b", "---\n",
    "\x0b\x0c\x1c",
]  # fmt: skip


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
@pytest.mark.parametrize("where", ["command", "argument", "error", "tool"])
def test_a_receipt_is_one_printable_line_of_bounded_length(where: str, text: str) -> None:
    told: dict[str, Call] = {
        "command": call("PostToolUse", tool="Bash", input={"command": text}),
        "argument": call("PostToolUse", tool="Edit", input={text: [text, {"k": text}]}),
        "error": call("PostToolUseFailure", tool="Bash", error=text),
        "tool": call("PostToolUse", tool=f"mcp__mail__{text}"),
    }
    made = decisions.receipt(told[where], claim("t-1", 3, "", "*"), WHEN)
    assert made is not None
    assert made.isprintable()
    assert made.startswith(f"- {WHEN} ")
    assert len(made.splitlines()) == 1
    assert len(made) <= 600
    assert made.encode("utf-8")


# ------------------------------------------------------------------------- ends

NOTIFICATION = (
    "<task-notification>\n<task-id>{}</task-id>\n<tool-use-id>toolu_1</tool-use-id>\n<status>completed</status>\n"
    '<summary>Agent "t-1" finished</summary>\n<result>COMPLETED t-1</result>\n</task-notification>'
)
COMPLETED = {"status": "completed", "prompt": "/pull t-1", "agentId": "a1", "agentType": "hypervisor:worker"}
LAUNCHED = {"isAsync": True, "status": "async_launched", "agentId": "a1", "outputFile": "/tmp/a1.output"}

ENDS: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("SubagentStop", {"agent": "a1"}, {"a1": "its worker ended its turn without ending its claim"}),
    ("SubagentStop", {}, {}),
    ("StopFailure", {"agent": "a1", "reason": "rate_limit"},
     {"a1": "its worker ended by an error (rate_limit) without ending its claim"}),
    ("StopFailure", {"agent": "a1"},
     {"a1": "its worker ended by an error (not named) without ending its claim"}),
    ("StopFailure", {"reason": "rate_limit"}, {}),
    ("PostToolUse", {"tool": "Agent", "response": COMPLETED},
     {"a1": "its worker was over (completed) without ending its claim"}),
    ("PostToolUse", {"tool": "Task", "response": {"agentId": "a1"}},
     {"a1": "its worker was over (ended) without ending its claim"}),
    ("PostToolUse", {"tool": "Agent", "response": LAUNCHED}, {}),
    ("PostToolUse", {"tool": "Agent", "response": None}, {}),
    ("PostToolUse", {"tool": "Agent", "response": ["a1"]}, {}),
    ("PostToolUse", {"tool": "Agent", "response": {"agentId": 5}}, {}),
    ("PostToolUse", {"tool": "Bash", "response": COMPLETED}, {}),
    ("PostToolUseFailure", {"tool": "Agent", "response": COMPLETED}, {}),
    ("PreToolUse", {"tool": "Agent", "response": COMPLETED}, {}),
    ("UserPromptSubmit", {"prompt": NOTIFICATION.format("a1")},
     {"a1": "the client says that its worker is over"}),
    ("UserPromptSubmit", {"prompt": f"{NOTIFICATION.format('a1')}\nand\n{NOTIFICATION.format(' a2 ')}"},
     {"a1": "the client says that its worker is over", "a2": "the client says that its worker is over"}),
    ("UserPromptSubmit", {"prompt": "what is <task-id>a1</task-id>?"}, {}),
    ("UserPromptSubmit", {"prompt": "<task-notification><task-id></task-id></task-notification>"}, {}),
    ("UserPromptSubmit", {"prompt": "go on"}, {}),
    # Nobody's end is the end of the session's own thread: that has its own event.
    ("UserPromptSubmit", {"prompt": NOTIFICATION.format(MAIN)}, {}),
    ("PostToolUse", {"tool": "Agent", "response": {**COMPLETED, "agentId": MAIN}}, {}),
    ("Stop", {"background": frozenset({"b2"})}, {"b1": "its worker runs no more"}),
    ("Stop", {"background": frozenset()}, {"b1": "its worker runs no more", "b2": "its worker runs no more"}),
    ("Stop", {"background": frozenset({"b1", "b2", "b3"})}, {}),
    ("Stop", {"background": None}, {}),
    ("SessionStart", {}, {}),
    ("SessionEnd", {"reason": "other"}, {}),
    ("SubagentStart", {"agent": "a1"}, {}),
    ("Notification", {"agent": "a1", "prompt": NOTIFICATION.format("a1")}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("event", "fields", "ended"), ENDS)
def test_a_call_tells_whose_end_it_is(event: str, fields: dict[str, Any], ended: dict[str, str]) -> None:
    assert decisions.ended_agents(call(event, **fields), ["b1", "b2"]) == ended


@pytest.mark.parametrize(
    ("response", "agent"),
    [
        (LAUNCHED, "a1"), (COMPLETED, ""), ({**LAUNCHED, "isAsync": "true"}, ""),
        ({**LAUNCHED, "agentId": None}, ""), (None, ""), ("a1", ""), ([LAUNCHED], ""),
        ({"isAsync": True}, ""),
    ],
)  # fmt: skip
def test_an_agent_in_the_background_is_known_by_the_answer_to_its_launch(
    response: object, agent: str
) -> None:
    assert decisions.launched(call("PostToolUse", tool="Agent", response=response)) == agent


def test_a_worker_that_would_end_with_claims_is_told_exactly_what_to_call() -> None:
    answer = decisions.stop([claim("t-1", 3), claim("t-2", 7)])
    assert answer is not None
    assert set(answer) == {"decision", "reason"}
    assert answer["decision"] == "block"
    text = answer["reason"]
    assert "You still hold t-1 (attempt 3), t-2 (attempt 7)." in text
    called = dict(re.findall(r"(\w+)\(([^()]*)\)", text))
    called.pop("1", None)
    tools = {name: arguments for name, arguments in called.items() if "=" in arguments}
    assert set(tools) == {"complete_task", "update_task", "release_task"}
    for name, arguments in tools.items():
        spec = BY_NAME[name]
        names = {part.partition("=")[0].strip() for part in arguments.split(",")}
        assert names <= set(spec.takes), f"{name} does not take all of {names}"
        assert set(spec.required) <= names, f"{name} needs all of {spec.required}"
        assert "id='t-1'" in arguments
    assert "status='blocked'" in tools["update_task"]


def test_what_is_said_of_our_tools_here_is_what_they_are() -> None:
    assert schema.PREFIX == PREFIX
    assert {name for name, tool in BY_NAME.items() if tool.read_only} == READ_ONLY
