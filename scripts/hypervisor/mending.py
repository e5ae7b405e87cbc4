"""Ends of claims of which the log has no line, as whoever should have told died first.

The note of a claim (`sessions`) is what shows that: it is made before the claim is used, and dropped after
its end was told. Reads the store; the one thing that it writes is the missing line.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from .claims.view import DirectoryView
from .events import Happening
from .sessions import Note, Session, fate_of

_HAPPENINGS = {
    "success": Happening.COMPLETED, "blocked": Happening.BLOCKED, "failed": Happening.BLOCKED,
    "skipped": Happening.CANCELLED,
}  # fmt: skip


def end_key(note: Note) -> str:
    """Return what `events.claim_end` says of the end of a noted claim."""
    return f"{note.task}#{note.number}"


def untold(session: Session, store: DirectoryView, known: Collection[str]) -> Iterator[tuple[str, Note]]:
    """Yield the agents and noted claims of *session* that are over and leave something to do.

    Either their end is not *known*, or it is and whoever told it died before he dropped the note. Of one that
    was taken away the note stays, so that its worker can be told.
    """
    for agent in session.agents():
        for note in session.notes(agent):
            how = "open" if note.commissioned else fate_of(store, note).how
            if how == "ended" or (how == "lost" and end_key(note) not in known):
                yield agent, note


def end_of(store: DirectoryView, note: Note) -> tuple[Happening, str]:
    """Return how a noted claim that is over has ended, and why."""
    result = store.result(note.key)
    if result is not None and result.get("token") == note.token:
        return _HAPPENINGS.get(str(result.get("status")), Happening.COMPLETED), _outcome(result)
    fate = fate_of(store, note)
    if result is not None:
        cancelled = result.get("status") == "skipped"
        return Happening.CANCELLED if cancelled else Happening.REAPED, fate.why
    end = store.layout.end_if_there(note.key, note.generation)
    if end is not None and end.how == "released":
        return Happening.RELEASED, end.detail
    if fate.why.startswith("cancelled by "):
        return Happening.CANCELLED, fate.why
    return Happening.RELEASED if " released it: " in fate.why else Happening.REAPED, fate.why


def _outcome(result: Mapping[str, Any]) -> str:
    return str(result.get("outcome", ""))
