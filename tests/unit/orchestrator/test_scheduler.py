"""The scheduler: what starts, in which order, what never starts, and that every batch comes to an end."""

from __future__ import annotations

import random
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.core.model import Outcome
from hypervisor.orchestrator.schedule import Again, Finished, QueuedTask, SchedulingRules, Start, Wait
from hypervisor.orchestrator.scheduler import Scheduler
from hypervisor.tasks.scopes import overlap

S, B, F, K = Outcome.SUCCESS, Outcome.BLOCKED, Outcome.FAILED, Outcome.SKIPPED
RETRY = Again(counted=True)
MANY = 100_000


def entries(*given_tasks: str | tuple[str, dict[str, Any]]) -> list[QueuedTask]:
    """Return tasks in batch order, each a name, or a name and what is particular to it."""
    pairs = [(task, {}) if isinstance(task, str) else task for task in given_tasks]
    made = []
    for number, (name, more) in enumerate(pairs):
        fields: dict[str, Any] = {"id": name, "key": f"k/{name}", "order": number}
        made.append(QueuedTask(**(fields | more)))
    return made


def of(*given_tasks: str | tuple[str, dict[str, Any]], **rules: Any) -> Scheduler:
    return Scheduler(entries(*given_tasks), SchedulingRules(**{"limit": 10, "jitter": 0.0} | rules))


def all_started(scheduler: Scheduler, now: float = 0.0) -> list[str]:
    """Start all that may start now."""
    found = []
    while isinstance(said := scheduler.next(now), Start):
        found.append(said.id)
    return found


def waited(scheduler: Scheduler, now: float = 0.0) -> Wait:
    said = scheduler.next(now)
    assert isinstance(said, Wait), said
    return said


def finished(scheduler: Scheduler, now: float = 0.0) -> str:
    said = scheduler.next(now)
    assert isinstance(said, Finished), said
    return said.why


# ----------------------------------------------------------------------- order


def test_no_more_run_than_the_limit_and_it_is_said_why() -> None:
    scheduler = of("a", "b", "c", limit=2)
    assert all_started(scheduler) == ["a", "b"]
    assert waited(scheduler) == Wait(until=None, why="2 run, and 2 may")
    scheduler.ended("a", 1, S)
    assert all_started(scheduler, 1) == ["c"]


def test_the_most_urgent_start_first_and_equals_in_batch_order() -> None:
    scheduler = of("a", ("b", {"rank": 0}), ("c", {"rank": 3}), "d", ("e", {"rank": 0}))
    assert all_started(scheduler) == ["b", "e", "a", "d", "c"]


def test_batch_order_is_that_of_the_entries_order_not_of_the_list() -> None:
    scheduler = of(("a", {"order": 2}), ("b", {"order": 1}))
    assert all_started(scheduler) == ["b", "a"]


@pytest.mark.parametrize(("waiting", "first"), [(90.0, "urgent"), (300.0, "old")])
def test_who_waits_long_enough_goes_before_the_urgent_that_come_later(waiting: float, first: str) -> None:
    scheduler = of(
        "first",
        ("old", {"rank": 3}),
        ("urgent", {"rank": 1, "depends_on": ("first",)}),
        limit=1,
        age_seconds=100.0,
    )
    assert all_started(scheduler) == ["first"]
    scheduler.ended("first", waiting, S)
    assert all_started(scheduler, waiting) == [first]


def test_sequential_goes_one_by_one_in_batch_order_whatever_the_rank() -> None:
    scheduler = of(("a", {"rank": 3}), ("b", {"rank": 0}), strategy="sequential")
    assert all_started(scheduler) == ["a"]
    scheduler.ended("a", 1, F)
    assert all_started(scheduler, 1) == ["b"]


def test_two_tasks_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="same id"):
        of("a", "a")


def test_an_empty_batch_is_finished_at_once() -> None:
    assert finished(of()) == "all of 0 tasks ended"


# ---------------------------------------------------------------- dependencies


def test_a_task_starts_when_all_it_depends_on_succeeded_and_not_before() -> None:
    scheduler = of("a", "b", ("c", {"depends_on": ("a", "b", "b", "outside")}))
    assert all_started(scheduler) == ["a", "b"]
    assert scheduler.waits_for("c") == ["a", "b"]
    scheduler.ended("a", 1, S)
    assert waited(scheduler, 1).why == "1 task wait for the 1 that run"
    assert scheduler.waits_for("c") == ["b"]
    scheduler.ended("b", 2, S)
    assert all_started(scheduler, 2) == ["c"]


