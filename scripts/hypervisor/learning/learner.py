"""What was seen of each kind of task: how long its attempts took while so many of them ran at once. Pure.

A *lane* is the tasks of one type and pattern. What follows from the figures stands in `advice`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

#: An attempt counts for a number at once if it spent so much of its time beside so many.
_MOSTLY = 0.75
#: Durations are taken to differ by so much of their mean at least: few attempts may agree by chance.
_SPREAD = 0.1

#: Ends of an attempt that brought the batch on.
_BROUGHT_ON = frozenset({"success", "blocked"})
INDEPENDENT = "independent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Tasks that are alike."""

    #: ``type`` of their files; "" for those without.
    type: str = ""
    #: See `patterns`.
    pattern: str = INDEPENDENT

    def __str__(self) -> str:
        name = self.type or "untyped"
        return name if self.pattern == INDEPENDENT else f"{name} ({self.pattern})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One attempt, for as long as nothing else could run in its place."""

    task: str
    lane: Lane
    #: Seconds since the epoch.
    begin: float
    end: float
    #: An `Outcome`, ``again`` or ``retry``.
    how: str
    #: Whether a service, or the agent by exit 75, said "not now".
    refused: bool = False
    #: Of the agent and all it has waited for; None where that is not known.
    cpu_seconds: float | None = None
    #: The most that one of its processes had in memory.
    ram_mb: float | None = None

    @property
    def seconds(self) -> float:
        """How long it took."""
        return max(0.0, self.end - self.begin)


@dataclass(slots=True, kw_only=True)
class Observed:
    """The attempts that were made while so many of their lane ran at once."""

    tries: int = 0
    #: Those that brought the batch on.
    done: int = 0
    refused: int = 0
    #: How long they took together, the squares of that, and their processor time.
    seconds: float = 0.0
    squares: float = 0.0
    cpu_seconds: float = 0.0

    def count(self, span: Span) -> None:
        """Add an attempt."""
        self.add(Observed(
            tries=1, done=span.how in _BROUGHT_ON, refused=span.refused, seconds=span.seconds,
            squares=span.seconds**2, cpu_seconds=span.cpu_seconds or 0.0,
        ))  # fmt: skip

    def add(self, other: Observed) -> None:
        """Add what was seen elsewhere."""
        self.tries += other.tries
        self.done += other.done
        self.refused += other.refused
        self.seconds += other.seconds
        self.squares += other.squares
        self.cpu_seconds += other.cpu_seconds

    @property
    def doubt(self) -> float:
        """The standard error of the mean duration, as a share of it."""
        mean = self.seconds / self.tries
        spread = math.sqrt(max(0.0, self.squares / self.tries - mean**2)) / mean if mean else 0.0
        return max(_SPREAD, spread) / math.sqrt(self.tries)


@dataclass(slots=True, kw_only=True)
class Totals:
    """All attempts of a lane together."""

    tries: int = 0
    successes: int = 0
    refused: int = 0
    seconds: float = 0.0
    #: Of the attempts whose processor time is known, and how long those took.
    cpu_seconds: float = 0.0
    cpu_known_seconds: float = 0.0
    #: The most of any.
    ram_mb: float | None = None

    def count(self, span: Span) -> None:
        """Add an attempt."""
        cpu = span.cpu_seconds
        self.add(Totals(
            tries=1, successes=span.how == "success", refused=span.refused, seconds=span.seconds,
            cpu_seconds=cpu or 0.0, cpu_known_seconds=0.0 if cpu is None else span.seconds,
            ram_mb=span.ram_mb,
        ))  # fmt: skip

    def add(self, other: Totals) -> None:
        """Add what was seen elsewhere."""
        self.tries += other.tries
        self.successes += other.successes
        self.refused += other.refused
        self.seconds += other.seconds
        self.cpu_seconds += other.cpu_seconds
        self.cpu_known_seconds += other.cpu_known_seconds
        if other.ram_mb is not None:
            self.ram_mb = max(self.ram_mb or 0.0, other.ram_mb)


