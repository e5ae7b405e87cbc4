"""What a Gemini agent has used is read from its records while it works."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from commands import eventually
from hypervisor.runners.gemini_events import GeminiEvents, Meter, metered


def record(home: Path, text: str, name: str = "session-1") -> None:
    path = home / f".gemini/tmp/project/chats/{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def answer(name: str, total: int | None) -> str:
    tokens = None if total is None else {"input": 1, "output": 2, "total": total}
    return json.dumps({"id": name, "type": "gemini", "content": "x", "tokens": tokens}) + "\n"


def test_each_answer_counts_once_however_often_it_is_recorded(tmp_path: Path) -> None:
    meter = Meter(tmp_path)
    assert meter.look() == 0
    record(tmp_path, json.dumps({"sessionId": "s"}) + "\n" + answer("m1", None) + answer("m1", 100))
    assert meter.look() == 100
    record(tmp_path, answer("m1", 100) + answer("m2", 50)[:20])
    assert meter.look() == 100  # the second is half written
    record(tmp_path, answer("m2", 50)[20:])
    record(tmp_path, answer("m1", 7), "sub/agent-1")  # a subagent's own
    assert meter.look() == 157


@pytest.mark.parametrize(
    "text", ["", "nonsense\n", "[]\n", '{"tokens": 5}\n', '{"id": "m", "tokens": {"total": "x"}}\n']
)
def test_what_cannot_be_understood_counts_for_nothing(tmp_path: Path, text: str) -> None:
    record(tmp_path, text + answer("m2", 3))
    assert Meter(tmp_path).look() == 3


def heard(*events: dict[str, Any]) -> GeminiEvents:
    made = GeminiEvents()
    for event in events:
        made.line(json.dumps(event).encode())
    return made


def test_a_call_and_its_answer_are_followed_by_another_request_and_a_last_word_is_not() -> None:
    call = {"type": "tool_use", "tool_id": "1", "tool_name": "invoke_agent"}
    done = {"type": "tool_result", "tool_id": "1", "status": "success"}
    word = {"type": "message", "role": "assistant", "content": "done"}
    steps = [heard(*(call, done, word)[:count]) for count in range(4)]
    assert [(one.asks, one.talks) for one in steps] == [(False, 1), (True, 2), (True, 1), (False, 1)]


def test_it_is_told_while_the_client_works(tmp_path: Path) -> None:
    told: list[tuple[int, int, bool]] = []
    made = heard({"type": "tool_use", "tool_id": "1", "tool_name": "list_directory"})
    before = threading.active_count()
    with metered(tmp_path, made, lambda *what: told.append(what)):
        record(tmp_path, answer("m1", 100))
        eventually(lambda: told, "its tokens")
        assert told[-1] == (100, 2, True)  # the next request may be sent before this is read
    assert threading.active_count() == before