@pytest.mark.parametrize(("outcome", "word"), [(F, "failed"), (B, "is blocked"), (K, "was skipped")])
def test_what_depends_on_what_did_not_succeed_ends_as_blocked_without_a_start(
    outcome: Outcome, word: str
) -> None:
    scheduler = of(
        "a", ("b", {"depends_on": ("a",)}), ("c", {"depends_on": ("b",)}), ("d", {"depends_on": ("a",)})
    )
    assert all_started(scheduler) == ["a"]
    assert scheduler.ended("a", 1, outcome) is outcome
    assert sorted(scheduler.unreachable()) == [
        ("b", f"a, on which it depends, {word}"),
        ("c", f"b, on which it depends, is blocked, as a {word}"),
        ("d", f"a, on which it depends, {word}"),
    ]
    assert scheduler.unreachable() == []
    assert finished(scheduler, 1) == "all of 4 tasks ended"


def test_tasks_in_a_circle_end_as_blocked_and_hang_nothing() -> None:
    scheduler = of(
        "a", ("b", {"depends_on": ("c",)}), ("c", {"depends_on": ("b",)}), ("d", {"depends_on": ("d",)})
    )
    assert all_started(scheduler) == ["a"]
    scheduler.ended("a", 1, S)
    assert finished(scheduler, 1) == "3 tasks wait for one another"
    assert scheduler.unreachable()[0] == ("b", "waits for c, which in the end waits for itself")
    assert scheduler.counts()["blocked"] == 3
    assert finished(scheduler, 2) == "all of 4 tasks ended"


# ---------------------------------------------------------------------- scopes


def test_tasks_whose_files_overlap_never_run_at_once_and_others_pass_them() -> None:
    scheduler = of(
        ("a", {"files": ("src/",)}), ("b", {"files": ("src/x.py",)}), ("c", {"files": ("docs/",)}), "d"
    )
    assert all_started(scheduler) == ["a", "c", "d"]
    assert waited(scheduler).why == "1 task touch files of running ones (b those of a)"
    scheduler.ended("a", 1, S)
    assert all_started(scheduler, 1) == ["b"]


def test_without_the_gate_overlapping_tasks_run_at_once() -> None:
    scheduler = of(("a", {"files": ("x",)}), ("b", {"files": ("x",)}), scope_gate=False)
    assert all_started(scheduler) == ["a", "b"]


def test_among_tasks_of_the_same_files_the_most_urgent_goes_first() -> None:
    scheduler = of(
        *((name, {"files": ("x",), "rank": rank}) for name, rank in (("a", 2), ("b", 1), ("c", 0)))
    )
    order = []
    for now in range(3):
        (name,) = all_started(scheduler, now)
        order.append(name)
        scheduler.ended(name, now, S)
    assert order == ["c", "b", "a"]


# -------------------------------------------------------------- again and held


def test_a_retry_waits_longer_each_time_up_to_the_cap_and_the_last_one_fails() -> None:
    scheduler = of("a", retries=4, backoff_base=10.0, backoff_factor=3.0, backoff_cap=50.0)
    now, delays = 0.0, []
    while True:
        assert all_started(scheduler, now) == ["a"]
        if scheduler.ended("a", now, RETRY) is F:
            break
        until = waited(scheduler, now).until
        assert until is not None
        assert all_started(scheduler, until - 0.1) == []
        delays.append(until - now)
        now = until
    assert delays == [10, 30, 50, 50]
    assert scheduler.counts()["failed"] == 1


@pytest.mark.parametrize(("chance", "delay"), [(0.0, 10.0), (0.5, 9.0), (1.0, 8.0)])
def test_chance_shortens_a_delay_and_never_exceeds_the_cap(chance: float, delay: float) -> None:
    scheduler = of("a", backoff_base=20.0, backoff_cap=10.0, jitter=0.2, random=lambda: chance)
    all_started(scheduler)
    scheduler.ended("a", 0, RETRY)
    assert waited(scheduler).until == delay


def test_an_attempt_that_does_not_count_is_made_again_without_end() -> None:
    scheduler = of("a", retries=0)
    for n in range(20):
        assert all_started(scheduler, n * 7.0) == ["a"]
        assert scheduler.ended("a", n * 7.0, Again(after=7.0)) is None
        assert waited(scheduler, n * 7.0).until == n * 7.0 + 7.0
    assert scheduler.ended("a", 200, S) is S


