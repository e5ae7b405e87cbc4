"""The learner: each figure is the formula's of docs/learning.md; what follows is done, and said."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT, script, shell, write_task
from hypervisor import hivefile
from hypervisor.core.errors import UsageError
from hypervisor.core.paths import Project
from hypervisor.events import RunEvent, log_of
from hypervisor.learning.advice import (
    Advice,
    Room,
    advise,
    benefit,
    bottleneck,
    ceiling,
    fits,
    knee,
    rates_of,
)
from hypervisor.learning.learner import Known, Lane, Observed, Span, Told, Totals, sweep
from hypervisor.learning.learnings import BATCHES, Learnings, span_details
from hypervisor.learning.pacer import Pacer

sys.path.append(str(ROOT))
from bench import learner as simulated

AUDIT = Lane(type="audit")
ROOM = Room(cores=4.0, ram_mb=8000.0, cap=8)


def seen(tries: int, seconds: float, *, refused: int = 0, cpu: float = 0.0) -> Observed:
    """Return attempts that all took equally long and, but for those refused, succeeded."""
    return Observed(
        tries=tries, done=tries - refused, refused=refused, seconds=tries * seconds,
        squares=tries * seconds**2, cpu_seconds=tries * cpu,
    )  # fmt: skip


def known(levels: Mapping[int, Observed], *, ram: float | None = 50.0, told: Told | None = None) -> Known:
    totals = Totals(ram_mb=ram)
    for level in levels.values():
        totals.tries += level.tries
        totals.seconds += level.seconds
        totals.cpu_seconds += level.cpu_seconds
        totals.cpu_known_seconds += level.seconds
    return Known(levels=dict(levels), totals=totals, told=told)


def span(task: str, begin: float, end: float, how: str = "success", **more: Any) -> Span:
    return Span(task=task, lane=AUDIT, begin=begin, end=end, how=how, **more)


# -------------------------------------------------------------------- what counts


def test_an_attempt_counts_for_the_number_beside_which_it_ran() -> None:
    # Two at a time, each of one second, the second half a second after the first.
    spans = [span(f"t-{n}", n / 2, n / 2 + 1) for n in range(10)]
    levels = sweep(spans)
    assert list(levels) == [2]
    # The first two took no other's place, and the last two ended after the last begin.
    assert levels[2].tries == 6
    assert levels[2].seconds == pytest.approx(6)


def test_what_was_begun_to_make_it_more_tells_nothing_of_more() -> None:
    # Four that share one lock of a second: the first of them does not wait, the fourth waits for three.
    first = [span(f"t-{n}", 0, n + 1) for n in range(4)]
    then = [span(f"t-{n}", n - 3, n + 1) for n in range(4, 12)]
    levels = sweep([*first, *then])
    assert list(levels) == [4]
    assert levels[4].seconds / levels[4].tries == pytest.approx(4)  # as long as all four together


def test_what_was_begun_among_fewer_tells_nothing_of_more() -> None:
    # Two share a lock of a second; from 10 s on eight do. What began beside one waits for that one only.
    two = [span(f"a-{n}", max(0, n - 1), n + 1) for n in range(9)]
    crowd = [span(f"b-{n}", 9, 11 + n) for n in range(6)]
    later = [span(f"c-{n}", 10 + n, 17 + n) for n in range(10)]
    levels = sweep([*two, *crowd, *later])
    assert set(levels) <= {2, 7}
    assert levels[2].seconds / levels[2].tries == pytest.approx(2)
    assert levels[7].seconds / levels[7].tries == pytest.approx(7)


def test_a_run_of_fewer_than_two_rounds_says_nothing_of_a_number() -> None:
    assert sweep([span(f"t-{n}", 0, 1) for n in range(8)]) == {}
    assert sweep([]) == {}


def test_the_doubt_is_the_standard_error_and_a_tenth_by_the_root_of_the_tries_at_least() -> None:
    assert seen(25, 3.0).doubt == pytest.approx(0.1 / 5)
    spread = Observed(tries=4, done=4, seconds=8.0, squares=1 + 9 + 1 + 9)  # 1, 3, 1, 3: mean 2, deviation 1
    assert spread.doubt == pytest.approx(0.5 / 2)


# ----------------------------------------------------------------------- formulas


def test_throughput_is_the_number_times_what_was_done_by_the_time_it_took() -> None:
    rates = rates_of({1: seen(10, 2.0), 4: seen(12, 2.5)})
    assert rates[1].value == pytest.approx(0.5)
    assert rates[4].value == pytest.approx(4 / 2.5)


@pytest.mark.parametrize(
    ("number", "tries", "believed"), [(1, 5, False), (1, 6, True), (8, 7, False), (8, 8, True)]
)
def test_few_attempts_are_not_believed(number: int, tries: int, believed: bool) -> None:
    assert (number in rates_of({number: seen(tries, 1.0)})) is believed


@pytest.mark.parametrize(
    ("levels", "most"),
    [
        ({4: seen(40, 1.0)}, float("inf")),
        ({4: seen(40, 1.0), 8: seen(40, 1.0, refused=1)}, float("inf")),  # one may be anybody's doing
        ({4: seen(40, 1.0), 8: seen(40, 1.0, refused=2)}, float("inf")),  # 5 %
        ({4: seen(40, 1.0), 8: seen(40, 1.0, refused=3)}, 7),
        ({4: seen(10, 1.0, refused=2), 8: seen(10, 1.0, refused=9)}, 3),
        ({1: seen(10, 1.0, refused=9)}, 1),  # one always runs
    ],
)
def test_where_attempts_are_refused_fewer_run(levels: dict[int, Observed], most: float) -> None:
    assert ceiling(levels) == most


@pytest.mark.parametrize(
    ("seconds", "best", "gain"),
    [
        ({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}, 8, 1.0),  # waits for a service
        ({1: 1.0, 2: 1.0, 4: 2.0, 8: 4.0}, 2, 1.0),  # two processors: the second adds one, the third nothing
        ({1: 1.0, 2: 2.0, 4: 4.0}, 1, 0.0),  # one lock
        ({1: 1.0, 2: 2.2, 4: 6.0}, 1, 0.0),  # in each other's way
        ({1: 1.0, 4: 1.6}, 4, 0.5),  # S(4) = 2.5 = 1 + 0.5 · 3
    ],
)
def test_the_benefit_is_gustafsons_share(seconds: dict[int, float], best: int, gain: float) -> None:
    rates = rates_of({number: seen(10_000, each) for number, each in seconds.items()})
    assert knee(rates) == best
    assert benefit(rates) == pytest.approx(gain, abs=0.01)


@pytest.mark.parametrize(
    ("levels", "ram", "short"),
    [
        ({1: seen(40, 1.0), 8: seen(40, 1.0)}, 50.0, "none"),
        ({4: seen(40, 1.0, cpu=1.0), 8: seen(40, 2.0, cpu=1.0)}, 50.0, "cpu"),
        ({1: seen(40, 1.0), 8: seen(40, 8.0)}, 50.0, "lock"),
        ({1: seen(40, 1.0), 2: seen(40, 1.0)}, 4000.0, "memory"),
        ({3: seen(40, 1.0), 8: seen(40, 1.0, refused=20)}, 50.0, "rate limit"),
        ({1: seen(40, 1.0)}, 50.0, "unknown"),
        ({}, None, "unknown"),
    ],
)
def test_what_is_short_is_named(levels: dict[int, Observed], ram: float | None, short: str) -> None:
    assert bottleneck(known(levels, ram=ram), ROOM) == short


def test_as_many_run_as_have_memory_and_one_always() -> None:
    assert fits(known({}, ram=3000.0), ROOM) == 2
    assert fits(known({}, ram=90_000.0), ROOM) == 1
    assert fits(known({}, ram=None, told=Told(ram_mb=2000)), ROOM) == 4
    assert fits(Known(), ROOM) == 8


# ------------------------------------------------------------------------- advice


@pytest.mark.parametrize("explores", [False, True])
def test_what_is_said_to_gain_runs_in_parallel_and_what_is_said_not_to_one_by_one(explores: bool) -> None:
    gains = advise(Known(told=Told(benefit=0.85)), ROOM, explores=explores)
    gains_not = advise(Known(told=Told(benefit=0.1)), ROOM, explores=explores)
    assert (gains.concurrency, gains_not.concurrency) == (8, 1)
    assert gains_not.why == "said to gain 0.1 of one by each further agent; 0 attempts seen"


@pytest.mark.parametrize(("benefit", "parallel"), [(0.85, True), (0.1, False)])
def test_a_measured_benefit_decides_as_a_told_one_does(benefit: float, parallel: bool) -> None:
    # S(k) = 1 + p (k - 1), so that each of k attempts takes k / S(k) as long as one alone.
    levels = {k: seen(10_000, k / (1 + benefit * (k - 1))) for k in (1, 2)}
    word = Told(benefit=1 - benefit)  # what is measured counts more than what is said
    said = advise(known(levels, told=word), ROOM, explores=False)
    assert said.benefit == pytest.approx(benefit, abs=0.01)
    assert said.concurrency == (8 if parallel else 2)  # 2 is 10 % faster than 1, beyond doubt
    assert f"{2 * (1 + benefit) / 2 * 60:.3g}/min" in said.why


def test_without_knowledge_auto_runs_as_many_as_may_and_adaptive_begins_with_half() -> None:
    assert advise(Known(), ROOM, explores=False).concurrency == 8
    assert advise(Known(), ROOM, explores=True).concurrency == 4


def test_what_is_known_is_tried_on_until_nothing_is_left_to_try() -> None:
    truth = {k: max(1.0, k / 4) for k in range(1, 9)}  # four processors
    levels: dict[int, Observed] = {}
    steps: list[int] = []
    while True:
        said = advise(known(levels), ROOM, explores=True, now=steps[-1] if steps else 0)
        if steps and not said.explores:
            break
        assert len(steps) < 12, steps
        steps.append(said.concurrency)
        levels.setdefault(said.concurrency, Observed()).add(seen(20, truth[said.concurrency], cpu=1.0))
    assert (said.concurrency, said.bottleneck) == (4, "cpu")
    assert set(steps) <= {1, 2, 4, 6, 8, 3, 5}
    assert said.why.startswith("more is not faster (")
    assert said.why.endswith(f"for want of processors; {20 * len(steps)} attempts seen")
    assert "\n" not in said.why


def test_a_lane_with_less_room_is_never_told_more() -> None:
    for cap in (1, 2, 3, 8):
        for ram in (50.0, 3000.0, 99_000.0):
            for levels in ({}, {1: seen(40, 1.0), 2: seen(40, 1.0)}, {8: seen(40, 1.0, refused=30)}):
                for explores in (False, True):
                    room = Room(cores=4.0, ram_mb=8000.0, cap=cap)
                    said = advise(known(levels, ram=ram), room, explores=explores)
                    assert 1 <= said.concurrency <= min(cap, max(1, int(8000 / ram)))


# -------------------------------------------------------------------------- pacer


def test_adaptive_changes_its_mind_while_a_batch_runs_and_auto_does_not() -> None:
    def ends(strategy: str) -> list[Advice]:
        pacer = Pacer(strategy, ROOM, {})
        pacer.advice(AUDIT)
        said = []
        for number in range(40):  # four at once; a service that three at a time can have
            if number >= 4:
                how: dict[str, Any] = (
                    {"how": "retry", "refused": True} if number % 4 == 0 else {"how": "success"}
                )
                one = span(f"t-{number - 4}", (number - 4) / 4, number / 4, **how)
                said.append(pacer.ended(one))
            pacer.began(f"t-{number}", AUDIT, number / 4)
        return [one for one in said if one is not None]

    assert ends("auto") == []
    first = ends("adaptive")[0]
    assert (first.concurrency, first.bottleneck) == (3, "rate limit")


@pytest.mark.parametrize("kind", simulated.KINDS, ids=lambda kind: kind.name)
def test_after_three_batches_adaptive_is_as_fast_as_the_best_fixed_number(kind: simulated.Kind) -> None:
    found = simulated.row(simulated.compare(kind, 8, seed=1))
    assert found["share"] >= simulated.WANTED
    wanted = {"sleep": "none", "cpu": "cpu", "lock": "lock", "half-lock": "lock", "rate limit": "rate limit"}
    assert found["bottleneck"] == wanted[kind.name]
    assert " at once: " in found["says"]


# ------------------------------------------------------------------ kept and learnt


@pytest.fixture
def learnings(tmp_path: Path) -> Learnings:
    return Learnings(Project(tmp_path, tmp_path / ".hypervisor"))


def logged(learnings: Learnings, batch: str, spans: list[Span]) -> None:
    folder = learnings.project.batches / batch
    folder.mkdir(parents=True, exist_ok=True)
    log_of(folder).tell(RunEvent.STARTED, "", limit=8)
    for one in spans:
        log_of(folder).tell(RunEvent.TRIED, one.task, **span_details(one))


def two_at_once(count: int, **more: Any) -> list[Span]:
    return [span(f"t-{n}", n / 2, n / 2 + 1, **more) for n in range(count)]


def test_what_a_batchs_log_says_is_learnt_once_also_of_a_batch_that_goes_on(learnings: Learnings) -> None:
    logged(learnings, "b-1", two_at_once(10, cpu_seconds=0.5, ram_mb=70.0))
    assert (learnings.learn(), learnings.learn()) == (1, 0)
    (mine,) = learnings.known().values()
    assert mine.levels == sweep(two_at_once(10, cpu_seconds=0.5))
    assert (mine.totals.tries, mine.totals.successes, mine.ram_mb, mine.cpu) == (10, 10, 70.0, 0.5)
    logged(learnings, "b-1", two_at_once(6, cpu_seconds=0.5))  # gone on with: a run of its own
    assert learnings.learn() == 1
    (mine,) = learnings.known().values()
    assert mine.totals.tries == 16
    assert mine.levels[2].tries == 6 + 2


def test_what_is_no_attempt_in_a_log_is_passed_over(learnings: Learnings) -> None:
    logged(learnings, "b-1", two_at_once(10))
    with open(learnings.project.batches / "b-1/events.jsonl", "a") as log:
        log.write('{"event":"tried","began":"then","until":3}\n[1]\n\0\n{"event":"tried","task":"t-1","beg')
    learnings.learn()
    (mine,) = learnings.known().values()
    assert mine.totals.tries == 10


def test_only_the_last_batches_of_a_lane_count_and_none_that_is_old(learnings: Learnings) -> None:
    for number in range(BATCHES + 5):
        logged(learnings, f"b-{number:03}", two_at_once(10))
    os.utime(learnings.project.batches / f"b-{BATCHES + 4:03}/events.jsonl", (1, 1))
    learnings.learn()
    (mine,) = learnings.known().values()
    assert mine.totals.tries == 10 * BATCHES


def test_a_cache_that_is_lost_is_learnt_anew_from_the_logs(learnings: Learnings) -> None:
    logged(learnings, "b-1", two_at_once(10, cpu_seconds=0.5))
    learnings.learn()
    learnings.tell("audit", Told(benefit=0.85))
    before = learnings.known()
    (learnings.project.state / hivefile.CACHE).write_bytes(b"no database" * 1000)
    assert learnings.learn() == 1
    assert learnings.known() == before


def test_what_is_said_again_changes_only_what_is_said(learnings: Learnings) -> None:
    learnings.tell("audit", Told(benefit=0.85, notes="reads only", ram_mb=512, by="ann"))
    told = learnings.tell("audit", Told(cpu=0.5, by="bob"))
    assert (told.benefit, told.notes, told.ram_mb, told.cpu, told.by) == (0.85, "reads only", 512, 0.5, "bob")


@pytest.mark.parametrize(
    ("told", "word"),
    [
        (Told(benefit=1.5), "must be from 0 .* to 1"),
        (Told(benefit=float("nan")), "must be from 0 .* to 1"),
        (Told(cpu=-1), "resource_cost cpu -1"),
        (Told(ram_mb=float("inf")), "resource_cost ram inf"),
        (Told(by="a\nb"), "caller: must be one line"),
    ],
)
def test_figures_that_cannot_be_are_refused_and_nothing_is_kept(
    learnings: Learnings, told: Told, word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        learnings.tell("audit", told)
    assert not learnings.project.state.exists()


def test_a_new_pattern_begins_with_what_its_type_came_to(learnings: Learnings) -> None:
    logged(learnings, "b-1", two_at_once(10))
    learnings.learn()
    learnings.tell("audit", Told(benefit=0.85))
    fresh = Lane(type="audit", pattern="map-reduce")
    found = learnings.known_of([fresh, Lane(type="other")])
    assert found[fresh].totals.tries == 10
    assert found[fresh].told is not None
    assert found[Lane(type="other")] == Known()


@pytest.mark.acceptance
def test_a_run_is_paced_by_what_is_known_says_why_and_is_learnt_of(tmp_path: Path) -> None:
    with shell(tmp_path) as user:
        agent = script(
            user.home, "agent", 'printf \'{"kind":"done","text":"ok","evidence":"x"}\' > $HYPERVISOR_REPORT'
        )
        for number in range(4):
            write_task(user.cwd / f"tasks/t-{number}.md", type="migration", verify="'true'")
        (user.cwd / ".hypervisor").mkdir()
        user.hypervisor("learn", "add", "migration", "--benefit", "0.1", "--notes", "one database").passed()
        words = ("run", "--all", "--agent", "exec", "--exec", agent, "--isolation", "none", "-j", "4")
        done = user.hypervisor(*words, "--strategy", "auto").passed()
        assert "migration: 1 at once: said to gain 0.1 of one by each further agent" in done.out + done.err
        (log,) = (user.cwd / ".hypervisor/batches").glob("*/events.jsonl")
        told = [json.loads(line) for line in log.read_text().splitlines()]
        (paced,) = [event for event in told if event["event"] == "paced"]
        assert (paced["type"], paced["limit"]) == ("migration", 1)
        tried = sorted(
            (event for event in told if event["event"] == "tried"), key=lambda event: event["began"]
        )
        assert len(tried) == 4
        assert all(one["until"] <= two["began"] + 0.001 for one, two in pairwise(tried))
        (row,) = user.hypervisor("learn", "show", "migration", "--json").passed().json
        assert (row["samples"], row["success_rate"], row["at_once"]) == (4, 1.0, 1)
