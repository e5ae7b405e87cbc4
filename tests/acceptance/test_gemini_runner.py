"""The agent that is the Gemini CLI, with the real client in front of a scripted API: each of its traps."""

from __future__ import annotations

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from acceptance.api import Step, calls, fail, hang, say, use
from acceptance.gemini import MODEL, GeminiClient, said
from acceptance.gemini_api import GEMINI_PREFIX, GeminiApi, Stream, gemini_tool
from commands import ROOT, eventually, gone, tree
from hypervisor.core.process import marked
from hypervisor.runners.base import AgentEnd, Assignment, How
from hypervisor.runners.gemini import GeminiAgent

READ = use("read_file", file_path="README.md")
#: Each way in which a run can go wrong while the client says exit 0, or goes on for ever.
TRAPS: dict[str, tuple[Step, ...]] = {
    "429 for ever": (fail(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),)
    * 20,
    "no room": (fail(503, "UNAVAILABLE", "The model is overloaded. Please try again later."),) * 20,
    "loop": (calls(READ),) * 12,
    "empty stream": (Stream(),) * 8,
    "malformed call": (Stream({"finishReason": "MALFORMED_FUNCTION_CALL", "index": 0}),) * 8,
    "blocked for safety": (Stream({"finishReason": "SAFETY", "index": 0}),) * 8,
    "cut short": (
        Stream(
            {
                "content": {"role": "model", "parts": [{"text": "COMPLETED x: wrote the fi"}]},
                "finishReason": "MAX_TOKENS",
                "index": 0,
            }
        ),
    ),
    "says nothing": (calls(gemini_tool("get_index_stats")), say("")),
    "wrong key": (fail(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),) * 3,
    "works": (calls(gemini_tool("get_index_stats", wait_for_previous=True)), say("COMPLETED x: it")),
    "dead server": (say("COMPLETED x: all of it"),),
}


@pytest.fixture(scope="module")
def trapped(
    gemini: str, uv_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[AgentEnd, int]]:
    """Run every trap, the slow ones first; give how each ended, and how many requests it has cost."""
    found: dict[str, tuple[AgentEnd, int]] = {}

    def walk(name: str) -> None:
        folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
        (folder / "here").mkdir()
        (folder / "here/README.md").write_text("# A project\n", "utf-8")
        with GeminiApi() as api:
            api.main(*TRAPS[name])
            user = GeminiClient(gemini, api, folder / "home", folder / "here", uv_environment)
            plugin = folder / "nowhere" if name == "dead server" else ROOT
            found[name] = run(user, folder, plugin=plugin), len(api.bodies)
            api.take_surprises()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(walk, TRAPS))
    return found


def run(user: GeminiClient, folder: Path, *, plugin: Path = ROOT, **more: Any) -> AgentEnd:
    """Run the agent on a prompt, in a folder that nobody has trusted."""
    flags = {key: more.pop(key) for key in ("skip_permissions",) if key in more}
    agent = GeminiAgent(program=user.path, plugin=str(plugin), model=MODEL, **flags)
    made: dict[str, Any] = {
        "task_id": "t-1", "prompt": "do it", "cwd": str(user.cwd), "log": str(folder / "logs/t-1"),
        "environment": user.environment, "mark": ("MARK_OF_A_TEST", str(folder)), "timeout": 120.0,
    }  # fmt: skip
    return agent.run(Assignment(**{**made, **more}))


@pytest.mark.parametrize(
    ("name", "how", "word"),
    [
        ("loop", How.FAILED, "Loop detected"),
        ("empty stream", How.API_ERROR, "finish reason"),
        ("malformed call", How.API_ERROR, "malformed function call"),
        ("blocked for safety", How.FAILED, "safety"),
        ("says nothing", How.EMPTY, "said nothing"),
        ("429 for ever", How.RATE_LIMIT, "exhausted"),
        ("no room", How.OVERLOAD, "overloaded"),
        ("wrong key", How.LOGGED_OUT, "API key not valid"),
        ("dead server", How.FAILED, "its server did not start"),
        ("works", How.ENDED, "COMPLETED x: it"),
        # The one of which the client says nothing at all: what was done, or not, is told by evidence alone.
        ("cut short", How.ENDED, "COMPLETED x: wrote the fi"),
    ],
)
def test_how_a_run_ended_is_told_whatever_its_exit_code_says(
    trapped: dict[str, tuple[AgentEnd, int]], name: str, how: How, word: str
) -> None:
    end, requests = trapped[name]
    assert end.how is how, end
    assert word in end.text
    assert requests <= 12


def test_exit_0_is_what_the_client_says_of_most_of_them(trapped: dict[str, tuple[AgentEnd, int]]) -> None:
    # The reason for all of this: a runner that asks for the code alone believes them.
    zero = {name for name, (end, _) in trapped.items() if end.exit == 0}
    assert zero >= {
        "loop",
        "empty stream",
        "malformed call",
        "blocked for safety",
        "dead server",
        "cut short",
        "works",
    }


