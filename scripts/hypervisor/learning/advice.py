"""How many tasks of a class to run at once: measurements in, a number and the reason out. Pure.

The formulas, and where they come from, are in docs/learning.md; nothing else decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..store.lessons import LevelStats
from .stats import NO_LEVEL, ClassStats, ConcurrencyClock, Sample, TaskClass, stats_of

#: A level with this share of the highest throughput is as fast.
AS_FAST = 0.95
#: Samples after which a level counts as measured; as many as run at once, if that is more.
_LEAST = 6
#: The share of refused attempts ("too many requests") above which a level is too high, and how many at
#: least: a single one may have another cause.
_REFUSED_SHARE, _REFUSED_LEAST = 0.05, 2
#: From this share of busy cores on, processors are the bottleneck; from this benefit on, nothing is.
_BUSY_CORES, _FREE = 0.7, 0.6
#: An agent that keeps this share of a core busy waits for no other: fewer at once do less.
_BUSY_AGENT = 0.8

Bottleneck = Literal["none", "cpu", "memory", "rate limit", "lock", "unknown"]
_SHORT = {"cpu": "processors", "memory": "memory", "rate limit": "the service's rate limit",
          "lock": "a shared lock or an unseen limit"}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What there is to run agents with."""

    cores: float
    #: Free memory, in MB.
    ram_mb: float
    #: The most that may run at once.
    cap: int
    #: The least benefit at which more at once is worth its cost (setting ``learning.worth``).
    worth: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """How many of a class to run at once, and why."""

    concurrency: int
    #: One line, with the number of attempts that it rests on.
    why: str
    #: What each further agent adds, as a share of the first; None if unknown.
    benefit: float | None = None
    bottleneck: Bottleneck = "unknown"
    #: Attempts seen.
    samples: int = 0
    #: Whether this number is tried in order to measure it.
    explores: bool = False


# --------------------------------------------------------------------- formulas


def throughput(levels: Mapping[int, LevelStats]) -> dict[int, float]:
    """Return the items per second at each measured level: k done / seconds (Little's law)."""
    top = refusal_limit(levels)
    return {
        level: level * seen.done / seen.seconds
        for level, seen in sorted(levels.items())
        if level != NO_LEVEL and level <= top and seen.seconds > 0 and seen.samples >= max(_LEAST, level)
    }


def refusal_limit(levels: Mapping[int, LevelStats]) -> float:
    """Return how many at once are not refused; infinite if none ever was."""
    too_many = [
        level
        for level, seen in levels.items()
        if level != NO_LEVEL
        and seen.refused >= _REFUSED_LEAST
        and seen.refused > _REFUSED_SHARE * seen.samples
    ]
    return max(1, min(too_many) - 1) if too_many else float("inf")


def memory_limit(stats: ClassStats, capacity: Capacity) -> int:
    """Return how many fit into free memory: at least one, at most the cap."""
    ram = stats.ram_mb
    return max(1, min(capacity.cap, int(capacity.ram_mb / ram))) if ram else capacity.cap


def best_level(rates: Mapping[int, float]) -> int | None:
    """Return the fewest at once that are as fast as any; None if nothing is measured."""
    fastest = max(rates.values(), default=0.0)
    as_fast = [level for level, rate in rates.items() if fastest and rate >= AS_FAST * fastest]
    return min(as_fast, default=None)


def benefit(rates: Mapping[int, float]) -> float | None:
    """Return what each agent adds beyond the first, as a share of what one does alone; None if unknown.

    That is *p* in S(k) = 1 + p (k - 1), Gustafson's law, solved for two levels.
    """
    best = best_level(rates)
    if best is None or len(rates) < 2:
        return None
    low = min(rates)
    high = best if best != low else max(rates)
    if not rates[low]:
        return None
    ratio = rates[high] / rates[low]
    under = (high - 1) - ratio * (low - 1)
    return 1.0 if under <= 0 else min(1.0, max(0.0, (ratio - 1) / under))


def bottleneck(stats: ClassStats, capacity: Capacity) -> Bottleneck:
    """Return what keeps more at once from doing more."""
    if refusal_limit(stats.levels) < float("inf"):
        return "rate limit"
    rates, fits = throughput(stats.levels), memory_limit(stats, capacity)
    best, gain = best_level(rates), benefit(rates)
    if fits < capacity.cap and (best is None or best >= fits):
        return "memory"
    if best is None or gain is None:
        return "unknown"
    if best == max(rates) and gain >= _FREE:
        return "none"
    # The shortage shows above the best level, if that was measured.
    level = min((level for level in rates if level > best), default=best)
    busy = stats.levels[level].busy
    if busy is None:
        return "unknown"
    return "cpu" if level * busy / capacity.cores >= _BUSY_CORES else "lock"


# ----------------------------------------------------------------------- advice


