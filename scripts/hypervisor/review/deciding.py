"""What somebody says of a wave of chunks: whether it may be said now, and keeping it."""

from __future__ import annotations

from collections.abc import Sequence

from ..checkpoints import Decision, Standing, Told, Verdict, Wave, Waves
from ..core import clock
from ..core.errors import Refused, UsageError
from ..events import log_of
from ..queue.batch import Batch
from .chunked import PLAN, ChunkedBatch, Plan
from .review import result_of, where_it_stands


def decide(
    made: ChunkedBatch,
    batch: Batch,
    verdict: Verdict,
    by: str,
    *,
    criteria: str = "",
    chunks: Sequence[str] = (),
) -> Wave:
    """Keep what somebody has decided of the last wave; durable on return.

    Args:
        made: The batch's folder.
        batch: The batch.
        verdict: What.
        by: Who.
        criteria: Of ``revise``: what holds from now on.
        chunks: Of ``revise``: what is done again; without any, the whole wave.

    Raises:
        Refused: There is nothing to decide, or somebody has decided already.
        UsageError: Words are missing, or there is no such chunk.
    """
    with made.changing():
        plan = made.plan()
        at = where_it_stands(made, batch, plan)
        wave = at.wave
        if wave is None:
            raise Refused("there is no checkpoint: nothing has run; `hypervisor chunk run` begins")
        if wave.is_dry_run and verdict == "revise":
            raise UsageError(f"nothing was done yet: edit {made.folder / PLAN} and approve what it says then")
        if wave.is_dry_run and verdict == "approve":
            _must_be_decidable(at, wave, verdict)
            made.check(plan)
            made.begin(plan, [chunk.id for chunk in plan.chunks])  # what was approved cannot change any more
        if verdict == "revise":
            chosen = _to_redo(batch, plan, wave, criteria, chunks)
            decision = Decision(verdict=verdict, by=by, at=clock.now_text(), criteria=criteria, chunks=chosen)
        else:
            _must_be_decidable(at, wave, verdict)
            midway = verdict == "stop" and bool(at.chunks)
            decision = Decision(verdict=verdict, by=by, at=clock.now_text(), midway=midway)
        decided = Waves(made.folder).decide(wave, decision, named=bool(chunks))
    log_of(made.folder).tell(Told.DECIDED, str(wave.number), verdict=verdict, by=by)
    return decided


def _to_redo(batch: Batch, plan: Plan, wave: Wave, criteria: str, chunks: Sequence[str]) -> tuple[str, ...]:
    if not criteria.strip():
        raise UsageError("revise needs --criteria TEXT, or --criteria @FILE: what is to be done otherwise")
    chosen = tuple(dict.fromkeys(plan.chunk(name).id for name in chunks)) or wave.chunks
    for name in chosen:
        if result_of(batch, name) is None:
            raise Refused(f"{name} has no result yet; revise what is done, or stop the wave first")
    return chosen


def _must_be_decidable(at: Standing, wave: Wave, verdict: Verdict) -> None:
    if at.what == "run" and verdict == "approve":
        raise Refused(f"checkpoint {wave.number} is not open yet: {', '.join(at.chunks[:5])} has no result")
    if at.what in ("next", "finished", "redo") and (before := wave.decided):
        raise Refused(
            f"checkpoint {wave.number}: {before.by} has decided already "
            f"({before.verdict}, {before.at[:19]}); `hypervisor chunk run` goes on"
        )
    if at.what in ("next", "finished"):
        raise Refused(f"wave {wave.number} has no checkpoint: there is nothing to decide")
    if at.what == "stopped" and verdict == "stop":
        raise Refused(f"checkpoint {wave.number} is stopped already")
