"""A project, and services that act on its tasks in many names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hypervisor.core.settings import load_settings
from hypervisor.tasks.actor import Actor
from hypervisor.tasks.service import TaskService
from task_place import TaskPlace


@pytest.fixture
def place(tmp_path: Path) -> TaskPlace:
    """An empty project."""
    return TaskPlace(tmp_path / "project")


@pytest.fixture
def service(place: TaskPlace) -> Iterator[Callable[..., TaskService]]:
    """Open services in the names of actors."""
    opened: list[TaskService] = []

    def open_service(name: str = "claude", **rest: str) -> TaskService:
        actor = Actor(name=name, **rest)  # type: ignore[arg-type]
        opened.append(TaskService(place.project, load_settings(place.project.state), actor))
        return opened[-1]

    yield open_service
    for one in opened:
        one.close()
