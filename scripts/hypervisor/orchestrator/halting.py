"""Whether a batch goes on: the first few that prove it, the failures that halt it, a user's word. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.model import Outcome
from .schedule import SchedulingRules


class Halting:
    """Says whether anything more may begin. Tasks are told by their numbers.

    The first few, the canaries, run alone. If none of them succeeds and one fails, the batch halts.
    """

    def __init__(self, rules: SchedulingRules) -> None:
        self._rules = rules
        self._canaries: dict[int, Outcome | None] = {}
        self._proving = rules.canary > 0
        #: Why nothing more begins; "" as long as something may.
        self.over = ""

    # ------------------------------------------------------------------ asked

    @property
    def alone(self) -> Mapping[int, object] | None:
        """The canaries, while only they may be begun; None while anything may."""
        full = self._proving and len(self._canaries) >= self._rules.canary
        return self._canaries if full else None

    # ------------------------------------------------------------------- told

    def begun(self, at: int) -> None:
        """Note a start."""
        if self._proving and len(self._canaries) < self._rules.canary:
            self._canaries.setdefault(at, None)

    def dropped(self, at: int) -> None:
        """Note that a task proves nothing; another one takes its place."""
        self._canaries.pop(at, None)

    def ended(self, at: int, outcome: Outcome, failed: int, tried: int) -> None:
        """Note how a task ended, and how many have failed by now of those that were tried."""
        if outcome is Outcome.SKIPPED:
            self.dropped(at)
            return
        if at in self._canaries:
            self._canaries[at] = outcome
        ends = list(self._canaries.values())
        if self._proving and len(ends) >= self._rules.canary and None not in ends:
            self._proving = False
            if Outcome.SUCCESS not in ends and Outcome.FAILED in ends:
                self.halt(f"none of the first {tasks(len(ends))} succeeded")
        if outcome is Outcome.FAILED and (why := self._rules.why_halt(failed, tried)):
            self.halt(why)

    def drain(self, why: str) -> None:
        """Begin nothing more, as somebody said so."""
        self.over = self.over or f"draining: {why}"

    def halt(self, why: str) -> None:
        """Begin nothing more, as something is wrong."""
        self.over = self.over if self.over.startswith("halted") else f"halted: {why}"


def tasks(number: int) -> str:
    """Return ``1 task``, ``2 tasks``."""
    return f"{number} task{'' if number == 1 else 's'}"
