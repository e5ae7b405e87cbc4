"""What is known of the task classes of a project: measured by its runs, and said by people and agents."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..core.errors import UsageError
from ..core.text import time_text
from ..store.columns import plain
from ..store.lessons import Lesson, LessonTable, SampleRecord
from .advice import Capacity, advise
from .hive import checked_name
from .stats import ClassStats, Sample, TaskClass

#: Of each class the latest batches count, and none that is older: machines and services change.
BATCHES, DAYS = 20, 60
_NOTES_LENGTH = 2_000


class Lessons:
    """What is known of task classes.

    Args:
        table: Where it is kept (`Store.lessons`).
    """

    def __init__(self, table: LessonTable) -> None:
        self._table = table

    @staticmethod
    def in_units(cpu: float | None, ram: float | None, cores: float) -> tuple[float | None, float | None]:
        """Return what one agent uses as cores and MB.

        No agent runs in 1 MB: a memory figure up to 1 is a share of this machine's, and so is the CPU figure
        beside it.

        Args:
            cpu: Cores, or a share of them.
            ram: MB, or a share of the machine's memory.
            cores: Processors of this machine.
        """
        if ram is None or not 0 < ram <= 1:
            return cpu, ram
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
        return (cpu * cores if cpu is not None and cpu <= 1 else cpu), round(ram * memory, 1)

    def add(self, lesson: Lesson) -> Lesson:
        """Keep what somebody says of a task type; what is None or "" stays as it was.

        Raises:
            UsageError: A figure is out of its range.
        """
        if lesson.benefit is not None and not 0 <= lesson.benefit <= 1:
            raise UsageError(
                f"parallel_benefit {lesson.benefit:g}: must be from 0 (a further agent adds nothing) to 1 "
                "(as much as the first)"
            )
        for name, value in (("cpu", lesson.cpu), ("ram", lesson.ram_mb)):
            if value is not None and not 0 <= value < 1e9:
                raise UsageError(
                    f"resource_cost {name} {value:g}: must be 0 or more (cpu in cores, ram in MB)"
                )
        checked = replace(
            lesson,
            task_type=checked_name("task_type", lesson.task_type),
            author=checked_name("caller", lesson.author),
            notes=plain(lesson.notes.strip(), _NOTES_LENGTH),
        )
        return self._table.add(checked)

    def add_samples(self, samples: Iterable[tuple[int, int, Sample]]) -> None:
        """Keep what attempts measured: each with its attempt's id and the level for which it counts."""
        self._table.add_samples([
            SampleRecord(
                attempt=attempt, task_type=one.task_class.type, pattern=one.task_class.pattern, at_once=level,
                seconds=one.seconds, refused=one.refused, cpu_seconds=one.cpu_seconds, ram_mb=one.ram_mb,
            )
            for attempt, level, one in samples
        ])  # fmt: skip

    def known(self) -> dict[TaskClass, ClassStats]:
        """Return what is known of each class, measured or said."""
        lessons = {lesson.task_type: lesson for lesson in self._table.all()}
        found: dict[TaskClass, ClassStats] = {}
        for row in self._table.figures(days=DAYS, batches=BATCHES):
            task_class = TaskClass(type=row.task_type, pattern=row.pattern)
            before = found.get(task_class, ClassStats(lesson=lessons.get(row.task_type)))
            found[task_class] = before.adding(row.at_once, row.stats)
        for task_type, lesson in lessons.items():
            found.setdefault(TaskClass(type=task_type), ClassStats(lesson=lesson))
        return found

    def known_of(self, classes: Iterable[TaskClass]) -> dict[TaskClass, ClassStats]:
        """Return what is known of *classes*; for a new pattern, what the type's other patterns measured."""
        known = self.known()
        return {one: known[one] if _measured(known, one) else _pooled(known, one.type) for one in classes}

    def rows(self, capacity: Capacity, task_type: str | None = None) -> list[dict[str, Any]]:
        """Return what is known of each class, and the advice that follows from it, as plain data.

        Args:
            capacity: What there is to run with.
            task_type: Only of this type, which has a row even if nothing is known of it; None for all.
        """
        known = self.known()
        if task_type is not None:
            known = {one: stats for one, stats in known.items() if one.type == task_type} or {
                TaskClass(type=task_type): ClassStats()
            }
        order: Sequence[TaskClass] = sorted(known, key=lambda one: (one.type, one.pattern))
        return [_row(one, known[one], capacity) for one in order]


def advice_answer(rows: Sequence[dict[str, Any]], task_type: str, *, kept: bool) -> dict[str, Any]:
    """Return the answer to whoever asks for advice: on a type, or on all ("").

    Args:
        rows: As `Lessons.rows` returns them.
        task_type: The type.
        kept: Whether the call said something of the type, which is kept.
    """
    return {"task_type": task_type, "kept": kept, "advice": list(rows)}


def _measured(known: Mapping[TaskClass, ClassStats], task_class: TaskClass) -> bool:
    return task_class in known and known[task_class].total.samples > 0


def _pooled(known: Mapping[TaskClass, ClassStats], task_type: str) -> ClassStats:
    found = ClassStats()
    for task_class, stats in known.items():
        if task_class.type == task_type:
            found = replace(found, lesson=stats.lesson)
            for level, seen in stats.levels.items():
                found = found.adding(level, seen)
    return found


def _row(task_class: TaskClass, stats: ClassStats, capacity: Capacity) -> dict[str, Any]:
    advice, total = advise(stats, capacity, explores=False), stats.total
    row: dict[str, Any] = {
        "type": task_class.type, "pattern": task_class.pattern, "samples": advice.samples,
        "advice": "sequential" if advice.concurrency == 1 else "parallel", "at_once": advice.concurrency,
        "benefit": None if advice.benefit is None else round(advice.benefit, 2),
        "bottleneck": advice.bottleneck, "why": advice.why,
    }  # fmt: skip
    if total.samples:
        row |= {
            "success_rate": round(total.successes / total.samples, 3), "refused": total.refused,
            "mean_seconds": round(total.seconds / total.samples, 2),
        }  # fmt: skip
    if total.tokens_known:
        row["mean_tokens"] = round(total.tokens / total.tokens_known)
    cost = {"cpu": stats.cpu, "ram": stats.ram_mb}
    row["resource_cost"] = {key: round(value, 2) for key, value in cost.items() if value is not None}
    if stats.lesson is not None:
        row["lesson"] = _said(stats.lesson)
    return row


def _said(lesson: Lesson) -> dict[str, Any]:
    said = {
        "benefit": lesson.benefit, "notes": lesson.notes, "cpu": lesson.cpu, "ram": lesson.ram_mb,
        "by": lesson.author, "at": time_text(lesson.at / 1000),
    }  # fmt: skip
    return {key: value for key, value in said.items() if value not in (None, "")}
