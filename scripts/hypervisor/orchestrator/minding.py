"""Between the machine, the budgets and the scheduler: how many may run now, and whether any more may."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..events import RunEvent
from .admission import Level
from .care import Care
from .scheduler import Scheduler

#: How often budgets are compared with what others spend, in seconds.
_LOOK_SECONDS = 1.0


@dataclass(slots=True)
class Minding:
    """What the deciding thread of a run asks before each decision."""

    care: Care
    tell: Callable[..., None]
    level: Level = Level.IDEAL
    _looked: float = float("-inf")
    _reached: str = ""

    def mind(self, scheduler: Scheduler) -> str:
        """Tell the scheduler how many may run; return why nothing more may begin at all, "" if more may."""
        now, admission = time.time(), scheduler.admission
        admission.heed(self.care.watch.standing, now)
        level = admission.level(now)
        if level is not self.level:
            self.tell(
                RunEvent.LEVEL, "", level=level.value, was=self.level.value, room=admission.room(now),
                why=admission.why() or "all is well again", **admission.standing.reading.figures(),
            )  # fmt: skip
            self.level = level
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._looked, self._reached = time.monotonic(), self.care.purse.look()
            if self._reached:
                self.care.watch.stop_all(self._reached)
        counts = scheduler.counts()
        waits = any(counts[state] for state in ("waiting", "ready", "delayed"))
        admission.hold = self.care.why_not(counts["running"]) if waits else ""
        if waits or counts["running"]:
            return self._reached or (admission.hold if not counts["running"] else "")
        return ""
