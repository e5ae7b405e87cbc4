"""The product in front of the real client: the plugin of this checkout, tasks, and what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from acceptance.api import Use, use
from acceptance.client import Client
from commands import ROOT, eventually, write_task
from hypervisor.core.project import Project
from hypervisor.core.settings import load_settings
from hypervisor.mcp.schema import PREFIX
from hypervisor.store.store import Store
from hypervisor.tasks.actor import Actor
from hypervisor.tasks.service import TaskService

#: What the skill's page on permissions tells users to grant, for a headless run.
RULES = ("--allowedTools", "Edit", "Write", "Bash(git add *)", "Bash(git commit *)")
WORKER = "hypervisor:worker"
#: Events whose detail is a reason.
_WITH_REASON = ("released", "revoked")


def tool(name: str, /, **arguments: Any) -> Use:
    """Name one call of a tool of ours, for `calls`."""
    return use(PREFIX + name, **arguments)


def claim(task: str) -> Use:
    """Claim a task."""
    return tool("claim_task", id=task, caller="claude")


def done(task: str, outcome: str = "did it", **more: Any) -> Use:
    """Complete a task."""
    return tool("complete_task", id=task, outcome=outcome, **more)


def worker(task: str, **more: Any) -> Use:
    """Start a worker on a task, in the background unless said otherwise."""
    more = {"run_in_background": True, **more}
    return use("Agent", description=task, prompt=f"/pull {task}", subagent_type=WORKER, **more)


class Tasks:
    """The tasks of a project in *root*."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, name: str, **keys: str) -> Path:
        """Write a task file."""
        return write_task(self.root / "tasks" / f"{name}.md", **keys)

    def text(self, name: str) -> str:
        """Return a task's file."""
        return (self.root / "tasks" / f"{name}.md").read_text("utf-8")

    def says(self, name: str, line: str) -> bool:
        """Tell whether a task's file has that very line."""
        return line in self.text(name).splitlines()

    def status(self, name: str) -> str:
        """Return a task's status, as its file spells it."""
        return next(x for x in self.text(name).splitlines() if x.startswith("status:")).split()[1]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The project's events."""
        try:
            store = Store.open(self.root / ".hypervisor", load_settings(None), create=False)
        except FileNotFoundError:
            return []
        with store:
            return [
                {
                    "event": one.kind,
                    "task": Path(one.text).stem,
                    "why": one.detail if one.kind in _WITH_REASON else "",
                }
                for one in store.events.since(0)
            ]

    def told(self, task: str) -> list[tuple[str, str]]:
        """Return what happened to a task, and why, in order."""
        return [(e["event"], e["why"]) for e in self.events if e["task"] == task]

    def service(self, name: str) -> TaskService:
        """Return the tasks as somebody outside of the session uses them."""
        return TaskService(
            Project(self.root, self.root / ".hypervisor"), load_settings(None), Actor(name=name)
        )

    def free_after(self, look: Callable[[], bool], begun: float) -> float:
        """Return how many seconds after *begun* it was that *look* came true."""
        eventually(look, "the task to be free", seconds=60)
        return time.monotonic() - begun


def plugged(new: Callable[..., Client], project: Path, **options: Any) -> Client:
    """Return a client in *project* with the plugin of this checkout."""
    return new(cwd=project, plugins=[ROOT], **options)
