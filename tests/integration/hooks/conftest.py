"""A project with a folder for tasks, and a client's session in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hookclient import Client
from hypervisor.core.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project without tasks."""
    root = tmp_path / "outer/project"
    (root / "tasks").mkdir(parents=True)
    return Project(root, root / ".hypervisor")


@pytest.fixture(params=[False, True], ids=["whole", "heartbeat-first"])
def client(project: Project, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Client:
    """A session, whose calls come to the handler, or to the heartbeat first."""
    return Client(project, capsys, heartbeat_first=bool(request.param))
