"""The three paths that docs/architecture.md draws: each module it names really runs, and they stay few."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT, write_task
from hypervisor.core.project import Project
from hypervisor.mcp.handler import ToolHandler
from hypervisor.mcp.hook_tool import HookTool
from inprocess import InProcess, in_process
from repositories import make_repo

PACKAGE = str(ROOT / "scripts/hypervisor") + "/"
#: How many modules a path may have.
LINE, PULL, RUN = 8, 13, 16
#: Named in the path of a run, and taken by real clients only, or on many machines only.
ELSEWHERE = {"runners/claude", "orchestrator/delivery"}


@pytest.fixture
def user(tmp_path: Path) -> Iterator[InProcess]:
    with in_process(tmp_path) as made:
        yield made


@contextmanager
def modules_that_run() -> Iterator[set[str]]:
    """Collect the modules of which a function is called, in whatever thread."""
    paths: set[str] = set()
    found: set[str] = set()

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            paths.add(frame.f_code.co_filename)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        found |= {
            path.removeprefix(PACKAGE).removesuffix(".py") for path in paths if path.startswith(PACKAGE)
        }


def drawn(title: str) -> set[str]:
    """Return the modules that the document names in one path."""
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    path = text[text.index(f"**{title}") :].split("\n\n**")[0].split("\n## ")[0]
    names = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)+)`", path))
    return {name for name in names if (ROOT / f"scripts/hypervisor/{name}.py").exists()}


def test_a_line_of_a_queue(user: InProcess) -> None:
    write_task(user.cwd / "tasks/t-1.md")
    with modules_that_run() as run:
        user.worker("--tasks", "tasks/*.md", "--all", "--exec", "true {}").passed()
    path = drawn("A line of a queue")
    assert path <= run, path - run
    assert len(path) == LINE


def test_pull_in_a_session(tmp_path: Path) -> None:
    project = Project(tmp_path, tmp_path / ".hypervisor")
    write_task(project.root / "tasks/t-1.md")
    environ = {"CLAUDE_PROJECT_DIR": str(project.root), "CLAUDE_CODE_SESSION_ID": "s-1"}
    server = ToolHandler(environ)
    hooks = HookTool(server.context)

    def call(tool: str, **given: str) -> None:
        before = {
            "hook_event_name": "PreToolUse", "session_id": "s-1", "agent_id": "a1", "tool_use_id": "toolu_1",
            "tool_name": f"mcp__plugin_hypervisor_task_manager__{tool}", "tool_input": json.dumps(given),
        }  # fmt: skip
        answer = json.loads(hooks.answer(before))
        server.call(tool, answer["hookSpecificOutput"]["updatedInput"])
        hooks.answer({**before, "hook_event_name": "PostToolUse"})

    with modules_that_run() as run:
        call("claim_task", id="t-1", caller="claude")
        call("complete_task", id="t-1", outcome="did it")
    server.close()
    path = drawn("`/pull t-1` in a session")
    assert path <= run, path - run
    assert len(path) == PULL


def test_a_task_of_a_run(user: InProcess) -> None:
    repo = make_repo(user.cwd)
    write_task(user.cwd / "tasks/t-1.md", files="[made.txt]", verify="test -f made.txt")
    repo.git("add", "--all")
    repo.git("commit", "-qm", "A task")
    who = "-c user.name=A -c user.email=a@example.invalid"
    agent = f"echo x > made.txt; git add made.txt; git {who} commit -qm made"
    with modules_that_run() as run:
        user.hypervisor("run", "t-1", "--agent", "exec", "--exec", f"sh -c '{agent}'").passed()
    path = drawn("A task of a run")
    assert path - ELSEWHERE <= run, path - ELSEWHERE - run
    assert len(path - {"orchestrator/delivery"}) == RUN
