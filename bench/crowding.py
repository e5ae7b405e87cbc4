"""What adaptive admission gains at a service that takes only so many requests, on a clock of its own.

`bench/admission.py` runs real processes against a real server, so that it also measures how busy the machine
is. Here the product's scheduler decides, and its coordinator's rules for tasks that were turned away hold,
but time is simulated: agents, and a token bucket of R requests a second, B at once, that says 429 above that.
An agent asks so many times, with a pause before each; a refused request is repeated after 1, 2, 4 ... s, and
given up after some; then the attempt is wasted, and its task waits to be tried again. The settings of
admission are the defaults.

    uv run bench/crowding.py [--tasks 120] [--rate 1] [--burst 5] [--requests 20] [--pause 6] [--seeds 5]
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from hypervisor.core.model import Outcome
from hypervisor.core.settings import default_settings
from hypervisor.orchestrator.coordinator import LONGEST_DELAY
from hypervisor.orchestrator.schedule import Again, Finished, QueuedTask, SchedulingRules, Start
from hypervisor.orchestrator.scheduler import Scheduler

#: The ways to start agents: how many at once, and whether that is lowered and starts are spaced.
WAYS = {
    "adaptive -j 16": (16, True), "fixed -j 4": (4, False), "fixed -j 6": (6, False),
    "fixed -j 8": (8, False), "fixed -j 16": (16, False), "burst, all": (10**6, False),
}  # fmt: skip


@dataclass(slots=True)
class Bucket:
    """A service that takes so many requests a second, and so many at once."""

    rate: float
    burst: float
    level: float = 0.0
    at: float = 0.0
    refused: int = 0

    def take(self, now: float) -> bool:
        self.level = min(self.burst, self.level + self.rate * (now - self.at))
        self.at = now
        if self.level < 1:
            self.refused += 1
            return False
        self.level -= 1
        return True


@dataclass(slots=True)
class World:
    """One run. Events are (time, number, task, requests that are left, repeats so far)."""

    options: argparse.Namespace
    scheduler: Scheduler
    chance: random.Random
    bucket: Bucket
    now: float = 0.0
    finished: int = 0
    wasted: int = 0
    halted: str = ""
    _events: list[tuple[float, int, str, int, int]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _turns: dict[str, int] = field(default_factory=dict)

    def run(self, turns_away: int) -> None:
        while True:
            said = self.scheduler.next(self.now)
            if isinstance(said, Start):
                self._later(self._pause(), said.id, self.options.requests)
            elif isinstance(said, Finished):
                return
            elif self._events and (said.until is None or self._events[0][0] <= said.until):
                self.now, _, task, left, repeats = heappop(self._events)
                self._ask(task, left, repeats, turns_away)
            elif said.until is not None:
                self.now = max(said.until, self.now + 1e-6)
            else:
                raise AssertionError(said.why)

    def _ask(self, task: str, left: int, repeats: int, turns_away: int) -> None:
        if self.bucket.take(self.now):
            if left > 1:
                self._later(self._pause(), task, left - 1)
                return
            self.finished += 1
            self.scheduler.ended(task, self.now, Outcome.SUCCESS)
        elif repeats < self.options.repeats:
            self._later(2.0**repeats, task, left, repeats + 1)
        else:
            self.wasted += 1
            turns = self._turns[task] = self._turns.get(task, 0) + 1
            self.scheduler.shrink(self.now)
            if turns >= turns_away:
                self.halted = self.halted or f"{task} was turned away {turns} times"
                self.scheduler.halt(self.halted)
            self.scheduler.ended(task, self.now, Again(after=min(LONGEST_DELAY, 2.0**turns)))

    def _pause(self) -> float:
        return float(self.options.pause * self.chance.uniform(0.5, 1.5))

    def _later(self, seconds: float, task: str, left: int, repeats: int = 0) -> None:
        heappush(self._events, (self.now + seconds, next(self._numbers), task, left, repeats))


def measure(options: argparse.Namespace, limit: int, seed: int, *, adapts: bool) -> World:
    settings = default_settings()
    machine, chance = settings["machine"], random.Random(seed)
    rules = SchedulingRules(
        limit=limit, random=chance.random,
        grow_seconds=machine["grow_seconds"] if adapts else 0.0,
        stagger_seconds=machine["stagger_seconds"] if adapts else 0.0,
    )  # fmt: skip
    tasks = [QueuedTask(id=f"t-{number}", order=number) for number in range(options.tasks)]
    bucket = Bucket(options.rate, options.burst, level=options.burst)
    world = World(options, Scheduler(tasks, rules), chance, bucket)
    world.run(settings["run"]["turns_away"])
    return world


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=120)
    parser.add_argument("--rate", type=float, default=1, help="requests a second that are answered")
    parser.add_argument("--burst", type=float, default=5, help="how many are answered at once")
    parser.add_argument("--requests", type=int, default=20, help="requests of each agent")
    parser.add_argument("--pause", type=float, default=6, help="mean seconds before each of them")
    parser.add_argument("--repeats", type=int, default=3, help="how often one that was refused is repeated")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each way; medians are printed")
    options = parser.parse_args()
    most = 60 * options.rate / options.requests
    print(
        f"{options.tasks} tasks; the service takes {most:g} a minute at most; medians of {options.seeds} runs"
    )
    for name, (limit, adapts) in WAYS.items():
        some = [measure(options, limit, seed, adapts=adapts) for seed in range(options.seeds)]
        middle = sorted(some, key=lambda one: one.finished / one.now)[len(some) // 2]
        print(
            f"{name:15} {middle.finished:4} finished, {60 * middle.finished / middle.now:.2f} per minute, "
            f"{middle.wasted} wasted attempts, {middle.bucket.refused} refused requests"
            + (f"; ended: {middle.halted}" if middle.halted else "")
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
