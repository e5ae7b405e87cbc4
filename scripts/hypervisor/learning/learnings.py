"""What was learnt of running tasks at once, kept: made of the batches' own logs, and of what people said.

The logs are the truth. What is kept of a batch is made of its whole log and replaced as a whole, so that
a batch that is gone on with, or whose coordinator was killed, is never counted twice and never forgotten.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..core import clock
from ..core.errors import UsageError
from ..core.paths import Project
from ..events import FILE, RunEvent, log_of
from ..hivefile import ask, keep, plain, writing
from .hive import checked_name
from .learner import Known, Lane, Observed, Span, Told, Totals, sweep

#: Of each lane the last so many batches count, and none that is older: a machine changes, and a service.
BATCHES, _DAYS = 20, 60
#: Attempts of a lane whose number at once is not known, as it changed under them.
_ANY_NUMBER = 0


@dataclass(frozen=True, slots=True)
class Learnings:
    """What is known of the lanes of one project."""

    project: Project

    # ------------------------------------------------------------------- told

    def tell(self, task_type: str, told: Told) -> Told:
        """Keep what somebody says of a type of task; what is None stays as it was.

        Raises:
            UsageError: A figure cannot be.
        """
        task_type = checked_name("task_type", task_type)
        if told.benefit is not None and not 0 <= told.benefit <= 1:
            raise UsageError(
                f"parallel_benefit {told.benefit:g}: must be from 0 (none) to 1 (each adds a whole one)"
            )
        for name, value in (("cpu", told.cpu), ("ram", told.ram_mb)):
            if value is not None and not 0 <= value < 1e9:
                raise UsageError(
                    f"resource_cost {name} {value:g}: must be 0 or more (cpu in cores, ram in MB)"
                )
        keep(self.project, {
            "kind": "told", "at": clock.now_text(), "type": task_type, "who": checked_name("caller", told.by),
            "notes": plain(told.notes).strip()[:2000], "benefit": told.benefit, "cpu": told.cpu,
            "ram_mb": told.ram_mb,
        })  # fmt: skip
        return (ask(self.project, _told) or {})[task_type]

    def learn(self) -> int:
        """Read the logs of batches that have changed since they were read last; return how many that were."""
        sizes = dict(_sizes(self.project))
        if not sizes:
            return 0

        def read(cache: sqlite3.Connection) -> int:
            known = dict(map(tuple, cache.execute("SELECT batch, size FROM learnt_batch").fetchall()))
            changed = [batch for batch, size in sizes.items() if known.get(batch) != size]
            for batch in changed:
                self._learn_batch(cache, batch, sizes[batch])
            return len(changed)

        return ask(self.project, read, make=True) or 0

    def _learn_batch(self, database: sqlite3.Connection, batch: str, size: int) -> None:
        runs = list(_runs(self.project, batch))
        with writing(database):
            database.execute("DELETE FROM learnt WHERE batch = ?", (batch,))
            for lane, spans in _by_lane(runs).items():
                for number, seen, totals in _rows(spans):
                    database.execute(
                        "INSERT INTO learnt VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                        (
                            batch, lane.type, lane.pattern, number, seen.tries, seen.done, seen.refused,
                            seen.seconds, seen.squares, seen.cpu_seconds,
                            totals.cpu_known_seconds, totals.ram_mb,
                        ),
                    )  # fmt: skip
            # The size that was seen before the log was read: what came after is read the next time.
            row = (batch, _ended(self.project, batch), size)
            database.execute("INSERT OR REPLACE INTO learnt_batch VALUES (?, ?, ?)", row)

    # ------------------------------------------------------------------ asked

    def known(self) -> dict[Lane, Known]:
        """Return what is known of each lane, by attempts or by word."""
        oldest = clock.text_of(time.time() - _DAYS * 86400)

        def look(cache: sqlite3.Connection) -> tuple[dict[str, Told], list[sqlite3.Row]]:
            return _told(cache), cache.execute(
                "SELECT learnt.* FROM learnt JOIN learnt_batch USING (batch)"
                " WHERE learnt_batch.at >= ? ORDER BY batch DESC",
                (oldest,),
            ).fetchall()

        told, rows = ask(self.project, look) or ({}, [])
        found: dict[Lane, Known] = {}
        batches: dict[Lane, set[str]] = {}
        for row in rows:
            lane = Lane(type=row["type"], pattern=row["pattern"])
            seen = batches.setdefault(lane, set())
            if row["batch"] in seen or len(seen) < BATCHES:
                seen.add(row["batch"])
                _add(found.setdefault(lane, Known(told=told.get(lane.type))), row)
        for task_type, word in told.items():
            found.setdefault(Lane(type=task_type), Known(told=word))
        return found

    def known_of(self, lanes: Iterable[Lane]) -> dict[Lane, Known]:
        """Return what is known of *lanes*; for a new pattern, what the type's others came to."""
        known = self.known()
        found: dict[Lane, Known] = {}
        for lane in lanes:
            mine = known.get(lane)
            if mine is None or not mine.totals.tries:
                mine = Known(told=_word(known, lane.type))
                for other, seen in known.items():
                    if other.type == lane.type:
                        for number, observed in seen.levels.items():
                            mine.levels.setdefault(number, Observed()).add(observed)
                        mine.totals.add(seen.totals)
            found[lane] = mine
        return found


