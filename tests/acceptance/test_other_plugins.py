"""Beside other plugins, whose hooks answer to the same events, the plugin keeps its word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from acceptance.api import ScriptedApi, calls, say, use
from acceptance.conftest import NewClient
from acceptance.product import RULES, Tasks, claim, done, tool, worker
from commands import ROOT
from hypervisor.mcp.schema import PREFIX

pytestmark = pytest.mark.usefixtures("tool_search")

_EVENTS = (
    "SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "PostToolUseFailure", "SubagentStart",
    "SubagentStop", "Stop", "SessionEnd",
)  # fmt: skip


_SPEAKS = '{"hookSpecificOutput": {"hookEventName": "PostToolUse", "additionalContext": "x"}}'


def neighbour(folder: Path, script: str, events: tuple[str, ...] = _EVENTS) -> Path:
    """Write a plugin whose hook, at each of *events*, is a shell script."""
    plugin = folder / "neighbour"
    (plugin / ".claude-plugin").mkdir(parents=True)
    (plugin / ".claude-plugin/plugin.json").write_text('{"name": "neighbour", "version": "1.0.0"}')
    (plugin / "hooks").mkdir()
    (plugin / "hook").write_text(script)
    command = {"type": "command", "command": "sh", "args": ["${CLAUDE_PLUGIN_ROOT}/hook"]}
    hooks = {event: [{"hooks": [command]}] for event in events}
    (plugin / "hooks/hooks.json").write_text(json.dumps({"hooks": hooks}))
    return plugin


@pytest.mark.parametrize(
    "script",
    [
        "exit 1\n",
        "echo not JSON; exit 0\n",
        'sleep 0.3; echo \'{"systemMessage": "hello"}\'\n',
        f"cat >/dev/null; echo '{_SPEAKS}'\n",
    ],
    ids=["fails", "no JSON", "slow", "speaks"],
)
def test_a_task_is_done_beside_a_plugin_that_misbehaves(
    api: ScriptedApi, client: NewClient, git_project: Path, tmp_path: Path, script: str
) -> None:
    tasks = Tasks(git_project)
    tasks.add("t-1", receipts="[Bash]")
    api.main(calls(worker("t-1")), *[say("ok")] * 4)
    api.agent(
        "/pull t-1",
        calls(claim("t-1")),
        calls(use("Bash", command="echo one")),
        calls(done("t-1")),
        say("COMPLETED"),
    )
    client(cwd=git_project, plugins=[ROOT, neighbour(tmp_path, script)]).run("go", *RULES).passed()
    assert tasks.status("t-1") == "done"
    assert tasks.text("t-1").count(" Bash ok: echo one") == 1


def test_another_plugin_may_change_what_our_tools_are_given(
    api: ScriptedApi, client: NewClient, git_project: Path, tmp_path: Path
) -> None:
    tasks = Tasks(git_project)
    tasks.add("t-1")
    tasks.add("t-2")
    # It answers with the input as the model gave it: whichever answer the client takes, the claim is one.
    script = (
        "python3 -c 'import json,sys; call = json.load(sys.stdin); "
        'print(json.dumps({"hookSpecificOutput": {"hookEventName": "PreToolUse", '
        '"permissionDecision": "allow", "updatedInput": call["tool_input"]}}))\'\n'
    )
    plugin = neighbour(tmp_path, script, ("PreToolUse",))
    api.main(calls(worker("t-1"), worker("t-2")), *[say("ok")] * 4)
    for name in ("t-1", "t-2"):
        api.agent(
            f"/pull {name}", calls(claim(name)), calls(tool("update_task", id=name, body="- a line")),
            calls(done(name)), say("COMPLETED"),
        )  # fmt: skip
    client(cwd=git_project, plugins=[ROOT, plugin]).run("go", *RULES).passed()
    assert [tasks.status(name) for name in ("t-1", "t-2")] == ["done", "done"]
    assert len([event for event in tasks.events if event["event"] == "claimed"]) == 2


def test_what_another_plugin_denies_stays_denied_and_its_place_is_free_again(
    api: ScriptedApi, client: NewClient, git_project: Path, tmp_path: Path
) -> None:
    tasks = Tasks(git_project)
    tasks.add("t-1")
    denial = (
        '{"hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": "deny", '
        '"permissionDecisionReason": "not on a Sunday"}}'
    )
    plugin = neighbour(tmp_path, f"echo '{denial}'\n", ("PreToolUse",))
    api.main(calls(worker("t-1"), claim("t-1")), say("ok"))
    client(cwd=git_project, plugins=[ROOT, plugin]).run("go", *RULES).passed()
    results = api.of("go").results
    assert [one.text for one in results] == ["not on a Sunday"] * 2
    assert api.of("go").tool_result(PREFIX + "claim_task").is_error
    assert tasks.status("t-1") == "active"
    assert tasks.told("t-1") == []
