"""Agents of `hypervisor run` that ask or are reviewed, on the real client."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from acceptance.api import Reply, ScriptedApi, Turn, calls, say, use
from acceptance.conftest import NewClient
from acceptance.product import tool
from acceptance.test_run import Runs, code_agent
from commands import HYPERVISOR

MODEL = ("--model", "claude-sonnet-4-5")


@pytest.fixture
def runs(client: NewClient, git_project: Any, claude: str) -> Iterator[Runs]:
    made = Runs(client(cwd=git_project), git_project, claude)
    yield made
    made.close()


def typed(runs: Runs, *words: str) -> Any:
    done = subprocess.run(
        [*HYPERVISOR, *words], cwd=runs.project, env=runs.environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return json.loads(done.stdout) if "--json" in words else done.stdout


def test_an_answered_agent_goes_on_in_the_session_that_asked(api: ScriptedApi, runs: Runs) -> None:
    runs.add("t-01", "t-02")
    seen: list[str] = []

    def after_the_answer(turn: Turn) -> Reply:
        seen.append(json.dumps(turn.request["messages"]))
        return calls(
            use("Write", file_path=f"{turn.all_results[1].text}/src/t-01.txt", content="t-01, in blue")
        )

    api.main(
        calls(tool("claim_task", id="t-01", caller="claude"), use("Bash", command="pwd")),
        calls(tool("ask_user", id="t-01", question="Red or blue?", choices=["red", "blue"])),
        say("I asked."),
        after_the_answer,
        calls(use("Bash", command="git add src/t-01.txt")),
        calls(use("Bash", command="git commit -m 'Add t-01'")),
        calls(tool("complete_task", id="t-01", outcome="added t-01", evidence="git log")),
        say("Added."),
        when="Task t-01:",
    )
    api.main(*code_agent("t-02"), when="Task t-02:")
    code, out, err = runs.run("--all", "-j", "2", "--sandbox", "off", *MODEL)
    assert code == 1, out + err
    assert "1 task waits for an answer" in out
    (asked,) = typed(runs, "questions", "--json")
    assert (asked["task_id"], asked["choices"]) == ("t-01", ["red", "blue"])
    typed(runs, "answer", str(asked["question"]), "blue")
    code, out, err = runs.run("--resume", asked["batch"])
    assert code == 0, out + err
    (messages,) = seen
    assert "Task t-01:" in messages
    assert "Answer: blue" in messages
    assert (runs.project / "src/t-01.txt").read_text() == "t-01, in blue"
    assert {row["attempts"] for row in runs.summary["workers"]} == {1, 2}


def test_the_client_reviews_work_and_the_worker_changes_it_in_its_session(
    api: ScriptedApi, runs: Runs
) -> None:
    runs.add("t-01", review="true")

    def change(turn: Turn) -> Reply:
        assert "say please" in json.dumps(turn.request["messages"][-1])
        return calls(use("Bash", command="echo ', please' >> src/t-01.txt && git commit -am 'Say please'"))

    api.main(*code_agent("t-01"), change, say("Changed."), when="Task t-01:")
    api.main(
        lambda turn: say(
            "REVIEW: approve" if "+t-01, please" in turn.prompt else "REVIEW: changes: say please"
        ),
        when="You review the work",
    )
    code, out, err = runs.run(
        "--all", "--sandbox", "off", *MODEL, "--allow", "Bash(echo *)", "--allow", "Bash(git commit *)"
    )
    assert code == 0, out + err
    assert (runs.project / "src/t-01.txt").read_text() == "t-01, please\n"
    (row,) = runs.summary["workers"]
    assert row["evidence"]["review"] == ["changes: say please", "approve"]
