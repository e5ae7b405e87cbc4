"""Best of several: candidates for one attempt work at once, and the evidence ranks what they left.

The attempt has one claim and one result. Candidates are ranked by their verdicts, then by the size of their
change, then by cost. Nothing that an agent says counts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ..core.errors import Refused
from ..core.model import Outcome, Task
from ..git.git import Git
from ..runners.base import AgentEnd
from .options import RunOptions
from .verdict import Verdict

#: Candidates that one attempt may have.
MOST = 9
#: Where a candidate finds its number.
CANDIDATE = "HYPERVISOR_CANDIDATE"
_ORDER = (Outcome.SUCCESS, Outcome.BLOCKED, Outcome.FAILED, Outcome.SKIPPED)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a candidate is ranked by."""

    verdict: Verdict
    #: Lines that its commits add or remove.
    lines: int = 0
    cost_usd: float | None = None
    tokens: int | None = None

    @property
    def rank(self) -> tuple[bool, int, int, float, int]:
        """Return what sorts the best first."""
        verdict = self.verdict
        again, verified = verdict.again is not None, "passed" in str(verdict.evidence.get("verify", ""))
        cost = self.cost_usd if self.cost_usd is not None else float("inf")
        place = _ORDER.index(verdict.outcome) * 2 + (not verified)
        return again, place, self.lines, cost, self.tokens or 0


def candidates_of(task: Task, options: RunOptions) -> int:
    """Return how many candidates work on a task: as its `attempts` say, or else the run's options.

    Raises:
        Refused: Its `attempts` cannot be understood.
    """
    asked = task.front.get("attempts", options.best_of)
    if isinstance(asked, bool) or not isinstance(asked, int) or not 1 <= asked <= MOST:
        raise Refused(f"{task.id}: `attempts` must be a number from 1 to {MOST}, not {asked}")
    return asked


def side_by_side(count: int, work: Callable[[int], T]) -> list[T]:
    """Return what *work* returns for 1, 2 ... *count*, called at once; without those that raised.

    Raises:
        BaseException: All of them raised; that of the first.
    """
    done: dict[int, T] = {}
    failed: dict[int, BaseException] = {}

    def call(number: int) -> None:
        try:
            done[number] = work(number)
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that waits
            failed[number] = error

    threads = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(1, count + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not done:
        raise failed[min(failed)]
    return [done[number] for number in sorted(done)]


def changed_lines(git: Git, base: str, tip: str) -> int:
    """Return how many lines differ between two commits; a binary file counts as one."""
    rows = git.lines("diff", "--numstat", "--no-renames", base, tip, nul=False)
    counts = [row.split("\t")[:2] for row in rows]
    return sum(int(n) if n.isdigit() else 1 for pair in counts for n in pair)


def ranked(
    git: Git, base: str, tried: Sequence[tuple[str, Verdict, AgentEnd | None]]
) -> tuple[list[int], list[str]]:
    """Return the places of candidates, the best first, and a line on each in that order.

    Args:
        git: Git in the user's repository.
        base: The commit that they began from.
        tried: Of each its name, verdict, and end.
    """
    standings = []
    for _, verdict, end in tried:
        tip = verdict.evidence.get("commit")
        standings.append(Standing(
            verdict=verdict, lines=changed_lines(git, base, str(tip)) if tip else 0,
            cost_usd=end.cost_usd if end else None, tokens=end.tokens if end else None,
        ))  # fmt: skip
    order = sorted(range(len(tried)), key=lambda at: standings[at].rank)
    return order, [f"{tried[at][0]}: {standings[at].lines} lines; {tried[at][1].text}" for at in order]


def in_all(ends: Sequence[AgentEnd | None], best: AgentEnd | None) -> AgentEnd | None:
    """Return the end of the best with what all of them have used."""
    known = [end for end in ends if end is not None]
    if best is None:
        return None

    def total(name: str) -> float | None:
        values = [value for end in known if (value := getattr(end, name)) is not None]
        return sum(values) if values else None

    read, written = total("input_tokens"), total("output_tokens")
    return replace(
        best, input_tokens=None if read is None else int(read),
        output_tokens=None if written is None else int(written), cost_usd=total("cost_usd"),
    )  # fmt: skip
