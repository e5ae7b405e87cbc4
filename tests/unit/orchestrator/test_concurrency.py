"""The limits of a run's classes: announced with their reason, measured, revised, and never in the way."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hypervisor.learning.advice import Capacity
from hypervisor.learning.lessons import Lessons
from hypervisor.learning.stats import ClassStats, Sample, TaskClass
from hypervisor.orchestrator import concurrency
from hypervisor.orchestrator.concurrency import ConcurrencyController, make_controller, with_classes
from hypervisor.orchestrator.schedule import QueuedTask
from hypervisor.runners.base import Usage
from hypervisor.store.events import RunEvent
from hypervisor.store.lessons import Lesson

AUDIT = TaskClass(type="audit")
CAPACITY = Capacity(cores=4.0, ram_mb=8000.0, cap=8)


class Kept:
    """Lessons in memory."""

    def __init__(self, *, broken: bool = False) -> None:
        self.samples: list[tuple[int, int, Sample]] = []
        self.broken = broken

    def known_of(self, classes: Iterable[TaskClass]) -> dict[TaskClass, ClassStats]:
        self._fail()
        return {one: ClassStats(lesson=Lesson(benefit=0.1)) for one in classes}

    def add_samples(self, samples: Iterable[tuple[int, int, Sample]]) -> None:
        self._fail()
        self.samples += samples

    def _fail(self) -> None:
        if self.broken:
            raise OSError(errno.ENOSPC, "No space left on device")


class Scheduler:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.paced: list[tuple[TaskClass, int]] = []

    def pace(self, task_class: TaskClass, most: int) -> None:
        self.paced.append((task_class, most))


def controller(kept: Kept, strategy: str, said: list[Any] | None = None) -> ConcurrencyController:
    said = [] if said is None else said
    tasks = with_classes(
        [QueuedTask(id="t-1", order=0), QueuedTask(id="t-2", order=1)], {"t-1": "audit", "t-2": "audit"}
    )
    return make_controller(
        cast(Lessons, kept), strategy, CAPACITY, tasks,
        log=lambda kind, task, **data: said.append((kind, data)), say=said.append,
    )  # fmt: skip


def test_the_limits_are_shown_and_logged_with_their_reason() -> None:
    said: list[Any] = []
    made = controller(Kept(), "auto", said)
    made.announce()
    assert made.limits == {AUDIT: 1}
    (kind, data), line = said
    assert kind == RunEvent.PACED
    assert (data["type"], data["pattern"], data["limit"]) == ("audit", "independent", 1)
    assert line == "audit: 1 at once: said to gain 0.1 of one by each further agent; 0 attempts seen"


@pytest.mark.parametrize("strategy", ["parallel", "sequential"])
def test_other_strategies_limit_no_class_and_are_measured_all_the_same(strategy: str) -> None:
    kept = Kept()
    made = controller(kept, strategy)
    assert (made.limits, made.explain()) == ({}, [])
    made.begin("t-1", AUDIT)
    made.over("t-1", 7, "success", Usage(), refused=False)
    made.settle("t-1", Scheduler())
    ((attempt, level, sample),) = kept.samples
    assert (attempt, level, sample.task_class, sample.outcome) == (7, 0, AUDIT, "success")


@pytest.mark.parametrize(("how", "usage"), [("held", Usage()), ("gone", Usage()), ("again", None)])
def test_what_was_no_attempt_is_not_measured(how: str, usage: Usage | None) -> None:
    kept = Kept()
    made = controller(kept, "adaptive")
    made.begin("t-1", AUDIT)
    made.over("t-1", 7, how, usage, refused=False)
    made.settle("t-1", Scheduler())
    assert kept.samples == []


def test_a_run_goes_on_where_nothing_can_be_measured_or_read(capsys: pytest.CaptureFixture[str]) -> None:
    made = controller(Kept(broken=True), "auto")
    assert made.limits == {AUDIT: 8}
    assert "earlier measurements cannot be read" in capsys.readouterr().err
    made.begin("t-1", AUDIT)
    made.over("t-1", 7, "success", Usage(), refused=False)
    made.settle("t-1", Scheduler())


def test_adaptive_revises_the_limit_of_a_class_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(concurrency, "time", SimpleNamespace(time=lambda: now[0]))
    made, scheduler = controller(Kept(broken=True), "adaptive"), Scheduler()
    assert made.limits == {AUDIT: 4}
    names = [f"t-{number}" for number in range(20)]
    for name in names[:4]:
        made.begin(name, AUDIT)
    for before, name in zip(names, names[4:], strict=False):  # always four at once
        now[0] += 1
        made.over(before, 1, "retry", Usage(), refused=True)
        made.settle(before, scheduler)
        made.begin(name, AUDIT)
    assert scheduler.paced[0] == (AUDIT, 3)
