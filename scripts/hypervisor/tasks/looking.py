"""One look at the tasks of a project: which are asked for, which may be claimed, and why others may not.

What the index knows by itself is asked of it; claims are looked at one by one, as there are few at a
time. The answers are those that a look at every task would give.
"""

from __future__ import annotations

import heapq
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

from ..core.model import TaskHead
from ..lives import task_key
from . import queries
from .index import Index
from .preflight import Plan, claim_refusal, plan
from .queries import Asked, Edges
from .rows import of_kind
from .selection import SPREAD, Wanted
from .tasklist import Refusals, TaskList

#: What those wait for of whom there are too many to be told one by one.
_OTHERS = ("other tasks",)


class Look:
    """The tasks of a project as they are now, to ask.

    Args:
        index: Theirs, up to date.
        tasks: In whose name it is asked.
    """

    def __init__(self, index: Index, tasks: TaskList) -> None:
        self._index = index
        self._tasks = tasks
        self.edges = Edges(index)
        self.refusals: Refusals = tasks.refusals_by(self.edges)

    def find(self, name: str) -> TaskHead:
        """Return the one task with this id or path; see `TaskList.find`."""
        return self._tasks.find_in(self._index, name)

    def at_real(self, path: str) -> TaskHead | None:
        """Return the task whose file is really at *path* (absolute, no links), None if there is none."""
        key = task_key(self._tasks.project, path)
        return next(iter(queries.with_claims(self._index, [key], Asked())), None)

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
        begun = self._begun(asked)
        taken = sum(self._static(task, ()) is None for task, _ in begun)
        free = sum(refusal is None for _, refusal in begun)
        total = queries.count_ready(self._index, asked, self._tasks.caller.name) - taken + free
        found = islice(self._ready(asked, begun), offset, None if limit < 0 else offset + limit)
        return list(found), total

    def counts(self, of: str) -> dict[str, dict[str, int]]:
        """Return how many tasks there are of a sort, by name and word; see `rows.SCHEMA`."""
        found: dict[str, dict[str, int]] = {}
        for name, word, n in queries.tally(self._index, of):
            found.setdefault(name, {})[word] = n
        return found

    def candidates(self, wanted: Wanted, tried: Mapping[str, str]) -> list[TaskHead]:
        """Return the first tasks that may be claimed now and are *wanted*, the most urgent first.

        Args:
            wanted: Which.
            tried: Absolute paths of tasks that are left out.
        """
        asked = _asked(wanted)
        fit = (
            task
            for task in self._ready(asked, self._begun(asked), wanted.among)
            if task.path not in tried and wanted.asks_for(task) and wanted.refusal(task) is None
        )
        return list(islice(fit, SPREAD + 1))

    def why_none(self, wanted: Wanted, tried: Mapping[str, str]) -> Counter[str]:
        """Return why no task that is *wanted* may be claimed: the reasons, and how many have each.

        Args:
            wanted: Which.
            tried: Why those may not be claimed that looked as if they might, by their absolute paths.
        """
        asked = _asked(wanted)
        reasons: Counter[str | None] = Counter()
        if wanted.among is not None:
            for task in filter(wanted.asks_for, queries.at_paths(self._index, wanted.among)):
                reasons[self._why(task, wanted, tried)] += 1
            return _told(reasons)
        for project, kind, n in queries.tally(self._index, "kind"):
            task, waits = of_kind(kind[:-1]), kind[-1] == "1"
            if asked.project in (None, project) and wanted.complexity in (None, task.complexity):
                reasons[wanted.refusal(task) or self._static(task, _OTHERS if waits else ())] += n
        ways = queries.waiting(self._index, asked, self._tasks.caller.name)
        for task, n in ways:
            if wanted.refusal(task) is None:
                reasons[self._static(task, _OTHERS)] -= n
                reasons[self._static(task, self.edges.unmet(task))] += n
        # Up to here without claims, and without what was tried: these are looked at one by one.
        paths = [path for path in tried if path.startswith(os.path.join(self._tasks.project.root, ""))]
        single = {task.path: task for task in queries.at_paths(self._index, paths) if wanted.asks_for(task)}
        single |= {task.path: task for task in queries.with_claims(self._index, self.refusals.begun, asked)}
        for task in single.values():
            unmet: Sequence[str] = self.edges.unmet(task)
            reasons[wanted.refusal(task) or self._static(task, unmet if ways or not unmet else _OTHERS)] -= 1
            reasons[self._why(task, wanted, tried)] += 1
        return _told(reasons)

    def plan(self, ids: Sequence[str], parent: str) -> tuple[Plan, list[TaskHead]]:
        """Return what would run and what would not, of *ids*, else of those below *parent*, else of all.

        Returns:
            The plan, and the tasks that it is of, in the order in which they were asked for.
        """
        if not ids and not parent:
            # Each would be asked for singly: here it is quicker to have all at one time.
            tasks = list(self._index.heads())
            refusals = self._tasks.refusals(tasks)
            return plan(tasks, refusals, refusals.waits_for), tasks
        if ids:
            tasks = [self.find(name) for name in ids]
        else:
            below, _ = self.listed(Asked(parent=self.find(parent).id))
            tasks = sorted(below, key=lambda task: task.path)
        return plan(tasks, self.refusals, self.refusals.waits_for), tasks

    # ---------------------------------------------------------------- details

    def _why(self, task: TaskHead, wanted: Wanted, tried: Mapping[str, str]) -> str | None:
        return wanted.refusal(task) or tried.get(task.path) or self.refusals(task)

    def _static(self, task: TaskHead, unmet: Sequence[str]) -> str | None:
        """Return why *task* may not be claimed, its claims aside."""
        return claim_refusal(task, self._tasks.caller.name, self._tasks.settings, unmet=unmet)

    def _begun(self, asked: Asked) -> list[tuple[TaskHead, str | None]]:
        """Return the tasks that are asked for, may be ready, and have a claim; why they are not, if so."""
        found = queries.with_claims(self._index, self.refusals.begun, asked, ready=True)
        return [(task, self.refusals(task)) for task in found]

    def _ready(
        self,
        asked: Asked,
        begun: Sequence[tuple[TaskHead, str | None]],
        among: Collection[str] | None = None,
    ) -> Iterator[TaskHead]:
        but = {self._tasks.relative(task) for task, _ in begun}
        free = [task for task, refusal in begun if refusal is None]
        other = queries.ready(self._index, asked, self._tasks.caller.name, but, among)
        return heapq.merge(other, free, key=lambda task: (task.priority.rank, task.path))


@contextmanager
def look_at(tasks: TaskList) -> Iterator[Look]:
    """Look at the tasks as they are now. Where there is no project of ours, there are none."""
    with tasks.indexed() as index:
        if index is not None:
            yield Look(index, tasks)
            return
    empty = Index(tasks.project, tasks.settings, kept=False)
    try:
        yield Look(empty, tasks)
    finally:
        empty.close()


def _asked(wanted: Wanted) -> Asked:
    return Asked(complexity=wanted.complexity, project=wanted.project.casefold() or None)


def _told(reasons: Counter[str | None]) -> Counter[str]:
    """Return the reasons that some have; what has none has become ready meanwhile."""
    return Counter({reason: n for reason, n in reasons.items() if reason and n > 0})
