"""A batch followed while it runs: each look costs what has changed, and a listing of its folders.

The first look asks item by item, as the census does. After that an item is looked at again only if its
folders bear a name for it that they did not bear before: results are written once, and an item that is
opened again shows by the name of its next life.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..claims.directory import DirectoryStore, Policy
from ..core.clock import seconds_of
from ..core.keys import split_generation, split_life
from ..core.model import Outcome
from ..events import FILE
from ..manifest import SEPARATORS
from ..queue.batch import Batch, Place

#: Keys of a result that a row keeps.
_KEPT = (
    "task_id", "outcome", "worker", "session", "agent", "generation", "seconds", "tokens", "cost_usd",
    "commit", "branch", "evidence", "next_step", "batch",
)  # fmt: skip
_ENDINGS = frozenset(outcome.value for outcome in Outcome)


@dataclass(slots=True, kw_only=True)
class Row:
    """Where one item stands, as of the last look."""

    place: Place
    #: As in `summary.Entry`.
    state: str = "waiting"
    #: Which look has changed it last.
    version: int = 0
    #: What is kept of its result; empty where there is none.
    result: Mapping[str, Any] = field(default_factory=dict)
    #: Whether the result changed a task's file.
    edited: bool = False
    #: Seconds since the epoch.
    started: float | None = None
    finished: float | None = None
    #: Whether the batch has settled which life of a task it means.
    pinned: bool = True

    @property
    def name(self) -> str:
        """What people call the item: the task's id, or its line."""
        return str(self.result.get("task_id") or self.place.item)


