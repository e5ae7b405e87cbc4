"""The lease to merge, and results that are published by a merge: on both engines."""

from __future__ import annotations

import threading
import time

import pytest

from hypervisor.store.merges import Lease, Undelivered
from hypervisor.store.records import Claim, Completion
from hypervisor.store.store import Store
from stores import Database, a_worker, fill, rows, take


@pytest.fixture
def store(db: Database) -> Store:
    return db.open()


def finish(store: Store, claim: Claim, status: str = "success", branch: str = "main") -> None:
    result = {"status": status, "outcome": "ok", "deliver": branch, "commit": "c" * 40}
    store.claims.complete_one(
        Completion(attempt=claim.attempt, status=status, result=result, published=False)
    )


def lease_of(store: Store, name: str = "main", seconds: float = 60.0) -> Lease:
    lease = store.merges.take_lease(name, a_worker(), seconds)
    assert lease is not None
    return lease


def waiting(store: Store) -> list[Undelivered]:
    return store.merges.undelivered("main")


def test_one_at_a_time_has_the_lease_of_a_branch(db: Database, store: Store) -> None:
    got: list[Lease] = []
    start = threading.Barrier(6)

    def race() -> None:
        mine = db.open()
        start.wait()
        lease = mine.merges.take_lease("main", a_worker(), 60.0)
        got.extend([lease] if lease else [])

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert lease_of(store, "another") is not None
    store.merges.give_lease(got[0])
    assert lease_of(store).token > got[0].token


def test_a_lease_that_is_over_or_whose_holder_is_dead_is_taken_by_another(store: Store) -> None:
    first = a_worker()
    lease = store.merges.take_lease("main", first, 60.0)
    assert lease is not None
    assert store.merges.take_lease("main", a_worker(), 60.0) is None
    holder = store.merges.lease_holder("main")
    assert holder is not None
    assert holder.id == first.id
    short = store.merges.take_lease("main", a_worker(), 0.0, dead=first.id)
    assert short is not None
    time.sleep(0.002)  # the lease clock counts milliseconds
    assert store.merges.lease_holder("main") is None
    assert store.merges.take_lease("main", a_worker(), 60.0) is not None
    assert not store.merges.renew_lease(lease, 60.0)
    store.merges.give_lease(short)  # too late: nothing is taken from the new holder
    assert store.merges.lease_holder("main") is not None


def test_a_holder_that_slept_past_its_lease_publishes_nothing(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    finish(store, take(store, worker, batch))
    asleep = a_worker()
    old = store.merges.take_lease("main", asleep, 60.0)
    assert old is not None
    new = store.merges.take_lease("main", a_worker(), 60.0, dead=asleep.id)
    assert new is not None
    (one,) = waiting(store)
    assert not store.merges.deliver(old, [one.on("d" * 40)])
    assert not store.merges.overrule(
        old, one, worker, "blocked", {"status": "blocked", "outcome": "conflict"}
    )
    assert waiting(store) == [one]
    assert store.merges.deliver(new, [one.on("d" * 40)])
    assert waiting(store) == []


def test_a_result_is_delivered_once_and_its_commit_is_known(store: Store) -> None:
    batch, worker = fill(store, "a", "b"), a_worker()
    store.claims.add_worker(worker)
    first = take(store, worker, batch)
    finish(store, first)
    finish(store, take(store, worker, batch), branch="other")
    lease = lease_of(store)
    (one,) = waiting(store)
    assert (one.attempt, one.batch, one.work.key) == (first.attempt, batch, first.key)
    for commit in ("d" * 40, "e" * 40):  # the answer to the first call was lost
        assert store.merges.deliver(lease, [one.on(commit)])
    assert store.merges.delivered_with(first.work) == "d" * 40
    assert store.merges.delivered() == {first.key: ("success", "d" * 40)}
    assert store.claims.work(first.work).published


def test_a_result_that_cannot_be_merged_is_followed_by_another_and_never_changes(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, batch)
    finish(store, claim)
    lease = lease_of(store)
    (one,) = waiting(store)
    blocked = {"status": "blocked", "outcome": "conflicts", "deliver": "main"}
    assert store.merges.overrule(lease, one, a_worker(), "blocked", blocked)
    assert not store.merges.overrule(lease, one, a_worker(), "blocked", blocked)
    (first, _), (second, _) = store.claims.cycles(claim.key)
    assert (first.state, second.state) == ("success", "blocked")
    assert second.result == {**blocked, "attempt": 2}
    (item,) = store.batches.items(batch)
    assert item.work.id == second.id
    assert [each.work.id for each in waiting(store)] == [second.id]
    assert store.claims.claim_next(worker, batch, 1) == []


def test_work_that_is_given_up_is_delivered_as_its_claims_said(store: Store) -> None:
    worker = a_worker()
    claim = store.claims.claim(worker, "a", "tasks/a.md", revert={"path": "x", "deliver": "main"})
    assert isinstance(claim, Claim)
    store.claims.fail(claim, "broken", limit=1)
    (one,) = waiting(store)
    assert one.work.state == "failed"
    assert one.attempt == claim.attempt
    assert rows(store, "SELECT count(*) FROM merge") == [(0,)]
