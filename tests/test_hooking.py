"""The client's hooks on a real project: what a call tells of is carried out, and nothing else is."""

from __future__ import annotations

import copy
import io
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT, tree, write_task
from hypervisor.claims.port import MAIN
from hypervisor.core import config
from hypervisor.core.model import Outcome, TaskStatus
from hypervisor.core.paths import Project
from hypervisor.crowd import Crowd
from hypervisor.hooks import hooking, pulse, spawn_guard, telling
from hypervisor.inbox import Inbox
from hypervisor.mcp.schema import PREFIX
from hypervisor.sessions import Session
from hypervisor.tasks.desk import Desk
from hypervisor.tasks.endings import Ending
from hypervisor.tasks.tasklist import Caller

DONE = Ending(outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text="made it")
BLOCKED = Ending(outcome=Outcome.BLOCKED, status=TaskStatus.BLOCKED, text="no key", next_step="get one")
WORKER = "hypervisor:worker"
#: Room for any number of workers, whatever else the machine does.
ROOMY = "[agents]\nper_session = 100000\nmax_ram_percent = 100\n"
#: As usual, but whatever else the machine does.
USUAL = "[agents]\nmax_ram_percent = 100\n"
#: The client names each use of a tool anew.
_USES = itertools.count(2)
STOPPED = "Change nothing more for it; report that you stopped, and why."


@dataclass(frozen=True, slots=True)
class Client:
    """A client's session in a project: says what happens, and what it is answered."""

    project: Project
    capsys: pytest.CaptureFixture[str]
    session: str = "s-1"
    #: Whether a call comes to `pulse` first, as from `scripts/hook.py`.
    pulse: bool = False

    @property
    def environ(self) -> dict[str, str]:
        return {"CLAUDE_PROJECT_DIR": str(self.project.root)}

    def raw(self, data: bytes) -> tuple[str, str]:
        """Return what a hook says to *data*, on standard output and on standard error."""
        if not (self.pulse and pulse.is_all(data, str(self.project.state))):
            assert hooking.main(io.BytesIO(data), self.environ) == 0
        said = self.capsys.readouterr()
        return said.out, said.err

    def call(self, event: str, agent: str = MAIN, **fields: Any) -> Any:
        """Return the answer to a call but for notices (`test_notices`), None if there is none; no fault."""
        out, err = self.raw(json.dumps(self.payload(event, agent, **fields)).encode())
        assert err == ""
        assert len(out.splitlines()) <= 1
        return without_notices(json.loads(out)) if out else None

    def payload(self, event: str, agent: str = MAIN, **fields: Any) -> dict[str, Any]:
        who = {} if agent == MAIN else {"agent_id": agent, "agent_type": WORKER}
        where = {"cwd": str(self.project.root), "transcript_path": "/home/u/.claude/p/x.jsonl"}
        return {"session_id": self.session, **where, "hook_event_name": event, **who, **fields}

    def tool(self, event: str, tool: str, agent: str = MAIN, **fields: Any) -> Any:
        """Say that a tool is about to run, has run, or has failed."""
        fields = {"tool_input": {}, "tool_use_id": f"toolu_{next(_USES)}", **fields}
        return self.call(event, agent, tool_name=tool, **fields)

    def spawn(self, prompt: str, kind: str = WORKER, use: str = "toolu_1") -> str:
        """Ask for an agent; return why it is denied, "" if it is not."""
        answer = self.tool(
            "PreToolUse", "Agent", tool_input={"prompt": prompt, "subagent_type": kind}, tool_use_id=use
        )
        return reason(answer) if answer else ""

    def launch(self, agent: str, by: str = MAIN, prompt: str = "/pull t-1", use: str = "toolu_1") -> None:
        """Say that *by* has put an agent into the background."""
        answer = self.tool(
            "PostToolUse", "Agent", by, tool_use_id=use,
            tool_input={"prompt": prompt, "subagent_type": WORKER, "run_in_background": True},
            tool_response={"isAsync": True, "status": "async_launched", "agentId": agent, "prompt": prompt},
        )  # fmt: skip
        assert answer is None


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "outer/project"
    (root / "tasks").mkdir(parents=True)
    return Project(root, root / ".hypervisor")


