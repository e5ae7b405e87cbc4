"""The tasks of one project, to look at: which there are, who holds them, which may be claimed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..core.model import TaskHead
from ..core.paths import Project
from ..store.records import Held
from ..store.store import Store
from .actor import Actor

if TYPE_CHECKING:
    from .eligibility import Eligibility, Plan, Wanted
    from .index import Index
    from .live import LiveIndex
    from .queries import Asked


class TaskCatalog:
    """The read side. Leaves nothing behind where there is no project of ours.

    Args:
        project: The project.
        settings: Its settings.
        actor: In whose name it asks.
        store: The project's store; by default it is opened if there is one.
        live: The index of a process that stays.
    """

    def __init__(
        self,
        project: Project,
        settings: Mapping[str, Any],
        actor: Actor,
        store: Store | None = None,
        *,
        live: LiveIndex | None = None,
    ) -> None:
        raise NotImplementedError

    #: Files that could not be read at the last look, and why.
    unreadable: list[str]

    def tasks(self) -> list[TaskHead]:
        """Return every readable task, in the order of their paths."""
        raise NotImplementedError

    @contextmanager
    def indexed(self) -> Iterator[Index | None]:
        """Yield the up-to-date index of the tasks; None where there is no project of ours."""
        raise NotImplementedError

    @contextmanager
    def view(self) -> Iterator[CatalogView]:
        """Yield one consistent look at the tasks, after publishing what was decided."""
        raise NotImplementedError

    def find(self, name: str) -> TaskHead:
        """Return the task with this id, or at this path below the project's root.

        Raises:
            UsageError: There is none, or several bear the id.
        """
        raise NotImplementedError

    def unmet(self, task: TaskHead) -> list[str]:
        """Return what *task* waits for, each with what is wrong with it."""
        raise NotImplementedError

    def why_not(self, task: TaskHead) -> str | None:
        """Return why an agent may not claim *task* now, None if it may."""
        raise NotImplementedError

    def relative(self, task: TaskHead) -> str:
        """Return the task's path below the project's root."""
        raise NotImplementedError

    def key(self, task: TaskHead) -> str:
        """Return the task's key in the store."""
        raise NotImplementedError

    def held(self, task: TaskHead) -> Held | None:
        """Return who holds *task*; that worker may be dead."""
        raise NotImplementedError

    def eligibility(self, tasks: Iterable[TaskHead]) -> Eligibility:
        """Return which tasks may be claimed as of now.

        Args:
            tasks: All of the project's, among which dependencies are looked up.
        """
        raise NotImplementedError


class CatalogView:
    """The tasks of a project as of one moment; made by `TaskCatalog.view`."""

    eligibility: Eligibility

    def find(self, name: str) -> TaskHead:
        """Return the one task with this id or path; see `TaskCatalog.find`."""
        raise NotImplementedError

    def at_path(self, path: str) -> TaskHead | None:
        """Return the task whose file is really at *path* (absolute, no links), None if there is none."""
        raise NotImplementedError

    def listed(
        self, asked: Asked, limit: int = -1, offset: int = 0, *, ready: bool = False
    ) -> tuple[list[TaskHead], int]:
        """Return the tasks that are asked for, the most urgent first, and how many there are in all."""
        raise NotImplementedError

    def counts(self, of: str) -> dict[str, dict[str, int]]:
        """Return how many tasks there are by ``status``, ``complexity`` or ``project``."""
        raise NotImplementedError

    def candidates(self, wanted: Wanted, tried: Mapping[str, str]) -> list[TaskHead]:
        """Return the first tasks that may be claimed now and are *wanted*, the most urgent first."""
        raise NotImplementedError

    def plan(self, ids: Sequence[str], parent: str) -> tuple[Plan, list[TaskHead]]:
        """Return what would run and what would not, of *ids*, else of those below *parent*, else of all."""
        raise NotImplementedError
