"""Claims of workers that died, by real processes and real signals, on each engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from commands import eventually
from hypervisor.core.errors import ClaimLost
from hypervisor.core.process import WORKER_MARK, life_of, this_process
from hypervisor.store.liveness import LivenessChecker, Rescuer, WorkerLock, forget_dead, lock_state
from hypervisor.store.records import WorkerKind
from stores import Database, a_worker, done, fill, take


class Child:
    """A worker process with the lock of its life, and the claims that it has made."""

    def __init__(
        self, db: Database, batch: int, claims: int, begun: Callable[[WorkerLock, list[int]], None]
    ) -> None:
        told, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(told)
                store, worker = db.open(), a_worker("child")
                lock = WorkerLock(store.workers, worker.id)
                store.claims.add_worker(worker)
                found = store.claims.claim_next(worker, batch, claims)
                begun(lock, [claim.attempt for claim in found])
                os.write(tell, worker.id.encode())
                os.close(tell)
                while True:
                    signal.pause()
            finally:
                os._exit(1)
        os.close(tell)
        self.worker = os.read(told, 100).decode()
        os.close(told)
        assert self.worker, "the child failed"

    def end(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; wait for the end if it is one that ends."""
        os.kill(self.pid, number)
        if number == signal.SIGKILL:
            os.waitpid(self.pid, 0)
        else:
            os.waitpid(self.pid, os.WUNTRACED)


def nothing(_lock: WorkerLock, _attempts: list[int]) -> None:
    """Note nothing."""


def test_the_claims_of_a_killed_worker_are_free_at_the_next_look(db: Database) -> None:
    store = db.open()
    batch = fill(store, "a", "b")
    child = Child(db, batch, 2, nothing)
    assert store.rescuer.rescue() == [], "while it lives nothing is taken from it"
    child.end()
    revoked = store.rescuer.rescue()
    assert sorted(one.text for one in revoked) == ["path/a", "path/b"]
    assert {one.why for one in revoked} == {f"worker {child.worker} is dead"}
    worker = a_worker()
    store.claims.add_worker(worker)
    assert [claim.number for claim in store.claims.claim_next(worker, batch, 2)] == [2, 2]


def test_a_worker_that_stands_still_keeps_its_claims_until_its_lease_ends(db: Database) -> None:
    store = db.open()
    batch = fill(store, "a")
    child = Child(db, batch, 1, nothing)
    try:
        child.end(signal.SIGSTOP)
        assert store.rescuer.rescue() == []
    finally:
        child.end()


def test_of_what_a_dead_worker_held_only_what_it_had_begun_costs_an_attempt(db: Database) -> None:
    store = db.open()
    batch = fill(store, *"abc")
    child = Child(db, batch, 3, lambda lock, attempts: lock.note(attempts[1]))
    child.end()
    assert [one.text for one in store.rescuer.rescue()] == ["path/b"]
    counted = {item.work.key: item.work.attempts for item in store.batches.items(batch)}
    assert counted == {"a": 0, "b": 1, "c": 0}
    assert store.batches.census(batch)["ready"] == 3


def test_what_a_dead_worker_left_running_is_ended_before_its_item_is_free(db: Database) -> None:
    store = db.open()
    batch = fill(store, "a")
    orphans: list[subprocess.Popen[bytes]] = []
    worker = a_worker("parent")
    lock = WorkerLock(store.workers, worker.id)
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    for mark in (worker.id, "somebody-else"):
        environment = {**os.environ, WORKER_MARK: mark}
        orphans.append(subprocess.Popen(command, pass_fds=[lock.descriptor], env=environment))
    try:
        gone = replace(worker, process=replace(this_process(), pid=2**22 - 1, start="1"))
        store.claims.add_worker(gone)
        claim = take(store, gone, batch)
        os.close(lock.descriptor)  # as the parent's death does; its children hold the lock now
        assert lock_state(store.workers, worker.id) == "held"
        ended: list[str] = []

        def end(who: str) -> None:
            assert store.claims.held("a") is not None, "its item was free already"
            ended.append(who)
            orphans[0].kill()
            orphans[0].wait()

        checker = LivenessChecker(store.workers, this_process(), one_machine=True)
        revoked = Rescuer(store.claims, checker, end).rescue()
        assert ended == [worker.id]
        assert [one.attempt for one in revoked] == [claim.attempt]
        assert orphans[1].poll() is None, "what does not bear the dead worker's mark is not ours"
    finally:
        for orphan in orphans:
            orphan.kill()
            orphan.wait()


