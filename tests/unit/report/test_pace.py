"""How fast a batch goes, and when it may be done."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hypervisor.report.pace import RECENT, WINDOW, Pace, duration, pace_of
from hypervisor.store.progress import Speed


def pace(start: float, ends: Sequence[float], left: int, now: float) -> Pace:
    """Return the pace of a batch that began at *start*, as the store counts it."""
    newest = sorted(ends, reverse=True)
    return pace_of(
        Speed(
            now=round(now * 1000), ended=len(ends), first=round(start * 1000),
            recent=sum(end > now - WINDOW for end in ends),
            last=[round(end * 1000) for end in newest[: RECENT + 1]],
        ),
        left,
    )  # fmt: skip


def test_nothing_is_known_of_the_pace_before_the_first_completion() -> None:
    found = pace_of(Speed(now=100_000, ended=0, first=None, recent=0), 10)
    assert (found.eta, found.per_minute) == (None, None)


def test_what_is_left_is_judged_from_the_last_completions() -> None:
    found = pace(0.0, [float(10 * n) for n in range(1, 101)], 12, 1000.0)
    assert found.eta == pytest.approx(120.0)
    assert found.standing_on == RECENT
    assert found.per_minute == pytest.approx(6.0)


def test_workers_that_end_at_the_same_moment_are_not_taken_for_endless_speed() -> None:
    ends = [float(10 * (n // 8)) for n in range(80)]  # eight at once, each ten seconds
    assert pace(0.0, ends, 80, 100.0).eta == pytest.approx(100.0)


def test_a_nights_pause_does_not_count() -> None:
    ends = [float(n) for n in range(30)] + [30_000.0 + n for n in range(30)]
    assert pace(0.0, ends, 10, 30_030.0).eta == pytest.approx(10.0)


def test_the_first_completions_count_from_the_first_start() -> None:
    found = pace(100.0, [160.0, 160.0], 4, 160.0)
    assert (found.eta, found.standing_on) == (120.0, 2)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.3, "0.3 s"), (45, "45 s"), (720, "12 min"), (12000, "3 h 20 min"), (190000, "2 d 4 h")],
)
def test_a_duration_is_told_as_people_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_pace_of_a_batch_that_is_done_does_not_change() -> None:
    ends = [float(n) for n in range(1, 61)]
    found = [pace(0.0, ends, 0, now) for now in (60.0, 90.0, 9000.0)]
    assert [one.per_minute for one in found] == [60.0] * 3
    assert [one.elapsed for one in found] == [60.0] * 3
    assert pace(0.0, ends, 5, 90.0).elapsed == 90.0
