"""What holds for every runner of `RUNNERS`, with stand-ins for programs. See docs/adding-a-runner.md."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT, alive, eventually, gone, script, write_task
from hypervisor.core.model import Outcome, Report
from hypervisor.core.settings import default_settings
from hypervisor.runners.base import Agent, AgentEnd, Assignment, How, ItemWork, QueueRunner
from hypervisor.runners.registry import CLIENTS, RUNNERS, RunnerOptions

AGENTS = [name for name, kind in RUNNERS.items() if kind.agent]
QUEUE_RUNNERS = [name for name, kind in RUNNERS.items() if kind.queue_runner]

#: What the program of each agent prints when it has done its task; a new agent adds its own.
DONE: dict[str, list[Any]] = {
    "exec": ["did it"],
    "claude": [
        {"type": "system", "subtype": "init"},
        {
            "type": "result", "subtype": "success", "is_error": False, "num_turns": 1, "result": "did it",
            "total_cost_usd": 0.01, "terminal_reason": "completed",
            "modelUsage": {"m": {"inputTokens": 100, "outputTokens": 10}},
        },
    ],
    "acp": [
        {"jsonrpc": "2.0", "id": 0, "result": {"protocolVersion": 1}},
        {"jsonrpc": "2.0", "id": 1, "result": {"sessionId": "s"}},
        {"jsonrpc": "2.0", "method": "session/update", "params": {"sessionId": "s", "update": {
            "sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "did it"},
        }}},
        {"jsonrpc": "2.0", "id": 2, "result": {
            "stopReason": "end_turn", "usage": {"inputTokens": 100, "outputTokens": 10, "totalTokens": 110},
        }},
    ],
    "gemini": [
        {"type": "init"},
        {"type": "message", "role": "assistant", "content": "did it"},
        {"type": "result", "status": "success", "stats": {"input_tokens": 100, "total_tokens": 110}},
    ],
}  # fmt: skip


class Place:
    """A folder with a program that stands in for an agent's own."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.program = name if name in CLIENTS else "program"

    def agent(self) -> Agent:
        make = RUNNERS[self.name].agent
        assert make is not None
        return make(RunnerOptions(command=[self.program]))

    def run(self, shell: str | None = None, **more: Any) -> AgentEnd:
        """Run the agent, whose program is a shell script; None for no program at all."""
        if shell is not None:
            script(self.bin, self.program, shell)
        return self.agent().run(self.assignment(**more))

    def assignment(self, **more: Any) -> Assignment:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        made: dict[str, Any] = {
            "task_id": "t-1", "prompt": "Do it.", "cwd": str(self.folder),
            "log": str(self.folder / "logs/t-1"), "timeout": 60.0,
            "environment": {"PATH": f"{self.bin}:{os.defpath}", "HOME": str(home), "GIVEN": "1"},
            "mark": ("MARK_OF_A_TEST", f"{self.folder}-{time.monotonic_ns()}"),
        }  # fmt: skip
        return Assignment(**{**made, **more})

    def says_done(self) -> str:
        lines = [one if isinstance(one, str) else json.dumps(one) for one in DONE[self.name]]
        (self.folder / "said").write_text("\n".join(lines) + "\n")
        return f"cat '{self.folder}/said'"

    def pids(self, count: int) -> list[int]:
        """Wait for *count* pids that the program and its children have written down."""

        def told() -> list[int]:
            found = [int(path.name) for path in (self.folder / "pids").iterdir()]
            return found if len(found) == count else []

        return eventually(told, "the program runs")

    def sleeps(self) -> str:
        """Return a script that sleeps, and so does a child of it in the background."""
        pids = self.folder / "pids"
        pids.mkdir()
        return f"sleep 60 & : > '{pids}'/$!; : > '{pids}'/$$; wait"


@pytest.fixture(params=AGENTS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.param, tmp_path)


# -------------------------------------------------------------------- the dict


def test_every_runner_takes_items_or_tasks() -> None:
    assert all(kind.queue_runner or kind.agent for kind in RUNNERS.values())
    assert set(CLIENTS) <= set(AGENTS)
    assert set(DONE) == set(AGENTS), "a new agent says here what its program prints"