def test_what_another_coordinator_holds_is_looked_at_later_and_lets_others_pass() -> None:
    scheduler = of(("a", {"files": ("x",)}), ("b", {"files": ("x",)}), held_seconds=5.0, limit=1)
    assert all_started(scheduler, 0) == ["a"]
    scheduler.held("a", 0, "host-2")
    assert all_started(scheduler, 0) == ["b"]
    scheduler.ended("b", 1, S)
    assert waited(scheduler, 1) == Wait(until=5.0, why="1 task are held by others (a by host-2)")
    assert all_started(scheduler, 5) == ["a"]
    scheduler.held("a", 5, "host-2")
    assert scheduler.ended("a", 6, S) is S
    assert finished(scheduler, 6) == "all of 2 tasks ended"


def test_a_task_ends_once() -> None:
    scheduler = of("a", "b")
    all_started(scheduler)
    assert scheduler.ended("a", 1, S) is S
    assert scheduler.ended("a", 2, F) is S
    scheduler.held("a", 2, "x")
    assert scheduler.counts()["success"] == 1
    assert sum(scheduler.counts().values()) == 2


# ------------------------------------------------------------ pause, halt, 429


def test_nothing_starts_in_a_pause_nor_does_a_shorter_one_end_it() -> None:
    scheduler = of("a")
    scheduler.pause(100, "usage limit")
    scheduler.pause(50, "shorter")
    assert waited(scheduler, 99.9) == Wait(until=100, why="paused: usage limit")
    assert scheduler.explain(99.9) == "paused: usage limit"
    assert all_started(scheduler, 100) == ["a"]


@pytest.mark.parametrize(("stop", "word"), [("drain", "draining: stop"), ("halt", "halted: stop")])
def test_after_drain_and_halt_nothing_starts_and_what_runs_may_end(stop: str, word: str) -> None:
    scheduler = of("a", "b", limit=1)
    all_started(scheduler)
    getattr(scheduler, stop)("stop")
    assert waited(scheduler).why == f"{word}; 1 still run"
    scheduler.ended("a", 1, RETRY)
    assert finished(scheduler, 1000) == word
    assert (scheduler.counts()["ready"], scheduler.counts()["success"]) == (2, 0)


def test_too_many_requests_halve_the_limit_which_grows_back() -> None:
    scheduler = of(*map(str, range(20)), limit=8, grow_seconds=60.0, settle_seconds=5.0)
    assert len(all_started(scheduler)) == 8
    scheduler.shrink(10)
    scheduler.shrink(11)  # of the same moment
    assert scheduler.limit(11) == 4
    assert waited(scheduler, 11) == Wait(until=71, why="8 run, and 4 may (lowered from 8: too many requests)")
    scheduler.shrink(20)
    assert [scheduler.limit(at) for at in (20, 79, 80, 140, 320, 380, 9999)] == [2, 2, 3, 4, 7, 8, 8]
    for n in range(6):
        scheduler.shrink(10_000 + 10 * n)
    assert scheduler.limit(10_051) == 1


@pytest.mark.parametrize(
    ("outcomes", "halts"),
    [([F, F], True), ([F, B], True), ([B, B], False), ([F, S], False), ([S, S], False)],
)
def test_the_first_run_alone_and_halt_the_batch_if_all_came_to_nothing(
    outcomes: list[Outcome], halts: bool
) -> None:
    scheduler = of("a", "b", "c", "d", canary=2)
    assert all_started(scheduler) == ["a", "b"]
    assert waited(scheduler).why == "the first 2 tasks run alone until all of them have ended"
    scheduler.ended("a", 1, outcomes[0])
    assert all_started(scheduler, 1) == []
    scheduler.ended("b", 2, RETRY)
    assert all_started(scheduler, 3) == []
    assert all_started(scheduler, 100) == ["b"]
    scheduler.ended("b", 101, outcomes[1])
    if halts:
        assert finished(scheduler, 101) == "halted: none of the first 2 tasks succeeded"
    else:
        assert all_started(scheduler, 101) == ["c", "d"]


def test_a_canary_that_was_skipped_or_held_proves_nothing_and_another_takes_its_place() -> None:
    scheduler = of("a", "b", "c", "d", canary=1)
    assert all_started(scheduler) == ["a"]
    scheduler.ended("a", 1, K)
    assert all_started(scheduler, 1) == ["b"]
    scheduler.held("b", 1, "other")
    assert all_started(scheduler, 1) == ["c"]
    scheduler.ended("c", 2, S)
    assert all_started(scheduler, 2) == ["d"]


