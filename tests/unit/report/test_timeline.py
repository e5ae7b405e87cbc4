"""Run events folded into what held a batch up, and how the machine did."""

from __future__ import annotations

from itertools import count
from typing import Any

from hypervisor.report.timeline import Timeline, earlier_attempts, spending_of
from hypervisor.store.events import Event, RunEvent
from hypervisor.store.progress import ItemAttempt

_ids = count(1)


def event(kind: str, at: float = 1e9, attempt: int | None = None, **data: Any) -> Event:
    return Event(
        id=next(_ids), at=round(at * 1000), kind=kind, batch=1, batch_name="b", work=None, key="", text="",
        state="", attempt=attempt, number=None, worker="", session="", agent="", detail="", outcome="",
        data=data,
    )  # fmt: skip


def attempt(
    number: int, claimed: float, ended: float | None, outcome: str = "success", **more: Any
) -> ItemAttempt:
    known: dict[str, Any] = {"current": True, "detail": "", "tokens": None, "cost_usd": None}
    return ItemAttempt(
        number=number, worker="w", name="w", session="", agent="", claimed_at=round(claimed * 1000),
        ended_at=None if ended is None else round(ended * 1000), outcome=None if ended is None else outcome,
        log="", runner="", **(known | more),
    )  # fmt: skip


def told(*events: Event) -> Timeline:
    timeline = Timeline()
    for one in events:
        timeline.add(one)
    return timeline


def test_many_readings_are_thinned_to_the_worst() -> None:
    timeline = told(*(event(RunEvent.READING, 1e9 + n, cpu_percent=n % 97, zone="safe") for n in range(5000)))
    thinned = timeline.thinned()
    assert len(thinned) <= 600
    assert max(one[1] for one in thinned) == 96


def test_a_zone_that_is_read_takes_the_place_of_a_level() -> None:
    level = event(RunEvent.LEVEL, level="starved", cpu_percent=90)
    timeline = told(level)
    assert (timeline.zone, timeline.zone_holds(1e9 + 3600)) == ("starved", True)
    timeline.add(event(RunEvent.READING, zone="danger", cpu_percent=91))
    timeline.add(level)
    assert [zone for *_, zone in timeline.readings] == ["starved", "danger", ""]
    assert (timeline.zone, timeline.zone_holds(1e9 + 5), timeline.zone_holds(1e9 + 3600)) == (
        "danger", True, False,
    )  # fmt: skip


def test_what_holds_a_run_up_is_said_until_it_is_over() -> None:
    timeline = told(event(RunEvent.STARTED, worker="run-1"))
    assert (timeline.held_up, timeline.level, timeline.coordinator) == ("", "ideal", "run-1")
    for one, said in (
        (event(RunEvent.PAUSED, until="3am", why="limit"), "paused until 3am: limit"),
        (event(RunEvent.LOWERED, limit=2, why="429"), "at most 2 at once: 429"),
        (event(RunEvent.LEVEL, level="starved", room=1, why="RAM"), "starved, 1 at once: RAM"),
        (event(RunEvent.LEVEL, level="ideal"), ""),
        (event(RunEvent.HALTED, why="canary failed"), "starts nothing more: canary failed"),
    ):
        timeline.add(one)
        assert timeline.held_up == said
    timeline.add(event(RunEvent.FINISHED))
    assert (timeline.held_up, timeline.level, timeline.coordinator) == ("", "", "")
    assert [mark[1:] for mark in timeline.marks][1] == ("paused", "until 3am: limit")


def test_what_the_overseer_said_belongs_to_one_attempt() -> None:
    timeline = told(event(RunEvent.OVERSEEN, attempt=7, act="warn", why="900 MiB of 1 GiB"))
    assert timeline.overseen == {7: "warn: 900 MiB of 1 GiB"}


def test_spending_is_added_up_in_the_order_of_the_ends_and_unknown_is_not_zero() -> None:
    attempts = [
        attempt(1, 0, 20, tokens=100),
        attempt(1, 0, 10, tokens=50, cost_usd=0.5),
        attempt(1, 0, 15),
        attempt(2, 0, None),
    ]
    assert spending_of(attempts) == [(10.0, 50, 0.5), (15.0, 50, 0.5), (20.0, 150, 0.5)]
    assert spending_of([attempt(1, 0, 10)]) == []


def test_a_long_curve_keeps_its_end() -> None:
    sums = spending_of(attempt(1, 0, n, tokens=1) for n in range(5000))
    assert len(sums) <= 600
    assert sums[-1] == (4999.0, 5000, None)


def test_earlier_attempts_are_all_that_ended_but_the_one_with_the_result() -> None:
    first = attempt(1, 1, 2, "revoked", detail="worker w is dead")
    second = attempt(2, 3, 4, "again", detail="later")
    final = attempt(3, 5, 6)
    assert earlier_attempts([first, second, final, attempt(4, 7, None)], final) == [
        [1, 1.0, 2.0, "revoked: worker w is dead"],
        [2, 3.0, 4.0, "given back: later"],
    ]
