"""How many tasks of each class a run works on at once: the learner's advice, applied while the run works."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..core.errors import HypervisorError
from ..core.project import Project
from ..learning.advice import Advice, Capacity, ConcurrencyPolicy
from ..learning.lessons import Lessons
from ..learning.stats import Sample, TaskClass, patterns_of
from ..monitor.metrics import Cgroups, Sampler
from ..runners.base import Usage
from ..store.events import RunEvent
from .schedule import QueuedTask

#: Classes that are limited, those with the most tasks; each look at the queue looks at all of them.
_CLASSES = 50
#: Ends that say nothing of the task: somebody else had it.
_NO_ATTEMPT = ("held", "gone")


class Paced(Protocol):
    """A scheduler, as far as its limits are set here."""

    def pace(self, task_class: TaskClass, most: int) -> None:
        """Let at most so many of a class run at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    attempt: int
    sample: Sample


class ConcurrencyController:
    """Sets how many tasks of each class of a run may be worked on at once.

    Args:
        policy: Decides.
        tasks: All tasks of the run.
        lessons: Where what attempts measured is kept.
        log: Adds an event of the run.
        say: Shows a person one line.
    """

    def __init__(
        self,
        policy: ConcurrencyPolicy,
        tasks: Sequence[QueuedTask],
        lessons: Lessons,
        log: Callable[..., None],
        say: Callable[[str], None],
    ) -> None:
        self._policy, self._lessons, self._log, self._say = policy, lessons, log, say
        counted = Counter(task.task_class for task in tasks) if policy.advises else Counter[TaskClass]()
        self._classes = [one for one, _ in counted.most_common(_CLASSES)]
        self._running: dict[str, tuple[TaskClass, float]] = {}
        self._ended: dict[str, _Ended] = {}

    @property
    def limits(self) -> Mapping[TaskClass, int]:
        """How many of a class may run at once, for those that are limited."""
        return {one: self._policy.advice(one).concurrency for one in self._classes}

    def explain(self) -> list[str]:
        """Return what was learnt of each class, a line each; nothing unless the run learns."""
        if not self._policy.explores:
            return []
        return [_line(one, self._policy.advice(one)) for one in self._classes]

    def announce(self) -> None:
        """Show, and log, the limits with which the run begins."""
        for one in self._classes:
            self._announce(one, self._policy.advice(one))

    def begin(self, task: str, task_class: TaskClass) -> None:
        """Note that an attempt begins."""
        now = time.time()
        self._running[task] = (task_class, now)
        self._policy.started(task, task_class, now)

    def over(self, task: str, attempt: int, how: str, usage: Usage | None, *, refused: bool) -> None:
        """Note that an attempt is over, from any thread.

        Args:
            task: The task.
            attempt: `Claim.attempt`.
            how: A result's status, or how else it ended.
            usage: What its agent used; None if none was started.
            refused: Whether a service, or the agent by exit 75, said "not now".
        """
        if usage is None or how in _NO_ATTEMPT:
            return
        task_class, begun = self._running[task]
        sample = Sample(
            task=task, task_class=task_class, begin=begun, end=time.time(), outcome=how, refused=refused,
            cpu_seconds=usage.cpu_seconds, ram_mb=usage.ram_mb,
        )  # fmt: skip
        self._ended[task] = _Ended(attempt=attempt, sample=sample)

    def settle(self, task: str, scheduler: Paced) -> None:
        """Free the place of an attempt, and learn from it; only from the thread that schedules."""
        task_class, _ = self._running.pop(task)
        ended = self._ended.pop(task, None)
        if ended is None:
            self._policy.dropped(task, task_class, time.time())
            return
        level = self._policy.ended(ended.sample)
        with contextlib.suppress(OSError):  # a full disk costs the sample, and no agent's work
            self._lessons.add_samples([(ended.attempt, level, ended.sample)])
        fresh = self._policy.revise(task_class)
        if fresh is not None and task_class in self._classes:
            scheduler.pace(task_class, fresh.concurrency)
            self._announce(task_class, fresh)

    def _announce(self, task_class: TaskClass, advice: Advice) -> None:
        self._log(
            RunEvent.PACED, "", type=task_class.type, pattern=task_class.pattern, limit=advice.concurrency,
            why=advice.why,
        )  # fmt: skip
        self._say(_line(task_class, advice))


def make_controller(
    lessons: Lessons,
    strategy: str,
    capacity: Capacity,
    tasks: Sequence[QueuedTask],
    *,
    log: Callable[..., None],
    say: Callable[[str], None],
) -> ConcurrencyController:
    """Return the controller of a run, with what earlier runs measured.

    What was measured is a help: if it cannot be read, that is said, and the run goes on without it.
    """
    known = {}
    if strategy in ("auto", "adaptive"):
        try:
            known = lessons.known_of({task.task_class for task in tasks})
        except (HypervisorError, OSError) as error:
            print(f"hypervisor: earlier measurements cannot be read: {error}", file=sys.stderr)
    return ConcurrencyController(ConcurrencyPolicy(strategy, capacity, known), tasks, lessons, log, say)


def capacity_of(project: Project, settings: Mapping[str, Any], limit: int) -> Capacity:
    """Return what there is to run agents with, now."""
    available = Sampler(str(project.root)).read().available_bytes
    return Capacity(
        cores=cores(), ram_mb=available / 2**20 if available is not None else float("inf"), cap=max(1, limit),
        worth=settings["learning"]["worth"],
    )  # fmt: skip


def cores() -> float:
    """Return how many processors this process may use."""
    with contextlib.suppress(AttributeError):  # where the kernel has no such thing
        allowed = len(os.sched_getaffinity(0))
        return min([float(allowed), *(group.cpus for group in Cgroups("/").cpu())])
    return float(os.cpu_count() or 1)


def with_classes(tasks: Sequence[QueuedTask], types: Mapping[str, str]) -> list[QueuedTask]:
    """Return *tasks* with their classes.

    Args:
        tasks: All tasks of a run.
        types: The type of each task that has one, by id.
    """
    patterns = (
        patterns_of((task.id, task.depends_on) for task in tasks) if any(t.depends_on for t in tasks) else {}
    )
    classes: dict[tuple[str, str], TaskClass] = {}
    found = []
    for task in tasks:
        key = types.get(task.id, ""), patterns.get(task.id, TaskClass().pattern)
        one = classes.setdefault(key, TaskClass(type=key[0], pattern=key[1]))
        found.append(task if one == task.task_class else replace(task, task_class=one))
    return found


def _line(task_class: TaskClass, advice: Advice) -> str:
    return f"{task_class}: {advice.concurrency} at once: {advice.why}"
