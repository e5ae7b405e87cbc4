"""Advice: each figure is the formula's of docs/learning.md, and the number follows from it and says why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import simulated_batches as simulated
from hypervisor.learning.advice import (
    Advice,
    Capacity,
    ConcurrencyPolicy,
    advise,
    benefit,
    best_level,
    bottleneck,
    memory_limit,
    refusal_limit,
    throughput,
)
from hypervisor.learning.stats import NO_LEVEL, ClassStats, Sample, TaskClass
from hypervisor.store.lessons import Lesson, LevelStats

AUDIT = TaskClass(type="audit")
CAPACITY = Capacity(cores=4.0, ram_mb=8000.0, cap=8)


def seen(
    samples: int, seconds: float, *, refused: int = 0, cpu: float = 0.0, ram: float | None = 50.0
) -> LevelStats:
    """Return samples that all took equally long and, but for those refused, succeeded."""
    return LevelStats(
        samples=samples, done=samples - refused, successes=samples - refused, refused=refused,
        seconds=samples * seconds, cpu_seconds=samples * cpu, cpu_known_seconds=samples * seconds, ram_mb=ram,
    )  # fmt: skip


def known(
    levels: Mapping[int, LevelStats], *, ram: float | None = None, lesson: Lesson | None = None
) -> ClassStats:
    stats = ClassStats(levels=dict(levels), lesson=lesson)
    return stats if ram is None else stats.adding(NO_LEVEL, LevelStats(ram_mb=ram))


# ----------------------------------------------------------------------- formulas


def test_throughput_is_the_number_times_what_was_done_by_the_time_it_took() -> None:
    rates = throughput({1: seen(10, 2.0), 4: seen(12, 2.5), NO_LEVEL: seen(99, 1.0)})
    assert rates == {1: pytest.approx(0.5), 4: pytest.approx(4 / 2.5)}


@pytest.mark.parametrize(
    ("level", "samples", "measured"), [(1, 5, False), (1, 6, True), (8, 7, False), (8, 8, True)]
)
def test_few_samples_measure_nothing(level: int, samples: int, measured: bool) -> None:
    assert (level in throughput({level: seen(samples, 1.0)})) is measured


@pytest.mark.parametrize(
    ("levels", "most"),
    [
        ({4: seen(40, 1.0)}, float("inf")),
        ({4: seen(40, 1.0), 8: seen(40, 1.0, refused=1)}, float("inf")),  # one may have another cause
        ({4: seen(40, 1.0), 8: seen(40, 1.0, refused=2)}, float("inf")),  # 5 %
        ({4: seen(40, 1.0), 8: seen(40, 1.0, refused=3)}, 7),
        ({4: seen(10, 1.0, refused=2), 8: seen(10, 1.0, refused=9)}, 3),
        ({1: seen(10, 1.0, refused=9)}, 1),  # one always runs
        ({NO_LEVEL: seen(10, 1.0, refused=9)}, float("inf")),  # of which number is not known
    ],
)
def test_where_attempts_are_refused_fewer_run(levels: dict[int, LevelStats], most: float) -> None:
    assert refusal_limit(levels) == most


@pytest.mark.parametrize(
    ("seconds", "best", "gain"),
    [
        ({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}, 8, 1.0),  # waits for a service
        ({1: 1.0, 2: 1.0, 4: 2.0, 8: 4.0}, 2, 1.0),  # two processors: the second adds one, the third nothing
        ({1: 1.0, 2: 2.0, 4: 4.0}, 1, 0.0),  # one lock
        ({1: 1.0, 2: 2.2, 4: 6.0}, 1, 0.0),  # in each other's way
        ({1: 1.0, 4: 1.6}, 4, 0.5),  # S(4) = 2.5 = 1 + 0.5 · 3
        ({1: 1.0, 2: 1.92}, 1, 0.04),  # within 5 % is as fast, and fewer are enough
    ],
)
def test_the_benefit_is_gustafsons_share(seconds: dict[int, float], best: int, gain: float) -> None:
    rates = throughput({level: seen(100, each) for level, each in seconds.items()})
    assert best_level(rates) == best
    assert benefit(rates) == pytest.approx(gain, abs=0.01)


@pytest.mark.parametrize(
    ("levels", "ram", "short"),
    [
        ({1: seen(40, 1.0), 8: seen(40, 1.0)}, None, "none"),
        ({4: seen(40, 1.0, cpu=1.0), 8: seen(40, 2.0, cpu=1.0)}, None, "cpu"),
        ({1: seen(40, 1.0), 8: seen(40, 8.0)}, None, "lock"),
        ({1: seen(40, 1.0), 2: seen(40, 1.0)}, 4000.0, "memory"),
        ({3: seen(40, 1.0), 8: seen(40, 1.0, refused=20)}, None, "rate limit"),
        ({1: seen(40, 1.0)}, None, "unknown"),
        ({}, None, "unknown"),
    ],
)
def test_the_bottleneck_is_named(levels: dict[int, LevelStats], ram: float | None, short: str) -> None:
    assert bottleneck(known(levels, ram=ram), CAPACITY) == short


def test_as_many_run_as_fit_into_memory_and_one_always() -> None:
    assert memory_limit(known({}, ram=3000.0), CAPACITY) == 2
    assert memory_limit(known({}, ram=90_000.0), CAPACITY) == 1
    assert memory_limit(known({}, lesson=Lesson(ram_mb=2000)), CAPACITY) == 4
    assert memory_limit(ClassStats(), CAPACITY) == 8


# ------------------------------------------------------------------------- advice


@pytest.mark.parametrize("explores", [False, True])
def test_what_is_said_to_gain_runs_in_parallel_and_what_is_said_not_to_one_by_one(explores: bool) -> None:
    gains = advise(ClassStats(lesson=Lesson(benefit=0.85)), CAPACITY, explores=explores)
    gains_not = advise(ClassStats(lesson=Lesson(benefit=0.1)), CAPACITY, explores=explores)
    assert (gains.concurrency, gains_not.concurrency) == (8, 1)
    assert gains_not.why == "said to gain 0.1 of one by each further agent; 0 attempts seen"


@pytest.mark.parametrize(("benefit", "parallel"), [(0.85, True), (0.1, False)])
def test_a_measured_benefit_decides_as_a_told_one_does(benefit: float, parallel: bool) -> None:
    # S(k) = 1 + p (k - 1), so that each of k attempts takes k / S(k) as long as one alone.
    levels = {k: seen(100, k / (1 + benefit * (k - 1))) for k in (1, 2)}
    lesson = Lesson(benefit=1 - benefit)  # measurements count more than what is said
    said = advise(known(levels, lesson=lesson), CAPACITY, explores=False)
    assert said.benefit == pytest.approx(benefit, abs=0.01)
    assert said.concurrency == (8 if parallel else 2)  # 2 is 10 % faster than 1
    assert f"{2 * (1 + benefit) / 2 * 60:.3g}/min" in said.why


def test_without_knowledge_auto_runs_as_many_as_may_and_adaptive_begins_with_half() -> None:
    assert advise(ClassStats(), CAPACITY, explores=False).concurrency == 8
    assert advise(ClassStats(), CAPACITY, explores=True).concurrency == 4


def test_adaptive_tries_one_more_and_one_fewer_until_neither_is_faster() -> None:
    truth = {k: max(1.0, k / 4) for k in range(1, 9)}  # four processors
    stats, steps = ClassStats(), list[int]()
    while True:
        said = advise(stats, CAPACITY, explores=True)
        if steps and not said.explores:
            break
        assert len(steps) < 12, steps
        steps.append(said.concurrency)
        stats = stats.adding(said.concurrency, seen(20, truth[said.concurrency], cpu=0.7))
    assert (said.concurrency, said.bottleneck) == (4, "cpu")
    assert steps == [4, 5, 3]
    assert said.why.startswith("more are not faster (")
    assert said.why.endswith(f"limited by processors; {20 * len(steps)} attempts seen")
    assert "\n" not in said.why


def test_fewer_are_not_tried_of_agents_that_keep_a_processor_busy() -> None:
    levels = {2: seen(20, 1.0, cpu=0.9), 3: seen(20, 1.5, cpu=0.9)}
    assert not advise(known(levels), CAPACITY, explores=True).explores


def test_never_more_than_the_cap_and_memory_allow_is_advised() -> None:
    for cap in (1, 2, 3, 8):
        for ram in (50.0, 3000.0, 99_000.0):
            for levels in ({}, {1: seen(40, 1.0), 2: seen(40, 1.0)}, {8: seen(40, 1.0, refused=30)}):
                for explores in (False, True):
                    capacity = Capacity(cores=4.0, ram_mb=8000.0, cap=cap)
                    said = advise(known(levels, ram=ram), capacity, explores=explores)
                    assert 1 <= said.concurrency <= min(cap, max(1, int(8000 / ram)))


# ------------------------------------------------------------------------- policy


def test_adaptive_changes_its_advice_while_a_run_works_and_auto_does_not() -> None:
    def revised(strategy: str) -> list[Advice]:
        policy = ConcurrencyPolicy(strategy, CAPACITY, {})
        policy.advice(AUDIT)
        found = []
        for number in range(40):  # four at once; a service that serves three at a time
            if number >= 4:
                how: dict[str, Any] = (
                    {"outcome": "retry", "refused": True} if number % 4 == 0 else {"outcome": "success"}
                )
                begin, end = (number - 4) / 4, number / 4
                policy.ended(Sample(task=f"t-{number - 4}", task_class=AUDIT, begin=begin, end=end, **how))
                found.append(policy.revise(AUDIT))
            policy.started(f"t-{number}", AUDIT, number / 4)
        return [one for one in found if one is not None]

    assert revised("auto") == []
    first = revised("adaptive")[0]
    assert (first.concurrency, first.bottleneck) == (3, "rate limit")


@pytest.mark.parametrize("kind", simulated.KINDS, ids=lambda kind: kind.name)
def test_after_three_batches_adaptive_is_as_fast_as_the_best_fixed_number(kind: simulated.Kind) -> None:
    found = simulated.row(simulated.compare(kind, 8, seed=1))
    assert found["share"] >= simulated.WANTED
    wanted = {"sleep": "none", "cpu": "cpu", "lock": "lock", "half-lock": "lock", "rate limit": "rate limit"}
    assert found["bottleneck"] == wanted[kind.name]
    assert " at once: " in found["says"]