def span_details(span: Span) -> dict[str, Any]:
    """Return what a batch's log keeps of an attempt, for `span_of`."""
    return {
        "type": span.lane.type, "pattern": span.lane.pattern, "began": round(span.begin, 3),
        "until": round(span.end, 3), "how": span.how, "refused": span.refused or None,
        "cpu_seconds": None if span.cpu_seconds is None else round(span.cpu_seconds, 3),
        "ram_mb": None if span.ram_mb is None else round(span.ram_mb, 1),
    }  # fmt: skip


def span_of(event: Mapping[str, Any]) -> Span | None:
    """Return the attempt that an event of a log tells of, None if it tells of none."""
    begin, end = event.get("began"), event.get("until")
    if (
        event.get("event") != RunEvent.TRIED
        or not isinstance(begin, int | float)
        or not isinstance(end, int | float)
    ):
        return None
    cpu, ram = event.get("cpu_seconds"), event.get("ram_mb")
    return Span(
        task=str(event.get("task", "")),
        lane=Lane(type=str(event.get("type", "")), pattern=str(event.get("pattern", "")) or Lane().pattern),
        begin=float(begin), end=float(end), how=str(event.get("how", "")),
        refused=event.get("refused") is True,
        cpu_seconds=float(cpu) if isinstance(cpu, int | float) else None,
        ram_mb=float(ram) if isinstance(ram, int | float) else None,
    )  # fmt: skip


# ---------------------------------------------------------------------- details


def _sizes(project: Project) -> Iterator[tuple[str, int]]:
    try:
        names = os.listdir(project.batches)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in sorted(names):
        try:
            yield name, os.stat(project.batches / name / FILE).st_size
        except (FileNotFoundError, NotADirectoryError):
            continue


def _ended(project: Project, batch: str) -> str:
    """Return when a batch's log was last added to; now, if it is gone."""
    try:
        return clock.text_of(os.stat(project.batches / batch / FILE).st_mtime)
    except OSError:
        return clock.now_text()


def _runs(project: Project, batch: str) -> Iterator[list[Span]]:
    """Yield the attempts of each run of a batch: one that was gone on with later is another one."""
    spans: list[Span] = []
    for event in log_of(project.batches / batch).read():
        if event.get("event") == RunEvent.STARTED and spans:
            yield spans
            spans = []
        if (span := span_of(event)) is not None:
            spans.append(span)
    if spans:
        yield spans


def _by_lane(runs: Iterable[list[Span]]) -> dict[Lane, list[list[Span]]]:
    found: dict[Lane, list[list[Span]]] = {}
    for spans in runs:
        lanes: dict[Lane, list[Span]] = {}
        for span in spans:
            lanes.setdefault(span.lane, []).append(span)
        for lane, own in lanes.items():
            found.setdefault(lane, []).append(own)
    return found


def _rows(runs: Iterable[list[Span]]) -> Iterator[tuple[int, Observed, Totals]]:
    """Yield what is kept of the runs of a lane: all attempts together first, then by how many ran at once."""
    every, totals, levels = Observed(), Totals(), dict[int, Observed]()
    for spans in runs:
        for span in spans:
            every.count(span)
            totals.count(span)
        for number, seen in sweep(spans).items():
            levels.setdefault(number, Observed()).add(seen)
    # Of all attempts it is kept how many succeeded: what else brings a batch on is no success.
    every.done = totals.successes
    yield _ANY_NUMBER, every, totals
    for number, seen in levels.items():
        yield number, seen, Totals()


def _add(known: Known, row: sqlite3.Row) -> None:
    if row["at_once"] != _ANY_NUMBER:
        known.levels.setdefault(row["at_once"], Observed()).add(
            Observed(
                tries=row["tries"], done=row["done"], refused=row["refused"], seconds=row["seconds"],
                squares=row["squares"], cpu_seconds=row["cpu_seconds"],
            )
        )  # fmt: skip
        return
    known.totals.add(
        Totals(
            tries=row["tries"], successes=row["done"], refused=row["refused"], seconds=row["seconds"],
            cpu_seconds=row["cpu_seconds"], cpu_known_seconds=row["cpu_known_seconds"], ram_mb=row["ram_mb"],
        )
    )  # fmt: skip


def _told(database: sqlite3.Connection) -> dict[str, Told]:
    return {
        row["type"]: Told(
            benefit=row["benefit"], notes=row["notes"], cpu=row["cpu"], ram_mb=row["ram_mb"], by=row["who"],
            at=row["at"],
        )
        for row in database.execute("SELECT * FROM told ORDER BY type")
    }  # fmt: skip


def _word(known: Mapping[Lane, Known], task_type: str) -> Told | None:
    return next((seen.told for lane, seen in known.items() if lane.type == task_type and seen.told), None)
