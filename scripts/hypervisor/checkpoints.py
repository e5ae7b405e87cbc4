"""Waves of chunks, and what a person decided after each: from these alone follows what may start.

A wave is a file in ``waves/``, made once, before any of its chunks begins; a decision is another, made
once as well. Nothing is held in memory or by a process, so that a kill between any two steps changes
nothing about what may start.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from .core import clock, durable
from .core.errors import Refused

Verdict = Literal["approve", "revise", "stop"]


class Mode(StrEnum):
    """After which waves somebody is asked."""

    EACH = "each"  #: after each of them
    FIRST = "first"  #: after the first one only, and after what was done again
    NONE = "none"  #: never; all chunks are one wave


class Told(StrEnum):
    """What the batch's log says of checkpoints."""

    OPENED = "checkpoint"  #: a wave is done, and waits for a decision; ``task`` is the wave's number
    DECIDED = "decided"  #: somebody decided; ``verdict``, ``by``


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What somebody said."""

    verdict: Verdict
    by: str
    at: str
    #: Of ``revise``: what holds from now on.
    criteria: str = ""
    #: Of ``revise``: what is done again.
    chunks: tuple[str, ...] = ()
    #: Of ``stop``: whether chunks of the wave were still waiting; then an approval lets those go on.
    midway: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """Chunks that run at one time, and what was decided of them."""

    #: From 1.
    number: int
    chunks: tuple[str, ...]
    criteria: str
    #: Whether somebody is asked when it is done.
    checkpoint: bool
    decisions: tuple[Decision, ...] = ()

    @property
    def is_dry_run(self) -> bool:
        """Whether nothing is done in it: it shows what is planned, and waits for a word."""
        return not self.chunks

    @property
    def decided(self) -> Decision | None:
        """The decision that holds; None while there is none."""
        last: Decision | None = None
        for one in self.decisions:
            lifted = one.verdict == "approve" and last is not None and last.midway
            last = None if lifted else one
        return last


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What may happen next."""

    #: ``run``: go on with the wave; ``open``: somebody has to decide; ``stopped``: somebody said so;
    #: ``redo``: chunks are to be opened again; ``next``: a wave of these may begin; ``finished``.
    what: Literal["run", "open", "stopped", "redo", "next", "finished"]
    #: The last wave there is.
    wave: Wave | None = None
    #: Those that the wave has left, that are to be done again, or that the next wave may take from.
    chunks: tuple[str, ...] = ()


def standing(waves: Sequence[Wave], chunks: Sequence[str], done: Callable[[str], bool]) -> Standing:
    """Return what may happen next. Pure.

    Args:
        waves: All waves there were.
        chunks: The plan's, in order.
        done: Tells whether a chunk has its result.
    """
    last = waves[-1] if waves else None
    left = tuple(chunk for chunk in chunks if not done(chunk))
    if last is not None:
        decided = last.decided
        mine = tuple(chunk for chunk in last.chunks if chunk in left)
        if decided is not None and decided.verdict == "stop":
            return Standing(what="stopped", wave=last, chunks=mine)
        if decided is not None and decided.verdict == "revise":
            return Standing(what="redo", wave=last, chunks=decided.chunks)
        if decided is None and mine:
            return Standing(what="run", wave=last, chunks=mine)
        if decided is None and last.checkpoint:
            return Standing(what="open", wave=last)
    return Standing(what="next" if left else "finished", wave=last, chunks=left)


@dataclass(frozen=True, slots=True)
class Waves:
    """The waves of one batch; whoever adds to them holds the batch's `changing`."""

    folder: Path

    def all(self) -> list[Wave]:
        """Return every wave, with what was decided, from the first."""
        found: list[Wave] = []
        while (wave := self._read(len(found) + 1)) is not None:
            found.append(wave)
        return found

    def revision(self, chunk: str) -> int:
        """Return 1, or more for a chunk that was opened again."""
        decisions = [one for wave in self.all() for one in wave.decisions if one.verdict == "revise"]
        return 1 + sum(chunk in one.chunks for one in decisions)

    def criteria(self, initial: str) -> str:
        """Return the criteria that hold now."""
        revised = [one for wave in self.all() for one in wave.decisions if one.verdict == "revise"]
        return revised[-1].criteria if revised else initial

    def queue(self, number: int) -> Path:
        """Return the file that hands out a wave's chunks to its workers."""
        return self.folder / "waves" / f"{number:04d}.txt"

    def criteria_file(self, number: int) -> Path:
        """Return the file that holds a wave's criteria."""
        return self.folder / "waves" / f"{number:04d}.criteria.md"

    def begin(self, chunks: Sequence[str], criteria: str, *, checkpoint: bool) -> Wave:
        """Make the next wave; durable on return."""
        wave = Wave(
            number=len(self.all()) + 1, chunks=tuple(chunks), criteria=criteria, checkpoint=checkpoint
        )
        (self.folder / "waves").mkdir(exist_ok=True)
        # What its workers read comes first: once the wave is there, it can run. Replaced, as whoever
        # died here may have meant another wave.
        durable.replace(self.queue(wave.number), "".join(f"{name}\n" for name in chunks).encode())
        durable.replace(self.criteria_file(wave.number), criteria.encode("utf-8", "surrogateescape"))
        data = {
            "chunks": list(chunks),
            "criteria": criteria,
            "checkpoint": checkpoint,
            "begun": clock.now_text(),
        }
        if not durable.write_once(self._path(wave.number), _json(data)):
            raise Refused(f"wave {wave.number} was begun by another this moment; start again")
        return wave

    def decide(self, wave: Wave, decision: Decision, *, named: bool = False) -> Wave:
        """Add a decision to a wave; durable on return.

        Args:
            wave: The last one.
            decision: What was decided.
            named: Whether its chunks were named one by one: such may be done again at any time.

        Raises:
            Refused: Somebody has decided already.
        """
        before = wave.decided
        later = decision.verdict == "revise" and named
        if before is not None and before.verdict != "stop" and not (later and before.verdict == "approve"):
            raise Refused(
                f"checkpoint {wave.number}: {before.by} has decided already "
                f"({before.verdict}, {before.at[:19]})"
            )
        data = {
            "verdict": decision.verdict, "by": decision.by, "at": decision.at, "criteria": decision.criteria,
            "chunks": list(decision.chunks), "midway": decision.midway,
        }  # fmt: skip
        number = len(wave.decisions) + 1
        if not durable.write_once(self._decision(wave.number, number), _json(data)):
            raise Refused(f"checkpoint {wave.number}: somebody else has decided this moment; look again")
        return replace(wave, decisions=(*wave.decisions, decision))

    def _path(self, number: int) -> Path:
        return self.folder / "waves" / f"{number:04d}.json"

    def _decision(self, number: int, count: int) -> Path:
        return self.folder / "waves" / f"{number:04d}.decision-{count}.json"

    def _read(self, number: int) -> Wave | None:
        data = _read_json(self._path(number))
        if data is None:
            return None
        decisions: list[Decision] = []
        while (one := _read_json(self._decision(number, len(decisions) + 1))) is not None:
            decisions.append(Decision(**{**one, "chunks": tuple(one["chunks"])}))
        return Wave(
            number=number, chunks=tuple(data["chunks"]), criteria=data["criteria"],
            checkpoint=data["checkpoint"], decisions=tuple(decisions),
        )  # fmt: skip


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, indent=1, ensure_ascii=True).encode() + b"\n"


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Refused(f"{path}: damaged ({error}); put it back from a backup") from error
    if not isinstance(data, dict):
        raise Refused(f"{path}: damaged; put it back from a backup")
    return data
