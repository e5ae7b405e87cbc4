"""The harness keeps its word with the real client: scripts, sessions, events, and nothing left behind."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

from acceptance.api import Reply, ScriptedApi, Use, calls, fail, hang, say, use, wait_for
from acceptance.conftest import NewClient
from acceptance.toy import AGENT, ECHO, told, write_toy
from commands import eventually, gone


def _agent(prompt: str, **more: object) -> Use:
    return use("Agent", prompt=prompt, subagent_type=AGENT, description="d", **more)


def test_a_session_ends_with_what_the_model_says(api: ScriptedApi, client: NewClient) -> None:
    api.main(say("Hello there."))
    session = client().run("Greet me").passed()
    assert session.text == "Hello there."
    assert api.of("Greet me").prompt == "Greet me"
    assert api.unwalked == []


def test_the_client_counts_the_usage_that_the_api_served(api: ScriptedApi, client: NewClient) -> None:
    api.main(calls(use("Bash", command="echo one")), say("done"))
    session = client().run("go").passed()
    (usage,) = session.result["modelUsage"].values()
    assert (usage["inputTokens"], usage["outputTokens"]) == api.served[1:] == (200, 20)
    assert api.served.answers == 2


def test_a_result_of_a_tool_reaches_the_next_turn(
    api: ScriptedApi, client: NewClient, tmp_path: Path
) -> None:
    hook_file = tmp_path / "hook"
    toy = write_toy(tmp_path, hook_file)
    api.main(
        calls(use("Bash", command="echo one"), use("Bash", command="ls /nowhere"), text="Looking."),
        lambda turn: say(f"{turn.results[0].text} {turn.results[0].is_error} {turn.results[1].is_error}"),
    )
    session = client(plugins=[toy]).run("/toy:greet Ann").passed()
    assert session.text == "one False True"
    assert api.of("Greet Ann warmly.").tool_result(0).name == "Bash"
    assert [one["tool_input"] for one in told(hook_file)] == [{"command": "echo one"}]


def test_the_results_of_all_turns_can_be_asked_for_by_name(api: ScriptedApi, client: NewClient) -> None:
    path = "README.md"
    api.main(calls(use("Bash", command="echo one")), calls(use("Read", file_path=path)), say("done"))
    client().run("go").passed()
    talk = api.of("go")
    assert talk.tool_result("Bash").text == "one"
    assert talk.tool_result("Read").is_error
    assert [one.name for one in talk.results] == ["Bash", "Read"]
    with pytest.raises(AssertionError, match="0 results of 'Edit'"):
        talk.tool_result("Edit")


def _report(text: str) -> str:
    """Return the first line of a subagent's report, which newer clients frame and indent."""
    return (
        text.partition("The report follows:")[2].strip().splitlines()[0]
        if "hand-back" in text
        else (text.splitlines()[0])
    )


def test_subagents_walk_their_own_scripts(api: ScriptedApi, client: NewClient, tmp_path: Path) -> None:
    toy = write_toy(tmp_path, tmp_path / "hook")
    api.main(
        calls(*(_agent(f"Work {n} now", run_in_background=False) for n in (1, 10))),
        lambda turn: say(" / ".join(_report(result.text) for result in turn.results)),
    )
    ended = threading.Event()
    # The first of the two ends last, and still its result comes first.
    api.agent("Work 1", calls(use("Bash", command="echo one")), wait_for(ended, say("one")))
    api.agent("Work 10", lambda turn: say(f"ten: {'You are the toy worker.' in turn.system}"))
    running = client(plugins=[toy]).start("go")
    running.until(lambda event: event["type"] == "user" and "ten: True" in json.dumps(event["message"]))
    ended.set()
    session = running.wait().passed()
    assert session.text == "one / ten: True"  # in the order of the calls
    result = api.of("Work 1 ").tool_result("Bash")
    assert result.text == "one"
    assert "<system-reminder>" in result.told  # else this does not show that `text` is without
    assert len({talk.agent for talk in api.agents}) == 2
    assert [talk.session for talk in api.agents] == [api.mains[0].session] * 2
    assert api.unwalked == []


