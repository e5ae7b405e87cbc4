"""Any order of calls, over several connections, answered as a small model in memory answers; on each engine.

``CLAIMS_EXAMPLES=1000`` tries more.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from hypervisor.core.errors import ClaimLost
from hypervisor.store.records import Accepted, Claim, Completion, Decided, Held, Item
from hypervisor.store.store import Store
from stores import Database, a_worker

LIMIT = 2
STATUSES = ("success", "blocked", "failed", "skipped")
EXAMPLES = int(os.environ.get("CLAIMS_EXAMPLES", "0"))
#: No two examples share a key, so that they can share a database.
_examples = itertools.count()


@dataclass
class Cycle:
    """One cycle of an item."""

    key: str
    state: str = "ready"
    result: dict[str, object] | None = None
    published: bool = False
    counted: int = 0
    #: The open attempt.
    attempt: int | None = None


@dataclass
class Model:
    """What the store ought to hold."""

    cycles: dict[str, list[Cycle]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    #: For each batch its items in order, and how urgent each is.
    batches: dict[int, list[tuple[int, Cycle]]] = field(default_factory=dict)
    #: For each attempt ever made its cycle, its worker, and the completion that ended it.
    attempts: dict[int, tuple[Cycle, int]] = field(default_factory=dict)
    accepted: dict[int, dict[str, object]] = field(default_factory=dict)

    def latest(self, key: str, *, reopen: bool = False) -> Cycle:
        """Return the latest cycle of an item, made where `store.claims.ready_work` makes it."""
        cycles = self.cycles.setdefault(key, [])
        if not cycles or (reopen and cycles[-1].result is not None and cycles[-1].published):
            cycles.append(Cycle(key))
        return cycles[-1]

    def ready(self, batch: int) -> list[Cycle]:
        """Return what may be claimed, the most urgent first."""
        items = sorted(enumerate(self.batches[batch]), key=lambda one: (one[1][0], one[0]))
        return [cycle for _, (_, cycle) in items if cycle.state == "ready"]

    def open(self, cycle: Cycle, attempt: int, worker: int) -> int:
        """Note a claim; return its number."""
        assert cycle.state == "ready"
        assert attempt not in self.attempts, "an id was used again"
        cycle.state, cycle.attempt = "running", attempt
        self.attempts[attempt] = (cycle, worker)
        self.numbers[cycle.key] = self.numbers.get(cycle.key, 0) + 1
        return self.numbers[cycle.key]

    def give_back(self, cycle: Cycle, *, counted: bool) -> bool:
        """Note that an open attempt ended without a result; return whether the item was given up."""
        cycle.attempt = None
        cycle.counted += counted
        gave_up = counted and cycle.counted >= LIMIT
        cycle.state = "failed" if gave_up else "ready"
        if gave_up:
            cycle.result, cycle.published = {"gave_up": True}, False
        return gave_up

    def is_open(self, attempt: int) -> bool:
        """Return whether an attempt is open."""
        return self.attempts[attempt][0].attempt == attempt


class Machine(RuleBasedStateMachine):
    """Calls on three connections by three workers, compared with the model."""

    claims = Bundle("claims")

    def __init__(self, stores: list[Store]) -> None:
        super().__init__()
        self.stores, self.model = stores, Model()
        self.example = next(_examples)
        self.workers = [a_worker(f"w{number}") for number in range(3)]
        for worker in self.workers:
            stores[0].claims.add_worker(worker)
        self.batch_ids = []
        for name in "ab":
            batch = stores[0].batches.create(f"{self.example}-{name}", "", {})
            self.batch_ids.append(batch.id)
            self.model.batches[batch.id] = []

    def key(self, number: int) -> str:
        """Return the key of an item of this example."""
        return f"{self.example}-{number}"

    connections = st.integers(0, 2)
    workers_ = st.integers(0, 2)
    items = st.integers(0, 4)
    which = st.integers(0, 1)

    @rule(on=connections, batch=which, item=items, priority=st.integers(0, 3), reopen=st.booleans())
    def add(self, on: int, batch: int, item: int, priority: int, reopen: bool) -> None:
        """Put an item into a batch."""
        id_, key = self.batch_ids[batch], self.key(item)
        self.stores[on].batches.add(id_, [Item(key=key, text=key, priority=priority, reopen=reopen)])
        if any(cycle.key == key for _, cycle in self.model.batches[id_]):
            return
        self.model.batches[id_].append((priority, self.model.latest(key, reopen=reopen)))

    @rule(target=claims, on=connections, by=workers_, batch=which)
    def claim_next(self, on: int, by: int, batch: int) -> object:
        """Claim the most urgent item."""
        id_ = self.batch_ids[batch]
        expected = self.model.ready(id_)[:1]
        found = self.stores[on].claims.claim_next(self.workers[by], id_, 1)
        assert [claim.key for claim in found] == [cycle.key for cycle in expected]
        for claim, cycle in zip(found, expected, strict=True):
            assert claim.number == self.model.open(cycle, claim.attempt, by)
        return found[0] if found else None

    @rule(on=connections, by=workers_, batch=which, count=st.integers(2, 4))
    def claim_many_and_forget_them(self, on: int, by: int, batch: int, count: int) -> None:
        """Claim several items; give them back as not begun."""
        id_ = self.batch_ids[batch]
        expected = self.model.ready(id_)[:count]
        store = self.stores[on]
        found = store.claims.claim_next(self.workers[by], id_, count)
        assert [claim.key for claim in found] == [cycle.key for cycle in expected]
        store.claims.unclaim(found)

    @rule(target=claims, on=connections, by=workers_, item=items, reopen=st.booleans())
    def claim(self, on: int, by: int, item: int, reopen: bool) -> object:
        """Claim an item by its key."""
        key = self.key(item)
        found = self.stores[on].claims.claim(self.workers[by], key, key, reopen=reopen)
        cycle = self.model.latest(key, reopen=reopen)
        if cycle.state == "ready":
            assert isinstance(found, Claim)
            assert found.number == self.model.open(cycle, found.attempt, by)
            assert found.cycle == len(self.model.cycles[key])
            return found
        if cycle.state == "running":
            assert isinstance(found, Held)
            assert found.attempt == cycle.attempt
        else:
            assert isinstance(found, Decided)
        return None

    @rule(on=connections, claim=claims, status=st.sampled_from(STATUSES), published=st.booleans())
    def complete(self, on: int, claim: Claim | None, status: str, published: bool) -> None:
        """Complete an attempt, be it open or not."""
        if claim is None:
            return
        result: dict[str, object] = {"status": status}
        one = Completion(attempt=claim.attempt, status=status, result=result, published=published)
        (answer,) = self.stores[on].claims.complete([one])
        cycle, _ = self.model.attempts[claim.attempt]
        if self.model.is_open(claim.attempt):
            assert isinstance(answer, Accepted)
            cycle.state, cycle.result, cycle.published, cycle.attempt = status, result, published, None
            self.model.accepted[claim.attempt] = result
        else:
            assert isinstance(answer, Accepted) == (self.model.accepted.get(claim.attempt) == result)

    @rule(on=connections, claim=claims, counted=st.booleans())
    def fail(self, on: int, claim: Claim | None, counted: bool) -> None:
        """Give an item back."""
        if claim is None:
            return
        cycle, _ = self.model.attempts[claim.attempt]
        try:
            gave_up = self.stores[on].claims.fail(claim, "again", counted=counted)
        except ClaimLost:
            assert not self.model.is_open(claim.attempt)
        else:
            assert self.model.is_open(claim.attempt)
            assert (gave_up is not None) == self.model.give_back(cycle, counted=counted)

    @rule(on=connections, claim=claims)
    def renew(self, on: int, claim: Claim | None) -> None:
        """Renew a lease."""
        if claim is not None:
            lost = self.stores[on].claims.renew([claim.attempt])
            assert (lost == set()) == self.model.is_open(claim.attempt)

    @rule(on=connections, claim=consumes(claims))
    def revoke(self, on: int, claim: Claim | None) -> None:
        """Revoke an attempt."""
        if claim is None:
            return
        cycle, _ = self.model.attempts[claim.attempt]
        revoked = self.stores[on].claims.revoke(claim.attempt, "judged")
        assert (revoked is not None) == self.model.is_open(claim.attempt)
        if revoked is not None:
            assert revoked.gave_up == self.model.give_back(cycle, counted=True)

    @rule(on=connections, of=workers_)
    def worker_dies(self, on: int, of: int) -> None:
        """Take over what a worker holds."""
        held = [
            attempt
            for attempt, (_, by) in self.model.attempts.items()
            if by == of and self.model.is_open(attempt)
        ]
        revoked = self.stores[on].claims.revoke_worker(self.workers[of].id, "dead")
        assert sorted(one.attempt for one in revoked) == sorted(held)
        for attempt in held:
            self.model.give_back(self.model.attempts[attempt][0], counted=True)

    @rule(on=connections, item=items)
    def cancel(self, on: int, item: int) -> None:
        """Cancel an item."""
        key = self.key(item)
        result = {"status": "skipped", "outcome": "cancelled"}
        done = self.stores[on].claims.cancel(key, key, result, "nic")
        cycle = self.model.latest(key, reopen=True)
        assert (done is not None) == (cycle.result is None)
        if done is not None:
            cycle.state, cycle.result, cycle.published, cycle.attempt = "skipped", dict(result), True, None

    @rule(on=connections, item=items)
    def reopen(self, on: int, item: int) -> None:
        """Begin the next cycle of an item, for no batch."""
        key, store = self.key(item), self.stores[on]
        latest = store.claims.latest(key)
        if latest is None:
            assert key not in self.model.cycles
            return
        old = self.model.latest(key)
        fresh = store.claims.reopen(latest.id)
        assert (fresh is not None) == (old.result is not None and old.published)
        self.model.latest(key, reopen=fresh is not None)

    @rule(on=connections, batch=which, place=st.integers(0, 4))
    def reopen_in_a_batch(self, on: int, batch: int, place: int) -> None:
        """Let a batch go on with the next cycle of one of its items, which others may have begun."""
        id_, store = self.batch_ids[batch], self.stores[on]
        items = self.model.batches[id_]
        if place >= len(items):
            return
        priority, old = items[place]
        work = list(store.batches.items(id_))[place].work
        latest = self.model.latest(old.key)
        fresh = store.claims.reopen(work.id, id_)
        assert (fresh is not None) == (old.result is not None and (latest.result is None or latest.published))
        if fresh is not None:
            items[place] = (priority, self.model.latest(old.key, reopen=True))

    @rule(on=connections, item=items)
    def publish(self, on: int, item: int) -> None:
        """Publish the result of an item's latest cycle."""
        key = self.key(item)
        latest = self.stores[on].claims.latest(key)
        if latest is not None:
            self.stores[on].claims.set_published([latest.id])
            cycle = self.model.latest(key)
            cycle.published = cycle.published or cycle.result is not None

    @invariant()
    def the_census_is_the_models(self) -> None:
        """Compare each batch's counts, and each item's state."""
        for number, (batch, items) in enumerate(self.model.batches.items()):
            store = self.stores[number]
            states = [cycle.state for _, cycle in items]
            census = store.batches.census(batch)
            assert {state: count for state, count in census.items() if count and state != "queued"} == {
                state: states.count(state) for state in states
            }
            assert [item.work.key for item in store.batches.items(batch)] == [cycle.key for _, cycle in items]

    def teardown(self) -> None:
        """Hold that a store in any state that can be reached is sound."""
        assert self.stores[0].violations() == []


def test_any_order_of_calls_is_answered_as_the_model_answers(db: Database) -> None:
    stores = [db.open(attempts=LIMIT) for _ in range(3)]
    few = settings(
        max_examples=EXAMPLES or (30 if db.engine == "sqlite" else 8),
        stateful_step_count=30,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(lambda: Machine(stores), settings=few)  # type: ignore[arg-type]
