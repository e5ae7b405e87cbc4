"""Acting on many items: a batch that shows first what it would do, and begins only when that is approved.

Such a batch is cut like any other, of what another one has noted perhaps. Its first wave is a dry run: no
chunk is done in it, it shows all of them. An approval makes the files of all chunks, so that nothing that
was not shown is ever done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from ..checkpoints import Told, Waves
from ..core import durable
from ..core.errors import Refused, UsageError
from ..events import log_of
from ..gates import Gate
from ..queue.batch import Batch
from .chunked import ChunkedBatch, Plan
from .records import Reading, Record
from .review import notes_of, where_it_stands


def begin_dry_run(made: ChunkedBatch, plan: Plan) -> None:
    """Make the first wave of a batch that acts in bulk; the caller holds `ChunkedBatch.changing`."""
    waves = Waves(made.folder)
    if plan.bulk and not waves.all():
        waves.begin((), "", checkpoint=True)
        log_of(made.folder).tell(Told.OPENED, "1", chunks="")


def must_be_approved(made: ChunkedBatch, plan: Plan) -> None:
    """Hold that what a batch does in bulk is approved.

    Raises:
        Refused: It is not.
    """
    gate = Gate(folder=str(made.folder))
    if plan.bulk and (why := gate.why_shut()):
        raise Refused(f"{made.folder.name}: its bulk action waits: {why}; {gate.way()}")


def must_be_shown(made: ChunkedBatch, plan: Plan, chunks: Iterable[str]) -> None:
    """Hold that *chunks* were part of the dry run.

    Raises:
        Refused: One was not.
    """
    for name in chunks if plan.bulk else ():
        if not durable.exists(made.path(name)):
            raise Refused(f"{name}: was not in the dry run that was approved; cut it as a batch of its own")


def read_noted(made: ChunkedBatch, batch: Batch, categories: Collection[str]) -> Reading:
    """Read what the workers of a batch have noted, as the items of another.

    Args:
        made: The batch that sorted them.
        batch: The same.
        categories: Which are meant; none for all.

    Raises:
        Refused: A checkpoint of it is open, or it is not done.
        UsageError: Nothing was noted as that.
    """
    plan = made.plan()
    at = where_it_stands(made, batch, plan)
    if at.what != "finished" and at.wave is not None:
        raise Refused(f"{made.folder}: its own checkpoints are not done ({at.what}); run it to its end first")
    found: list[Record] = []
    known: set[str] = set()
    for chunk in plan.chunks:
        items = made.begun(chunk.id) if durable.exists(made.path(chunk.id)) else {}
        for note in notes_of(made, chunk.id).all().values():
            known.add(note.category)
            if note.category in categories or not categories:
                told: dict[str, Any] = {"category": note.category, "rationale": note.rationale}
                found.append(Record(id=note.item, fields={**items.get(note.item, {}), **told}))
    unknown = [name for name in categories if name not in known]
    if unknown or not found:
        names = ", ".join(sorted(known)) or "none"
        raise UsageError(
            f"{made.folder}: nothing is noted as {', '.join(unknown) or 'anything'}; it has {names}"
        )
    return Reading(records=found)
