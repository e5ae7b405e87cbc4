"""A project with task files and its store, as tests look at them."""

from __future__ import annotations

from pathlib import Path

from commands import write_task
from hypervisor.core.project import Project
from hypervisor.core.settings import load_settings
from hypervisor.store.records import Attempt, Result
from hypervisor.store.store import Store
from hypervisor.tasks.actor import Actor
from hypervisor.tasks.service import TaskService


class TaskPlace:
    """A project and its store, as a test looks at them."""

    def __init__(self, root: Path) -> None:
        (root / "tasks").mkdir(parents=True)
        self.project = Project(root, root / ".hypervisor")
        self.root = root

    @classmethod
    def at(cls, project: Project) -> TaskPlace:
        """Return a project that is there already."""
        made = cls.__new__(cls)
        made.project, made.root = project, project.root
        return made

    def task(self, name: str = "t-1", /, **keys: str) -> Path:
        """Write a task file."""
        return write_task(self.root / "tasks" / f"{name}.md", **keys)

    def store(self) -> Store:
        """Open the store, to look."""
        return Store.open(self.project.state, load_settings(self.project.state), create=False)

    def fall_silent(self) -> None:
        """Let every lease be over."""
        with self.store() as store:
            store.engine.write(lambda tx: tx.run("UPDATE attempt SET lease_until = 0 WHERE ended_at IS NULL"))

    def result(self, name: str = "t-1") -> Result:
        """Return the one result of a task."""
        results = self.results(name)
        assert len(results) == 1, results
        return results[0]

    def results(self, name: str = "t-1") -> list[Result]:
        """Return the results of all cycles of a task."""
        with self.store() as store:
            found = [work for work, _ in store.claims.cycles(self.key(name))]
            assert all(work.published for work in found if work.decided)
            return [work.result for work in found if work.result is not None]

    def attempts(self, name: str = "t-1") -> list[Attempt]:
        """Return the attempts at a task."""
        with self.store() as store:
            return store.claims.attempts(self.key(name))

    def key(self, name: str) -> str:
        """Return a task's key."""
        service = TaskService(self.project, load_settings(self.project.state), Actor(name=""))
        return service.key(service.find(name))
