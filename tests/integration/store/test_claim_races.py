"""Several sessions at one moment, on each engine. Nothing here waits in order to be on time."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from commands import eventually
from hypervisor.core.errors import ClaimLost, Loss
from hypervisor.store import batches, claim_rows, events
from hypervisor.store.base import NO_PARAMETERS, Parameters, Row, Transaction
from hypervisor.store.records import Accepted, Claim, Item
from hypervisor.store.store import Store
from stores import Database, a_worker, at_one_moment, done, fill, kinds, rows, take


class _Watched(Transaction):
    def __init__(self, tx: Transaction, before: Callable[[str], None]) -> None:
        self._tx, self._before = tx, before

    def run(self, statement: str, parameters: Parameters = NO_PARAMETERS) -> list[Row]:
        self._before(statement)
        return self._tx.run(statement, parameters)

    def each(self, statement: str, parameters: Iterable[Parameters]) -> list[Row]:
        self._before(statement)
        return self._tx.each(statement, parameters)


def before(store: Store, statement: str, act: Callable[[], object]) -> None:
    """Call *act* once, just before *store* executes *statement* for the first time."""
    write, acts = store.engine.write, [act]

    def watch(found: str) -> None:
        if found == statement and acts:
            acts.pop()()

    def watched(body: Callable[[Transaction], Any], *, durable: bool = False) -> Any:
        return write(lambda tx: body(_Watched(tx, watch)), durable=durable)

    store.engine.write = watched  # type: ignore[method-assign]


class Paused:
    """A call on another session that stands still before a statement until it is told to go on."""

    def __init__(self, store: Store, statement: str, call: Callable[[], Any]) -> None:
        self._there, self._on = threading.Event(), threading.Event()
        before(store, statement, self._stand)
        pool = ThreadPoolExecutor(1)
        self._future: Future[Any] = pool.submit(call)
        pool.shutdown(wait=False)
        assert self._there.wait(20)

    def _stand(self) -> None:
        self._there.set()
        assert self._on.wait(20)

    def go_on(self) -> Any:
        """Let it end; return what it returned."""
        self._on.set()
        return self._future.result(20)


def somebody_waits(store: Store) -> bool:
    """Return whether any session waits for a lock that another has."""
    return bool(rows(store, "SELECT 1 FROM pg_locks WHERE NOT granted LIMIT 1"))


# -------------------------------------------------------------------------------------- on both engines


def test_a_claim_is_exclusive_however_many_ask_at_once(db: Database) -> None:
    store = db.open()
    batch = fill(store, *(f"item-{number}" for number in range(150)))
    start = threading.Barrier(6)

    def work(number: int) -> list[Claim]:
        mine, worker = db.open(), a_worker(f"w{number}")
        mine.claims.add_worker(worker)
        start.wait()
        got: list[Claim] = []
        while found := mine.claims.claim_next(worker, batch, 3):
            answers = mine.claims.complete([done(claim, outcome=worker.id) for claim in found])
            assert all(isinstance(answer, Accepted) for answer in answers)
            got += found
        return got

    with ThreadPoolExecutor(6) as pool:
        claimed = [claim for part in pool.map(work, range(6)) for claim in part]
    assert Counter(claim.key for claim in claimed) == {f"item-{number}": 1 for number in range(150)}
    assert store.batches.census(batch)["success"] == 150


def test_of_many_who_ask_for_one_item_one_gets_it(db: Database) -> None:
    stores, start = [db.open() for _ in range(6)], threading.Barrier(6)

    def ask(store: Store) -> object:
        start.wait()
        return store.claims.claim(a_worker(), "the-item", "path")

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, stores))
    assert sum(isinstance(answer, Claim) for answer in answers) == 1


def test_of_many_ends_of_one_attempt_one_is_accepted(db: Database) -> None:
    stores, start, worker = [db.open() for _ in range(4)], threading.Barrier(4), a_worker()
    claim = stores[0].claims.claim(worker, "a", "a")
    assert isinstance(claim, Claim)

    def end(number: int) -> object:
        start.wait()
        claims = stores[number].claims
        if number == 3:
            return claims.revoke(claim.attempt, "judged")
        return claims.complete([done(claim, outcome=f"by {number}")])[0]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(end, range(4)))
    ended = [answer for answer in answers if answer is not None and not isinstance(answer, Loss)]
    assert len(ended) == 1


def test_bytes_that_two_read_at_once_are_taken_in_by_one(db: Database) -> None:
    stores, start = [db.open() for _ in range(4)], threading.Barrier(4)
    batch = fill(stores[0])

    def take_in(store: Store) -> bool:
        start.wait()
        return store.batches.take_in(batch, [Item(key=key, text=key) for key in "abc"], 0, 6, b"c\n")

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(take_in, stores)) == [False, False, False, True]
    assert [item.work.key for item in stores[0].batches.items(batch)] == ["a", "b", "c"]


def test_items_that_two_append_at_once_are_all_there(db: Database) -> None:
    stores, start = [db.open() for _ in range(4)], threading.Barrier(4)
    batch = fill(stores[0])

    def add(number: int) -> None:
        start.wait()
        for part in range(5):
            stores[number].batches.add(batch, [Item(key=f"{number}-{part}-{i}", text="") for i in range(4)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    assert stores[0].batches.census(batch)["queued"] == 4 * 5 * 4


def test_processes_that_create_the_store_at_one_moment_all_get_it(db: Database) -> None:
    assert at_one_moment(32, lambda number: fill(db.open(), f"item-{number}")) == [0] * 32
    (batch,) = db.open().batches.all()
    assert db.open().batches.census(batch.id)["ready"] == 32


def test_a_store_does_not_cross_a_fork(db: Database) -> None:
    store = db.open()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for act in (store.batches.all, lambda: store.batches.create("b", "", {}), store.engine.version):
                try:
                    act()
                except RuntimeError as error:
                    code = 0 if "after a fork" in str(error) else 2
                else:
                    code = 3
                    break
            store.close()  # closes nothing that is the parent's
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert fill(store, "a") == 1


def test_the_version_changes_when_another_session_has_written(db: Database) -> None:
    store, other = db.open(), db.open()
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    baseline = store.engine.version()
    take(other, worker, batch)
    changed = store.engine.version()
    assert changed != baseline
    other.batches.all()
    if (
        db.engine == "sqlite"
    ):  # elsewhere it is a hint: anything in the server's other databases changes it too
        assert store.engine.version() == changed


def test_what_is_read_is_as_of_one_moment_while_others_write(db: Database) -> None:
    store, writer, stop = db.open(), db.open(), threading.Event()
    batch, worker = fill(store, *"abcdefgh"), a_worker()
    store.claims.add_worker(worker)

    def churn() -> None:
        while not stop.is_set():
            for claim in writer.claims.claim_next(worker, batch, 8):
                writer.claims.release(claim, "again")

    with ThreadPoolExecutor(1) as pool:
        churning = pool.submit(churn)
        try:
            for _ in range(60):
                assert store.batches.census(batch)["queued"] == 8
        finally:
            stop.set()
        churning.result()


# ---------------------------------------------------- between two statements, which only PostgreSQL allows


def test_a_claim_that_is_not_committed_yet_is_passed_over(postgres_db: Database) -> None:
    one, two, worker = postgres_db.open(), postgres_db.open(), a_worker()
    batch = fill(one, *"abcd")
    one.claims.add_worker(worker)
    paused = Paused(two, claim_rows.SQL.open_attempts, lambda: two.claims.claim_next(worker, batch, 2))
    first = one.claims.claim_next(worker, batch, 9)
    assert [claim.key for claim in first] == ["c", "d"]
    assert [claim.key for claim in paused.go_on()] == ["a", "b"]


def test_an_item_that_is_given_back_between_two_looks_is_claimed(postgres_db: Database) -> None:
    one, two = postgres_db.open(), postgres_db.open()
    held = one.claims.claim(a_worker("one"), "a", "a")
    assert isinstance(held, Claim)
    before(two, claim_rows.SQL.holder, lambda: one.claims.release(held, "not now"))
    claim = two.claims.claim(a_worker("two"), "a", "a")
    assert isinstance(claim, Claim)
    assert claim.number == 2


def test_a_claim_made_while_its_item_is_cancelled_is_ended_too(postgres_db: Database) -> None:
    one, two, worker = postgres_db.open(), postgres_db.open(), a_worker()
    batch = fill(one, "a")
    one.claims.add_worker(worker)
    found: list[Claim] = []
    before(two, claim_rows.SQL.cancel, lambda: found.extend(one.claims.claim_next(worker, batch, 1)))
    cancelled = two.claims.cancel("a", "a", {"status": "skipped", "outcome": "cancelled"}, "nic")
    assert cancelled is not None
    with pytest.raises(ClaimLost, match="cancelled by nic"):
        one.claims.complete_one(done(found[0]))


def test_a_completion_that_a_revocation_precedes_is_lost(postgres_db: Database) -> None:
    one, two = postgres_db.open(), postgres_db.open()
    claim = one.claims.claim(a_worker(), "a", "a")
    assert isinstance(claim, Claim)
    before(one, claim_rows.SQL.lock_open, lambda: two.claims.revoke(claim.attempt, "judged"))
    with pytest.raises(ClaimLost, match="judged"):
        one.claims.complete_one(done(claim))


def test_a_revocation_waits_for_a_completion_that_came_first_and_finds_it(postgres_db: Database) -> None:
    one, two, three = postgres_db.open(), postgres_db.open(), postgres_db.open()
    claim = one.claims.claim(a_worker(), "a", "a")
    assert isinstance(claim, Claim)
    paused = Paused(one, claim_rows.SQL.decide, lambda: one.claims.complete_one(done(claim)))
    with ThreadPoolExecutor(1) as pool:
        revocation = pool.submit(two.claims.revoke, claim.attempt, "judged")
        eventually(lambda: somebody_waits(three), "the revocation to wait")
        paused.go_on()
        assert revocation.result() is None


def test_an_item_is_ready_in_a_batch_that_it_joins_while_it_changes_hands(postgres_db: Database) -> None:
    one, two, three, worker = postgres_db.open(), postgres_db.open(), postgres_db.open(), a_worker()
    batch = fill(one, "a", name="one")
    one.claims.add_worker(worker)
    claim = take(one, worker, batch)
    paused = Paused(one, claim_rows.SQL.ready_again, lambda: one.claims.release(claim, "not now"))
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(fill, two, "a", name="two")
        eventually(lambda: somebody_waits(three), "the second batch to wait")
        paused.go_on()
        second = joining.result()
    assert take(two, worker, second).number == 2


def test_items_that_are_appended_before_another_commits_take_other_places(postgres_db: Database) -> None:
    one, two, three = postgres_db.open(), postgres_db.open(), postgres_db.open()
    batch = fill(one)
    paused = Paused(one, batches.SQL.add_item, lambda: one.batches.add(batch, [Item(key="a", text="a")]))
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(two.batches.add, batch, [Item(key="b", text="b")])
        eventually(lambda: somebody_waits(three), "the second to wait")
        paused.go_on()
        adding.result()
    assert [item.work.key for item in one.batches.items(batch)] == ["a", "b"]


def test_an_item_that_two_reopen_at_once_has_one_next_cycle(postgres_db: Database) -> None:
    one, two, worker = postgres_db.open(), postgres_db.open(), a_worker()
    batch = fill(one, "a")
    one.claims.add_worker(worker)
    claim = take(one, worker, batch)
    one.claims.complete_one(done(claim))
    before(two, claim_rows.SQL.insert_work, lambda: take_after_reopening(one, worker, claim, batch))
    two.claims.reopen(claim.work, batch)
    assert kinds(list(one.events.since(0))).count("reopened") == 1


def take_after_reopening(store: Store, worker: Any, claim: Claim, batch: int) -> Claim:
    """Reopen an item and claim it at once."""
    assert store.claims.reopen(claim.work, batch) is not None
    return take(store, worker, batch)


def test_an_event_is_not_read_before_one_that_may_still_precede_it(postgres_db: Database) -> None:
    slow, fast = postgres_db.open(), postgres_db.open()
    batch = fill(fast)

    def two_events(tx: Transaction) -> None:
        event = {"kind": "slow", "batch": batch, "work": None, "attempt": None, "detail": "{}"}
        tx.run(events.SQL.add, event)  # it has the lower id, and is committed later
        tx.run(claim_rows.SQL.latest, {"key": ""})  # answered, so the server has that event
        tx.run(claim_rows.SQL.work, {"work": 0})

    paused = Paused(slow, claim_rows.SQL.work, lambda: slow.engine.write(two_events))
    fast.events.add("fast", batch=batch)
    assert kinds(list(fast.events.since(0))) == []
    assert fast.events.last() == 0
    paused.go_on()
    assert kinds(list(fast.events.since(0))) == ["slow", "fast"]