def test_a_background_agent_wakes_the_main_thread(
    api: ScriptedApi, client: NewClient, tmp_path: Path
) -> None:
    toy = write_toy(tmp_path, tmp_path / "hook")
    idle = threading.Event()
    api.main(
        calls(_agent("work", run_in_background=True)),
        lambda turn: say("waiting"),
        lambda turn: say(f"woken: {'<result>worked</result>' in turn.last_text}"),
    )
    api.agent("work", wait_for(idle, say("worked")))
    running = client(plugins=[toy]).start("go")
    running.until(lambda event: event["type"] == "assistant" and "waiting" in json.dumps(event["message"]))
    idle.set()
    session = running.wait().passed()
    assert session.text == "woken: True"
    assert [one["status"] for one in session.notifications] == ["completed"]
    assert api.unwalked == []


def test_an_mcp_tool_runs_if_it_is_allowed(
    api: ScriptedApi, client: NewClient, tmp_path: Path, tool_search: bool
) -> None:
    toy = write_toy(tmp_path, tmp_path / "hook", always_load=True)
    api.main(calls(use(ECHO, word="hi")), lambda turn: say(turn.results[0].json["word"]))
    user = client(plugins=[toy], tool_search=tool_search)
    session = user.run("go", "--allowedTools", "mcp__plugin_toy_srv").passed()
    assert session.text == "hi"
    assert session.denials == []
    offered = api.of("go").turns[0].tools
    assert ECHO in offered
    assert "ToolSearch" in offered or not tool_search


def test_an_mcp_tool_is_denied_if_nobody_allowed_it(
    api: ScriptedApi, client: NewClient, tmp_path: Path
) -> None:
    toy = write_toy(tmp_path, tmp_path / "hook")
    api.main(calls(use(ECHO, word="hi")), lambda turn: say(f"denied: {turn.results[0].is_error}"))
    session = client(plugins=[toy]).run("go").passed()
    assert session.text == "denied: True"
    assert [one["tool_name"] for one in session.denials] == [ECHO]


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_an_error_of_the_api_ends_the_session_without_a_retry(
    api: ScriptedApi, client: NewClient, status: int
) -> None:
    api.main(fail(status, "api_error", "scripted trouble"))
    session = client().run("go")
    assert session.code == 1
    assert session.result["is_error"]
    assert session.result["api_error_status"] == status
    assert "scripted trouble" in session.text
    assert len(api.of("go").requests) == 1
    with pytest.raises(AssertionError):
        session.passed()


def test_the_client_retries_an_error_if_it_is_told_to(api: ScriptedApi, client: NewClient) -> None:
    api.main(fail(500, "api_error", "again", retry=True), say("better"))
    assert client().run("go").passed().text == "better"


def test_two_sessions_walk_their_own_scripts(api: ScriptedApi, client: NewClient) -> None:
    both = threading.Barrier(2, timeout=60)

    def together(word: str) -> Reply:
        both.wait()
        return calls(use("Bash", command=f"echo {word}"))

    api.main(lambda turn: together("a"), lambda turn: say(turn.results[0].text), when="task A")
    api.main(lambda turn: together("b"), lambda turn: say(turn.results[0].text), when="task B")
    user = client()
    first, second = user.start("do task A"), user.start("do task B")
    assert [first.wait().passed().text, second.wait().passed().text] == ["a", "b"]
    assert api.of("task A").session != api.of("task B").session


def test_each_session_walks_a_copy_of_one_script(api: ScriptedApi, client: NewClient) -> None:
    api.main(calls(use("Bash", command="echo one")), lambda turn: say(f"turn {turn.number}"))
    user = client()
    assert [user.run("go").passed().text for _ in range(2)] == ["turn 1", "turn 1"]
    assert len(api.mains) == 2


def test_a_script_that_runs_out_is_a_surprise(api: ScriptedApi, client: NewClient) -> None:
    api.main(calls(use("Bash", command="echo one")))
    session = client().run("go")
    assert session.text == "(end of script)"
    (surprise,) = api.take_surprises()
    assert "end of script: main thread" in surprise


