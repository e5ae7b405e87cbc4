"""Which level an attempt counts for, and what the figures of a class add up to."""

from __future__ import annotations

import pytest

from hypervisor.learning.stats import (
    NO_LEVEL,
    ClassStats,
    ConcurrencyClock,
    Sample,
    TaskClass,
    stats_of,
)
from hypervisor.store.lessons import Lesson, LevelStats


def levels_of(spans: list[tuple[str, float, float]]) -> dict[str, int]:
    """Return the level for which each of some attempts (name, begin, end) counts."""
    marks = sorted(
        [(begin, 1, name) for name, begin, _ in spans] + [(end, 0, name) for name, _, end in spans]
    )
    clock, found = ConcurrencyClock(), {}
    for at, begins, name in marks:
        if begins:
            clock.started(name, at)
        else:
            found[name] = clock.ended(name, at)
    return found


def test_an_attempt_counts_for_the_number_beside_which_it_ran() -> None:
    # Two at a time, each of one second, the second half a second after the first.
    found = levels_of([(f"t-{n}", n / 2, n / 2 + 1) for n in range(10)])
    # The first two took no other's place, and the last was half alone.
    assert [found[f"t-{n}"] for n in range(10)] == [NO_LEVEL] * 2 + [2] * 7 + [NO_LEVEL]


def test_those_started_to_raise_the_number_do_not_count_for_it() -> None:
    # Four that share one lock of a second: the first does not wait, the fourth waits for three.
    first = [(f"t-{n:02}", 0.0, n + 1.0) for n in range(4)]
    then = [(f"t-{n:02}", n - 3.0, n + 1.0) for n in range(4, 12)]
    found = levels_of([*first, *then])
    assert {found[name] for name, *_ in first} == {NO_LEVEL}
    assert [found[name] for name, *_ in then][:-3] == [4] * 5


def test_those_started_among_fewer_do_not_count_for_more() -> None:
    # Two share a lock of a second; from 10 s on seven do. What began beside one waits for that one only.
    two = [(f"a-{n}", max(0.0, n - 1), n + 1.0) for n in range(9)]
    crowd = [(f"b-{n}", 9.0, 11.0 + n) for n in range(6)]
    later = [(f"c-{n}", 10.0 + n, 17.0 + n) for n in range(10)]
    found = levels_of([*two, *crowd, *later])
    assert {found[name] for name, *_ in two} <= {NO_LEVEL, 2}
    assert {found[name] for name, *_ in crowd} == {NO_LEVEL}
    assert {found[name] for name, *_ in later} == {NO_LEVEL, 7}


def test_the_end_of_a_run_counts_for_no_smaller_number() -> None:
    # Eight at once; two of them take far longer and are alone in the end.
    spans = [(f"t-{n}", 0.0, 1.0) for n in range(8)]
    spans += [(f"u-{n}", 1.0 + n / 100, 2.0 + n / 100) for n in range(6)]
    spans += [(f"z-{n}", 1.1, 9.0) for n in range(2)]
    found = levels_of(spans)
    assert {found["z-0"], found["z-1"]} == {NO_LEVEL}


def test_a_run_of_fewer_than_two_rounds_counts_for_no_number() -> None:
    assert set(levels_of([(f"t-{n}", 0.0, 1.0) for n in range(8)]).values()) == {NO_LEVEL}


def test_a_clock_that_was_set_back_harms_nothing() -> None:
    clock = ConcurrencyClock()
    clock.started("t-1", 100.0)
    clock.started("t-2", 50.0)
    assert clock.ended("t-1", 40.0) == NO_LEVEL


@pytest.mark.parametrize(
    ("outcome", "done", "successes"),
    [("success", 1, 1), ("blocked", 1, 0), ("failed", 0, 0), ("skipped", 0, 0), ("again", 0, 0)],
)
def test_success_and_blocked_bring_a_batch_on(outcome: str, done: int, successes: int) -> None:
    sample = Sample(task="t-1", task_class=TaskClass(), begin=1.0, end=3.0, outcome=outcome)
    assert stats_of(sample) == LevelStats(samples=1, done=done, successes=successes, seconds=2.0)


def test_processor_time_is_averaged_over_the_attempts_of_which_it_is_known() -> None:
    known = LevelStats(samples=1, seconds=2.0, cpu_seconds=1.0, cpu_known_seconds=2.0, ram_mb=70.0)
    unknown = LevelStats(samples=1, seconds=6.0)
    stats = ClassStats(levels={NO_LEVEL: known, 2: unknown})
    assert (stats.total.seconds, stats.cpu, stats.ram_mb) == (8.0, 0.5, 70.0)


def test_what_is_said_of_costs_counts_until_it_is_measured_and_the_larger_memory_counts() -> None:
    lesson = Lesson(cpu=2.0, ram_mb=512.0)
    assert (ClassStats(lesson=lesson).cpu, ClassStats(lesson=lesson).ram_mb) == (2.0, 512.0)
    measured = LevelStats(samples=1, seconds=2.0, cpu_seconds=1.0, cpu_known_seconds=2.0, ram_mb=70.0)
    stats = ClassStats(levels={1: measured}, lesson=lesson)
    assert (stats.cpu, stats.ram_mb) == (0.5, 512.0)
    assert (ClassStats().cpu, ClassStats().ram_mb) == (None, None)


def test_a_class_is_named_by_its_type_and_its_pattern() -> None:
    assert str(TaskClass()) == "untyped"
    assert str(TaskClass(type="audit")) == "audit"
    assert str(TaskClass(type="audit", pattern="pipeline")) == "audit (pipeline)"
