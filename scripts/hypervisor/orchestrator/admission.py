"""How many agents may run now: within the user's limit, what the service takes, what the machine has. Pure.

The limit halves when the service says "too many requests", or the machine comes into danger, and grows
back by one at a time. Beside that the zone decides: safe lets the limit stand, warning halves it, danger
starts nothing while something runs, and an emergency starts nothing at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ..monitor.zones import MachineState, Zone

#: The setting that puts the machine into a zone, by the zone and the beginning of its reason.
_SETTINGS = {
    (Zone.WARNING.word, "CPU"): "machine.safe_cpu_percent",
    (Zone.WARNING.word, "RAM"): "machine.safe_ram_percent",
    (Zone.DANGER.word, "CPU"): "machine.danger_cpu_percent",
    (Zone.DANGER.word, "RAM"): "machine.danger_ram_percent",
    (Zone.DANGER.word, "free disk"): "machine.danger_disk_mib",
    (Zone.EMERGENCY.word, "available RAM"): "machine.emergency_available_percent",
    (Zone.EMERGENCY.word, "memory pressure"): "machine.emergency_pressure_percent",
}


class Level(StrEnum):
    """How far a run is from what the user asked for."""

    IDEAL = "ideal"  #: all that may run at once does
    CONSTRAINED = "constrained"  #: fewer, but more than one
    STARVED = "starved"  #: one at a time
    EMERGENCY = "emergency"  #: what runs is stopped, the least urgent first


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """How fast agents are started, and how a lowered limit grows."""

    #: How many may run at once.
    most: int = 1
    #: After which a lowered limit grows by one, in seconds; 0: it is never lowered.
    grow_seconds: float = 60.0
    #: Complaints of several agents within this time count as one, in seconds.
    settle_seconds: float = 5.0
    #: Between two starts, in seconds: a start shows in the figures only after a while.
    stagger_seconds: float = 0.0
    #: Whether that holds in the safe zone too.
    stagger_always: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelChange:
    """The level of degradation has changed."""

    level: Level
    was: Level
    #: How many may run now.
    room: int
    #: What keeps the level down; "" if nothing does.
    why: str

    def line(self, most: int) -> str:
        """Return the change as a person reads it, with the setting that decides where there is one."""
        if not self.why:
            return f"up to {most} at work again"
        zone, _, figures = self.why.partition(": ")
        names = [
            name for (word, begin), name in _SETTINGS.items() if word == zone and figures.startswith(begin)
        ]
        told = f"{figures} ({names[0]})" if names else self.why
        return f"{self.room} of {most} at work: {told}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Withheld:
    """Nothing may be started now."""

    #: When it may be otherwise, without anything else happening; None if only then.
    until: float | None
    why: str


class Admission:
    """Says whether one more may be started. Times are in seconds, on any one clock."""

    def __init__(self, throttle: Throttle) -> None:
        self._throttle = throttle
        self._limit, self._grown, self._shrunk = throttle.most, 0.0, float("-inf")
        self._why = ""
        self._last_start = float("-inf")
        self._level = Level.IDEAL
        self.state = MachineState()
        #: Why nothing more may start beside what runs, such as a budget; "" if nothing says so.
        self.hold = ""

    # ------------------------------------------------------------------- told

    def update(self, state: MachineState, hold: str, now: float) -> LevelChange | None:
        """Note the machine's state, and what holds further starts; return the change of level, if any."""
        self.heed(state, now)
        self.hold = hold
        was, self._level = self._level, self.level(now)
        if self._level is was:
            return None
        return LevelChange(level=self._level, was=was, room=self.room(now), why=self.why())

    def heed(self, state: MachineState, now: float) -> None:
        """Note the machine's state."""
        before, self.state = self.state.zone, state
        if state.zone >= Zone.DANGER > before:
            self._halve(now, state.zone.word)
        elif state.zone >= Zone.DANGER:
            self._grown = max(self._grown, now)  # it grows again once the danger is over

    def crowded(self, now: float) -> None:
        """Note that a service said "too many requests"."""
        self._halve(now, "too many requests")

    def started(self, now: float) -> None:
        """Note a start."""
        self._last_start = now

    # ------------------------------------------------------------------ asked

    def limit(self, now: float) -> int:
        """Return how many may run as far as complaints go, without the zone."""
        while self._limit < self._throttle.most and now - self._grown >= self._throttle.grow_seconds:
            self._limit += 1
            self._grown += self._throttle.grow_seconds
        return self._limit

    def room(self, now: float) -> int:
        """Return how many may run now; 1 in danger, as one may always run."""
        limit, zone = self.limit(now), self.state.zone
        if zone is Zone.EMERGENCY:
            return 0
        if zone is Zone.DANGER:
            return 1
        return min(limit, max(1, self._throttle.most // 2)) if zone is Zone.WARNING else limit

    def level(self, now: float) -> Level:
        """Return how far this is from what the user asked for."""
        room = self.room(now)
        if self.state.zone is Zone.EMERGENCY:
            return Level.EMERGENCY
        if self.state.zone is Zone.DANGER or room == 1 < self._throttle.most:
            return Level.STARVED
        return Level.CONSTRAINED if room < self._throttle.most else Level.IDEAL

    def held(self, now: float, running: int) -> Withheld | None:
        """Return why nothing more may start beside so many that run; None if something may."""
        room, zone = self.room(now), self.state.zone
        if running >= room:
            grows = self._grown + self._throttle.grow_seconds if self._limit < self._throttle.most else None
            return Withheld(until=grows, why=f"{running} run, and {room} may{self._lowered()}")
        if self.hold and running:
            return Withheld(until=None, why=self.hold)
        pause = (
            self._throttle.stagger_seconds if self._throttle.stagger_always or zone is not Zone.SAFE else 0.0
        )
        if now < self._last_start + pause and running:
            return Withheld(until=self._last_start + pause, why=f"starts are {pause:g} s apart")
        return None

    def why(self) -> str:
        """Return what keeps the level down; "" if nothing does."""
        if self.state.zone is not Zone.SAFE:
            return f"{self.state.zone.word}: {self.state.why}"
        return f"lowered from {self._throttle.most}: {self._why}" if self._limit < self._throttle.most else ""

    # ---------------------------------------------------------------- details

    def _lowered(self) -> str:
        return f" ({why})" if (why := self.why()) else ""

    def _halve(self, now: float, why: str) -> None:
        self.limit(now)
        if now - self._shrunk >= self._throttle.settle_seconds:
            self._limit, self._shrunk, self._why = max(1, self._limit // 2), now, why
        self._grown = now
