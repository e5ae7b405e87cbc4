"""How many of each kind of task a run works on at once: the learner at work in a coordinator.

What an attempt came to goes into the batch's log; all that is learnt is made of that.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from ..core.errors import HypervisorError
from ..core.paths import Project
from ..events import RunEvent
from ..learning.advice import Advice, Room
from ..learning.learner import Lane, Span
from ..learning.learnings import Learnings, span_details
from ..learning.pacer import Pacer
from ..learning.patterns import patterns_of
from ..monitor.cgroups import Cgroups
from ..monitor.readings import Sampler
from ..runners.agent import Usage
from .schedule import Entry

#: So many kinds of task are paced, those with the most tasks; each look at the queue looks at all of them.
_LANES = 50
#: What is neither a result nor another try was no attempt: somebody else had the task.
_NO_ATTEMPT = ("held", "gone")


class Paced(Protocol):
    """A scheduler, as far as it is told how many of a lane may run."""

    def pace(self, lane: Lane, most: int) -> None:
        """Let so many of a lane run at once."""


class Pacing:
    """The pace of one run.

    Args:
        pacer: Decides.
        tasks: All tasks of the run.
        log: Adds an event to the batch's log.
        say: Tells a person one line.
    """

    def __init__(
        self,
        pacer: Pacer,
        tasks: Sequence[Entry],
        log: Callable[..., None],
        say: Callable[[str], None],
    ) -> None:
        self._pacer, self._log, self._say = pacer, log, say
        counted = Counter(task.lane for task in tasks) if pacer.advises else Counter[Lane]()
        self._lanes = [lane for lane, _ in counted.most_common(_LANES)]
        self._running: dict[str, tuple[Lane, float]] = {}
        self._over: dict[str, Span] = {}

    @property
    def limits(self) -> Mapping[Lane, int]:
        """How many of a lane may run at once, for those that are paced."""
        return {lane: self._pacer.advice(lane).concurrency for lane in self._lanes}

    def explain(self) -> list[str]:
        """Return what was learnt of each lane, a line each; nothing where nothing was to be learnt."""
        if not self._pacer.explores:
            return []
        return [_line(lane, self._pacer.advice(lane)) for lane in self._lanes]

    def tell(self) -> None:
        """Tell the user, and the log, at what pace the run begins."""
        for lane in self._lanes:
            self._told(lane, self._pacer.advice(lane))

    def begin(self, task: str, lane: Lane) -> None:
        """Note that an attempt begins."""
        now = time.time()
        self._running[task] = (lane, now)
        self._pacer.began(task, lane, now)

    def over(self, task: str, how: str, usage: Usage | None, *, refused: bool) -> None:
        """Note that an attempt is over, from whatever thread; None if no agent was set to work."""
        lane, begun = self._running[task]
        if usage is None or how in _NO_ATTEMPT:
            return
        self._over[task] = Span(
            task=task, lane=lane, begin=begun, end=time.time(), how=how, refused=refused,
            cpu_seconds=usage.cpu_seconds, ram_mb=usage.ram_mb,
        )  # fmt: skip
        self._log(RunEvent.TRIED, task, **span_details(self._over[task]))

    def settle(self, task: str, scheduler: Paced) -> None:
        """Let go of an attempt's place, and learn of it; from the thread that decides."""
        lane, _ = self._running.pop(task)
        span = self._over.pop(task, None)
        if span is None:
            self._pacer.dropped(task, lane, time.time())
            return
        fresh = self._pacer.ended(span)
        if fresh is not None and lane in self._lanes:
            scheduler.pace(lane, fresh.concurrency)
            self._told(lane, fresh)

    def _told(self, lane: Lane, advice: Advice) -> None:
        self._log(
            RunEvent.PACED, "", type=lane.type, pattern=lane.pattern, limit=advice.concurrency, why=advice.why
        )
        self._say(_line(lane, advice))


def pacing_of(
    project: Project,
    settings: Mapping[str, Any],
    strategy: str,
    limit: int,
    tasks: Sequence[Entry],
    tell: tuple[Callable[..., None], Callable[[str], None]],
) -> Pacing:
    """Return the pace of a run, from what earlier batches came to.

    What was learnt is a help: a file of it that cannot be read is told, and the run goes on without.
    """
    known = {}
    if strategy in ("auto", "adaptive"):
        try:
            learnings = Learnings(project)
            learnings.learn()
            known = learnings.known_of({task.lane for task in tasks})
        except HypervisorError as error:
            print(f"hypervisor: nothing learnt is known: {error}", file=sys.stderr)
    pacer = Pacer(strategy, room_of(project, settings, limit), known)
    return Pacing(pacer, tasks, *tell)


def room_of(project: Project, settings: Mapping[str, Any], limit: int) -> Room:
    """Return what there is to run agents with, now."""
    available = Sampler(str(project.root)).read().available_bytes
    return Room(
        cores=cores(), ram_mb=available / 2**20 if available is not None else float("inf"), cap=max(1, limit),
        worth=settings["learning"]["worth"],
    )  # fmt: skip


def cores() -> float:
    """Return how many processors this process may use."""
    with contextlib.suppress(AttributeError):  # where the kernel has no such thing
        allowed = len(os.sched_getaffinity(0))
        return min([float(allowed), *(group.cpus for group in Cgroups("/").cpu())])
    return float(os.cpu_count() or 1)


def with_lanes(tasks: Sequence[Entry], types: Mapping[str, str]) -> list[Entry]:
    """Return *tasks* with their lanes.

    Args:
        tasks: All tasks of a run.
        types: The type of each task that has one, by id.
    """
    shapes = (
        patterns_of((task.id, task.depends_on) for task in tasks) if any(t.depends_on for t in tasks) else {}
    )
    lanes: dict[tuple[str, str], Lane] = {}
    found = []
    for task in tasks:
        key = types.get(task.id, ""), shapes.get(task.id, Lane().pattern)
        lane = lanes.setdefault(key, Lane(type=key[0], pattern=key[1]))
        found.append(task if lane == task.lane else replace(task, lane=lane))
    return found


def _line(lane: Lane, advice: Advice) -> str:
    return f"{lane}: {advice.concurrency} at once: {advice.why}"
