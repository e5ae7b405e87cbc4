"""The main flow with an older client, from before the one that all other tests drive."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from acceptance.api import ScriptedApi, calls, hang, say, use
from acceptance.client import Client
from acceptance.conftest import NewClient
from acceptance.product import RULES, Tasks, claim, done, plugged, tool, worker
from commands import eventually


@pytest.fixture
def older(client: NewClient, git_project: Path, older_claude: str) -> Client:
    made = plugged(client, git_project)
    made.path = older_claude
    return made


def test_a_worker_does_its_task_and_another_is_asked_to_end_its_own(
    api: ScriptedApi, older: Client, git_project: Path
) -> None:
    tasks = Tasks(git_project)
    tasks.add("t-1", receipts="[Bash]")
    tasks.add("t-2")
    tasks.add("t-3", status="done")
    before = tasks.text("t-2")
    api.main(calls(worker("t-1"), worker("t-2"), worker("t-3")), *[say("ok")] * 6)
    api.agent(
        "/pull t-1",
        calls(claim("t-1")),
        calls(use("Bash", command="echo one")),
        calls(done("t-1")),
        say("COMPLETED"),
    )
    api.agent("/pull t-2", calls(claim("t-2")), say("all done"), say("really done"))
    older.run("go", *RULES).passed()
    assert tasks.status("t-1") == "done"
    assert tasks.text("t-1").count(" Bash ok: echo one") == 1
    assert "You still hold t-2 (attempt 1)." in api.of("/pull t-2").turns[2].last_text
    assert tasks.text("t-2") == before
    refused = next(one for one in api.of("go").results if "t-3" in str(one.arguments))
    assert refused.text == "Denied, nothing was started: t-3: already complete"


def test_what_a_session_holds_is_free_once_it_has_ended(
    api: ScriptedApi, older: Client, git_project: Path
) -> None:
    tasks = Tasks(git_project)
    tasks.add("t-1")
    before = tasks.text("t-1")
    api.main(calls(claim("t-1")), calls(tool("list_tasks")), hang())
    running = older.start("go", *RULES)
    eventually(lambda: len(api.mains) == 1 and len(api.mains[0].turns) >= 3, "the session to be at work")
    assert tasks.status("t-1") == "in_progress"
    begun = time.monotonic()
    running.send(signal.SIGTERM)
    assert tasks.free_after(lambda: tasks.text("t-1") == before, begun) < 10
    running.wait()
