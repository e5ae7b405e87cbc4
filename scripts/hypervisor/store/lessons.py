"""Lessons: what people and agents say of a task type, and what runs measured of it.

A *sample* is one attempt of a run as the learner counts it. How it ended, when and at what cost is the
attempt's row; the sample adds the class of its task and how many of that class ran at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import statements
from .base import Engine, Row, Transaction
from .columns import plain

SQL = statements.load("lessons")

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What somebody says of a task type."""

    task_type: str = ""
    #: 0: a further agent adds nothing; 1: as much as the first; None: not said.
    benefit: float | None = None
    notes: str = ""
    #: Cores that one agent keeps busy, and memory in MB; None: not said.
    cpu: float | None = None
    ram_mb: float | None = None
    author: str = ""
    #: Milliseconds since the epoch; set by the store.
    at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRecord:
    """One attempt, as the learner counts it."""

    #: `Claim.attempt`.
    attempt: int
    task_type: str
    pattern: str
    #: How many of its class ran while it did; 0 where the number changed under it.
    at_once: int
    #: For how long nothing else could run in its place.
    seconds: float
    #: Whether a service, or exit 75, said "not now".
    refused: bool
    #: None where unknown.
    cpu_seconds: float | None = None
    ram_mb: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelStats:
    """Samples of one class at one number at once, added up."""

    samples: int = 0
    #: Those that ended in success or blocked, and in success alone.
    done: int = 0
    successes: int = 0
    refused: int = 0
    seconds: float = 0.0
    #: Processor time, and the seconds of those samples of which it is known.
    cpu_seconds: float = 0.0
    cpu_known_seconds: float = 0.0
    #: The most of any; None if it is known of none.
    ram_mb: float | None = None
    #: Tokens of the attempts of which they are known, and the number of these.
    tokens: int = 0
    tokens_known: int = 0

    def __add__(self, other: LevelStats) -> LevelStats:
        known = [ram for ram in (self.ram_mb, other.ram_mb) if ram is not None]
        return LevelStats(
            samples=self.samples + other.samples, done=self.done + other.done,
            successes=self.successes + other.successes, refused=self.refused + other.refused,
            seconds=self.seconds + other.seconds, cpu_seconds=self.cpu_seconds + other.cpu_seconds,
            cpu_known_seconds=self.cpu_known_seconds + other.cpu_known_seconds,
            ram_mb=max(known, default=None), tokens=self.tokens + other.tokens,
            tokens_known=self.tokens_known + other.tokens_known,
        )  # fmt: skip

    @property
    def busy(self) -> float | None:
        """Cores that each agent kept busy; None if unknown."""
        return self.cpu_seconds / self.cpu_known_seconds if self.cpu_known_seconds else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured of one class at one number at once."""

    task_type: str
    pattern: str
    at_once: int
    stats: LevelStats


class LessonTable:
    """The lessons and samples of a store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, lesson: Lesson) -> Lesson:
        """*Atomically* keep what is said of a task type; what is None or "" stays as it was. Durable."""
        parameters = {
            "type": lesson.task_type, "author": lesson.author, "notes": lesson.notes,
            "benefit": lesson.benefit, "cpu": lesson.cpu, "ram_mb": lesson.ram_mb,
        }  # fmt: skip

        def body(tx: Transaction) -> Lesson:
            tx.run(SQL.add_lesson, parameters)
            return _lesson_of(tx.run(SQL.lesson, {"type": lesson.task_type})[0])

        return self._engine.write(body, durable=True)

    def all(self) -> list[Lesson]:
        """Return what is said, by type."""
        return [_lesson_of(row) for row in self._engine.read(SQL.lessons)]

    def add_samples(self, samples: Sequence[SampleRecord]) -> None:
        """Keep samples; one of an attempt that has one already changes nothing."""
        rows = [
            {"attempt": one.attempt, "type": plain(one.task_type), "pattern": one.pattern,
             "at_once": one.at_once, "seconds": one.seconds, "refused": int(one.refused),
             "cpu_seconds": one.cpu_seconds, "ram_mb": one.ram_mb}
            for one in samples
        ]  # fmt: skip
        self._engine.write(lambda tx: tx.each(SQL.add_sample, rows))

    def figures(self, *, days: int, batches: int) -> list[Figures]:
        """Return what was measured of each class, by number at once.

        Args:
            days: Older samples do not count.
            batches: Of each class only its latest batches count, this many.
        """
        rows = self._engine.read(SQL.figures, {"age": days * _DAY_MS, "batches": batches})
        return [_figures_of(row) for row in rows]


def _lesson_of(row: Row) -> Lesson:
    task_type, at, author, notes, benefit, cpu, ram_mb = row
    return Lesson(
        task_type=task_type, at=at, author=author, notes=notes, benefit=benefit, cpu=cpu, ram_mb=ram_mb
    )


def _figures_of(row: Row) -> Figures:
    task_type, pattern, at_once, *sums = row
    samples, done, successes, refused, seconds, cpu, cpu_known, ram_mb, tokens, tokens_known = sums
    stats = LevelStats(  # PostgreSQL adds integers up to a Decimal
        samples=samples, done=int(done), successes=int(successes), refused=int(refused), seconds=seconds,
        cpu_seconds=cpu, cpu_known_seconds=cpu_known, ram_mb=ram_mb, tokens=int(tokens),
        tokens_known=tokens_known,
    )  # fmt: skip
    return Figures(task_type=task_type, pattern=pattern, at_once=at_once, stats=stats)
