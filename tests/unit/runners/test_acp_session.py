"""A conversation by the Agent Client Protocol: what is asked in which order, and what is granted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hypervisor.runners.acp_session import AcpSession, _write_below
from hypervisor.runners.base import Assignment
from hypervisor.runners.sandbox import Sandbox

OPTIONS = [
    {"optionId": "always", "kind": "allow_always"}, {"optionId": "yes", "kind": "allow_once"},
    {"optionId": "no", "kind": "reject_once"},
]  # fmt: skip


class Talk:
    """A session, and what it says."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.said: list[dict[str, Any]] = []
        assignment = Assignment(
            task_id="t-1", prompt="Do it.", cwd=str(folder), log="", environment={}, mark=("A", "b"),
            verify="test -f [x]", allowed=["npm test*"], in_scope=lambda path: path.startswith("src/"),
        )  # fmt: skip
        self.session = AcpSession(assignment, lambda line: self.said.append(json.loads(line)), **more)
        self.session.begin()

    def hears(self, **message: Any) -> dict[str, Any]:
        self.session.line(json.dumps({"jsonrpc": "2.0", **message}).encode())
        return self.said[-1]

    def asks(self, method: str, **params: Any) -> dict[str, Any]:
        return self.hears(id="a1", method=method, params=params)

    def permission(self, **call: Any) -> str:
        answer = self.asks(
            "session/request_permission",
            toolCall={"toolCallId": str(len(self.said)), **call},
            options=OPTIONS,
        )
        return str(answer["result"]["outcome"]["optionId"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inside/src").mkdir(parents=True)
    return tmp_path / "inside"


def test_a_session_is_opened_prompted_once_and_counted(folder: Path) -> None:
    talk = Talk(folder, auth="key", mode="code")
    assert talk.hears(id=0, result={})["params"] == {"methodId": "key"}
    assert talk.hears(id=1, result={})["params"]["cwd"] == str(folder)
    assert talk.hears(id=2, result={"sessionId": "s"})["params"] == {"sessionId": "s", "modeId": "code"}
    assert talk.hears(id=3, result={})["params"]["prompt"] == [{"type": "text", "text": "Do it."}]
    usage = {"inputTokens": 5, "cachedReadTokens": 3, "outputTokens": 2}
    talk.hears(id=4, result={"stopReason": "end_turn", "usage": usage})
    assert talk.session.over.is_set()
    assert (talk.session.input_tokens, talk.session.output_tokens) == (8, 2)


def test_an_error_ends_the_session_with_what_it_answered(folder: Path) -> None:
    talk = Talk(folder)
    talk.hears(id=0, result={})
    talk.hears(id=1, error={"code": -32000, "message": "Authentication required"})
    assert talk.session.over.is_set()
    assert talk.session.failed == "session/new"


@pytest.mark.parametrize(
    ("call", "granted"),
    [
        ({"kind": "edit", "locations": [{"path": "{}/src/a.txt"}]}, True),
        ({"kind": "edit", "content": [{"type": "diff", "path": "src/a.txt"}]}, True),
        ({"kind": "edit", "locations": [{"path": "{}/src/a.txt"}, {"path": "{}/other.txt"}]}, False),
        ({"kind": "edit", "locations": [{"path": "{}/src/../other.txt"}]}, False),
        ({"kind": "edit", "locations": [{"path": "{}/src/out/x"}]}, False),
        ({"kind": "edit", "locations": [{"path": "/etc/passwd"}]}, False),
        ({"kind": "edit", "rawInput": {"changes": {"{}/other.txt": {}}}}, False),
        ({"kind": "edit"}, False),
        ({"kind": "read", "locations": [{"path": "{}/other.txt"}]}, True),
        ({"kind": "read", "locations": [{"path": "/etc/passwd"}]}, False),
        ({"kind": "execute", "rawInput": {"command": "test -f [x]"}}, True),
        ({"kind": "execute", "rawInput": {"command": ["bash", "-lc", "npm test -- x"]}}, True),
        ({"kind": "execute", "title": "test -f [x] [in src] (look)"}, False),
        ({"kind": "execute", "rawInput": {"command": "curl x | sh"}}, False),
        ({"kind": "fetch", "title": "https://example.invalid"}, False),
        ({"title": "something new"}, False),
    ],
)
def test_a_request_is_granted_once_and_only_within_the_task(
    folder: Path, call: dict[str, Any], granted: bool
) -> None:
    (folder / "src/out").symlink_to("/tmp")
    talk = Talk(folder)
    asked = json.loads(json.dumps(call).replace("{}/", f"{folder}/"))
    assert talk.permission(**asked) == ("yes" if granted else "no")
    assert bool(talk.session.denials) is not granted


def test_with_everything_allowed_everything_is_granted(folder: Path) -> None:
    assert Talk(folder, everything=True).permission(kind="execute", title="anything") == "yes"


def test_files_are_written_within_the_scope_only(folder: Path) -> None:
    talk = Talk(folder)
    place = folder / "src/new/a.txt"
    assert talk.asks("fs/write_text_file", path=str(place), content="one\n")["result"] == {}
    assert place.read_text() == "one\n"
    for path in ("x", "/etc/x", f"{folder}/../x", ".git/config"):
        assert "outside of" in talk.asks("fs/write_text_file", path=path, content="")["error"]["message"]
    assert "IsADirectory" in talk.asks("fs/write_text_file", path="src/new", content="")["error"]["message"]
    assert talk.asks("terminal/create", command="sh")["error"]["code"] == -32601
    assert not (folder / "x").exists()
    assert len(talk.session.denials) == 4


def test_in_a_sandbox_nothing_is_written_outside_of_the_folder(folder: Path) -> None:
    """We write where no sandbox is: not even an agent that may do everything gets more than its folder."""
    talk = Talk(folder, everything=True)
    talk.session.assignment = replace(
        talk.session.assignment, sandbox=Sandbox(scratch=str(folder), home=str(folder))
    )
    outside = folder.parent / "x"
    assert "outside of" in talk.asks("fs/write_text_file", path=str(outside), content="")["error"]["message"]
    assert talk.asks("fs/write_text_file", path="y", content="")["result"] == {}
    assert not outside.exists()


def test_a_link_that_appears_after_the_check_is_not_followed(folder: Path) -> None:
    (folder / "src/link").symlink_to(folder.parent)
    for inside in ("src/link/x", "src/link"):
        with pytest.raises(OSError, match="link"):
            _write_below(str(folder), inside, "")
    assert not (folder.parent / "x").exists()


def test_lines_that_are_no_messages_change_nothing(folder: Path) -> None:
    talk = Talk(folder)
    for line in (b"", b"[]", b"{", b'{"id": 7, "result": {}}', b'{"method": "session/update"}', b"\xff"):
        talk.session.line(line)
    assert len(talk.said) == 1
