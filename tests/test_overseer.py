"""The overseer: limits, what is done beyond them, whose processes they are, and what may be spent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import alive, eventually, gone
from hypervisor.core import config
from hypervisor.core.errors import ConfigError
from hypervisor.events import RunEvent
from hypervisor.monitor.budget import Caps, Spend, caps_of, no_more, reached, short_of
from hypervisor.monitor.lineage import OURS, WITHIN, Lineage
from hypervisor.monitor.overseer import Act, Deed, Limits, Overseer, Sample
from hypervisor.monitor.processes import Process, processes, send
from hypervisor.monitor.purse import Purse
from hypervisor.monitor.readings import Reading, Sampler
from hypervisor.monitor.watch import Watch
from hypervisor.monitor.zones import Bounds, Gauge, Standing, Zone
from hypervisor.orchestrator.care import Care, check_settings
from hypervisor.runners.agent import AgentEnd, Assignment, How
from hypervisor.runners.claude_events import Heard
from hypervisor.runners.command import CommandAgent
from hypervisor.spending import Account, Spending

MIB = 2**20
GIB = 2**30
GOOD = Standing(reading=Reading(at=0.0, ram_bytes=GIB, available_bytes=GIB // 2, available_percent=50.0))


def standing(zone: Zone) -> Standing:
    return Standing(zone=zone, now=zone, why="so it is", reading=GOOD.reading)


def deeds(acts: list[Act]) -> list[tuple[str, str]]:
    return [(act.mark, act.deed.value) for act in acts]


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
    (act,) = overseer.look(0.0, {"a": Sample(**sample)}, GOOD)
    assert act.deed is Deed.TERM
    assert act.why.startswith(words)
    assert overseer.look(4.9, {"a": Sample(**sample)}, GOOD) == []
    (act,) = overseer.look(5.0, {"a": Sample()}, GOOD)  # it uses less now, and was told to end
    assert act.deed is Deed.KILL
    assert act.why.startswith(words)
    assert deeds(overseer.look(6.0, {"a": Sample()}, GOOD)) == [("a", "kill")]  # until nothing is left
    assert overseer.look(7.0, {}, GOOD) == []
    assert overseer.look(8.0, {"a": Sample()}, GOOD) == []  # another attempt begins anew


def test_no_limit_is_no_limit() -> None:
    used = Sample(
        rss=GIB, cpu_seconds=1e9, mute_cpu_seconds=1e9, processes=9999, wall=1e9, silence=1e9, tokens=10**9
    )
    assert Overseer(Limits()).look(0.0, {"a": used}, GOOD) == []


def test_near_a_limit_is_told_once_for_each() -> None:
    overseer = Overseer(Limits(processes=10.0, wall_seconds=10.0, alert_percent=80.0))
    assert overseer.look(0.0, {"a": Sample(processes=7)}, GOOD) == []
    acts = overseer.look(1.0, {"a": Sample(processes=8)}, GOOD)
    assert [(act.deed, act.what, act.figure, act.limit) for act in acts] == [(Deed.ALERT, "processes", 8, 10)]
    assert overseer.look(2.0, {"a": Sample(processes=9)}, GOOD) == []
    assert [act.what for act in overseer.look(3.0, {"a": Sample(processes=9, wall=9.0)}, GOOD)] == ["wall"]


def test_where_memory_is_short_nobody_is_asked() -> None:
    overseer = Overseer(Limits(rss_percent=50.0, grace_seconds=60.0))
    used = {"a": Sample(rss=600 * MIB)}
    assert deeds(overseer.look(0.0, used, standing(Zone.DANGER))) == [("a", "kill")]
    overseer = Overseer(Limits(rss_percent=50.0, grace_seconds=60.0))
    assert deeds(overseer.look(0.0, used, GOOD)) == [("a", "term")]
    assert deeds(overseer.look(1.0, used, standing(Zone.EMERGENCY))) == [("a", "kill")]


def test_in_an_emergency_the_least_urgent_is_stopped_first_and_one_at_a_time() -> None:
    overseer = Overseer(Limits())
    samples = {
        "urgent": Sample(rank=0, order=3, rss=400 * MIB), "old": Sample(rank=3, order=1, rss=10 * MIB),
        "young": Sample(rank=3, order=2, rss=10 * MIB),
    }  # fmt: skip
    stopped = []
    for now in range(10):
        for act in overseer.look(float(now), samples, standing(Zone.EMERGENCY)):
            stopped.append((act.mark, act.deed))
            if now % 2:  # its end takes a while
                samples.pop(act.mark, None)
    order = list(dict.fromkeys(mark for mark, _ in stopped))
    assert order == ["young", "old", "urgent"]
    assert {deed for mark, deed in stopped if mark != "urgent"} == {Deed.STOP}
    # The last one alone holds a good part of the memory: it is the cause, and would do the same again.
    assert {deed for mark, deed in stopped if mark == "urgent"} == {Deed.KILL}


def test_in_an_emergency_of_others_making_one_may_run_on() -> None:
    overseer = Overseer(Limits())
    assert overseer.look(0.0, {"a": Sample(rss=30 * MIB)}, standing(Zone.EMERGENCY)) == []
    assert overseer.look(0.0, {}, standing(Zone.EMERGENCY)) == []


def test_an_emergency_that_is_over_but_not_yet_trusted_stops_nobody() -> None:
    held = Standing(zone=Zone.EMERGENCY, now=Zone.SAFE, why="was", reading=GOOD.reading)
    assert Overseer(Limits()).look(0.0, {"a": Sample(), "b": Sample()}, held) == []


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
        samples = {mark: Sample(rss=rss, silence=silence) for mark, (rss, silence, _) in look.items()}
        zone = max((zone for _, _, zone in look.values()), default=Zone.SAFE)
        asked = {mark: at for mark, at in asked.items() if mark in samples}
        for act in overseer.look(float(now), samples, standing(zone)):
            assert act.mark in samples
            assert act.why
            if act.deed is Deed.TERM:
                assert act.figure > act.limit
                asked[act.mark] = now
            elif act.deed is not Deed.ALERT:
                late = act.mark in asked and now - asked[act.mark] >= 3
                assert late or zone >= Zone.DANGER or act.mark in asked
                asked.setdefault(act.mark, now - 3)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [("overseer", "rss_percent", -1), ("machine", "stagger_seconds", -0.5)],
)
def test_limits_below_nothing_are_refused(table: str, key: str, value: float) -> None:
    settings = config.defaults()
    settings[table] = {**settings[table], key: value}
    with pytest.raises(ConfigError, match=f"{table}.{key}"):
        check_settings(settings)


def test_a_budget_below_nothing_is_refused() -> None:
    settings = config.defaults()
    settings["budget"]["project"]["usd"] = -1
    with pytest.raises(ConfigError, match=r"budget\.project\.usd"):
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


def lineage(table: Table, *, adopts: bool = True) -> Lineage:
    return Lineage(10, table.environments.get, adopts=adopts)


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


# ------------------------------------------------------------- real processes


def test_a_signal_meets_this_very_process_or_nobody() -> None:
    running = subprocess.Popen(["sleep", "60"])
    try:
        mine = processes()[running.pid]
        other = Process(pid=mine.pid, parent=mine.parent, session=mine.session, start="1", order=1.0)
        assert not send(other, signal.SIGKILL)
        assert running.poll() is None
        assert send(mine, signal.SIGKILL)
        assert running.wait(20) == -signal.SIGKILL
        assert not send(mine, signal.SIGKILL)
    finally:
        running.kill()
        running.wait()


#: Leaves children in every way there is; their pids are printed by themselves.
HIDES = """
import os, signal, sys, time
def sleep():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
    time.sleep(3600)
