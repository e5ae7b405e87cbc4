"""Questions in the store: a task whose agent asks waits at no cost, and an answer counts once."""

from __future__ import annotations

import pytest

from hypervisor.core.errors import ClaimLost, Refused, UsageError
from hypervisor.store.records import Claim
from hypervisor.store.store import Store
from stores import Database, a_worker, fill, take


@pytest.fixture
def store(db: Database) -> Store:
    """A store on each engine."""
    return db.open()


def ask(store: Store, batch: int, text: str = "Red or blue?") -> tuple[Claim, int]:
    worker = a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, batch)
    return claim, store.questions.ask(claim, "t-1", "claude", text, ["red"], place={"session": "s"})


def test_work_that_waits_for_an_answer_is_not_claimed_next_and_costs_no_attempt(store: Store) -> None:
    batch = fill(store, "a", "b")
    first, number = ask(store, batch)
    worker = a_worker()
    store.claims.add_worker(worker)
    assert [claim.key for claim in store.claims.claim_next(worker, batch, 5)] == ["b"]
    census = store.batches.census(batch)
    assert (census["queued"], census["ready"], census["running"]) == (2, 1, 1)
    store.questions.answer(number, "blue", "ann")
    (claim,) = store.claims.claim_next(worker, batch, 5)
    assert (claim.key, claim.number) == (first.key, 2)
    work = store.claims.latest("a")
    assert work is not None
    assert work.attempts == 0
    (asked,) = store.questions.of_work(claim.work)
    assert (asked.answer, asked.answered_by, asked.number, asked.place) == (
        "blue",
        "ann",
        1,
        {"session": "s"},
    )


def test_a_question_is_answered_once(store: Store) -> None:
    _, number = ask(store, fill(store, "a"))
    store.questions.answer(number, "blue", "ann")
    with pytest.raises(Refused, match="answered by ann: blue"):
        store.questions.answer(number, "red", "bob")
    with pytest.raises(UsageError, match="no such question"):
        store.questions.answer(number + 1, "red", "bob")
    assert store.questions.open() == []


def test_an_ended_attempt_asks_nothing(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, batch)
    store.claims.release(claim, "given back")
    with pytest.raises(ClaimLost):
        store.questions.ask(claim, "t-1", "claude", "Red or blue?")
    assert store.questions.open() == []
    assert store.claims.claim_next(worker, batch, 1)


def test_cancelled_work_needs_no_answer(store: Store) -> None:
    batch = fill(store, "a")
    _, number = ask(store, batch)
    assert store.questions.parked(batch) == {"t-1"}
    store.claims.cancel("a", "path/a", {"status": "skipped"}, "ann")
    assert store.questions.parked(batch) == set()
    with pytest.raises(Refused, match="needs no answer"):
        store.questions.answer(number, "blue", "ann")
