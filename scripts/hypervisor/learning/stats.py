"""What was measured of each class of tasks: throughput by the number that ran at once. Pure.

A *class* is the tasks of one type and pattern. What follows from the figures is decided in `advice`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..core.errors import UsageError
from ..store.lessons import Lesson, LevelStats

#: The pattern of tasks that wait for no other; see `patterns_of`.
INDEPENDENT = "independent"
#: The level of samples during which the number that ran at once changed.
NO_LEVEL = 0
#: A sample counts for a level if it spent this share of its time at it.
_MOSTLY = 0.75
#: Outcomes that bring a batch on.
_DONE = frozenset({"success", "blocked"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskClass:
    """Tasks that are alike."""

    #: ``type`` of their files; "" for those without.
    type: str = ""
    #: See `patterns`.
    pattern: str = INDEPENDENT

    def __str__(self) -> str:
        name = self.type or "untyped"
        return name if self.pattern == INDEPENDENT else f"{name} ({self.pattern})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One attempt, for as long as nothing else could run in its place."""

    task: str
    task_class: TaskClass
    #: Seconds since the epoch.
    begin: float
    end: float
    #: A result's status; whatever else for an attempt that is repeated.
    outcome: str
    #: Whether a service, or the agent by exit 75, said "not now".
    refused: bool = False
    #: Of the agent and all its children that it waited for; None where that is not known.
    cpu_seconds: float | None = None
    #: Peak memory of its largest process; None where that is not known.
    ram_mb: float | None = None

    @property
    def seconds(self) -> float:
        """How long it took."""
        return max(0.0, self.end - self.begin)


def stats_of(sample: Sample) -> LevelStats:
    """Return the figures of one sample."""
    return LevelStats(
        samples=1, done=int(sample.outcome in _DONE), successes=int(sample.outcome == "success"),
        refused=int(sample.refused), seconds=sample.seconds, cpu_seconds=sample.cpu_seconds or 0.0,
        cpu_known_seconds=0.0 if sample.cpu_seconds is None else sample.seconds, ram_mb=sample.ram_mb,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassStats:
    """All that is known of one class."""

    #: By the number that ran at once; `NO_LEVEL` holds the samples that count for no number.
    levels: Mapping[int, LevelStats] = field(default_factory=dict)
    lesson: Lesson | None = None

    @property
    def total(self) -> LevelStats:
        """All samples added up."""
        return sum(self.levels.values(), LevelStats())

    @property
    def cpu(self) -> float | None:
        """Cores that one agent keeps busy: measured, else as said."""
        busy = self.total.busy
        return busy if busy is not None else self.lesson.cpu if self.lesson else None

    @property
    def ram_mb(self) -> float | None:
        """Memory of one agent: measured or said, whichever is more."""
        figures = [self.total.ram_mb, self.lesson.ram_mb if self.lesson else None]
        return max((figure for figure in figures if figure is not None), default=None)

    def adding(self, level: int, stats: LevelStats) -> ClassStats:
        """Return these statistics with *stats* added to *level*."""
        levels = {**self.levels, level: self.levels.get(level, LevelStats()) + stats}
        return ClassStats(levels=levels, lesson=self.lesson)


class ConcurrencyClock:
    """Watches the running attempts of one class, and assigns each to a level when it ends.

    A sample counts for level k if it spent three quarters of its time while exactly k ran, and took the place
    of one that had ended while k ran. Those started to raise the number do not count for it: the first of
    eight that queue for one lock does not wait.
    """

    def __init__(self) -> None:
        #: For each running attempt: seconds spent at each number.
        self._running: dict[str, dict[int, float]] = {}
        #: Those that took the place of one that had ended, and how many ran then.
        self._replaced: dict[str, int] = {}
        #: How many ran when the last one ended, or the first of several that ended one after the other.
        self._steady = 0
        self._ending = False
        self._now = 0.0

    def started(self, task: str, now: float) -> None:
        """Note that an attempt begins."""
        self._advance(now)
        self._ending = False
        self._running[task] = {}
        if len(self._running) <= self._steady:
            self._replaced[task] = self._steady

    def ended(self, task: str, now: float) -> int:
        """Note that an attempt is over; return the level for which it counts."""
        self._advance(now)
        if not self._ending:
            self._steady, self._ending = len(self._running), True
        spent = self._running.pop(task, {})
        level, seconds = max(spent.items(), key=lambda one: one[1], default=(NO_LEVEL, 0.0))
        counts = self._replaced.pop(task, None) == level and seconds >= _MOSTLY * sum(spent.values())
        return level if counts else NO_LEVEL

    def _advance(self, now: float) -> None:
        passed, number = now - self._now, len(self._running)
        self._now = max(now, self._now)
        if passed > 0:
            for spent in self._running.values():
                spent[number] = spent.get(number, 0.0) + passed


# -------------------------------------------------------------------- patterns
# How the tasks of a batch lean on each other is read off their dependencies, and never told beside them:
# two words for one thing would differ.

PIPELINE, MAP_REDUCE = "pipeline", "map-reduce"
#: What a task is that gathers the results of others.
REDUCE = "reduce"
#: So many results are gathered by a reduce; one alone is handed on.
_GATHERED = 2


def patterns_of(tasks: Iterable[tuple[str, Sequence[str]]]) -> dict[str, str]:
    """Return the patterns of those tasks that are not independent.

    Args:
        tasks: Ids, each with those that it depends on; ids of no task in it count as met.

    Returns:
        By id: ``map-reduce`` for a task that waits for two or more, and for each of those; ``pipeline`` for
        every other one that waits, or is waited for.
    """
    waits = {name: tuple(others) for name, others in tasks}
    found: dict[str, str] = {}
    known = {name: [one for one in others if one in waits] for name, others in waits.items() if others}
    for name, others in known.items():
        for one in (name, *others) if others else ():
            found.setdefault(one, PIPELINE)
    for name, others in known.items():
        if len(others) >= _GATHERED:
            found.update(dict.fromkeys((name, *others), MAP_REDUCE))
    return found


def arranged(types: Sequence[str], pattern: str) -> list[list[int]]:
    """Return for each of some tasks the places of those that it waits for.

    Args:
        types: The types of the tasks, in their order.
        pattern: ``independent``; ``pipeline``: each waits for the one before; ``map-reduce``: those of the
            type ``reduce``, or else the last, wait for all others.

    Raises:
        UsageError: There are too few of them for the pattern.
    """
    places = range(len(types))
    if pattern == INDEPENDENT:
        return [[] for _ in places]
    if len(types) < 2:
        raise UsageError(f"{pattern} needs two tasks at least; leave the pattern away for one")
    if pattern == PIPELINE:
        return [[at - 1] if at else [] for at in places]
    reduces = {at for at in places if types[at] == REDUCE} or {len(types) - 1}
    maps = [at for at in places if at not in reduces]
    if not maps:
        raise UsageError("map-reduce needs a task that is no reduce; give the others another type")
    return [list(maps) if at in reduces else [] for at in places]
