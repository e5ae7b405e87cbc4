"""Dependencies between tasks: what is not done yet, what does not exist, what goes in a circle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from ..core.model import TaskStatus

if TYPE_CHECKING:
    from .index import Index

#: How many names of a circle are told to each of its tasks, and how many tasks are looked at to find it.
_SHOWN, _LOOKED = 12, 50


class Node(Protocol):
    """A task, as far as dependencies go."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def depends_on(self) -> Sequence[str]:
        """The ids that it waits for."""

    @property
    def status(self) -> TaskStatus | None:
        """Its status; only ``done`` counts."""


class _Dependencies(ABC):
    """What tasks wait for, wherever that is known from."""

    @abstractmethod
    def waits_for(self, task: Node) -> list[str]:
        """Return the ids of what *task* waits for, as it spells them."""

    @abstractmethod
    def name_of(self, low: str) -> str | None:
        """Return an id as the task that bears it spells it; None if no task does."""

    @abstractmethod
    def next_of(self, low: str) -> Sequence[str]:
        """Return the ids, in lower case, for which the task with an id waits."""

    def unmet(self, task: Node) -> list[str]:
        """Return what *task* waits for, each with its name and what is wrong with it."""
        return [self.told(task.id.lower(), name) for name in self.waits_for(task)]

    def told(self, task: str, name: str) -> str:
        """Return what the task with the id *task*, in lower case, waits for by *name*, and what is wrong."""
        if self.name_of(name.lower()) is None:
            return f"{name} (no such task)"
        way = self._way(name.lower(), task)
        if not way:
            return name
        circle = [self.name_of(low) or low for low in (task, *way)]
        shown = circle if len(circle) <= _SHOWN + 1 else [*circle[:_SHOWN], "..."]
        return f"{name} (in a circle: {' -> '.join(shown)})"

    def _way(self, start: str, goal: str) -> list[str]:
        """Return the shortest way on which *start* waits for *goal*, both included; empty for none near."""
        before = {start: ""}
        left = deque([start])
        while left and len(before) <= _LOOKED:
            low = left.popleft()
            if low == goal:
                way = [low]
                while before[way[-1]]:
                    way.append(before[way[-1]])
                return way[::-1]
            for other in self.next_of(low):
                if other not in before:
                    before[other] = low
                    left.append(other)
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph(_Dependencies):
    """The dependencies of all tasks of a project."""

    #: Ids (in lower case) of tasks that are done.
    done: frozenset[str] = frozenset()
    #: Ids of all tasks, in lower case and as the first that bears it spells it.
    names: Mapping[str, str] = field(default_factory=dict)
    #: Who waits for whom, in lower case.
    edges: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: Ids that tasks depend on and that no task bears, with the tasks that name them.
    unknown: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: Circles of open tasks, each once: ids in the order in which each waits for the next.
    cycles: Sequence[Sequence[str]] = ()

    def waits_for(self, task: Node) -> list[str]:
        """See `_Dependencies.waits_for`."""
        return [name for name in task.depends_on if name.lower() not in self.done]

    def name_of(self, low: str) -> str | None:
        """See `_Dependencies.name_of`."""
        return self.names.get(low)

    def next_of(self, low: str) -> Sequence[str]:
        """See `_Dependencies.next_of`."""
        return sorted(set(self.edges.get(low, ())))

    def _way(self, start: str, goal: str) -> list[str]:
        return _Dependencies._way(self, start, goal) if self.cycles else []


class Edges(_Dependencies):
    """The dependencies of a project's tasks, asked of its index; answers as `Graph` does."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def waits_for(self, task: Node) -> list[str]:
        """See `_Dependencies.waits_for`."""
        return [name for name in task.depends_on if not self._index.is_done(name)]

    def name_of(self, low: str) -> str | None:
        """See `_Dependencies.name_of`."""
        return self._index.name_of(low)

    def next_of(self, low: str) -> Sequence[str]:
        """See `_Dependencies.next_of`."""
        return self._index.next_of(low)

    @property
    def cycles(self) -> list[list[str]]:
        """Circles of open tasks, each once: ids in the order in which each waits for the next."""
        cycles: list[list[str]] = self._faults["cycles"]
        return cycles

    @property
    def unknown(self) -> dict[str, list[str]]:
        """Ids that tasks depend on and that no task bears, with the tasks that name them."""
        unknown: dict[str, list[str]] = self._faults["unknown"]
        return unknown

    @cached_property
    def _faults(self) -> dict[str, Any]:
        return self._index.faults(_faults_of)


def _faults_of(waiting: Iterable[tuple[str, str, bool]]) -> dict[str, Any]:
    found = graph_of_waiting(waiting)
    return {"cycles": found.cycles, "unknown": found.unknown}


def graph_of(tasks: Iterable[Node]) -> Graph:
    """Return the dependencies of *tasks*, which must be all of a project's."""
    tasks = list(tasks)
    names: dict[str, str] = {}
    for task in tasks:
        names.setdefault(task.id.lower(), task.id)
    done = {task.id.lower() for task in tasks if task.status is TaskStatus.DONE}
    waiting = (
        (task.id, low, low in names)
        for task in tasks
        for low in sorted({name.lower() for name in task.depends_on} - done)
    )
    return replace(graph_of_waiting(waiting), done=frozenset(done), names=names)


def graph_of_waiting(waiting: Iterable[tuple[str, str, bool]]) -> Graph:
    """Return what is wrong with dependencies.

    Args:
        waiting: Who waits for whom: a task's id; an id, in lower case, of what is not done; whether any
            task bears that.
    """
    names: dict[str, str] = {}
    edges: dict[str, list[str]] = {}
    unknown: dict[str, dict[str, None]] = {}
    for name, low, known in waiting:
        key = name.lower()
        names.setdefault(key, name)
        if known:
            edges.setdefault(key, []).append(low)
        else:
            unknown.setdefault(low, {})[names[key]] = None
    circles = circles_of(edges)  # what waits for nothing is in none, and no node here
    return Graph(
        unknown={low: list(by) for low, by in unknown.items()},
        cycles=[[names[key] for key in circle] for circle in circles],
        edges=edges,
    )


def circles_of(edges: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Return the circles among *edges*.

    Where nodes wait for each other there is at least one circle, and every node is in at most one. A walk in
    depth, linear in the number of edges: an edge back to a node on the way there closes a circle.
    """
    circles: list[list[str]] = []
    seen: set[str] = set()
    for start in edges:
        path: list[str] = []
        place: dict[str, int] = {}
        free: list[int] = []  # for each on the path: from where on to it no node is in a circle yet
        left = [iter((start,))]
        while left:
            node = next(left[-1], None)
            if node is None:
                left.pop()
                if path:
                    del place[path.pop()]
                    free.pop()
            elif node in place:
                if free[-1] <= place[node]:
                    circles.append(path[place[node] :])
                    free[place[node] :] = range(place[node] + 1, len(path) + 1)
            elif node not in seen and node in edges:
                seen.add(node)
                place[node] = len(path)
                free.append(free[-1] if free else 0)
                path.append(node)
                left.append(iter(edges[node]))
    return circles
