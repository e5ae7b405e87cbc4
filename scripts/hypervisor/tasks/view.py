"""One look at the tasks of a project: which are asked for, which may be claimed, and why others may not.

What the index knows by itself is a query of it; who holds what comes from the store, joined here over the
few open claims.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, Protocol

from ..core.model import Complexity, TaskHead, TaskStatus
from ..core.project import Project, task_key
from .actor import Actor
from .dependencies import Edges
from .eligibility import SPREAD, Dependencies, Eligibility, Named, Plan, Wanted, plan
from .index import Index
from .index_rows import COLUMNS, ONE_OF, head_of, joined

#: Of no more tasks that wait is told for which others they do.
_TOLD = 50


class _Catalog(Protocol):
    """A `TaskCatalog`, as far as a view needs it."""

    project: Project
    actor: Actor

    def find_in(self, index: Index, name: str, /) -> TaskHead:
        """See `TaskCatalog.find_in`."""

    def relative(self, task: TaskHead, /) -> str:
        """See `TaskCatalog.relative`."""

    def done_by_command(self, tasks: Iterable[Named], /) -> dict[str, str]:
        """See `TaskCatalog.done_by_command`."""

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
        waits_for, of_file = self.edges.waits_for, self.eligibility.of_file
        kept = [task for task in self._kept(asked) if of_file(task, waits_for(task)) is None]
        total = self._count(*_startable(asked, self._catalog.actor.name)) - len(kept)
        found = islice(self._ready(asked), offset, None if limit < 0 else offset + limit)
        return list(found), total

    def counts(self, of: Literal["status", "complexity", "project"]) -> dict[str, dict[str, int]]:
        """Return how many tasks there are of each word: of ``project`` under its name, else under ``""``."""
        other = {"status": "status_word", "complexity": "error", "project": "status"}[of]
        query = f"SELECT {of}, {other}, count(*) FROM task WHERE error = '' GROUP BY 1, 2"  # noqa: S608
        found: dict[str, dict[str, int]] = {}
        for first, second, number in self._index.database.execute(query):
            if of == "project":
                group, word = first, second or ""
            elif of == "status":
                group, word = "", first or second or "no status"
            elif first is None:
                continue
            else:
                group, word = "", first
            counts = found.setdefault(group, {})
            counts[word] = counts.get(word, 0) + number
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
        reasons: Counter[str] = Counter()
        single = {task.path: task for task in [*self._singled_out(Asked()), *self._at(self._below(tried))]}
        for task in filter(wanted.asks_for, single.values()):
            why = wanted.refusal(task) or tried.get(task.path) or self.eligibility(task)
            if why:  # else it has become ready meanwhile
                reasons[why] += 1
        groups = self._alike(wanted, self._below(single))
        waiting = sum(bool(task.depends_on) for task, _ in groups)
        for task, number in groups:
            why = wanted.refusal(task)
            if why is None and task.depends_on and waiting > _TOLD and self.edges.waits_for(task):
                why = self.eligibility.of_file(task, ["other tasks"])
            why = why or self.eligibility(task)
            if why:
                reasons[why] += number
        return Counter(dict(sorted(reasons.items())))

    def plan(
        self, ids: Sequence[str], parent: str, has: Collection[str] | None = None
    ) -> tuple[Plan, list[TaskHead]]:
        """Return what would run and what would not, of *ids*, else of those below *parent*, else of all.

        Args:
            ids: Names of tasks.
            parent: A task's name.
            has: What the agents have that a task may need; None where each looks for itself.

        Returns:
            The plan, and the tasks that it is of, in the order in which they were asked for.
        """
        if not ids and not parent:
            # Each would be asked for singly: here it is quicker to have all at one time.
            tasks = list(self._index.heads())
            eligibility = self._catalog.eligibility(tasks)
            return self._but_done(plan(tasks, _with_needs(eligibility, has), eligibility.waits_for)), tasks
        if ids:
            tasks = [self.find(name) for name in ids]
        else:
            below, _ = self.listed(Asked(parent=self.find(parent).id))
            tasks = sorted(below, key=lambda task: task.path)
        made = plan(tasks, _with_needs(self.eligibility, has), self.eligibility.waits_for)
        return (made if ids else self._but_done(made)), tasks

    # ---------------------------------------------------------------- details

    def _but_done(self, made: Plan) -> Plan:
        """Return a plan without what another batch's command has finished; who names a task runs it."""
        done = self._catalog.done_by_command(made.run)
        left = tuple(task for task in made.run if task.path not in done)
        over = tuple((task, done[task.path]) for task in made.run if task.path in done)
        return Plan(run=left, skipped=(*made.skipped, *over))

    def _kept(self, asked: Asked) -> list[TaskHead]:
        """Return the tasks that their files alone would let be claimed, and that something else keeps."""
        return [task for task in self._singled_out(asked, ready=True) if self.eligibility.held(task)]

    def _singled_out(self, asked: Asked, *, ready: bool = False) -> list[TaskHead]:
        """Return the tasks of which the index does not know all: they may be held, locked or gated."""
        keys = set(self.eligibility.holders)
        found = {task.path: task for task in self._with_keys(keys, asked, ready=ready)}
        for name in [*self.eligibility.locks, *self.eligibility.gated]:
            found |= {task.path: task for task in self._with_id(name, asked)}
        return list(found.values())

    def _alike(self, wanted: Wanted, but: Sequence[str]) -> list[tuple[TaskHead, int]]:
        """Return one of those wanted tasks that share the reason why they may not be claimed; how many."""
        where, values = _asked(wanted).where()
        among = "" if wanted.among is None else f"AND path IN {ONE_OF}"
        values += [json.dumps(but)] + ([json.dumps(self._below(wanted.among or ()))] if among else [])
        query = f"""
            SELECT min(path), {", ".join(COLUMNS)}, count(*) FROM task
            WHERE error = '' AND {where} AND path NOT IN {ONE_OF} {among}
            GROUP BY status, status_word, assignee, complexity, needs, CASE WHEN unmet THEN depends_on END
        """  # noqa: S608 - our own words
        root = os.path.join(self._catalog.project.root, "")
        rows = self._index.database.execute(query, values)
        return [(head_of(row[:-1], root), row[-1]) for row in rows]

    def _ready(self, asked: Asked, among: Collection[str] | None = None) -> Iterator[TaskHead]:
        """Yield the tasks that are asked for and may be claimed, the most urgent first."""
        but = {self._catalog.relative(task) for task in self._kept(asked)}
        fit = None if among is None else set(self._below(among))
        where, values = _startable(asked, self._catalog.actor.name)
        query = f"SELECT path FROM task INDEXED BY task_ready WHERE {where} ORDER BY rank, path"  # noqa: S608
        for (path,) in self._index.database.execute(query, values):
            if path not in but and (fit is None or path in fit) and (task := self._index.at(path)):
                yield task

    def _listed(self, asked: Asked, limit: int, offset: int) -> tuple[list[TaskHead], int]:
        where, values = asked.where()
        where = f"error = '' AND {where}"
        # First their paths alone, which an index has in this order; then those few rows.
        ordered = "task_project" if asked.project is not None else "task_listed"
        query = f"""
            SELECT path FROM task INDEXED BY {ordered} WHERE {where} ORDER BY rank, path LIMIT ? OFFSET ?
        """  # noqa: S608 - our own words
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


def _with_needs(eligibility: Eligibility, has: Collection[str] | None) -> Callable[[TaskHead], str | None]:
    """Return what says why a task is skipped, for a lack of what it needs too."""
    if has is None:
        return eligibility

    def refusal(task: TaskHead) -> str | None:
        if why := eligibility(task):
            return why
        missing = [need for need in task.needs if need not in has]
        flags = " ".join(f"--has {need}" for need in missing)
        return f"needs {', '.join(missing)}; {flags} if the agents have it" if missing else None

    return refusal


def _asked(wanted: Wanted) -> Asked:
    return Asked(complexity=wanted.complexity, project=wanted.project.casefold() or None)


def _startable(asked: Asked, name: str) -> tuple[str, list[Any]]:
    """Return the condition, and its values, for what *name* may claim by the files alone."""
    where, values = asked.where()
    mine = joined([name.casefold()])
    return f"startable AND unmet = 0 AND (people = '' OR instr(people, ?)) AND {where}", [mine, *values]
