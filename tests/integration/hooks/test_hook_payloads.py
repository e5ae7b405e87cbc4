"""Whatever a client sends, a hook answers what the call deserves, or nothing."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT
from hookclient import (
    WORKER,
    Client,
    cancel,
    hold,
    notification,
    open_store,
    set_config,
    task_file,
    text_of,
    without_notices,
)
from hypervisor.core.project import Project
from hypervisor.hooks import delivery
from hypervisor.hooks.decisions import PREFIX
from hypervisor.store.sessions import MAIN

#: Room for any number of workers, whatever else the machine does.
ROOMY = "[agents]\nper_session = 100000\nmax_ram_percent = 100\n"
#: Mutations of each call.
ROUNDS = 80

LONG = "x" * 20_000
#: What a field's place may be taken by.
VALUES: list[Any] = [
    None, True, False, 0, -1, 2**63, 1e308, "", " ", "a1", "main", "s-1", "unknown", "../../x", "/etc/passwd",
    "..", ".", "a/b", ".once", LONG, "\ud800", "\u202e\x00\n", "é🙂", "x\ny", [], {}, ["a1"], {"id": "a1"},
    [[[[[]]]]],
    {"a": {"b": {"c": [1, None, "\udfff"]}}}, ["x"] * 500, {"agentId": "../../y", "isAsync": True},
    {"command": LONG}, {"prompt": "/pull t-1", "subagent_type": WORKER}, [{"id": "a2", "status": "running"}],
    "/pull ../../x", "<task-notification><task-id>../../x</task-id></task-notification>", "Edit", "Agent",
    f"{PREFIX}claim_task", "true", "PreToolUse", "toolu_1", "plan",
]  # fmt: skip

COMMON = {
    "session_id": "s-1", "transcript_path": "/home/u/.claude/projects/p/s-1.jsonl", "cwd": "/home/u/p",
    "prompt_id": "5f21", "permission_mode": "default",
}  # fmt: skip
OF_AGENT = {"agent_id": "a1", "agent_type": WORKER}
SPAWN = {
    "description": "t-ready",
    "prompt": "/pull t-ready",
    "subagent_type": WORKER,
    "run_in_background": True,
}
COMPLETED = {
    "status": "completed", "prompt": "/pull t-9", "agentId": "a9", "agentType": WORKER, "totalTokens": 17391,
    "content": [{"type": "text", "text": "COMPLETED t-9: did it"}], "usage": {"input_tokens": 17379},
}  # fmt: skip
LAUNCHED = {"isAsync": True, "status": "async_launched", "agentId": "a9", "prompt": "/pull t-9"}
RUNNING = [{"id": "a9", "type": "subagent", "status": "running", "description": "bg", "agent_type": WORKER}]
BASH = {
    "tool_name": "Bash",
    "tool_input": {"command": "echo hi", "description": "d"},
    "tool_use_id": "toolu_1",
}

PAYLOADS: dict[str, dict[str, Any]] = {
    "SessionStart": {"source": "startup"},
    "UserPromptSubmit": {"prompt": notification("a9")},
    "PreToolUse Agent": {"tool_name": "Agent", "tool_input": SPAWN, "tool_use_id": "toolu_1"},
    "PreToolUse ours": {**OF_AGENT, "tool_name": f"{PREFIX}claim_task", "tool_input": {"id": "t-ready"}},
    "PreToolUse edit": {**OF_AGENT, "tool_name": "Edit", "tool_input": {"file_path": "/p/a"}},
    "PreToolUse holder": {**OF_AGENT, "agent_id": "a2", **BASH},
    "PreToolUse main": BASH,
    "PostToolUse": {**OF_AGENT, "agent_id": "a2", **BASH, "tool_response": {"stdout": "hi", "stderr": ""}},
    "PostToolUse over": {"tool_name": "Agent", "tool_input": SPAWN, "tool_response": COMPLETED},
    "PostToolUse launch": {"tool_name": "Agent", "tool_input": SPAWN, "tool_response": LAUNCHED},
    "PostToolUseFailure": {**OF_AGENT, "agent_id": "a2", **BASH, "error": "Exit code 1"},
    "SubagentStart": {**OF_AGENT, "agent_id": "a9"},
    "SubagentStop": {**OF_AGENT, "agent_id": "a2", "stop_hook_active": False, "background_tasks": []},
    "StopFailure": {**OF_AGENT, "agent_id": "a9", "error": "rate_limit"},
    "Stop": {"stop_hook_active": False, "last_assistant_message": "waiting", "background_tasks": RUNNING},
    "SessionEnd": {"reason": "other"},
}  # fmt: skip


#: What a call is usually answered, where that is not silence.
EXPECTED = {
    "PreToolUse ours": "allow",
    "PreToolUse edit": "deny",
    "SubagentStop": "block",
    "SessionStart": "context",
}


@pytest.mark.parametrize("name", ["hooks.json", "hooks.command.json"])
def test_every_event_that_we_ask_for_is_tried(name: str) -> None:
    asked = json.loads((ROOT / "hooks" / name).read_text("utf-8"))["hooks"]
    assert {kind.split(maxsplit=1)[0] for kind in PAYLOADS} >= set(asked)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to each field, however deep."""
    if path:
        yield path
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in below:
        yield from _places(one, (*path, key))


