"""What the store promises of claims, attempts and results: one suite, run on each engine (docs/store.md)."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from hypervisor.core.errors import ClaimLost, Loss
from hypervisor.store.base import NO_PARAMETERS, Parameters, Row
from hypervisor.store.records import Accepted, Claim, Decided, Held, Item, WorkerKind
from hypervisor.store.store import Store
from stores import Database, a_worker, done, fill, kinds, rows, take

RESULT = {"status": "success", "outcome": "ok"}


@pytest.fixture
def store(db: Database) -> Store:
    """A store on each engine."""
    return db.open()


# ------------------------------------------------------------------------------------------- claiming


def test_items_are_claimed_by_priority_and_then_in_the_order_of_the_queue(store: Store) -> None:
    batch = fill(store)
    store.batches.add(
        batch,
        [
            Item(key=key, text=key, priority=priority)
            for key, priority in zip("abcd", (2, 0, 2, 0), strict=True)
        ],
    )
    worker = a_worker()
    store.claims.add_worker(worker)
    assert [claim.key for claim in store.claims.claim_next(worker, batch, 3)] == ["b", "d", "a"]
    assert [claim.key for claim in store.claims.claim_next(worker, batch, 3)] == ["c"]
    assert store.claims.claim_next(worker, batch, 3) == []


def test_a_claim_bears_the_items_text_and_its_first_number(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, batch)
    assert (claim.key, claim.text, claim.cycle, claim.number, claim.worker) == (
        "a",
        "path/a",
        1,
        1,
        worker.id,
    )


def test_text_that_is_not_unicode_comes_back_as_it_was(store: Store) -> None:
    text = b"caf\xe9/\x00\x01".decode("utf-8", "surrogateescape")
    claim = store.claims.claim(a_worker(), "k", text)
    assert isinstance(claim, Claim)
    assert claim.text == text


def test_a_work_has_at_most_one_open_attempt(store: Store) -> None:
    batch, one, two = fill(store, "a"), a_worker("one"), a_worker("two")
    store.claims.add_worker(two)
    first = store.claims.claim(one, "a", "path/a")
    assert isinstance(first, Claim)
    assert store.claims.claim_next(two, batch, 5) == []
    held = store.claims.claim(two, "a", "path/a")
    assert isinstance(held, Held)
    assert (held.attempt, held.number, held.worker.id) == (first.attempt, 1, one.id)
    with pytest.raises(Exception, match=r"(?i)unique"):
        store.engine.write(
            lambda tx: tx.run(
                "INSERT INTO attempt (work, number, worker, claimed_at, lease_until)"
                " VALUES (:w, 99, 'x', 0, 0)",
                {"w": first.work},
            )
        )


def test_an_item_of_two_batches_is_claimed_once_and_counts_in_both(store: Store) -> None:
    one, two, worker = fill(store, "a", name="one"), fill(store, "a", name="two"), a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, one)
    assert store.claims.claim_next(worker, two, 1) == []
    store.claims.complete([done(claim)])
    assert store.batches.census(one)["success"] == store.batches.census(two)["success"] == 1


def test_an_item_that_is_added_while_it_runs_elsewhere_becomes_ready_there_too(store: Store) -> None:
    one, worker = fill(store, "a", name="one"), a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, one)
    two = fill(store, "a", name="two")
    assert store.claims.claim_next(worker, two, 1) == []
    store.claims.release(claim, "not now")
    assert take(store, worker, two).number == 2


def test_what_the_claim_changed_is_kept_with_it_and_told_to_others(store: Store) -> None:
    store.claims.claim(a_worker(), "a", "a", revert={"status": "active"})
    held = store.claims.claim(a_worker(), "a", "a")
    assert isinstance(held, Held)
    assert held.revert == {"status": "active"}


# --------------------------------------------------------------------------------------------- results


def test_a_completion_is_the_items_result(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, batch)
    assert store.claims.complete_one(done(claim)) == Accepted(work=claim.work, result=RESULT)
    latest = store.claims.latest("a")
    assert latest is not None
    assert (latest.state, latest.result, latest.published) == ("success", RESULT, True)
    again = store.claims.claim(worker, "a", "path/a")
    assert again == Decided(work=claim.work, cycle=1, result=RESULT)


def test_a_cycle_has_at_most_one_accepted_completion(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    lost = take(store, worker, batch)
    store.claims.revoke(lost.attempt, "silent")
    winner = take(store, worker, batch)
    answers = store.claims.complete([done(lost, outcome="late"), done(winner), done(lost, "failed")])
    assert [type(answer) for answer in answers] == [Loss, Accepted, Loss]
    assert rows(store, "SELECT count(*) FROM attempt WHERE outcome = 'success'") == [(1,)]


def test_a_lost_attempt_never_wins_later(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    lost = take(store, worker, batch)
    store.claims.revoke(lost.attempt, "silent")
    for _ in range(2):
        with pytest.raises(ClaimLost, match="revoked: silent"):
            store.claims.complete_one(done(lost))
    winner = take(store, worker, batch)
    with pytest.raises(ClaimLost):
        store.claims.complete_one(done(lost))
    store.claims.complete_one(done(winner))
    with pytest.raises(ClaimLost, match=r"finished as success by attempt 2"):
        store.claims.complete_one(done(lost))


def test_an_ended_attempt_changes_nothing(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    ended = take(store, worker, batch)
    store.claims.release(ended, "not mine")
    before = [
        rows(store, f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("work", "attempt", "batch_item")
    ]
    for act in (
        lambda: store.claims.complete_one(done(ended)),
        lambda: store.claims.fail(ended, "again"),
        lambda: store.claims.release(ended, "again"),
        lambda: store.claims.set_revert(ended, {"a": 1}),
        lambda: store.claims.set_log(ended, "log"),
    ):
        with pytest.raises(ClaimLost) as caught:
            act()
        assert (caught.value.loss.reason, caught.value.loss.detail) == ("released", "not mine")
    assert store.claims.renew([ended.attempt]) == {ended.attempt}
    assert store.claims.revoke(ended.attempt, "late") is None
    after = [
        rows(store, f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("work", "attempt", "batch_item")
    ]
    assert after == before


def test_a_result_never_changes(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, batch)
    store.claims.complete_one(done(claim))
    with pytest.raises(ClaimLost, match="ended as success"):
        store.claims.complete_one(done(claim, "failed", "changed my mind"))
    with pytest.raises(ClaimLost):
        store.claims.fail(claim, "changed my mind")
    assert store.claims.revoke(claim.attempt, "too late") is None
    assert store.claims.work(claim.work).result == RESULT


def test_a_completion_that_is_repeated_is_answered_as_the_first(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, batch)
    first = store.claims.complete_one(done(claim))
    last = store.events.last()
    assert store.claims.complete_one(done(claim)) == first
    store.claims.reopen(claim.work)
    assert store.claims.complete_one(done(claim)) == first
    assert kinds(list(store.events.since(last))) == ["reopened"]


def test_of_two_ends_of_one_attempt_in_one_call_the_first_counts(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, batch)
    answers = store.claims.complete([done(claim), done(claim, "failed"), done(claim)])
    assert [type(answer) for answer in answers] == [Accepted, Loss, Accepted]
    assert store.claims.work(claim.work).result == RESULT


def test_many_are_completed_in_one_call_each_with_its_own_answer(store: Store) -> None:
    batch, worker = fill(store, *"abcde"), a_worker()
    store.claims.add_worker(worker)
    claims = store.claims.claim_next(worker, batch, 5)
    store.claims.revoke(claims[2].attempt, "silent")
    answers = store.claims.complete([done(claim, outcome=claim.key) for claim in claims])
    assert [answer.result["outcome"] if isinstance(answer, Accepted) else "" for answer in answers] == [
        "a", "b", "", "d", "e",
    ]  # fmt: skip


def test_an_unknown_attempt_is_a_loss(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, batch)
    store.claims.unclaim([claim])
    with pytest.raises(ClaimLost) as caught:
        store.claims.complete_one(done(claim))
    assert caught.value.loss.reason == "unknown"
    assert take(store, worker, batch).attempt != claim.attempt, "the id of a forgotten attempt was used again"


def test_tokens_cost_and_log_of_an_attempt_are_kept(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, batch)
    store.claims.set_log(claim, "logs/a-1.log")
    store.claims.complete_one(done(claim, tokens=31_000, cost_usd=0.09))
    (attempt,) = store.claims.attempts("a")
    assert (attempt.tokens, attempt.cost_usd, attempt.log) == (31_000, 0.09, "logs/a-1.log")


# --------------------------------------------------------------------------------- attempts and limits


def test_counted_attempts_are_limited(db: Database) -> None:
    store, worker = db.open(attempts=2), a_worker()
    batch = fill(store, "a")
    store.claims.add_worker(worker)
    assert store.claims.fail(take(store, worker, batch), "exit 1") is None
    gave_up = store.claims.fail(take(store, worker, batch), "exit 2")
    assert gave_up is not None
    assert gave_up.gave_up
    assert gave_up.result["outcome"] == "gave up after 2 attempts: attempt 1: exit 1; attempt 2: exit 2"
    assert store.claims.claim_next(worker, batch, 1) == []
    assert store.batches.census(batch)["failed"] == 1


def test_a_release_costs_no_attempt_and_gives_no_item_up(db: Database) -> None:
    store, worker = db.open(attempts=1), a_worker()
    batch = fill(store, "a")
    store.claims.add_worker(worker)
    for number in (1, 3, 5):
        claim = take(store, worker, batch)
        assert claim.number == number
        store.claims.release(claim, "draining")
        assert store.claims.fail(take(store, worker, batch), "rate limit", counted=False) is None
    assert store.claims.work(claim.work).attempts == 0


def test_a_claim_that_was_never_begun_leaves_no_trace_but_its_events(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, batch)
    store.claims.unclaim([claim])
    assert store.claims.attempts("a") == []
    assert take(store, worker, batch).number == claim.number


def test_a_limit_that_was_lowered_meanwhile_does_not_make_a_release_cost(db: Database) -> None:
    generous, strict, worker = db.open(attempts=5), db.open(attempts=1), a_worker()
    batch = fill(generous, "a")
    generous.claims.add_worker(worker)
    generous.claims.fail(take(generous, worker, batch), "exit 1")
    strict.claims.release(take(strict, worker, batch), "draining")
    assert strict.batches.census(batch)["ready"] == 1


def test_a_limit_of_the_call_takes_the_place_of_the_stores(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    gave_up = store.claims.fail(take(store, worker, batch), "hopeless", limit=1)
    assert gave_up is not None
    assert gave_up.result["status"] == "failed"


def test_numbers_rise_over_attempts_and_cycles(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    store.claims.release(take(store, worker, batch), "once")
    claim = take(store, worker, batch)
    store.claims.complete_one(done(claim))
    store.claims.reopen(claim.work, batch)
    assert [take(store, worker, batch).number] == [3]
    assert [attempt.number for attempt in store.claims.attempts("a")] == [1, 2, 3]


def test_a_delayed_item_is_not_returned_before_its_time(store: Store) -> None:
    batch, worker = fill(store, "a", "b"), a_worker()
    store.claims.add_worker(worker)
    store.claims.release(take(store, worker, batch), "rate limit", delay=3600)
    assert take(store, worker, batch).key == "b"
    assert store.claims.claim_next(worker, batch, 1) == []
    wait = store.batches.ready_in(batch)
    assert wait is not None
    assert 3590 < wait <= 3600
    assert isinstance(store.claims.claim(worker, "a", "path/a"), Claim), "who asks for it by name gets it"


def test_a_delay_that_is_over_holds_nothing_back(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    store.claims.release(take(store, worker, batch), "rate limit", delay=3600)
    store.engine.write(lambda tx: tx.run("UPDATE work SET not_before = 1"))
    assert store.batches.ready_in(batch) == 0.0
    assert take(store, worker, batch).number == 2


# ------------------------------------------------------------------------------------ cycles and cancel


def test_a_reopened_item_begins_the_next_cycle(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    first = take(store, worker, batch)
    store.claims.complete_one(done(first))
    fresh = store.claims.reopen(first.work, batch)
    assert fresh is not None
    assert (fresh.cycle, fresh.state) == (2, "ready")
    assert store.claims.reopen(first.work, batch) is None, "reopened once only"
    second = take(store, worker, batch)
    assert second.cycle == 2
    with pytest.raises(ClaimLost):
        store.claims.complete_one(done(first, "failed"))
    store.claims.complete_one(done(second, "blocked"))
    assert store.claims.work(first.work).result == RESULT, "the first cycle's result stands"


def test_only_a_published_result_is_followed_by_another_cycle(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, batch)
    assert store.claims.reopen(claim.work) is None
    store.claims.complete_one(done(claim, published=False))
    assert store.claims.reopen(claim.work) is None
    assert isinstance(store.claims.claim(worker, "a", "a", reopen=True), Decided)
    store.claims.set_published([claim.work])
    again = store.claims.claim(worker, "a", "a", reopen=True)
    assert isinstance(again, Claim)
    assert again.cycle == 2


def test_another_batch_keeps_the_result_of_the_cycle_it_was_about(store: Store) -> None:
    one, two, worker = fill(store, "a", name="one"), fill(store, "a", name="two"), a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, one)
    store.claims.complete_one(done(claim))
    store.claims.reopen(claim.work, one)
    assert store.batches.census(one)["ready"] == 1
    assert store.batches.census(two)["success"] == 1


def test_cancel_ends_an_item_whoever_holds_it(store: Store) -> None:
    batch, worker = fill(store, "a", "b"), a_worker()
    store.claims.add_worker(worker)
    held = take(store, worker, batch)
    result = {"status": "skipped", "outcome": "cancelled"}
    for key in ("a", "b"):
        cancelled = store.claims.cancel(key, f"path/{key}", result, "nic")
        assert cancelled is not None
        assert (cancelled.state, cancelled.result) == ("skipped", result)
    with pytest.raises(ClaimLost, match="cancelled by nic"):
        store.claims.complete_one(done(held))
    assert store.claims.claim_next(worker, batch, 2) == []
    assert store.batches.census(batch)["skipped"] == 2


def test_cancel_leaves_an_unpublished_result_alone(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, batch)
    store.claims.complete_one(done(claim, published=False))
    assert store.claims.cancel("a", "path/a", {"status": "skipped", "outcome": "cancelled"}, "nic") is None
    assert store.claims.work(claim.work).result == RESULT


def test_an_item_that_nobody_knew_is_cancelled_too(store: Store) -> None:
    cancelled = store.claims.cancel("new", "new", {"status": "skipped", "outcome": "cancelled"}, "nic")
    assert cancelled is not None
    assert isinstance(store.claims.claim(a_worker(), "new", "new"), Decided)


# ----------------------------------------------------------------------------------- revoke and silence


def test_a_revoked_attempt_is_counted_and_its_reason_kept(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, batch)
    revoked = store.claims.revoke(claim.attempt, "by hand")
    assert revoked is not None
    assert (revoked.attempt, revoked.text, revoked.gave_up) == (claim.attempt, "path/a", False)
    loss = store.claims.loss(claim.attempt)
    assert loss is not None
    assert (loss.reason, loss.detail) == ("revoked", "by hand")
    assert store.claims.work(claim.work).attempts == 1


def test_only_silence_longer_than_the_lease_is_swept(db: Database) -> None:
    patient, hasty, worker = db.open(), db.open(lease_seconds=-1), a_worker(kind=WorkerKind.LEASE)
    batch = fill(patient, "a", "b")
    patient.claims.add_worker(worker)
    silent, heard = take(hasty, worker, batch), take(patient, worker, batch)
    assert [revoked.attempt for revoked in patient.claims.sweep_silent()] == [silent.attempt]
    assert patient.claims.sweep_silent() == []
    with pytest.raises(ClaimLost, match="silent"):
        hasty.claims.complete_one(done(silent))
    patient.claims.complete_one(done(heard))


def test_a_renewed_lease_is_not_swept(db: Database) -> None:
    patient, hasty, worker = db.open(), db.open(lease_seconds=-1), a_worker(kind=WorkerKind.LEASE)
    batch = fill(patient, "a")
    patient.claims.add_worker(worker)
    claim = take(hasty, worker, batch)
    assert patient.claims.renew([claim.attempt]) == set()
    assert patient.claims.sweep_silent() == []


def test_a_lease_that_is_renewed_while_it_is_swept_is_kept(db: Database) -> None:
    patient, hasty, worker = db.open(), db.open(lease_seconds=-1), a_worker(kind=WorkerKind.LEASE)
    batch = fill(patient, "a")
    patient.claims.add_worker(worker)
    claim, sweeper = take(hasty, worker, batch), db.open()
    read = sweeper.engine.read

    def read_and_then_renew(statement: str, parameters: Parameters = NO_PARAMETERS) -> list[Row]:
        found = read(statement, parameters)
        assert found == [(claim.attempt,)]
        patient.claims.renew([claim.attempt])
        return found

    sweeper.engine.read = read_and_then_renew  # type: ignore[method-assign]
    assert sweeper.claims.sweep_silent() == []
    patient.claims.complete_one(done(claim))


def test_a_sweep_takes_a_bounded_number(db: Database) -> None:
    hasty, worker = db.open(lease_seconds=-1), a_worker(kind=WorkerKind.LEASE)
    batch = fill(hasty, *"abcde")
    hasty.claims.add_worker(worker)
    hasty.claims.claim_next(worker, batch, 5)
    assert [len(hasty.claims.sweep_silent(limit=3)) for _ in range(3)] == [3, 2, 0]


def test_attempts_that_are_lost_to_silence_use_up_the_limit(db: Database) -> None:
    hasty, worker = db.open(lease_seconds=-1, attempts=2), a_worker(kind=WorkerKind.LEASE)
    batch = fill(hasty, "a")
    hasty.claims.add_worker(worker)
    found = []
    for _ in range(2):
        take(hasty, worker, batch)
        found += hasty.claims.sweep_silent()
    assert [revoked.gave_up for revoked in found] == [False, True]
    assert hasty.batches.census(batch)["failed"] == 1


# ------------------------------------------------------------------------------------------ task files


def test_an_unpublished_result_is_told_until_it_is_published(store: Store) -> None:
    batch, worker = fill(store, "a", "b"), a_worker()
    store.claims.add_worker(worker)
    first, second = store.claims.claim_next(worker, batch, 2)
    store.claims.complete([done(first, published=False), done(second)])
    ((work, result),) = store.claims.unpublished()
    assert (work.id, work.text, result) == (first.work, "path/a", RESULT)
    store.claims.set_published([first.work])
    assert store.claims.unpublished() == []


def test_an_item_that_is_given_up_is_published_like_any_result(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    store.claims.fail(take(store, worker, batch), "exit 1", limit=1)
    assert [result["gave_up"] for _, result in store.claims.unpublished()] == [True]


def test_work_without_a_result_cannot_be_published(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, batch)
    store.claims.set_published([claim.work])
    assert not store.claims.work(claim.work).published


def test_an_attempt_without_a_result_is_unrestored_until_it_is_restored(store: Store) -> None:
    worker = a_worker()
    claim = store.claims.claim(worker, "a", "a", revert={"status": "inbox"})
    assert isinstance(claim, Claim)
    assert store.claims.unrestored(claim.work) == []
    store.claims.revoke(claim.attempt, "dead")
    assert store.claims.unrestored(claim.work) == [(claim.attempt, {"status": "inbox"})]
    store.claims.set_restored([claim.attempt])
    assert store.claims.unrestored(claim.work) == []


# ------------------------------------------------------------------------------------- batches, events


def test_the_census_closes(db: Database) -> None:
    store, worker = db.open(attempts=1), a_worker()
    batch = fill(store, *"abcdefg")
    store.claims.add_worker(worker)
    claims = store.claims.claim_next(worker, batch, 5)
    store.claims.complete([done(claims[0]), done(claims[1], "blocked"), done(claims[2], "skipped")])
    store.claims.fail(claims[3], "exit 1")
    assert store.batches.census(batch) == {
        "queued": 7, "success": 1, "blocked": 1, "failed": 1, "skipped": 1, "running": 1, "ready": 2,
    }  # fmt: skip


def test_an_item_is_in_a_batch_once(store: Store) -> None:
    batch = fill(store, "a", "b", "a")
    fill(store, "b", "c")
    assert [item.work.key for item in store.batches.items(batch)] == ["a", "b", "c"]


def test_an_item_that_has_its_result_is_not_ready_in_a_later_batch(store: Store) -> None:
    one, worker = fill(store, "a", name="one"), a_worker()
    store.claims.add_worker(worker)
    store.claims.complete_one(done(take(store, worker, one)))
    two = fill(store, "a", name="two")
    assert store.claims.claim_next(worker, two, 1) == []
    assert store.batches.census(two)["success"] == 1
    three = fill(store, "a", name="three", reopen=True)
    assert take(store, worker, three).cycle == 2


def test_bytes_of_a_queue_are_taken_in_once(db: Database) -> None:
    one, two = db.open(), db.open()
    batch = fill(one)
    items = [Item(key=key, text=key) for key in "ab"]
    assert one.batches.take_in(batch, items, 0, 4, b"b\n")
    assert not two.batches.take_in(batch, items, 0, 4, b"b\n"), "by another that read the same bytes"
    assert two.batches.take_in(batch, [Item(key="c", text="c")], 4, 6, b"c\n")
    record = one.batches.get(batch)
    assert (record.queue_offset, record.queue_tail) == (6, b"c\n")
    assert [item.work.key for item in one.batches.items(batch)] == ["a", "b", "c"]


def test_a_drain_is_seen_by_all(db: Database) -> None:
    one, two = db.open(), db.open()
    batch = fill(one)
    assert two.batches.get(batch).drain_at is None
    one.batches.drain(batch)
    assert two.batches.get(batch).drain_at is not None


def test_each_transition_leaves_its_event_in_order(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    store.claims.release(take(store, worker, batch), "not now")
    store.claims.revoke(take(store, worker, batch).attempt, "dead")
    claim = take(store, worker, batch)
    store.claims.complete_one(done(claim))
    store.claims.reopen(claim.work, batch)
    store.claims.cancel("a", "a", {"status": "skipped", "outcome": "no"}, "nic")
    events = list(store.events.since(0))
    assert kinds(events) == [
        "claimed", "released", "claimed", "revoked", "claimed", "completed", "reopened", "cancelled",
    ]  # fmt: skip
    assert [event.id for event in events] == sorted({event.id for event in events})
    assert [event.detail for event in events[:2]] == [worker.id, "not now"]
    assert {event.key for event in events} == {"a"}
    assert list(store.events.since(store.events.last())) == []


def test_a_transition_that_is_refused_leaves_no_event(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, batch)
    store.claims.complete_one(done(claim))
    last = store.events.last()
    with pytest.raises(ClaimLost):
        store.claims.release(claim, "late")
    store.claims.claim(worker, "a", "a")
    store.claims.sweep_silent()
    assert store.events.last() == last


def test_a_batch_is_made_once(db: Database) -> None:
    one, two = db.open(), db.open()
    first = one.batches.create("b", "/folder", {"base": "/x"})
    assert two.batches.create("b", "/elsewhere", {"base": "/y"}) == first


# ------------------------------------------------------------------------------------------- durability

_COMPLETE_AND_TELL = """
import os, signal, sys
from stores import Database, a_worker, done, fill, take
from pathlib import Path
store = Database(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]).open()
batch, worker = fill(store, "a", "b"), a_worker("killed")
store.claims.add_worker(worker)
first, second = take(store, worker, batch), take(store, worker, batch)
store.claims.complete_one(done(first))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_accepted_result_survives_kill_9_and_so_does_what_else_was_committed(db: Database) -> None:
    command = [sys.executable, "-c", _COMPLETE_AND_TELL, db.engine, str(db.folder), db.url, db.schema]
    path = ":".join(entry for entry in sys.path if entry)
    ended = subprocess.run(command, env={"PYTHONPATH": path}, check=False)
    assert ended.returncode == -signal.SIGKILL
    store = db.open()
    (batch,) = store.batches.all()
    assert store.batches.census(batch.id)["success"] == 1
    assert store.batches.census(batch.id)["running"] == 1, "its claim is there until somebody rescues it"
    assert [revoked.text for revoked in store.rescuer.rescue()] == ["path/b"]


def test_a_late_second_reopening_of_a_cycle_begins_nothing(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    first = take(store, worker, batch)
    store.claims.complete_one(done(first))
    store.claims.reopen(first.work, batch)
    store.claims.complete_one(done(take(store, worker, batch)))
    assert store.claims.reopen(first.work, batch) is None, "the batch has gone on from this cycle"
    latest = store.claims.latest("a")
    assert latest is not None
    assert latest.cycle == 2