@pytest.fixture(params=[False, True], ids=["whole", "pulse-first"])
def client(project: Project, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Client:
    return Client(project, capsys, pulse=bool(request.param))


def without_notices(answer: Any) -> Any:
    """Return an answer without what it tells of ends, None if that is all."""
    said = answer.get("hookSpecificOutput", answer)
    key = "additionalContext" if "additionalContext" in said else "reason"
    if "[notice " not in said.get(key, ""):
        return answer
    lines = said[key].split("\n")
    first = next(number for number, line in enumerate(lines) if "[notice " in line)
    said[key] = "\n".join(lines[:first])
    return answer if said[key] else None


def reason(answer: Any) -> str:
    """Return why a tool call is denied."""
    said = answer["hookSpecificOutput"]
    assert (said["hookEventName"], said["permissionDecision"]) == ("PreToolUse", "deny")
    assert set(said) == {"hookEventName", "permissionDecision", "permissionDecisionReason"}
    return str(said["permissionDecisionReason"])


def desk(project: Project, agent: str = "", session: str = "s-1", name: str = "claude") -> Desk:
    caller = Caller(name=name, session=session if agent else "", agent=agent)
    return Desk(project, config.load(project.state), caller)


def task_file(project: Project, name: str = "t-1", **keys: str) -> Path:
    return write_task(project.root / "tasks" / f"{name}.md", **keys)


def hold(project: Project, task: str, agent: str, session: str = "s-1", **keys: str) -> Path:
    """Write a task and let an agent claim it; return its file."""
    path = task_file(project, task, **keys)
    desk(project, agent, session).claim(task)
    return path


def set_config(project: Project, text: str) -> None:
    project.prepare()
    (project.state / "config.toml").write_text(text, "utf-8")


def place(project: Project, task: str) -> Path:
    """Return the folder of a task's open claim."""
    shape = re.compile(rf"tasks-{task}-[0-9a-f]{{32}}(?:\.\d+)?")
    found = [path for path in (project.state / "locks").iterdir() if shape.fullmatch(path.name)]
    assert len(found) == 1, list((project.state / "locks").iterdir())
    return found[0]


def age(project: Project, task: str, seconds: float = 100.0) -> float:
    """Make a claim's last heartbeat so much older; return when it is now."""
    folder = place(project, task)
    then = folder.stat().st_mtime - seconds
    os.utime(folder, (then, then))
    return folder.stat().st_mtime


def held(project: Project) -> set[str]:
    """Return the ids of the tasks that somebody holds."""
    looking = desk(project)
    return {task.id for task in looking.tasks() if looking.held(task)}


def events(project: Project, task: str = "") -> list[dict[str, Any]]:
    try:
        lines = (project.state / "events.jsonl").read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = [json.loads(line) for line in lines]
    return [event for event in found if task in ("", event["task"])]


def last(project: Project, task: str) -> tuple[str, str]:
    """Return what happened to a task last, and why."""
    event = events(project, task)[-1]
    return event["event"], event.get("why", "")


def notification(agent: str, text: str = "COMPLETED t-1: did it") -> str:
    return (
        f"<task-notification>\n<task-id>{agent}</task-id>\n<tool-use-id>toolu_1</tool-use-id>\n"
        f'<status>completed</status>\n<summary>Agent "t-1" finished</summary>\n<result>{text}</result>\n'
        f"</task-notification>"
    )


# -------------------------------------------------------------------- heartbeat


@pytest.mark.parametrize("agent", [MAIN, "a1"])
@pytest.mark.parametrize("event", ["PreToolUse", "PostToolUse", "PostToolUseFailure"])
def test_every_tool_call_of_the_holder_renews_its_claim_and_no_other(
    project: Project, client: Client, agent: str, event: str
) -> None:
    hold(project, "t-1", agent)
    hold(project, "t-2", "a2")
    others = age(project, "t-2")
    then = age(project, "t-1")
    assert client.tool(event, "Bash", agent, tool_input={"command": "true"}) is None
    assert place(project, "t-1").stat().st_mtime > then + 50
    assert place(project, "t-2").stat().st_mtime == others


@pytest.mark.parametrize("event", ["PreToolUse", "PostToolUse", "PostToolUseFailure"])
def test_the_pulse_is_all_that_a_workers_call_comes_to(project: Project, client: Client, event: str) -> None:
    hold(project, "t-1", "a1")
    then = age(project, "t-1")

    def beaten(agent: str = "a1", tool: str = "Bash", state: str = "", **fields: Any) -> bool:
        call = client.payload(event, agent, **{"tool_name": tool, "tool_input": {}, **fields})
        return pulse.is_all(json.dumps(call).encode(), state or str(project.state))

    assert beaten()
    assert place(project, "t-1").stat().st_mtime > then + 50
    assert beaten("a2")  # holds nothing
    more = [
        beaten(MAIN), beaten(tool="Agent"), beaten(tool="Task"), beaten(tool=f"{PREFIX}complete_task"),
        beaten("../a1"), beaten("a1/"), beaten(""), beaten("unknown"), beaten(session_id="../s-1"),
        beaten(hook_event_name="SubagentStop"), pulse.is_all(b"{", str(project.state)), pulse.is_all(b"[]"),
    ]  # fmt: skip
    assert more == [False] * len(more)


@pytest.mark.parametrize(
    "wound", ["revoked", "released", "finished", "another's", "gone", "bad note", "receipts"]
)
def test_the_pulse_leaves_a_claim_that_is_not_as_it_was_to_the_hook(
    project: Project, client: Client, wound: str
) -> None:
    keys = {"receipts": "[Bash]"} if wound == "receipts" else {}
    hold(project, "t-1", "a1", **keys)
    then, claim = age(project, "t-1"), place(project, "t-1")
    (note,) = (project.state / "sessions/s-1/a1").iterdir()
    match wound:
        case "revoked" | "released":
            (claim / "end").symlink_to('{"how": "revoked"}')
        case "finished":
            os.link(note, claim / "end")
        case "another's":
            (claim / "owner").unlink()
            (claim / "owner").symlink_to('{"token": "0"}')
        case "gone":
            shutil.rmtree(claim)
        case "bad note":
            note.write_bytes(note.read_bytes()[:40])
    if claim.exists():
        os.utime(claim, (then, then))
    call = json.dumps(client.payload("PostToolUse", "a1", tool_name="Bash", tool_input={})).encode()
    assert not pulse.is_all(call, str(project.state))
    assert not claim.exists() or claim.stat().st_mtime == then


def test_nobody_renews_the_claim_of_another_agent_or_session(project: Project, client: Client) -> None:
    hold(project, "t-1", "a1")
    then = age(project, "t-1")
    for agent in (MAIN, "a2", "t-1", "A1", "unknown"):
        assert client.tool("PostToolUse", "Bash", agent) is None
    other = Client(client.project, client.capsys, "s-2")
    assert other.tool("PostToolUse", "Bash", "a1") is None
    assert place(project, "t-1").stat().st_mtime == then


def test_a_worker_lives_on_in_the_crowd_while_its_tools_run(project: Project, client: Client) -> None:
    client.launch("a1")
    crowd = Crowd(Session(project.state, "s-1"), 900)
    (seen,) = (project.state / "sessions/s-1/.running").iterdir()
    os.utime(seen, (1, 1))
    assert crowd.running() == 0
    client.tool("PostToolUse", "Bash", "a1")
    assert crowd.running() == 1


# ------------------------------------------------------------------ lost claims


def test_an_agent_whose_task_was_cancelled_is_stopped_each_time_and_told_why(
    project: Project, client: Client
) -> None:
    hold(project, "t-1", "a1")
    desk(project, name="tobi").cancel("t-1", "no longer wanted")
    text = (
        f"Denied: Your claim of t-1 (generation 1) is lost: "
        f"t-1 was cancelled by tobi: no longer wanted. {STOPPED}"
    )
    for tool in ("Edit", "Write", "Bash", "MultiEdit", "NotebookEdit", "Edit"):
        assert reason(client.tool("PreToolUse", tool, "a1")) == text


def test_the_sessions_own_thread_is_stopped_once(project: Project, client: Client) -> None:
    hold(project, "t-1", MAIN)
    desk(project, name="tobi").cancel("t-1", "")
    found = reason(client.tool("PreToolUse", "Edit"))
    assert found == f"Denied: Your claim of t-1 (generation 1) is lost: t-1 was cancelled by tobi. {STOPPED}"
    for tool in ("Edit", "Write", "Bash"):
        assert client.tool("PreToolUse", tool) is None


@pytest.mark.parametrize("agent", [MAIN, "a1"])
def test_after_a_tool_the_loss_is_told_once(project: Project, client: Client, agent: str) -> None:
    hold(project, "t-1", agent)
    desk(project, name="tobi").release("t-1", "I do it myself", 1)
    said = client.tool("PostToolUse", "Read", agent)["hookSpecificOutput"]
    text = said.pop("additionalContext")
    assert said == {"hookEventName": "PostToolUse"}
    assert text.startswith("Your claim of t-1 (generation 1) is lost: tobi released it: I do it myself")
    assert text.endswith(f". {STOPPED}")
    assert client.tool("PostToolUse", "Read", agent) is None
    assert client.tool("PostToolUseFailure", "Read", agent, error="x") is None


def test_a_failed_tool_tells_of_the_loss_under_its_own_event(project: Project, client: Client) -> None:
    hold(project, "t-1", "a1")
    desk(project, name="tobi").cancel("t-1", "")
    answer = client.tool("PostToolUseFailure", "Read", "a1", error="no such file")
    assert answer["hookSpecificOutput"]["hookEventName"] == "PostToolUseFailure"


def test_nobody_else_is_stopped(project: Project, client: Client) -> None:
    hold(project, "t-1", "a1")
    hold(project, "t-2", "a2")
    desk(project, name="tobi").cancel("t-1", "")
    other = Client(project, client.capsys, "s-2")
    for tool in ("Edit", "Write", "Bash"):
        for agent in (MAIN, "a2", "a3", "claude"):
            assert client.tool("PreToolUse", tool, agent) is None
            assert client.tool("PostToolUse", tool, agent) is None
        assert other.tool("PreToolUse", tool, "a1") is None


@pytest.mark.parametrize("ending", [DONE, BLOCKED, None])
def test_who_ended_its_claim_in_good_order_is_not_stopped(
    project: Project, client: Client, ending: Ending | None
) -> None:
    hold(project, "t-1", "a1")
    mine = desk(project, "a1")
    if ending:
        mine.finish("t-1", ending)
    else:
        mine.release("t-1", "not now")
    for tool in ("Edit", "Bash"):
        assert client.tool("PreToolUse", tool, "a1") is None
        assert client.tool("PostToolUse", tool, "a1") is None
    assert client.call("SubagentStop", "a1", stop_hook_active=False) is None


@pytest.mark.parametrize("done", [True, False])
def test_a_note_that_outlived_the_end_of_its_claim_stops_nobody(
    project: Project, client: Client, done: bool
) -> None:
    hold(project, "t-1", "a1")
    session = Session(project.state, "s-1")
    (note,) = session.notes("a1")
    if done:
        desk(project, "a1").finish("t-1", DONE)
        desk(project, name="tobi").update("t-1", {"status": "active"})
    else:
        desk(project, "a1").release("t-1", "not now")
    session.keep("a1", note)  # as if its process had died between the end and the forgetting
    desk(project, "a2").claim("t-1")
    for tool in ("Edit", "Bash"):
        assert client.tool("PreToolUse", tool, "a1") is None
        assert client.tool("PostToolUse", tool, "a1") is None
    assert client.call("SubagentStop", "a1") is None
    assert held(project) == {"t-1"}


def test_our_own_tools_stay_open_to_who_lost_its_claim(project: Project, client: Client) -> None:
    hold(project, "t-1", "a1")
    desk(project, name="tobi").cancel("t-1", "")
    answer = client.tool("PreToolUse", f"{PREFIX}get_task", "a1", tool_input={"id": "t-1"})
    assert answer == {
        "hookSpecificOutput": {
            "hookEventName": "PreToolUse",
            "permissionDecision": "allow",
            "permissionDecisionReason": "a tool of hypervisor",
            "updatedInput": {"id": "t-1", "caller_session": "s-1", "caller_agent": "a1"},
        }
    }


# --------------------------------------------------------------------- receipts


def receipts(path: Path) -> list[str]:
    """Return the lines of a task's receipts, without their times."""
    text = path.read_text("utf-8")
    if "## Receipts\n" not in text:
        return []
    lines = text.partition("## Receipts\n")[2].strip().splitlines()
    assert all(re.match(r"- \d{4}-\d\d-\d\dT\S+ ", line) for line in lines), lines
    return [line.split(" ", 2)[2] for line in lines]


def test_the_named_tools_leave_receipts_and_no_other(project: Project, client: Client) -> None:
    path = hold(project, "t-1", "a1", receipts="[Bash, mcp__mail__*]", receipts_to="t-all")
    shared = task_file(project, "t-all")
    other = hold(project, "t-2", "a2")
    client.tool("PreToolUse", "Bash", "a1", tool_input={"command": "not yet"})
    client.tool("PostToolUse", "Bash", "a1", tool_input={"command": "rm a\nrm b"})
    client.tool("PostToolUse", "Read", "a1", tool_input={"file_path": "a"})
    client.tool("PostToolUse", "mcp__mail__move", "a1", tool_input={"id": 7})
    client.tool("PostToolUseFailure", "Bash", "a1", tool_input={"command": "false"}, error="Exit code 1")
    client.tool("PostToolUse", "Bash", "a2", tool_input={"command": "of another"})
    client.tool("PostToolUse", "Bash", MAIN, tool_input={"command": "of main"})
    expected = ["Bash ok: rm a\\nrm b", 'mcp__mail__move ok: {"id": 7}', "Bash failed (Exit code 1): false"]
    assert receipts(path) == expected
    assert receipts(shared) == [f"{line} (t-1)" for line in expected]
    assert receipts(other) == []


@pytest.mark.parametrize(
    "broken", [{"receipts_to": "t-nobody"}, {"receipts_to": "t-1"}], ids=["unknown task", "itself"]
)
def test_a_receipt_that_goes_nowhere_costs_no_heartbeat(
    project: Project, client: Client, broken: dict[str, str]
) -> None:
    path = hold(project, "t-1", "a1", receipts="[Bash]", **broken)
    then = age(project, "t-1")
    payload = client.payload("PostToolUse", "a1", tool_name="Bash", tool_input={"command": "rm a"})
    client.raw(json.dumps(payload).encode())
    assert receipts(path)[:1] == ["Bash ok: rm a"]
    assert place(project, "t-1").stat().st_mtime > then + 50


def test_a_task_file_that_is_gone_costs_no_heartbeat(project: Project, client: Client) -> None:
    path = hold(project, "t-1", "a1", receipts="[Bash]")
    path.unlink()
    then = age(project, "t-1")
    payload = client.payload("PostToolUse", "a1", tool_name="Bash", tool_input={"command": "rm a"})
    client.raw(json.dumps(payload).encode())
    assert place(project, "t-1").stat().st_mtime > then + 50


CHILD = """
import io, json, sys
from hypervisor.hooks import hooking
root, say, calls = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for call in calls:
    hooking.main(io.BytesIO(json.dumps(call).encode()), {"CLAUDE_PROJECT_DIR": root})
    if say:
        print(flush=True)
"""


@contextmanager
def at_once(project: Project, calls: list[list[dict[str, Any]]], say: str = "") -> Iterator[list[str]]:
    """Say each list of calls in a process of its own, all beginning at once; give what each printed."""
    environ = {"PYTHONPATH": str(ROOT / "scripts"), "HOME": os.environ["HOME"], "PATH": os.defpath}
    words = [sys.executable, "-c", CHILD, str(project.root), say]
    running = [
        subprocess.Popen(
            [*words, json.dumps(mine)], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for mine in calls
    ]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        yield [process.communicate(timeout=100)[0] for process in running]
        assert {process.returncode for process in running} == {0}
    finally:
        for process in running:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def test_receipts_of_many_workers_in_one_task_are_all_there_and_whole(
    project: Project, client: Client
) -> None:
    shared = task_file(project, "t-all")
    agents = [f"a{number}" for number in range(8)]
    paths = [hold(project, f"t-{a}", a, receipts="[Bash]", receipts_to="t-all") for a in agents]
    calls = [
        [
            client.payload(
                "PostToolUse", a, tool_name="Bash", tool_input={"command": f"do {a} {n} {'x' * 90}"}
            )
            for n in range(20)
        ]
        for a in agents
    ]
    with at_once(project, calls) as said:
        assert said == [""] * 8
    expected = Counter(f"Bash ok: do {a} {n} {'x' * 90} (t-{a})" for a in agents for n in range(20))
    assert Counter(receipts(shared)) == expected
    assert expected.total() == 160
    for a, path in zip(agents, paths, strict=True):
        assert receipts(path) == [f"Bash ok: do {a} {n} {'x' * 90}" for n in range(20)]


# ------------------------------------------------------------------ ends of agents


def test_a_worker_that_would_leave_its_claim_open_is_asked_once_then_it_is_released(
    project: Project, client: Client
) -> None:
    path = task_file(project)
    before = path.read_bytes()
    desk(project, "a1").claim("t-1")
    answer = client.call("SubagentStop", "a1", stop_hook_active=False, background_tasks=[])
    assert answer["decision"] == "block"
    assert "You still hold t-1 (generation 1)." in answer["reason"]
    assert held(project) == {"t-1"}
    assert client.call("SubagentStop", "a1", stop_hook_active=True, background_tasks=[]) is None
    assert path.read_bytes() == before
    assert held(project) == set()
    assert last(project, "t-1") == ("released", "its worker ended its turn without ending its claim")
    assert client.call("SubagentStop", "a1", stop_hook_active=False) is None
    assert desk(project, "a2").claim("t-1")[1].generation == 2


def test_a_worker_is_asked_once_also_where_the_client_does_not_say_that_it_was(
    project: Project, client: Client
) -> None:
    hold(project, "t-1", "a1")
    assert client.call("SubagentStop", "a1")["decision"] == "block"
    assert client.call("SubagentStop", "a1") is None
    assert held(project) == set()


def test_who_goes_on_because_another_hook_asked_is_not_asked_as_well(
    project: Project, client: Client
) -> None:
    hold(project, "t-1", "a1")
    hold(project, "t-2", MAIN)
    assert client.call("Stop", stop_hook_active=True, background_tasks=[]) is None
    assert client.call("SubagentStop", "a1", stop_hook_active=True) is None
    assert held(project) == {"t-2"}


def test_the_sessions_own_thread_is_asked_once_and_keeps_its_claim(project: Project, client: Client) -> None:
    hold(project, "t-1", MAIN)
    assert client.call("Stop", stop_hook_active=False, background_tasks=[])["decision"] == "block"
    for active in (True, False):
        assert client.call("Stop", stop_hook_active=active, background_tasks=[]) is None
    assert held(project) == {"t-1"}


def test_a_stop_of_one_asks_nobody_for_anothers_claim(project: Project, client: Client) -> None:
    hold(project, "t-1", "a1")
    assert client.call("Stop", stop_hook_active=False, background_tasks=[]) is None
    assert client.call("SubagentStop", "a2", stop_hook_active=False) is None
    assert Client(project, client.capsys, "s-2").call("SubagentStop", "a1") is None
    assert held(project) == {"t-1"}


def test_an_error_ends_a_worker_at_once_and_leaves_the_sessions_own_thread(
    project: Project, client: Client
) -> None:
    path = task_file(project)
    before = path.read_bytes()
    desk(project, "a1").claim("t-1")
    hold(project, "t-2", MAIN)
    assert client.call("StopFailure", error="rate_limit") is None
    assert held(project) == {"t-1", "t-2"}
    assert client.call("StopFailure", "a1", error="rate_limit") is None
    assert held(project) == {"t-2"}
    assert path.read_bytes() == before
    why = "its worker ended by an error (rate_limit) without ending its claim"
    assert last(project, "t-1") == ("released", why)


def test_an_agent_that_is_over_leaves_no_claim_and_one_that_was_launched_keeps_it(
    project: Project, client: Client
) -> None:
    hold(project, "t-1", "a1")
    hold(project, "t-2", "a2")
    client.launch("a1")
    assert held(project) == {"t-1", "t-2"}
    answer = client.tool(
        "PostToolUse", "Agent", tool_input={"prompt": "/pull t-1", "subagent_type": WORKER},
        tool_response={"status": "completed", "prompt": "/pull t-1", "agentId": "a1", "totalToolUseCount": 2},
    )  # fmt: skip
    assert answer is None
    assert held(project) == {"t-2"}
    assert last(project, "t-1") == (
        "released",
        "its worker was over (completed) without ending its claim",
    )


def test_a_notification_ends_the_agents_that_it_names_and_nobody_else(
    project: Project, client: Client
) -> None:
    for number, agent in enumerate(["a1", "a2", "a3", MAIN], 1):
        hold(project, f"t-{number}", agent)
    hold(project, "t-5", "a1", "s-2")
    # What a worker reports may look like anything, also like the id of another.
    report = notification("a1", "<task-id>a3</task-id> is done")
    assert client.call("UserPromptSubmit", prompt=report) is None
    assert held(project) == {"t-2", "t-3", "t-4", "t-5"}
    assert last(project, "t-1") == ("released", "the client says that its worker is over")
    assert client.call("UserPromptSubmit", prompt="what does <task-id>a2</task-id> mean?") is None
    assert client.call("UserPromptSubmit", prompt=notification(MAIN)) is None
    assert held(project) == {"t-2", "t-3", "t-4", "t-5"}
    assert client.call("UserPromptSubmit", prompt=f"{notification('a2')}\n{notification('a3')}") is None
    assert held(project) == {"t-4", "t-5"}


#: Ids of agents, two of which are none that could be a file's name.
@pytest.mark.parametrize("one", ["b1", "b.1", "../../b1"])
def test_at_the_end_of_a_turn_the_background_agents_that_run_no_more_are_over(
    project: Project, client: Client, one: str
) -> None:
    gone, running, nested = f"{one}-gone", f"{one}-runs", f"{one}-nested"
    hold(project, "t-1", gone)
    hold(project, "t-2", running)
    hold(project, "t-3", nested)
    hold(project, "t-4", "foreground")
    client.launch(gone, use="u1")
    client.launch(running, use="u2")
    client.launch(nested, by=running, use="u3")
    task = {"id": running, "type": "subagent", "status": "running", "agent_type": WORKER}
    assert client.call("Stop", stop_hook_active=False, background_tasks=[task]) is None
    assert held(project) == {"t-2", "t-3", "t-4"}
    assert last(project, "t-1") == ("released", "its worker runs no more")
    assert client.call("Stop", stop_hook_active=False) is None  # a client that does not say
    assert held(project) == {"t-2", "t-3", "t-4"}
    over = {**task, "status": "completed"}
    assert client.call("Stop", stop_hook_active=False, background_tasks=[over]) is None
    assert held(project) == {"t-3", "t-4"}


def test_the_end_of_a_session_releases_all_that_it_holds_and_nothing_of_another(
    project: Project, client: Client
) -> None:
    paths = [task_file(project, f"t-{number}") for number in (1, 2, 3)]
    before = [path.read_bytes() for path in paths]
    for number, agent in enumerate([MAIN, "a1", "../../a2"], 1):
        desk(project, agent).claim(f"t-{number}")
    hold(project, "t-4", "a1", "s-2")
    hold(project, "t-5", MAIN, "s-2")
    assert client.call("SessionEnd", reason="logout") is None
    assert held(project) == {"t-4", "t-5"}
    assert [path.read_bytes() for path in paths] == before
    assert {last(project, f"t-{n}") for n in (1, 2, 3)} == {("released", "its session ended (logout)")}
    # What the session was not told is kept, as it may be gone on with; all else is forgotten.
    kept = os.listdir(project.state / "sessions/s-1")
    assert sorted(kept) == sorted(Inbox.FILES)
    assert client.call("SessionEnd", reason="logout") is None


def test_a_claim_that_was_lost_is_not_released_again_by_its_agents_end(
    project: Project, client: Client
) -> None:
    hold(project, "t-1", "a1")
    desk(project, name="tobi").release("t-1", "mine", 1)
    desk(project, "a2").claim("t-1")
    assert client.call("SubagentStop", "a1", stop_hook_active=False) is None
    assert held(project) == {"t-1"}
    assert last(project, "t-1")[0] == "claimed"


# ------------------------------------------------------------------------ spawn


def refused_task(project: Project, how: str) -> str:
    """Write t-1 so that it may not be claimed; return the refusal."""
    keys = {"status": "blocked"} if how == "blocked" else {"assignee": "tobi"} if how == "a person's" else {}
    if how != "unknown":
        task_file(project, **({"depends_on": "[t-2]"} if how == "waits" else keys))
    task_file(project, "t-2")
    if how == "done":
        desk(project).finish("t-1", DONE)
    elif how == "cancelled":
        desk(project, name="tobi").cancel("t-1", "")
    elif how == "held":
        desk(project, "a7", name="gemini").claim("t-1")
    return {
        "done": "t-1: already complete",
        "cancelled": "t-1: cancelled",
        "held": "t-1: held by gemini",
        "blocked": "t-1: its status is blocked; its owner sets it to active when it can go on",
        "a person's": "t-1: assigned to tobi, a person",
        "unknown": f"t-1: no such task in {project.root}; see `hypervisor task list`",
        "waits": "t-1: waits for t-2",
    }[how]


@pytest.mark.parametrize("kind", [WORKER, "general-purpose"])
@pytest.mark.parametrize("how", ["done", "cancelled", "held", "blocked", "a person's", "unknown", "waits"])
def test_a_worker_for_a_task_that_may_not_be_claimed_is_not_started(
    project: Project, client: Client, how: str, kind: str
) -> None:
    set_config(project, USUAL)
    text = refused_task(project, how)
    before = tree(project.root / "tasks")
    assert client.spawn("/pull t-1", kind) == f"Denied, nothing was started: {text}"
    assert client.spawn("/hypervisor:pull t-1", kind) == f"Denied, nothing was started: {text}"
    assert tree(project.root / "tasks") == before
    assert Crowd(Session(project.state, "s-1"), 900).running() == 0


@pytest.mark.parametrize("prompt", ["/pull t-1", "/pull T-1", "/pull tasks/t-1.md", "/pull", "  /pull 't-1'"])
def test_a_worker_for_a_task_that_is_ready_is_started_without_a_word(
    project: Project, client: Client, prompt: str
) -> None:
    set_config(project, USUAL)
    path = task_file(project)
    before = path.read_bytes()
    assert client.spawn(prompt) == ""
    assert path.read_bytes() == before
    assert held(project) == set()
    assert Crowd(Session(project.state, "s-1"), 900).running() == 1


def test_a_task_with_a_dot_in_its_id_is_meant_whole(project: Project, client: Client) -> None:
    set_config(project, USUAL)
    task_file(project, "task-1", status="done")
    task_file(project, "task-1.2")
    assert client.spawn("/pull task-1.2") == ""
    assert (
        client.spawn("/pull task-1", use="toolu_2") == "Denied, nothing was started: task-1: already complete"
    )


def test_of_twenty_that_ask_at_once_eight_are_started(project: Project, client: Client) -> None:
    set_config(project, USUAL)
    calls = []
    for number in range(20):
        task_file(project, f"t-{number}")
        given = {"prompt": f"/pull t-{number}", "subagent_type": WORKER, "run_in_background": True}
        use = f"toolu_{number}"
        calls.append([client.payload("PreToolUse", tool_name="Agent", tool_input=given, tool_use_id=use)])
    desk(project).tasks()
    with at_once(project, calls) as said:
        denied = [reason(json.loads(text)) for text in said if text]
    assert len(denied) == 12
    started = {number for number, text in enumerate(said) if not text}
    for number, text in enumerate(said):
        if number not in started:
            assert reason(json.loads(text)) == (
                f"Denied: 8 workers of this session run, and 8 may. "
                f"t-{number} stays ready; spawn again when one has ended."
            )
    assert held(project) == set()


def test_places_are_given_on_to_the_agents_that_start_and_freed_when_they_end(
    project: Project, client: Client
) -> None:
    set_config(project, USUAL)
    for number in range(8):
        assert client.spawn("/pull", use=f"toolu_{number}") == ""
    full = "Denied: 8 workers of this session run, and 8 may. spawn again when one has ended."
    assert client.spawn("/pull", use="toolu_8") == full
    for number in range(8):
        client.call("SubagentStart", f"a{number}")
        assert client.spawn("/pull", use="toolu_8") == full
        client.launch(f"a{number}", use=f"toolu_{number}")
        assert client.spawn("/pull", use="toolu_8") == full
    ends: list[Callable[[str], Any]] = [
        lambda agent: client.call("SubagentStop", agent, stop_hook_active=False),
        lambda agent: client.call("StopFailure", agent, error="x"),
        lambda agent: client.call("UserPromptSubmit", prompt=notification(agent)),
    ]
    for number, end in enumerate(ends):
        assert end(f"a{number}") is None
        assert client.spawn("/pull", use=f"toolu_next_{number}") == ""
        assert client.spawn("/pull", use="toolu_x") == full
    # Another session has places of its own.
    assert Client(project, client.capsys, "s-2").spawn("/pull") == ""


def test_a_worker_of_which_no_hook_told_the_end_frees_its_place_when_the_turn_ends(
    project: Project, client: Client
) -> None:
    set_config(project, "[agents]\nper_session = 1\nmax_ram_percent = 100\n")
    assert client.spawn("/pull", use="toolu_1") == ""
    client.launch("a1")
    assert client.spawn("/pull", use="toolu_2") != ""
    client.call("Stop", background_tasks=[])
    assert client.spawn("/pull", use="toolu_3") == ""


def test_memory_that_is_used_up_stops_all_but_the_first(
    project: Project, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawn_guard, "_ram_percent", lambda: 91.4)
    task_file(project)
    assert client.spawn("/pull t-1") == ""
    assert client.spawn("/pull t-1", use="toolu_2") == (
        "Denied: 91 % of the memory is in use, and workers are started up to 85 %. "
        "t-1 stays ready; spawn again when one has ended."
    )


def test_other_agents_of_the_user_are_neither_counted_nor_denied(project: Project, client: Client) -> None:
    set_config(project, "[agents]\nper_session = 1\nmax_ram_percent = 0.1\n")
    task_file(project, status="done")
    prompts = ["Find out what /pull t-1 does", "Look around", "", "pull t-1", "Run `/pull t-1`"]
    for _ in range(3):
        for kind in ("Explore", "general-purpose", "other:worker"):
            for prompt in prompts:
                assert client.spawn(prompt, kind) == ""
                client.call("SubagentStart", "e1", agent_type=kind)
                answer = client.tool(
                    "PostToolUse", "Agent", tool_input={"prompt": prompt, "subagent_type": kind},
                    tool_response={"isAsync": True, "status": "async_launched", "agentId": "e1"},
                )  # fmt: skip
                assert answer is None
    assert Crowd(Session(project.state, "s-1"), 900).running() == 0


# ---------------------------------------------------------------- session start


def test_a_session_begins_with_one_line_of_where_the_queue_stands(project: Project, client: Client) -> None:
    task_file(project, "t-1")
    task_file(project, "t-2", depends_on="[t-1]")
    task_file(project, "t-3", status="done")
    desk(project).tasks()
    for source in ("startup", "resume"):
        assert client.call("SessionStart", source=source) == {
            "hookSpecificOutput": {
                "hookEventName": "SessionStart",
                "additionalContext": (
                    "hypervisor: tasks of this project: 2 active, 1 done; 1 ready to be claimed."
                ),
            }
        }


def test_a_session_begins_by_freeing_what_the_silent_held(project: Project, client: Client) -> None:
    hold(project, "t-1", "a1", "s-9")
    age(project, "t-1", 5000)
    answer = client.call("SessionStart", source="startup")
    text = answer["hookSpecificOutput"]["additionalContext"]
    assert text == "hypervisor: tasks of this project: 1 active; 1 ready to be claimed."
    assert held(project) == set()


def test_a_session_of_a_week_ago_is_forgotten_and_a_newer_one_is_not(
    project: Project, client: Client
) -> None:
    hold(project, "t-1", "a1", "s-old")
    hold(project, "t-2", "a1", "s-new")
    desk(project, "a1", "s-old").release("t-1", "x")
    old = project.state / "sessions/s-old"
    then = old.stat().st_mtime - 8 * 86400
    os.utime(old, (then, then))
    client.call("SessionStart", source="startup")
    assert os.listdir(project.state / "sessions") == ["s-new"]


def test_a_project_without_tasks_is_told_nothing_and_stays_as_it_is(project: Project, client: Client) -> None:
    (project.root / "tasks").rmdir()
    before = tree(project.root.parent)
    for event in ("SessionStart", "UserPromptSubmit", "Stop", "SessionEnd", "SubagentStop", "StopFailure"):
        assert client.call(event, prompt="hello", source="startup", background_tasks=[]) is None
    for event in ("PreToolUse", "PostToolUse", "PostToolUseFailure"):
        assert client.tool(event, "Bash", "a1") is None
    assert client.spawn("Look around", "Explore") == ""
    assert tree(project.root.parent) == before


def test_a_state_folder_without_tasks_is_told_nothing(project: Project, client: Client) -> None:
    project.prepare()
    assert client.call("SessionStart", source="startup") is None


def test_a_project_that_was_never_worked_on_is_told_of_and_left_alone(
    project: Project, client: Client
) -> None:
    task_file(project, "t-1")
    task_file(project, "t-2")
    before = tree(project.root.parent)
    assert client.call("SessionStart", source="startup") == {
        "hookSpecificOutput": {
            "hookEventName": "SessionStart",
            "additionalContext": (
                "hypervisor: task files of this project: 2; see `hypervisor preflight --all`."
            ),
        }
    }
    assert tree(project.root.parent) == before


@pytest.mark.parametrize("what", ["spawn", "start"])
def test_a_state_folder_that_a_hook_makes_is_as_any_other(
    project: Project, client: Client, what: str
) -> None:
    task_file(project)
    if what == "spawn":
        assert client.spawn("/pull") == ""
    else:
        assert client.call("SubagentStart", "a1") is None
    assert (project.state / ".gitignore").read_text() == "*\n"
    assert project.state.stat().st_mode & 0o777 == 0o700


# ----------------------------------------------------------------------- faults


def test_what_is_no_call_is_passed_over(project: Project, client: Client) -> None:
    task_file(project)
    before = tree(project.root.parent)
    for data in (
        b"", b"{", b"null", b"[]", b"5", b'"x"', b"\xff\xfe", b"{}", b"[" * 100_000, b'{"session_id": "s-1"}',
        b'{"session_id": "s-1", "hook_event_name": "NoSuchEvent"}', b"9" * 5000, b"NaN",
        b'{"session_id": "s-1", "hook_event_name": "Stop", "background_tasks": NaN}',
    ):  # fmt: skip
        assert client.raw(data) == ("", "")
    assert tree(project.root.parent) == before


def told_once(client: Client, payload: Mapping[str, Any], words: str) -> None:
    """Hold that a call which cannot be carried out lets the tool pass, and says so once in a session."""
    data = json.dumps(payload).encode()
    out, err = client.raw(data)
    message = json.loads(out)
    assert set(message) == {"systemMessage"}
    assert re.search(words, message["systemMessage"])
    assert message["systemMessage"].startswith(f"hypervisor: a hook failed at {payload['hook_event_name']} ")
    assert err == message["systemMessage"] + "\n"
    for _ in range(2):
        out, again = client.raw(data)
        assert (out, again) == ("", err)


def test_settings_that_cannot_be_read_stop_no_tool(project: Project, client: Client) -> None:
    hold(project, "t-1", "a1")
    set_config(project, "[agents\n")
    told_once(client, client.payload("PreToolUse", tool_name="Edit", tool_input={}), "config.toml")
    other = Client(project, client.capsys, "s-2")
    data = json.dumps(other.payload("PreToolUse", tool_name="Edit", tool_input={})).encode()
    out, err = other.raw(data)  # a session that has nothing here is not bothered
    assert out == ""
    assert "config.toml" in err


def test_a_log_that_cannot_be_written_stops_no_end(project: Project, client: Client) -> None:
    paths = [task_file(project, f"t-{number}") for number in (1, 2)]
    before = [path.read_bytes() for path in paths]
    hold_both = [desk(project, f"a{number}").claim(f"t-{number}") for number in (1, 2)]
    assert len(hold_both) == 2
    (project.state / "events.jsonl").unlink()
    (project.state / "events.jsonl").mkdir()
    out, err = client.raw(json.dumps(client.payload("StopFailure", "a1", error="x")).encode())
    assert "Traceback" not in err
    assert out == "" or set(json.loads(out)) == {"systemMessage"}
    assert paths[0].read_bytes() == before[0]
    assert held(project) == {"t-2"}


def test_a_state_folder_that_cannot_be_read_stops_no_tool(
    project: Project, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(project, "t-1", "a1")
    desk(project, name="tobi").cancel("t-1", "")

    def closed(*_: object) -> list[object]:
        raise PermissionError(13, "Permission denied", str(project.state))

    monkeypatch.setattr(Session, "notes", closed)
    told_once(client, client.payload("PreToolUse", "a1", tool_name="Edit", tool_input={}), "PermissionError")


def test_a_state_folder_that_is_a_file_stops_no_tool(project: Project, client: Client) -> None:
    task_file(project)
    project.state.write_text("not a folder\n")
    before = tree(project.root.parent)
    for event in ("SessionStart", "PreToolUse", "PostToolUse", "SubagentStart", "SubagentStop", "SessionEnd"):
        for tool in ("Edit", "Agent"):
            payload = client.payload(
                event, "a1", tool_name=tool, tool_input={"prompt": "/pull t-1"}, tool_use_id="u"
            )
            out, err = client.raw(json.dumps(payload).encode())
            assert "permissionDecision" not in out
            assert "Traceback" not in err
    assert tree(project.root.parent) == before


# -------------------------------------------------------------- mutated payloads

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


def test_every_event_that_we_ask_for_is_tried() -> None:
    asked = json.loads((ROOT / "hooks/hooks.json").read_text("utf-8"))["hooks"]
    assert {name.split(maxsplit=1)[0] for name in PAYLOADS} == set(asked)


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
        desk(project, name="tobi").cancel("t-1", "not wanted")
        self.claims = self.names()
        assert len(self.claims) == 5, self.claims
        shutil.copytree(project.root, before, symlinks=True)

    def names(self) -> set[str]:
        """Return the names of the open claims, and of what is noted of claims."""
        notes = {str(path) for path in self.project.state.glob("sessions/s-1/*/*.json")}
        return notes | set(os.listdir(self.project.state / "locks"))

    def put_right(self) -> None:
        """Go back to how it was, if a call has released something."""
        if self.names() != self.claims:
            for name in (".hypervisor", "tasks"):
                shutil.rmtree(self.project.root / name)
                shutil.copytree(self.before / name, self.project.root / name, symlinks=True)


def text_of(payload: Mapping[str, Any], key: str) -> str:
    value = payload.get(key)
    return value if isinstance(value, str) else ""


def must_be_right(payload: Any, out: str, err: str) -> str:
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


@pytest.mark.parametrize("kind", PAYLOADS)
def test_whatever_the_client_says_nothing_breaks_and_nobody_is_stopped_wrongly(
    project: Project, client: Client, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the machine does not stop in between
    monkeypatch.setattr(telling, "_FLUSH_SECONDS", 0.0)  # no client writes the transcripts that are named
    scene, dice, kinds = Scene(project, tmp_path / "before"), random.Random(kind), Counter[str]()
    payload = {**COMMON, "hook_event_name": kind.split(maxsplit=1)[0], **PAYLOADS[kind]}

    def names() -> set[str]:
        found = {path for top in (tmp_path, Path(os.environ["HOME"])) for path in top.rglob("*")}
        return {str(path) for path in found if project.state not in path.parents}

    before = names()
    for number in range(1000):
        given = mutated(payload, dice) if number else payload
        out, err = client.raw(json.dumps(given).encode())
        kinds[must_be_right(given, out, err)] += 1
        scene.put_right()
    assert names() == before
    assert kinds.total() == 1000
    assert kinds[EXPECTED.get(kind, "silence")] > 100, kinds
