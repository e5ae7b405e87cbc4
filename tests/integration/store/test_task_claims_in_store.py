"""What the task service asks of the store: open claims, what crashes left in files, lock directories."""

from __future__ import annotations

from hypervisor.store.records import Claim, WorkerKind
from stores import Database, a_worker, done

REVERT = {"path": "/p/t.md", "keys": [], "lines": []}


def test_open_claims_are_told_with_their_items_and_holders(db: Database) -> None:
    store = db.open()
    one = a_worker("claude", WorkerKind.SESSION, session="s-1", agent="a1")
    two = a_worker("claude", WorkerKind.SESSION, session="s-1", agent="main")
    first = store.claims.claim(one, "k1", "tasks/1.md", revert=REVERT, lock="t-1")
    second = store.claims.claim(two, "k2", "tasks/2.md")
    assert isinstance(first, Claim)
    assert isinstance(second, Claim)
    held, other = store.claims.held_all()
    assert (held.key, held.text, held.cycle, held.number, held.lock) == ("k1", "tasks/1.md", 1, 1, "t-1")
    assert (held.worker, held.revert, held.claim) == (one, REVERT, first)
    assert (other.claim, other.lock) == (second, "")
    assert [one.key for one in store.claims.held_in_session("s-1")] == ["k1", "k2"]
    assert [one.key for one in store.claims.held_in_session("s-1", "main")] == ["k2"]
    assert store.claims.held_in_session("s-2") == store.claims.held_in_session("") == []
    store.claims.complete([done(first)])
    assert [one.key for one in store.claims.held_all()] == ["k2"]


def test_what_an_ended_claim_left_in_a_file_is_known_until_it_is_restored_or_claimed(db: Database) -> None:
    store, worker = db.open(), a_worker()
    first = store.claims.claim(worker, "k", "t.md", revert=REVERT)
    assert isinstance(first, Claim)
    assert store.claims.abandoned() == []
    store.claims.revoke(first.attempt, "silent")
    (left,) = store.claims.abandoned()
    assert (left.attempt, left.work, left.key, left.text, left.revert) == (
        first.attempt, first.work, "k", "t.md", REVERT,
    )  # fmt: skip
    second = store.claims.claim(worker, "k", "t.md", revert=REVERT)
    assert isinstance(second, Claim)
    assert store.claims.abandoned() == [], "the file is its holder's"
    store.claims.release(second, "x")
    assert [one.attempt for one in store.claims.abandoned()] == [first.attempt, second.attempt]
    store.claims.set_restored([first.attempt, second.attempt])
    assert store.claims.abandoned() == []


def test_what_has_its_result_leaves_nothing_to_restore(db: Database) -> None:
    store = db.open(attempts=1)
    claim = store.claims.claim(a_worker(), "k", "t.md", revert=REVERT)
    assert isinstance(claim, Claim)
    assert store.claims.revoke(claim.attempt, "silent") is not None
    assert store.claims.abandoned() == []
    ((work, at),) = store.claims.cycles("k")
    assert (work.state, work.published, at is not None) == ("failed", False, True)
    (attempt,) = store.claims.attempts("k")
    assert (attempt.work, attempt.batch, attempt.restored) == (work.id, None, False)


def test_lock_directories_are_ours_until_they_are_forgotten(db: Database) -> None:
    store, worker = db.open(), a_worker()
    claim = store.claims.claim(worker, "k", "t.md", lock="t-1")
    assert isinstance(claim, Claim)
    assert store.claims.recorded_locks(["t-1", "t-2"]) == {"t-1"}
    assert store.claims.locks_of_work(claim.work) == {claim.attempt: "t-1"}
    store.claims.release(claim, "x")
    assert store.claims.recorded_locks(["t-1"]) == {"t-1"}
    store.claims.forget_locks([claim.attempt])
    assert store.claims.recorded_locks(["t-1"]) == set()


def test_cycles_are_told_with_their_results(db: Database) -> None:
    store, worker = db.open(), a_worker()
    for number in (1, 2):
        claim = store.claims.claim(worker, "k", "t.md", reopen=True)
        assert isinstance(claim, Claim)
        store.claims.complete([done(claim, outcome=f"made {number}")])
    assert [work.result["outcome"] for work, _ in store.claims.cycles("k") if work.result] == [
        "made 1",
        "made 2",
    ]
    assert store.claims.cycles("unknown") == []