def wiped():
    # A fresh program, as a fork keeps the environment of its parent in /proc.
    code = "import os,signal,sys,time; signal.signal(15, signal.SIG_IGN);"
    code += "open(os.path.join(sys.argv[1], str(os.getpid())), 'w').close(); time.sleep(3600)"
    os.execve(sys.executable, [sys.executable, "-S", "-c", code, sys.argv[1]], dict())
for act in (sleep, wiped):
    for twice in (False, True):
        if os.fork() == 0:
            os.setsid()
            if twice and os.fork():
                os._exit(0)
            act()
while len(os.listdir(sys.argv[1])) < 4:
    time.sleep(0.01)
"""


@pytest.fixture
def care(tmp_path: Path) -> Iterator[Care]:
    """Give the real thing, which must be opened in a process of its own: it adopts orphans."""
    spending = Spending(tmp_path, Account(batch="b", run="r"), 3600.0)
    caps = {scope: Caps() for scope in ("batch", "session", "project")}
    watch = Watch(
        Sampler(str(tmp_path)), Gauge(Bounds(cpu=False)), Overseer(Limits(processes=30.0, grace_seconds=0.5)),
        0.2, lambda *_, **__: None,
    )  # fmt: skip
    made = Care(watch=watch, purse=Purse(caps, spending, 1000, counts=False))
    yield made
    made.watch.close()


def assignment(folder: Path, name: str = "a") -> Assignment:
    (folder / "logs").mkdir(exist_ok=True)
    return Assignment(
        task_id=name, prompt="", cwd=str(folder), log=str(folder / f"logs/{name}"),
        environment={"PATH": os.defpath}, mark=("HYPERVISOR_RUN", f"b/{name}~1"), timeout=60.0,
    )  # fmt: skip


def run_in_child(act: Any) -> None:
    """Run *act* in a process of its own, which may become another's heir without a trace here."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        except BaseException:  # noqa: BLE001
            import traceback  # noqa: PLC0415

            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def hidden(folder: Path) -> list[int]:
    return [int(name) for name in os.listdir(folder)]