def test_requests_are_repeated_a_few_times_only(trapped: dict[str, tuple[AgentEnd, int]]) -> None:
    assert trapped["429 for ever"][1] <= 3
    assert trapped["no room"][1] <= 3
    assert trapped["wrong key"][1] == 1


def test_tokens_are_those_that_the_service_counted(trapped: dict[str, tuple[AgentEnd, int]]) -> None:
    end, requests = trapped["works"]
    assert (end.input_tokens, end.output_tokens, end.cost_usd) == (100 * requests, 10 * requests, None)


def test_an_untrusted_folder_stops_the_bare_client_and_not_the_runner(
    gemini_user: GeminiClient, both_apis: GeminiApi, tmp_path: Path
) -> None:
    bare = gemini_user.ask("do it")
    assert bare.code == 55  # of which the docs of the client say nothing
    users = gemini_user.home / ".gemini"
    before = tree(users)
    seen: list[str] = []

    def look(turn: Any) -> Any:
        seen.extend(one.text for one in turn.results)
        return say("Looked.")

    env = use("run_shell_command", command="env")
    both_apis.main(calls(env), look, when="do it")
    end = run(gemini_user, tmp_path, skip_permissions=True)
    assert end.how is How.ENDED, end
    assert tree(users) == before, "the user's own folder was written to"
    assert not list((tmp_path / "logs").glob("*.home")), "the home of the run is left"
    assert "GEMINI_API_KEY" not in seen[0]
    assert gemini_user.api.url in seen[0]


def test_a_signal_that_the_client_takes_for_success_is_told(
    gemini_user: GeminiClient, both_apis: GeminiApi, tmp_path: Path
) -> None:
    both_apis.main(hang())
    mark = ("MARK_OF_A_TEST", str(tmp_path))
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(run, gemini_user, tmp_path)
        eventually(lambda: both_apis.bodies, "a request", seconds=60)
        for one in _clients(mark):
            one.send_signal(signal.SIGTERM)
        end = ending.result(60)
    assert (end.how, end.exit) == (How.KILLED, 0)


def test_a_timeout_ends_all_that_was_started(
    gemini_user: GeminiClient, both_apis: GeminiApi, tmp_path: Path
) -> None:
    mark = ("MARK_OF_A_TEST", str(tmp_path))
    begun = tmp_path / "begun"
    sleeps = use("run_shell_command", command=f"sleep 300 & echo $! > {begun}; sleep 300")
    both_apis.main(calls(sleeps))
    stopped = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(run, gemini_user, tmp_path, skip_permissions=True, stopped=stopped)
        eventually(begun.exists, "the command to run", seconds=90)
        there = [one.pid for one in marked(*mark)]
        assert len(there) >= 4, "client, server, shell and sleep"
        stopped.set()
        end = ending.result(60)
    assert end.how is How.STOPPED
    gone(*there)


def _clients(mark: tuple[str, str]) -> list[psutil.Process]:
    return [one for one in marked(*mark) if "gemini" in " ".join(one.cmdline()[:3])]


def test_what_the_run_may_do_is_narrow_unless_asked_otherwise(
    gemini_user: GeminiClient, both_apis: GeminiApi, tmp_path: Path
) -> None:
    told: dict[str, tuple[bool, str]] = {}

    def look(turn: Any) -> Any:
        for one in turn.results:
            told[str(one.arguments.get("command") or one.arguments.get("url"))] = one.is_error, one.text
        return say("Looked.")

    script = f"sh {tmp_path}/logs/t-1.home/verify"
    shell = [
        use("run_shell_command", command=c)
        for c in (script, "ls", "npm test -- x", "git push", "bash -c 'git push'")
    ]
    both_apis.main(calls(*shell, use("web_fetch", prompt="x", url="http://127.0.0.1:9/")), look, when="do it")
    end = run(
        gemini_user, tmp_path, verify="test -f README.md && echo fine | cat",
        allowed=("run_shell_command(npm test)",),
    )  # fmt: skip
    assert end.how is How.ENDED, end
    assert told[script][0] is False
    assert "fine" in told[script][1]
    assert told["ls"][0]
    assert "denied by policy" not in told["npm test -- x"][1]
    assert "No git" in told["git push"][1]
    assert told["bash -c 'git push'"][0]
    assert told["http://127.0.0.1:9/"][0]
    assert len(end.denials) >= 2


def test_a_prompt_at_the_at_sign_is_silently_not_read(
    gemini_user: GeminiClient, both_apis: GeminiApi, tmp_path: Path
) -> None:
    # The reason why the runner sends the prompt on standard input, and why the extension says it again.
    both_apis.main(say("What?"))
    trust = {"GEMINI_CLI_TRUST_WORKSPACE": "true"}
    ended = gemini_user.ask("@prompts/gemini-task-worker.md Claim one task", env=trust)
    assert ended.code == 0
    assert said(ended) == []
    assert "You are a worker" not in json.dumps(both_apis.bodies)
    assert GEMINI_PREFIX not in json.dumps(both_apis.bodies)