def advise(stats: ClassStats, capacity: Capacity, *, explores: bool) -> Advice:
    """Return how many of a class to run at once.

    Args:
        stats: What was measured and said of it.
        capacity: What there is to run with.
        explores: Whether to try one more or one fewer than the best, if that was not measured.
    """
    fits = memory_limit(stats, capacity)
    top = int(min(fits, refusal_limit(stats.levels)))
    rates = {level: rate for level, rate in throughput(stats.levels).items() if level <= top}
    gain, short, samples = benefit(rates), bottleneck(stats, capacity), stats.total.samples

    def say(concurrency: int, why: str, *, to_learn: bool = False) -> Advice:
        seen = f"{why}; {samples} attempt{'' if samples == 1 else 's'} seen"
        return Advice(
            concurrency=concurrency, why=seen, benefit=gain, bottleneck=short, samples=samples,
            explores=to_learn,
        )  # fmt: skip

    best = best_level(rates)
    if best is None or (len(rates) < 2 and not explores):
        return say(*_unmeasured(stats, capacity, top, explores=explores))
    figures = ", ".join(f"{level}: {rate * 60:.3g}/min" for level, rate in rates.items())
    if explores and (probe := _probe(stats, rates, best, top)):
        return say(probe, f"measuring {probe} ({figures})", to_learn=True)
    if best == max(rates) < top and gain is not None and gain >= capacity.worth:
        return say(top, f"each further agent adds {gain:.2f} of one ({figures})")
    if best == top == capacity.cap:
        return say(best, f"as many as may run ({figures})")
    reason = "more are not faster" if best < top else "more are refused" if top < fits else "no more fit"
    limit = f", limited by {_SHORT[short]}" if short in _SHORT else ""
    return say(best, f"{reason} ({figures}){limit}")


def _unmeasured(stats: ClassStats, capacity: Capacity, top: int, *, explores: bool) -> tuple[int, str]:
    """Return a number for a class of which no two levels are measured, and why."""
    lesson = stats.lesson
    if lesson is not None and lesson.benefit is not None:
        low = lesson.benefit < capacity.worth
        return 1 if low else top, f"said to gain {lesson.benefit:g} of one by each further agent"
    if refusal_limit(stats.levels) < float("inf"):
        return top, "more were refused"
    if explores:
        return max(1, (top + 1) // 2), "nothing is measured yet"
    return top, "too little is measured to run fewer"


def _probe(stats: ClassStats, rates: Mapping[int, float], best: int, top: int) -> int | None:
    """Return one more or one fewer than the best, if that may be better and was not measured."""
    if best + 1 <= top and best + 1 not in rates:
        return best + 1
    busy = stats.levels[best].busy or 0.0
    return best - 1 if best > 1 and best - 1 not in rates and busy < _BUSY_AGENT else None


# ----------------------------------------------------------------------- policy


class ConcurrencyPolicy:
    """Decides, while a run works, how many of each class may run at once. Times are passed in.

    Args:
        strategy: ``parallel`` and ``sequential`` need no advice; ``auto`` follows what is known at the start;
            ``adaptive`` also learns on the way, and measures what is unknown.
        capacity: What there is to run with.
        known: What is known of each class.
    """

    def __init__(self, strategy: str, capacity: Capacity, known: Mapping[TaskClass, ClassStats]) -> None:
        self._strategy = strategy
        self._capacity = capacity
        self._stats = dict(known)
        self._clocks: dict[TaskClass, ConcurrencyClock] = {}
        self._advice: dict[TaskClass, Advice] = {}

    @property
    def advises(self) -> bool:
        """Whether the number of a class may be below the run's own limit."""
        return self._strategy in ("auto", "adaptive")

    @property
    def explores(self) -> bool:
        """Whether it learns while the run works."""
        return self._strategy == "adaptive"

    def advice(self, task_class: TaskClass) -> Advice:
        """Return the advice for a class as it stands."""
        if task_class not in self._advice:
            self._advice[task_class] = self._advise(task_class)
        return self._advice[task_class]

    def started(self, task: str, task_class: TaskClass, now: float) -> None:
        """Note that an attempt begins."""
        self._clock(task_class).started(task, now)

    def dropped(self, task: str, task_class: TaskClass, now: float) -> None:
        """Note that what was started turned out to be no attempt."""
        self._clock(task_class).ended(task, now)

    def ended(self, sample: Sample) -> int:
        """Note that an attempt is over; return the level for which it counts, `NO_LEVEL` for none."""
        task_class = sample.task_class
        level = self._clock(task_class).ended(sample.task, sample.end)
        stats = self._stats.get(task_class, ClassStats())
        self._stats[task_class] = stats.adding(level, stats_of(sample))
        return level

    def revise(self, task_class: TaskClass) -> Advice | None:
        """Return new advice for a class after an attempt; None if its number stays as it was."""
        if not self.explores:
            return None
        before, fresh = self.advice(task_class), self._advise(task_class)
        self._advice[task_class] = fresh
        return fresh if fresh.concurrency != before.concurrency else None

    def _advise(self, task_class: TaskClass) -> Advice:
        stats = self._stats.get(task_class, ClassStats())
        return advise(stats, self._capacity, explores=self.explores)

    def _clock(self, task_class: TaskClass) -> ConcurrencyClock:
        return self._clocks.setdefault(task_class, ConcurrencyClock())
