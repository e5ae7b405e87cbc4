"""What the plugin asks the client to tell us: the events, the form, and what starts a process."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hypervisor.hooks import decisions
from hypervisor.hooks.call import call_of_tool
from hypervisor.mcp.schema import PREFIX, SERVER
from hypervisor.mcp.server import HOOK

ROOT = Path(__file__).resolve().parents[3]
#: The events of the client's hooks: https://code.claude.com/docs/en/hooks
EVENTS = {
    "PreToolUse", "PostToolUse", "PostToolUseFailure", "PostToolBatch", "Notification", "UserPromptSubmit",
    "UserPromptExpansion", "SessionStart", "SessionEnd", "Stop", "StopFailure", "SubagentStart",
    "SubagentStop", "PreCompact", "PostCompact", "PermissionRequest", "PermissionDenied", "Setup",
    "TeammateIdle", "TaskCreated", "TaskCompleted", "Elicitation", "ElicitationResult", "ConfigChange",
    "WorktreeCreate", "WorktreeRemove", "InstructionsLoaded", "CwdChanged", "FileChanged", "MessageDisplay",
}  # fmt: skip
OF_TOOLS = ("PreToolUse", "PostToolUse", "PostToolUseFailure")
ACTING = ("Agent", *decisions.CHANGING, f"{PREFIX}claim_task", "mcp__mail__archive", "WebFetch", "Reader")
READING = ("Read", "Glob", "Grep", "TodoWrite")


def wiring(name: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return event, matcher and handler of each hook in a file."""
    groups = json.loads((ROOT / "hooks" / name).read_text("utf-8"))["hooks"]
    return [
        (event, group.get("matcher", ""), hook)
        for event, listed in groups.items()
        for group in listed
        for hook in group["hooks"]
    ]


def heard(name: str, event: str, tool: str) -> int:
    """Return how many hooks of a file are told of a tool."""
    return sum(
        one == event and (not matcher or bool(re.fullmatch(matcher, tool)))
        for one, matcher, _ in wiring(name)
    )


@pytest.mark.parametrize("name", ["hooks.json", "hooks.command.json"])
@pytest.mark.parametrize("event", OF_TOOLS)
def test_each_tool_is_told_of_once_and_one_that_only_reads_not_before(name: str, event: str) -> None:
    assert [heard(name, event, tool) for tool in ACTING] == [1] * len(ACTING)
    before = event == "PreToolUse"
    assert [heard(name, event, tool) for tool in READING] == [0 if before else 1] * len(READING)


def test_all_hooks_ask_our_server_but_the_two_that_it_cannot_hear() -> None:
    commands = [(event, hook) for event, _, hook in wiring("hooks.json") if hook["type"] == "command"]
    assert [event for event, _ in commands] == ["SessionStart", "Stop"]
    assert [hook.get("asyncRewake", False) for _, hook in commands] == [False, True]
    asking = [(event, hook) for event, _, hook in wiring("hooks.json") if hook["type"] == "mcp_tool"]
    assert {event for event, _ in asking} <= EVENTS - {"SessionStart", "SessionEnd"}
    for event, hook in asking:
        assert (hook["server"], hook["tool"]) == (f"plugin:hypervisor:{SERVER}", HOOK)
        fields = hook["input"]
        assert fields.pop("hook_event_name") == event
        assert fields == {key: f"${{{key}}}" for key in fields}
        # Each of them is one that a call is read from.
        told = {key: "true" if key == "stop_hook_active" else "x" for key in fields}
        call = call_of_tool({**told, "hook_event_name": event})
        assert call is not None
        assert call.session == call.agent == "x"


def test_as_scripts_all_hooks_are_commands_and_hear_what_the_server_hears() -> None:
    scripts = wiring("hooks.command.json")
    assert {hook["type"] for _, _, hook in scripts} == {"command"}
    assert {event for event, _, _ in scripts} == {event for event, _, _ in wiring("hooks.json")} | {
        "SessionEnd"
    }
    for _, _, hook in scripts:
        for part in (one.removeprefix("${CLAUDE_PLUGIN_ROOT}/") for one in hook["args"]):
            script = ROOT / "scripts" / part if part.endswith(".py") else ROOT / part
            assert part == "sh" or script.exists(), part