def test_setsid_double_forks_term_and_a_wiped_environment_hide_nothing(care: Care, tmp_path: Path) -> None:
    told = tmp_path / "pids"
    told.mkdir()

    def act() -> None:
        care.open()
        agent = CommandAgent(command=[sys.executable, "-c", HIDES, str(told)])
        end = care.run(agent, assignment(tmp_path), 2)
        assert end.how is How.ENDED, end
        assert len(hidden(told)) == 4
        assert [pid for pid in hidden(told) if alive(pid)] == []
        care.close()

    run_in_child(act)
    gone(*hidden(told))


def test_nothing_of_others_is_ended_with_an_agent(care: Care, tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    ready = tmp_path / "ready"

    def act() -> None:
        care.open()
        # Ours, but no agent's: what a check leaves behind is the user's business.
        subprocess.run(["sh", "-c", f"(setsid sleep 601 & echo $! > {ready})"], check=True)
        care.run(CommandAgent(command=["sleep", "0.5"]), assignment(tmp_path), 2)
        assert alive(int(ready.read_text()))
        os.kill(int(ready.read_text()), signal.SIGKILL)
        care.close()

    try:
        run_in_child(act)
        assert alive(stranger.pid)
    finally:
        stranger.kill()
        stranger.wait()


def test_a_fork_bomb_that_ignores_term_fails_with_its_figure_and_leaves_nothing(
    care: Care, tmp_path: Path
) -> None:
    told = tmp_path / "pids"
    told.mkdir()
    bomb = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    if os.fork() == 0:
        os.setsid()
        open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
        time.sleep(600)
    time.sleep(0.02)
"""
    events: list[dict[str, Any]] = []
    care.watch.tell = lambda what, task, **more: events.append({"event": what, "task": task, **more})

    def act() -> None:
        care.open()
        end = care.run(CommandAgent(command=[sys.executable, "-c", bomb, str(told)]), assignment(tmp_path), 2)
        assert end.how is How.LIMIT, end
        assert "processes used, and 30 may be" in end.text
        acts = [event for event in events if event["event"] == RunEvent.OVERSEEN]  # the others are readings
        assert [event["act"] for event in acts] in (["alert", "term", "kill"], ["term", "kill"])
        assert all(event["measure"] == "processes" and event["task"] == "a" for event in acts)
        care.close()

    run_in_child(act)
    gone(*hidden(told))


def test_a_look_that_fails_is_not_the_last(care: Care, capsys: pytest.CaptureFixture[str]) -> None:
    looks = threading.Event()
    real = care.watch.sampler.read
    fails = [OSError("no /proc today")]

    def read() -> Reading:
        if fails:
            raise fails.pop()
        looks.set()
        return real()

    care.watch._thread = threading.Thread(target=care.watch._run, daemon=True)
    care.watch.sampler.read = read  # type: ignore[method-assign]
    care.watch._thread.start()
    assert looks.wait(20)
    assert "no /proc today" in capsys.readouterr().err


# --------------------------------------------------------------------- budgets


def purse(folder: Path, run: str = "r", answer: int = 1000, of: str = "", **caps: Caps) -> Purse:
    found = {scope: caps.get(scope, Caps()) for scope in ("batch", "session", "project")}
    return Purse(found, Spending(folder, Account(batch=f"b-{run}", run=run, session=of), 3600.0), answer)


def test_each_budget_says_its_figures_when_it_is_used_up() -> None:
    def over(spend: Spend, scope: str = "batch", **caps: float) -> str:
        return no_more({scope: Caps(**caps)}, {scope: spend})

    assert over(Spend(tokens=99), tokens=100) == ""
    assert over(Spend(tokens=100), tokens=100) == "the budget of 100 tokens is used up (100 spent)"
    assert over(Spend(usd=0.5), usd=0.5) == "the budget of 0.5 USD is used up (0.5000 spent)"
    assert over(Spend(seconds=120), seconds=120) == "the budget of 2 minutes is used up (2.0 spent)"
    assert over(Spend(attempts=7), "session", attempts=7) == "the session's budget of 7 attempts is used up"
    assert over(Spend(tokens=10**9, usd=1e9, seconds=1e9, attempts=10**9)) == ""
    # What runs may go on when the last attempt has begun; not when the last token is spent.
    assert reached({"batch": Caps(attempts=7)}, {"batch": Spend(attempts=7)}) == ""


def test_one_more_begins_only_if_its_next_answer_fits(tmp_path: Path) -> None:
    mine = purse(tmp_path, answer=40_000, batch=Caps(tokens=100_000))
    for mark in "ab":
        assert mine.why_not() == ""
        mine.begun(mark)
    assert mine.why_not() == (
        "the budget of 100000 tokens has no room for 3 more answers of up to 40000 (0 spent)"
    )
    assert mine.used("a", 5_000, 1, asks_again=True) == ""  # 5,000 + 2 * 40,000
    assert mine.used("b", 20_000, 1, asks_again=False) == ""  # it is done, and asks no more
    assert mine.used("a", 10_000, 1, asks_again=True).endswith("(30000 spent)")
    mine.ended("b", 20_000, None)
    assert mine.used("a", 11_000, 1, asks_again=True) == ""  # there is room again


def test_subagents_count_before_their_first_answer(tmp_path: Path) -> None:
    mine = purse(tmp_path, answer=10_000, batch=Caps(tokens=100_000))
    mine.begun("a")
    assert mine.used("a", 10_000, 1, asks_again=True) == ""
    assert mine.used("a", 10_000, 9, asks_again=True) == ""  # 10,000 + 9 * 10,000
    assert "no room for 10 more answers" in mine.used("a", 10_000, 10, asks_again=True)


@settings(deadline=None)
@given(st.data())
def test_a_hard_cap_holds_whatever_agents_spawn(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Agents answer in any order and begin subagents at will; a service counts what it was asked for."""
    cap, largest = 100_000, 10_000
    mine = purse(tmp_path_factory.mktemp("p"), answer=largest, batch=Caps(tokens=cap))
    agents: dict[str, list[int]] = {}  # told so far, conversations that wait for an answer
    sent = 0
    for number in range(data.draw(st.integers(1, 60))):
        if data.draw(st.booleans()) and mine.why_not() == "":
            mine.begun(f"a{number}")
            agents[f"a{number}"] = [0, 1]
        if not agents:
            continue
        mark = data.draw(st.sampled_from(sorted(agents)))
        cost, asked = data.draw(st.integers(1, largest)), agents[mark][1] - 1
        sent += cost
        agents[mark][0] += cost
        agents[mark][1] += data.draw(st.integers(0, 10))
        if mine.used(mark, agents[mark][0], agents[mark][1], asks_again=True):
            mine.ended(mark, None, None, cut=True)  # stopped before it asks again
            sent += largest * asked  # its subagents are answered all the same, and nobody tells of it
            del agents[mark]
        elif data.draw(st.integers(0, 9)) == 0:
            mine.ended(mark, None, None, cut=True)  # killed for another reason
            sent += largest * agents.pop(mark)[1]
        # All that is on its way arrives at its dearest.
        assert sent + largest * sum(talks for _, talks in agents.values()) <= cap


def test_answers_on_their_way_to_an_agent_that_is_ended_are_paid_for(tmp_path: Path) -> None:
    mine = purse(tmp_path, answer=10_000, batch=Caps(tokens=100_000))
    mine.begun("a")
    assert mine.used("a", 10_000, 4, asks_again=True) == ""
    mine.ended("a", None, None, cut=True)  # killed: 10,000, and four answers that nobody tells of
    assert mine.why_not() == ""
    mine.begun("b")
    mine.ended("b", 40_000, 0.1)  # it told its sum
    assert mine.why_not() == ""
    mine.begun("c")
    mine.ended("c", None, None)  # its service turned it away
    assert mine.why_not() == ""
    mine.begun("d")
    mine.ended("d", 1, 0.0)
    assert "no room for 1 more answer of up to 10000 (90001 spent)" in mine.why_not()


def test_runs_of_a_session_and_of_a_project_share_their_budgets(tmp_path: Path) -> None:
    caps = {"session": Caps(tokens=1000), "project": Caps(tokens=5000)}
    one = purse(tmp_path, "1", 0, "s", **caps)
    two = purse(tmp_path, "2", 0, "s", **caps)
    other = purse(tmp_path, "3", 0, "t", project=Caps(tokens=5000))
    for mine, tokens in ((one, 600), (two, 300), (other, 900)):
        mine.begun("a")
        mine.used("a", tokens, 1, asks_again=False)
        assert mine.look() == ""
    assert one.look() == ""
    two.used("a", 400, 1, asks_again=False)
    assert two.look() == "the session's budget of 1000 tokens is used up (1000 spent)"
    assert one.look() == two.look()
    assert other.look() == ""  # 1,900 of 5,000 of the project
    other.ended("a", 4000, 0.1)
    assert "the project's budget of 5000 tokens" in other.look()


def test_a_run_within_an_agent_spends_of_the_outer_batch_too(tmp_path: Path) -> None:
    outer = purse(tmp_path, "1", 0, batch=Caps(tokens=1000))
    inner = Purse(
        {scope: Caps() for scope in ("batch", "session", "project")},
        Spending(tmp_path, Account(batch="b-inner", run="2", within=("b-1",)), 3600.0), 0,
    )  # fmt: skip
    inner.begun("a")
    inner.used("a", 1000, 1, asks_again=False)
    inner.look()
    assert "is used up (1000 spent)" in outer.look()


def test_what_a_killed_run_told_last_counts_when_its_batch_is_gone_on_with(tmp_path: Path) -> None:
    killed = Purse(
        {scope: Caps() for scope in ("batch", "session", "project")},
        Spending(tmp_path, Account(batch="b", run="1"), 3600.0), 0,
    )  # fmt: skip
    killed.begun("a")
    killed.used("a", 700, 1, asks_again=False)
    killed.look()
    caps = {"batch": Caps(tokens=700), "session": Caps(), "project": Caps()}
    again = Purse(caps, Spending(tmp_path, Account(batch="b", run="2"), 3600.0), 0)
    assert "(700 spent)" in again.look()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"batch": 3}', '{"batch": "b-1", "tokens": "many"}'])
