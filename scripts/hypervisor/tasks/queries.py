"""Questions to the task index; an answer costs what it tells. As of the index's last refresh."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..core.model import Complexity, TaskHead, TaskStatus
from . import rows
from .graph import circles_of, told
from .index import Index

#: So many ways of waiting are told one by one; more are told as one.
_WAYS = 100
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


class Edges:
    """The dependencies of a project's tasks; answers as `Graph` does, from the index."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def unmet(self, task: TaskHead) -> list[str]:
        """Return what *task* waits for, each with its name and what is wrong with it."""
        names = self.waits_for(task)
        return [told(name, self._circle(task.id, name), known=self._is_known(name)) for name in names]

    def waits_for(self, task: TaskHead) -> list[str]:
        """Return the ids of what *task* waits for, as it spells them."""
        done = "SELECT 1 FROM task WHERE low = ? AND status = 'done'"
        return [name for name in task.depends_on if not self._first(done, name.lower())]

    @property
    def cycles(self) -> Sequence[Sequence[str]]:
        """Circles of open tasks: ids in the order in which each waits for the next."""
        found: dict[int, list[str]] = {}
        for low, circle, _ in self._knots.values():
            if circle is not None:
                found.setdefault(circle, []).append(self._name(low))
        return [found[number] for number in sorted(found)]

    @property
    def unknown(self) -> Mapping[str, Sequence[str]]:
        """Ids that tasks depend on and that no task bears, with the tasks that name them."""
        query = f"""
            SELECT low, depends_on, (SELECT min(path) FROM task AS other
                                     WHERE other.low = task.low AND other.depends_on != '') AS first
            FROM task WHERE path IN (SELECT path FROM depends WHERE low IN {_OF}) ORDER BY first, path
        """  # noqa: S608 - our own words
        database = self._index.database
        missing = {row[0] for row in database.execute("SELECT low FROM missing")}
        found: dict[str, list[str]] = {}
        for row in database.execute(query, (json.dumps(sorted(missing)),)):
            for name in json.loads(row["depends_on"]):
                if name.lower() in missing:
                    found.setdefault(name.lower(), []).append(self._name(row["low"]))
        return found

    # ---------------------------------------------------------------- details

    def _circle(self, task: str, name: str) -> Sequence[str] | None:
        """Return the circle that a task and what it waits for are both in, None if they are not."""
        mine, other = self._knots.get(task.lower()), self._knots.get(name.lower())
        if mine is None or other is None or mine[1] is None or mine[1] != other[1]:
            return None
        return [self._name(low) for low, circle, _ in self._knots.values() if circle == mine[1]]

    @cached_property
    def _knots(self) -> dict[str, tuple[str, int | None, int | None]]:
        """Tasks that are in a knot, with their circle and their place in it, in that order."""
        if rows.get(self._index.database, "circles") == "unknown":
            self._look_for_circles()
        query = "SELECT low, circle, place FROM knot ORDER BY circle, place"
        return {row[0]: tuple(row) for row in self._index.database.execute(query)}

    def _look_for_circles(self) -> None:
        """Look at all edges between open tasks, once after they have changed in a way that needs it."""
        database = self._index.database
        with rows.changing(database):
            waits: dict[str, list[str]] = {}
            closed = {row[0] for row in database.execute("SELECT low FROM task WHERE status = 'done'")}
            query = "SELECT low, depends_on FROM task WHERE depends_on != '' ORDER BY path"
            for low, depends_on in database.execute(query):
                if low not in closed:
                    waits.setdefault(low, []).extend(name.lower() for name in json.loads(depends_on))
            # What waits for nothing that waits is in no circle.
            edges = {low: [name for name in names if name in waits] for low, names in waits.items()}
            cycles, knotted = circles_of(edges)
            place = {low: (n, at) for n, cycle in enumerate(cycles) for at, low in enumerate(cycle)}
            database.execute("DELETE FROM knot")
            found = [(low, *place.get(low, (None, None))) for low in knotted]
            database.executemany("INSERT INTO knot VALUES (?, ?, ?)", found)
            rows.put(database, "circles", None)

    def _is_known(self, name: str) -> bool:
        return self._first("SELECT 1 FROM task WHERE low = ?", name.lower()) is not None

    def _name(self, low: str) -> str:
        """Return how the first task of this id spells it."""
        name: str = self._first("SELECT id FROM task WHERE low = ? ORDER BY path", low)
        return name

    def _first(self, query: str, value: str) -> Any:
        row = self._index.database.execute(f"{query} LIMIT 1", (value,)).fetchone()
        return row[0] if row else None


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
    if asked == Asked(status=asked.status):  # counted already
        word = asked.status.value if asked.status else None
        total = sum(n for _, shown, n in tally(index, "project") if word in (None, shown))
    else:
        total = _count(index, where, values)
    return _at(index, paths), total


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
    if asked == Asked():
        query = "SELECT sum(n) FROM tally WHERE of = 'ready' AND (name = '' OR instr(name, ?))"
        return index.database.execute(query, (rows.within(caller.casefold()),)).fetchone()[0] or 0
    return _count(index, *_startable(asked, caller))


def with_claims(index: Index, keys: Collection[str], asked: Asked, *, ready: bool = False) -> list[TaskHead]:
    """Return those of the tasks that are asked for whose claims are called *keys*.

    Args:
        index: Whose.
        keys: Of items, as the store has them.
        asked: Which.
        ready: Whether only those are asked for that may be claimed if their claim has ended.
    """
    where, values = asked.where()
    where += " AND unmet = 0 AND (startable OR status = 'in_progress')" if ready else ""
    query = f"SELECT * FROM task WHERE claim IN {_OF} AND {where} ORDER BY rank, path"  # noqa: S608
    hashes = json.dumps([key[-32:] for key in keys])
    return [index.head(row) for row in index.database.execute(query, (hashes, *values))]


def at_paths(index: Index, paths: Collection[str]) -> list[TaskHead]:
    """Return the tasks whose files are at *paths* (absolute), in that order."""
    root = os.path.join(index.project.root, "")
    return _at(index, [path[len(root) :] for path in paths if path.startswith(root)])


def tally(index: Index, of: str) -> Iterator[tuple[str, str, int]]:
    """Yield the counts of one sort: name, word, how many. See `rows.SCHEMA`."""
    query = "SELECT name, word, n FROM tally WHERE of = ? AND n > 0"
    yield from map(tuple, index.database.execute(query, (of,)))


def waiting(index: Index, asked: Asked, caller: str) -> list[tuple[TaskHead, int]]:
    """Return of the tasks that are asked for and wait for others one of each that wait alike, and how many.

    Empty where there are too many ways to be told one by one.
    """
    where, values = _startable(asked, caller, "unmet > 0")
    query = f"""
        SELECT min(path), count(*) FROM task WHERE {where}
        GROUP BY depends_on, kind, people, project_low LIMIT {_WAYS + 1}
    """  # noqa: S608 - our own words
    ways = index.database.execute(query, values).fetchall()
    if len(ways) > _WAYS:
        return []
    count = dict(map(tuple, ways))
    tasks = _at(index, sorted(count))
    return list(zip(tasks, (count[path] for path in sorted(count)), strict=True))


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
