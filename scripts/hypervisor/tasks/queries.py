"""Questions to the task index; an answer costs what it tells. As of the index's last refresh."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from ..core.model import Complexity, TaskHead, TaskStatus
from . import rows
from .graph import Graph, graph_of
from .index import Index

#: A value that is a list travels as JSON: SQLite has a most of values.
_OF = "(SELECT value FROM json_each(?))"


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
            terms["instr(names, ?)"] = rows.within(self.assignee.lower().lstrip("@"))
        values = [*terms.values(), *(rows.within(tag) for tag in self.tags)]
        return " AND ".join(["1", *terms, *["instr(labels, ?)"] * len(self.tags)]), values


class _Node(NamedTuple):
    """What a task is in the graph of dependencies."""

    id: str
    depends_on: tuple[str, ...]
    status: TaskStatus | None


class Edges:
    """The dependencies of a project's tasks, from the index; answers as `Graph` does."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def unmet(self, task: TaskHead) -> list[str]:
        """Return what *task* waits for, each with its name and what is wrong with it."""
        return self.graph.unmet(task) if self.waits_for(task) else []

    def waits_for(self, task: TaskHead) -> list[str]:
        """Return the ids of what *task* waits for, as it spells them."""
        done = "SELECT 1 FROM task WHERE low = ? AND status = 'done' LIMIT 1"
        database = self._index.database
        return [name for name in task.depends_on if not database.execute(done, (name.lower(),)).fetchone()]

    @property
    def cycles(self) -> Sequence[Sequence[str]]:
        """Circles of open tasks: ids in the order in which each waits for the next."""
        return self.graph.cycles

    @property
    def unknown(self) -> Mapping[str, Sequence[str]]:
        """Ids that tasks depend on and that no task bears, with the tasks that name them."""
        return self.graph.unknown

    @cached_property
    def graph(self) -> Graph:
        """All dependencies: read only where a task waits for something, or all faults are asked for."""
        query = "SELECT id, depends_on, status FROM task WHERE error = '' ORDER BY path"
        return graph_of(
            _Node(
                id_,
                tuple(json.loads(depends_on)) if depends_on else (),
                TaskStatus.DONE if status == "done" else None,
            )
            for id_, depends_on, status in self._index.database.execute(query)
        )


def listed(index: Index, asked: Asked, limit: int, offset: int) -> tuple[list[TaskHead], int]:
    """Return the tasks that are asked for, the most urgent first, and how many there are in all.

    Args:
        index: Whose.
        asked: Which.
        limit: How many at most; -1 for all.
        offset: How many to pass over.
    """
    where, values = asked.where()
    where = f"error = '' AND {where}"
    query = f"SELECT path FROM task WHERE {where} ORDER BY rank, path LIMIT ? OFFSET ?"  # noqa: S608
    paths = [row[0] for row in index.database.execute(query, (*values, limit, offset))]
    return _at(index, paths), _count(index, where, values)


def ready(
    index: Index, asked: Asked, caller: str, but: Collection[str] = (), among: Collection[str] | None = None
) -> Iterator[TaskHead]:
    """Yield the tasks that are asked for and wait for nothing, the most urgent first; claims aside.

    Args:
        index: Whose.
        asked: Which.
        caller: Who asks; people's tasks are theirs.
        but: Paths below the root that are left out.
        among: Absolute paths, of which it has to be one; None for all.
    """
    where, values = _startable(asked, caller)
    query = f"SELECT path FROM task WHERE {where} ORDER BY rank, path"  # noqa: S608
    root = os.path.join(index.project.root, "")
    for (path,) in index.database.execute(query, values):
        if path not in but and (among is None or root + path in among) and (task := index.at(path)):
            yield task


def count_ready(index: Index, asked: Asked, caller: str) -> int:
    """Count what `ready` yields."""
    return _count(index, *_startable(asked, caller))


def with_keys(index: Index, keys: Collection[str], asked: Asked, *, ready: bool = False) -> list[TaskHead]:
    """Return those of the tasks that are asked for whose keys are *keys*.

    Args:
        index: Whose.
        keys: As the store has them.
        asked: Which.
        ready: Whether only those are asked for that may be claimed if nobody holds them.
    """
    where, values = asked.where()
    where += " AND unmet = 0 AND startable" if ready else ""
    query = f"SELECT * FROM task WHERE key_hash IN {_OF} AND {where} ORDER BY rank, path"  # noqa: S608
    hashes = json.dumps([key[-32:] for key in keys])
    return [index.head(row) for row in index.database.execute(query, (hashes, *values))]


def with_id(index: Index, name: str, asked: Asked) -> list[TaskHead]:
    """Return those of the tasks that are asked for that bear this id, in whatever case."""
    where, values = asked.where()
    query = f"SELECT * FROM task WHERE low = ? AND error = '' AND {where}"  # noqa: S608
    return [index.head(row) for row in index.database.execute(query, (name.lower(), *values))]


def at_paths(index: Index, paths: Collection[str]) -> list[TaskHead]:
    """Return the tasks whose files are at *paths* (absolute), in that order."""
    root = os.path.join(index.project.root, "")
    return _at(index, [path[len(root) :] for path in paths if path.startswith(root)])


def counts(index: Index, of: Literal["status", "complexity", "project"]) -> dict[str, dict[str, int]]:
    """Return how many tasks there are of each word: under its project for ``project``, else under ``""``."""
    name, word = {
        "status": ("''", "shown"),
        "complexity": ("''", "complexity"),
        "project": ("project", "ifnull(status, '')"),
    }[of]
    query = f"""
        SELECT {name}, {word}, count(*) FROM task WHERE error = '' AND {word} IS NOT NULL GROUP BY 1, 2
    """  # noqa: S608 - our own words
    found: dict[str, dict[str, int]] = {}
    for group, value, number in index.database.execute(query):
        found.setdefault(group, {})[value] = number
    return found


def _startable(asked: Asked, caller: str, unmet: str = "unmet = 0") -> tuple[str, list[Any]]:
    where, values = asked.where()
    mine = rows.within(caller.casefold())
    return f"startable AND {unmet} AND (people = '' OR instr(people, ?)) AND {where}", [mine, *values]


def _count(index: Index, where: str, values: Sequence[Any]) -> int:
    query = f"SELECT count(*) FROM task WHERE {where}"  # noqa: S608
    count: int = index.database.execute(query, values).fetchone()[0]
    return count


def _at(index: Index, paths: Sequence[str]) -> list[TaskHead]:
    query = f"SELECT * FROM task WHERE error = '' AND path IN {_OF}"  # noqa: S608
    found: dict[str, sqlite3.Row] = {}
    for row in index.database.execute(query, (json.dumps(paths),)):
        found[row["path"]] = row
    return [index.head(found[path]) for path in paths if path in found]