#: By how many ran at once.
Levels = dict[int, Observed]


class LaneClock:
    """Watches one lane: how many run, and for which number of them each attempt counts.

    It counts if it took the place of one that had ended, and so many ran then as later. Those that are begun
    to make it more meet no crowd yet: the first of eight that wait for each other does not wait. And what was
    begun among fewer stands before those that come.
    """

    def __init__(self) -> None:
        self.levels: Levels = {}
        #: Of each attempt that runs: for how long so many ran.
        self._running: dict[str, dict[int, float]] = {}
        #: Those of them that took the place of one that had ended, and how many ran then.
        self._steady: dict[str, int] = {}
        #: How many ran when the last one ended, or the first of several that ended one after the other.
        self._settled = 0
        self._ends = False
        self._since = 0.0

    def began(self, task: str, now: float) -> None:
        """Note that an attempt begins."""
        self._advance(now)
        self._ends = False
        self._running[task] = {}
        if len(self._running) <= self._settled:
            self._steady[task] = self._settled

    def ended(self, span: Span, now: float | None = None) -> None:
        """Note that an attempt is over; *now* is until when it was watched, if that is not its end."""
        spent = self._leave(span.task, span.end if now is None else now)
        number, seconds = max(spent.items(), key=lambda one: one[1], default=(0, 0.0))
        if self._steady.pop(span.task, None) == number and seconds >= _MOSTLY * span.seconds:
            self.levels.setdefault(number, Observed()).count(span)

    def dropped(self, task: str, now: float) -> None:
        """Note that one runs no more of which nothing is learnt."""
        self._leave(task, now)
        self._steady.pop(task, None)

    def _leave(self, task: str, now: float) -> dict[int, float]:
        self._advance(now)
        if not self._ends:
            self._settled, self._ends = len(self._running), True
        return self._running.pop(task, {})

    def _advance(self, now: float) -> None:
        passed, number = now - self._since, len(self._running)
        self._since = max(now, self._since)
        if passed > 0:
            for spent in self._running.values():
                spent[number] = spent.get(number, 0.0) + passed


def sweep(spans: Iterable[Span]) -> Levels:
    """Return what one run's attempts of one lane came to, by how many ran at once.

    Its end is left out, from the last begin on: the longest attempts are alone there, and would tell of
    numbers at which the run never meant to work.
    """
    ordered = sorted(spans, key=lambda span: span.begin)
    marks = sorted(
        [(span.begin, 1, span) for span in ordered] + [(span.end, 0, span) for span in ordered],
        key=lambda mark: mark[:2],
    )
    last = ordered[-1].begin if ordered else 0.0
    clock = LaneClock()
    for at, begins, span in marks:
        # Several attempts of one task may follow each other: told apart by when they began.
        one = replace(span, task=f"{span.task}@{span.begin}")
        if begins:
            clock.began(one.task, at)
        else:
            clock.ended(one, min(at, last))
    return clock.levels


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What somebody has said of a type of task."""

    #: 0 for nothing gained, 1 for twice as many doing twice as much; None if not said.
    benefit: float | None = None
    notes: str = ""
    #: Cores that one agent keeps busy, and memory in MB; None if not said.
    cpu: float | None = None
    ram_mb: float | None = None
    #: Who said it, and when.
    by: str = ""
    at: str = ""


@dataclass(slots=True, kw_only=True)
class Known:
    """All that is known of a lane."""

    levels: Levels = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    told: Told | None = None

    @property
    def cpu(self) -> float | None:
        """Cores that one agent keeps busy: measured, else as told."""
        if self.totals.cpu_known_seconds > 0:
            return self.totals.cpu_seconds / self.totals.cpu_known_seconds
        return self.told.cpu if self.told else None

    @property
    def ram_mb(self) -> float | None:
        """Memory of one agent: measured or told, whichever is more."""
        figures = [self.totals.ram_mb, self.told.ram_mb if self.told else None]
        return max((figure for figure in figures if figure is not None), default=None)
