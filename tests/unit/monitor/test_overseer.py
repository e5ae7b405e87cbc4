"""The overseer: limits, what is done beyond them, and whose processes they are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.core.errors import ConfigError
from hypervisor.core.settings import default_settings
from hypervisor.monitor.metrics import Reading
from hypervisor.monitor.overseer import Action, AgentSample, Enforcement, Limits, Overseer
from hypervisor.monitor.processes import OURS, WITHIN, Process, ProcessTree
from hypervisor.monitor.zones import MachineState, Zone
from hypervisor.orchestrator.supervisor import check_settings

MIB = 2**20
GIB = 2**30
GOOD = MachineState(reading=Reading(at=0.0, ram_bytes=GIB, available_bytes=GIB // 2, available_percent=50.0))


def in_zone(zone: Zone) -> MachineState:
    return MachineState(zone=zone, now=zone, why="so it is", reading=GOOD.reading)


def deeds(acts: list[Enforcement]) -> list[tuple[str, str]]:
    return [(act.mark, act.action.value) for act in acts]


# ---------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("limit", "sample", "words"),
    [
        ({"rss_bytes": 100.0 * MIB}, {"rss": 101 * MIB}, "101 MiB of memory used, and 100 may be"),
        ({"rss_percent": 50.0}, {"rss": 513 * MIB}, "513 MiB of memory used, and 512 may be"),
        ({"processes": 20.0}, {"processes": 21}, "21 processes used, and 20 may be"),
        ({"tokens": 1000.0}, {"tokens": 1001}, "1001 tokens used, and 1000 may be"),
        ({"cpu_seconds": 60.0}, {"cpu_seconds": 61.0}, "61 s of CPU used, and 60 may be"),
        ({"mute_cpu_seconds": 60.0}, {"mute_cpu_seconds": 61.0}, "61 s of CPU without a word used, and 60 "),
        ({"silence_seconds": 60.0}, {"silence": 61.0}, "61 s of silence used, and 60 may be"),
        ({"wall_seconds": 60.0}, {"wall": 61.0}, "61 s of time used, and 60 may be"),
    ],
)  # fmt: skip
def test_each_limit_asks_first_and_then_ends_with_its_figure(
    limit: dict[str, float], sample: dict[str, Any], words: str
) -> None:
    overseer = Overseer(Limits(grace_seconds=5.0, **limit))
    (act,) = overseer.look(0.0, {"a": AgentSample(**sample)}, GOOD)
    assert act.action is Action.TERM
    assert act.why.startswith(words)
    assert overseer.look(4.9, {"a": AgentSample(**sample)}, GOOD) == []
    (act,) = overseer.look(5.0, {"a": AgentSample()}, GOOD)  # it uses less now, and was told to end
    assert act.action is Action.KILL
    assert act.why.startswith(words)
    assert deeds(overseer.look(6.0, {"a": AgentSample()}, GOOD)) == [("a", "kill")]  # until nothing is left
    assert overseer.look(7.0, {}, GOOD) == []
    assert overseer.look(8.0, {"a": AgentSample()}, GOOD) == []  # another attempt begins anew


def test_no_limit_is_no_limit() -> None:
    used = AgentSample(
        rss=GIB, cpu_seconds=1e9, mute_cpu_seconds=1e9, processes=9999, wall=1e9, silence=1e9, tokens=10**9
    )
    assert Overseer(Limits()).look(0.0, {"a": used}, GOOD) == []


def test_near_a_limit_is_told_once_for_each() -> None:
    overseer = Overseer(Limits(processes=10.0, wall_seconds=10.0, alert_percent=80.0))
    assert overseer.look(0.0, {"a": AgentSample(processes=7)}, GOOD) == []
    acts = overseer.look(1.0, {"a": AgentSample(processes=8)}, GOOD)
    assert [(act.action, act.what, act.figure, act.limit) for act in acts] == [
        (Action.ALERT, "processes", 8, 10)
    ]
    assert overseer.look(2.0, {"a": AgentSample(processes=9)}, GOOD) == []
    assert [act.what for act in overseer.look(3.0, {"a": AgentSample(processes=9, wall=9.0)}, GOOD)] == [
        "wall"
    ]


def test_where_memory_is_short_nobody_is_asked() -> None:
    overseer = Overseer(Limits(rss_percent=50.0, grace_seconds=60.0))
    used = {"a": AgentSample(rss=600 * MIB)}
    assert deeds(overseer.look(0.0, used, in_zone(Zone.DANGER))) == [("a", "kill")]
    overseer = Overseer(Limits(rss_percent=50.0, grace_seconds=60.0))
    assert deeds(overseer.look(0.0, used, GOOD)) == [("a", "term")]
    assert deeds(overseer.look(1.0, used, in_zone(Zone.EMERGENCY))) == [("a", "kill")]


def test_in_an_emergency_the_least_urgent_is_stopped_first_and_one_at_a_time() -> None:
    overseer = Overseer(Limits())
    samples = {
        "urgent": AgentSample(rank=0, order=3, rss=400 * MIB),
        "old": AgentSample(rank=3, order=1, rss=10 * MIB),
        "young": AgentSample(rank=3, order=2, rss=10 * MIB),
    }  # fmt: skip
    stopped = []
    for now in range(10):
        for act in overseer.look(float(now), samples, in_zone(Zone.EMERGENCY)):
            stopped.append((act.mark, act.action))
            if now % 2:  # its end takes a while
                samples.pop(act.mark, None)
    order = list(dict.fromkeys(mark for mark, _ in stopped))
    assert order == ["young", "old", "urgent"]
    assert {deed for mark, deed in stopped if mark != "urgent"} == {Action.STOP}
    # The last one alone holds a good part of the memory: it is the cause, and would do the same again.
    assert {deed for mark, deed in stopped if mark == "urgent"} == {Action.KILL}


def test_in_an_emergency_of_others_making_one_may_run_on() -> None:
    overseer = Overseer(Limits())
    assert overseer.look(0.0, {"a": AgentSample(rss=30 * MIB)}, in_zone(Zone.EMERGENCY)) == []
    assert overseer.look(0.0, {}, in_zone(Zone.EMERGENCY)) == []


def test_an_emergency_that_is_over_but_not_yet_trusted_stops_nobody() -> None:
    held = MachineState(zone=Zone.EMERGENCY, now=Zone.SAFE, why="was", reading=GOOD.reading)
    assert Overseer(Limits()).look(0.0, {"a": AgentSample(), "b": AgentSample()}, held) == []


@settings(deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("abc"),
            st.tuples(st.integers(0, 2 * GIB), st.floats(0, 200), st.sampled_from(Zone)),
        ),
        max_size=30,
    )
)
def test_nothing_is_ended_without_a_figure_and_kill_comes_after_term_or_in_want_of_memory(
    looks: list[dict[str, tuple[int, float, Zone]]],
) -> None:
    overseer = Overseer(Limits(rss_percent=50.0, silence_seconds=100.0, grace_seconds=3.0))
    asked: dict[str, int] = {}
    for now, look in enumerate(looks):
        samples = {mark: AgentSample(rss=rss, silence=silence) for mark, (rss, silence, _) in look.items()}
        zone = max((zone for _, _, zone in look.values()), default=Zone.SAFE)
        asked = {mark: at for mark, at in asked.items() if mark in samples}
        for act in overseer.look(float(now), samples, in_zone(zone)):
            assert act.mark in samples
            assert act.why
            if act.action is Action.TERM:
                assert act.figure > act.limit
                asked[act.mark] = now
            elif act.action is not Action.ALERT:
                late = act.mark in asked and now - asked[act.mark] >= 3
                assert late or zone >= Zone.DANGER or act.mark in asked
                asked.setdefault(act.mark, now - 3)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [("overseer", "rss_percent", -1), ("machine", "stagger_seconds", -0.5)],
)
def test_limits_below_nothing_are_refused(table: str, key: str, value: float) -> None:
    settings = default_settings()
    settings[table] = {**settings[table], key: value}
    with pytest.raises(ConfigError, match=f"{table}.{key}"):
        check_settings(settings)


# --------------------------------------------------------------------- lineage


class Table(dict[int, Process]):
    """A table of processes that a test fills; 1 is init, 10 is us."""

    def __init__(self) -> None:
        super().__init__()
        self.environments: dict[int, list[bytes]] = {}
        self.add(1, 0)
        self.add(10, 1)

    def add(self, pid: int, parent: int, mark: str = "", *, session: int = 10, wiped: bool = False) -> None:
        self[pid] = Process(pid=pid, parent=parent, session=session, start=str(pid), order=float(pid))
        ours = [] if wiped or pid < 10 else [f"{OURS}=1".encode()]
        self.environments[pid] = ours + ([f"{WITHIN}={mark}".encode()] if mark else [])

    def end(self, pid: int, heir: int = 10) -> None:
        del self[pid]
        for one in [one for one in self.values() if one.parent == pid]:
            self[one.pid] = Process(
                pid=one.pid, parent=heir, session=one.session, start=one.start, order=one.order
            )


def pids(found: dict[str, list[Process]], mark: str) -> list[int]:
    return sorted(one.pid for one in found[mark])


def lineage(table: Table, *, adopts: bool = True) -> ProcessTree:
    return ProcessTree(10, table.environments.get, adopts=adopts)


def test_children_belong_wherever_they_went_and_whatever_they_wiped() -> None:
    table = Table()
    table.add(20, 10, "b/a~1", session=20)
    table.add(21, 20, session=21, wiped=True)  # setsid, no environment
    table.add(22, 21, session=22, wiped=True)
    table.add(30, 10, "b/c~1", session=30)
    table.add(40, 1, session=40)  # a stranger's
    table.add(50, 10)  # git, started by us
    seen = lineage(table)
    marks = {"b/a~1": 15.0, "b/c~1": 25.0}
    found = seen.look(table, marks)
    assert (pids(found, "b/a~1"), pids(found, "b/c~1")) == ([20, 21, 22], [30])
    table.end(21)  # its child is an orphan, and still known
    table.end(20)
    found = seen.look(table, marks)
    assert (pids(found, "b/a~1"), pids(found, "b/c~1")) == ([22], [30])
    table.add(60, 22, session=60, wiped=True)
    assert pids(seen.look(table, marks), "b/a~1") == [22, 60]


def test_an_orphan_belongs_by_its_session_if_its_parents_were_never_seen() -> None:
    table = Table()
    table.add(20, 10, "b/a~1", session=20)
    table.add(21, 20, session=21, wiped=True)
    seen = lineage(table)
    seen.look(table, {"b/a~1": 15.0})
    table.add(70, 10, session=21, wiped=True)  # its parent lived between two looks
    assert pids(seen.look(table, {"b/a~1": 15.0}), "b/a~1") == [20, 21, 70]


def test_what_an_agents_own_agents_start_is_the_agents() -> None:
    table = Table()
    table.add(20, 10, "b/a~1", session=20)
    table.add(80, 10, "b/a~1 inner/x~1", session=80)  # an orphan of a run within the agent
    assert pids(lineage(table).look(table, {"b/a~1": 15.0}), "b/a~1") == [20, 80]


def test_nothing_that_does_not_descend_from_us_is_ever_taken_for_ours() -> None:
    table = Table()
    table.add(20, 10, "b/a~1", session=20)
    table.add(90, 1, "b/a~1", session=20)  # bears the mark, and even the session; not below us
    table.environments[90] = [f"{WITHIN}=b/a~1".encode()]
    seen = lineage(table)
    assert pids(seen.look(table, {"b/a~1": 15.0}), "b/a~1") == [20]


def test_a_pid_that_is_used_again_belongs_to_nobody() -> None:
    table = Table()
    table.add(20, 10, "b/a~1", session=20)
    seen = lineage(table)
    seen.look(table, {"b/a~1": 15.0})
    table[20] = Process(pid=20, parent=1, session=99, start="later", order=99.0)
    table.environments[20] = []
    assert pids(seen.look(table, {"b/a~1": 15.0}), "b/a~1") == []


def test_where_orphans_cannot_be_adopted_the_mark_alone_tells() -> None:
    table = Table()
    table.add(20, 10, "b/a~1", session=20)
    table.add(90, 1, "b/a~1", session=90)
    assert pids(lineage(table, adopts=False).look(table, {"b/a~1": 15.0}), "b/a~1") == [20, 90]


def test_wiped_orphans_are_told_only_where_one_agent_alone_can_have_left_them() -> None:
    table = Table()
    table.add(35, 10, session=35, wiped=True)
    table.add(36, 10, session=36)  # ours: a check, or git
    table.add(37, 10, session=37, wiped=True)
    table.environments[37] = [b"postgres: writer"]  # a title, where the environment was
    seen = lineage(table)
    marks = {"b/a~1": 20.0, "b/c~1": 30.0}
    seen.look(table, marks)
    assert seen.strays(table, marks, "b/a~1") == []  # it may be the other's
    assert [one.pid for one in seen.strays(table, {"b/a~1": 20.0}, "b/a~1")] == [35]
    assert seen.strays(table, {"b/a~1": 20.0, "b/d~1": 36.5}, "b/d~1") == []  # begun before that agent
