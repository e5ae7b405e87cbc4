"""How many agents may run: zones from readings, levels, and what a scheduler starts under them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.core.errors import ConfigError
from hypervisor.core.model import Outcome
from hypervisor.core.settings import default_settings
from hypervisor.monitor.metrics import Reading
from hypervisor.monitor.zones import MachineState, Zone, ZoneBounds, ZoneTracker
from hypervisor.orchestrator.admission import Admission, Level, Throttle
from hypervisor.orchestrator.schedule import Again, Finished, QueuedTask, SchedulingRules, Start
from hypervisor.orchestrator.scheduler import Scheduler

MIB = 2**20
GIB = 2**30


def reading(at: float, cpu: float | None = 10.0, ram: float = 10.0, **more: Any) -> Reading:
    made: dict[str, Any] = {
        "at": at, "cpu_percent": cpu, "ram_percent": ram, "available_percent": 100.0 - ram,
        "ram_bytes": GIB, "available_bytes": int(GIB * (100.0 - ram) / 100.0),
    }  # fmt: skip
    return Reading(**(made | more))


def zone_of(
    cpu: float | None = 10.0, ram: float = 10.0, bounds: ZoneBounds | None = None, **more: Any
) -> MachineState:
    return ZoneTracker(bounds or ZoneBounds()).read(reading(0.0, cpu, ram, **more))


# ----------------------------------------------------------------------- zones


@pytest.mark.parametrize(
    ("cpu", "ram", "zone"),
    [
        (59.9, 69.9, Zone.SAFE),
        (60.0, 10.0, Zone.WARNING),
        (10.0, 70.0, Zone.WARNING),
        (75.0, 80.0, Zone.WARNING),
        (80.0, 85.0, Zone.WARNING),
        (80.1, 10.0, Zone.DANGER),
        (10.0, 85.1, Zone.DANGER),
        (100.0, 94.9, Zone.DANGER),
        (10.0, 95.1, Zone.EMERGENCY),
        (None, 10.0, Zone.SAFE),
    ],
)
def test_where_the_zones_begin(cpu: float | None, ram: float, zone: Zone) -> None:
    assert zone_of(cpu, ram).zone is zone


def test_the_reason_names_the_figures_of_the_worst() -> None:
    assert zone_of(90.0, 88.0).why == "CPU 90 %, RAM 88 %"
    assert zone_of(90.0, 75.0).why == "CPU 90 %"
    assert zone_of(75.0, 80.0).why == "CPU 75 %, RAM 80 %"
    assert zone_of(90.0, 96.0).why == "available RAM 4.0 %"
    assert zone_of().why == ""


def test_cpu_does_not_count_where_it_is_told_not_to() -> None:
    assert zone_of(100.0, 10.0, ZoneBounds(cpu=False)).zone is Zone.SAFE
    assert zone_of(100.0, 90.0, ZoneBounds(cpu=False)).why == "RAM 90 %"


def test_where_cpu_is_safe_up_to_100_it_is_always_safe() -> None:
    machine = {**default_settings()["machine"], "safe_cpu_percent": 100}
    bounds = ZoneBounds.of(machine, cpu=True)
    assert zone_of(100.0, 10.0, bounds).zone is Zone.SAFE
    assert zone_of(100.0, 90.0, bounds).why == "RAM 90 %"


def test_a_bound_of_100_is_never_passed() -> None:
    assert zone_of(100.0, 10.0, ZoneBounds(safe_cpu=100, danger_cpu=100)).zone is Zone.SAFE


def test_a_disk_that_is_nearly_full_is_danger() -> None:
    bounds = ZoneBounds(danger_disk=100.0 * MIB)
    assert zone_of(bounds=bounds, disk_free_bytes=99 * MIB).zone is Zone.DANGER
    assert zone_of(bounds=bounds, disk_free_bytes=101 * MIB).zone is Zone.SAFE


def test_pressure_counts_once_it_has_lasted() -> None:
    tracker = ZoneTracker(ZoneBounds(pressure_seconds=5.0))
    for at, pressure, zone in (
        (0.0, 90.0, Zone.SAFE), (4.0, 21.0, Zone.SAFE), (4.5, 19.0, Zone.SAFE), (5.0, 30.0, Zone.SAFE),
        (9.9, 30.0, Zone.SAFE), (10.0, 30.0, Zone.EMERGENCY),
    ):  # fmt: skip
        assert tracker.read(reading(at, pressure_percent=pressure)).zone is zone, at
    assert tracker.state.why == 'memory pressure "full" 30 %'


def test_memory_that_is_used_up_within_a_second_is_an_emergency_before_it_is_gone() -> None:
    tracker = ZoneTracker(ZoneBounds(run_out_seconds=1.0))
    tracker.read(reading(0.0, ram=80.0))
    assert tracker.read(reading(0.2, ram=82.0)).zone is Zone.WARNING  # as fast, but not in danger yet
    found = tracker.read(reading(0.4, ram=89.0))  # 7 % in 0.2 s, and 11 % are left
    assert (found.zone, found.why) == (Zone.EMERGENCY, "RAM 89 %, which is used up in 0.3 s at this speed")


def test_worse_counts_at_once_and_better_by_a_margin_after_a_while() -> None:
    tracker = ZoneTracker(ZoneBounds(margin=3.0, calm_seconds=5.0))
    told = []
    for at, ram in (
        (0, 80), (1, 86), (2, 84), (9, 83), (10, 81), (12, 81), (15, 81), (16, 68), (21, 68), (22, 66),
        (27, 66),
    ):  # fmt: skip
        told.append(tracker.read(reading(float(at), ram=float(ram))).zone)
    w, d, s = Zone.WARNING, Zone.DANGER, Zone.SAFE
    assert told == [w, d, d, d, d, d, w, w, w, w, s]


def test_what_is_held_back_tells_the_zone_of_now_too() -> None:
    tracker = ZoneTracker(ZoneBounds())
    tracker.read(reading(0.0, ram=97.0))
    found = tracker.read(reading(1.0, ram=50.0))
    assert (found.zone, found.now, found.why) == (Zone.EMERGENCY, Zone.SAFE, "was available RAM 3.0 %")


def test_the_worst_of_a_calm_while_is_what_it_gets_better_to() -> None:
    tracker = ZoneTracker(ZoneBounds(calm_seconds=5.0, run_out_seconds=0.0))
    tracker.read(reading(0.0, ram=97.0))
    for at, ram in ((1.0, 20.0), (3.0, 86.0), (5.0, 20.0)):
        assert tracker.read(reading(at, ram=ram)).zone is Zone.EMERGENCY
    assert tracker.read(reading(6.0, ram=20.0)).zone is Zone.DANGER


def test_one_busy_moment_is_no_danger() -> None:
    tracker = ZoneTracker(ZoneBounds(cpu_seconds=3.0))
    for at in range(4):
        tracker.read(reading(float(at), cpu=20.0))
    assert tracker.read(reading(4.0, cpu=100.0)).zone is Zone.SAFE
    assert tracker.read(reading(7.0, cpu=100.0)).zone is Zone.DANGER


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [("safe_cpu_percent", 90, "danger_cpu_percent"), ("safe_ram_percent", 0, "more than 0")],
)
def test_bounds_in_no_order_are_refused(key: str, value: float, word: str) -> None:
    table = {**default_settings()["machine"], key: value}
    with pytest.raises(ConfigError, match=word):
        ZoneBounds.of(table, cpu=True)


def test_the_defaults_are_those_of_the_settings() -> None:
    assert ZoneBounds.of(default_settings()["machine"], cpu=True) == ZoneBounds(danger_disk=512.0 * MIB)


# ---------------------------------------------------------------------- levels


def at_zone(zone: Zone) -> MachineState:
    return MachineState(zone=zone, why="so it is", now=zone)


def test_every_level_and_every_way_between_them() -> None:
    admission = Admission(Throttle(most=5, grow_seconds=60.0))
    told = []
    for at, zone in (
        (0, Zone.SAFE), (1, Zone.WARNING), (2, Zone.SAFE), (3, Zone.DANGER), (4, Zone.EMERGENCY),
        (5, Zone.DANGER), (6, Zone.WARNING), (7, Zone.SAFE), (64, Zone.SAFE), (65, Zone.SAFE),
        (125, Zone.SAFE), (185, Zone.SAFE), (186, Zone.EMERGENCY), (187, Zone.SAFE), (500, Zone.SAFE),
    ):  # fmt: skip
        admission.heed(at_zone(zone), float(at))
        told.append((admission.level(float(at)).value, admission.room(float(at))))
    assert told == [
        ("ideal", 5), ("constrained", 2), ("ideal", 5), ("starved", 1), ("emergency", 0),
        ("starved", 1), ("constrained", 2), ("constrained", 2), ("constrained", 2), ("constrained", 3),
        ("constrained", 4), ("ideal", 5), ("emergency", 0), ("constrained", 2), ("ideal", 5),
    ]  # fmt: skip


def test_danger_halves_the_limit_once_each_time_it_comes() -> None:
    admission = Admission(Throttle(most=8, grow_seconds=60.0, settle_seconds=5.0))
    for at in range(10, 40):
        admission.heed(at_zone(Zone.DANGER), float(at))
    admission.heed(at_zone(Zone.SAFE), 40.0)
    assert [admission.limit(float(at)) for at in (40, 98, 99, 160, 400)] == [4, 4, 5, 6, 8]
    assert admission.why() == ""
    admission.heed(at_zone(Zone.DANGER), 500.0)
    admission.heed(at_zone(Zone.SAFE), 501.0)
    admission.heed(at_zone(Zone.DANGER), 502.0)  # of the same moment
    assert admission.limit(502.0) == 4
    admission.heed(at_zone(Zone.SAFE), 503.0)
    assert admission.why() == "lowered from 8: danger"


def test_a_limit_that_must_not_be_lowered_is_not() -> None:
    admission = Admission(Throttle(most=8, grow_seconds=0.0))
    admission.crowded(10.0)
    assert (admission.limit(10.0), admission.level(10.0)) == (8, Level.IDEAL)


def test_one_at_a_time_is_ideal_where_no_more_was_asked_for() -> None:
    admission = Admission(Throttle(most=1))
    levels = []
    for zone in Zone:
        admission.heed(at_zone(zone), 0.0)
        levels.append(admission.level(0.0))
    assert levels == [Level.IDEAL, Level.IDEAL, Level.STARVED, Level.EMERGENCY]


def test_starts_are_staggered_but_never_the_only_one() -> None:
    admission = Admission(Throttle(most=5, stagger_seconds=0.5))
    admission.started(10.0)
    held = admission.held(10.2, 1)
    assert held is not None
    assert (held.until, held.why) == (10.5, "starts are 0.5 s apart")
    assert admission.held(10.2, 0) is None
    assert admission.held(10.5, 1) is None
    commands = Admission(Throttle(most=5, stagger_seconds=0.5, stagger_always=False))
    commands.started(10.0)
    assert commands.held(10.2, 1) is None
    commands.heed(at_zone(Zone.WARNING), 10.2)
    assert commands.held(10.2, 1) is not None


# ------------------------------------------------------------ with a scheduler


def batch(count: int, **rules: Any) -> Scheduler:
    return Scheduler(
        [QueuedTask(id=f"t-{n}", order=n) for n in range(count)], SchedulingRules(**{"limit": 5, **rules})
    )


def start_all(scheduler: Scheduler, now: float) -> list[str]:
    found = []
    while isinstance(said := scheduler.next(now), Start):
        found.append(said.id)
    return found


def test_at_cpu_75_and_ram_80_two_of_five_start_and_the_rest_follows_as_readings_fall() -> None:
    scheduler, tracker = batch(9), ZoneTracker(ZoneBounds())
    running: list[str] = []
    started = {}
    for at in range(20):
        now = float(at)
        busy = at < 10
        scheduler.admission.heed(
            tracker.read(reading(now, 75.0 if busy else 30.0, 80.0 if busy else 40.0)), now
        )
        running += start_all(scheduler, now)
        started[at] = len(running)
        if at == 0:
            assert running == ["t-0", "t-1"]
            assert scheduler.explain(now) == "2 run, and 2 may (warning: CPU 75 %, RAM 80 %)"
            assert scheduler.counts()["ready"] == 7  # they wait in the queue, and are not lost
        if at == 5:
            scheduler.ended("t-0", now, Outcome.SUCCESS)
            running.remove("t-0")
            running += start_all(scheduler, now)
            assert running == ["t-1", "t-2"]
    assert started[9] == 2  # as long as it is warning
    assert started[19] == 5  # and five once it is safe
    for name in [f"t-{n}" for n in range(1, 9)]:
        running += start_all(scheduler, 20.0)
        assert name in running
        scheduler.ended(name, 20.0, Outcome.SUCCESS)
    assert isinstance(scheduler.next(21.0), Finished)


def test_at_85_percent_cpu_by_its_own_agents_it_still_makes_progress() -> None:
    scheduler, tracker = batch(12), ZoneTracker(ZoneBounds())
    running: list[str] = []
    done, most = 0, 0
    now = 0.0
    while not isinstance(said := scheduler.next(now), Finished):
        if isinstance(said, Start):
            running.append(said.id)
            most = max(most, len(running))
            continue
        now += 1.0
        assert now < 600.0, "it does not end"
        # Each agent takes as much CPU as there is: one alone brings the machine into danger.
        scheduler.admission.heed(tracker.read(reading(now, cpu=85.0 if running else 5.0)), now)
        if running and int(now) % 3 == 0:
            scheduler.ended(running.pop(0), now, Outcome.SUCCESS)
            done += 1
    assert done == 12
    assert 1 <= most <= 5


def test_in_an_emergency_nothing_starts_and_afterwards_it_goes_on() -> None:
    scheduler, tracker = batch(3), ZoneTracker(ZoneBounds())
    scheduler.admission.heed(tracker.read(reading(0.0, ram=97.0)), 0.0)
    assert start_all(scheduler, 0.0) == []
    assert scheduler.explain(0.0) == "0 run, and 0 may (emergency: available RAM 3.0 %)"
    for at in (1.0, 3.0, 7.0):
        scheduler.admission.heed(tracker.read(reading(at, ram=30.0)), at)
    assert start_all(scheduler, 7.0) == ["t-0", "t-1"]  # five were halved


def test_what_an_emergency_stopped_waits_again_and_is_done_at_no_cost_in_attempts() -> None:
    scheduler = batch(2, retries=0)
    assert start_all(scheduler, 0.0) == ["t-0", "t-1"]
    for _ in range(5):
        assert scheduler.ended("t-1", 1.0, Again(after=0.0)) is None
        assert start_all(scheduler, 2.0) == ["t-1"]
    assert scheduler.ended("t-1", 3.0, Outcome.SUCCESS) is Outcome.SUCCESS


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.booleans()), max_size=80), st.integers(1, 8)
)
def test_whatever_the_readings_no_more_run_than_may_and_calm_ends_the_batch(
    readings: list[tuple[float, float, bool]], limit: int
) -> None:
    scheduler, tracker = batch(10, limit=limit, grow_seconds=10.0), ZoneTracker(ZoneBounds())
    running: list[str] = []
    now = 0.0
    for cpu, ram, crowded in [*readings, *[(5.0, 5.0, False)] * 40]:
        now += 3.0
        scheduler.admission.heed(tracker.read(reading(now, cpu, ram)), now)
        before = len(running)
        if crowded and running:
            scheduler.shrink(now)
        while isinstance(said := scheduler.next(now), Start):
            running.append(said.id)
            room = scheduler.admission.room(now)
            assert len(running) <= max(room, 1) <= limit
            assert room > 0
        if tracker.state.zone is Zone.DANGER and before:
            assert len(running) == before  # nothing starts while something runs
        if running:
            scheduler.ended(running.pop(0), now, Outcome.SUCCESS)
    assert isinstance(scheduler.next(now), Finished)
