"""What workers note of the items of their chunks, and the two files that people read it in.

The store holds the notes. ``<chunk>-summary.json`` and ``<chunk>-details.md`` are written from them, and
never read back: whoever finds them outdated, as a writer died, writes them anew.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from ..core.errors import Refused, UsageError
from ..core.files import replace_file
from ..store.review_records import Note
from .plan import ChunkedBatch
from .records import Record, RecordReading
from .waves import state_of

_LONGEST_CATEGORY = 100


def add_notes(
    made: ChunkedBatch, chunk: str, revision: int, notes: Sequence[Note], items: Collection[str] = ()
) -> int:
    """Keep notes of a chunk that has begun; durable on return. What is noted already changes nothing.

    Args:
        made: The batch.
        chunk: The chunk's id.
        revision: The one that the worker works on.
        notes: What is to be kept.
        items: The chunk's items, for a caller that makes many notes; looked up without them.

    Returns:
        How many of them were new, or said something else than before.

    Raises:
        UsageError: An item is not of this chunk, or a category is no word.
        Refused: The chunk was opened again since.
    """
    items = items or frozenset(made.begun_items(chunk))
    for note in notes:
        _check(note, chunk, items)
    last = {note.item: note for note in notes}  # of several for one item the last counts
    added = made.review.add_notes(made.number, chunk, revision, list(last.values()))
    if added is None:
        now = made.review.begun(made.number)[chunk].revision
        raise Refused(
            f"{chunk}: was opened again (revision {now}, this is {revision}); "
            f"stop, another worker does it with other criteria"
        )
    return added


def read_noted(made: ChunkedBatch, categories: Collection[str]) -> RecordReading:
    """Read what the workers of a batch have noted, as the items of another.

    Args:
        made: The batch that sorted them.
        categories: Which are meant; none for all.

    Raises:
        Refused: A checkpoint of it is open, or it is not done.
        UsageError: Nothing was noted as that.
    """
    at = state_of(made, made.plan())
    if at.what != "finished" and at.wave is not None:
        raise Refused(f"{made.folder}: its own checkpoints are not done ({at.what}); run it to its end first")
    records: list[Record] = []
    known: set[str] = set()
    items = made.review.items(made.number)
    for chunk in made.review.begun(made.number):
        for note in made.review.notes(made.number, chunk).values():
            known.add(note.category)
            if note.category in categories or not categories:
                said = {"category": note.category, "rationale": note.rationale}
                records.append(
                    Record(id=note.item, fields={"id": note.item, **items[note.item].fields, **said})
                )
    unknown = [name for name in categories if name not in known]
    if unknown or not records:
        names = ", ".join(sorted(known)) or "none"
        raise UsageError(
            f"{made.folder}: nothing is noted as {', '.join(unknown) or 'anything'}; it has {names}"
        )
    return RecordReading(records=records)


def write_note_files(made: ChunkedBatch, chunk: str) -> None:
    """Write the summary and the details of a chunk that has begun, where they differ from its notes."""
    with (made.chunks / ".lock").open("ab") as lock:
        # Read under the lock: of several writers the last one has seen the notes of all.
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path, data in note_files(made, chunk).items():
            if content_of(path) != data:
                replace_file(path, data)


def note_files(made: ChunkedBatch, chunk: str) -> dict[Path, bytes]:
    """Return what the summary and the details of a chunk are to say, by path."""
    begun = made.review.begun(made.number)[chunk]
    notes = made.review.notes(made.number, chunk)
    return {
        made.folder / f"{chunk}-details.md": details_of(chunk, notes.values()),
        made.folder / f"{chunk}-summary.json": summary_of(
            chunk, begun.revision, notes.values(), len(begun.items)
        ),
    }


def content_of(path: Path) -> bytes | None:
    """Return what is in a file, None where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def summary_of(chunk: str, revision: int, notes: Collection[Note], total: int) -> bytes:
    """Return what stands in a chunk's summary."""
    data = {
        "processed": len(notes), "categories": counts_of(notes), "chunk": chunk, "items": total,
        "revision": revision,
    }  # fmt: skip
    return json.dumps(data, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def details_of(chunk: str, notes: Iterable[Note]) -> bytes:
    """Return what stands in a chunk's details."""
    return (f"# {chunk}\n\n" + "".join(map(_detail, notes))).encode()


def counts_of(notes: Iterable[Note]) -> Mapping[str, int]:
    """Return how many notes are of which category, the most frequent first."""
    counts: dict[str, int] = {}
    for note in notes:
        counts[note.category] = counts.get(note.category, 0) + 1
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _check(note: Note, chunk: str, items: Collection[str]) -> None:
    if note.item not in items:
        raise UsageError(f"{note.item}: no item of {chunk}; `hypervisor chunk items {chunk}` names them")
    if not note.category.strip() or len(note.category) > _LONGEST_CATEGORY or not note.category.isprintable():
        raise UsageError(f"{note.item}: its category must be a word or two, not {note.category[:40]!r}")


def _detail(note: Note) -> str:
    why = " ".join(note.rationale.split())
    item = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in note.item)
    line = f"- {item}: **{note.category}**" + (f" - {why}" if why else "")
    return line.encode("utf-8", "backslashreplace").decode() + "\n"
