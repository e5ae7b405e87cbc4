"""The agent that is Claude Code, with the real client in front of a scripted API."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acceptance import api as scripted
from acceptance.api import ScriptedApi, Step, calls, fail, hang, say, use
from acceptance.client import MODEL, Client
from acceptance.conftest import NewClient
from commands import eventually, gone
from hypervisor.core.process import marked
from hypervisor.runners.base import AgentEnd, Assignment, How
from hypervisor.runners.claude import ClaudeAgent, child_environment

Run = Callable[..., AgentEnd]
#: What the service sends with a request that the user's plan rejects, beside the time of the reset.
REJECTED = {
    "anthropic-ratelimit-unified-status": "rejected",
    "anthropic-ratelimit-unified-representative-claim": "five_hour",
}
#: The client heeds these headers only where the login is a plan's, not where it is a key.
BY_PLAN = {"ANTHROPIC_API_KEY": "", "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-of-no-worth"}


@pytest.fixture
def run(client: NewClient, tmp_path: Path) -> Run:
    """Give a function that runs an agent on a prompt; afterwards nothing of it is left."""
    user: Client = client()

    def start(prompt: str = "do it", *, env: dict[str, str] | None = None, **more: Any) -> AgentEnd:
        of_agent = {"max_turns", "max_budget_usd", "skip_permissions", "extra_flags"} & more.keys()
        agent = ClaudeAgent(program=user.path, model=MODEL, **{key: more.pop(key) for key in of_agent})
        mark = ("MARK_OF_A_TEST", str(tmp_path))
        made: dict[str, Any] = {
            "task_id": "t-1",
            "prompt": prompt,
            "cwd": str(user.cwd),
            "log": str(tmp_path / "logs/t-1"),
            "environment": child_environment(user.environment, env or {}),
            "mark": mark,
            "timeout": 120.0,
        }
        end = agent.run(Assignment(**{**made, **more}))
        assert marked(*mark) == []
        return end

    return start


def test_a_success_and_all_that_it_cost(run: Run, api: ScriptedApi) -> None:
    worker = use(
        "Agent", description="d", prompt="help", subagent_type="general-purpose", run_in_background=False
    )
    touch = use("Write", file_path="made.txt", content="x")
    api.main(calls(worker), calls(touch), say("first line\nall done"), when="do it")
    api.agent("help", calls(use("Bash", command="true")), say("helped"))
    end = run()
    assert (end.how, end.text, end.exit) == (How.ENDED, "all done", 0)
    assert (end.input_tokens, end.output_tokens) == api.served[1:] == (500, 50)
    assert end.tokens == 550
    assert end.cost_usd == pytest.approx(500 * 3e-6 + 50 * 15e-6)  # the model's price
    assert (end.survivors, end.denials, end.turns) == ((), (), 3)


@pytest.mark.parametrize(
    ("steps", "how", "text"),
    [
        ([fail(400)], How.API_ERROR, "API Error: 400 scripted"),
        ([fail(429, "rate_limit_error")], How.RATE_LIMIT, "API Error: Request rejected (429) · scripted"),
        ([fail(529, "overloaded_error", "Overloaded")] * 2, How.OVERLOAD, "API Error: 529 Overloaded."),
        ([fail(401, "authentication_error", "invalid x-api-key")], How.LOGGED_OUT, "Invalid API key"),
        ([fail(401, "authentication_error")], How.LOGGED_OUT, "Failed to authenticate. API Error: 401"),
        ([fail(400, message="Your credit balance is too low")], How.USAGE_LIMIT, "Credit balance is too low"),
    ],
    ids=["400", "429", "529", "401 of a key", "401", "no money"],
)
def test_an_error_of_the_service(steps: list[Step], how: How, text: str, run: Run, api: ScriptedApi) -> None:
    api.main(*steps)
    end = run()
    assert (end.how, end.exit, end.tokens, end.cost_usd) == (how, 1, 0, 0)
    assert end.text.startswith(text)


def test_no_login_at_all(run: Run, api: ScriptedApi) -> None:
    end = run(env={"ANTHROPIC_API_KEY": ""})
    assert (end.how, end.text) == (How.LOGGED_OUT, "Not logged in · Please run /login")
    assert api.conversations == []


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
@pytest.mark.parametrize("hours", [3, 72])
def test_a_plan_s_limit_and_when_it_ends(zone: str, hours: int, run: Run, api: ScriptedApi) -> None:
    reset = int(time.time()) + hours * 3600

    class Handler(scripted.Handler):
        def send_response(self, code: int, message: str | None = None) -> None:
            super().send_response(code, message)
            if code == 429:
                for name, value in {**REJECTED, "anthropic-ratelimit-unified-reset": str(reset)}.items():
                    self.send_header(name, value)

    api._server.RequestHandlerClass = Handler
    api.main(fail(429, "rate_limit_error"))
    end = run(env={**BY_PLAN, "TZ": zone})
    assert (end.how, end.until) == (How.USAGE_LIMIT, reset)
    assert end.text.startswith("You've hit your 5-hour limit · resets ")
    assert zone in end.text


def test_turns_and_money_run_out(run: Run, api: ScriptedApi) -> None:
    api.main(*[calls(use("Bash", command="true"))] * 2, when="turns")
    api.main(calls(use("Bash", command="true")), when="money")
    end = run("turns", max_turns=2)
    assert (end.how, end.text) == (How.TURN_LIMIT, "Reached maximum number of turns (2)")
    end = run("money", max_budget_usd=0.0001)
    assert (end.how, end.text, end.tokens) == (How.BUDGET, "Reached maximum budget ($0.0001)", 110)


def test_an_unknown_command(run: Run, api: ScriptedApi) -> None:
    """A task's text is no command: the client hands it to the model as it stands."""
    api.main(say("read"), when="/nonsense x")
    end = run("/nonsense x")
    assert (end.how, end.text, end.exit) == (How.ENDED, "read", 0)


