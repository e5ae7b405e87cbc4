"""A headless agent reports at its shell, and is then not asked once more to end its claim."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import shell
from hypervisor.core.settings import load_settings
from hypervisor.store.records import AgentTask
from hypervisor.store.sessions import MAIN
from hypervisor.tasks.actor import Actor
from hypervisor.tasks.service import TaskService
from task_place import TaskPlace

SESSION = "s-9"
REPORTS = {
    "complete": ["complete", "t-1", "--outcome", "made it"],
    "block": ["block", "t-1", "--reason", "no key"],
    "release": ["release", "t-1", "--reason", "later"],
    "ask": ["ask", "t-1", "Red or blue?"],
}
REFUSED = {
    "a question without a word": ["ask", "t-1", " "],
    "another's task": ["ask", "t-2", "Red or blue?"],
}


def left_after(tmp_path: Path, words: list[str]) -> tuple[int, bool, int]:
    """Return the exit code of `hypervisor task WORDS`, whether it reported, and how many claims are left."""
    with shell(tmp_path) as user:
        place = TaskPlace(user.cwd)
        place.task()
        place.task("t-2")
        settings = load_settings(place.project.state)
        with TaskService(place.project, settings, Actor(name="coordinator")) as coordinator:
            coordinator.claim("t-1")
        report = tmp_path / "report.json"
        user.extra = {
            "HYPERVISOR_TASK_ID": "t-1", "HYPERVISOR_ATTEMPT": "1", "HYPERVISOR_REPORT": str(report),
            "CLAUDE_CODE_SESSION_ID": SESSION,
        }  # fmt: skip
        with place.store() as store:  # as the tool does, to which the client's hook says who calls
            held = store.claims.held(place.key("t-1"))
            assert held is not None
            store.sessions.assign(SESSION, MAIN, held.attempt, AgentTask(task="t-1"))
        code = user.here("task", *words).code
        with place.store() as store:
            return code, report.exists(), len(store.sessions.open_claims(SESSION, MAIN))


@pytest.mark.parametrize("words", REPORTS.values(), ids=REPORTS)
def test_a_report_at_the_shell_ends_what_the_agent_is_asked_about(tmp_path: Path, words: list[str]) -> None:
    assert left_after(tmp_path, words) == (0, True, 0)


@pytest.mark.parametrize("words", REFUSED.values(), ids=REFUSED)
def test_a_refused_report_changes_nothing(tmp_path: Path, words: list[str]) -> None:
    code, reported, held = left_after(tmp_path, words)
    assert code > 0
    assert (reported, held) == (False, 1)
