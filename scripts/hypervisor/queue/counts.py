"""What happened to the items of one run, and the sum of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..core.model import UNDECIDED, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemEvent:
    """One thing that happened to one item, as it is told to the user."""

    item: str
    #: ``success``, ``blocked``, ``failed``, ``skipped``: a result; ``again``: it will be tried
    #: again; ``lost``: another worker took it over; ``started``: an agent works on it;
    #: ``trouble``: the machine, not the item;
    #: ``paced``: how many of a kind of task run at once.
    kind: str
    text: str
    seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class RunCounts:
    """What one worker did."""

    results: dict[str, int] = field(default_factory=dict)
    again: int = 0
    lost: int = 0
    #: Tasks for which triage found no strong evidence.
    undecided: int = 0
    #: Items that others held when this worker ended.
    left: list[str] = field(default_factory=list)

    def count(self, event: ItemEvent) -> None:
        """Add one event."""
        if event.kind == "again":
            self.again += 1
        elif event.kind == "lost":
            self.lost += 1
        elif event.kind in set(Outcome):
            self.results[event.kind] = self.results.get(event.kind, 0) + 1
            self.undecided += event.text.endswith(UNDECIDED)

    @property
    def processed(self) -> int:
        """Items that got their result from this worker."""
        return sum(self.results.values())
