"""One look at the tasks of a project: which are asked for, which may be claimed, and why others may not.

What the index knows by itself is a query of it; who holds what comes from the store, joined here over the
few open claims.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, Protocol

from ..core.model import Complexity, TaskHead, TaskStatus
from ..core.project import Project, task_key
from .actor import Actor
from .dependencies import Edges
from .eligibility import SPREAD, Dependencies, Eligibility, Plan, Wanted, plan
from .index import Index
from .index_rows import ONE_OF, joined


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which tasks are asked for; None, or nothing, where that does not matter. Cases do not."""

    status: TaskStatus | None = None
    complexity: Complexity | None = None
    project: str | None = None
    parent: str | None = None
    assignee: str | None = None
    #: All of them; to the letter.
    tags: Sequence[str] = field(default_factory=tuple)

    def where(self) -> tuple[str, list[Any]]:
        """Return the condition in SQL, and its values."""
        terms: dict[str, Any] = {}
        if self.status is not None:
            terms["status = ?"] = self.status.value
        if self.complexity is not None:
            terms["complexity = ?"] = self.complexity.value
        if self.project is not None:
            terms["project_low = ?"] = self.project.casefold()
        if self.parent is not None:
            terms["parent_low = ?"] = self.parent.lower()
        if self.assignee is not None:
            terms["instr(names, ?)"] = joined([self.assignee.lower().lstrip("@")])
        values = [*terms.values(), *(joined([tag]) for tag in self.tags)]
        return " AND ".join(["1", *terms, *["instr(labels, ?)"] * len(self.tags)]), values


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
        return next(iter(self._with_keys([key], Asked())), None)

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
            return self._listed(asked, limit, offset)
        edges, of_file = self.edges, self.eligibility.of_file
        kept = [task for task in self._kept(asked) if of_file(task, edges.unmet(task)) is None]
        total = self._count(*_startable(asked, self._catalog.actor.name)) - len(kept)
        found = islice(self._ready(asked), offset, None if limit < 0 else offset + limit)
        return list(found), total

    def counts(self, of: Literal["status", "complexity", "project"]) -> dict[str, dict[str, int]]:
        """Return how many tasks there are of each word: of ``project`` under its name, else under ``""``."""
        name, word = {
            "status": ("''", "coalesce(status, nullif(status_word, ''), 'no status')"),
            "complexity": ("''", "complexity"),
            "project": ("project", "ifnull(status, '')"),
        }[of]
        query = f"""
            SELECT {name}, {word}, count(*) FROM task WHERE error = '' AND {word} IS NOT NULL GROUP BY 1, 2
        """  # noqa: S608 - our own words
        found: dict[str, dict[str, int]] = {}
        for group, value, number in self._index.database.execute(query):
            found.setdefault(group, {})[value] = number
        return found

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
        tasks = self._index.heads() if among is None else self._at(self._below(among))
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
        found = {task.path: task for task in self._with_keys(keys, asked, ready=True)}
        for name in [*self.eligibility.locks, *self.eligibility.gated]:
            found |= {task.path: task for task in self._with_id(name, asked)}
        return [task for task in found.values() if self.eligibility.held(task)]

    def _ready(self, asked: Asked, among: Collection[str] | None = None) -> Iterator[TaskHead]:
        """Yield the tasks that are asked for and may be claimed, the most urgent first."""
        but = {self._catalog.relative(task) for task in self._kept(asked)}
        fit = None if among is None else set(self._below(among))
        where, values = _startable(asked, self._catalog.actor.name)
        query = f"SELECT path FROM task WHERE {where} ORDER BY rank, path"  # noqa: S608 - our own words
        for (path,) in self._index.database.execute(query, values):
            if path not in but and (fit is None or path in fit) and (task := self._index.at(path)):
                yield task

    def _listed(self, asked: Asked, limit: int, offset: int) -> tuple[list[TaskHead], int]:
        where, values = asked.where()
        where = f"error = '' AND {where}"
        # First their paths alone, which an index has; then those few rows.
        query = f"SELECT path FROM task WHERE {where} ORDER BY rank, path LIMIT ? OFFSET ?"  # noqa: S608
        rows = self._index.database.execute(query, (*values, limit, offset)).fetchall()
        return self._at([str(row[0]) for row in rows]), self._count(where, values)

    def _count(self, where: str, values: Sequence[Any]) -> int:
        query = f"SELECT count(*) FROM task WHERE {where}"  # noqa: S608
        count: Any = self._index.database.execute(query, values).get  # the one value
        return int(count)

    def _at(self, paths: Sequence[str]) -> list[TaskHead]:
        """Return the tasks at *paths*, in that order."""
        found = self._index.select(f"error = '' AND path IN {ONE_OF}", (json.dumps(paths),))
        by_path = dict(zip(self._below(task.path for task in found), found, strict=True))
        return [by_path[path] for path in paths if path in by_path]

    def _below(self, paths: Iterable[str]) -> list[str]:
        root = os.path.join(self._catalog.project.root, "")
        return [path[len(root) :] for path in paths if path.startswith(root)]

    def _with_keys(self, keys: Collection[str], asked: Asked, *, ready: bool = False) -> list[TaskHead]:
        """Return those that are asked for whose keys in the store are *keys*."""
        where, values = asked.where()
        where += " AND unmet = 0 AND startable" if ready else ""
        hashes = json.dumps([key[-32:] for key in keys])
        return self._index.select(f"key_hash IN {ONE_OF} AND {where} ORDER BY rank, path", (hashes, *values))

    def _with_id(self, name: str, asked: Asked) -> list[TaskHead]:
        where, values = asked.where()
        return self._index.select(f"low = ? AND error = '' AND {where}", (name.lower(), *values))


def _asked(wanted: Wanted) -> Asked:
    return Asked(complexity=wanted.complexity, project=wanted.project.casefold() or None)


def _startable(asked: Asked, name: str) -> tuple[str, list[Any]]:
    """Return the condition, and its values, for what *name* may claim by the files alone."""
    where, values = asked.where()
    mine = joined([name.casefold()])
    return f"startable AND unmet = 0 AND (people = '' OR instr(people, ?)) AND {where}", [mine, *values]
