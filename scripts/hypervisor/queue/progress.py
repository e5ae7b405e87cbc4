"""What the log of a run says of its agents: what they have used up, and which are at work."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.clock import seconds_of
from ..events import RunEvent, log_of


@dataclass(slots=True)
class Spent:
    """What the agents of one task have used up, all its attempts together."""

    attempts: int = 0
    #: None where no attempt has told.
    tokens: int | None = None
    cost_usd: float | None = None

    def add(self, event: Mapping[str, Any]) -> None:
        """Add an attempt that is over."""
        self.attempts += 1
        tokens, cost = _number(event.get("tokens")), _number(event.get("cost_usd"))
        self.tokens = self.tokens if tokens is None else int(tokens) + (self.tokens or 0)
        self.cost_usd = self.cost_usd if cost is None else cost + (self.cost_usd or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AtWork:
    """An agent that was begun and has not ended, unless its coordinator died."""

    task: str
    generation: int
    since: str
    #: Path of its output, without the ending.
    log: str

    def seconds(self, now: float) -> float:
        """Return how long it has been at work; *now* in seconds since the epoch."""
        return max(0.0, now - seconds_of(self.since))

    def silent_seconds(self, now: float) -> float:
        """Return how long it has said nothing."""
        return min([self.seconds(now), *(max(0.0, now - at) for at in _written(self.log))])


@dataclass(slots=True)
class Progress:
    """One batch's log, added up."""

    #: By the task's id.
    spent: dict[str, Spent] = field(default_factory=dict)
    at_work: dict[str, AtWork] = field(default_factory=dict)
    #: By the agent's name.
    by_agent: dict[str, Spent] = field(default_factory=dict)
    #: Why nothing, or less, is begun at the moment; "" where nothing holds.
    held_up: str = ""
    #: How far the run is from what was asked for, an `admission.Level`; "" while none goes on.
    level: str = ""
    #: What the overseer did last about an agent that is at work, in words, by the task's id.
    overseen: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: str) -> Progress:
        """Read the log in a batch's folder; one without a log has nothing to tell."""
        made = cls()
        for event in log_of(folder).read():
            made.add(event, folder)
        return made

    @property
    def cost_usd(self) -> float:
        """What all agents together are known to have cost."""
        return sum(one.cost_usd or 0.0 for one in self.spent.values())

    def add(self, event: Mapping[str, Any], folder: str) -> None:
        """Add one event of the log in *folder*."""
        what, task = event.get("event"), str(event.get("task", ""))
        if what == RunEvent.BEGUN:
            self.overseen.pop(task, None)
            self.at_work[task] = AtWork(
                task=task, generation=int(_number(event.get("generation")) or 0),
                since=str(event.get("at", "")), log=os.path.join(folder, str(event.get("log", ""))),
            )  # fmt: skip
        elif what == RunEvent.ENDED:
            self.at_work.pop(task, None)
            self.spent.setdefault(task, Spent()).add(event)
            if name := event.get("agent"):
                self.by_agent.setdefault(str(name), Spent()).add(event)
        elif what in (RunEvent.STARTED, RunEvent.FINISHED):
            self.at_work, self.held_up, self.overseen = {}, "", {}
            self.level = "ideal" if what == RunEvent.STARTED else ""
        elif what == RunEvent.OVERSEEN:
            self.overseen[task] = f"{event.get('act')}: {event.get('why')}"
        elif what == RunEvent.LEVEL:
            self.level, ideal = str(event.get("level")), event.get("level") == "ideal"
            self.held_up = "" if ideal else f"{self.level}, {event.get('room')} at once: {event.get('why')}"
        elif what == RunEvent.PAUSED:
            self.held_up = f"paused until {event.get('until')}: {event.get('why')}"
        elif what == RunEvent.LOWERED:
            self.held_up = f"at most {event.get('limit')} at once: {event.get('why')}"
        elif what == RunEvent.HALTED:
            self.held_up = f"begins nothing more: {event.get('why')}"


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _written(log: str) -> Iterator[float]:
    """Yield when each of the files of an agent's output was last written to."""
    folder, stem = os.path.split(log)
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name.startswith(f"{stem}."):
                yield os.stat(os.path.join(folder, name)).st_mtime
