"""The tools of an agent: what each answers, whom each refuses and why, and whose claim is whose."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import tree, write_task
from hypervisor.core.errors import ClaimLost, HypervisorError, Refused, UsageError
from hypervisor.core.process import Identity, identity_of, this_process
from hypervisor.core.project import Project
from hypervisor.mcp.client_end import end_of_client
from hypervisor.mcp.handler import ToolHandler
from hypervisor.mcp.schema import BY_NAME, TOOLS
from hypervisor.queue.batches import open_named
from hypervisor.store.records import Completion, Worker, WorkerKind
from hypervisor.tasks.index_watch import LiveIndex
from task_place import TaskPlace

A1 = {"caller_session": "s-1", "caller_agent": "a1"}
A2 = {"caller_session": "s-1", "caller_agent": "a2"}
MAIN = {"caller_session": "s-1", "caller_agent": "main"}
WHO_MOVES_IT = "set it to active to run it"
#: An answer this long is put before the model as it is; a longer one is put aside into a file.
LONGEST = 40_000

NewBox = Callable[..., ToolHandler]


@pytest.fixture
def place(tmp_path: Path) -> TaskPlace:
    return TaskPlace(tmp_path / "project")


@pytest.fixture
def project(place: TaskPlace) -> Project:
    return place.project


@pytest.fixture
def new_box(project: Project) -> Iterator[NewBox]:
    kept: list[ToolHandler] = []

    def new(session: str = "s-1", client: Identity | None = None) -> ToolHandler:
        environ = {"CLAUDE_PROJECT_DIR": str(project.root), "CLAUDE_CODE_SESSION_ID": session}
        kept.append(ToolHandler(environ, client, LiveIndex()))  # as each server has one
        return kept[-1]

    yield new
    for handler in kept:
        handler.close()


@pytest.fixture
def box(new_box: NewBox) -> ToolHandler:
    return new_box()


@pytest.fixture
def client() -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that does nothing until it is killed, as a client that waits for its user."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def task_file(project: Project, name: str = "t-1", /, **keys: str) -> Path:
    return write_task(project.root / "tasks" / f"{name}.md", **keys)


def ask(box: ToolHandler, tool: str, /, **given: Any) -> Any:
    return json.loads(box.call(tool, given))


def refusal(box: ToolHandler, tool: str, /, **given: Any) -> str:
    with pytest.raises(HypervisorError) as refused:
        box.call(tool, given)
    return str(refused.value)


def fall_silent(project: Project) -> None:
    TaskPlace.at(project).fall_silent()


def ids(answer: Any) -> list[str]:
    return [task["id"] for task in answer["tasks"]]


# ------------------------------------------------------------- claim: who may not


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"status": "done"}, "already complete"),
        ({"status": "cancelled"}, "cancelled"),
        ({"status": "blocked"}, f"its status is blocked; {WHO_MOVES_IT}"),
        ({"status": "review"}, f"its status is review; {WHO_MOVES_IT}"),
        ({"status": "simmering"}, "its status 'simmering' is not known; add the word to [status.words]"),
        ({"assignee": "Zoe"}, "assigned to Zoe, a person"),
        ({"status": "in_progress"}, "in progress by somebody, outside of our claims"),
        ({"status": "in_progress", "assignee": "bot"}, "in progress by bot, outside of our claims"),
        ({"depends_on": "[t-2]"}, "waits for t-2"),
        ({"depends_on": "[t-9]"}, "waits for t-9 (no such task)"),
        ({"depends_on": "[t-3]"}, "waits for t-3 (in a circle: t-1 -> t-3 -> t-1)"),
        ({"depends_on": "[t-1]"}, "waits for t-1 (in a circle: t-1 -> t-1)"),
    ],
)
def test_who_may_not_claim_is_told_why_and_nothing_changes(
    project: Project, box: ToolHandler, keys: dict[str, str], reason: str
) -> None:
    task_file(project, "t-2")
    task_file(project, "t-3", depends_on="[t-1]")
    path = task_file(project, **keys)
    before = path.read_bytes()
    assert refusal(box, "claim_task", id="t-1", caller="claude", **A1) == f"t-1: {reason}"
    assert path.read_bytes() == before
    story = ask(box, "get_task", id="t-1")
    assert (story["ready"], story["why_not"]) == (False, reason)
    assert "t-1" not in ids(ask(box, "list_tasks", ready=True))


def test_a_task_that_is_not_there_or_there_twice_is_refused(project: Project, box: ToolHandler) -> None:
    task_file(project, "a", id="t-1")
    task_file(project, "b", id="T-1")
    assert refusal(box, "claim_task", id="t-9", caller="claude") == (
        f"t-9: no such task in {project.root}; see `hypervisor task list`"
    )
    twice = "t-1: 2 tasks bear this id (tasks/a.md, tasks/b.md); name the path instead"
    assert refusal(box, "claim_task", id="t-1", caller="claude") == twice
    assert ask(box, "claim_task", id="tasks/b.md", caller="claude")["task"]["path"] == "tasks/b.md"


@pytest.mark.parametrize("identity", [A2, MAIN, {"caller_session": "s-2", "caller_agent": "a1"}, {}])
def test_a_task_that_another_holds_is_refused(
    project: Project, box: ToolHandler, new_box: NewBox, identity: dict[str, str]
) -> None:
    task_file(project)
    ask(box, "claim_task", id="t-1", caller="claude", **A1)
    with pytest.raises(Refused, match=r"^t-1 is held by claude \(attempt 1\); take another, or wait$"):
        new_box("s-3").call("claim_task", {"id": "t-1", "caller": "claude", **identity})
    assert refusal(box, "claim_task", id="t-1", caller="x" * 5000, **identity)


def test_a_claim_answers_with_all_that_its_worker_needs(project: Project, box: ToolHandler) -> None:
    task_file(project, files="[src/]", verify="make test", depends_on="[t-2]", receipts="[mail]")
    task_file(project, "t-2", status="done")
    answer = ask(box, "claim_task", id="T-1", caller="claude", **A1)
    assert answer["claim"] == {"attempt": 1, "expires_in": 900}
    known = {
        "id": "t-1", "title": "Task t-1", "status": "in_progress", "assignee": ["claude"],
        "priority": "medium", "path": "tasks/t-1.md", "files": ["src/"], "verify": "make test",
        "depends_on": ["t-2"], "receipts": ["mail"],
    }  # fmt: skip
    assert answer["task"] == known | {"body": answer["task"]["body"]}
    assert "Change one line." in answer["task"]["body"]


# ------------------------------------------------------------------- who is who


def test_an_agent_is_given_the_task_that_it_has_once_more_and_no_second(
    project: Project, box: ToolHandler, new_box: NewBox
) -> None:
    task_file(project)
    task_file(project, "t-2", priority="critical")
    first = ask(box, "claim_task", id="t-1", caller="claude", **A1)
    for other in (box, new_box()):
        assert ask(other, "claim_task", id="t-1", caller="claude", **A1) == first
        assert ask(other, "claim_next_task", caller="claude", **A1) == first
        assert refusal(other, "claim_task", id="t-2", caller="claude", **A1) == (
            "you have t-1 in hand (attempt 1), and a worker does one task; "
            "complete, block or release it first"
        )
    assert ask(box, "claim_next_task", caller="claude", **A2)["task"]["id"] == "t-2"
    ask(box, "complete_task", id="t-1", outcome="made it", **A1)
    assert ask(box, "claim_next_task", caller="claude", **A1)["task"] is None


@pytest.mark.parametrize(
    ("tool", "rest"),
    [
        ("complete_task", {"outcome": "mine"}),
        ("release_task", {"reason": "mine"}),
        ("update_task", {"status": "blocked", "reason": "mine"}),
        ("update_task", {"status": "review", "reason": "mine"}),
    ],
)
@pytest.mark.parametrize("identity", [A2, MAIN, {"caller_session": "s-2", "caller_agent": "a1"}, {}])
def test_another_agent_ends_a_claim_only_if_it_names_its_attempt(
    project: Project, new_box: NewBox, tool: str, rest: dict[str, str], identity: dict[str, str]
) -> None:
    path = task_file(project)
    ask(new_box(), "claim_task", id="t-1", caller="claude", **A1)
    before, box = path.read_bytes(), new_box("s-9")
    assert refusal(box, tool, id="t-1", **rest, **identity) == (
        "t-1 is held by claude; pass the attempt (1) to act on that claim"
    )
    assert "is lost: unknown" in refusal(box, tool, id="t-1", attempt=2, **rest, **identity)
    assert path.read_bytes() == before
    assert ask(box, tool, id="t-1", attempt=1, **rest, **identity)["task"]["status"] != "in_progress"


def test_the_sessions_own_thread_may_hold_several(
    project: Project, box: ToolHandler, new_box: NewBox
) -> None:
    for name in ("t-1", "t-2", "t-3"):
        task_file(project, name)
    ask(box, "claim_task", id="t-1", caller="claude", **MAIN)
    ask(box, "claim_task", id="t-2", caller="claude", **MAIN)
    assert ask(box, "claim_next_task", caller="claude", **MAIN)["task"]["id"] == "t-3"
    assert ask(new_box(), "claim_task", id="t-2", caller="claude", **MAIN)["claim"]["attempt"] == 1
    for name in ("t-3", "t-1", "t-2"):
        assert ask(new_box(), "complete_task", id=name, outcome="x", **MAIN)["result"] == "success"


def test_of_an_unknown_caller_the_server_remembers_what_it_gave_out(
    project: Project, box: ToolHandler, new_box: NewBox
) -> None:
    for name in ("t-1", "t-2", "t-3"):
        task_file(project, name)
    for name in ("t-1", "t-2", "t-3"):
        ask(box, "claim_task", id=name, caller="claude")
    held = "t-1 is held by claude; pass the attempt (1) to act on that claim"
    assert refusal(new_box(), "complete_task", id="t-1", outcome="x") == held
    assert ask(box, "complete_task", id="tasks/t-1.md")["result"] == "success"
    assert ask(box, "get_task", id="t-1")["body"].count("done; no outcome was given") == 1
    assert ask(box, "release_task", id="t-2", reason="x")["task"]["status"] == "active"
    assert ask(box, "update_task", id="t-3", status="blocked", reason="x")["result"] == "blocked"


@pytest.mark.parametrize("identity", [A1, {}])
def test_a_claim_that_was_taken_over_cannot_be_ended_by_who_had_it(
    project: Project, box: ToolHandler, new_box: NewBox, identity: dict[str, str]
) -> None:
    path, other = task_file(project), new_box("s-2")
    ask(box, "claim_task", id="t-1", caller="claude", **identity)
    fall_silent(project)
    assert ask(other, "claim_task", id="t-1", caller="gemini")["claim"]["attempt"] == 2
    before = path.read_bytes()
    for rest in ({}, {"attempt": 1}):
        for tool, words in (("complete_task", {"outcome": "x"}), ("release_task", {"reason": "x"})):
            lost = refusal(box, tool, id="t-1", **words, **identity, **rest)
            assert "(attempt 1) is lost: revoked: " in lost
            assert "silent for" in lost
    assert path.read_bytes() == before
    ask(other, "complete_task", id="t-1", outcome="made it")


@pytest.mark.parametrize("rest", [A1, {"attempt": 1}, {}])
def test_the_same_completion_twice_is_one(project: Project, box: ToolHandler, rest: dict[str, Any]) -> None:
    path = task_file(project)
    ask(box, "claim_task", id="t-1", caller="claude", **(A1 if rest is A1 else {}))
    first = ask(box, "complete_task", id="t-1", outcome="made it", commit="3f2c1ab", evidence="tests", **rest)
    assert first["result"] == "success"
    before = path.read_text("utf-8")
    assert before.count("## Completion\n\n- Outcome: success: made it\n- Commit: 3f2c1ab\n") == 1
    assert ask(box, "complete_task", id="t-1", outcome="made it", **rest) == first
    assert refusal(box, "complete_task", id="t-1", outcome="made another", **rest)
    assert path.read_text("utf-8") == before


def test_whoever_lost_a_claim_is_told_and_writes_nothing_more(
    project: Project, box: ToolHandler, new_box: NewBox
) -> None:
    path = task_file(project)
    ask(box, "claim_task", id="t-1", caller="claude", **A1)
    ask(new_box("s-2"), "update_task", id="t-1", status="cancelled", reason="not wanted")
    before = path.read_bytes()
    for tool, words in (
        ("complete_task", {"outcome": "x"}), ("release_task", {"reason": "x"}),
        ("update_task", {"body": "x"}), ("update_task", {"priority": "high"}),
        ("update_task", {"status": "blocked", "reason": "x"}),
    ):  # fmt: skip
        lost = refusal(box, tool, id="t-1", **words, **A1)
        assert lost.endswith("is lost: revoked: cancelled by claude: not wanted"), (tool, lost)
    assert path.read_bytes() == before
    ask(box, "update_task", id="t-1", body="From somebody else.", **A2)
    assert path.read_text("utf-8").endswith("From somebody else.\n")


# -------------------------------------------------------------- the client's death


def test_what_a_dead_clients_agents_held_is_free_at_once(
    project: Project, new_box: NewBox, client: subprocess.Popen[bytes]
) -> None:
    path = task_file(project, assignee="bot")
    before, other = path.read_bytes(), new_box("s-2")
    ask(new_box(client=identity_of(client.pid)), "claim_task", id="t-1", caller="claude", **A1)
    assert "held by claude" in refusal(other, "claim_task", id="t-1", caller="gemini")
    client.kill()
    client.wait()
    assert ask(other, "claim_task", id="t-1", caller="gemini")["claim"]["attempt"] == 2
    ask(other, "release_task", id="t-1", reason="x")
    assert path.read_bytes() == before


def test_what_a_dead_clients_agents_held_is_restored_by_whoever_lists_next(
    project: Project, new_box: NewBox, client: subprocess.Popen[bytes]
) -> None:
    path = task_file(project, status="Todo", assignee="bot")
    before = path.read_bytes()
    ask(new_box(client=identity_of(client.pid)), "claim_task", id="t-1", caller="claude", **A1)
    assert ask(new_box(), "get_task", id="t-1")["claim"]["holder"] == "claude"
    assert path.read_bytes() != before
    client.kill()
    client.wait()
    assert ids(ask(new_box(), "list_tasks", ready=True)) == ["t-1"]
    assert path.read_bytes() == before
    assert "the client of claude" in ask(new_box(), "get_task", id="t-1")["history"][-1]["why"]


@pytest.mark.slow
def test_the_end_of_a_server_releases_what_is_held_only_if_its_client_is_dead(
    project: Project, new_box: NewBox, client: subprocess.Popen[bytes]
) -> None:
    paths = [task_file(project, name) for name in ("t-1", "t-2", "t-3")]
    before = [path.read_bytes() for path in paths]
    box = new_box(client=identity_of(client.pid))
    ask(box, "claim_task", id="t-1", caller="claude", **A1)
    ask(box, "claim_task", id="t-2", caller="claude")
    ask(new_box("s-2"), "claim_task", id="t-3", caller="claude", caller_session="s-2", caller_agent="a1")
    end_of_client(box.context)
    end_of_client(new_box().context)
    assert [ask(box, "get_task", id=name)["status"] for name in ("t-1", "t-2", "t-3")] == ["in_progress"] * 3
    client.kill()
    client.wait()
    end_of_client(box.context)
    assert [path.read_bytes() for path in paths[:2]] == before[:2]
    assert ask(box, "get_task", id="t-1")["history"][-1]["why"] == "the client of its session was killed"
    assert ask(box, "get_task", id="t-3")["status"] == "in_progress", "another session's"


# ------------------------------------------------------------------------ update


@pytest.mark.parametrize(
    ("status", "after"),
    [("blocked", "blocked"), ("review", "review"), ("Review", "review"), ("active", "active"),
     ("cancelled", "cancelled"), ("in_progress", "in_progress"), ("In Progress", "in_progress")],
)  # fmt: skip
def test_each_status_of_a_task_in_hand_does_what_it_says(
    project: Project, box: ToolHandler, status: str, after: str
) -> None:
    path = task_file(project)
    before = path.read_bytes()
    ask(box, "claim_task", id="t-1", caller="claude", **A1)
    rest = {"reason": "no key", "evidence": "401", "next_step": "get one"}
    answer = ask(box, "update_task", id="t-1", status=status, **rest, **A1)
    assert answer["task"]["status"] == after
    story = ask(box, "get_task", id="t-1")
    assert ("claim" in story) == (after == "in_progress")
    if after == "active":
        assert path.read_bytes() == before
    elif after == "in_progress":
        assert answer["claim"]["attempt"] == 1
    else:
        assert "no key" in story["body"]
        if after != "cancelled":
            assert "\n- Evidence: 401\n- Next: get one\n- By: claude, attempt 1\n" in story["body"]


@pytest.mark.parametrize(
    ("before", "status", "after"),
    [("active", "inbox", "inbox"), ("inbox", "active", "active"), ("blocked", "active", "active"),
     ("review", "active", "active"), ("active", "in_progress", "in_progress"),
     ("active", "cancelled", "cancelled"), ("blocked", "cancelled", "cancelled")],
)  # fmt: skip
def test_each_status_of_a_task_that_nobody_holds_does_what_it_says(
    project: Project, box: ToolHandler, before: str, status: str, after: str
) -> None:
    path = task_file(project, status=before)
    answer = ask(box, "update_task", id="t-1", status=status, **A1)
    assert answer["task"]["status"] == after
    assert ("claim" in answer) == (after == "in_progress")
    assert f"\nstatus: {after}\n" in path.read_text("utf-8")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"status": "done"}, "update_task: call complete_task(id, outcome), which says what was done"),
        ({"status": "done", "body": "All done."}, "update_task: call complete_task(id, outcome)"),
        ({"status": "blocked", "priority": "high"}, "update_task: status blocked needs a reason"),
        ({"status": "blocked", "reason": "x"}, "t-1 is not claimed by you; claim it first"),
        ({"status": "nonsense", "body": "x"}, "update_task: status must be one of inbox, active, "),
        ({"priority": "urgent"}, "priority urgent: must be one of critical, high, medium, low"),
        ({"complexity": "hard", "body": "x"}, "complexity hard: must be one of mechanical, multi-step, "),
        ({}, "update_task: say what to change: status, body or a key"),
        ({"body": ""}, "update_task: say what to change"),
    ],
)
def test_a_change_that_is_refused_changes_nothing(
    project: Project, box: ToolHandler, given: dict[str, str], words: str
) -> None:
    path = task_file(project)
    before = path.read_bytes()
    assert refusal(box, "update_task", id="t-1", **given, **A1).startswith(words)
    assert path.read_bytes() == before


def test_keys_and_text_need_no_claim_but_the_assignee_of_a_held_task_stays(
    project: Project, box: ToolHandler, new_box: NewBox
) -> None:
    path = task_file(project)
    ask(box, "claim_task", id="t-1", caller="claude", **A1)
    keys = {"priority": "high", "complexity": "mechanical", "project": "Loans: new"}
    row = ask(new_box("s-2"), "update_task", id="t-1", body="A note.", **keys, **A2)["task"]
    assert {key: row[key] for key in keys} == keys
    assert path.read_text("utf-8").endswith("A note.\n")
    assert refusal(box, "update_task", id="t-1", assignee="zoe", **A2) == (
        "t-1 is held; its assignee changes with the claim"
    )
    ask(box, "release_task", id="t-1", reason="x", **A1)
    assert ask(box, "update_task", id="t-1", assignee="zoe", **A2)["task"]["assignee"] == ["zoe"]


def test_text_that_many_append_at_once_is_all_there(project: Project, box: ToolHandler) -> None:
    path = task_file(project)
    failed: list[BaseException] = []

    def append(writer: int) -> None:
        try:
            for number in range(5):
                ask(box, "update_task", id="t-1", body=f"Note {number} of {writer}.\n\nMore of {writer}.")
        except BaseException as error:  # noqa: BLE001 - told by the test
            failed.append(error)

    writers = [threading.Thread(target=append, args=(writer,)) for writer in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == []
    text = path.read_text("utf-8")
    for who in range(8):
        places = [text.index(f"Note {number} of {who}.\n\nMore of {who}.\n") for number in range(5)]
        assert places == sorted(places)


# -------------------------------------------------------------------- look


@pytest.fixture
def many(project: Project) -> Project:
    task_file(project, "a", project="Loans", priority="low", tags="[x, y]", assignee="'@Claude'")
    task_file(project, "b", project="loans", priority="critical", complexity="mechanical", tags="[x]")
    task_file(project, "c", status="done", parent="A", assignee="[bot, zoe]")
    task_file(project, "d", status="To Do", parent="a", priority="high", needs="[mcp:mail]")
    return project


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, "bdca"),
        ({"status": "active"}, "bda"),
        ({"status": "done"}, "c"),
        ({"project": "LOANS"}, "ba"),
        ({"assignee": "claude"}, "a"),
        ({"assignee": "@ZOE"}, "c"),
        ({"complexity": "mechanical"}, "b"),
        ({"tags": ["x"]}, "ba"),
        ({"tags": ["x", "y"]}, "a"),
        ({"tags": []}, "bdca"),
        ({"parent": "a"}, "dc"),
        ({"parent": "a", "status": "done"}, "c"),
        ({"ready": True}, "bda"),
        ({"ready": False}, "bdca"),
        ({"limit": 2}, "bd"),
        ({"limit": 2, "offset": 1}, "dc"),
        ({"limit": 0}, ""),
        ({"offset": 9}, ""),
        ({"limit": 10**9}, "bdca"),
    ],
)
def test_a_list_holds_what_was_asked_for_the_most_urgent_first(
    many: Project, box: ToolHandler, given: dict[str, Any], found: str
) -> None:
    answer = ask(box, "list_tasks", **given)
    assert "".join(ids(answer)) == found
    rest = {key: value for key, value in given.items() if key not in ("limit", "offset")}
    assert answer["total"] == ask(box, "list_tasks", **rest)["total"] >= len(found)


def test_what_is_held_is_not_ready_until_its_holder_is_gone(
    many: Project, box: ToolHandler, new_box: NewBox, client: subprocess.Popen[bytes]
) -> None:
    ask(new_box(client=identity_of(client.pid)), "claim_task", id="b", caller="claude", **A1)
    assert ids(ask(box, "list_tasks", ready=True)) == ["d", "a"]
    assert ask(box, "get_index_stats")["ready"] == 2
    assert ask(box, "get_task", id="b")["why_not"] == "held by claude"
    client.kill()
    client.wait()
    assert ids(ask(box, "list_tasks", ready=True)) == ["b", "d", "a"]


def test_the_next_task_is_one_whose_needs_the_agent_meets(many: Project, box: ToolHandler) -> None:
    task_file(many, "e", complexity="requires-judgment", priority="critical")
    assert ask(box, "claim_next_task", caller="claude", **A1)["task"]["id"] == "b"
    assert ask(box, "claim_next_task", caller="claude", needs=["mcp:mail"], **A2)["task"]["id"] == "d"
    ask(box, "release_task", id="d", reason="x", **A2)
    assert ask(box, "claim_next_task", caller="claude", project="loans", **A2)["task"]["id"] == "a"
    nothing = ask(box, "claim_next_task", caller="claude", **MAIN)
    assert nothing["task"] is None
    for words in ("nothing is ready: ", "2 held by claude", "1 already complete", "1 needs mcp:mail",
                  "1 it is requires-judgment, which is given only to those who ask for it"):  # fmt: skip
        assert words in nothing["reason"]
    judge = ask(box, "claim_next_task", caller="claude", complexity="requires-judgment", **MAIN)
    assert judge["task"]["id"] == "e"
    assert refusal(box, "claim_next_task", caller="claude", complexity="x").startswith(
        "claim_next_task: complexity must be one of mechanical, "
    )


def test_a_task_tells_its_story(project: Project, box: ToolHandler, new_box: NewBox) -> None:
    task_file(project)
    ask(box, "claim_task", id="t-1", caller="claude", **A1)
    ask(box, "release_task", id="t-1", reason="not now", **A1)
    ask(box, "claim_task", id="t-1", caller="gemini", **A2)
    story = ask(new_box("s-2"), "get_task", id="T-1")
    first, second = story["history"]
    assert (first["attempt"], first["by"], first["outcome"], first["why"]) == (
        1,
        "claude",
        "again",
        "not now",
    )
    assert (second["attempt"], second["by"], "outcome" in second) == (2, "gemini", False)
    assert (story["claim"]["attempt"], story["claim"]["holder"]) == (2, "gemini")
    assert story["claim"]["silent_seconds"] < 60
    assert "Change one line." in story["body"]


def test_what_is_too_long_for_a_model_is_cut_and_says_where_it_stands(
    project: Project, box: ToolHandler
) -> None:
    path = task_file(project)
    path.write_text(path.read_text("utf-8") + "A long story.\n" * 10_000, "utf-8")
    story = ask(box, "get_task", id="t-1")
    assert len(story["body"]) == LONGEST
    assert story["cut"] == "the body is longer; read tasks/t-1.md"
    claimed = ask(box, "claim_task", id="t-1", caller="claude", **A1)["task"]
    assert len(claimed["body"]) == LONGEST
    assert claimed["cut"] == story["cut"]


def test_the_index_counts_and_names_what_is_wrong(many: Project, box: ToolHandler) -> None:
    task_file(many, "e", depends_on="[F, nowhere]")
    task_file(many, "f", depends_on="[e]")
    (many.root / "tasks/damaged.md").write_text("---\nno: [end\n")
    stats = ask(box, "get_index_stats")
    assert (stats["root"], stats["total"], stats["ready"]) == (str(many.root), 6, 3)
    assert stats["by_status"] == {"active": 5, "done": 1}
    assert stats["by_complexity"] == {"mechanical": 1}
    assert stats["cycles"] == [["e", "f"]]
    assert stats["unknown_dependencies"] == {"nowhere": ["e"]}
    assert len(stats["unreadable"]) == 1
    assert "damaged.md" in stats["unreadable"][0]
    assert "by_project" not in stats
    projects = ask(box, "get_index_stats", include_projects=True)["by_project"]
    assert projects == {"": {"active": 3, "done": 1}, "Loans": {"active": 1}, "loans": {"active": 1}}


@pytest.mark.parametrize("target", ["loop.md", "nowhere.md", "/dev/zero", "x" * 255, "../tasks"])
def test_a_link_that_leads_to_no_file_does_not_hide_the_tasks_beside_it(
    many: Project, box: ToolHandler, target: str
) -> None:
    (many.root / "tasks/loop.md").symlink_to(target)
    assert ids(ask(box, "list_tasks")) == ["b", "d", "c", "a"]
    assert ask(box, "claim_next_task", caller="claude")["task"]["id"] == "b"


def test_looking_leaves_a_folder_that_is_no_project_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    box = ToolHandler({"CLAUDE_PROJECT_DIR": str(tmp_path / "empty")})
    before = tree(tmp_path)
    assert ask(box, "list_tasks") == {"tasks": [], "total": 0}
    assert ask(box, "get_index_stats")["total"] == 0
    assert ask(box, "preflight", create_batch=True)["run"] == []
    for tool in ("batch_status", "batch_summary"):
        assert "has no batch yet" in refusal(box, tool)
    assert refusal(box, "get_task", id="t-1").startswith("t-1: no such task in ")
    assert tree(tmp_path) == before


# ----------------------------------------------------------------------- batches


def test_a_batch_is_made_of_what_would_run_and_its_census_closes(many: Project, box: ToolHandler) -> None:
    task_file(many, "e", assignee="Zoe")
    asked = ask(box, "preflight")
    skipped = {"already complete": ["c"], "assigned to Zoe, a person": ["e"]}
    assert asked == {"run": ["b", "d", "a"], "skipped": skipped, "unreadable": [], "warnings": []}
    made = ask(box, "preflight", ids=["a", "b", "c", "E"], create_batch=True)
    assert made["run"] == ["b", "a"]
    assert ask(box, "preflight", parent="A")["run"] == ["d"]
    batch = made["batch"]
    assert ask(box, "claim_next_task", caller="claude", batch=batch, **A1)["task"]["id"] == "b"
    ask(box, "complete_task", id="b", outcome="made it", **A1)
    assert ask(box, "claim_next_task", caller="claude", batch=batch, **A1)["task"]["id"] == "a"
    status = ask(box, "batch_status")
    assert status["census"] == {
        "queued": 4, "success": 1, "blocked": 0, "failed": 0, "skipped": 2, "running": 1, "waiting": 0,
    }  # fmt: skip
    assert (status["batch_id"], status["closes"], status["finished"]) == (batch, True, False)
    assert [(row["item"], row["holder"]) for row in status["running"]] == [("a", "claude a1")]
    assert ask(box, "claim_next_task", caller="claude", batch=batch, **A2)["task"] is None
    ask(box, "update_task", id="a", status="blocked", reason="no key", next_step="get one", **A1)
    assert ask(box, "batch_status", id=batch)["finished"] is True
    summary = ask(box, "batch_summary", id=batch)
    assert summary["census"] == status["census"] | {"running": 0, "blocked": 1}
    hint = "get one; then `hypervisor task update a --status active`"
    assert summary["needs_attention"] == [{"task_id": "a", "reason": "no key", "next": hint}]
    assert [row["status"] for row in summary["workers"]] == ["success", "blocked", "skipped", "skipped"]
    assert json.loads((many.batches / batch / "summary.json").read_bytes()) == summary


def test_the_tasks_of_a_batch_are_found_where_the_project_is_reached_through_a_link(
    many: Project, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(many.root)
    box = ToolHandler({"CLAUDE_PROJECT_DIR": str(tmp_path / "link")})
    batch = ask(box, "preflight", create_batch=True)["batch"]
    assert ask(box, "claim_next_task", caller="claude", batch=batch)["task"]["id"] == "b"
    ask(box, "complete_task", id="b", outcome="x")
    assert ask(box, "batch_status")["census"]["success"] == 1


def test_a_task_has_one_claim_also_where_a_session_reaches_the_project_through_a_link(
    project: Project, box: ToolHandler, tmp_path: Path
) -> None:
    task_file(project)
    (tmp_path / "link").symlink_to(project.root)
    linked = ToolHandler({"CLAUDE_PROJECT_DIR": str(tmp_path / "link"), "CLAUDE_CODE_SESSION_ID": "s-2"})
    ask(linked, "claim_task", id="t-1", caller="claude")
    assert "t-1 is held by claude (attempt 1)" in refusal(box, "claim_task", id="t-1", caller="gemini")
    assert ask(box, "complete_task", id="t-1", outcome="x", attempt=1)["result"] == "success"


@pytest.mark.parametrize("name", ["nowhere", "..", ".", "a/b", "../batches", "x" * 5000])
def test_a_batch_that_is_not_there_is_refused(many: Project, box: ToolHandler, name: str) -> None:
    ask(box, "preflight", create_batch=True)
    for tool in ("batch_status", "batch_summary"):
        assert "no such batch in " in refusal(box, tool, id=name)
    assert "no such batch in " in refusal(box, "claim_next_task", caller="claude", batch=name)


@pytest.mark.parametrize("outcome", ["success", "blocked"])
def test_the_summary_of_a_large_batch_stays_small_and_says_where_the_rest_is(
    project: Project, box: ToolHandler, outcome: str
) -> None:
    for number in range(600):
        task_file(project, f"t-{number}")
    name = ask(box, "preflight", create_batch=True)["batch"]
    worker = Worker(id="w-1", kind=WorkerKind.LEASE, name="w", process=this_process())
    result = {"status": outcome, "outcome": "because of it " * 9}
    with open_named(project, name) as batch:
        batch.store.claims.add_worker(worker)
        claims = batch.store.claims.claim_next(worker, batch.number, 600)
        batch.store.claims.complete([
            Completion(attempt=claim.attempt, status=outcome, result=result | {"item": claim.text})
            for claim in claims
        ])  # fmt: skip
    answer = box.call("batch_summary", {})
    assert len(answer) < LONGEST
    summary = json.loads(answer)
    assert summary["census"]["queued"] == summary["census"][outcome] == 600
    path = project.batches / name / "summary.json"
    assert str(path) in answer
    assert len(json.loads(path.read_bytes())["workers"]) == 600
    assert len(box.call("batch_status", {})) < LONGEST


# --------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"limit": "2"}, "bd"),
        ({"limit": 2.0}, "bd"),
        ({"limit": None, "tags": None}, "bdca"),
        ({"tags": '["x"]'}, "ba"),
        ({"tags": "x"}, "ba"),
        ({"tags": "[x"}, ""),
        ({"ready": "true"}, "bda"),
        ({"ready": "FALSE"}, "bdca"),
        ({"project": 7}, ""),
        ({"unheard_of": {"a": [1]}, "limit": 1}, "b"),
    ],
)
def test_arguments_are_taken_as_they_are_meant(
    many: Project, box: ToolHandler, given: dict[str, Any], found: str
) -> None:
    assert "".join(ids(ask(box, "list_tasks", **given))) == found


@pytest.mark.parametrize(
    ("tool", "given", "words"),
    [
        ("list_tasks", {"limit": -1}, "list_tasks: limit must be a whole number, not -1"),
        ("list_tasks", {"limit": "five"}, 'list_tasks: limit must be a whole number, not "five"'),
        ("list_tasks", {"limit": 1.5}, "list_tasks: limit must be a whole number, not 1.5"),
        ("list_tasks", {"limit": float("nan")}, "list_tasks: limit must be a whole number"),
        ("list_tasks", {"limit": float("inf")}, "list_tasks: limit must be a whole number"),
        ("list_tasks", {"limit": "9" * 5000}, "list_tasks: limit must be a whole number"),
        ("list_tasks", {"limit": 10**30}, "list_tasks: limit must be a whole number"),
        ("list_tasks", {"limit": True}, "list_tasks: limit must be a whole number"),
        ("list_tasks", {"offset": [1]}, "list_tasks: offset must be a whole number, not [1]"),
        ("list_tasks", {"ready": 1}, "list_tasks: ready must be true or false, not 1"),
        ("list_tasks", {"ready": "yes"}, "list_tasks: ready must be true or false"),
        ("list_tasks", {"tags": [1]}, "list_tasks: tags must be a list of texts"),
        ("list_tasks", {"tags": "[1]"}, "list_tasks: tags must be a list of texts"),
        ("list_tasks", {"tags": {}}, "list_tasks: tags must be a list of texts"),
        ("list_tasks", {"tags": ["a\0"]}, "list_tasks: tags holds a NUL"),
        ("list_tasks", {"status": "nonsense"}, "list_tasks: status must be one of inbox, active, "),
        ("list_tasks", {"project": ["a"]}, 'list_tasks: project must be a text, not ["a"]'),
        ("get_task", {}, "get_task: id is missing; it takes id"),
        ("get_task", {"id": ""}, "get_task: id is missing"),
        ("get_task", {"id": None}, "get_task: id is missing"),
        ("get_task", {"id": "a\0b"}, "get_task: id holds a NUL, which no file's text can"),
        ("get_task", {"id": True}, "get_task: id must be a text, not true"),
        ("claim_task", {"id": "a"}, "claim_task: caller is missing; it takes id, caller"),
        ("complete_task", {"id": "a", "outcome": "x", "attempt": -3}, "complete_task: attempt must be"),
        ("release_task", {"id": "a", "reason": "x\0"}, "release_task: reason holds a NUL"),
    ],
)  # fmt: skip
def test_an_argument_that_cannot_be_meant_is_refused_by_its_name(
    many: Project, box: ToolHandler, tool: str, given: dict[str, Any], words: str
) -> None:
    before = tree(many.root / "tasks")
    with pytest.raises(UsageError) as refused:
        box.call(tool, given)
    assert str(refused.value).startswith(words)
    assert len(str(refused.value)) < 300
    assert tree(many.root / "tasks") == before


@pytest.mark.parametrize("caller", ["x" * 5000, "é" * 900, "a\nb", "zoe, claude", "a\x07b", " ", "@"])
def test_a_caller_whose_name_cannot_be_an_assignee_is_refused(
    project: Project, box: ToolHandler, caller: str
) -> None:
    path = task_file(project)
    before = path.read_bytes()
    for tool, rest in (("claim_task", {"id": "t-1"}), ("claim_next_task", {})):
        with pytest.raises((UsageError, Refused)):
            box.call(tool, {"caller": caller, **rest, **A1})
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["x" * 5000, "../../x", "é" * 300, "a\0b", "\n"])
def test_a_claim_is_its_agents_whatever_the_client_calls_it(
    project: Project, box: ToolHandler, name: str
) -> None:
    task_file(project)
    for identity in (
        {"caller_session": name, "caller_agent": "a1"}, {"caller_session": "s-1", "caller_agent": name},
    ):  # fmt: skip
        claim = ask(box, "claim_task", id="t-1", caller="claude", **identity)["claim"]
        assert ask(box, "claim_next_task", caller="claude", **identity)["claim"] == claim
        ask(box, "release_task", id="t-1", reason="x", **identity)


def test_an_unknown_tool_names_those_that_there_are(box: ToolHandler) -> None:
    assert refusal(box, "drop_all") == f"drop_all: no such tool; there are {', '.join(BY_NAME)}"
    assert set(BY_NAME) == {tool.name for tool in TOOLS}
    assert issubclass(ClaimLost, HypervisorError)
