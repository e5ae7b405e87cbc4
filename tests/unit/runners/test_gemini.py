"""A run of the Gemini CLI: its home, its settings and policy, and how it ended; and the extension's files."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT, tree
from hypervisor.core.errors import UsageError
from hypervisor.hooks import gemini as gemini_hooks
from hypervisor.runners.base import How
from hypervisor.runners.gemini import environment
from hypervisor.runners.gemini_events import GeminiEvents, classify, reset_time
from hypervisor.runners.gemini_home import Need, make_home, policy_for, read_settings, settings_for

#: 2026-11-21 20:00 UTC: noon on the coast where the service's days begin.
NOW = datetime(2026, 11, 21, 20, tzinfo=UTC).timestamp()


# --------------------------------------------------------------- a run's home


NEED = Need(plugin="/opt/the product", environment={"HYPERVISOR_TASK_ID": "it's"}, verify="a && b")


def test_a_run_has_the_users_settings_and_ours_and_writes_to_neither(tmp_path: Path) -> None:
    users = tmp_path / "user/.gemini"
    (users / "policies").mkdir(parents=True)
    (users / "settings.json").write_text(
        '{ // his\n "theme": "a // b", /* more */ "mcpServers": {"mail": {"command": "mail"}},\n'
        ' "general": {"maxAttempts": 2}, "hooks": {"AfterTool": [{"hooks": []}]} }'
    )
    (users / "policies/mine.toml").write_text("")
    (users / "oauth_creds.json").write_text("{}")
    (users / "tmp").mkdir()
    (users.parent / ".env").write_text("GEMINI_API_KEY=x\n")
    before = tree(tmp_path / "user")
    home = tmp_path / "run"
    make_home(home, users, NEED)
    assert tree(tmp_path / "user") == before
    assert home.stat().st_mode & 0o777 == 0o700
    made = json.loads((home / ".gemini/settings.json").read_bytes())
    assert made["theme"] == "a // b"
    assert set(made["mcpServers"]) == {"mail", "task-manager"}
    assert made["mcpServers"]["task-manager"]["args"] == ["/opt/the product/scripts/launch", "mcp_server.py"]
    assert made["general"]["maxAttempts"] == 2
    assert len(made["hooks"]["AfterTool"]) == 2
    assert os.readlink(home / ".gemini/oauth_creds.json") == str(users / "oauth_creds.json")
    assert sorted(os.listdir(home / ".gemini/policies")) == ["hypervisor.toml", "user-mine.toml"]
    assert not (home / ".gemini/tmp").exists()
    assert (home / ".env").is_symlink()
    assert (home / "verify").read_text() == "a && b\n"
    # The command of a hook is one for a shell, whatever stands in the paths and the ids.
    command = made["hooks"]["BeforeTool"][-1]["hooks"][0]["command"]
    shown = subprocess.run(
        ["sh", "-c", f"sh() {{ printf '%s|' \"$HYPERVISOR_TASK_ID\" \"$@\"; }}; {command}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout == "it's|/opt/the product/scripts/launch|gemini_hook.py|"


@pytest.mark.parametrize("text", ["{", "[]", "\xff", '{"a": 1'])
def test_settings_that_cannot_be_read_end_the_run_with_a_word(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="mend the file"):
        read_settings(tmp_path / "settings.json")


def test_a_user_without_settings_has_none(tmp_path: Path) -> None:
    assert read_settings(tmp_path / "settings.json") == {}


@pytest.mark.parametrize(
    "users", [{}, {"general": {"maxAttempts": "many"}}, {"mcp": {"allowed": ["mail"]}}, {"hooks": {}}]
)
def test_settings_of_any_shape_get_what_a_run_needs(users: dict[str, Any]) -> None:
    made = settings_for(users, NEED)
    assert made["security"]["environmentVariableRedaction"]["enabled"] is True
    assert "task-manager" in made["mcpServers"]
    if "mcp" in users:
        assert made["mcp"]["allowed"] == ["mail", "task-manager"]
    inside = settings_for({"tools": {"sandbox": "docker"}}, Need(plugin="/p", environment={}, contained=True))
    assert inside["tools"]["sandbox"] is False


def test_the_policy_allows_what_is_named_and_denies_git(tmp_path: Path) -> None:
    need = Need(
        plugin="/p", environment={}, verify='a "b"', allowed=("run_shell_command(npm test)", "glob\x7f")
    )
    rules = tomllib.loads(policy_for(tmp_path / 'a "home"', need))["rule"]
    allowed = [rule for rule in rules if rule["decision"] == "allow"]
    denied = [rule for rule in rules if rule["decision"] == "deny"]
    assert [rule.get("commandPrefix", rule["toolName"]) for rule in allowed] == [
        "run_shell_command", "npm test", "glob\x7f",
    ]  # fmt: skip
    assert "git" in denied[0]["commandPrefix"]
    assert min(r["priority"] for r in allowed) > max(r["priority"] for r in denied)


def test_a_run_is_no_part_of_a_session(tmp_path: Path) -> None:
    made = environment({"GEMINI_CLI": "1", "GEMINI_SESSION_ID": "x", "GEMINI_API_KEY": "k"}, tmp_path)
    assert "GEMINI_CLI" not in made
    assert "GEMINI_SESSION_ID" not in made
    assert made["GEMINI_API_KEY"] == "k"
    assert made["GEMINI_CLI_NO_RELAUNCH"] == "true"


# ---------------------------------------------------------------- how it ended


def heard(*events: dict[str, Any], result: dict[str, Any] | None = None) -> GeminiEvents:
    made = GeminiEvents()
    for event in (*events, {"type": "result", **result} if result else {}):
        made.line(json.dumps(event).encode())
    return made


def said(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": text, "delta": True}


def failed(message: str) -> dict[str, Any]:
    return {"status": "error", "error": {"type": "Error", "message": message}}


FINE = {"status": "success", "stats": {"total_tokens": 30, "input_tokens": 20, "output_tokens": 4}}
LOOP = {"type": "error", "severity": "warning", "message": "Loop detected, stopping execution"}
QUOTA = "You have exhausted your daily quota on this model."


@pytest.mark.parametrize(
    ("events", "code", "stderr", "how", "text"),
    [
        (heard(said("COMPLETED t-1: it"), result=FINE), 0, "", How.ENDED, "COMPLETED t-1: it"),
        (heard(result=FINE), 0, "", How.EMPTY, "it said nothing"),
        (heard(said("x"), LOOP, result=FINE), 0, "", How.FAILED, "Loop detected"),
        (heard(said("x"), result=FINE), 0, "MCP issues detected. Run /mcp list", How.FAILED, "did not start"),
        (heard(said("x")), 0, "", How.KILLED, "exit 0 and without a result"),
        (heard(), 137, "", How.KILLED, "SIGKILL"),
        (
            heard(),
            41,
            "\x1b[31mPlease set an Auth method\x1b[0m",
            How.LOGGED_OUT,
            "Please set an Auth method",
        ),
        (
            heard(),
            44,
            "FatalSandboxError: GEMINI_SANDBOX is true but",
            How.MISSING,
            "no sandbox: GEMINI_SANDBOX",
        ),
        (heard(), 55, "", How.FAILED, "does not trust the folder"),
        (heard(), 1, "Cannot find module\n", How.FAILED, "exit 1: Cannot find module"),
        (heard(result=failed("max turns")), 53, "", How.TURN_LIMIT, "max turns"),
        (heard(result=failed("[API Error: no]")), 145, "", How.LOGGED_OUT, "no"),
        (heard(result=failed("API key not valid. Please")), 144, "", How.LOGGED_OUT, "not valid"),
        (heard(result=failed("Too many")), 173, "", How.RATE_LIMIT, "Too many"),
        (heard(result=failed(QUOTA)), 173, "", How.USAGE_LIMIT, "daily quota"),
        (heard(result=failed("The model is overloaded")), 247, "", How.OVERLOAD, "overloaded"),
        (heard(result=failed("[API Error: broken]")), 0, "", How.API_ERROR, "broken"),
        (heard(result=failed("blocked: safety")), 0, "", How.FAILED, "safety"),
        (heard(result=failed("something else")), 0, "", How.FAILED, "something else"),
    ],
)
def test_how_a_run_ended_is_read_from_its_events(
    events: GeminiEvents, code: int, stderr: str, how: How, text: str
) -> None:
    found, told, until = classify(events, code, stderr, NOW)
    assert found is how
    assert text in told
    assert "\n" not in told
    assert (until is not None) is (how is How.USAGE_LIMIT)


def test_a_refusal_that_left_nothing_done_is_one_and_else_it_is_none() -> None:
    use = {
        "type": "tool_use",
        "tool_name": "run_shell_command",
        "tool_id": "1",
        "parameters": {"command": "ls"},
    }
    no = {"type": "tool_result", "tool_id": "1", "status": "error", "error": {"type": "policy_violation"}}
    wrote = {"type": "tool_use", "tool_name": "write_file", "tool_id": "2", "parameters": {"file_path": "a"}}
    yes = {"type": "tool_result", "tool_id": "2", "status": "success", "output": ""}
    assert classify(heard(use, no, said("I could not"), result=FINE), 0, "", NOW)[0] is How.REFUSED
    made = heard(use, no, wrote, yes, said("did it"), result=FINE)
    assert classify(made, 0, "", NOW)[0] is How.ENDED
    assert made.denials == ["run_shell_command ls:"]


def test_tokens_count_what_was_thought_and_lines_that_are_no_event_are_passed_over() -> None:
    made = heard(said("x"), result=FINE)
    for line in (
        b"",
        b"not JSON",
        b"[1]",
        b"[" * 100_000,
        b'{"type": "tool_result"}',
        b'{"type": "message"}',
    ):
        made.line(line)
    assert made.counted() == {"input_tokens": 20, "output_tokens": 10}
    assert GeminiEvents().counted() == {}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Please retry in 2.5s.", None),
        ("Please retry in 42m3.5s.", 42 * 60 + 3.5),
        ("Your quota will reset after 5h30m10s.", 5 * 3600 + 30 * 60 + 10),
        ("Quota exceeded for metric: generate_requests_per_day PerDay", 12 * 3600),
        ("limit: 0, model: x", 12 * 3600),
        ("limit: 0.5", None),
        ("Too many requests per minute", None),
    ],
)
def test_a_limit_is_waited_for_until_it_ends(text: str, seconds: float | None) -> None:
    until = reset_time(text, NOW)
    assert (until and round(until - NOW, 3)) == seconds


# --------------------------------------------------------------- the extension


def test_the_extension_says_the_version_and_the_prompt_that_the_product_has() -> None:
    folder = ROOT / "gemini-extension"
    manifest = json.loads((folder / "gemini-extension.json").read_bytes())
    plugin = json.loads((ROOT / ".claude-plugin/plugin.json").read_bytes())
    assert (manifest["name"], manifest["version"]) == (plugin["name"], plugin["version"])
    command = tomllib.loads((folder / "commands/pull.toml").read_text("utf-8"))
    head, _, rest = command["prompt"].partition("\n\n")
    assert head == "/pull {{args}}"
    assert rest == (ROOT / "prompts/gemini-task-worker.md").read_text("utf-8")
    for script in ("scripts/launch", "hooks/call"):
        assert (folder / script).is_file()


def test_the_names_that_the_extension_hands_on_are_those_that_an_agent_is_told() -> None:
    manifest = json.loads((ROOT / "gemini-extension/gemini-extension.json").read_bytes())
    handed = manifest["mcpServers"]["task-manager"]["env"]
    assert handed == {name: f"${name}" for name in handed}
    for name in handed:  # the client takes such names out
        assert not any(word in name for word in ("KEY", "TOKEN", "AUTH", "SECRET", "PASS"))


def test_the_hooks_of_the_extension_are_for_events_that_the_client_has() -> None:
    hooks = json.loads((ROOT / "gemini-extension/hooks/hooks.json").read_bytes())["hooks"]
    assert set(hooks) == set(gemini_hooks._EVENTS)
    for entries in hooks.values():
        for entry in entries:
            for hook in entry["hooks"]:
                assert hook["timeout"] == 600_000, (
                    "milliseconds; the client takes a hook that is late for a yes"
                )
                assert "${extensionPath}" in hook["command"]