@dataclass(slots=True)
class Follower:
    """One batch, row by row, in the order of its queue."""

    batch: Batch
    rows: list[Row] = field(default_factory=list)
    #: Numbers of the rows that have no result.
    unfinished: set[int] = field(default_factory=set)
    #: Rises with each look that found something new.
    version: int = 0
    #: Another one when what was known counts no more: the queue was replaced.
    instance: str = field(default_factory=lambda: secrets.token_hex(4))
    duplicates: int = 0
    #: Every event of the batch's log so far, the oldest first.
    events: list[dict[str, Any]] = field(default_factory=list)
    _by_name: dict[str, int] = field(default_factory=dict)
    _stores: dict[str, DirectoryStore] = field(default_factory=dict)
    _queue: tuple[int, int, int] = (0, 0, 0)
    #: Where in the queue the line after the last one begins.
    _next: int = 0
    #: Names in the batch's own folders that have been seen.
    _seen: frozenset[str] = frozenset()
    _log_read: int = 0

    def look(self) -> bool:
        """Bring the rows up to date; tell whether anything has changed."""
        before, self.version = self.version, self.version + 1
        changed = self._read_queue()
        # Claims before results: what ends between the two is then seen as running, not as waiting.
        claims = {root: self._claims(root) for root in self._roots()}
        results = {root: _names(os.path.join(root, "results")) for root in claims}
        changed += self._heed_names(claims, results)
        for number in list(self.unfinished):
            row = self.rows[number]
            root = row.place.root
            if root not in claims:  # a place that has changed within this look
                claims[root], results[root] = self._claims(root), _names(os.path.join(root, "results"))
            changed += self._update(number, row, claims[root], results[root])
        changed += self._read_log()
        if not changed:
            self.version = before
        return bool(changed)

    def store(self, root: str) -> DirectoryStore:
        """Return the store at *root*, to look at."""
        if root not in self._stores:
            self._stores[root] = DirectoryStore(root, policy=Policy(patient=False))
        return self._stores[root]

    # ------------------------------------------------------------------ queue

    def _read_queue(self) -> int:
        """Take in lines that are new; return how many rows that changed."""
        state = os.stat(self.batch.queue.path)
        stamp = (state.st_ino, state.st_size, state.st_mtime_ns)
        if stamp == self._queue:
            return 0
        if self._queue[0] not in (0, state.st_ino) or not self._goes_on():
            self._forget()
        before = len(self.rows)
        for line in self.batch.queue.lines(self._next):
            self._add(line.item)
            self._next = line.stop
        self._queue = stamp
        return len(self.rows) - before

    def _goes_on(self) -> bool:
        """Tell whether what follows in the queue is a new line, and not more of the last one."""
        if self._next == 0:
            return True
        with open(self.batch.queue.path, "rb") as file:
            file.seek(self._next - 1)
            last, first = file.read(1), file.read(1)
        separator = SEPARATORS[self.batch.manifest.separator]
        return last == separator or (last != b"" and first in (b"", separator))

    def _add(self, item: str) -> None:
        place = self.batch.place(item, pin=False)
        if place.name in self._by_name:
            self.duplicates += 1
            return
        self._by_name[place.name] = len(self.rows)
        self.unfinished.add(len(self.rows))
        self.rows.append(Row(place=place, version=self.version, pinned=self._is_pinned(place)))

    def _is_pinned(self, place: Place) -> bool:
        view = os.path.join(self.batch.folder, "results", f"{place.name}.json")
        return not place.task or os.path.lexists(view)

    def _forget(self) -> None:
        self.rows, self.unfinished, self._by_name, self.duplicates = [], set(), {}, 0
        self._next, self._seen = 0, frozenset()
        self.instance = secrets.token_hex(4)

    # ------------------------------------------------------------------ items

    def _roots(self) -> set[str]:
        return {self.batch.folder, *(self.rows[number].place.root for number in self.unfinished)}

    def _claims(self, root: str) -> set[str]:
        """Return the keys that have a claim's folder."""
        return {split_generation(name)[0] for name in _names(os.path.join(root, "locks"))}

    def _heed_names(self, claims: dict[str, set[str]], results: dict[str, set[str]]) -> int:
        """Settle anew where the claims of items are whose names turned up in the batch's own folders."""
        own = self.batch.folder
        names = frozenset(name.removesuffix(".json") for name in results[own]) | claims[own]
        changed = 0
        for name in names - self._seen:
            base, life = split_life(name)
            number = self._by_name.get(base)
            row = None if number is None else self.rows[number]
            if row is None or number is None or (life == 1 and row.pinned):
                continue
            changed += self._settle(number, row)
        self._seen = names
        return changed

    def _settle(self, number: int, row: Row) -> int:
        """Ask anew where an item's claim is; return 1 if that is another place than it was."""
        place = self.batch.place(row.place.item, pin=False)
        row.pinned = self._is_pinned(place)
        if place.key == row.place.key:
            return 0
        self.rows[number] = Row(place=place, version=self.version, pinned=row.pinned)
        self.unfinished.add(number)
        return 1

    def _update(self, number: int, row: Row, claims: set[str], results: set[str]) -> int:
        key = row.place.key
        if f"{key}.json" in results:
            # What others did with a task before this batch has looked at it is not the batch's result.
            if not row.pinned and (moved := self._settle(number, row)):
                return moved
            if row.pinned and self._finish(row):
                self.unfinished.discard(number)
                return 1
        held = key in claims and self.store(row.place.root).is_held(key)
        state = "running" if held else "waiting"
        if state == row.state:
            return 0
        row.state, row.version = state, self.version
        return 1

    def _finish(self, row: Row) -> bool:
        """Read the result of an item; tell whether there is one."""
        try:
            result = self.store(row.place.root).result(row.place.key)
            if result is None:  # a link to what is not there yet
                return False
            if not isinstance(result, dict):
                raise ValueError
        except ValueError:
            row.state, row.version = "damaged", self.version
            return True
        status = str(result.get("status"))
        row.state = status if status in _ENDINGS else "damaged"
        row.version = self.version
        row.result = {key: result[key] for key in _KEPT if result.get(key) not in (None, "", {})}
        row.edited = bool(result.get("edit"))
        row.started, row.finished = _moment(result.get("started")), _moment(result.get("finished"))
        return True

    # ----------------------------------------------------------------- events

    def _read_log(self) -> int:
        """Take in the lines that were added to the batch's log; one that is not whole waits for its end."""
        path = os.path.join(self.batch.folder, FILE)
        try:
            with open(path, "rb") as file:
                if os.fstat(file.fileno()).st_size < self._log_read:  # another file bears its name
                    self._log_read, self.events = 0, []
                file.seek(self._log_read)
                data = file.read()
        except FileNotFoundError:
            return 0
        whole = data[: data.rfind(b"\n") + 1]
        self._log_read += len(whole)
        new = list(_events(whole))
        self.events += new
        return len(new)


def _events(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            event = json.loads(line)
            if isinstance(event, dict):
                yield event


def _names(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def _moment(text: object) -> float | None:
    try:
        return seconds_of(str(text)) if text else None
    except ValueError:
        return None