def test_a_damaged_account_counts_for_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "spending").mkdir()
    (tmp_path / "spending/x.json").write_text(text)
    assert purse(tmp_path, "1", 0, batch=Caps(tokens=1)).look() == ""


def test_an_account_is_a_file_that_says_what_was_spent(tmp_path: Path) -> None:
    mine = purse(tmp_path, "1", 0, "s")
    mine.begun("a")
    mine.ended("a", 10, 0.25)
    mine.look()
    (file,) = (tmp_path / "spending").iterdir()
    told = json.loads(file.read_bytes())
    assert {key: told[key] for key in ("batch", "session", "tokens", "usd", "attempts", "at_work")} == {
        "batch": "b-1", "session": "s", "tokens": 10, "usd": 0.25, "attempts": 1, "at_work": 0,
    }  # fmt: skip


def test_caps_are_those_of_the_settings_in_minutes() -> None:
    table = config.defaults()["budget"]
    assert not any(caps.any for caps in caps_of(table).values())
    table["batch"]["minutes"] = 2
    assert caps_of(table)["batch"] == Caps(seconds=120.0)
    assert short_of({"batch": Caps(usd=1.0)}, {"batch": Spend()}, 9, 10**9) == ""


# ---------------------------------------------------------- what a client says


def said(*events: dict[str, Any]) -> list[tuple[int, int, bool]]:
    found: list[tuple[int, int, bool]] = []
    heard = Heard(used=lambda *what: found.append(what))
    for event in events:
        heard.line(json.dumps(event).encode())
    return found


