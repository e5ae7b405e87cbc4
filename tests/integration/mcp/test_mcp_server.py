"""The MCP server as a client meets it: a process, JSON-RPC on its pipes, and all that can go wrong."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest
from mcp import Client, StdioServerParameters

from commands import tree, write_task
from hypervisor.core.errors import UsageError
from hypervisor.core.process import identity_of
from hypervisor.core.project import Project
from hypervisor.core.settings import default_settings
from hypervisor.mcp import schema
from hypervisor.mcp.handler import ToolHandler
from hypervisor.mcp.schema import TOOLS
from hypervisor.mcp.server import CLIENT_PID, carry_out, client_of
from hypervisor.tasks.files import read_task
from mcp_wire import CALLS, SERVER, Wire, request, spawned_is_over, spawning

#: What the tools may cost the context of every session and every worker: 2,500 tokens at the three
#: characters that a token of JSON has at least.
MOST_CHARACTERS = 7_500
A1 = {"caller_session": "s-1", "caller_agent": "a1"}


Start: TypeAlias = Callable[..., Wire]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project"
    for name in ("t-1", "t-2", "t-3"):
        write_task(root / f"tasks/{name}.md")
    return Project(root, root / ".hypervisor")


@pytest.fixture
def environment(project: Project, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "home").mkdir()
    return {
        "PATH": os.defpath, "HOME": str(tmp_path / "home"), "CLAUDE_PROJECT_DIR": str(project.root),
        "CLAUDE_CODE_SESSION_ID": "s-1",
    }  # fmt: skip


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    started: list[Wire] = []

    def new(*words: str, **more: str) -> Wire:
        started.append(Wire(words or SERVER, {**environment, **more}))
        return started[-1]

    yield new
    for wire in started:
        wire.close()


@pytest.fixture
def client() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


# ------------------------------------------------------------------ clients


@pytest.mark.slow
def test_the_sdks_client_lists_every_tool_and_calls_it(project: Project, environment: dict[str, str]) -> None:
    spawning(project, "true")

    async def talk() -> None:
        server = StdioServerParameters(command=SERVER[0], args=[SERVER[1]], env=environment)
        async with Client(server) as client:
            listed = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert list(listed) == [tool.name for tool in TOOLS]
            for tool in TOOLS:
                found = listed[tool.name]
                assert found.input_schema == tool.schema()
                hint = found.annotations.read_only_hint if found.annotations else None
                assert hint is (True if tool.read_only else None), tool.name
                assert found.output_schema is None
            for name, arguments in CALLS:
                answer = await client.call_tool(name, arguments)
                assert not answer.is_error, answer.content
                assert answer.structured_content is None, "the model would read it twice"
                assert len(answer.content) == 1
                assert answer.content[0].type == "text"
                assert isinstance(json.loads(answer.content[0].text), dict)
            refused = await client.call_tool("claim_task", {"id": "t-1", "caller": "claude"})
            assert refused.is_error
            assert [part.text for part in refused.content if part.type == "text"] == ["t-1: already complete"]

    anyio.run(talk)
    spawned_is_over(project)
    assert {name for name, _ in CALLS} == {tool.name for tool in TOOLS}


def test_what_the_tools_cost_every_context_stays_small() -> None:
    whole = json.dumps(
        [
            {
                "name": schema.PREFIX + tool.name,
                "description": tool.description,
                "input_schema": tool.schema(),
            }
            for tool in TOOLS
        ],
        separators=(",", ":"),
    )
    assert len(whole) < MOST_CHARACTERS


def _is_database(name: str) -> bool:
    return "index.db" in name or "hypervisor.db" in name


def test_a_tool_that_only_looks_says_so_and_only_such_a_one(project: Project, environment: Any) -> None:
    box = ToolHandler(environment)
    box.call("preflight", {"create_batch": True})
    before = {name: state for name, state in tree(project.root).items() if not _is_database(name)}
    for tool in TOOLS:
        if tool.read_only:
            at_once = {"timeout": 0} if "timeout" in tool.takes else {}
            box.call(tool.name, {"id": "t-1"} if tool.required else at_once)
    after = {name: state for name, state in tree(project.root).items() if not _is_database(name)}
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} <= {
        ".hypervisor"  # whose own time the index changes
    }


@pytest.mark.slow
@pytest.mark.parametrize("version", ["2025-11-25", "2025-06-18", "2024-11-05"])
def test_a_client_of_any_age_is_understood(start: Start, version: str) -> None:
    wire = start()
    about = wire.initialize(version)
    assert about["serverInfo"]["name"] == "task_manager"
    assert about["protocolVersion"] == version
    assert about["instructions"] == schema.INSTRUCTIONS
    listed = wire.ask("tools/list")["result"]["tools"]
    assert [tool["name"] for tool in listed] == [tool.name for tool in TOOLS]
    assert {tool["name"] for tool in listed if tool.get("annotations", {}).get("readOnlyHint")} == {
        tool.name for tool in TOOLS if tool.read_only
    }
    assert wire.call("list_tasks")["total"] == 3
    assert wire.end() == 0
    assert wire.noise == []


# -------------------------------------------------------------- what goes wrong


def test_what_is_no_request_is_passed_over_and_the_session_goes_on(start: Start) -> None:
    wire = start()
    wire.initialize()
    wire.send(b"garbage", b"", b"{", b"[]", b"7", b'{"jsonrpc":"2.0","id":"m","method":"nope"}', b"\xff\xfe")
    wire.send(
        b'{"jsonrpc":"2.0","id":"l","method":"tools/call","params":{"name":"get_task","arguments":[1]}}'
    )
    assert wire.answer("m")["error"]["code"] == -32601
    assert wire.answer("l")["error"]["code"] == -32602
    unknown = wire.call("drop_all")
    assert unknown.startswith("drop_all: no such tool; there are list_tasks, ")
    assert wire.call("get_task").startswith("get_task: id is missing")
    assert wire.call("get_task", id="t-9").startswith("t-9: no such task in ")
    assert wire.call("get_task", id="t-1")["ready"] is True
    assert wire.end() == 0
    assert wire.noise == []
    assert b"Traceback" not in wire.errors


def test_a_text_that_was_cut_within_a_letter_is_answered(start: Start) -> None:
    wire = start()
    wire.initialize()
    # What JSON.stringify makes of half a surrogate pair, which a model's text may end with.
    wire.send(request("half", "tools/call", {"name": "get_task", "arguments": {"id": "t-1\ud83d"}}))
    assert wire.answer("half", seconds=30)["result"]["isError"] is True


def test_a_project_that_cannot_be_written_to_is_told_and_the_session_goes_on(
    start: Start, project: Project
) -> None:
    project.state.write_text("a file where the folder is to be")
    wire = start()
    wire.initialize()
    told = wire.call("claim_task", id="t-1", caller="claude")
    assert str(project.state) in told
    assert "failed within" not in told
    project.state.unlink()
    assert wire.call("claim_task", id="t-1", caller="claude")["claim"]["attempt"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server(start: Start, number: signal.Signals) -> None:
    wire = start()
    wire.initialize()
    wire.call("claim_task", id="t-1", caller="claude", **A1)
    code = wire.signal(number)
    assert code == 0
    assert b"Traceback" not in wire.errors


@pytest.mark.slow
def test_a_server_that_is_killed_leaves_its_sessions_claims_to_the_next(start: Start) -> None:
    wire = start()
    wire.initialize()
    claim = wire.call("claim_task", id="t-1", caller="claude", **A1)["claim"]
    assert wire.signal(signal.SIGKILL) == -signal.SIGKILL
    following = start()
    following.initialize()
    assert "held by claude" in following.call("claim_task", id="t-1", caller="gemini")
    assert following.call("claim_next_task", caller="claude", **A1)["claim"] == claim
    done = following.call("complete_task", id="t-1", outcome="made it", **A1)
    assert done["task"]["status"] == "done"


@pytest.mark.slow
@pytest.mark.parametrize("dies", [True, False])
def test_at_the_end_of_input_what_is_held_is_released_if_the_client_is_dead(
    start: Start, project: Project, client: subprocess.Popen[bytes], dies: bool
) -> None:
    paths = [project.root / f"tasks/{name}.md" for name in ("t-1", "t-2")]
    before = [path.read_bytes() for path in paths]
    wire = start(HYPERVISOR_CLIENT_PID=str(client.pid))
    wire.initialize()
    wire.call("claim_task", id="t-1", caller="claude", **A1)
    wire.call("claim_task", id="t-2", caller="claude")
    if dies:
        client.kill()
        client.wait()
    assert wire.end() == 0
    assert ([path.read_bytes() for path in paths] == before) is dies
    for path in paths:
        assert ("status: active" in path.read_text("utf-8")) is dies


@pytest.mark.parametrize("pid", ["", "0", "1", "-5", "x", "99999999", "9" * 30, "²", " 7"])
def test_a_client_that_cannot_be_one_is_none(pid: str) -> None:
    assert client_of({CLIENT_PID: pid}) is None


def test_a_server_takes_away_its_mark_and_those_of_servers_long_dead(start: Start, tmp_path: Path) -> None:
    marks = {name: tmp_path / f"starting/{name}" for name in ("mine", "another", "long dead")}
    marks["mine"].parent.mkdir()
    for mark in marks.values():
        mark.write_text("1\n")
    os.utime(marks["long dead"], (0, 0))
    wire = start(HYPERVISOR_STARTING=str(marks["mine"]))
    wire.initialize()
    assert all(mark.exists() for mark in marks.values()), "nobody was told the tools yet"
    wire.ask("tools/list")
    assert [name for name, mark in marks.items() if mark.exists()] == ["another"]


def test_a_client_that_lives_is_known_by_more_than_its_number() -> None:
    assert client_of({CLIENT_PID: str(os.getppid())}) == identity_of(os.getppid())
    assert client_of({}) is None


# ----------------------------------------------------------------------- fuzz


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_link_in_the_tasks_folder_leads_no_agent_out_of_the_project(
    project: Project, environment: dict[str, str], tmp_path: Path, what: str
) -> None:
    decoy = write_task(tmp_path / "decoy/out-1.md")
    (project.root / "tasks/link.md").symlink_to(decoy if what == "file" else decoy.parent)
    (project.root / "tasks/link").symlink_to(decoy.parent)
    before, box = tree(decoy.parent), ToolHandler(environment)
    for name in ("out-1", "tasks/link.md", "tasks/link/out-1.md", str(decoy), "tasks/../../decoy/out-1.md"):
        for tool, rest in (
            ("claim_task", {"caller": "claude"}), ("update_task", {"body": "x"}),
            ("update_task", {"status": "cancelled"}),
        ):  # fmt: skip
            try:
                box.call(tool, {"id": name, **rest})
            except UsageError as error:
                assert "no such task" in str(error)  # noqa: PT017 - the one way out that is foreseen
    assert tree(decoy.parent) == before


#: How many calls go to one server, so many at a time; and how many to its tools without the pipes,
#: which cost as much again. FUZZ_CALLS asks for more.
CALLS_OF_A_PROCESS = int(os.environ.get("FUZZ_CALLS", "250"))
CALLS_WITHIN = 3 * CALLS_OF_A_PROCESS
BLOCK = 125
SEED = 20_240_817
FUZZ_TASKS = 40


class Fuzz:
    """Makes calls: mostly such as a confused model makes, some such as nobody would."""

    def __init__(self, outside: Path, seed: int) -> None:
        self.dice = random.Random(seed)
        self.ids = [f"f-{number}" for number in range(FUZZ_TASKS)]
        self.odd_texts = [
            "", " ", "\n", "\r\n", "\t", "\x07\x1b[31m", "a\0b", "\u2028", "\ufeff", "\u202e", "é" * 300,
            "💥", "---", "---\nid: f-1\nstatus: done\n---\n", "status: done", "null", "~", "true", "0x10",
            "1e999",
            "{}", "[", '["a"', '["f-1"]', "&a *a", "!!python/object:os.system", "%TAG", "- a\n- b",
            "a: b: c", "'", '"', "\\", "$(touch x)", "`x`", "; rm -rf /", "../../etc/passwd", "/etc/passwd",
            "..", ".",
            "/", "tasks/../../outside.md", "tasks/f-1.md", "tasks/../tasks/f-1.md", "tasks/folder/out-1.md",
            "out-1", "outside", str(outside / "outside.md"), str(outside / "decoy/tasks/out-1.md"),
            "file:///etc/passwd",
            "tasks/dangling.md", "tasks/loop.md", ".hypervisor/config.toml", "../decoy/tasks/out-1.md",
            "F-1", "f-1 ", "x" * 300, "y" * 5000, "z" * 20_000, "\x85", "\x7f", "`" * 50, "<!--", "```\n",
        ]  # fmt: skip
        self.odd: list[Any] = [None, True, False, 0, 1, 2, 3, -1, 1.5, 1e308, 10**13, [], {}, [[]],
                    [[["f-1"]]], {"a": [{}]}, [None], ["f-1", 2], "5", "-1", ["x" * 3000], [*map(str,
                    range(500))]]  # fmt: skip
        self.words = ["active", "done", "blocked", "review", "inbox", "cancelled", "in_progress",
                      "In Progress", "mechanical", "high", "low", "claude", "gemini", "zoe", "next",
                      "mcp:mail"]  # fmt: skip

    def text(self) -> str:
        dice = self.dice
        if dice.random() < 0.5:
            return dice.choice(self.words)
        return dice.choice(self.odd_texts)

    def value(self, name: str, kind: str) -> Any:
        dice, roll = self.dice, self.dice.random()
        if roll < 0.06:
            return dice.choice(self.odd)
        if name in ("id", "parent") and roll < 0.75:
            return dice.choice(self.ids)
        if name == "caller" and roll < 0.85:
            return dice.choice(["claude", "gemini", "bot"])
        if kind == "string":
            return self.text()
        if kind == "integer":
            return dice.choice([0, 1, 1, 2, 3, 7, "1", -1, 10**9])
        if kind == "boolean":
            return dice.choice([True, False, "true"])
        if kind == "number":
            return dice.choice([0, 0.1, 0.85, 1, 2, -1, "0.5", 10**400])
        if kind == "object":
            return dice.choice([{}, {"cpu": 1}, {"ram": 100.0}, {"cpu": self.text()}, {self.text(): 1}])
        return [self.text() for _ in range(dice.randrange(4))] + dice.sample(self.ids, dice.randrange(3))

    def call(self) -> tuple[str, dict[str, Any]]:
        dice = self.dice
        tool = dice.choice(TOOLS)
        given = {
            name: self.value(name, schema["type"])
            for name, schema in tool.takes.items()
            if dice.random() < (0.97 if name in tool.required else 0.25)
        }
        if given.get("create_batch") and dice.random() < 0.9:
            del given["create_batch"]  # each makes a folder; some are enough
        wait = given.get("timeout", 25)
        if tool.name == "wait_for_events" and isinstance(wait, int | float) and wait > 0:
            given["timeout"] = 0.01  # to be tried, not to be waited for
        if dice.random() < 0.5:
            given["caller_session"] = dice.choice(["s-1", "s-2", self.text()])
            given["caller_agent"] = dice.choice(["main", "a1", "a2", "a3", self.text()])
        if dice.random() < 0.02:
            given[self.text()] = self.text()
        return (tool.name if dice.random() < 0.99 else self.text()), given


def whole(project: Project) -> None:
    """Hold that every task file can be read, and bears the id that it had."""
    settings = default_settings()
    for number in range(FUZZ_TASKS):
        task = read_task(project.root / f"tasks/f-{number}.md", settings)
        assert (task.id, task.title) == (f"f-{number}", f"Task f-{number}")
        assert task.status is not None
        assert set(task.front) <= {"id", "title", "status", "assignee", "priority", "complexity", "project"}


Calls = list[tuple[str, dict[str, Any]]]


def through(wire: Wire) -> Callable[[Calls], list[tuple[str, bool]]]:
    """Return what carries many calls out at once, in a server's process."""
    numbers = itertools.count()

    def carry(calls: Calls) -> list[tuple[str, bool]]:
        under_way = [(next(numbers), name, given) for name, given in calls]
        wire.send(*(
            request(number, "tools/call", {"name": name, "arguments": given})
            for number, name, given in under_way
        ))  # fmt: skip
        found = []
        for number, name, given in under_way:
            answer = wire.answer(number)
            assert "result" in answer, (name, given, answer)
            (content,) = answer["result"]["content"]
            found.append((content["text"], answer["result"].get("isError", False)))
        return found

    return carry


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("within", [False, True], ids=["one process", "within"])
def test_no_call_ends_the_server_or_leads_out_of_the_project(
    start: Start, project: Project, environment: dict[str, str], tmp_path: Path, within: bool
) -> None:
    spawning(project, "there-is-no-such-program")
    fuzz, wire, tasks = Fuzz(tmp_path, SEED + within), start(), project.root / "tasks"
    for name in fuzz.ids:
        write_task(tasks / f"{name}.md")
    outside = write_task(tmp_path / "outside.md")
    write_task(tmp_path / "decoy/tasks/out-1.md")
    write_task(project.root / "notes/outside.md")
    (tasks / "folder").symlink_to(tmp_path / "decoy/tasks")
    (tasks / "dangling.md").symlink_to("nowhere.md")
    untouched = [tmp_path / "decoy", project.root / "notes"]
    before = [tree(folder) for folder in untouched], outside.read_bytes(), outside.stat().st_mtime_ns
    wire.initialize()
    box = ToolHandler(environment)
    carry = (lambda calls: [carry_out(box, *call) for call in calls]) if within else through(wire)
    count = CALLS_WITHIN if within else CALLS_OF_A_PROCESS
    kinds: Counter[bool] = Counter()
    faults: dict[str, Any] = {}
    for _ in range(0, count, BLOCK):
        calls = [fuzz.call() for _ in range(BLOCK)]
        for (name, given), (text, refused) in zip(calls, carry(calls), strict=True):
            kinds[refused] += 1
            if "failed within" in text:
                faults.setdefault(re.sub(r"'[^']*'", "'...'", text)[:200], (name, given))
            if not refused:
                assert isinstance(json.loads(text), dict)
        whole(project)
        for name in fuzz.ids:  # their owner opens them again, and shortens what has grown
            path = tasks / f"{name}.md"
            if "status: active" not in path.read_text("utf-8") or path.stat().st_size > 50_000:
                write_task(path)
    assert faults == {}
    assert min(kinds[True], kinds[False]) > count / 10, "one of the two was hardly tried"
    assert wire.call("get_task", id="f-1")["id"] == "f-1"
    assert wire.end() == 0
    assert wire.noise == []
    assert b"Traceback" not in wire.errors
    assert before == (
        [tree(folder) for folder in untouched],
        outside.read_bytes(),
        outside.stat().st_mtime_ns,
    )
    assert {path.name for path in tmp_path.iterdir()} == {"project", "home", "decoy", "outside.md"}
    assert {path.name for path in project.root.iterdir()} == {"tasks", "notes", ".hypervisor"}
