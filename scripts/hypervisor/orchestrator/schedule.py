"""What a scheduler is told of a batch, and what it answers: tasks and rules in, decisions out."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..learning.stats import TaskClass
from .admission import Throttle

#: So many tasks must have ended before a share of failures says anything.
_FEW = 5
_ANY = TaskClass()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedTask:
    """A task of the batch."""

    id: str
    #: Under which it is claimed; not looked at here.
    key: str = ""
    #: 0 for the most urgent.
    rank: int = 2
    #: Ids; those that are not of the batch are met already.
    depends_on: tuple[str, ...] = ()
    #: Paths and globs that it may touch.
    files: tuple[str, ...] = ()
    #: Its place in the batch.
    order: int = 0
    #: Of which only so many may run at once as are set.
    task_class: TaskClass = _ANY


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingRules:
    """How a batch runs."""

    #: How many run at once.
    limit: int = 1
    #: So many run first, alone; if none of them succeeds and one fails, the batch halts.
    canary: int = 0
    #: The share of failures that halts the batch, in percent; None for never.
    halt_fail_percent: float | None = None
    #: The number of failures that halts it; None for never.
    halt_fail_count: int | None = None
    #: How often a task is tried again.
    retries: int = 2
    #: Seconds before the second attempt.
    backoff_base: float = 5.0
    #: By which that grows with each further attempt.
    backoff_factor: float = 2.0
    #: The most that it grows to.
    backoff_cap: float = 300.0
    #: The share of a delay that chance may take away.
    jitter: float = 0.2
    #: Gives that chance, from 0 to 1.
    random: Callable[[], float] = random.random
    #: ``sequential``: one at a time, in batch order whatever the rank.
    strategy: Literal["parallel", "sequential"] = "parallel"
    #: In each such period of waiting a task's rank improves by one; 0 for never.
    age_seconds: float = 600.0
    #: Whether tasks whose files overlap are kept apart.
    scope_gate: bool = True
    #: In each such period without "too many requests" a lowered limit grows by one.
    grow_seconds: float = 60.0
    #: Between two starts; and whether that holds with a machine that is safe, too.
    stagger_seconds: float = 0.0
    stagger_always: bool = True
    #: "Too many requests" of several agents within this time count as one.
    settle_seconds: float = 5.0
    #: After which a task that another coordinator held is looked at again.
    held_seconds: float = 5.0

    @property
    def throttle(self) -> Throttle:
        """How fast agents are started."""
        return Throttle(
            most=max(1, 1 if self.strategy == "sequential" else self.limit),
            grow_seconds=self.grow_seconds, settle_seconds=self.settle_seconds,
            stagger_seconds=self.stagger_seconds, stagger_always=self.stagger_always,
        )  # fmt: skip

    def backoff(self, tries: int) -> float:
        """Return the delay in seconds after so many attempts that count."""
        grown = self.backoff_base * self.backoff_factor ** min(tries - 1, 64)
        return min(self.backoff_cap, grown) * (1 - self.jitter * self.random())

    def why_halt(self, failed: int, tried: int) -> str:
        """Return why the batch halts if so many failed of those that were tried, "" if it goes on."""
        most = self.halt_fail_percent
        if self.halt_fail_count is not None and failed >= self.halt_fail_count:
            return f"{failed} failed, and {self.halt_fail_count} halt the batch"
        if most is not None and tried >= _FEW and 100 * failed >= most * tried:
            return f"{failed} of {tried} failed, and {most:g} % halt the batch"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start this task; it counts as running from now on."""

    id: str
    #: The entry's.
    key: str = ""
    task_class: TaskClass = _ANY


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing starts now; ask again when something ended, and at the latest then."""

    #: None where only the end of a task changes anything.
    until: float | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Nothing runs, and nothing more will start; `unreachable` tells what never could."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """How an attempt ended that is not the task's end."""

    #: Whether it counts; then the delay follows from the rules.
    counted: bool = False
    #: Seconds until the next one, if it does not count.
    after: float = 0.0
