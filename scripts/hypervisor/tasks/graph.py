"""Dependencies between tasks: what is not done yet, what does not exist, what goes in a circle. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..core.model import TaskStatus

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
    done: frozenset[str]
    #: Ids that tasks depend on and that no task bears, with the tasks that name them.
    unknown: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: Circles of open tasks, each once: ids in the order in which each waits for the next.
    cycles: Sequence[Sequence[str]] = ()
    #: Which of `cycles` a task (its id in lower case) is in.
    circle_of: Mapping[str, int] = field(default_factory=dict)

    def unmet(self, task: Node) -> list[str]:
        """Return what *task* waits for, each with its name and what is wrong with it."""
        return [self._of(task.id.lower(), name) for name in self.waits_for(task)]

    def waits_for(self, task: Node) -> list[str]:
        """Return the ids of what *task* waits for, as it spells them."""
        return [name for name in task.depends_on if name.lower() not in self.done]

    def _of(self, task: str, name: str) -> str:
        mine, other = self.circle_of.get(task), self.circle_of.get(name.lower())
        circle = self.cycles[mine] if mine is not None and mine == other else None
        return told(name, circle, known=name.lower() not in self.unknown)


def told(name: str, circle: Sequence[str] | None, *, known: bool) -> str:
    """Return what a task waits for, with what is wrong with it.

    Args:
        name: An id, as the task spells it.
        circle: The circle that both tasks are in, None if they are in none.
        known: Whether some task bears it.
    """
    if not known:
        return f"{name} (no such task)"
    if circle is None:
        return name
    shown = [*circle, circle[0]] if len(circle) <= _SHOWN else [*circle[:_SHOWN], "..."]
    return f"{name} (in a circle: {' -> '.join(shown)})"


def graph_of(tasks: Iterable[Node]) -> Graph:
    """Return the dependencies of *tasks*, which must be all of a project's."""
    names: dict[str, str] = {}
    waits: dict[str, list[str]] = {}
    done = set()
    for task in tasks:
        key = task.id if task.id.islower() else task.id.lower()
        names.setdefault(key, task.id)
        if task.depends_on:
            waits.setdefault(key, []).extend(task.depends_on)
        if task.status is TaskStatus.DONE:
            done.add(key)
    unknown: dict[str, list[str]] = {}
    for key, wanted in waits.items():
        for name in wanted:
            if name.lower() not in names:
                unknown.setdefault(name.lower(), []).append(names[key])
    edges = {
        key: [name.lower() for name in wanted if name.lower() in names and name.lower() not in done]
        for key, wanted in waits.items()
        if key not in done
    }
    circles = circles_of(edges)
    return Graph(
        done=frozenset(done),
        unknown=unknown,
        cycles=[[names[key] for key in cycle] for cycle in circles],
        circle_of={key: number for number, cycle in enumerate(circles) for key in cycle},
    )


def circles_of(edges: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Return the circles among *edges*.

    Of each knot there is at least one circle, and every node is in at most one. Linear in the number of
    edges. Within a knot (a strongly connected component) every node waits for another of it, so that
    going on along any such edge ends in a circle.
    """
    knot = _knots(edges)
    cycles, seen = [], set()
    for start in edges:
        path: list[str] = []
        place: dict[str, int] = {}
        node: str | None = start
        while node is not None and node not in seen:
            seen.add(node)
            place[node] = len(path)
            path.append(node)
            node = next((other for other in edges[node] if knot.get(other) == knot[start]), None)
        if node is not None and node in place:
            cycles.append(path[place[node] :])
    return cycles


def _knots(edges: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return for each node the number of its strongly connected component (Tarjan, without recursion)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    knot: dict[str, int] = {}
    stack: list[str] = []
    for root in edges:
        if root in order:
            continue
        work = [(root, iter(edges[root]))]
        order[root] = lowest[root] = len(order)
        stack.append(root)
        while work:
            node, others = work[-1]
            for other in others:
                if other not in edges or other in knot:
                    continue
                if other not in order:
                    order[other] = lowest[other] = len(order)
                    stack.append(other)
                    work.append((other, iter(edges[other])))
                    break
                lowest[node] = min(lowest[node], order[other])
            else:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[node])
                if lowest[node] == order[node]:
                    number = len(order) + len(knot)
                    while node not in knot:
                        knot[stack.pop()] = number
    return knot
