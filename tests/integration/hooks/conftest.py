"""A project with a folder for tasks, and a client's session in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hookclient import Client
from hypervisor.core.project import Project
from hypervisor.mcp.context import ToolContext
from hypervisor.mcp.hook_tool import HookTool


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project without tasks."""
    root = tmp_path / "outer/project"
    (root / "tasks").mkdir(parents=True)
    return Project(root, root / ".hypervisor")


@pytest.fixture(params=["script", "server"])
def client(
    project: Project, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> Iterator[Client]:
    """A session whose hooks are scripts, or are answered by its server."""
    context = ToolContext({"CLAUDE_PROJECT_DIR": str(project.root)})
    yield Client(project, capsys, server=HookTool(context) if request.param == "server" else None)
    context.close()