def answer(name: str, tokens: int, *uses: str, kind: str = "Bash") -> dict[str, Any]:
    content = [{"type": "tool_use", "id": use, "name": kind, "input": {}} for use in uses] or [
        {"type": "text"}
    ]
    usage = {"input_tokens": tokens - 10, "cache_read_input_tokens": 4, "output_tokens": 6}
    return {"type": "assistant", "message": {"id": name, "usage": usage, "content": content}}


def result(use: str, text: str = "done") -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": use, "content": [{"type": "text", "text": text}]}
    return {"type": "user", "message": {"content": [block]}}


def test_answers_are_counted_once_each_while_a_client_works() -> None:
    assert said(answer("m1", 100), answer("m1", 100, "t1"), answer("m2", 50)) == [
        (100, 1, False), (100, 1, True), (150, 1, False)
    ]  # fmt: skip


def test_a_subagent_is_a_conversation_until_its_end_is_told() -> None:
    told = said(
        answer("m1", 10, "a1", "a2", kind="Agent"),
        {"type": "system", "subtype": "task_started", "task_id": "x", "tool_use_id": "a2"},
        result("a1"),
        result("a2", "Async agent launched successfully.\nagentId: x"),
        answer("m2", 10),
        {"type": "system", "subtype": "task_notification", "task_id": "x", "status": "completed"},
        answer("m3", 10),
    )
    assert [talks for _, talks, _ in told] == [3, 2, 1]


def test_an_agent_that_spends_beyond_its_budget_is_stopped_at_no_cost(care: Care, tmp_path: Path) -> None:
    care.purse.caps = {**care.purse.caps, "batch": Caps(tokens=1000)}

    class Spender:
        name = "spender"
        permissions = ""

        def run(self, given: Assignment) -> AgentEnd:
            given.used(600, 1, True)
            assert given.stopped.wait(20)
            return AgentEnd(how=How.KILLED, text="killed", exit=-9)

    end = care.run(Spender(), assignment(tmp_path), 2)  # type: ignore[arg-type]
    assert end.how is How.STOPPED
    assert end.how.costs_no_attempt
    assert "the budget of 1000 tokens has no room for 1 more answer of up to 1000 (600 spent)" in end.text
    assert end.tokens == 600
    assert eventually(lambda: not care.watch._watched, "its leave")
