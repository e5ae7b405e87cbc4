"""What Claude Code tells of its tokens and conversations while it works."""

from __future__ import annotations

import json
from typing import Any

from hypervisor.runners.claude_events import ClaudeEvents


def said(*events: dict[str, Any]) -> list[tuple[int, int, bool]]:
    found: list[tuple[int, int, bool]] = []
    heard = ClaudeEvents(used=lambda *what: found.append(what))
    for event in events:
        heard.line(json.dumps(event).encode())
    return found


def answer(name: str, tokens: int, *uses: str, kind: str = "Bash") -> dict[str, Any]:
    content = [{"type": "tool_use", "id": use, "name": kind, "input": {}} for use in uses] or [
        {"type": "text"}
    ]
    usage = {"input_tokens": tokens - 10, "cache_read_input_tokens": 4, "output_tokens": 6}
    return {"type": "assistant", "message": {"id": name, "usage": usage, "content": content}}


def result(use: str, text: str = "done") -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": use, "content": [{"type": "text", "text": text}]}
    return {"type": "user", "message": {"content": [block]}}


def test_answers_are_counted_once_each_while_a_client_works() -> None:
    assert said(answer("m1", 100), answer("m1", 100, "t1"), answer("m2", 50)) == [
        (100, 1, False), (100, 1, True), (150, 1, False)
    ]  # fmt: skip


def test_a_subagent_is_a_conversation_until_its_end_is_told() -> None:
    told = said(
        answer("m1", 10, "a1", "a2", kind="Agent"),
        {"type": "system", "subtype": "task_started", "task_id": "x", "tool_use_id": "a2"},
        result("a1"),
        result("a2", "Async agent launched successfully.\nagentId: x"),
        answer("m2", 10),
        {"type": "system", "subtype": "task_notification", "task_id": "x", "status": "completed"},
        answer("m3", 10),
    )
    assert [talks for _, talks, _ in told] == [3, 2, 1]
