"""Batches of five kinds of task on virtual time: what `--strategy adaptive` achieves.

The product's concurrency policy, which no load of the machine disturbs. A kind is run at each fixed number
from 1 to a limit, and then in batches with `adaptive` that begin without any knowledge. The last batch is
compared with the best fixed number: both as tasks per second, from the first begin to the last end.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypervisor.learning.advice import Advice, Capacity, ConcurrencyPolicy, advise
from hypervisor.learning.stats import ClassStats, Sample, TaskClass, stats_of

#: Batches of `adaptive` before the one that is measured.
LEARNING = 3
CORES = 2.0
#: What `adaptive` must come to, of the best fixed number.
WANTED = 0.95


@dataclass(slots=True)
class Job:
    """One attempt: parts that pass one after another, each ``free``, ``cpu`` or ``lock``, and its seconds."""

    task: str
    begin: float
    parts: list[tuple[str, float]]
    refused: bool = False
    cpu: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of task: what an attempt does, given how many of its kind are at work already."""

    name: str
    parts: Callable[[random.Random, int], tuple[list[tuple[str, float]], bool]]
    tasks: int = 40


def around(dice: random.Random, seconds: float) -> float:
    """Return *seconds*, a fifth more or less."""
    return seconds * dice.uniform(0.8, 1.2)


def _limited(dice: random.Random, others: int) -> tuple[list[tuple[str, float]], bool]:
    # A service that serves three at once, and refuses what is more at once.
    return ([("free", around(dice, 1.0))], False) if others < 3 else ([("free", 0.1)], True)


KINDS = (
    Kind(name="sleep", parts=lambda dice, _: ([("free", around(dice, 1.0))], False)),
    Kind(name="cpu", parts=lambda dice, _: ([("cpu", around(dice, 1.0))], False)),
    Kind(name="lock", parts=lambda dice, _: ([("free", 0.1), ("lock", around(dice, 0.9))], False)),
    Kind(name="half-lock", parts=lambda dice, _: ([("free", around(dice, 0.7)), ("lock", 0.3)], False)),
    Kind(name="rate limit", parts=_limited),
)


@dataclass(slots=True)
class World:
    """A machine on virtual time, and the service behind it."""

    now: float = 0.0
    jobs: list[Job] = field(default_factory=list)

    def rates(self) -> list[float]:
        """Return how fast each job's part passes."""
        busy = sum(job.parts[0][0] == "cpu" for job in self.jobs)
        first = next((job for job in self.jobs if job.parts[0][0] == "lock"), None)
        return [
            min(1.0, CORES / busy) if what == "cpu" else float(what == "free" or job is first)
            for job in self.jobs
            for what in (job.parts[0][0],)
        ]

    def pass_on(self, until: float | None) -> list[Job]:
        """Let time pass until a job ends, or *until*; return those that have ended."""
        rates = self.rates()
        steps = [job.parts[0][1] / rate for job, rate in zip(self.jobs, rates, strict=True) if rate]
        step = min(steps, default=float("inf"))
        if until is not None:
            step = min(step, max(0.0, until - self.now))
        self.now += step
        ended = []
        for job, rate in zip(list(self.jobs), rates, strict=True):
            what, left = job.parts[0]
            passed = step * rate
            job.cpu += passed * (what != "free")
            job.parts[0] = (what, left - passed)
            if job.parts[0][1] <= 1e-9:
                job.parts.pop(0)
                if what == "free" and job.parts and job.parts[0][0] == "lock":
                    # Whoever comes to the lock last stands at the end of its queue.
                    self.jobs.remove(job)
                    self.jobs.append(job)
            if not job.parts:
                self.jobs.remove(job)
                ended.append(job)
        return ended


def simulate(
    kind: Kind, strategy: str, limit: int, known: ClassStats, seed: int
) -> tuple[float, ClassStats, list[Advice]]:
    """Run one batch; return how long it took, what is known afterwards, and the advice on the way.

    A refused task is tried again after a second.
    """
    task_class = TaskClass(type=kind.name)
    policy = ConcurrencyPolicy(strategy, Capacity(cores=CORES, ram_mb=8000.0, cap=limit), {task_class: known})
    said = [policy.advice(task_class)] if policy.advises else []
    waiting = [(0.0, f"t-{n:03}") for n in range(kind.tasks)]
    world, tries = World(), dict.fromkeys((name for _, name in waiting), 0)
    while waiting or world.jobs:
        most = said[-1].concurrency if said else limit
        ready = [one for one in waiting if one[0] <= world.now]
        if ready and len(world.jobs) < most:
            waiting.remove(ready[0])
            name = ready[0][1]
            # Of its own chance, so that a task is as long in whatever batch it is run.
            luck = random.Random(f"{seed} {name}")
            parts, refused = kind.parts(luck, sum(not job.refused for job in world.jobs))
            tries[name] += 1
            world.jobs.append(Job(name, world.now, parts, refused))
            policy.started(f"{name} {tries[name]}", task_class, world.now)
            continue
        for job in world.pass_on(min((at for at, _ in waiting if at > world.now), default=None)):
            sample = Sample(
                task=f"{job.task} {tries[job.task]}", task_class=task_class, begin=job.begin, end=world.now,
                refused=job.refused, outcome="again" if job.refused else "success", cpu_seconds=job.cpu,
                ram_mb=50.0,
            )  # fmt: skip
            known = known.adding(policy.ended(sample), stats_of(sample))
            if job.refused:
                waiting.append((world.now + 1.0, job.task))
            if (fresh := policy.revise(task_class)) is not None:
                said.append(fresh)
    return world.now, known, said


def compare(kind: Kind, limit: int, seed: int) -> dict[str, Any]:
    """Compare one kind; rates are tasks per second."""
    fixed = {
        number: kind.tasks / simulate(kind, "parallel", number, ClassStats(), seed)[0]
        for number in range(1, limit + 1)
    }
    known, rates, last = ClassStats(), list[float](), list[Advice]()
    for _ in range(LEARNING + 1):
        seconds, known, last = simulate(kind, "adaptive", limit, known, seed)
        rates.append(kind.tasks / seconds)
    final = advise(known, Capacity(cores=CORES, ram_mb=8000.0, cap=limit), explores=False)
    return {
        "kind": kind.name, "fixed": fixed, "adaptive": rates,
        "says": f"{final.concurrency} at once: {final.why}", "ends_at": final.concurrency,
        "bottleneck": final.bottleneck, "benefit": final.benefit, "steps": [one.concurrency for one in last],
    }  # fmt: skip


def row(found: dict[str, Any]) -> dict[str, Any]:
    """Add to a comparison what it comes to."""
    best = max(found["fixed"], key=found["fixed"].__getitem__)
    return found | {"best": best, "share": found["adaptive"][-1] / found["fixed"][best]}
