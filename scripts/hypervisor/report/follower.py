"""A batch followed item by item: a look costs what has changed since the last one."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.model import Outcome
from ..queue.batch import Batch, ItemRef
from ..store.progress import ItemAttempt, ItemProgress

#: The item has no result, and nobody works on it.
WAITING = "waiting"
_RESULTS = frozenset(outcome.value for outcome in Outcome)


@dataclass(slots=True, kw_only=True)
class FollowedItem:
    """Where one item stands, as of the last look. Times are seconds since the epoch."""

    #: Its place in the list of all: 0, 1, 2 ...
    number: int
    item: ItemProgress
    ref: ItemRef
    #: The look that changed it last.
    version: int

    @property
    def state(self) -> str:
        """A result's status, ``running``, or ``waiting``."""
        state = self.item.work.state
        return WAITING if state == "ready" else state

    @property
    def result(self) -> Mapping[str, Any]:
        """The result; empty where there is none."""
        return self.item.work.result or {}

    @property
    def last_attempt(self) -> ItemAttempt | None:
        """The latest attempt at the cycle that the batch means."""
        return next((one for one in reversed(self.item.attempts) if one.current), None)

    @property
    def final_attempt(self) -> ItemAttempt | None:
        """The attempt that the result comes from; None for an item that was cancelled, or has none."""
        last = self.last_attempt
        if last is None or not self.item.work.decided:
            return None
        return last if last.outcome in _RESULTS or self.result.get("gave_up") else None

    @property
    def finished(self) -> float | None:
        """When the attempt with the result ended."""
        final = self.final_attempt
        return None if final is None or final.ended_at is None else final.ended_at / 1000

    @property
    def started(self) -> float | None:
        """When it started: a worker may have claimed the item a while before."""
        final, seconds = self.final_attempt, self.result.get("seconds")
        if final is None or final.ended_at is None:
            return None
        if isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds >= 0:
            return max(final.claimed_at / 1000, final.ended_at / 1000 - seconds)
        return final.claimed_at / 1000


@dataclass(slots=True)
class BatchFollower:
    """All items of one batch, in the order of its queue."""

    batch: Batch
    items: list[FollowedItem] = field(default_factory=list)
    #: Rises with each look that found something new.
    version: int = 0
    #: Tells this list from another process's, whose numbers and versions mean something else.
    instance: str = field(default_factory=lambda: secrets.token_hex(4))
    _numbers: dict[int, int] = field(default_factory=dict)
    #: The latest event that was heeded, and the latest item of the queue.
    _event: int = 0
    _seq: int = 0

    def look(self) -> bool:
        """Bring the items up to date; return whether anything has changed."""
        store, batch = self.batch.store, self.batch.number
        last = store.events.last()  # before the rows are read: what comes later is read again
        # At first all items are new, and no event needs to be looked at.
        seqs = store.progress.changed(batch, since=self._event if self._seq else last, after=self._seq)
        self._event = last
        if not seqs:
            return False
        self.version += 1
        for found in store.progress.items(batch, seqs):
            self._take(found)
        self._seq = max(self._seq, seqs[-1])
        return True

    def _take(self, found: ItemProgress) -> None:
        number = self._numbers.setdefault(found.seq, len(self.items))
        row = FollowedItem(number=number, item=found, ref=self.batch.ref_of(found.work), version=self.version)
        if number == len(self.items):
            self.items.append(row)
        else:
            self.items[number] = row
