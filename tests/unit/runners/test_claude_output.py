"""What Claude Code's output says: lines as client 2.1.197 prints them, and odd ones."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from hypervisor.runners.base import How
from hypervisor.runners.claude import ClaudeAgent, child_environment
from hypervisor.runners.claude_events import ClaudeEvents, classify, reset_time

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC).timestamp()


def result(text: object = "did it", **more: Any) -> dict[str, Any]:
    made = {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "api_error_status": None,
        "num_turns": 1,
        "result": text,
        "total_cost_usd": 0.01,
        "modelUsage": {"claude-sonnet-4-5": {"inputTokens": 100, "outputTokens": 10}},
        "permission_denials": [],
        "terminal_reason": "completed",
        **more,
    }
    return {key: value for key, value in made.items() if value != "absent"}


def failed(text: str, status: int | None, error: str = "") -> list[dict[str, Any]]:
    message = {"role": "assistant", "content": [{"type": "text", "text": text}]}
    said = {"type": "assistant", "parent_tool_use_id": None, "error": error, "message": message}
    return [said, result(text, is_error=True, api_error_status=status, modelUsage={})]


def heard(*events: Any) -> ClaudeEvents:
    made = ClaudeEvents()
    for event in events:
        made.line(event if isinstance(event, bytes) else json.dumps(event).encode())
    return made


def used(name: str, *, error: bool = False) -> list[dict[str, Any]]:
    use = {"type": "tool_use", "id": f"toolu_{name}", "name": name, "input": {}}
    told = {"type": "tool_result", "tool_use_id": f"toolu_{name}", "is_error": error, "content": "x"}
    return [
        {"type": "assistant", "message": {"content": [use]}},
        {"type": "user", "message": {"content": [told]}},
    ]


DENIED = [{"tool_name": "Bash", "tool_use_id": "toolu_1", "tool_input": {"command": "touch\nx"}}]
LIMIT = "You've hit your session limit · resets 3am (Europe/Berlin)"
BROKEN: dict[str, Any] = {"subtype": "error_during_execution", "result": "absent", "is_error": True}

TABLE: list[tuple[str, list[Any], int, str, How, str]] = [
    ("success", [result()], 0, "", How.ENDED, "did it"),
    ("last line", [result("a\n\nb\n")], 0, "", How.ENDED, "b"),
    ("older client", [result(terminal_reason="absent")], 0, "", How.ENDED, "did it"),
    ("two results", [result("one"), result("two")], 0, "", How.ENDED, "two"),
    ("401", failed("Invalid API key · Fix external API key", 401, "authentication_failed"), 1, "",
     How.LOGGED_OUT, "Invalid API key · Fix external API key"),
    ("no key", failed("Not logged in · Please run /login", None), 1, "", How.LOGGED_OUT, "Not logged in"),
    ("403", failed("Failed to authenticate. API Error: 403 no", 403), 1, "", How.LOGGED_OUT, "Failed to"),
    ("older 401", failed("Invalid API key · Please run /login", None), 1, "", How.LOGGED_OUT, "Invalid"),
    ("stderr login", [], 1, "Not logged in. Please run /login\n", How.LOGGED_OUT, "exit 1: Not logged in."),
    ("unknown command", [result("Unknown command: /x", num_turns=0, terminal_reason="absent")], 0, "",
     How.UNKNOWN_COMMAND, "Unknown command: /x"),
    ("says unknown command", [result("Unknown command: /x")], 0, "", How.ENDED, "Unknown command: /x"),
    ("turns", [result("absent", subtype="error_max_turns", is_error=True, terminal_reason="max_turns",
      errors=["Reached maximum number of turns (2)"])], 1, "", How.TURN_LIMIT, "Reached maximum number"),
    ("budget", [result("absent", subtype="error_max_budget_usd", is_error=True, terminal_reason="absent",
      errors=["Reached maximum budget ($0.0001)"])], 1, "", How.BUDGET, "Reached maximum budget"),
    ("429", failed("API Error: Request rejected (429) · Please try again later.", 429, "rate_limit"), 1, "",
     How.RATE_LIMIT, "API Error: Request rejected"),
    ("429 of capacity", failed("API Error: Server is temporarily limiting requests (not your usage limit)",
      429, "rate_limit"), 1, "", How.RATE_LIMIT, "API Error: Server"),
    ("529", failed("API Error: 529 Overloaded.", 529, "server_error"), 1, "", How.OVERLOAD, "API"),
    ("500", failed("API Error: 500 x", 500, "server_error"), 1, "", How.API_ERROR, "API Error: 500"),
    ("400", failed("API Error: 400 scripted", 400, "unknown"), 1, "", How.API_ERROR, "API Error: 400"),
    ("offline", failed("API Error: Unable to connect to API (ConnectionRefused)", None, "server_error"), 1,
     "", How.API_ERROR, "API Error: Un"),
    ("no money", failed("Credit balance is too low", 400, "billing_error"), 1, "", How.USAGE_LIMIT, ""),
    ("limit", failed(LIMIT, 429, "rate_limit"), 1, "", How.USAGE_LIMIT, LIMIT),
    ("limit, 429 text", failed("API Error: Request rejected (429) · This exceeds your usage limit", 429), 1,
     "", How.USAGE_LIMIT, "API Error"),
    ("limit, old", [result("Claude AI usage limit reached|1795261717")], 0, "", How.USAGE_LIMIT, "Claude"),
    ("limit, quoted", [result("The log says: You've hit your session limit")], 0, "", How.ENDED, "The log"),
    ("denied", [result("I could not", permission_denials=DENIED)], 0, "", How.REFUSED, "denied: Bash touch"),
    ("denied, read", [*used("Read"), result(permission_denials=DENIED)], 0, "", How.REFUSED, "denied"),
    ("denied, worked", [*used("Edit"), result(permission_denials=DENIED)], 0, "", How.ENDED, "did it"),
    ("denied all", [*used("Edit", error=True), result(permission_denials=DENIED)], 0, "", How.REFUSED, ""),
    ("denied, empty", [*used("Edit"), result("", permission_denials=DENIED)], 0, "", How.REFUSED, "denied"),
    ("empty", [result("")], 0, "", How.EMPTY, "it said nothing"),
    ("no text", [result(None)], 0, "", How.EMPTY, "it said nothing"),
    ("hook", [result("", terminal_reason="hook_stopped")], 0, "", How.EMPTY, "it said nothing (hook"),
    ("other reason", [result(terminal_reason="aborted")], 0, "", How.FAILED, "aborted: did it"),
    ("killed", [], -9, "", How.KILLED, "killed by signal 9 (SIGKILL)"),
    ("ended by TERM", [], 143, "", How.KILLED, "killed by signal 15 (SIGTERM)"),
    ("killed late", [result()], -9, "", How.KILLED, "killed by signal 9"),
    ("SIGINT", [result(**BROKEN)], 0, "", How.FAILED, "error_during_execution"),
    ("exit 1", [result()], 1, "", How.FAILED, "exit 1, success: did it"),
    ("bad flag", [], 1, "error: unknown option '--x'\n", How.FAILED, "exit 1: error: unknown option"),
    ("nothing at all", [], 0, "", How.FAILED, "exit 0: no result"),
    ("odd types", [result(7, permission_denials="x", modelUsage=[], num_turns="y")], 0, "", How.EMPTY, "it"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("events", "code", "stderr", "how", "text"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_how_it_ended(events: list[Any], code: int, stderr: str, how: How, text: str) -> None:
    said = classify(heard(*events), code, stderr, NOW)
    assert said[0] is how, said
    assert said[1].startswith(text)
    assert "\n" not in said[1]


def test_odd_lines_are_passed_over() -> None:
    odd = [b"", b"{", b"\xff\xfe", b"[1]", b"7", b"null", b"[" * 100000, b'{"type": ["result"]}']
    odd += [b'{"type": "assistant", "message": "x"}', b'{"type": "user", "message": {"content": "x"}}']
    odd += [b'{"type": "rate_limit_event", "rate_limit_info": 3}', b'{"type": "new", "x": {}}']
    assert classify(heard(*odd, result(), *odd), 0, "", NOW)[0] is How.ENDED


def test_tokens_and_money_are_the_last_result_s_of_all_models() -> None:
    models = {
        "a": {
            "inputTokens": 1,
            "cacheReadInputTokens": 20,
            "cacheCreationInputTokens": 300,
            "outputTokens": 5,
        },
        "b": {"inputTokens": 4000, "outputTokens": 60, "costUSD": None},
        "c": {"inputTokens": "many"},
    }
    said = heard(result(num_turns=1), result(modelUsage=models, total_cost_usd=1.5, num_turns=3)).counted()
    assert said == {"input_tokens": 4321, "output_tokens": 65, "cost_usd": 1.5, "turns": 3}
    assert heard().counted() == {}


def test_the_time_of_a_limit_is_the_event_s_before_the_text_s() -> None:
    told = {"status": "rejected", "resetsAt": 1795261717, "rateLimitType": "five_hour"}
    event = {"type": "rate_limit_event", "rate_limit_info": told}
    assert classify(heard(event, *failed(LIMIT, 429)), 1, "", NOW)[2] == 1795261717
    assert classify(heard(*failed(LIMIT, 429)), 1, "", NOW)[2] == reset_time(LIMIT, NOW)
    # A limit that only warns, or that the request got over, ends nothing.
    event["rate_limit_info"] = {**told, "status": "allowed_warning"}
    assert classify(heard(event, result()), 0, "", NOW)[0] is How.ENDED


def at(zone: str, *when: int) -> float:
    return datetime(*when, tzinfo=ZoneInfo(zone)).timestamp()  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("text", "when"),
    [
        (LIMIT, at("Europe/Berlin", 2026, 11, 22, 3)),
        ("resets 11:48pm (UTC)", at("UTC", 2026, 11, 21, 23, 48)),
        ("resets 12am (UTC)", at("UTC", 2026, 11, 22, 0)),
        ("resets 12:30 PM (UTC)", at("UTC", 2026, 11, 21, 12, 30)),
        ("resets 12pm (UTC)", at("UTC", 2026, 11, 21, 12)),
        ("Your limit will reset at 3pm (America/New_York)", at("America/New_York", 2026, 11, 21, 15)),
        ("resets Nov 24, 9:28am (Europe/Berlin)", at("Europe/Berlin", 2026, 11, 24, 9, 28)),
        ("resets Jan 2, 3am (UTC)", at("UTC", 2027, 1, 2, 3)),
        ("resets Jan 2, 2028, 3am (UTC)", at("UTC", 2028, 1, 2, 3)),
        ("Claude AI usage limit reached|1733333333", 1733333333.0),
        ("Claude AI usage limit reached|1733333333000", 1733333333.0),
    ],
)
def test_when_a_limit_ends(text: str, when: float) -> None:
    assert reset_time(text, NOW) == when


@pytest.mark.parametrize("text", ["", "resets soon", "resets Foo 2, 3am (UTC)", "resets Feb 31, 3am (UTC)"])
def test_no_time_is_made_up(text: str) -> None:
    assert reset_time(text, NOW) is None


@pytest.mark.parametrize("text", ["resets at 3am", "resets 3am (No/Where)", "resets 3am (../../etc/passwd)"])
def test_a_time_without_a_zone_is_the_machine_s(text: str) -> None:
    told = reset_time(text, NOW)
    assert told is not None
    assert datetime.fromtimestamp(told).hour == 3  # noqa: DTZ006
    assert 0 <= told - NOW <= 86400 + 3600


def test_the_command_line() -> None:
    agent = ClaudeAgent(plugin="/p", model="m", max_turns=3, max_budget_usd=0.5, extra_flags=["--verbose"])
    assert agent.words(["mcp__x"]) == [
        "claude", "-p", "--output-format", "stream-json", "--verbose", "--plugin-dir", "/p", "--model", "m",
        "--max-turns", "3", "--max-budget-usd", "0.5", "--permission-mode", "acceptEdits", "--allowedTools",
        "Edit", "Write", "Bash(git add *)", "Bash(git commit *)", "Bash(hypervisor task complete *)",
        "Bash(hypervisor task block *)", "Bash(hypervisor task ask *)", "Bash(hypervisor hive *)", "mcp__x",
        "--verbose",
    ]  # fmt: skip
    assert "Bash(git commit *)" in agent.permissions
    free = ClaudeAgent(skip_permissions=True)
    assert free.words(["mcp__x"])[-1] == "--dangerously-skip-permissions"
    assert "everything" in free.permissions


def test_the_environment_is_the_user_s_without_the_session() -> None:
    user = {"HOME": "/h", "CLAUDE_CONFIG_DIR": "/c", "CLAUDE_CODE_OAUTH_TOKEN": "t", "ANTHROPIC_API_KEY": "k"}
    session = {"CLAUDECODE": "1", "CLAUDE_CODE_SESSION_ID": "s", "CLAUDE_CODE_ENTRYPOINT": "cli"}
    made = child_environment({**user, **session, "CLAUDE_PROJECT_DIR": "/x"}, {"A": "b"})
    own = {"CLAUDE_CODE_PRINT_BG_WAIT_CEILING_MS": "0", "HYPERVISOR_PYTHON": sys.executable}
    assert made == {**user, **own, "A": "b"}


@pytest.mark.parametrize(
    ("servers", "word"),
    [
        ([{"name": "plugin:hypervisor:task_manager", "status": "connected"}], ""),
        ([{"name": "plugin:hypervisor:task_manager", "status": "failed"}], "failed"),
        ([{"name": "plugin:other:task_manager", "status": "connected"}], "not there"),
        ([], "not there"),
        ("odd", "not there"),
    ],
)
def test_an_agent_that_begins_without_its_tools_is_warned_of_at_once(servers: Any, word: str) -> None:
    said: list[str] = []
    heard = ClaudeEvents(warn=said.append)
    heard.line(json.dumps({"type": "system", "subtype": "init", "mcp_servers": servers}).encode())
    assert [word in one for one in said] == ([True] if word else [])
    ClaudeEvents().line(json.dumps({"type": "system", "subtype": "init", "mcp_servers": servers}).encode())
