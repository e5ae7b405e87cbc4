"""How many of each lane a batch runs at once, while it runs. Pure; times are told to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .advice import Advice, Room, advise
from .learner import Known, Lane, LaneClock, Observed, Span, Totals


class Pacer:
    """Decides, while a batch runs, how many of each lane may run at once.

    Args:
        strategy: ``parallel`` and ``sequential`` ask nobody; ``auto`` goes by what is known at the
            start; ``adaptive`` learns on the way, and tries what it knows too little of.
        room: What there is to run with.
        known: What was seen before, by lane.
    """

    def __init__(self, strategy: str, room: Room, known: Mapping[Lane, Known]) -> None:
        self._strategy = strategy
        self._room = room
        self._before = known
        self._clocks: dict[Lane, LaneClock] = {}
        self._totals: dict[Lane, Totals] = {}
        self._advice: dict[Lane, Advice] = {}

    @property
    def advises(self) -> bool:
        """Whether it has anything to say."""
        return self._strategy in ("auto", "adaptive")

    @property
    def explores(self) -> bool:
        """Whether it learns while the batch runs."""
        return self._strategy == "adaptive"

    def advice(self, lane: Lane) -> Advice:
        """Return what holds for a lane now."""
        if lane not in self._advice:
            self._advice[lane] = advise(self.known(lane), self._room, explores=self.explores)
        return self._advice[lane]

    def began(self, task: str, lane: Lane, now: float) -> None:
        """Note that an attempt begins."""
        self._clocks.setdefault(lane, LaneClock()).began(task, now)

    def dropped(self, task: str, lane: Lane, now: float) -> None:
        """Note that what was begun was no attempt."""
        self._clocks.setdefault(lane, LaneClock()).dropped(task, now)

    def ended(self, span: Span) -> Advice | None:
        """Note that an attempt is over; return other advice for its lane, None if it stays as it was."""
        self._clocks.setdefault(span.lane, LaneClock()).ended(span)
        self._totals.setdefault(span.lane, Totals()).count(span)
        if not self.explores:
            return None
        before = self.advice(span.lane)
        fresh = advise(self.known(span.lane), self._room, explores=True, now=before.concurrency)
        self._advice[span.lane] = fresh
        return fresh if fresh.concurrency != before.concurrency else None

    def known(self, lane: Lane) -> Known:
        """Return what was seen of a lane, before and now."""
        before = self._before.get(lane, Known())
        levels = {number: replace(level) for number, level in before.levels.items()}
        clock = self._clocks.get(lane)
        for number, level in (clock.levels if clock else {}).items():
            levels.setdefault(number, Observed()).add(level)
        totals = replace(before.totals)
        totals.add(self._totals.get(lane, Totals()))
        return Known(levels=levels, totals=totals, told=before.told)
