"""All that a person sees of a batch, gathered into one JSON-able record: for the page, `watch`, `status`.

Queries only. What is not known is null, never 0. Every text in it is printable: it comes from task files,
commands and agents, and is shown in terminals and browsers. Times are seconds since the epoch.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from ..core.model import Outcome
from ..core.text import printable_data, printable_line
from ..queue.batch import Batch
from ..queue.batches import begun_since
from ..queue.summary import Census, next_step, question_line, take_census, typed_as
from ..store.batches import Running
from ..store.progress import Speed, Totals
from ..store.questions import Question
from ..store.records import Work
from . import logtail
from .activity import (
    MachineLook,
    active_items,
    command_of,
    idle_workers,
    killed_run,
    log_stem,
    worker_label,
)
from .attention import Attention, TroubledItem, attention_to, group_by_reason
from .follower import BatchFollower, FollowedItem
from .labels import ItemNames, checkpoints_of, names_of
from .pace import RECENT, WINDOW, pace_of
from .timeline import FIGURES, Timeline, earlier_attempts, number, spending_of

#: What stands in each row, in this order.
COLUMNS = (
    "name", "item", "title", "state", "outcome", "worker", "attempts", "started", "finished", "seconds",
    "tokens", "cost_usd", "commit", "branch", "evidence", "next",
)  # fmt: skip
#: Bytes of all log tails in one report; with more failures each gets less, but none gets nothing.
LOG_BUDGET = 24 * 2**20
_LEAST_LOG = 512
#: Longest evidence of one item, as JSON.
_EVIDENCE = 4000
_TROUBLE = (Outcome.FAILED, Outcome.BLOCKED)


@dataclass(slots=True)
class _Figures:
    """What the store counted at the last look."""

    census: Census
    speed: Speed
    spent: Totals
    running: list[Running]
    #: That have no answer yet.
    questions: list[Question]


@dataclass(slots=True)
class ReportBuilder:
    """Follows one batch and builds what there is to see of it. Close it, or use it as a context manager.

    Args:
        batch: The batch; closed with the builder.
        with_items: Whether to follow each item, for `body` and `report`; `head` needs only counts.
        machine: Asked for the machine's zone where no run of the batch has reported one lately.
    """

    batch: Batch
    with_items: bool = True
    machine: MachineLook | None = None
    follower: BatchFollower = field(init=False)
    timeline: Timeline = field(default_factory=Timeline)
    names: ItemNames = field(init=False)
    _figures: _Figures | None = None
    _workers: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.follower = BatchFollower(self.batch)
        self.names = ItemNames(self.batch)

    @property
    def version(self) -> int:
        """Rises whenever a look finds a changed item."""
        return self.follower.version

    def look(self) -> bool:
        """Query the batch; return whether any of its items has changed, if they are followed."""
        if self.batch.temporary is not None and (begun := begun_since(self.batch)) is not None:
            self._change_to(begun)
        batch, store = self.batch, self.batch.store
        store.rescuer.rescue_now_and_then()
        census = take_census(batch)  # first, as it takes in what was appended to the queue
        changed = self.with_items and self.follower.look()
        for event in store.events.since(self.timeline.last, batch=batch.number):
            self.timeline.add(event)
        self._figures = _Figures(
            census=census,
            speed=store.progress.speed(batch.number, window=WINDOW, last=RECENT + 1),
            spent=store.progress.spending(batch.number),
            running=store.batches.running(batch.number),
            questions=[one for one in store.questions.of_batch(batch.number) if one.open],
        )
        self.names.learn([batch.ref_by(one.key, one.text) for one in self._figures.running])
        if changed:
            self.names.learn([row.ref for row in self.follower.items])
        return changed

    def close(self) -> None:
        """Close the batch."""
        self.batch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ----------------------------------------------------------------- report

    def head(self) -> dict[str, Any]:
        """Return the part of the report that is small, whatever the batch: all but rows and curves."""
        found = self._seen()
        census, now = found.census, found.speed.now / 1000
        left = census.of("running") + census.of("waiting")
        pace = pace_of(found.speed, left)
        at_work = active_items(
            found.running, self.timeline, now, name_of=self._name_of_running, folder=self.batch.folder
        )
        busy = {one.worker for one in found.running}
        idle = idle_workers(self.batch.store, self.batch.number, busy) if left else []
        if left and not at_work and not idle:
            pace = replace(pace, eta=None)  # nobody is at work: it will never be done
        workers = {*busy, *idle, *([self.timeline.coordinator] if self.timeline.coordinator else [])}
        return {
            "format": 2,
            "instance": self.follower.instance,
            "version": self.version,
            "at": round(now, 3),
            "batch": names_of(self.batch),
            "census": census.to_json(),
            "closes": census.closes,
            "finished": left == 0 and census.closes,
            "duplicates": census.duplicates,
            "pace": asdict(pace),
            "at_work": at_work,
            "idle": idle,
            "held_up": self.timeline.held_up,
            "killed_run": killed_run(self.batch.store, self.timeline) if left else "",
            "questions": [question_line(one) for one in found.questions],
            "command": command_of(workers) if left else "",
            "host": socket.gethostname(),
            "zone": self._zone(now),
            "spent": {
                "tokens": found.spent.tokens, "cost_usd": found.spent.cost_usd, "of": found.spent.attempts,
                "tokens_known": found.spent.tokens_known, "cost_known": found.spent.cost_known,
            },
        }  # fmt: skip

    def body(self, since: int = 0) -> dict[str, Any]:
        """Return the rest: rows that have changed after the look number *since*, needs, curves."""
        items = self.follower.items
        return {
            "columns": COLUMNS,
            "rows": [[row.number, *self._row(row)] for row in items if row.version > since],
            "workers": list(self._workers),
            "left_out": [
                [printable_line(skip.get("item"), 500), printable_line(skip.get("reason"), 500)]
                for skip in self.batch.options.skipped
            ],
            "needs_attention": [
                *map(asdict, checkpoints_of(self.batch)),
                *map(asdict, self._questions()),
                *map(asdict, group_by_reason(self._troubled(), typed_as(self.batch))),
            ],
            "tries": [
                [row.number, *one]
                for row in items
                for one in earlier_attempts(row.item.attempts, row.final_attempt)
            ],
            "spending": spending_of(one for row in items for one in row.item.attempts),
            "figures": FIGURES,
            "readings": self.timeline.thinned(),
            "marks": self.timeline.marks,
        }  # fmt: skip

    def report(self) -> dict[str, Any]:
        """Return everything, with the end of the log of each item that failed, is blocked, or runs."""
        wanted = [row.number for row in self.follower.items if row.state in (*_TROUBLE, "running")]
        most = max(_LEAST_LOG, min(logtail.BYTES, LOG_BUDGET // max(1, len(wanted))))
        logs = {str(one): found for one in wanted if (found := self.logs(one, most))}
        return {**self.head(), **self.body(), "log_bytes": most, "logs": logs}

    def logs(self, row: int, most: int = logtail.BYTES) -> list[dict[str, Any]]:
        """Return the ends of the logs of one row's last attempt; empty where there are none."""
        last = self.follower.items[row].last_attempt
        stem = log_stem(self.batch.folder, last.log) if last is not None else ""
        return [asdict(tail) for tail in logtail.tails(stem, most)] if stem else []

    def failures(self, count: int) -> list[tuple[str, str, str]]:
        """Return state, name and reason of what failed or was blocked last, the newest first."""
        return self._told(self.batch.store.progress.failures(self.batch.number, count))

    def latest(self, count: int) -> list[tuple[str, str, str]]:
        """Return state, name and outcome of what was done last, the newest first."""
        return self._told(self.batch.store.progress.latest(self.batch.number, count) if count > 0 else [])

    # ---------------------------------------------------------------- details

    def _told(self, found: Sequence[Work]) -> list[tuple[str, str, str]]:
        refs = [self.batch.ref_of(work) for work in found]
        self.names.learn(refs)
        return [
            (
                work.state,
                self._name(work.result or {}, ref.item, self.names.of(ref)[0]),
                _reason(work.result or {}),
            )
            for work, ref in zip(found, refs, strict=True)
        ]

    def _change_to(self, batch: Batch) -> None:
        """Follow *batch* instead: what was looked at before anybody had begun it."""
        self.batch.close()
        self.batch, self.follower, self.names = batch, BatchFollower(batch), ItemNames(batch)

    def _seen(self) -> _Figures:
        if self._figures is None:
            self.look()
        assert self._figures is not None  # noqa: S101 - the look has set it
        return self._figures

    @staticmethod
    def _name(result: Mapping[str, Any], item: str, task: str) -> str:
        """Return what people call an item: its task's id, or its line; printable."""
        return printable_line(result.get("task_id") or task or item, 500)

    def name(self, row: FollowedItem) -> str:
        """Return what people call an item."""
        return self._name(row.result, row.ref.item, self.names.of(row.ref)[0])

    def _name_of_running(self, one: Running) -> str:
        ref = self.batch.ref_by(one.key, one.text)
        return self._name({}, ref.item, self.names.of(ref)[0])

    def _row(self, row: FollowedItem) -> list[Any]:
        result, name = row.result, self.name(row)
        item, attempts = printable_line(row.ref.item, 500), row.item.attempts
        ended = [one for one in attempts if one.ended_at is not None]
        started, finished = row.started, row.finished
        seconds = number(result.get("seconds"))
        if seconds is None and started is not None and finished is not None:
            seconds = round(finished - started, 3)
        return [
            name,
            item if item != name else None,
            printable_line(self.names.of(row.ref)[1], 200) or None,
            row.state,
            _reason(result),
            self._worker(row),
            len(attempts) or None,
            started,
            finished,
            seconds,
            _total(one.tokens for one in ended),
            _total(one.cost_usd for one in ended),
            printable_line(result.get("commit") or "", 64) or None,
            printable_line(result.get("branch") or "", 200) or None,
            printable_data(result.get("evidence") or None, _EVIDENCE),
            printable_line(self._next(row), 300) if row.state in _TROUBLE else None,
        ]

    def _worker(self, row: FollowedItem) -> int | None:
        """Return the number of the worker that the result comes from, None for none."""
        final = row.final_attempt
        if final is None:
            return None
        label = worker_label(final.worker, final.name, final.agent)
        return self._workers.setdefault(label, len(self._workers))

    def _next(self, row: FollowedItem) -> str:
        return next_step({"task_id": self.name(row), "status": row.state}, row.result, typed_as(self.batch))

    def _questions(self) -> Iterator[Attention]:
        items = {row.ref.key: row.number for row in self.follower.items}
        for one in self._seen().questions:
            yield attention_to(one, [items[one.key]] if one.key in items else [])

    def _troubled(self) -> Iterator[TroubledItem]:
        for row in self.follower.items:
            if row.state in _TROUBLE:
                result = row.result
                yield TroubledItem(
                    number=row.number, name=self.name(row), item=row.ref.item, state=row.state,
                    reason=str(result.get("outcome", ""))[:2000], next=self._next(row),
                    task=row.ref.task and bool(result.get("edit")), kept=bool(result.get("branch")),
                )  # fmt: skip

    def _zone(self, now: float) -> dict[str, Any]:
        timeline = self.timeline
        if self.machine is not None and not timeline.zone_holds(now):
            return self.machine.zone()
        figures = timeline.readings[-1][1] if timeline.readings else ()
        return {
            "word": timeline.zone, "why": timeline.zone_why, "at": timeline.zone_at,
            **dict(zip(FIGURES, figures, strict=False)),
        }  # fmt: skip


def _reason(result: Mapping[str, Any]) -> str:
    """Return why an item failed, or what became of it; printable."""
    return printable_line(result.get("outcome", ""), 1000)


def _total(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
