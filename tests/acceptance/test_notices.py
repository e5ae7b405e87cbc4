"""Every completion reaches the session of the real client, also where the client's own notices do not."""

from __future__ import annotations

import sys
from pathlib import Path

from acceptance.api import Reply, ScriptedApi, Turn, calls, say, use, wait_for
from acceptance.conftest import NewClient
from acceptance.product import RULES, Tasks, claim, done, plugged, worker
from acceptance.terminal import Terminal
from acceptance.test_other_plugins import neighbour
from commands import ROOT

#: Blocks each prompt that is a notice of the client's own; ours come in the same wrapping, without an id.
_LOOK = 'import sys; sys.exit(2 if "<task-id>" in sys.stdin.read() else 0)'
_BLOCKS = f"exec {sys.executable} -c '{_LOOK}'\n"


def begin(project: Path) -> Reply:
    """Say something once the client has our server: on a busy machine it would begin without."""

    def there() -> bool:
        logs = (project.parent / "home").glob(".cache/claude-cli-nodejs/*/mcp-logs-*/*")
        return any("Successfully connected" in log.read_text("utf-8", "replace") for log in logs)

    return wait_for(there, calls(use("Bash", command="true")), seconds=120)


def told(turn: Turn, name: str) -> int:
    return turn.text.count(f"- {name} success: did it")


def test_all_is_told_once_where_the_clients_own_notices_are_blocked(
    api: ScriptedApi, client: NewClient, git_project: Path, tmp_path: Path
) -> None:
    names = ["t-1", "t-2", "t-3"]
    tasks = Tasks(git_project)
    turns: list[Turn] = []

    def look(turn: Turn) -> Reply:
        turns.append(turn)
        return say("all is told" if all(told(turn, name) for name in names) else "they work")

    api.main(begin(git_project), lambda _: calls(*map(worker, names)), *[look] * 20)
    for name in names:
        tasks.add(name)
        api.agent(f"/pull {name}", calls(claim(name)), calls(done(name)), say("COMPLETED"))
    plugins = [ROOT, neighbour(tmp_path, _BLOCKS, ("UserPromptSubmit",))]
    client(cwd=git_project, plugins=plugins).run("go", *RULES, timeout=240)
    assert [tasks.status(name) for name in names] == ["done"] * 3
    assert [told(turns[-1], name) for name in names] == [1] * 3


def test_a_headless_client_lives_for_as_long_as_its_workers(
    api: ScriptedApi, client: NewClient, git_project: Path
) -> None:
    tasks = Tasks(git_project)
    tasks.add("t-1")
    rests: list[Turn] = []

    def rest(turn: Turn) -> Reply:
        rests.append(turn)
        return say("I rest")

    api.main(begin(git_project), lambda _: calls(worker("t-1")), *[rest] * 8)
    api.agent(
        "/pull t-1",
        calls(claim("t-1")),
        calls(use("Bash", command="sleep 12")),
        calls(done("t-1")),
        say("DONE"),
    )
    running = plugged(client, git_project)
    # Its own patience is a second: without our hook it would kill the worker.
    running.run("go", *RULES, "--allowedTools", "Bash(sleep *)",
                env={"CLAUDE_CODE_PRINT_BG_WAIT_CEILING_MS": "1000"}, timeout=240).passed()  # fmt: skip
    assert tasks.status("t-1") == "done"
    assert told(rests[-1], "t-1") == 1


def test_a_client_that_is_idle_at_a_terminal_is_woken(
    api: ScriptedApi, client: NewClient, git_project: Path, tmp_path: Path
) -> None:
    tasks = Tasks(git_project)
    tasks.add("t-1")

    def rest(turn: Turn) -> Reply:
        return say("IT IS TOLD" if told(turn, "t-1") else "I REST")

    api.main(begin(git_project), lambda _: calls(worker("t-1")), *[rest] * 8)
    api.agent(
        "/pull t-1",
        calls(claim("t-1")),
        calls(use("Bash", command="sleep 15")),
        calls(done("t-1")),
        say("COMPLETED"),
    )
    plugins = [ROOT, neighbour(tmp_path, _BLOCKS, ("UserPromptSubmit",))]
    user = client(cwd=git_project, plugins=plugins)
    with Terminal(user, *RULES, "--allowedTools", "Bash(sleep *)") as terminal:
        terminal.say("go")
        terminal.until("I REST", seconds=240)
        terminal.until("IT IS TOLD", seconds=240)
    assert tasks.status("t-1") == "done"
