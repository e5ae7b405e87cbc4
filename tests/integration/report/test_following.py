"""A batch that is followed stands where the census says, at the price of what has changed."""

from __future__ import annotations

from pathlib import Path

from handwork import Hands, batch_in, cancel, retry
from hypervisor.queue.summary import take_census
from hypervisor.report.follower import BatchFollower


def agrees(follower: BatchFollower) -> dict[str, int]:
    """Hold that a follower that has looked before says what the census says; return that."""
    batch = follower.batch
    batch.take_in()
    follower.look()
    states: dict[str, int] = {}
    for row in follower.items:
        states[row.state] = states.get(row.state, 0) + 1
    assert states == {
        state: n for state, n in take_census(batch).to_json().items() if n and state != "queued"
    }
    fresh = BatchFollower(batch)
    fresh.look()
    assert [(row.number, row.item) for row in fresh.items] == [
        (row.number, row.item) for row in follower.items
    ]
    return states


def test_a_batch_that_is_followed_stands_where_the_census_says(tmp_path: Path) -> None:
    with batch_in(tmp_path / "b", "a", "b", "c", "./a") as batch:
        follower, hands = BatchFollower(batch), Hands(batch)
        assert agrees(follower) == {"waiting": 3}
        claim = hands.begin("a")
        assert agrees(follower) == {"running": 1, "waiting": 2}
        hands.end(claim)
        assert agrees(follower) == {"success": 1, "waiting": 2}
        hands.do("b", "failed")
        assert agrees(follower) == {"success": 1, "failed": 1, "waiting": 1}
        retry(batch, "b")
        assert agrees(follower) == {"success": 1, "waiting": 2}
        hands.do("b", "blocked")
        assert agrees(follower) == {"success": 1, "blocked": 1, "waiting": 1}
        with open(batch.source.path, "a", encoding="utf-8") as queue:
            queue.write("d\ne\na\n")
        assert agrees(follower) == {"success": 1, "blocked": 1, "waiting": 3}
        for item in ("c", "d", "e"):
            cancel(batch, item)
        assert agrees(follower) == {"success": 1, "blocked": 1, "skipped": 3}
        retry(batch, "b")
        retry(batch, "d")
        assert agrees(follower) == {"success": 1, "waiting": 2, "skipped": 2}
        hands.batch.store.claims.release(hands.begin("d"), "later")
        assert agrees(follower) == {"success": 1, "waiting": 2, "skipped": 2}


def test_a_look_that_finds_nothing_new_changes_nothing(tmp_path: Path) -> None:
    with batch_in(tmp_path / "b", "a", "b") as batch:
        follower = BatchFollower(batch)
        assert follower.look()
        version = follower.version
        assert not follower.look()
        assert follower.version == version
        Hands(batch).do("a")
        assert follower.look()
        assert [row.version > version for row in follower.items] == [True, False]


def test_what_happens_to_other_batches_changes_nothing(tmp_path: Path) -> None:
    with batch_in(tmp_path / "b", "a") as batch:
        follower = BatchFollower(batch)
        follower.look()
        other = batch.store.batches.create("other", "other", {})
        hands = Hands(batch)
        assert batch.store.claims.claim(hands.worker, "z", "z", batch=other.id)
        assert not follower.look()


def test_a_start_is_the_works_and_not_the_claims(tmp_path: Path) -> None:
    """A worker claims several items at once, and begins with one after the other."""
    with batch_in(tmp_path / "b", "a") as batch:
        hands = Hands(batch)
        hands.do("a", seconds=0.0)
        follower = BatchFollower(batch)
        follower.look()
        (row,) = follower.items
        assert row.started == row.finished
