"""`hypervisor wait` in a session: what it prints counts as handed over once the transcript shows it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Running, Shell, eventually, shell, write_task
from hookclient import BLOCKED, cancel, finish, hold, open_store
from hypervisor.core.project import Project
from talkingclient import TalkingClient


@pytest.fixture
def client(project: Project, tmp_path: Path) -> TalkingClient:
    return TalkingClient(project, tmp_path / "transcript.jsonl")


@pytest.fixture
def user(project: Project, tmp_path: Path) -> Iterator[Shell]:
    """A shell of the session."""
    with shell(tmp_path) as made:
        made.cwd = project.root
        made.extra["CLAUDE_CODE_SESSION_ID"] = "s-1"
        yield made


def sleeps(running: Running) -> bool:
    """Return whether a command waits already: it has looked once."""
    try:
        where = Path(f"/proc/{running.pid}/wchan").read_text()
    except OSError:
        time.sleep(1.0)
        return True
    return "sleep" in where


@pytest.mark.slow
def test_wait_wakes_with_what_the_session_was_not_told_and_it_is_told_once(
    project: Project, client: TalkingClient, user: Shell
) -> None:
    hold(project, "t-1", "a1")
    hold(project, "t-2", "a2")
    client.tool()
    waiting = user.start_hypervisor("wait", "--any")
    finish(project, "t-1", "a1")
    said = waiting.end().passed().out
    assert "- t-1 success: made it" in said
    assert client.tool(response={"stdout": said, "stderr": ""}) == ""
    assert [client.tool(use="u2"), client.stop()] == ["", ""]
    assert user.hypervisor("wait", "--any", "--timeout", "0.2").code == 3
    whole = user.start_hypervisor("wait", "--all", "--json")
    finish(project, "t-2", "a2", BLOCKED)
    answer = whole.end().passed().json
    assert answer["events"] == [{"task": "t-2", "event": "blocked", "why": "no key"}]
    # This one nobody saw: the model went on without it.
    client.speak()
    assert "t-2 blocked" in client.stop()
    user.hypervisor("wait", "--any").refused(3, "nothing of this session is under way")


def test_wait_sees_what_others_end(project: Project, client: TalkingClient, user: Shell) -> None:
    hold(project, "t-1", "a1")
    waiting = user.start_hypervisor("wait", "--any")
    eventually(lambda: sleeps(waiting), "the wait")
    cancel(project, "t-1", "not wanted")
    assert "t-1 cancelled: cancelled by tobi" in waiting.end().passed().out


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_a_run_that_a_session_has_begun_tells_it_its_end(
    project: Project, client: TalkingClient, user: Shell, killed: bool
) -> None:
    for name in ("t-1", "t-2"):
        write_task(project.root / f"tasks/{name}.md")
    words = ["run", "--all", "--agent", "exec", "--isolation", "none", "-j", "1"]
    if not killed:
        user.hypervisor(*words, "--exec", "true {}")
        said = client.tool()
        assert "run over: 2 queued = " in said
        assert said.count("  - t-") == 2
        assert [client.tool(use="u2"), client.stop()] == ["", ""]
        return
    running = user.start_hypervisor(*words, "--exec", "sh -c 'sleep 60'")

    def claimed() -> bool:
        try:
            with open_store(project) as store:
                return bool(store.claims.held_all())
        except OSError:
            return False

    eventually(claimed, "a claim", seconds=60)
    waiting = user.start_hypervisor("wait", "--any")
    eventually(lambda: sleeps(waiting), "the wait")
    running.kill()
    said = waiting.end(60).passed().out
    assert "run over: its coordinator died; resume it with `hypervisor run --resume " in said
    client.tool(response=said)
    assert client.tool(use="u2") == ""
