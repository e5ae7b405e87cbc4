"""The runner `acp` with two real agents: the Gemini CLI, and Claude Code behind its adapter."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from acceptance.api import Step, calls, hang, say, use
from acceptance.client import find_client
from acceptance.gemini import GeminiClient
from acceptance.gemini_api import GeminiApi
from acceptance.test_gemini_run import Runs
from commands import eventually
from hypervisor.core.process import marked
from hypervisor.runners.acp import AcpAgent
from hypervisor.runners.base import AgentEnd, Assignment, How

NAMES = [f"t-{number}" for number in range(1, 9)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One of the agents: how it is started, and how its model calls tools."""

    name: str
    command: list[str]
    write: str
    shell: str

    def config(self) -> str:
        words = ", ".join(f'"{word}"' for word in self.command)
        variables = '["ANTHROPIC_*", "CLAUDE_*", "GEMINI_*", "GOOGLE_*"]'
        return f"[runners.{self.name}]\ncommand = [{words}]\n[sandbox]\nenvironment = {variables}\n"


@pytest.fixture(scope="session")
def adapter() -> str | None:
    """Return the path of the adapter, looked for before each test gets a HOME of its own."""
    return find_client("claude-acp")


@pytest.fixture(params=["gemini-acp", "claude-acp"])
def agent(request: pytest.FixtureRequest, gemini_user: GeminiClient, adapter: str | None) -> Agent:
    if request.param == "gemini-acp":
        command = [gemini_user.path, "--acp", "--model", "gemini-2.5-flash"]
        return Agent(name="gemini-acp", command=command, write="write_file", shell="run_shell_command")
    path = adapter
    if path is None:
        why = "no adapter for Claude Code here; type: tests/acceptance/install claude-acp"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return Agent(name="claude-acp", command=[path], write="mcp__acp__Write", shell="Bash")


@pytest.fixture
def runs(agent: Agent, gemini_user: GeminiClient, both_apis: GeminiApi) -> Runs:
    made = Runs(gemini_user, node=str(shutil.which("node")))
    made.configure(agent.config())
    made.environment |= variables(both_apis)
    return made


def variables(api: GeminiApi) -> dict[str, str]:
    return {
        "ANTHROPIC_BASE_URL": api.url, "ANTHROPIC_API_KEY": "of-no-worth",
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }  # fmt: skip


def writes(agent: Agent, runs: Runs, name: str, path: str = "") -> Step:
    """Return the step in which the model writes a file of its folder."""

    def step(_: object) -> object:
        (folder,) = (runs.project / ".hypervisor/worktrees").glob(f"*/{name}-1")
        return calls(use(agent.write, file_path=f"{folder}/{path or f'src/{name}.txt'}", content=f"{name}\n"))

    return step  # type: ignore[return-value]  # a step is called with its turn, which it has no use for


def test_eight_tasks_are_done_verified_and_merged(agent: Agent, runs: Runs, both_apis: GeminiApi) -> None:
    runs.add(*NAMES)
    for name in NAMES:
        both_apis.main(writes(agent, runs, name), say(f"Wrote {name}."), when=f"Task {name}:")
    code, out, err = runs.hypervisor("run", "--all", "--agent", agent.name, "-j", "2")
    assert code == 0, out + err
    assert "8 queued = 8 success" in out
    assert sorted(path.stem for path in (runs.project / "src").iterdir()) == NAMES
    assert runs.tasks.status("t-1") == "done"
    assert runs.row("t-1")["runner"] == agent.name


def test_what_an_agent_asks_for_beyond_its_task_is_denied_and_told(
    agent: Agent, runs: Runs, both_apis: GeminiApi
) -> None:
    runs.add("t-1", "t-2")
    command = "touch src/made-by-a-command.txt"
    both_apis.main(writes(agent, runs, "t-1", "src/other.txt"), writes(agent, runs, "t-1"), say("Done."),
                   when="Task t-1:")  # fmt: skip
    both_apis.main(calls(use(agent.shell, command=command, description="make it")), say("I may not."),
                   when="Task t-2:")  # fmt: skip
    code, out, err = runs.hypervisor("run", "--all", "--agent", agent.name)
    assert code == 1, out + err
    one, other = runs.row("t-1"), runs.row("t-2")
    assert "src/other.txt: outside of the task's files" in one["evidence"]["denied"]
    assert other["evidence"]["denied"] == [f"command: {command}"]
    # One goes on after a denial, the other ends its turn with it.
    assert one["status"] == ("success" if agent.name == "gemini-acp" else "failed")
    assert other["status"] == "failed"
    assert not list(runs.project.rglob("made-by-a-command.txt"))
    assert not list(runs.project.rglob("other.txt"))


def test_a_cancelled_agent_ends_at_once_and_leaves_nothing_running(
    agent: Agent, runs: Runs, both_apis: GeminiApi, tmp_path: Path
) -> None:
    both_apis.main(hang(), when="do it")
    stopped, ends = threading.Event(), list[AgentEnd]()
    mark = ("MARK_OF_A_TEST", str(tmp_path))
    assignment = Assignment(
        task_id="t-1", prompt="do it", cwd=str(runs.project), log=str(tmp_path / "logs/t-1"),
        environment=runs.environment, mark=mark, timeout=120.0, stopped=stopped,
    )  # fmt: skip
    thread = threading.Thread(target=lambda: ends.append(AcpAgent(command=agent.command).run(assignment)))
    thread.start()
    asked: Callable[[], bool] = lambda: bool(both_apis.mains)  # noqa: E731 - its type is told
    eventually(asked, "the model is asked", seconds=60)
    stopped.set()
    thread.join(30)
    assert ends[0].how is How.STOPPED
    assert marked(*mark) == []
