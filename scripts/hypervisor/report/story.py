"""What the log of a batch tells over time: attempts, what they used up, and the machine's state. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core import printable
from ..core.clock import seconds_of
from ..events import RunEvent
from ..queue.progress import Progress

#: The most readings that are given: a screen has not more columns.
_READINGS = 600
#: Figures of a reading, by the names that events use.
FIGURES = ("cpu_percent", "ram_percent", "pressure_percent")
_MARKS = {
    RunEvent.STARTED: "started", RunEvent.PAUSED: "paused", RunEvent.LOWERED: "lowered",
    RunEvent.HALTED: "halted", RunEvent.FINISHED: "finished", RunEvent.LEVEL: "level",
    RunEvent.OVERSEEN: "overseen",
}  # fmt: skip
#: An older zone says nothing of now, in seconds.
ZONE_SECONDS = 60.0
#: The most marks that are given: the last.
_MOST_MARKS = 200


@dataclass(slots=True)
class Story:
    """One batch's log, as far as it was heard."""

    folder: str
    progress: Progress = field(default_factory=Progress)
    #: Attempts that are over: task, generation, begin, end, how.
    attempts: list[tuple[str, int, float, float, str]] = field(default_factory=list)
    #: Where the output of each task's last attempt is kept, below the batch's folder.
    logs: dict[str, str] = field(default_factory=dict)
    #: When each attempt ended, and what all until then used up: tokens, money; None where none has said.
    spending: list[tuple[float, float | None, float | None]] = field(default_factory=list)
    #: How many attempts told their tokens, and their cost.
    tokens_known: int = 0
    cost_known: int = 0
    #: When, what, in words: the coordinators' comings and goings.
    marks: list[tuple[float, str, str]] = field(default_factory=list)
    #: When, the figures of `FIGURES`, the zone ("" where none is told).
    readings: list[tuple[float, list[float | None], str]] = field(default_factory=list)
    #: The zone that was told last, and why.
    zone: str = ""
    zone_why: str = ""
    #: When it was told; None for what holds until something else is told.
    zone_at: float | None = None
    _begun: dict[str, tuple[int, float]] = field(default_factory=dict)
    _heard: int = 0
    #: Whether the machine's zone is told now and then, so that a level need not stand for it.
    _read: bool = False

    def hear(self, events: list[dict[str, Any]]) -> None:
        """Take in the events of *events* that are new: its tail since the last call."""
        for event in events[self._heard :]:
            at = _time(event.get("at"))
            if at is not None:
                self.progress.add(event, self.folder)
                self._hear(at, event)
        self._heard = len(events)

    def _hear(self, at: float, event: Mapping[str, Any]) -> None:
        what, task = event.get("event"), str(event.get("task", ""))
        if what == RunEvent.BEGUN:
            self._begun[task] = (int(number(event.get("generation")) or 0), at)
            self.logs[task] = str(event.get("log", ""))
        elif what == RunEvent.ENDED:
            generation, begin = self._begun.pop(task, (int(number(event.get("generation")) or 0), at))
            self.attempts.append((task, generation, begin, at, printable.line(event.get("how"), 40)))
            self._spend(at, number(event.get("tokens")), number(event.get("cost_usd")))
        elif what in _MARKS:
            text = printable.line(event.get("why") or "", 300)
            if what == RunEvent.PAUSED:
                text = f"until {printable.line(event.get('until'), 40)}: {text}"
            elif what == RunEvent.LEVEL:
                text = f"{printable.line(event.get('level'), 20)}: {text}"
            elif what == RunEvent.OVERSEEN:
                told = (event.get(key) for key in ("task", "act", "measure", "figure", "limit"))
                text = printable.line(" ".join(str(one) for one in told if one is not None), 200)
            self.marks = [*self.marks[1 - _MOST_MARKS :], (at, _MARKS[RunEvent(what)], text)]
        # Whoever tells of the machine: the figures are what makes it a reading.
        figures = [number(event.get(name)) for name in FIGURES]
        self._read = self._read or what == RunEvent.READING
        zone = printable.line(event.get("zone") or (not self._read and event.get("level")) or "", 20)
        if zone or any(figure is not None for figure in figures):
            self.readings.append((at, figures, zone))
        if zone:
            self.zone, self.zone_why, self.zone_at = zone, printable.line(event.get("why") or "", 200), at
            if what == RunEvent.LEVEL:
                self.zone_at = None
        elif what in (RunEvent.STARTED, RunEvent.FINISHED) and self.zone_at is None:
            self.zone = self.zone_why = ""

    def _spend(self, at: float, tokens: float | None, cost: float | None) -> None:
        _, tokens_sum, cost_sum = self.spending[-1] if self.spending else (at, None, None)
        self.tokens_known += tokens is not None
        self.cost_known += cost is not None
        self.spending.append((at, _sum(tokens_sum, tokens), _sum(cost_sum, cost)))

    def zone_holds(self, now: float) -> bool:
        """Tell whether the zone that was told last says something of *now*, in seconds since the epoch."""
        return bool(self.zone) and (self.zone_at is None or now - self.zone_at <= ZONE_SECONDS)

    def spent(self) -> list[tuple[float, float | None, float | None]]:
        """Return the sums over time, at most some hundred of them, the last one always."""
        step = max(1, -(-len(self.spending) // _READINGS))
        return self.spending[len(self.spending) - 1 :: -step][::-1] if self.spending else []

    def thinned(self) -> list[list[Any]]:
        """Return the readings, at most some hundred: of those that lie together the worst."""
        step = max(1, -(-len(self.readings) // _READINGS))
        made = []
        for at in range(0, len(self.readings), step):
            some = self.readings[at : at + step]
            worst = [_most(figures[n] for _, figures, _ in some) for n in range(len(FIGURES))]
            made.append([some[0][0], *worst, next((zone for *_, zone in reversed(some) if zone), "")])
        return made


def _sum(before: float | None, more: float | None) -> float | None:
    return before if more is None else more + (before or 0.0)


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def total(values: Iterable[float | None]) -> tuple[float | None, int]:
    """Return the sum of what is known, None if nothing is, and how many are known."""
    known = [value for value in values if value is not None]
    return (sum(known) if known else None), len(known)


def number(value: object) -> float | None:
    """Return *value* if it is a number (and no bool), None if it is anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value if abs(value) < 1e15 else None


def _time(text: object) -> float | None:
    try:
        return seconds_of(str(text))
    except ValueError:
        return None
