"""What may begin next, and what a chunk came to: decided from data alone."""

from __future__ import annotations

import pytest

from hypervisor.core.model import Outcome, Report
from hypervisor.review.run import judged
from hypervisor.review.waves import criteria_of, next_state
from hypervisor.store.review_records import Wave, WaveDecision


def _wave(*decisions: str, checkpoint: bool = True, midway: bool = False) -> Wave:
    told = [
        WaveDecision(verdict=verdict, by="x", at=0, chunks=("a",), midway=midway and verdict == "stop")  # type: ignore[arg-type]
        for verdict in decisions
    ]
    return Wave(number=1, chunks=("a", "b"), criteria="", checkpoint=checkpoint, decisions=tuple(told))


@pytest.mark.parametrize(
    ("waves", "done", "expected"),
    [
        ([], "", ("next", "abc")),
        ([_wave()], "", ("run", "ab")),
        ([_wave()], "a", ("run", "b")),
        ([_wave()], "ab", ("open", "")),
        ([_wave(checkpoint=False)], "ab", ("next", "c")),
        ([_wave("approve")], "ab", ("next", "c")),
        ([_wave("approve")], "abc", ("finished", "")),
        ([_wave("stop")], "ab", ("stopped", "")),
        ([_wave("stop")], "a", ("stopped", "b")),
        ([_wave("stop", "approve")], "ab", ("next", "c")),
        ([_wave("stop", "approve", midway=True)], "a", ("run", "b")),
        ([_wave("stop", "approve", midway=True)], "ab", ("open", "")),
        ([_wave("revise"), _wave()], "b", ("run", "a")),
        ([_wave("stop", "revise"), _wave()], "", ("run", "ab")),
        ([_wave("approve")], "ac", ("next", "b")),
    ],
)
def test_what_may_begin_follows_from_waves_and_decisions_alone(
    waves: list[Wave], done: str, expected: tuple[str, str]
) -> None:
    at = next_state(waves, tuple("abc"), lambda chunk: chunk in done)
    assert (at.what, "".join(at.chunks)) == expected


@pytest.mark.parametrize(
    ("status", "noted", "expected"),
    [
        (Outcome.SUCCESS, 5, Outcome.SUCCESS),
        (Outcome.SUCCESS, 0, Outcome.SUCCESS),
        (Outcome.SUCCESS, 4, Outcome.FAILED),
        (Outcome.BLOCKED, 4, Outcome.BLOCKED),
    ],
)
def test_a_command_that_passes_over_items_has_failed(status: Outcome, noted: int, expected: Outcome) -> None:
    report = judged(Report(status=status, outcome="exit 0"), noted, 5)
    assert report.status is expected
    assert report.evidence == {"items": 5, "noted": noted}


def test_the_latest_revision_says_by_what_criteria_work_goes_on() -> None:
    revised = WaveDecision(verdict="revise", by="x", criteria="new", chunks=("a",))
    waves = [Wave(number=1, chunks=("a",), criteria="old", checkpoint=True, decisions=(revised,))]
    assert (criteria_of([], "old"), criteria_of(waves, "old")) == ("old", "new")
