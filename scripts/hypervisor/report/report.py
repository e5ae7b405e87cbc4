"""All that a person sees of a batch, gathered into one JSON-able record: for the page, `watch`, `status`.

Reads; changes nothing. What is not known is null, never 0. Every text in it is printable: it comes from
task files, commands and agents, and is shown in terminals and browsers.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..core import printable
from ..core.keys import generation_name
from ..core.model import Outcome
from ..queue.batch import Batch
from ..queue.summary import STATES, Census, count_skipped, next_step
from . import hands, labels, logtail
from .follow import Follower, Row
from .here import Here
from .needs import Case, Need, needs_of
from .pace import pace_of
from .story import FIGURES, Story, number, total

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
_OPEN = frozenset(STATES[-2:])
_TROUBLE = (Outcome.FAILED, Outcome.BLOCKED)


@dataclass(slots=True)
class Reporter:
    """Follows one batch, and tells what there is to see of it."""

    batch: Batch
    follower: Follower
    story: Story
    #: Ids and titles of tasks and chunks, by their paths; None before the first look.
    titles: dict[str, tuple[str, str]] | None = None
    #: Asked for the machine's zone where the batch's log tells none that is new.
    here: Here | None = None
    _names: dict[str, int] = field(default_factory=dict)
    _named: tuple[str, int] = ("", 0)
    _workers: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Batch) -> Reporter:
        """Return a reporter that has not looked yet."""
        return cls(batch, Follower(batch), Story(batch.folder))

    @property
    def version(self) -> int:
        """Rises whenever a look finds something new."""
        return self.follower.version

    def look(self) -> bool:
        """Look at the batch; tell whether anything has changed."""
        if self.titles is None:
            self.titles = labels.titles_of(self.batch)
        changed = self.follower.look()
        self.story.hear(self.follower.events)
        return changed

    # ----------------------------------------------------------------- report

    def head(self, now: float | None = None) -> dict[str, Any]:
        """Return the part of the report that is small, whatever the batch: all but rows and curves.

        Args:
            now: Seconds since the epoch; without it, the time.
        """
        now = time.time() if now is None else now
        census = self._census()
        rows = [row for row in self.follower.rows if row.finished is not None and row.result.get("worker")]
        left = census.of("running") + census.of("waiting")
        ends = [row.finished for row in rows if row.finished is not None]
        pace = pace_of([row.started for row in rows if row.started is not None], ends, left, now)
        at_work = hands.at_work(self.follower, self.story, self.name)
        idle = hands.idle(self.batch, {str(one["id"]) for one in at_work}) if left else []
        if left and not at_work and not idle:
            pace = replace(pace, eta=None)  # nobody is at work: it will never be done
        return {
            "format": 1,
            "instance": self.follower.instance,
            "version": self.version,
            "at": round(now, 3),
            "batch": labels.names_of(self.batch),
            "census": census.to_json(),
            "closes": census.closes,
            "finished": left == 0 and census.closes,
            "duplicates": census.duplicates,
            "damaged": census.damaged,
            "pace": asdict(pace),
            "at_work": at_work,
            "idle": idle,
            "held_up": printable.line(self.story.progress.held_up, 300),
            "zone": self._zone(now),
            "spent": self._spent(),
        }

    def body(self, since: int = 0) -> dict[str, Any]:
        """Return the rest: rows that have changed after the look number *since*, needs, curves."""
        rows = [
            [number_, *self._row(row)]
            for number_, row in enumerate(self.follower.rows)
            if row.version > since
        ]
        return {
            "columns": COLUMNS,
            "rows": rows,
            "workers": list(self._workers),
            "left_out": [
                [printable.line(skip.get("item"), 500), printable.line(skip.get("reason"), 500)]
                for skip in self.batch.manifest.skipped
            ],
            "needs": [
                asdict(need)
                for need in (
                    *labels.checkpoints_of(self.batch),
                    *needs_of(self._cases(), labels.called(self.batch)),
                )
            ],
            "tries": self._tries(),
            "spending": self.story.spent(),
            "figures": FIGURES,
            "readings": self.story.thinned(),
            "marks": self.story.marks,
        }

    def report(self) -> dict[str, Any]:
        """Return everything, with the end of the log of each item that failed, is blocked, or runs."""
        wanted = [
            number_ for number_, row in enumerate(self.follower.rows) if row.state in (*_TROUBLE, "running")
        ]
        most = max(_LEAST_LOG, min(logtail.BYTES, LOG_BUDGET // max(1, len(wanted))))
        logs = {str(number_): found for number_ in wanted if (found := self.logs(number_, most))}
        return {**self.head(), **self.body(), "log_bytes": most, "logs": logs}

    def logs(self, number_: int, most: int = logtail.BYTES) -> list[dict[str, Any]]:
        """Return the ends of the logs of one row's last attempt; empty where there are none."""
        row = self.follower.rows[number_]
        return [asdict(tail) for stem in self._stems(row) for tail in logtail.tails(stem, most)]

    def failures(self, count: int) -> list[tuple[str, str, str]]:
        """Return state, name and reason of what failed or was blocked last, the newest first."""
        rows = (row for row in self.follower.rows if row.state in _TROUBLE)
        newest = heapq.nlargest(count, rows, key=lambda row: row.finished or 0.0)
        return [(row.state, self.name(row), self.reason(row)) for row in newest]

    def name(self, row: Row) -> str:
        """Return what people call an item: its task's id, or its line; printable."""
        return printable.line(row.result.get("task_id") or self._known(row)[0] or row.place.item, 500)

    def reason(self, row: Row) -> str:
        """Return why an item failed, or what became of it; printable."""
        return printable.line(row.result.get("outcome", ""), 1000)

    def _known(self, row: Row) -> tuple[str, str]:
        """Return id and title of the task that an item is, "" where it is none."""
        return (self.titles or {}).get(row.place.path, ("", ""))

    # ---------------------------------------------------------------- details

    def _census(self) -> Census:
        census = Census(duplicates=self.follower.duplicates, queued=len(self.follower.rows))
        for row in self.follower.rows:
            census.states[row.state] = census.of(row.state) + 1
            if row.state not in STATES:
                census.damaged.append(self.batch.layout(row.place.root).result_path(row.place.key))
        count_skipped(census, self.batch)
        return census

    def _row(self, row: Row) -> list[Any]:
        result, name = row.result, self.name(row)
        item = printable.line(row.place.item, 500)
        spent = self.story.progress.spent.get(name)
        tokens, cost = number(result.get("tokens")), number(result.get("cost_usd"))
        attempts = number(result.get("generation"))
        if spent is not None:
            tokens, cost, attempts = spent.tokens, spent.cost_usd, max(spent.attempts, attempts or 0)
        trouble = row.state in _TROUBLE
        return [
            name,
            item if item != name else None,
            printable.line(self._known(row)[1], 200) or None,
            row.state,
            self.reason(row),
            self._worker(result),
            attempts,
            row.started,
            row.finished,
            number(result.get("seconds")),
            tokens,
            cost,
            printable.line(result.get("commit") or "", 64) or None,
            printable.line(result.get("branch") or "", 200) or None,
            printable.data(result.get("evidence") or None, _EVIDENCE),
            printable.line(self._next(row), 300) if trouble else None,
        ]

    def _worker(self, result: Mapping[str, Any]) -> int | None:
        """Return the number of whoever is told to have done it, None if nobody is."""
        name = printable.line(result.get("worker") or "", 80)
        agent = printable.line(result.get("agent") or "", 12)
        if not name:
            return None
        return self._workers.setdefault(f"{name} {agent}".strip(), len(self._workers))

    def _next(self, row: Row) -> str:
        known = {**row.result, "edit": row.edited}
        return next_step({"task_id": self.name(row), "status": row.state}, known)

    def _needs(self) -> Iterator[Need]:
        yield from labels.checkpoints_of(self.batch)
        yield from needs_of(self._cases(), labels.called(self.batch))

    def _cases(self) -> Iterator[Case]:
        for number_, row in enumerate(self.follower.rows):
            if row.state in _TROUBLE:
                yield Case(
                    number=number_, name=self.name(row), item=row.place.item, state=row.state,
                    reason=str(row.result.get("outcome", ""))[:2000], next=self._next(row),
                    task=bool(row.result.get("task_id")) and row.edited,
                )  # fmt: skip

    def _zone(self, now: float) -> dict[str, Any]:
        story = self.story
        if self.here is not None and not story.zone_holds(now):
            return self.here.zone()
        figures = story.readings[-1][1] if story.readings else ()
        return {
            "word": story.zone, "why": story.zone_why, "at": story.zone_at,
            **dict(zip(FIGURES, figures, strict=False)),
        }  # fmt: skip

    def _spent(self) -> dict[str, Any]:
        story = self.story
        if story.spending:
            _, tokens, cost = story.spending[-1]
            return {
                "tokens": tokens, "cost_usd": cost, "of": len(story.spending),
                "tokens_known": story.tokens_known, "cost_known": story.cost_known,
            }  # fmt: skip
        ended = [row.result for row in self.follower.rows if row.result]
        tokens, tokens_known = total(number(one.get("tokens")) for one in ended)
        cost, cost_known = total(number(one.get("cost_usd")) for one in ended)
        return {
            "tokens": tokens, "cost_usd": cost, "of": len(ended),
            "tokens_known": tokens_known, "cost_known": cost_known,
        }  # fmt: skip

    def _tries(self) -> list[list[Any]]:
        """Return the attempts that are not the one that a row tells of: row, attempt, begin, end, how."""
        instance, seen = self._named
        if instance != self.follower.instance:
            self._names, seen = {}, -1
        if self.story.attempts:  # else nobody asks for names
            self._named = (self.follower.instance, self.version)
            self._names |= {
                self.name(row): n for n, row in enumerate(self.follower.rows) if row.version > seen
            }
        made = []
        for task, generation, begin, end, how in self.story.attempts:
            at = self._names.get(printable.line(task, 500))
            row = None if at is None else self.follower.rows[at]
            if row is None or at is None:
                continue
            told = row.started is not None and row.finished is not None
            if not (told and begin >= (row.started or 0) - 1 and end <= (row.finished or 0) + 1):
                made.append([at, generation, begin, end, how])
        return made

    def _stems(self, row: Row) -> Iterator[str]:
        told = self.story.logs.get(self.name(row), "")
        if told and ".." not in told.split("/") and not os.path.isabs(told):
            yield os.path.join(self.batch.folder, told)
            return
        generation = int(number(row.result.get("generation")) or 0)
        if not generation:
            generation = self.follower.store(row.place.root).layout.highest(row.place.key)
        yield os.path.join(self.batch.logs, generation_name(row.place.key, max(1, generation)))