@pytest.mark.parametrize("kind", list(WorkerKind))
def test_what_was_held_before_the_machine_was_restarted_is_free(db: Database, kind: WorkerKind) -> None:
    store = db.open()
    batch = fill(store, "a")
    before = a_worker("before", kind, replace(this_process(), boot="an-earlier-boot"))
    store.claims.add_worker(before)
    take(store, before, batch)
    (revoked,) = store.rescuer.rescue()
    assert "the machine was restarted" in revoked.why


def test_a_worker_on_another_machine_is_judged_by_its_silence_alone(postgres_db: Database) -> None:
    patient, hasty = postgres_db.open(), postgres_db.open(lease_seconds=-1)
    batch = fill(patient, "a", "b")
    there = replace(this_process(), host="another-host", boot="another-boot", pid=2**22 - 1, start="1")
    worker = a_worker("there", WorkerKind.PROCESS, there)
    patient.claims.add_worker(worker)
    heard, silent = take(patient, worker, batch), take(hasty, worker, batch)
    assert [one.attempt for one in patient.rescuer.rescue()] == [silent.attempt]
    patient.claims.complete_one(done(heard))


def test_an_agents_claims_end_with_its_client(db: Database) -> None:
    store = db.open()
    batch = fill(store, "a", "b")
    client = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        from hypervisor.core.process import identity_of  # noqa: PLC0415 - of this test alone

        agent = a_worker("agent", WorkerKind.SESSION, identity_of(client.pid), session="s", agent="1")
        store.claims.add_worker(agent)
        take(store, agent, batch)
        assert store.rescuer.rescue() == []
    finally:
        client.kill()
        client.wait()
    (revoked,) = store.rescuer.rescue()
    assert "the client of agent" in revoked.why


def test_another_process_with_the_pid_of_a_dead_worker_is_not_taken_for_it(db: Database) -> None:
    store = db.open()
    batch = fill(store, "a")
    reused = replace(this_process(), start="12345")  # this pid, begun at another time
    worker = a_worker("dead", WorkerKind.PROCESS, reused)
    store.claims.add_worker(worker)
    take(store, worker, batch)
    assert life_of(reused, this_process()) == "dead"
    assert len(store.rescuer.rescue()) == 1


def test_two_that_rescue_at_once_revoke_each_claim_once(db: Database) -> None:
    stores = [db.open() for _ in range(4)]
    batch = fill(stores[0], *"abcdef")
    dead = a_worker("dead", WorkerKind.PROCESS, replace(this_process(), start="12345"))
    stores[0].claims.add_worker(dead)
    stores[0].claims.claim_next(dead, batch, 6)
    with ThreadPoolExecutor(4) as pool:
        revoked = [
            one.attempt for found in pool.map(lambda store: store.rescuer.rescue(), stores) for one in found
        ]
    assert len(revoked) == len(set(revoked)) == 6


def test_a_worker_that_is_judged_dead_and_lives_completes_nothing(db: Database) -> None:
    store = db.open()
    batch, slow = fill(store, "a"), a_worker("slow")
    store.claims.add_worker(slow)
    claim = take(store, slow, batch)
    store.claims.revoke_worker(slow.id, "judged dead")
    with pytest.raises(ClaimLost, match="judged dead"):
        store.claims.complete_one(done(claim))


def test_a_lock_is_never_seen_free_while_its_worker_lives(sqlite_db: Database) -> None:
    store = sqlite_db.open()
    lock = WorkerLock(store.workers, "w-1")
    assert lock_state(store.workers, "w-1") == "held"
    assert forget_dead(store.workers) == 0
    os.close(lock.descriptor)
    assert lock_state(store.workers, "w-1") == "free"
    assert forget_dead(store.workers) == 1
    assert lock_state(store.workers, "w-1") == "missing"


def test_whoever_dies_every_item_gets_its_result(db: Database) -> None:
    store = db.open(attempts=100)
    batch = fill(store, *(f"item-{number}" for number in range(12)))
    for _ in range(4):
        Child(db, batch, 2, nothing).end()
    worker = a_worker("last")
    store.claims.add_worker(worker)

    def finished() -> bool:
        store.rescuer.rescue()
        for claim in store.claims.claim_next(worker, batch, 5):
            store.claims.complete_one(done(claim))
        return store.batches.census(batch)["success"] == 12

    eventually(finished, "all results")
