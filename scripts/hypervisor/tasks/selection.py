"""Which task an agent gets that asks for "the next one". Pure, but for a coin that keeps racers apart."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..core.model import Complexity, TaskHead
from .preflight import unfit_for_next

#: How many tasks of equal urgency racers spread over. The first of them is always tried first, so
#: that a single worker goes in order.
SPREAD = 32
_REASONS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What an agent asks for."""

    project: str = ""
    complexity: Complexity | None = None
    #: Paths of tasks, None for all: those of a batch.
    among: frozenset[str] | None = None
    #: What the agent has that a task may need (``mcp:outlook``).
    has: frozenset[str] = field(default_factory=frozenset)

    def asks_for(self, task: TaskHead) -> bool:
        """Tell whether *task* is of the kind that is asked for."""
        return (
            (not self.project or task.project.casefold() == self.project.casefold())
            and (self.complexity is None or task.complexity is self.complexity)
            and (self.among is None or task.path in self.among)
        )

    def refusal(self, task: TaskHead) -> str | None:
        """Return why a task of that kind is passed over, None if it is not."""
        unfit = unfit_for_next(task) if self.complexity is None else None
        if unfit:
            return f"{unfit}, which is given only to those who ask for it"
        missing = [need for need in task.needs if need not in self.has]
        return f"needs {', '.join(missing)}" if missing else None


def in_turn(ready: Sequence[TaskHead]) -> Iterator[TaskHead]:
    """Yield *ready* tasks, the most urgent first.

    Many who ask at once would all try the same task, and the next, and the next: whoever loses the
    first goes on at a random one of equal urgency.
    """
    left = sorted(ready, key=lambda task: task.priority.rank)
    while left:
        yield left[0]
        rank = left[0].priority.rank
        window = [task for task in left[1 : 1 + SPREAD] if task.priority.rank == rank]
        random.shuffle(window)
        left[: 1 + len(window)] = window


def nothing_ready(reasons: Mapping[str, int]) -> str:
    """Return in one line why no task could be given out, from the reasons and how many have each."""
    if not reasons:
        return "there is no task of this kind; see list_tasks or `hypervisor task list`"
    counts = Counter(reasons).most_common()
    told = [f"{count} {reason}" for reason, count in counts[:_REASONS]]
    more = sum(count for _, count in counts[_REASONS:])
    return f"nothing is ready: {'; '.join(told)}{f'; {more} for other reasons' if more else ''}"
