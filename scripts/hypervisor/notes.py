"""What a worker says of the items of its chunk, kept as the work goes on.

``<chunk>-notes.jsonl`` is the truth: a line for each note, synced before `Notes.add` returns, so that a
crash loses at most the item in hand. ``<chunk>-summary.json`` and ``<chunk>-details.md`` are made from it,
under the same lock, and made anew by the next note where a writer died in between.

A note carries the chunk's revision. When a chunk was opened again, whoever comes first moves the notes of
before out of the way (``<chunk>.r1-notes.jsonl`` ...), and a worker of before is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .core import clock, durable
from .core.errors import Refused, UsageError

_KINDS = ("summary.json", "details.md", "notes.jsonl")  # the notes last: they say whose the others are
_LONGEST_CATEGORY = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What became of one item."""

    item: str
    category: str
    rationale: str = ""


@dataclass(slots=True)
class _Known:
    """The notes of a chunk as they were read."""

    #: The last note of each item, in the order in which the items came.
    notes: dict[str, Note] = field(default_factory=dict)
    revision: int = 0
    #: The file, and its bytes: whoever added to it since has made it longer, or another.
    stamp: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class Notes:
    """The notes of one chunk.

    Args:
        folder: The batch's ``chunks`` folder.
        chunk: The chunk's id.
        revision: The one that is meant; notes of an earlier one are moved out of the way.
    """

    folder: Path
    chunk: str
    revision: int = 1
    _cached: _Known | None = None

    def path(self, kind: str, revision: int | None = None) -> Path:
        """Return the file of this *kind*, of the revision that it has now or of an earlier one."""
        mark = f".r{revision}" if revision else ""
        return self.folder / f"{self.chunk}{mark}-{kind}"

    def all(self) -> dict[str, Note]:
        """Return the last note of each item, in the order in which they came; of this revision only."""
        known = self._read()
        return known.notes if known.revision == self.revision else {}

    def add(self, notes: Sequence[Note], items: Mapping[str, Any]) -> int:
        """Keep notes; durable on return. One that says what is said already changes nothing.

        Args:
            notes: What is to be kept.
            items: The chunk's items, by id.

        Returns:
            How many of them were new, or said something else than before.

        Raises:
            UsageError: An item is not of this chunk, or a category is no word.
            Refused: The chunk was opened again since.
        """
        for note in notes:
            _check(note, self.chunk, items)
        with self._locked():
            self._archive()
            known = self._read()
            now = max(known.revision, self._summarised())
            if now > self.revision:
                raise Refused(
                    f"{self.chunk}: was opened again (revision {now}, this is {self.revision}); "
                    f"stop, another worker does it with other criteria"
                )
            last = {note.item: note for note in notes}  # of several for one item the last counts
            more = [note for note in last.values() if known.notes.get(note.item) != note]
            if more or not self._whole(known):
                self._write(known, more, len(items))
            return len(more)

    def begin(self, total: int) -> None:
        """Move what an earlier revision left out of the way, and put an empty summary in its place."""
        with self._locked():
            self._archive()
            known = self._read()
            if known.revision <= self.revision and not self._whole(known):
                self._write(known, [], total)

    # ---------------------------------------------------------------- details

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(
            self.folder / f".{self.chunk}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _archive(self) -> None:
        before = self._read().revision or self._summarised()
        if not 0 < before < self.revision:
            return
        for kind in _KINDS:
            if durable.exists(self.path(kind)):
                os.rename(self.path(kind), self.path(kind, before))
        durable.sync_directory(self.folder)
        self._cached = None

    def _summarised(self) -> int:
        """Return the revision of the summary: a worker may have ended without any note."""
        try:
            return int(json.loads(self.path("summary.json").read_bytes())["revision"])
        except (OSError, ValueError, TypeError, KeyError):
            return 0

    def _read(self) -> _Known:
        path = self.path("notes.jsonl")
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return _Known()
        # Of one process that makes many notes: what it wrote itself need not be read again.
        if self._cached is not None and self._cached.stamp == (found.st_ino, found.st_size):
            return self._cached
        known = _Known(stamp=(found.st_ino, found.st_size))
        for line in path.read_bytes().split(b"\n"):
            try:
                data = json.loads(line)
                note = Note(item=data["item"], category=data["category"], rationale=data["rationale"])
                known.revision = int(data["revision"])
            except (ValueError, TypeError, KeyError):
                continue  # torn: whoever wrote it died, and was not told that it is kept
            known.notes[note.item] = note
        self._cached = known
        return known

    def _write(self, known: _Known, more: Sequence[Note], total: int) -> None:
        whole = self._whole(known)
        changed = any(note.item in known.notes for note in more)
        lines = "".join(
            json.dumps({"item": note.item, "category": note.category, "rationale": note.rationale,
                        "at": clock.now_text(), "revision": self.revision}) + "\n"
            for note in more
        )  # fmt: skip
        if lines:
            size = durable.append_lines(self.path("notes.jsonl"), lines.encode())
            known.stamp = (os.stat(self.path("notes.jsonl")).st_ino, size)
            known.revision = self.revision
            known.notes.update({note.item: note for note in more})
            self._cached = known
        details = self.path("details.md")
        if whole and not changed and durable.exists(details):
            durable.append_lines(details, "".join(map(_detail, more)).encode())
        else:
            durable.replace(details, details_text(self.chunk, known.notes).encode())
        durable.replace(
            self.path("summary.json"), summary_bytes(self.chunk, self.revision, known.notes, total)
        )

    def _whole(self, known: _Known) -> bool:
        """Tell whether the details say all that the notes do: their length, as it is made from them."""
        try:
            size = os.stat(self.path("details.md")).st_size
        except FileNotFoundError:
            return False
        wanted = len(details_text(self.chunk, known.notes).encode())
        return size == wanted and durable.exists(self.path("summary.json"))


def summary_bytes(chunk: str, revision: int, notes: Mapping[str, Note], total: int) -> bytes:
    """Return what stands in a chunk's summary."""
    data = {
        "processed": len(notes), "categories": counts_of(notes.values()),
        "chunk": chunk, "items": total, "revision": revision,
    }  # fmt: skip
    return json.dumps(data, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def details_text(chunk: str, notes: Mapping[str, Note]) -> str:
    """Return what stands in a chunk's details."""
    return f"# {chunk}\n\n" + "".join(map(_detail, notes.values()))


def counts_of(notes: Any) -> dict[str, int]:
    """Return how many notes are of which category, the most frequent first."""
    counts: dict[str, int] = {}
    for note in notes:
        counts[note.category] = counts.get(note.category, 0) + 1
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _check(note: Note, chunk: str, items: Mapping[str, Any]) -> None:
    if note.item not in items:
        raise UsageError(f"{note.item}: no item of {chunk}; `hypervisor chunk items {chunk}` names them")
    if not note.category.strip() or len(note.category) > _LONGEST_CATEGORY or not note.category.isprintable():
        raise UsageError(f"{note.item}: its category must be a word or two, not {note.category[:40]!r}")


def _detail(note: Note) -> str:
    why = " ".join(note.rationale.split())
    item = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in note.item)
    line = f"- {item}: **{note.category}**" + (f" - {why}" if why else "")
    return line.encode("utf-8", "backslashreplace").decode() + "\n"
