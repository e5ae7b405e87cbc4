"""Dependencies between tasks: what is not done yet, what does not exist, what goes in a circle. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .model import TaskHead, TaskStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The dependencies of all tasks of a project."""

    #: Ids (in lower case) of tasks that are done.
    done: frozenset[str]
    #: Ids that tasks depend on and that no task bears, with the tasks that name them.
    unknown: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: Circles of open tasks, each once: ids in the order in which each waits for the next.
    cycles: Sequence[Sequence[str]] = ()

    def unmet(self, task: TaskHead) -> list[str]:
        """Return what *task* waits for, each with its name and what is wrong with it."""
        return [
            self._told(task.id.lower(), name) for name in task.depends_on if name.lower() not in self.done
        ]

    def _told(self, task: str, name: str) -> str:
        if name.lower() in self.unknown:
            return f"{name} (no such task)"
        for cycle in self.cycles:
            members = [member.lower() for member in cycle]
            if task in members and name.lower() in members:
                return f"{name} (in a circle: {' -> '.join([*cycle, cycle[0]])})"
        return name


def graph_of(tasks: Iterable[TaskHead]) -> Graph:
    """Return the dependencies of *tasks*, which must be all of a project's."""
    names: dict[str, str] = {}
    waits: dict[str, list[str]] = {}
    done = set()
    for task in tasks:
        key = task.id.lower()
        names.setdefault(key, task.id)
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
    found = [[names[key] for key in cycle] for cycle in _cycles(edges)]
    return Graph(done=frozenset(done), unknown=unknown, cycles=found)


def _cycles(edges: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Return the circles among *edges*: at least one of each knot, every node in at most one.

    Linear in the number of edges. What waits for nothing is peeled off first; of what is left every
    node waits for another that is left, so that going on along any such edge ends in a circle.
    """
    waiting = {node: sum(other in edges for other in others) for node, others in edges.items()}
    waited_for: dict[str, list[str]] = {}
    for node, others in edges.items():
        for other in others:
            waited_for.setdefault(other, []).append(node)
    free = [node for node, count in waiting.items() if count == 0]
    left = dict(waiting)
    while free:
        node = free.pop()
        del left[node]
        for behind in waited_for.get(node, ()):
            if behind in left:
                left[behind] -= 1
                if left[behind] == 0:
                    free.append(behind)
    cycles, seen = [], set()
    for start in left:
        path: list[str] = []
        place: dict[str, int] = {}
        node = start
        while node not in seen:
            seen.add(node)
            place[node] = len(path)
            path.append(node)
            node = next(other for other in edges[node] if other in left)
        if node in place:
            cycles.append(path[place[node] :])
    return cycles
