"""Events as people and programs read them, and waiting for the ends of claims."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import HypervisorError
from ..core.project import Project
from ..core.settings import settings_of
from ..core.text import printable_line, seconds_of_text, time_text
from ..store.events import ENDS, Event, TaskEvent
from ..store.store import Store
from ..tasks.actor import Actor
from ..tasks.catalog import TaskCatalog

#: What a completion is called, by the result's status.
_COMPLETED = {"success": "completed", "skipped": "skipped", "blocked": "blocked", "failed": "failed"}


@dataclass(slots=True)
class EventReader:
    """Reads the events of a store from a place on, and names the tasks in them.

    Args:
        store: The store.
        project: The project whose tasks its items are, if they are.
        place: The id of the last event that is known; by default the latest.
        batch: Only events about this batch, by its number.
    """

    store: Store
    project: Project | None = None
    place: int = -1
    batch: int | None = None
    _names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.place < 0:
            self.place = self.store.events.last()

    def new(self) -> list[dict[str, Any]]:
        """Return the events since the last call."""
        return [self._row(event) for event in self._read()]

    def ends(self, most: int | None = None) -> list[dict[str, Any]]:
        """Return the events since the last call after which nobody works on an item, *most* at most."""
        rows = []
        for event in _without_doubles(self._read()):
            if event.kind in ENDS:
                rows.append(self._row(event))
                if len(rows) == most:
                    self.place = event.id
                    break
        return rows

    def _read(self) -> Iterator[Event]:
        events = self.store.events
        found = events.since(self.place) if self.batch is None else events.about(self.batch, self.place)
        for event in found:
            self.place = event.id
            yield event

    def _row(self, event: Event) -> dict[str, Any]:
        row: dict[str, Any] = {"id": event.id, "at": time_text(event.at / 1000), "event": event.kind}
        if event.batch_name:
            row["batch"] = event.batch_name
        if event.kind not in frozenset(TaskEvent):
            return row | {key: value for key, value in event.data.items() if key not in row}
        why = event.detail
        if event.kind == TaskEvent.COMPLETED:
            row["event"] = _COMPLETED.get(event.detail, event.detail)
            why = event.outcome or ("its attempts are used up" if event.attempt is None else "")
        elif event.kind in (TaskEvent.CLAIMED, TaskEvent.REOPENED):
            why = ""
        said = {
            "task": self._name(event), "attempt": event.number, "by": event.worker,
            "why": printable_line(why, 500), "session": event.session, "agent": event.agent,
        }  # fmt: skip
        return row | {key: value for key, value in said.items() if value not in (None, "")}

    def _name(self, event: Event) -> str:
        """Return the id of the task that an item is, else its line."""
        if event.text not in self._names:
            self._names[event.text] = self._id_of(event.text) or printable_line(event.text, 500)
        return self._names[event.text]

    def _id_of(self, text: str) -> str:
        if self.project is None or not text.endswith(".md"):
            return ""
        with contextlib.suppress(OSError, ValueError, HypervisorError):
            settings = settings_of(self.project.state)
            with TaskCatalog(self.project, settings, Actor(name=""), self.store).view() as view:
                task = view.at_path(os.path.join(os.path.realpath(self.project.root), text))
                return task.id if task is not None else ""
        return ""


def ends_answer(ended: Sequence[Mapping[str, Any]], place: int) -> dict[str, Any]:
    """Return the answer to whoever has waited: what ended, and from where to go on."""
    return {"events": list(ended), "cursor": str(place)}


def end_line(row: Mapping[str, Any]) -> str:
    """Return an end as people read it: what ended, how and why."""
    what = row.get("task") or row.get("batch") or ""
    why = row.get("why")
    return f"{what} {row['event']}" + (f": {why}" if why else "")


def event_line(row: Mapping[str, Any]) -> str:
    """Return an event as people read it: when, what happened to what, in which attempt, by whom, and why."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds_of_text(row["at"])))
    attempt = f" (attempt {row['attempt']})" if row.get("attempt") else ""
    by = f" by {row['by']}" if row.get("by") else ""
    why = f": {row['why']}" if row.get("why") else ""
    what = row.get("task") or row.get("batch") or ""
    return f"{at} {row['event']:<10} {what}{attempt}{by}{why}"


def _without_doubles(events: Iterable[Event]) -> Iterator[Event]:
    """Leave out the revocation of what was cancelled while it was being worked on: one end, told once."""
    before: Event | None = None
    for event in events:
        doubled = (
            before is not None
            and before.kind == TaskEvent.REVOKED
            and (event.kind, event.work) == (TaskEvent.CANCELLED, before.work)
        )
        if before is not None and not doubled:
            yield before
        before = event
    if before is not None:
        yield before
