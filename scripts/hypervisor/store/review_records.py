"""What the review of chunks takes and returns: frozen records."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

Verdict = Literal["approve", "revise", "stop"]


class ReviewEvent(StrEnum):
    """Events of a chunked batch."""

    #: A wave is done, and waits for a decision; ``task`` is the wave's number, ``chunks``.
    OPENED = "checkpoint"
    #: A person decided; ``task``, ``verdict``, ``by``.
    DECIDED = "decided"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPlan:
    """The plan of a chunked batch as it is stored."""

    plan: Mapping[str, Any]
    #: Rises with each change: who changes the plan names the version that it has read.
    version: int
    #: See ``chunk_plan.outdated``.
    outdated: str
    #: The options of the last `chunk run`; None before the first.
    run: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkItem:
    """An item of a chunked batch."""

    id: str
    #: A hash of the record.
    digest: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunChunk:
    """A chunk that has begun."""

    name: str
    items: tuple[str, ...]
    #: 1, or more for a chunk that was opened again.
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What became of one item."""

    item: str
    category: str
    rationale: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveDecision:
    """What a person decided of a wave."""

    verdict: Verdict
    by: str
    #: Milliseconds since the epoch; set by the store.
    at: int = 0
    #: Of ``revise``: the criteria that hold from then on.
    criteria: str = ""
    #: Of ``revise``: the chunks that are done again.
    chunks: tuple[str, ...] = ()
    #: Of ``stop``: whether chunks of the wave were still waiting; an approval then lets those go on.
    midway: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """Chunks that run at one time, and what was decided of them."""

    #: From 1.
    number: int
    chunks: tuple[str, ...]
    criteria: str
    #: Whether a person is asked when it is done.
    checkpoint: bool
    decisions: tuple[WaveDecision, ...] = ()

    @property
    def is_dry_run(self) -> bool:
        """Whether nothing is done in it: it shows what is planned, and waits for a decision."""
        return not self.chunks

    @property
    def decided(self) -> WaveDecision | None:
        """The decision that holds; None while there is none."""
        last: WaveDecision | None = None
        for one in self.decisions:
            lifted = one.verdict == "approve" and last is not None and last.midway
            last = None if lifted else one
        return last


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalGate:
    """A bulk action that waits for a person's approval of its dry run."""

    #: The chunked batch's folder.
    folder: str
    #: Id of the task that the action is done for, "" for none: nobody claims it while the gate is shut.
    task: str = ""
    #: The tools that act: names with ``*``, or ``Bash(COMMAND *)``.
    patterns: tuple[str, ...] = ()

    def next_step(self) -> str:
        """Return what opens it, for people and agents."""
        there = shlex.quote(self.folder)
        return (
            f"`hypervisor checkpoint --dir {there}` shows the dry run: show it to the user and ask; only the "
            f"user's yes is `hypervisor checkpoint approve --dir {there}`"
        )
