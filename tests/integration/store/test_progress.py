"""What reports ask of a batch: figures that agree with its items, and only what has changed."""

from __future__ import annotations

import pytest

from hypervisor.store.progress import ItemProgress
from hypervisor.store.records import Item
from hypervisor.store.store import Store
from stores import Database, a_worker, done, fill, take


@pytest.fixture
def store(db: Database) -> Store:
    return db.open()


def all_items(store: Store, batch: int) -> list[ItemProgress]:
    return list(store.progress.items(batch, store.progress.changed(batch)))


def test_items_come_in_the_order_of_the_queue_with_their_attempts(store: Store) -> None:
    batch, worker = fill(store, "a", "b", "c"), a_worker("claude", session="s", agent="x")
    store.claims.add_worker(worker)
    first = take(store, worker, batch)
    store.claims.set_log(first, "logs/a-1", "claude")
    store.claims.fail(first, "flaky", tokens=10)
    second = take(store, worker, batch)
    store.claims.complete_one(done(second, "failed", "no", tokens=5, cost_usd=0.5))
    a, b, c = all_items(store, batch)
    assert [one.work.key for one in (a, b, c)] == ["a", "b", "c"]
    tried = a if a.attempts else b
    assert [(one.number, one.outcome, one.detail, one.tokens) for one in tried.attempts] == [
        (1, "again", "flaky", 10), (2, "failed", "no", 5),
    ]  # fmt: skip
    last = tried.attempts[-1]
    assert (last.name, last.session, last.agent, last.cost_usd) == ("claude", "s", "x", 0.5)
    assert tried.decided_at is not None
    assert last.ended_at is not None
    assert last.claimed_at <= last.ended_at
    assert c.attempts == ()


def test_only_what_has_changed_is_named(store: Store) -> None:
    batch, worker = fill(store, "a", "b", "c"), a_worker()
    other = fill(store, "z", name="other")
    store.claims.add_worker(worker)
    seqs, last = store.progress.changed(batch), store.events.last()
    assert store.progress.changed(batch, since=last, after=seqs[-1]) == []
    claim = take(store, worker, batch)
    take(store, worker, other)
    assert store.progress.changed(batch, since=last, after=seqs[-1]) == seqs[:1]
    last = store.events.last()
    store.claims.complete_one(done(claim))
    fill(store, "d")
    changed = store.progress.changed(batch, since=last, after=seqs[-1])
    assert [one.work.key for one in store.progress.items(batch, changed)] == ["a", "d"]


def test_attempts_before_an_item_was_reopened_are_the_batchs_too_but_not_of_its_cycle(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    first = take(store, worker, batch)
    store.claims.complete_one(done(first, "failed", tokens=7))
    assert store.claims.reopen(first.work, batch) is not None
    take(store, worker, batch)
    (item,) = all_items(store, batch)
    assert [(one.number, one.current) for one in item.attempts] == [(1, False), (2, True)]
    assert (store.progress.spending(batch).attempts, store.progress.spending(batch).tokens) == (1, 7)


def test_what_others_did_with_an_item_before_it_was_reopened_is_not_the_batchs(store: Store) -> None:
    worker, old = a_worker(), fill(store, "a", name="old")
    store.claims.add_worker(worker)
    store.claims.complete_one(done(take(store, worker, old), tokens=7))
    batch = store.batches.create("b", "b", {}).id
    store.batches.add(batch, [Item(key="a", text="a", reopen=True)])
    (item,) = all_items(store, batch)
    assert (item.attempts, item.work.state) == ((), "ready")
    assert store.progress.spending(batch).attempts == 0


def test_the_speed_counts_work_that_was_done_and_nothing_that_was_cancelled(store: Store) -> None:
    batch, worker = fill(store, "a", "b", "c", "d"), a_worker()
    store.claims.add_worker(worker)
    assert store.progress.speed(batch, window=300, last=9).first is None
    first, second, third = (take(store, worker, batch) for _ in range(3))
    store.claims.complete_one(done(first))
    store.claims.fail(second, "no", limit=1)  # given up: it ended as well
    for key in ("c", "d"):  # one that was being worked on, and one that was not
        store.claims.cancel(key, key, {"status": "skipped", "outcome": "cancelled"}, "a person")
    speed = store.progress.speed(batch, window=300, last=9)
    assert (speed.ended, speed.recent, len(speed.last)) == (2, 2, 2)
    assert speed.first is not None
    assert speed.first <= speed.last[-1] <= speed.last[0] <= speed.now
    assert third.key == "c"


def test_unknown_spending_is_none_and_known_spending_says_of_how_many(store: Store) -> None:
    batch, worker = fill(store, "a", "b"), a_worker()
    store.claims.add_worker(worker)
    assert store.progress.spending(batch).tokens is None
    store.claims.complete_one(done(take(store, worker, batch)))
    store.claims.complete_one(done(take(store, worker, batch), tokens=3))
    spent = store.progress.spending(batch)
    assert (spent.attempts, spent.tokens, spent.tokens_known, spent.cost_usd, spent.cost_known) == (
        2, 3, 1, None, 0,
    )  # fmt: skip


def test_the_last_failures_are_the_newest_first(store: Store) -> None:
    batch, worker = fill(store, "a", "b", "c"), a_worker()
    store.claims.add_worker(worker)
    for status in ("failed", "success", "blocked"):
        store.claims.complete_one(done(take(store, worker, batch), status, status))
    assert [(one.key, one.state) for one in store.progress.failures(batch, 5)] == [
        ("c", "blocked"), ("a", "failed"),
    ]  # fmt: skip
    assert len(store.progress.failures(batch, 1)) == 1
    assert [(one.key, one.state) for one in store.progress.latest(batch, 5)] == [("b", "success")]


def test_all_that_is_held_is_named_in_a_batch_or_outside(store: Store) -> None:
    batch, worker, person = fill(store, "a"), a_worker(), a_worker("nic")
    store.claims.add_worker(worker)
    take(store, worker, batch)
    store.claims.claim(person, "t-9", "tasks/t-9.md")
    assert [(one.key, one.name, one.batch) for one in store.progress.held()] == [
        ("a", "w", batch), ("t-9", "nic", None),
    ]  # fmt: skip
    assert all(one.expires_in > 0 for one in store.progress.held())
    assert store.progress.took_part(batch, [worker.id, person.id, "nobody"]) == {worker.id}
    assert store.progress.took_part(batch, []) == set()


def test_ten_thousand_items_are_read_in_pages_and_none_is_missing(sqlite_db: Database) -> None:
    store = sqlite_db.open()
    batch = fill(store, *(f"k{n}" for n in range(5000)))
    assert [one.work.key for one in all_items(store, batch)] == [f"k{n}" for n in range(5000)]