def test_a_prompt_without_a_script_is_a_surprise(api: ScriptedApi, client: NewClient) -> None:
    api.main(say("never"), when="something else")
    assert client().run("go").text == "(no script)"
    (surprise,) = api.take_surprises()
    assert "no script: main thread" in surprise
    assert api.unwalked == ["something else"]


def test_a_bug_in_a_script_is_a_surprise_and_ends_the_session(api: ScriptedApi, client: NewClient) -> None:
    api.main(lambda turn: say(turn.results[7].text))
    session = client().run("go")
    assert session.code == 1
    (surprise,) = api.take_surprises()
    assert "IndexError" in surprise


def test_a_wait_in_vain_is_a_surprise_and_ends_the_session(api: ScriptedApi, client: NewClient) -> None:
    api.main(wait_for(lambda: False, say("never"), seconds=0.1))
    assert client().run("go").code == 1
    (surprise,) = api.take_surprises()
    assert "waited 0.1 s in vain" in surprise


def test_an_answer_waits_until_its_condition_holds(api: ScriptedApi, client: NewClient) -> None:
    looks = itertools.count()
    api.main(wait_for(lambda: next(looks) == 3, say("at last")))
    assert client().run("go").passed().text == "at last"
    assert next(looks) == 4


def test_a_dropped_connection_takes_the_next_turn(api: ScriptedApi, client: NewClient) -> None:
    drop = threading.Event()
    drop.set()
    api.main(hang(drop), say("there again"))
    assert client().run("go").passed().text == "there again"
    assert api.served.answers == 1


def test_nothing_is_left_of_a_client_that_was_killed(
    api: ScriptedApi, client: NewClient, tmp_path: Path
) -> None:
    toy = write_toy(tmp_path, tmp_path / "hook")
    pid_file = tmp_path / "pid"
    # The command writes its pid under a new name first, so that a file that is there is complete.
    command = f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 1000"
    api.main(calls(use(ECHO, word="hi")), calls(use("Bash", command=command)))
    running = client(plugins=[toy]).start("go", "--dangerously-skip-permissions")
    eventually(pid_file.exists, "the command that the client runs", seconds=60)
    sleeper, server = int(pid_file.read_text()), api.of("go").tool_result(ECHO).json["pid"]
    # A process that is just becoming another program has no environment for a moment.
    all_three = {running.pid, sleeper, server}
    eventually(lambda: all_three <= set(running.processes), "the client and its children")
    running.kill()
    assert running.process.returncode == -9
    # The case that ending only the client would leave:
    eventually(lambda: sleeper in running.processes, "the command")
    running.close()
    gone(running.pid, sleeper, server)
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)


def test_a_client_that_hangs_is_ended_in_time(api: ScriptedApi, client: NewClient) -> None:
    api.main(hang())
    user = client()
    running = user.start("go")
    eventually(lambda: api.conversations, "the request", seconds=60)
    with pytest.raises(AssertionError, match=r"the client ran for 0\.1 s"):
        running.wait(0.1)
    running.close()
    gone(running.pid)


def test_the_client_finds_nothing_of_the_users_environment(
    api: ScriptedApi, client: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_USER", "1")
    api.main(
        calls(use("Bash", command='echo "${OF_THE_USER-none} $HOME"; command -v git uv | wc -l')),
        lambda turn: say(turn.results[0].text),
    )
    user = client()
    found, tools = user.run("go", "--dangerously-skip-permissions").passed().text.splitlines()
    assert found == f"none {user.home}"
    assert tools.strip() == "2"


def test_the_verbs_of_the_client_run(api: ScriptedApi, client: NewClient, tmp_path: Path) -> None:
    toy = write_toy(tmp_path, tmp_path / "hook")
    user = client()
    assert "Validation passed" in user.command("plugin", "validate", str(toy)).passed().out
    (toy / "hooks/hooks.json").write_text("{", "utf-8")
    assert user.command("plugin", "validate", str(toy)).code == 1


def test_a_project_is_a_clean_repository(git_project: Path) -> None:
    words = ["git", "-C", str(git_project), "log", "--oneline"]
    assert len(subprocess.run(words, capture_output=True, check=True).stdout.splitlines()) == 1
    with contextlib.chdir(git_project):
        assert subprocess.run(["git", "status", "-s"], capture_output=True, check=True).stdout == b""
