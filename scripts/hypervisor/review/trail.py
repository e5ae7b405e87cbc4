"""Does what is written down agree? Receipts with ledger, results, events; notes with results. Reads only."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import durable
from ..core.errors import Refused, Unreadable, UsageError
from ..core.model import Outcome, TaskHead
from ..core.paths import Project
from ..documents import delimiters
from ..events import Happening, read
from ..ledger import Entry, Ledger, in_doubt, missing_lines
from ..notes import details_text, summary_bytes
from ..queue.batch import Batch
from ..queue.summary import entries
from ..tasks.receipts import receipts_in
from ..tasks.tasklist import TaskList
from ..tasks.tasks import read_task
from .chunked import ChunkedBatch
from .review import notes_of, result_of

#: Two lines that are this much alike are one that was changed.
_ALIKE = 0.7
_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """Something that does not agree."""

    #: The task or the chunk.
    where: str
    #: ``missing``, ``changed``, ``double``, ``foreign``, ``in doubt``, ``ended in doubt``, ``no receipts``,
    #: ``unreadable``; of chunks ``notes``, ``summary``, ``details``, ``items``, ``result``.
    kind: str
    text: str


@dataclass(slots=True, kw_only=True)
class Audit:
    """What was compared."""

    #: Lines in bodies that agree with the ledger.
    receipts: int = 0
    #: Notes of chunks.
    notes: int = 0
    #: Tasks and chunks that were looked at.
    places: int = 0
    found: list[Mismatch] | None = None

    def __post_init__(self) -> None:
        self.found = self.found if self.found is not None else []

    @property
    def mismatches(self) -> list[Mismatch]:
        """What does not agree."""
        return self.found if self.found is not None else []

    def add(self, where: str, kind: str, text: str) -> None:
        """Add something that does not agree."""
        self.mismatches.append(Mismatch(where=where, kind=kind, text=text[:_SHOWN]))


def compare(body: Sequence[str], ledger: Sequence[Entry]) -> Iterator[tuple[str, str]]:
    """Yield what does not agree between the receipts of a body and its ledger: kind, and text. Pure."""
    lines = [one for one in ledger if one.line]
    missing = missing_lines(list(lines), list(body))
    extra = Counter(body) - Counter(one.line for one in lines)
    known = {one.line for one in lines}
    item_of = {one.line: one.item for one in lines}
    for line in extra.elements():
        if line in known:
            yield "double", f"stands there more often than it was written: {line}"
            continue
        near = difflib.get_close_matches(line, list(missing), n=1, cutoff=_ALIKE)
        if near:
            missing[near[0]] -= 1
            missing += Counter()  # without those that are none any more
            yield "changed", f"{_of(item_of, near[0])}says {line!r}, and was written as {near[0]!r}"
        else:
            yield "foreign", f"not written by `task receipt` or a hook: {line}"
    for line in missing.elements():
        yield "missing", f"{_of(item_of, line)}was written, and is not in the body: {line}"
    for item in in_doubt(list(ledger)):
        yield "in doubt", f"{item}: was begun, and has no receipt; look whether it was done"


def _of(item_of: Mapping[str, str], line: str) -> str:
    item = item_of.get(line, "")
    return f"{item}: " if item and item != line else ""


def audit_task(
    audit: Audit, project: Project, task: TaskHead, result: Mapping[str, Any] | None = None
) -> None:
    """Compare a task's receipts with its ledger, its events and its result."""
    audit.places += 1
    path = Path(task.path)
    try:
        data = path.read_bytes()
        body = receipts_in(data.decode("utf-8"), delimiters.body_start(data, str(path)))
    except (OSError, UnicodeDecodeError, Unreadable) as error:
        audit.add(task.id, "unreadable", str(error))
        return
    ledger = list(Ledger.of(path).entries())
    before = len(audit.mismatches)
    for kind, text in compare(body, ledger):
        audit.add(task.id, kind, text)
    wrong = sum(one.kind in ("double", "foreign", "changed") for one in audit.mismatches[before:])
    audit.receipts += len(body) - wrong
    doubts = in_doubt(ledger)
    last = [event["event"] for event in read(project, task.id) if event.get("event") in list(Happening)][-1:]
    if doubts and (last == [Happening.COMPLETED] or _succeeded(result)):
        audit.add(task.id, "ended in doubt", f"it is done, and {', '.join(doubts[:5])} has no receipt")
    if task.receipts and not body and (_succeeded(result) or last == [Happening.COMPLETED]):
        audit.add(
            task.id,
            "no receipts",
            f"it is done and asks for receipts of {', '.join(task.receipts)}; none is there",
        )


def _succeeded(result: Mapping[str, Any] | None) -> bool:
    return result is not None and result.get("status") == Outcome.SUCCESS


def audit_batch(audit: Audit, batch: Batch, tasks: TaskList) -> None:
    """Compare the receipts of each task of a batch."""
    for entry in entries(batch):
        if entry is None or not entry.place.task:
            continue
        try:
            task = read_task(Path(entry.place.path), tasks.settings)
        except Unreadable as error:
            audit.add(entry.place.item, "unreadable", str(error))
            continue
        audit_task(audit, tasks.project, task, entry.result)


def audit_chunks(audit: Audit, made: ChunkedBatch, batch: Batch) -> None:
    """Compare plan, items, notes, what is made of the notes, and results of each chunk that has begun."""
    plan = made.plan()
    try:
        made.check(plan)
    except Refused as error:
        audit.add(str(made.folder), "items", str(error))
    for chunk in plan.chunks:
        if not durable.exists(made.path(chunk.id)):
            continue
        audit.places += 1
        items = made.begun(chunk.id)
        notes = notes_of(made, chunk.id)
        noted = notes.all()
        audit.notes += len(noted)
        for item in noted:
            if item not in items:
                audit.add(chunk.id, "notes", f"{item!r} is noted, and is no item of the chunk")
        if noted or durable.exists(notes.path("summary.json")):
            wanted = summary_bytes(chunk.id, notes.revision, noted, len(items))
            if _content(notes.path("summary.json")) != wanted:
                audit.add(
                    chunk.id, "summary", f"{notes.path('summary.json').name} does not say what the notes say"
                )
            if _content(notes.path("details.md")) != details_text(chunk.id, noted).encode():
                audit.add(
                    chunk.id, "details", f"{notes.path('details.md').name} does not say what the notes say"
                )
        try:
            result = result_of(batch, chunk.id)
        except (ValueError, UsageError) as error:
            audit.add(chunk.id, "result", f"cannot be read: {error}")
            continue
        told = (result or {}).get("evidence", {}).get("noted")
        if told is not None and told != len(noted):
            audit.add(chunk.id, "result", f"its result tells of {told} notes, and there are {len(noted)}")


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