def test_a_wrong_flag(run: Run) -> None:
    end = run(extra_flags=["--no-such-flag"])
    assert (end.how, end.exit, end.tokens) == (How.FAILED, 1, None)
    assert "--no-such-flag" in end.text


def test_permission_is_refused_and_given(run: Run, api: ScriptedApi, tmp_path: Path) -> None:
    touch = calls(use("Bash", command="chmod 600 x"), use("Bash", command="git add nothing-here"))
    for when in ("first", "second", "third"):
        api.main(touch, say("so it is"), when=when)
    end = run("first")
    assert (end.how, end.denials) == (How.REFUSED, ("Bash chmod 600 x",))
    assert run("second", allowed=["Bash(chmod *)"]).denials == ()
    assert run("third", skip_permissions=True).how is How.ENDED


def test_what_a_client_leaves_behind_is_named_and_ended(run: Run, api: ScriptedApi) -> None:
    leave = "setsid sh -c 'echo $$ > pid; sleep 600' >/dev/null 2>&1 & sleep 1; cat pid"
    pids: list[int] = []

    def last(turn: scripted.Turn) -> scripted.Reply:
        pids.append(int(turn.results[0].text))
        return say("done")

    api.main(calls(use("Bash", command=leave)), last)
    end = run(skip_permissions=True)
    assert (end.how, end.text) == (How.ENDED, "done")
    assert set(pids) <= set(end.survivors)
    gone(*pids)


@pytest.mark.parametrize("why", [How.TIMEOUT, How.STOPPED])
def test_a_hanging_client_is_ended_with_all_it_started(why: How, run: Run, api: ScriptedApi) -> None:
    stopped = threading.Event()
    left = "setsid sh -c 'trap \"\" TERM; echo $$ > pid; sleep 600' >/dev/null 2>&1 & sleep 1; cat pid"
    pids: list[int] = []

    def held(turn: scripted.Turn) -> scripted.Reply:
        pids.append(int(turn.results[0].text))
        if why is How.STOPPED:
            stopped.set()
        return hang()

    api.main(calls(use("Bash", command=left)), held)
    timeout = 8.0 if why is How.TIMEOUT else None
    end = run(skip_permissions=True, stopped=stopped, timeout=timeout)
    assert (end.how, end.text) == (why, "timed out after 8 s" if timeout else "stopped")
    assert eventually(lambda: pids, "the process that it started")
    gone(*pids)