def mutated(payload: dict[str, Any], dice: random.Random) -> Any:
    """Return *payload* with up to three fields missing, replaced, added or put into another's place."""
    found = copy.deepcopy(payload)
    for _ in range(dice.randint(1, 3)):
        places = list(_places(found))
        if not places:
            break
        *way, key = dice.choice(places)
        inner: Any = found
        for step in way:
            inner = inner[step]
        what = dice.randrange(8)
        if what == 0:
            del inner[key]
        elif what == 1:
            inner[key] = [inner[key]]
        elif what == 2:
            inner[key] = {
                "value": inner[key],
                key if isinstance(key, str) else "x": copy.deepcopy(dice.choice(VALUES)),
            }
        elif what == 3 and isinstance(inner, dict):
            inner[
                dice.choice([LONG, "\ud800", "", "agent_id", "tool_input", "background_tasks", "error"])
            ] = copy.deepcopy(dice.choice(VALUES))
        elif what == 4 and isinstance(inner[key], str):
            cut = dice.randrange(len(inner[key]) + 1)
            inner[key] = (
                inner[key][:cut] + dice.choice(["", "\n", "\x00", "\udcff", "/../", LONG]) + inner[key][cut:]
            )
        else:
            inner[key] = copy.deepcopy(dice.choice(VALUES))
    return found


class Scene:
    """A project in which s-1's a1 has lost a claim, and its a2 and its own thread hold one each."""

    def __init__(self, project: Project, before: Path) -> None:
        self.project, self.before = project, before
        set_config(project, ROOMY)
        task_file(project, "t-ready")
        for number, agent in enumerate(["a1", "a2", MAIN], 1):
            hold(project, f"t-{number}", agent)
        cancel(project, "t-1", "not wanted")
        shutil.copytree(project.root, before, symlinks=True)
        self.store = open_store(project)
        self.claims = self.state()

    def state(self) -> tuple[set[str], list[int]]:
        """Return which tasks are held, and which attempts a1 has lost."""
        lost = self.store.sessions.lost_claims("s-1", "a1")
        held = {one.text for one in self.store.claims.held_all()}
        return held, [one.claim.attempt for one in lost]

    def put_right(self) -> None:
        """Go back to how it was, if a call has released something."""
        if self.state() != self.claims:
            self.store.close()
            for name in (".hypervisor", "tasks"):
                shutil.rmtree(self.project.root / name)
                shutil.copytree(self.before / name, self.project.root / name, symlinks=True)
            self.store = open_store(self.project)


def assert_right(payload: Any, out: str, err: str) -> str:
    """Hold that an answer is one that the client accepts and that the call deserves; return its kind."""
    assert err == "", err
    if not out:
        return "silence"
    assert isinstance(payload, dict)
    assert out.endswith("\n")
    answer = without_notices(json.loads(out))
    assert out.count("\n") == 1
    out.encode("ascii")
    event, tool = text_of(payload, "hook_event_name"), text_of(payload, "tool_name")
    who = (text_of(payload, "session_id"), text_of(payload, "agent_id") or MAIN)
    if answer is None:
        assert who == ("s-1", MAIN), f"{who} is told what only the session's own thread is"
        return "silence"
    if "decision" in answer:
        assert set(answer) == {"decision", "reason"}
        assert answer["decision"] == "block"
        assert event in ("Stop", "SubagentStop")
        assert who in {("s-1", "a2"), ("s-1", MAIN)}, f"a block of {who}, who holds nothing"
        assert payload.get("stop_hook_active") is not True
        return "block"
    assert set(answer) == {"hookSpecificOutput"}
    said = answer["hookSpecificOutput"]
    assert said["hookEventName"] == event
    if "additionalContext" in said:
        assert set(said) == {"hookEventName", "additionalContext"}
        assert event == "SessionStart" or who == ("s-1", "a1"), f"{who} has lost nothing"
        return "context"
    assert event == "PreToolUse"
    if "permissionDecision" not in said:  # whoever plans is asked by the client itself
        assert payload["permission_mode"] == "plan"
        assert tool.startswith(PREFIX)
        return "told"
    if said["permissionDecision"] == "allow":
        assert tool.startswith(PREFIX), "a tool of somebody else's was allowed"
        assert said["updatedInput"]["caller_session"] == who[0]
        assert said["updatedInput"]["caller_agent"] == who[1]
        return "allow"
    assert set(said) == {"hookEventName", "permissionDecision", "permissionDecisionReason"}
    assert said["permissionDecision"] == "deny"
    if tool in ("Agent", "Task"):
        given = payload["tool_input"]
        prompt = text_of(given, "prompt")
        assert text_of(given, "subagent_type") == WORKER or re.match(r"\s*/(hypervisor:)?pull\s", prompt)
        assert not re.search(r"/pull t-ready(?![^\s\"'`,;:.)!?])", prompt), f"denied: {prompt!r}"
    else:
        assert who == ("s-1", "a1"), f"{who} has lost nothing"
    return "deny"


@pytest.fixture
def client(project: Project, capsys: pytest.CaptureFixture[str]) -> Client:
    return Client(project, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PAYLOADS)
def test_whatever_the_client_says_nothing_breaks_and_nobody_is_stopped_wrongly(
    project: Project, client: Client, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the machine does not stop in between
    monkeypatch.setattr(delivery, "_FLUSH_SECONDS", 0.0)  # no client writes the transcripts that are named
    scene, dice, kinds = Scene(project, tmp_path / "before"), random.Random(kind), Counter[str]()
    payload = {**COMMON, "hook_event_name": kind.split(maxsplit=1)[0], **PAYLOADS[kind]}

    def names() -> set[str]:
        found = {path for top in (tmp_path, Path(os.environ["HOME"])) for path in top.rglob("*")}
        return {str(path) for path in found if project.state not in path.parents}

    before = names()
    for number in range(ROUNDS):
        given = mutated(payload, dice) if number else payload
        out, err = client.raw(json.dumps(given).encode())
        kinds[assert_right(given, out, err)] += 1
        scene.put_right()
    scene.store.close()
    assert names() == before
    assert kinds.total() == ROUNDS
    assert kinds[EXPECTED.get(kind, "silence")] > ROUNDS // 10, kinds
