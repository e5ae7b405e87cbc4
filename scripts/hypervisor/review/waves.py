"""Waves of chunks: what may begin next, and keeping what a person decides of them.

A wave begins only once the one before it was decided, or had no checkpoint. Nothing is held in memory or by
a process: what may begin follows from the store's rows, so that a kill between any two steps changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from ..core.errors import Refused, UsageError
from ..core.text import time_text
from ..store.review_records import Verdict, Wave, WaveDecision
from .plan import PLAN, ChunkedBatch, ChunkPlan


class CheckpointMode(StrEnum):
    """After which waves somebody is asked."""

    EACH = "each"  #: after each of them
    FIRST = "first"  #: after the first one only, and after what was done again
    NONE = "none"  #: never; all chunks are one wave


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveState:
    """What may happen next."""

    #: ``run``: go on with the wave; ``open``: somebody has to decide; ``stopped``: somebody decided so;
    #: ``next``: a wave of these chunks may begin; ``finished``.
    what: Literal["run", "open", "stopped", "next", "finished"]
    #: The last wave there is.
    wave: Wave | None = None
    #: Those that the wave has left, or that the next wave may take from.
    chunks: tuple[str, ...] = ()


def next_state(waves: Sequence[Wave], chunks: Sequence[str], done: Callable[[str], bool]) -> WaveState:
    """Return what may happen next. Pure.

    Args:
        waves: All waves there were.
        chunks: The plan's, in order.
        done: Whether a chunk has its result.
    """
    last = waves[-1] if waves else None
    left = tuple(chunk for chunk in chunks if not done(chunk))
    if last is not None:
        decided = last.decided
        mine = tuple(chunk for chunk in last.chunks if chunk in left)
        if decided is not None and decided.verdict == "stop":
            return WaveState(what="stopped", wave=last, chunks=mine)
        if decided is None and mine:
            return WaveState(what="run", wave=last, chunks=mine)
        if decided is None and last.checkpoint:
            return WaveState(what="open", wave=last)
    return WaveState(what="next" if left else "finished", wave=last, chunks=left)


def state_of(made: ChunkedBatch, plan: ChunkPlan) -> WaveState:
    """Return what may happen next in a batch."""
    results = made.review.results(made.number)
    chunks = [chunk.id for chunk in plan.chunks]
    return next_state(made.review.waves(made.number), chunks, results.__contains__)


def criteria_of(waves: Sequence[Wave], initial: str) -> str:
    """Return the criteria that hold now: those of the latest revision, else the *initial* ones."""
    revised = [one for wave in waves for one in wave.decisions if one.verdict == "revise"]
    return revised[-1].criteria if revised else initial


# ----------------------------------------------------------------------- decide


def decide(
    made: ChunkedBatch, verdict: Verdict, by: str, *, criteria: str = "", chunks: Sequence[str] = ()
) -> Wave:
    """Keep what somebody decided of the last wave; durable on return.

    Args:
        made: The batch.
        verdict: What.
        by: Who.
        criteria: Of ``revise``: what holds from now on.
        chunks: Of ``revise``: what is done again; without any, the whole wave.

    Returns:
        The wave that was decided.

    Raises:
        Refused: There is nothing to decide, or somebody has decided already.
        UsageError: Words are missing, or there is no such chunk.
    """
    plan, waves, results = made.plan(), made.review.waves(made.number), made.review.results(made.number)
    at = next_state(waves, [chunk.id for chunk in plan.chunks], results.__contains__)
    wave, begin = at.wave, None
    if wave is None:
        raise Refused("there is no checkpoint: nothing has run; `hypervisor chunk run` begins")
    if verdict == "revise":
        if wave.is_dry_run:
            raise UsageError(f"nothing was done yet: edit {made.folder / PLAN} and approve what it says then")
        chosen = tuple(dict.fromkeys(plan.chunk(name).id for name in chunks)) or wave.chunks
        _require_revisable(waves, results, criteria, chosen, named=bool(chunks))
        decision = WaveDecision(verdict=verdict, by=by, criteria=criteria, chunks=chosen)
    else:
        _require_decidable(at, waves, results, verdict)
        if wave.is_dry_run and verdict == "approve":
            plan = made.take_in()
            begin = plan.items_of(
                chunk.id for chunk in plan.chunks
            )  # what was approved cannot change any more
        decision = WaveDecision(verdict=verdict, by=by, midway=verdict == "stop" and bool(at.chunks))
    if not made.review.decide(made.number, wave, decision, begin=begin):
        raise Refused(f"checkpoint {wave.number}: somebody else has decided this moment; look again")
    return wave


def _require_revisable(
    waves: Sequence[Wave], results: Container[str], criteria: str, chosen: Sequence[str], *, named: bool
) -> None:
    if not criteria.strip():
        raise UsageError("revise needs --criteria TEXT, or --criteria @FILE: what is to be done otherwise")
    before = waves[-1].decided
    # Chunks that are named may be done again at any time, also after an approval.
    if before is not None and before.verdict != "stop" and not named:
        raise _decided_already(waves[-1], before)
    for name in chosen:
        if name not in results:
            _require_not_begun_again(waves, results)
            raise Refused(f"{name} has no result yet; revise what is done, or stop the wave first")


def _require_decidable(
    at: WaveState, waves: Sequence[Wave], results: Container[str], verdict: Verdict
) -> None:
    wave = waves[-1]
    if at.what == "run" and verdict == "approve":
        _require_not_begun_again(waves, results)
        raise Refused(f"checkpoint {wave.number} is not open yet: {', '.join(at.chunks[:5])} has no result")
    if at.what in ("next", "finished"):
        if before := wave.decided:
            raise _decided_already(wave, before)
        raise Refused(f"wave {wave.number} has no checkpoint: there is nothing to decide")
    if at.what == "stopped" and verdict == "stop":
        raise Refused(f"checkpoint {wave.number} is stopped already")


def _require_not_begun_again(waves: Sequence[Wave], results: Container[str]) -> None:
    """Raise who has decided already, where a revision began the last wave and nothing of it is done yet."""
    before = waves[-2].decided if len(waves) > 1 else None
    untouched = not any(chunk in results for chunk in waves[-1].chunks)
    if before is not None and before.verdict == "revise" and untouched:
        raise _decided_already(waves[-2], before)


def _decided_already(wave: Wave, before: WaveDecision) -> Refused:
    return Refused(
        f"checkpoint {wave.number}: {before.by} has decided already ({before.verdict}, "
        f"{time_text(before.at / 1000)[:19]}); `hypervisor chunk run` goes on"
    )
