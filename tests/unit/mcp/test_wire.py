"""The protocol on the server's pipes, and the form in which the client hands a hook's call to our tool."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from hypervisor.hooks.call import Call, call_of_tool
from hypervisor.mcp.schema import TOOLS
from hypervisor.mcp.wire import (
    VERSIONS,
    Calls,
    Connection,
    Request,
    WrongRequest,
    hello,
    read_request,
    tool_call,
    tool_result,
    unknown,
)


def request(method: str = "ping", number: Any = 1, **params: Any) -> Request:
    return Request(id=number, method=method, params=params)


# ------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    "line",
    [
        b"", b"garbage", b"{", b"[]", b"7", b"null", b"\xff\xfe", b"{}", b'{"id":1}', b'{"id":1,"method":7}',
        b'{"id":true,"method":"ping"}', b'{"id":1.5,"method":"ping"}', b'{"id":[1],"method":"ping"}',
        b'{"id":1,"result":{}}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_request_is_passed_over(line: bytes) -> None:
    assert read_request(line) is None


@pytest.mark.parametrize("number", [1, 0, -1, "a", ""])
def test_a_request_keeps_its_id_as_it_is(number: Any) -> None:
    line = json.dumps({"jsonrpc": "2.0", "id": number, "method": "ping", "params": [1]}).encode()
    assert read_request(line) == Request(id=number, method="ping", params={})


def test_half_a_letter_becomes_a_question_mark() -> None:
    found = read_request(b'{"id":1,"method":"m","params":{"id":"t-1\\ud83d","whole":"\\ud83d\\ude00"}}')
    assert found is not None
    assert found.params == {"id": "t-1?", "whole": "\U0001f600"}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_is_answered_in_its_version_of_the_protocol(version: str) -> None:
    assert hello(request(protocolVersion=version), "n", "1", "i")["protocolVersion"] == version


@pytest.mark.parametrize("version", ["2099-01-01", "", None, 7])
def test_a_client_of_an_unknown_version_is_offered_the_newest(version: Any) -> None:
    assert hello(request(protocolVersion=version), "n", "1", "i")["protocolVersion"] == VERSIONS[0]


def test_a_call_without_arguments_has_none() -> None:
    assert tool_call(request(name="x")) == ("x", {})
    assert tool_call(request(name="x", arguments=None)) == ("x", {})


@pytest.mark.parametrize(
    "params", [{}, {"name": 7}, {"name": "x", "arguments": [1]}, {"name": "x", "arguments": "a"}]
)
def test_a_call_that_cannot_be_one_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(WrongRequest) as caught:
        tool_call(request("tools/call", **params))
    assert caught.value.code == -32602


def test_a_tool_is_listed_as_the_protocol_says() -> None:
    for tool in TOOLS:
        row = tool.to_json()
        assert row["inputSchema"]["type"] == "object"
        assert row.get("annotations") == ({"readOnlyHint": True} if tool.read_only else None)


# ----------------------------------------------------------------- connection


def said(connection: Connection, target: io.BytesIO) -> list[Any]:
    return [json.loads(line) for line in target.getvalue().splitlines()]


def test_answers_bear_the_requests_id_and_stand_on_a_line_each() -> None:
    target = io.BytesIO()
    connection = Connection([], target)
    connection.answer(request(number="a"), tool_result("two\nlines \ud83d"))
    connection.refuse(request("nope", 2), unknown(request("nope", 2)))
    one, two = said(connection, target)
    result = {"content": [{"type": "text", "text": "two\nlines ?"}], "isError": False}
    assert one == {"jsonrpc": "2.0", "id": "a", "result": result}
    assert two["error"] == {"code": -32601, "message": "nope: no such method"}


def test_a_call_that_was_cancelled_is_not_answered() -> None:
    lines = [
        b'{"id":1,"method":"tools/call"}', b'{"method":"notifications/cancelled","params":{"requestId":1}}',
        b'{"method":"notifications/initialized"}', b'{"id":2,"method":"ping"}',
    ]  # fmt: skip
    target = io.BytesIO()
    connection = Connection(lines, target)
    found = list(connection.requests())
    assert [one.id for one in found] == [1, 2]
    for one in found:
        connection.answer(one, {})
    assert [one["id"] for one in said(connection, target)] == [2]


def test_a_client_that_has_gone_ends_no_call() -> None:
    class Broken(io.BytesIO):
        def write(self, _data: Any) -> int:
            raise BrokenPipeError

    Connection([], Broken()).answer(request(), {})


def test_calls_run_beside_each_other_and_all_are_waited_for() -> None:
    calls, first, order = Calls(), threading.Event(), []

    def slow() -> None:
        first.wait(10)
        order.append("slow")

    def quick() -> None:
        order.append("quick")
        first.set()

    calls.begin(slow)
    calls.begin(quick)
    calls.wait()
    assert order == ["quick", "slow"]


# ---------------------------------------------------------------- hooks' calls


def wire_form(**fields: Any) -> Iterator[tuple[str, str]]:
    for key, value in fields.items():
        yield key, value if isinstance(value, str) else json.dumps(value)


def test_a_hooks_call_arrives_as_a_command_would_get_it() -> None:
    given = dict(wire_form(
        hook_event_name="PostToolUse", session_id="s-1", agent_id="a1", agent_type="hypervisor:worker",
        tool_name="Bash", tool_input={"command": "true"}, tool_use_id="toolu_1",
        tool_response={"stdout": "x"},
        transcript_path="/home/u/x.jsonl", prompt_id="p1", permission_mode="default", error="", prompt="",
        background_tasks=[{"id": "b1", "status": "running"}, {"id": "b2", "status": "completed"}],
    ))  # fmt: skip
    assert call_of_tool(given) == Call(
        event="PostToolUse", session="s-1", agent="a1", agent_type="hypervisor:worker", tool="Bash",
        input={"command": "true"}, use="toolu_1", response={"stdout": "x"}, mode="default",
        transcript="/home/u/x.jsonl", prompt_id="p1", background=frozenset({"b1"}),
    )  # fmt: skip


def test_what_an_event_lacks_is_an_empty_text_and_counts_as_not_there() -> None:
    names = ("agent_id", "tool_input", "tool_response", "background_tasks", "stop_hook_active", "error")
    call = call_of_tool({"hook_event_name": "Stop", "session_id": "s-1", **dict.fromkeys(names, "")})
    assert call == Call(event="Stop", session="s-1")


@pytest.mark.parametrize(("text", "asked"), [("true", True), ("false", False), ("", False), (True, True)])
def test_whether_a_hook_has_kept_the_client_is_read_from_a_word(text: Any, asked: bool) -> None:
    call = call_of_tool({"hook_event_name": "Stop", "session_id": "s-1", "stop_hook_active": text})
    assert call is not None
    assert call.asked is asked


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "7", '"x"', "null"])
def test_an_object_that_is_none_is_passed_over(text: str) -> None:
    call = call_of_tool({"hook_event_name": "PreToolUse", "session_id": "s-1", "tool_input": text})
    assert call is not None
    assert call.input == {}


@pytest.mark.parametrize(
    "given", [{}, {"hook_event_name": "Stop"}, {"session_id": "s-1"}, {"hook_event_name": 7}]
)
def test_what_is_no_call_is_none(given: dict[str, Any]) -> None:
    assert call_of_tool(given) is None
