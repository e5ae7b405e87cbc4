"""`hypervisor wait`: back within a second of the end, and at once where there is nothing to wait for."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import Running, Shell, shell, write_task
from hypervisor.core.model import Outcome, TaskStatus
from hypervisor.core.process import this_process
from hypervisor.core.project import Project
from hypervisor.core.settings import settings_of
from hypervisor.queue.batches import create_of_tasks
from hypervisor.tasks.actor import Actor
from hypervisor.tasks.completion import TaskCompletion
from hypervisor.tasks.service import TaskService


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        (made.cwd / ".hypervisor").mkdir(mode=0o700)
        for name in ("t-1", "t-2"):
            write_task(made.cwd / f"tasks/{name}.md")
        yield made


@pytest.fixture
def service(user: Shell) -> Iterator[TaskService]:
    """The tasks of the project, in the name of an agent of this process."""
    project = Project(user.cwd, user.cwd / ".hypervisor")
    actor = Actor(name="claude", client=this_process())
    with TaskService(project, settings_of(project.state), actor) as made:
        yield made


DONE = TaskCompletion(outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text="did it")
BLOCKED = TaskCompletion(outcome=Outcome.BLOCKED, status=TaskStatus.BLOCKED, text="which account?")


def waiting(user: Shell, *words: str, service: TaskService) -> Running:
    """Start a wait; return it once it looks at the store."""
    running = user.start_hypervisor("wait", *words, "--json", "--timeout", "20")
    opened = f"/proc/{running.pid}/fd"
    database = os.path.realpath(user.cwd / ".hypervisor/hypervisor.db")
    deadline = time.monotonic() + 20
    while database not in {_target(f"{opened}/{name}") for name in os.listdir(opened)}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)  # it has read where the events end; nothing outside shows that
    return running


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""


def ends(running: Running) -> tuple[list[dict[str, Any]], float]:
    """Return what a wait printed, and how long after now it ended."""
    begun = time.monotonic()
    ended = running.end().passed()
    return json.loads(ended.out)["events"], time.monotonic() - begun


def test_the_end_of_a_task_is_heard_within_a_second(user: Shell, service: TaskService) -> None:
    service.claim("t-1")
    running = waiting(user, "--task", "t-1", service=service)
    service.finish("t-1", BLOCKED)
    (end,), seconds = ends(running)
    assert (end["event"], end["task"], end["why"], end["by"]) == (
        "blocked",
        "t-1",
        "which account?",
        "claude",
    )
    assert seconds < 2.0  # the second, and the end of the process on a busy machine


def test_the_next_end_in_a_project_is_any_tasks(user: Shell, service: TaskService) -> None:
    service.claim("t-1")
    service.claim("t-2")
    running = waiting(user, "--any", service=service)
    service.release("t-2", "not now")
    (end,), _ = ends(running)
    assert (end["event"], end["task"], end["why"]) == ("released", "t-2", "not now")
    running = waiting(user, "--all", service=service)
    service.finish("t-1", DONE)
    (end,), _ = ends(running)
    assert (end["event"], end["task"]) == ("completed", "t-1")


def test_a_task_that_nobody_holds_is_not_waited_for(user: Shell) -> None:
    assert user.here("wait", "--task", "t-1", "--json").passed().json == {"events": [], "cursor": "0"}
    assert user.here("wait", "--all", "--json").passed().json == {"events": [], "cursor": "0"}
    user.here("wait", "--task", "t-9").refused(2, "t-9", "no such task")
    user.here("wait", "b-1", "--task", "t-1").refused(2, "leave the batch out")


def test_a_wait_that_ends_without_an_end_exits_3(user: Shell, service: TaskService) -> None:
    service.claim("t-1")
    assert user.here("wait", "--task", "t-1", "--timeout", "0").code == 3
    assert user.here("wait", "--any", "--timeout", "0.1").code == 3
    user.here("wait", "--any", "--timeout", "-1").refused(2, "--timeout: -1: must be a time")


def test_where_nobody_has_begun_anything_a_wait_makes_nothing(user: Shell) -> None:
    (user.cwd / ".hypervisor").rmdir()
    assert user.here("wait", "--any", "--timeout", "0").code == 3
    assert user.here("wait", "--all").code == 0
    assert not (user.cwd / ".hypervisor/hypervisor.db").exists()


def test_a_cancelled_task_that_was_worked_on_ends_once(user: Shell, service: TaskService) -> None:
    service.claim("t-1")
    running = waiting(user, "--any", service=service)
    service.cancel("t-1", "no longer wanted")
    found, _ = ends(running)
    assert [(end["event"], end["task"]) for end in found] == [("cancelled", "t-1")]


def test_a_batch_is_waited_for_until_its_next_end_or_its_last(user: Shell, service: TaskService) -> None:
    create_of_tasks(service.project, ["tasks/t-1.md", "tasks/t-2.md"], []).close()
    service.claim("t-1")
    service.claim("t-2")
    one = user.start_hypervisor("wait", "--any", "--json", "--timeout", "20")
    everything = waiting(user, "--all", service=service)
    service.finish("t-1", DONE)
    assert json.loads(one.end().passed().out)["success"] == 1
    assert everything.process.poll() is None
    service.finish("t-2", BLOCKED)
    census = json.loads(everything.end().passed().out)
    assert (census["success"], census["blocked"], census["waiting"]) == (1, 1, 0)