@pytest.mark.parametrize(
    ("rules", "outcomes", "halts"),
    [
        ({"halt_fail_count": 2}, [F, S, F], "halted: 2 failed, and 2 halt the batch"),
        ({"halt_fail_count": 3}, [F, S, F], ""),
        ({"halt_fail_percent": 50.0}, [F, F, F, F], ""),
        ({"halt_fail_percent": 50.0}, [F, F, F, F, F], "halted: 5 of 5 failed, and 50 % halt the batch"),
        ({"halt_fail_percent": 50.0}, [F, F, S, S, S, F], "halted: 3 of 6 failed, and 50 % halt the batch"),
        ({"halt_fail_percent": 50.0}, [F, F, S, S, S, S], ""),
        ({"halt_fail_percent": 50.0}, [F, F, K, K, K, K, K, F], ""),
        ({"halt_fail_percent": 50.0}, [B, B, B, B, B, F], ""),
    ],
)
def test_too_many_failures_halt_the_batch(rules: dict[str, Any], outcomes: list[Outcome], halts: str) -> None:
    scheduler = of(*map(str, range(20)), **rules)
    all_started(scheduler)
    for number, outcome in enumerate(outcomes):
        scheduler.ended(str(number), 1, outcome)
    assert scheduler.explain(1).startswith(halts)
    assert bool(halts) == scheduler.explain(1).startswith("halted")


def test_tasks_that_never_started_count_neither_for_nor_against_the_batch() -> None:
    scheduler = of("a", *((str(n), {"depends_on": ("a",)}) for n in range(9)), "b", halt_fail_percent=10.0)
    all_started(scheduler)
    scheduler.ended("a", 1, F)
    assert scheduler.counts()["blocked"] == 9
    assert not scheduler.explain(1).startswith("halted")


def test_it_is_explained_what_may_start() -> None:
    assert of("a").explain(0) == "a is ready to start"


# ------------------------------------------------------------------ properties

FILES = st.lists(st.sampled_from(["src/", "src/a.py", "src/*.py", "docs/", "x", "**/*.md"]), max_size=2).map(
    tuple
)


@st.composite
def batches(draw: st.DrawFn) -> list[QueuedTask]:
    total = draw(st.integers(0, 12))
    names = st.integers(0, max(0, total)).map(lambda n: f"t-{n}")  # may be itself, a circle, or outside
    return [
        QueuedTask(
            id=f"t-{n}",
            key=f"k-{n}",
            rank=draw(st.integers(0, 3)),
            order=draw(st.integers(0, 5)),
            depends_on=tuple(draw(st.lists(names, max_size=2))) if draw(st.booleans()) else (),
            files=draw(FILES),
        )
        for n in range(total)
    ]


RULES = st.builds(
    SchedulingRules,
    limit=st.integers(1, 5),
    canary=st.integers(0, 3),
    retries=st.integers(0, 2),
    random=st.just(lambda: 0.5),
    age_seconds=st.sampled_from([0.0, 10.0, 600.0]),
    halt_fail_percent=st.sampled_from([None, 60.0]),
    halt_fail_count=st.sampled_from([None, 3]),
    strategy=st.sampled_from(["parallel", "parallel", "sequential"]),
)


@pytest.mark.slow
@settings(max_examples=400)
@given(batches(), RULES, st.randoms(use_true_random=False))
def test_no_rule_is_ever_broken_and_every_batch_ends(  # noqa: PLR0912 - one run, told in order
    tasks: list[QueuedTask], rules: SchedulingRules, chance: random.Random
) -> None:
    by_id = {task.id: task for task in tasks}
    scheduler = Scheduler(tasks, rules)
    now, paused, over, running = 0.0, 0.0, False, set[str]()
    ended: dict[str, Outcome] = {}
    for step in range(2000):
        said = scheduler.next(now)
        for name, _ in scheduler.unreachable():
            assert name not in ended
            ended[name] = B
        if isinstance(said, Start):
            task = by_id[said.id]
            assert not over
            assert now >= paused
            assert said.id not in running
            assert said.id not in ended
            assert len(running) < scheduler.limit(now) <= rules.limit
            assert all(ended.get(name) is S for name in task.depends_on if name in by_id)
            assert all(overlap(task.files, by_id[other].files) is None for other in running)
            if step < 1000 and chance.random() < 0.1:
                scheduler.held(said.id, now, "other")
            else:
                running.add(said.id)
            continue
        if isinstance(said, Finished):
            break
        assert said.why
        assert scheduler.explain(now) == said.why
        if chance.random() < 0.02:
            over = True
            scheduler.drain("enough")
        if chance.random() < 0.05:
            scheduler.shrink(now)
        if step < 1000 and chance.random() < 0.05:
            paused = max(paused, now + 20)
            scheduler.pause(now + 20, "usage limit")
        if running:
            name = chance.choice(sorted(running))
            running.remove(name)
            kinds: list[Outcome | Again] = [S, S, S, F, B, K, RETRY, S if step > 1000 else Again(after=3)]
            final = scheduler.ended(name, now, chance.choice(kinds))
            if final is not None:
                ended[name] = final
        else:
            assert said.until is not None, "nothing runs, and it waits for nothing"
        now = max(now + 1, said.until if said.until is not None and not running else 0)
    assert isinstance(said, Finished)
    assert not running
    counts = scheduler.counts()
    assert sum(counts.values()) == len(tasks)
    assert sum(counts[outcome] for outcome in Outcome) == len(ended)
    if not said.why.startswith(("draining", "halted")):
        assert set(ended) == set(by_id)


