"""Dependencies between tasks: what is not done yet, what does not exist, what goes in a circle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from ..core.model import TaskStatus

if TYPE_CHECKING:
    from .index import Index

#: How many names of a circle are told to each of its tasks.
_SHOWN = 12


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The dependencies of all tasks of a project."""

    #: Ids (in lower case) of tasks that are done.
    done: frozenset[str] = frozenset()
    #: Ids that tasks depend on and that no task bears, with the tasks that name them.
    unknown: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: Circles of open tasks, each once: ids in the order in which each waits for the next.
    cycles: Sequence[Sequence[str]] = ()
    #: Which of `cycles` a task (its id in lower case) is in.
    circle_of: Mapping[str, int] = field(default_factory=dict)

    def unmet(self, task: Node) -> list[str]:
        """Return what *task* waits for, each with its name and what is wrong with it."""
        return [self.told(task.id.lower(), name) for name in self.waits_for(task)]

    def waits_for(self, task: Node) -> list[str]:
        """Return the ids of what *task* waits for, as it spells them."""
        return [name for name in task.depends_on if name.lower() not in self.done]

    def told(self, task: str, name: str) -> str:
        """Return *name*, for which *task* (in lower case) waits, with what is wrong with it."""
        if name.lower() in self.unknown:
            return f"{name} (no such task)"
        mine, other = self.circle_of.get(task), self.circle_of.get(name.lower())
        if mine is None or mine != other:
            return name
        circle = self.cycles[mine]
        shown = [*circle, circle[0]] if len(circle) <= _SHOWN else [*circle[:_SHOWN], "..."]
        return f"{name} (in a circle: {' -> '.join(shown)})"


def graph_of(tasks: Iterable[Node]) -> Graph:
    """Return the dependencies of *tasks*, which must be all of a project's."""
    tasks = list(tasks)
    known = {task.id.lower() for task in tasks}
    done = {task.id.lower() for task in tasks if task.status is TaskStatus.DONE}
    waiting = (
        (task.id, low, low in known)
        for task in tasks
        for low in sorted({name.lower() for name in task.depends_on} - done)
    )
    return replace(graph_of_waiting(waiting), done=frozenset(done))


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
        circle_of={key: number for number, circle in enumerate(circles) for key in circle},
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


class Edges:
    """The dependencies of a project's tasks, asked of its index; answers as `Graph` does."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def unmet(self, task: Node) -> list[str]:
        """Return what *task* waits for, each with its name and what is wrong with it."""
        names = self.waits_for(task)
        return [self.graph.told(task.id.lower(), name) for name in names] if names else []

    def waits_for(self, task: Node) -> list[str]:
        """Return the ids of what *task* waits for, as it spells them."""
        return [name for name in task.depends_on if not self._index.is_done(name)]

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
        """What is wrong with dependencies: read only where a task waits for something, or it is asked for."""
        return graph_of_waiting(self._index.waiting())
