"""Whether what is written down agrees: receipts with bodies and results, notes with their files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import Refused, Unreadable
from ..core.model import Outcome, TaskHead
from ..documents import markdown
from ..store.receipts import Receipt
from ..store.store import Store
from ..tasks.receipts import missing, receipts_in, write_receipts
from .notes import content_of, note_files
from .plan import ChunkedBatch

_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """Something that does not agree."""

    #: The task or the chunk.
    where: str
    #: ``missing``, ``double``, ``foreign``, ``in doubt``, ``ended in doubt``, ``no receipts``,
    #: ``unreadable``; of chunks ``summary``, ``details``, ``items``, ``result``.
    kind: str
    text: str


@dataclass(slots=True, kw_only=True)
class Audit:
    """What was compared."""

    #: Lines in bodies that agree with the store.
    receipts: int = 0
    #: Notes of chunks.
    notes: int = 0
    #: Tasks and chunks that were looked at.
    places: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)

    def add(self, where: str, kind: str, text: str) -> None:
        """Add something that does not agree."""
        self.mismatches.append(Mismatch(where=where, kind=kind, text=text[:_SHOWN]))


def compare(
    body: Sequence[str], kept: Sequence[Receipt], in_doubt: Sequence[str] = ()
) -> Iterator[tuple[str, str]]:
    """Yield what does not agree between a body's receipts and those that are kept: kind, and text. Pure."""
    known = {one.line for one in kept}
    for line in (Counter(body) - Counter(one.line for one in kept)).elements():
        if line in known:
            yield "double", f"is there more often than it was written: {line}"
        else:
            yield "foreign", f"changed since it was written, or not written by a receipt: {line}"
    for one in missing(kept, body):
        item = "" if one.item == one.line else f"{one.item}: "
        how = "was written, and is not in the body any more" if one.written else "is not in the body"
        yield "missing", f"{item}{how}: {one.line}"
    for name in in_doubt:
        yield "in doubt", f"{name}: was begun, and has no receipt; look whether it was done"


def audit_task(
    audit: Audit,
    store: Store,
    key: str,
    task: TaskHead,
    result: Mapping[str, Any] | None = None,
    *,
    mend: bool = False,
) -> None:
    """Compare a task's receipts with its body and its result.

    What a crash left out of the body is written first.

    Args:
        audit: Gets what does not agree.
        store: The project's store.
        key: The task's key.
        task: The task.
        result: Its latest result, None if it has none.
        mend: Whether lines that were removed from the body are written again.
    """
    audit.places += 1
    path = Path(task.path)
    kept, doubts = store.receipts.of(key), store.receipts.in_doubt(key)
    try:
        if mend or any(not one.written for one in kept):
            write_receipts(store, key, path, removed=mend)
        data = path.read_bytes()
        body = receipts_in(data.decode("utf-8"), markdown.body_start(data, str(path)))
    except (OSError, UnicodeDecodeError, Unreadable) as error:
        audit.add(task.id, "unreadable", str(error))
        return
    before = len(audit.mismatches)
    for kind, text in compare(body, kept, doubts):
        audit.add(task.id, kind, text)
    wrong = sum(one.kind in ("double", "foreign") for one in audit.mismatches[before:])
    audit.receipts += len(body) - wrong
    if result is None or result.get("status") != Outcome.SUCCESS:
        return
    if doubts:
        audit.add(task.id, "ended in doubt", f"it is done, and {', '.join(doubts[:5])} has no receipt")
    if task.receipts and not body:
        asked = ", ".join(task.receipts)
        audit.add(task.id, "no receipts", f"it is done and asks for receipts of {asked}; none is there")


def audit_chunks(audit: Audit, made: ChunkedBatch) -> None:
    """Compare plan, items, notes, the files written from them, and results of each chunk that has begun."""
    try:
        made.check(made.plan())
    except Refused as error:
        audit.add(str(made.folder), "items", str(error))
    results = made.review.results(made.number)
    for chunk, begun in made.review.begun(made.number).items():
        audit.places += 1
        notes = made.review.notes(made.number, chunk)
        audit.notes += len(notes)
        for path, wanted in note_files(made, chunk).items():
            found = content_of(path)
            # A chunk without a note has its files only once a worker has begun with it.
            if found != wanted and (notes or found is not None):
                kind = "summary" if path.suffix == ".json" else "details"
                audit.add(chunk, kind, f"{path.name} does not say what the notes say")
        for item in notes:
            if item not in begun.items:
                audit.add(chunk, "items", f"{item!r} is noted, and is no item of the chunk")
        said = results.get(chunk, {}).get("evidence", {}).get("noted")
        if said is not None and said != len(notes):
            audit.add(chunk, "result", f"its result says {said} notes, and there are {len(notes)}")