def test_two_thousand_random_tasks_all_end() -> None:
    chance = random.Random(7)
    tasks = [
        QueuedTask(
            id=f"t-{n}",
            rank=chance.randrange(4),
            order=n,
            depends_on=tuple(
                {f"t-{chance.randrange(n)}" for _ in range(chance.choice((0, 0, 1, 2)))} if n else ()
            ),
            files=tuple(f"src/m{chance.randrange(40)}/" for _ in range(chance.choice((0, 1, 2)))),
        )
        for n in range(2000)
    ]
    scheduler = Scheduler(tasks, SchedulingRules(limit=16, retries=2, canary=3, random=chance.random))
    now, running, most, starts = 0.0, dict[str, float](), 0, 0
    while not isinstance(said := scheduler.next(now), Finished):
        if isinstance(said, Start):
            files = next(task.files for task in [tasks[int(said.id[2:])]])
            assert not any(overlap(files, tasks[int(other[2:])].files) for other in running)
            running[said.id] = now + chance.uniform(1, 300)
            most, starts = max(most, len(running)), starts + 1
            continue
        ends = min(running.values(), default=float("inf"))
        now = min(ends, said.until if said.until is not None else float("inf"))
        assert now < float("inf")
        for name in [name for name, end in running.items() if end <= now]:
            del running[name]
            ways: list[Outcome | Again] = [S, F, B, RETRY, Again(after=10)]
            scheduler.ended(name, now, *chance.choices(ways, [80, 1, 1, 10, 8]))
    counts = scheduler.counts()
    assert said.why == "all of 2000 tasks ended"
    assert sum(counts[outcome] for outcome in Outcome) == 2000
    assert most == 16
    assert starts > 1000


# ---------------------------------------------------------------- many of them


def big(kind: str) -> list[QueuedTask]:
    files = {"apart": "src/m{n}/", "same": "src/", "close": "src/../src/m{n}/,CHANGELOG.md", "free": ""}[kind]
    return [
        QueuedTask(
            id=f"t-{n}",
            order=n,
            depends_on=(f"t-{n - 1000}",) if n >= 1000 and n % 2 else (),
            files=tuple(text for text in files.format(n=n).split(",") if text),
        )
        for n in range(MANY)
    ]


@pytest.mark.slow
def test_a_hundred_thousand_tasks_take_less_than_sixty_megabytes() -> None:
    tasks = big("apart")
    tracemalloc.start()
    try:
        scheduler = Scheduler(tasks, SchedulingRules(limit=64))
        for _ in range(64):
            assert isinstance(scheduler.next(0), Start)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 60e6, most


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["free", "apart", "same"])
def test_a_decision_among_a_hundred_thousand_takes_less_than_a_millisecond(kind: str) -> None:
    scheduler = Scheduler(big(kind), SchedulingRules(limit=64))
    begin, running = time.perf_counter(), list[str]()
    for now in range(3000):
        said = scheduler.next(now)
        if isinstance(said, Start):
            running.append(said.id)
        else:
            scheduler.ended(running.pop(0), now, S)
    assert (time.perf_counter() - begin) / 3000 < 0.001


@pytest.mark.slow
def test_where_all_share_one_file_no_single_decision_looks_at_all_of_them() -> None:
    scheduler = Scheduler(big("close"), SchedulingRules(limit=64))
    assert isinstance(scheduler.next(0), Start)
    worst, decisions = 0.0, 0
    while True:
        begin = time.perf_counter()
        said = scheduler.next(1)
        worst, decisions = max(worst, time.perf_counter() - begin), decisions + 1
        assert isinstance(said, Wait)
        if said.until is None:
            break
    assert decisions > 10
    assert worst < 0.5