@pytest.mark.parametrize("name", RUNNERS)
def test_the_page_on_runners_names_every_runner(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs/adding-a-runner.md").read_text("utf-8")


# ---------------------------------------------------------------------- agents


def test_an_agent_says_what_it_may_do_in_one_line_and_names_prompts_that_exist(place: Place) -> None:
    agent = place.agent()
    assert agent.name == place.name
    assert agent.permissions
    assert "\n" not in agent.permissions
    assert agent.briefing
    assert all((ROOT / "prompts" / name).is_file() for name in agent.briefing)


def test_an_agent_that_came_to_its_end_says_its_last_word_and_what_it_used(place: Place) -> None:
    end = place.run(place.says_done())
    assert (end.how, end.text, end.exit) == (How.ENDED, "did it", 0)
    kind = RUNNERS[place.name]
    assert (end.tokens == 110) is kind.counts_tokens
    assert (end.cost_usd is not None) is kind.tells_cost
    assert b"did it" in (place.folder / "logs/t-1.out").read_bytes()


def test_an_agent_gets_its_prompt_on_standard_input_and_the_environment_that_it_is_given(
    place: Place,
) -> None:
    heard, given = place.folder / "heard", place.assignment()
    hears, says = f"cat > '{heard}'; env > '{heard}.env'", place.says_done()
    # One that answers as it is asked is told no more until it has.
    order = (says, hears) if place.name == "acp" else (hears, says)
    script(place.bin, place.program, "; ".join(order))
    assert place.agent().run(given).how is How.ENDED
    assert "Do it." in heard.read_text()
    environment = (place.folder / "heard.env").read_text().splitlines()
    assert "GIVEN=1" in environment
    assert "=".join(given.mark) in environment
    assert not [line for line in environment if line.startswith("PYTEST_CURRENT_TEST=")]


def test_a_missing_program_is_a_fault_of_the_machine(place: Place) -> None:
    end = place.run(None)
    assert end.how is How.MISSING
    assert end.how.of_machine
    assert end.exit is None


def test_a_missing_folder_is_a_fault_of_the_task_alone(place: Place) -> None:
    end = place.run(place.says_done(), cwd=str(place.folder / "nowhere"))
    assert end.how is How.FAILED
    assert "nowhere" in end.text


@pytest.mark.parametrize(
    "shell",
    [
        "echo oops >&2; exit 3",
        "printf '\\377\\376{'; exit 1",
        "echo '[]'; echo null; echo '{\"type\": 7}'; exit 9",
    ],
    ids=["no result", "bytes", "odd events"],
)
def test_a_program_that_fails_never_counts_as_ended(place: Place, shell: str) -> None:
    end = place.run(shell)
    assert end.how not in (How.ENDED, How.STOPPED, How.TIMEOUT)
    assert end.text
    assert "\n" not in end.text


def test_an_agent_that_is_stopped_before_its_start_is_not_started(place: Place) -> None:
    stopped = threading.Event()
    stopped.set()
    end = place.run(f": > '{place.folder}/begun'", stopped=stopped)
    assert end.how is How.STOPPED
    assert end.how.costs_no_attempt
    assert not (place.folder / "begun").exists()


@pytest.mark.slow
def test_an_agent_that_is_stopped_leaves_nothing_running(place: Place) -> None:
    stopped, ends = threading.Event(), list[AgentEnd]()
    shell = place.sleeps()
    thread = threading.Thread(target=lambda: ends.append(place.run(shell, stopped=stopped)))
    thread.start()
    pids = place.pids(2)
    stopped.set()
    thread.join(30)
    gone(*pids)
    assert ends[0].how is How.STOPPED


def test_an_agent_that_takes_too_long_is_ended_with_its_children(place: Place) -> None:
    end = place.run(place.sleeps(), timeout=1.0)
    assert end.how is How.TIMEOUT
    assert "1 s" in end.text
    gone(*place.pids(2))


def test_what_an_agent_leaves_running_is_ended_and_told(place: Place) -> None:
    pids = place.folder / "pids"
    pids.mkdir()
    end = place.run(f"sleep 60 >/dev/null 2>&1 & : > '{pids}'/$!; {place.says_done()}")
    assert end.how is How.ENDED
    (pid,) = place.pids(1)
    assert end.survivors == (pid,)
    assert not alive(pid)


def test_a_program_that_a_signal_ended_is_told_as_killed(place: Place) -> None:
    end = place.run("kill -9 $$")
    assert end.how is How.KILLED
    assert "9" in end.text


def test_nothing_of_a_run_stays_but_its_output(place: Place) -> None:
    place.run(place.says_done())
    assert [path.name for path in (place.folder / "logs").iterdir()] == ["t-1.out"]


# ----------------------------------------------------------------- queue items


@pytest.fixture(params=QUEUE_RUNNERS)
def runner(request: pytest.FixtureRequest) -> QueueRunner:
    make = RUNNERS[request.param].queue_runner
    assert make is not None
    settings = default_settings()
    return make(RunnerOptions(command=["cat"], settings_for=lambda _path: settings))


def work(folder: Path, name: str, **more: Any) -> ItemWork:
    (folder / "logs").mkdir(exist_ok=True)
    return ItemWork(
        item=name, path=str(folder / name), base=str(folder), log=str(folder / "logs/one"), **more
    )


def test_a_preview_changes_nothing_and_is_plain_data(runner: QueueRunner, tmp_path: Path) -> None:
    write_task(tmp_path / "t-1.md", id="t-1", title="Fix the typo", status="inbox")
    before = (tmp_path / "t-1.md").read_bytes()
    preview = runner.preview(work(tmp_path, "t-1.md"))
    assert json.loads(json.dumps(preview)) == preview
    assert (tmp_path / "t-1.md").read_bytes() == before


def test_an_item_that_was_done_is_reported_in_one_line_and_its_file_is_not_written(
    runner: QueueRunner, tmp_path: Path
) -> None:
    write_task(tmp_path / "t-1.md", id="t-1", title="Fix the typo", status="inbox")
    before = (tmp_path / "t-1.md").read_bytes()
    report = runner.run(work(tmp_path, "t-1.md"))
    assert report.status is Outcome.SUCCESS
    assert report.outcome
    assert "\n" not in report.outcome
    assert (tmp_path / "t-1.md").read_bytes() == before, "what changes is in the report"


@pytest.mark.parametrize(
    "name", ["missing.md", "a\0b", "x" * 300, "."], ids=["missing", "NUL", "long", "folder"]
)
def test_a_fault_of_the_item_is_a_report_and_no_exception(
    runner: QueueRunner, tmp_path: Path, name: str
) -> None:
    report = runner.run(work(tmp_path, name))
    assert isinstance(report, Report)
    assert report.status is Outcome.FAILED
    assert report.outcome
