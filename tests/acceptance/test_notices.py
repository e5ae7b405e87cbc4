"""Every completion reaches the session of the real client, also where the client's own notices do not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from acceptance.api import ScriptedApi, Turn, calls, say, use, wait_for
from acceptance.conftest import NewClient
from acceptance.product import RULES, Tasks, claim, done, plugged, worker
from acceptance.terminal import Terminal
from acceptance.test_other_plugins import neighbour
from commands import ROOT, eventually
from hypervisor import config
from hypervisor.desk import Desk
from hypervisor.endings import Ending
from hypervisor.model import Outcome, TaskStatus
from hypervisor.paths import Project
from hypervisor.tasklist import Caller

#: Blocks each prompt that is a notice of the client's own.
_BLOCKS = f"exec {sys.executable} -c 'import sys; sys.exit(2 if \"<task-notification>\" in sys.stdin.read() else 0)'\n"


def told(turn: Turn, name: str) -> int:
    return turn.text.count(f"- {name} success: did it")


def test_all_is_told_once_where_the_clients_own_notices_are_blocked(
    api: ScriptedApi, client: NewClient, git_project: Path, tmp_path: Path
) -> None:
    names = ["t-1", "t-2", "t-3"]
    tasks, turns = Tasks(git_project), []

    def look(turn: Turn) -> object:
        turns.append(turn)
        return say("all is told" if all(told(turn, name) for name in names) else "they work")

    api.main(calls(*map(worker, names)), *[look] * 20)
    for name in names:
        tasks.add(name)
        api.agent(f"/pull {name}", calls(claim(name)), calls(done(name)), say("COMPLETED"))
    plugins = [ROOT, neighbour(tmp_path, _BLOCKS, ("UserPromptSubmit",))]
    client(cwd=git_project, plugins=plugins).run("go", *RULES)
    assert [tasks.status(name) for name in names] == ["done"] * 3
    assert [told(turns[-1], name) for name in names] == [1] * 3


def test_a_headless_client_lives_for_as_long_as_its_workers(
    api: ScriptedApi, client: NewClient, git_project: Path
) -> None:
    tasks = Tasks(git_project)
    tasks.add("t-1")
    rests: list[Turn] = []
    api.main(calls(worker("t-1")), *[lambda turn: rests.append(turn) or say("I rest")] * 8)
    late = wait_for(lambda: any(one["event"] == "claimed" for one in tasks.events), calls(done("t-1")))
    api.agent("/pull t-1", calls(claim("t-1")), calls(use("Bash", command="sleep 12")), late, say("COMPLETED"))
    running = plugged(client, git_project)
    # Its own patience is a second: without our hook it would kill the worker.
    running.run("go", *RULES, "--allowedTools", "Bash(sleep *)",
                env={"CLAUDE_CODE_PRINT_BG_WAIT_CEILING_MS": "1000"}).passed()  # fmt: skip
    assert tasks.status("t-1") == "done"
    assert told(rests[-1], "t-1") == 1


@pytest.mark.timeout(400)
def test_an_idle_interactive_client_is_woken_by_the_plugins_monitor(
    api: ScriptedApi, client: NewClient, git_project: Path
) -> None:
    Tasks(git_project).add("t-1")
    api.main(calls(use("Skill", skill="hypervisor:hypervisor")), say("I rest"), say("I heard of it"))
    with Terminal(plugged(client, git_project), *RULES) as terminal:
        terminal.say("batch tasks")
        terminal.until("I rest")
        project = Project(git_project, git_project / ".hypervisor")
        caller = Caller(name="claude", session=api.mains[0].session, agent="a1")
        desk = Desk(project, config.load(project.state), caller)
        desk.claim("t-1")
        desk.finish("t-1", Ending(outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text="did it"))
        terminal.until("I heard of it")
    talk = api.mains[0]
    eventually(lambda: len(talk.turns) == 3, "the third turn")
    assert told(talk.turns[2], "t-1") == 1
