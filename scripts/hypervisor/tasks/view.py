"""One look at the tasks of a project: which are asked for, which may be claimed, and why others may not.

What the index knows by itself is a query of it; who holds what comes from the store, joined here over the
few open claims.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal, Protocol

from ..core.model import TaskHead
from ..core.project import Project, task_key
from . import queries
from .actor import Actor
from .eligibility import SPREAD, Dependencies, Eligibility, Plan, Wanted, plan
from .index import Index
from .queries import Asked, Edges


class _Catalog(Protocol):
    """A `TaskCatalog`, as far as a view needs it."""

    project: Project
    actor: Actor

    def find_in(self, index: Index, name: str, /) -> TaskHead:
        """See `TaskCatalog.find_in`."""

    def relative(self, task: TaskHead, /) -> str:
        """See `TaskCatalog.relative`."""

    def eligibility(self, tasks: Iterable[TaskHead], /) -> Eligibility:
        """See `TaskCatalog.eligibility`."""

    def eligibility_by(self, dependencies: Dependencies, /) -> Eligibility:
        """See `TaskCatalog.eligibility_by`."""


class CatalogView:
    """The tasks of a project as of one moment; made by `TaskCatalog.view`.

    Args:
        index: The index, up to date.
        catalog: In whose name it is asked.
    """

    def __init__(self, index: Index, catalog: _Catalog) -> None:
        self._index = index
        self._catalog = catalog
        self.edges = Edges(index)
        self.eligibility = catalog.eligibility_by(self.edges)

    def find(self, name: str) -> TaskHead:
        """Return the one task with this id or path; see `TaskCatalog.find`."""
        return self._catalog.find_in(self._index, name)

    def at_path(self, path: str) -> TaskHead | None:
        """Return the task whose file is really at *path* (absolute, no links), None if there is none."""
        key = task_key(self._catalog.project.root, path)
        return next(iter(queries.with_keys(self._index, [key], Asked())), None)

    def listed(
        self, asked: Asked, limit: int = -1, offset: int = 0, *, ready: bool = False
    ) -> tuple[list[TaskHead], int]:
        """Return the tasks that are asked for, the most urgent first, and how many there are in all.

        Args:
            asked: Which.
            limit: How many at most; -1 for all.
            offset: How many to pass over.
            ready: Whether only those are asked for that may be claimed now.
        """
        if not ready:
            return queries.listed(self._index, asked, limit, offset)
        name = self._catalog.actor.name
        edges, of_file = self.edges, self.eligibility.of_file
        kept = [task for task in self._kept(asked) if of_file(task, edges.unmet(task)) is None]
        total = queries.count_ready(self._index, asked, name) - len(kept)
        found = islice(self._ready(asked), offset, None if limit < 0 else offset + limit)
        return list(found), total

    def counts(self, of: Literal["status", "complexity", "project"]) -> dict[str, dict[str, int]]:
        """Return how many tasks there are by ``status``, ``complexity`` or ``project``, and by its words."""
        return queries.counts(self._index, of)

    def candidates(self, wanted: Wanted, tried: Mapping[str, str]) -> list[TaskHead]:
        """Return the first tasks that may be claimed now and are *wanted*, the most urgent first.

        Args:
            wanted: Which.
            tried: Absolute paths of tasks that are left out.
        """
        fit = (
            task
            for task in self._ready(_asked(wanted), wanted.among)
            if task.path not in tried and wanted.asks_for(task) and wanted.refusal(task) is None
        )
        return list(islice(fit, SPREAD + 1))

    def why_none(self, wanted: Wanted, tried: Mapping[str, str]) -> Counter[str]:
        """Return why no task that is *wanted* may be claimed: the reasons, and how many have each.

        Args:
            wanted: Which.
            tried: Why those may not be claimed that looked as if they might, by their absolute paths.
        """
        among = wanted.among
        tasks = self._index.heads() if among is None else queries.at_paths(self._index, among)
        reasons: Counter[str] = Counter()
        for task in filter(wanted.asks_for, tasks):
            why = wanted.refusal(task) or tried.get(task.path) or self.eligibility(task)
            if why:  # else it has become ready meanwhile
                reasons[why] += 1
        return reasons

    def plan(self, ids: Sequence[str], parent: str) -> tuple[Plan, list[TaskHead]]:
        """Return what would run and what would not, of *ids*, else of those below *parent*, else of all.

        Returns:
            The plan, and the tasks that it is of, in the order in which they were asked for.
        """
        if not ids and not parent:
            # Each would be asked for singly: here it is quicker to have all at one time.
            tasks = list(self._index.heads())
            eligibility = self._catalog.eligibility(tasks)
            return plan(tasks, eligibility, eligibility.waits_for), tasks
        if ids:
            tasks = [self.find(name) for name in ids]
        else:
            below, _ = self.listed(Asked(parent=self.find(parent).id))
            tasks = sorted(below, key=lambda task: task.path)
        return plan(tasks, self.eligibility, self.eligibility.waits_for), tasks

    # ---------------------------------------------------------------- details

    def _kept(self, asked: Asked) -> list[TaskHead]:
        """Return the tasks that their files alone would let be claimed, and that something else keeps."""
        keys = set(self.eligibility.holders)
        found = {task.path: task for task in queries.with_keys(self._index, keys, asked, ready=True)}
        for name in [*self.eligibility.locks, *self.eligibility.gated]:
            found |= {task.path: task for task in queries.with_id(self._index, name, asked)}
        return [task for task in found.values() if self.eligibility.held(task)]

    def _ready(self, asked: Asked, among: Collection[str] | None = None) -> Iterator[TaskHead]:
        but = {self._catalog.relative(task) for task in self._kept(asked)}
        return queries.ready(self._index, asked, self._catalog.actor.name, but, among)


def _asked(wanted: Wanted) -> Asked:
    return Asked(complexity=wanted.complexity, project=wanted.project.casefold() or None)
