"""What a batch went through over time: the machine's state, what held the run up, and what attempts used.

Pure: events and attempts in, figures out. Times are seconds since the epoch, by the store's clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.text import printable_line
from ..store.events import Event, RunEvent
from ..store.progress import ItemAttempt

#: The most points of a curve: a screen has not more columns.
_POINTS = 600
#: Figures of a reading, by the names that events use.
FIGURES = ("cpu_percent", "ram_percent", "pressure_percent")
_MARKS = {
    RunEvent.STARTED: "started", RunEvent.PAUSED: "paused", RunEvent.LOWERED: "lowered",
    RunEvent.HALTED: "halted", RunEvent.FINISHED: "finished", RunEvent.LEVEL: "level",
    RunEvent.OVERSEEN: "overseen",
}  # fmt: skip
#: An older zone says nothing of now, in seconds.
ZONE_SECONDS = 60.0
#: The most marks that are kept: the last.
_MOST_MARKS = 200

#: When, the sum of the tokens, the sum of the money until then; None before any is known.
Sum = tuple[float, float | None, float | None]


@dataclass(slots=True)
class Timeline:
    """The events of a batch's runs, folded as they are read."""

    #: When, what, in words: what coordinators did and what held them up.
    marks: list[tuple[float, str, str]] = field(default_factory=list)
    #: When, the figures of `FIGURES`, the zone ("" where none is given).
    readings: list[tuple[float, list[float | None], str]] = field(default_factory=list)
    #: The zone that was given last, and why.
    zone: str = ""
    zone_why: str = ""
    #: When it was given; None for a zone that holds until another event.
    zone_at: float | None = None
    #: Why nothing, or less, starts at the moment; "" where nothing holds.
    held_up: str = ""
    #: How far the run is from what was asked for, an `admission.Level`; "" while none goes on.
    level: str = ""
    #: What the overseer did last about an agent, in words, by the attempt's id.
    overseen: dict[int, str] = field(default_factory=dict)
    #: `Worker.id` of the coordinator that started last and has not finished; it may be dead.
    coordinator: str = ""
    #: The latest event that was read.
    last: int = 0
    #: Whether the machine's zone is given now and then, so that a level need not stand for it.
    _read: bool = False

    def add(self, event: Event) -> None:
        """Take in the next event of the batch's runs."""
        self.last = event.id
        at, data = event.at / 1000, event.data
        self._note_state(event)
        if event.kind in _MARKS:
            text = printable_line(data.get("why") or "", 300)
            if event.kind == RunEvent.PAUSED:
                text = f"until {printable_line(data.get('until'), 40)}: {text}"
            elif event.kind == RunEvent.LEVEL:
                text = f"{printable_line(data.get('level'), 20)}: {text}"
            elif event.kind == RunEvent.OVERSEEN:
                said = (data.get(key) for key in ("task", "act", "measure", "figure", "limit"))
                text = printable_line(" ".join(str(one) for one in said if one is not None), 200)
            self.marks = [*self.marks[1 - _MOST_MARKS :], (at, _MARKS[RunEvent(event.kind)], text)]
        self._note_machine(at, event)

    def _note_state(self, event: Event) -> None:
        kind, data = event.kind, event.data
        why = printable_line(data.get("why") or "", 300)
        if kind in (RunEvent.STARTED, RunEvent.FINISHED):
            self.held_up, self.overseen = "", {}
            self.level = "ideal" if kind == RunEvent.STARTED else ""
            self.coordinator = str(data.get("worker", "")) if kind == RunEvent.STARTED else ""
        elif kind == RunEvent.OVERSEEN and event.attempt is not None:
            self.overseen[event.attempt] = f"{printable_line(data.get('act'), 20)}: {why}"
        elif kind == RunEvent.LEVEL:
            self.level = printable_line(data.get("level"), 20)
            room = printable_line(data.get("room"), 20)
            self.held_up = "" if self.level == "ideal" else f"{self.level}, {room} at once: {why}"
        elif kind == RunEvent.PAUSED:
            self.held_up = f"paused until {printable_line(data.get('until'), 40)}: {why}"
        elif kind == RunEvent.LOWERED:
            self.held_up = f"at most {printable_line(data.get('limit'), 20)} at once: {why}"
        elif kind == RunEvent.HALTED:
            self.held_up = f"starts nothing more: {why}"

    def _note_machine(self, at: float, event: Event) -> None:
        """Keep the machine's figures: whatever event has some is a reading."""
        kind, data = event.kind, event.data
        figures = [number(data.get(name)) for name in FIGURES]
        self._read = self._read or kind == RunEvent.READING
        zone = printable_line(data.get("zone") or (not self._read and data.get("level")) or "", 20)
        if zone or any(figure is not None for figure in figures):
            self.readings.append((at, figures, zone))
        if zone:
            self.zone, self.zone_why, self.zone_at = zone, printable_line(data.get("why") or "", 200), at
            if kind == RunEvent.LEVEL:
                self.zone_at = None
        elif kind in (RunEvent.STARTED, RunEvent.FINISHED) and self.zone_at is None:
            self.zone = self.zone_why = ""

    def zone_holds(self, now: float) -> bool:
        """Return whether the zone that was given last says something of *now*."""
        return bool(self.zone) and (self.zone_at is None or now - self.zone_at <= ZONE_SECONDS)

    def thinned(self) -> list[list[Any]]:
        """Return the readings, at most some hundred: of those that lie together the worst."""
        step = max(1, -(-len(self.readings) // _POINTS))
        made = []
        for at in range(0, len(self.readings), step):
            some = self.readings[at : at + step]
            worst = [_most(figures[n] for _, figures, _ in some) for n in range(len(FIGURES))]
            made.append([some[0][0], *worst, next((zone for *_, zone in reversed(some) if zone), "")])
        return made


def spending_of(attempts: Iterable[ItemAttempt]) -> list[Sum]:
    """Return what attempts used, added up over time: at most some hundred sums, the last one always."""
    ended = [(one.ended_at, one.tokens, one.cost_usd) for one in attempts if one.ended_at is not None]
    ended.sort(key=lambda one: one[0])
    sums: list[Sum] = []
    tokens: float | None = None
    cost: float | None = None
    for at, more_tokens, more_cost in ended:
        tokens, cost = _sum(tokens, more_tokens), _sum(cost, more_cost)
        sums.append((at / 1000, tokens, cost))
    if tokens is None and cost is None:
        return []
    step = max(1, -(-len(sums) // _POINTS))
    return sums[len(sums) - 1 :: -step][::-1]


def earlier_attempts(attempts: Sequence[ItemAttempt], final: ItemAttempt | None) -> list[list[Any]]:
    """Return the ended attempts other than the *final* one: number, start, end, how each ended."""
    return [
        [one.number, one.claimed_at / 1000, one.ended_at / 1000, how_ended(one)]
        for one in attempts
        if one is not final and one.ended_at is not None
    ]


def how_ended(attempt: ItemAttempt) -> str:
    """Return how an attempt ended, as people read it."""
    word = {"again": "given back"}.get(attempt.outcome or "", attempt.outcome or "open")
    said = printable_line(attempt.detail, 100)
    return f"{word}: {said}" if said and attempt.outcome in ("again", "revoked") else word


def number(value: object) -> float | None:
    """Return *value* if it is a number (and no bool), None if it is anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value if abs(value) < 1e15 else None


def _sum(before: float | None, more: float | None) -> float | None:
    return before if more is None else more + (before or 0.0)


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
