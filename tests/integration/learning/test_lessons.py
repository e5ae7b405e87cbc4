"""What runs measured and people said is kept, counted once, and added up alike on both engines."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from hypervisor.core.errors import UsageError
from hypervisor.learning.advice import Capacity
from hypervisor.learning.lessons import BATCHES, Lessons
from hypervisor.learning.stats import NO_LEVEL, ClassStats, Sample, TaskClass
from hypervisor.store.lessons import Lesson
from hypervisor.store.records import Claim
from hypervisor.store.store import Store
from stores import a_worker, done

AUDIT = TaskClass(type="audit")
WORKER = a_worker()
NUMBERS = count()


@pytest.fixture
def lessons(store: Store) -> Lessons:
    return Lessons(store.lessons)


def attempt(store: Store, batch: str = "b-1", outcome: str = "success", tokens: int | None = None) -> int:
    """Make an attempt of a batch that ended; return its id."""
    record = store.batches.create(batch, batch, {})
    claim = store.claims.claim(WORKER, f"k-{next(NUMBERS)}", "t", batch=record.id)
    assert isinstance(claim, Claim)
    if outcome == "again":
        store.claims.fail(claim, "not now", tokens=tokens)
    else:
        store.claims.complete_one(done(claim, outcome, tokens=tokens))
    return claim.attempt


def sample(seconds: float = 1.0, task_class: TaskClass = AUDIT, **more: Any) -> Sample:
    return Sample(task="t-1", task_class=task_class, begin=100.0, end=100.0 + seconds, outcome="", **more)


# -------------------------------------------------------------------- measured


def test_samples_are_added_up_by_class_and_number_with_their_attempts_outcome_and_tokens(
    store: Store, lessons: Lessons
) -> None:
    lessons.add_samples([
        (attempt(store, tokens=100), 2, sample(1.0, cpu_seconds=0.5, ram_mb=70.0)),
        (attempt(store, outcome="blocked", tokens=300), 2, sample(2.0, ram_mb=90.0)),
        (attempt(store, outcome="again"), 2, sample(3.0, refused=True)),
        (attempt(store, outcome="failed"), NO_LEVEL, sample(4.0)),
        (attempt(store), 1, sample(5.0, TaskClass(type="audit", pattern="pipeline"))),
    ])  # fmt: skip
    known = lessons.known()
    assert set(known) == {AUDIT, TaskClass(type="audit", pattern="pipeline")}
    mine = known[AUDIT]
    two = mine.levels[2]
    assert (two.samples, two.done, two.successes, two.refused, two.seconds) == (3, 2, 1, 1, 6.0)
    assert (two.cpu_seconds, two.cpu_known_seconds, two.ram_mb) == (0.5, 1.0, 90.0)
    assert (two.tokens, two.tokens_known) == (400, 2)
    assert (mine.total.samples, mine.cpu, mine.ram_mb) == (4, 0.5, 90.0)


def test_an_attempt_is_counted_once(store: Store, lessons: Lessons) -> None:
    one = attempt(store)
    lessons.add_samples([(one, 2, sample(1.0))])
    lessons.add_samples([(one, 3, sample(9.0)), (attempt(store), 2, sample(1.0))])
    assert {level: stats.samples for level, stats in lessons.known()[AUDIT].levels.items()} == {2: 2}


def test_only_the_latest_batches_of_a_class_count_and_no_old_samples(store: Store, lessons: Lessons) -> None:
    for number in range(BATCHES + 5):
        lessons.add_samples([(attempt(store, f"b-{number:03}"), 2, sample()) for _ in range(2)])
    lessons.add_samples([(attempt(store, "b-000"), 2, sample(task_class=TaskClass(type="other")))])
    known = lessons.known()
    assert known[AUDIT].total.samples == 2 * BATCHES
    assert known[TaskClass(type="other")].total.samples == 1
    assert store.lessons.figures(days=-1, batches=BATCHES) == []


def test_a_new_pattern_begins_with_what_its_type_measured(store: Store, lessons: Lessons) -> None:
    lessons.add_samples([(attempt(store), 2, sample()) for _ in range(10)])
    lessons.add(Lesson(task_type="audit", benefit=0.85))
    fresh, other = TaskClass(type="audit", pattern="map-reduce"), TaskClass(type="other")
    found = lessons.known_of([fresh, other, AUDIT])
    assert found[fresh].total.samples == found[AUDIT].total.samples == 10
    assert found[fresh].lesson is not None
    assert found[other] == ClassStats()


# ------------------------------------------------------------------------ said


def test_what_is_said_again_changes_only_what_is_said(lessons: Lessons) -> None:
    lessons.add(Lesson(task_type="audit", benefit=0.85, notes="reads only", ram_mb=512, author="ann"))
    said = lessons.add(Lesson(task_type="audit", cpu=0.5, author="bob"))
    assert (said.benefit, said.notes, said.ram_mb, said.cpu, said.author) == (
        0.85, "reads only", 512, 0.5, "bob",
    )  # fmt: skip


def test_a_share_of_memory_is_a_share_of_this_machine_and_so_is_the_cpu_beside_it() -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    assert Lessons.in_units(0.4, 0.2, 4.0) == (1.6, round(0.2 * memory, 1))
    assert Lessons.in_units(0.4, 300, 4.0) == (0.4, 300)
    assert Lessons.in_units(0.4, None, 4.0) == (0.4, None)


@pytest.mark.parametrize(
    ("lesson", "word"),
    [
        (Lesson(benefit=1.5), "must be from 0 .* to 1"),
        (Lesson(benefit=float("nan")), "must be from 0 .* to 1"),
        (Lesson(cpu=-1), "resource_cost cpu -1"),
        (Lesson(ram_mb=float("inf")), "resource_cost ram inf"),
        (Lesson(author="a\nb"), "caller: must be one line"),
        (Lesson(task_type="a" * 201), "task_type: must be one line"),
    ],
)
def test_figures_out_of_range_are_refused_and_nothing_is_kept(
    lessons: Lessons, lesson: Lesson, word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        lessons.add(lesson)
    assert lessons.known() == {}


def test_each_class_is_a_row_with_its_advice_and_sample_size(store: Store, lessons: Lessons) -> None:
    capacity = Capacity(cores=4.0, ram_mb=8000.0, cap=8)
    assert lessons.rows(capacity) == []
    assert [(row["type"], row["samples"], row["at_once"]) for row in lessons.rows(capacity, "new")] == [
        ("new", 0, 8)
    ]
    lessons.add_samples([(attempt(store, tokens=50), 1, sample(2.0)) for _ in range(3)])
    lessons.add_samples([(attempt(store, outcome="failed"), 1, sample(2.0))])
    lessons.add(Lesson(task_type="audit", benefit=0.1, notes="one database", author="ann"))
    (row,) = lessons.rows(capacity, "audit")
    assert (row["samples"], row["success_rate"], row["mean_seconds"], row["mean_tokens"]) == (
        4,
        0.75,
        2.0,
        50,
    )
    assert (row["at_once"], row["advice"]) == (1, "sequential")
    assert row["lesson"].items() >= {"benefit": 0.1, "notes": "one database", "by": "ann"}.items()


def test_at_a_shell_lessons_are_added_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hypervisor.cli.cli import main  # noqa: PLC0415 - it loads all that a command needs

    monkeypatch.chdir(tmp_path)
    assert main(["learn", "show"]) == 3
    assert not (tmp_path / ".hypervisor").exists()  # looking makes nothing
    assert main(["learn", "add", "migration", "--benefit", "0.1", "--notes", "one database"]) == 0
    assert main(["learn", "show", "migration"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "migration: 1 at once: said to gain 0.1 of one by each further agent; 0 attempts seen"
    assert lines[2].startswith("  added by unknown, ")
    assert lines[2].endswith(": benefit 0.1: one database")
