"""The disk fails, is full, or loses power at each single operation of a scenario; SQLite.

By default a part of the operations is tried, another part with each seed; all with ``BROKEN_DISK=all``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from broken_disk import Disk, Fault, PowerLossError
from hypervisor.store.records import Accepted, Claim, Completion, Item, Worker
from hypervisor.store.sqlite import FILE, SqliteEngine
from hypervisor.store.store import Store
from stores import a_worker, done, fill

T = TypeVar("T")
SETTINGS = {"claims": {"attempts": 2, "lease_seconds": 900.0}}
KEYS = [f"item-{number}" for number in range(8)]
#: How many of the operations of the scenario are tried in one run of the tests, for each fault.
SOME = 24


@dataclass
class Told:
    """What callers were told is accepted: durable, whatever comes."""

    results: dict[int, object] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)

    def complete(self, store: Store, completions: list[Completion]) -> None:
        """Complete; note what was accepted."""
        for one, answer in zip(completions, store.claims.complete(completions), strict=True):
            assert isinstance(answer, Accepted), answer
            self.results[answer.work] = one.result

    def assert_kept(self, store: Store) -> None:
        """Hold that it is all there."""
        for work, result in self.results.items():
            assert store.claims.work(work).result == result, f"the result of work {work} is lost"
        for key in self.cancelled:
            latest = store.claims.latest(key)
            assert latest is not None, f"{key} is lost"
            assert latest.state == "skipped", f"the cancellation of {key} is lost"


def steps(store: Store, worker: Worker, told: Told) -> Iterator[Callable[[], object]]:
    """Yield the steps of a scenario; each may be called again after an error, as callers do."""
    batch = 1
    claims: list[Claim] = []
    yield lambda: fill(store)
    yield lambda: store.claims.add_worker(worker)
    yield lambda: store.batches.add(batch, [Item(key=key, text=key) for key in KEYS])
    yield lambda: claims.extend(store.claims.claim_next(worker, batch, 5))
    yield lambda: told.complete(store, [done(claims[0])])
    yield lambda: store.claims.renew([claim.attempt for claim in claims[1:]])
    yield lambda: told.complete(store, [done(claims[1], published=False), done(claims[2], "blocked")])
    yield lambda: store.claims.set_published([claims[1].work])
    yield lambda: _fail(store, claims[3])
    yield lambda: _cancel(store, told)
    yield lambda: store.claims.revoke_worker(worker.id, "dead")
    yield lambda: store.engine.read("PRAGMA wal_checkpoint(TRUNCATE)")
    yield lambda: store.claims.reopen(claims[0].work, batch)
    yield lambda: store.events.add("told", {"a": 1}, batch=batch)
    yield lambda: _finish(store, worker, batch, told)


def _fail(store: Store, claim: Claim) -> None:
    if store.claims.attempts(claim.key)[-1].outcome is None:  # not if an earlier call did
        store.claims.fail(claim, "exit 1")


def _cancel(store: Store, told: Told) -> None:
    latest = store.claims.latest(KEYS[6])
    if latest is not None and not latest.decided:
        store.claims.cancel(KEYS[6], KEYS[6], {"status": "skipped", "outcome": "cancelled"}, "nic")
    told.cancelled.add(KEYS[6])


def _finish(store: Store, worker: Worker, batch: int, told: Told) -> None:
    store.claims.revoke_worker(worker.id, "what an answer was lost about", counted=False)
    while found := store.claims.claim_next(worker, batch, 3):
        told.complete(store, [done(claim) for claim in found])


def open_store(folder: Path, disk: Disk | None = None) -> Store:
    """Open the store in *folder*, on *disk*."""
    return Store(SqliteEngine(folder / FILE, vfs=disk.name if disk else ""), folder, SETTINGS)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store without rows."""
    folder = tmp_path_factory.mktemp("prepared")
    open_store(folder).close()
    return folder


def count_operations(run: Callable[[Disk], None]) -> int:
    """Return how many operations *run* carries out on a sound disk."""
    disk = Disk()
    run(disk)
    disk.unregister()
    return disk.count


def points(count: int) -> list[int]:
    """Return the operations to be tried."""
    if os.environ.get("BROKEN_DISK") == "all":
        return list(range(1, count + 1))
    return sorted(random.sample(range(1, count + 1), min(SOME, count)))


def whole(folder: Path, disk: Disk, told: Told) -> None:
    """Carry the scenario out; a step that fails is tried again, as its caller does."""
    worker = a_worker()
    with again(lambda: open_store(folder, disk), disk) as store:

        def look() -> None:
            assert store.violations() == []
            told.assert_kept(store)

        for step in steps(store, worker, told):
            again(step, disk, look)


def again(call: Callable[[], T], disk: Disk, look: Callable[[], object] = bool) -> T:
    """Call; where the disk broke, *look*, make room, and call again, as callers do."""
    try:
        return call()
    except OSError as error:
        found = error.errno
    assert found == (errno.ENOSPC if disk.fault == "full" else errno.EIO)
    assert disk.broke
    look()
    disk.heal()
    return call()


def assert_complete(store: Store, told: Told) -> None:
    """Hold that the invariants hold, what was told is there, and the census closes."""
    assert store.violations() == []
    told.assert_kept(store)
    assert store.engine.read("PRAGMA quick_check") == [("ok",)]
    (batch,) = store.batches.all()
    census = store.batches.census(batch.id)
    assert census["queued"] == len(KEYS)
    assert census["running"] == census["ready"] == 0, census


@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
@pytest.mark.parametrize("fault", ["io", "full"])
def test_a_failing_operation_is_told_as_what_it_is_and_nothing_is_half_believed(
    prepared: Path, tmp_path: Path, fault: Fault, torn: bool
) -> None:
    def run(disk: Disk) -> None:
        folder = tmp_path / f"{disk.name}"
        shutil.copytree(prepared, folder)
        told = Told()
        whole(folder, disk, told)
        with open_store(folder) as store:
            assert_complete(store, told)
        shutil.rmtree(folder)

    for at in points(count_operations(run)):
        disk = Disk(fault=fault, at=at, torn=torn)
        try:
            run(disk)
        except Exception as error:
            raise AssertionError(f"operation {at}: {disk.log[at - 1]}") from error
        disk.unregister()


@pytest.mark.parametrize("seed", [None, 1, 2], ids=["nothing-unsynced", "some-unsynced", "some-other"])
def test_after_a_power_loss_what_was_accepted_is_there_and_every_item_gets_its_result(
    prepared: Path, tmp_path: Path, seed: int | None
) -> None:
    def run(disk: Disk) -> None:
        folder, found = tmp_path / disk.name, tmp_path / f"{disk.name}-found"
        shutil.copytree(prepared, folder)
        told, worker = Told(), a_worker()
        store = open_store_despite(folder, disk)
        if store is not None:
            try:
                for step in steps(store, worker, told):
                    step()
            except PowerLossError:
                pass
            abandon(store)
        disk.after_power_loss(found, None if seed is None else seed + disk.at)
        with open_store(found) as after:
            assert after.violations() == []
            told.assert_kept(after)
            batch = fill(after, *KEYS)
            after.claims.add_worker(worker)
            _finish(after, worker, batch, told)
            assert_complete(after, told)
        shutil.rmtree(folder)
        shutil.rmtree(found)

    for at in points(count_operations(run)):
        disk = Disk(fault="power", at=at)
        try:
            run(disk)
        except Exception as error:
            raise AssertionError(f"operation {at}: {disk.log[at - 1]}") from error


@pytest.mark.parametrize("fault", ["io", "full", "power"])
def test_a_store_is_made_whole_or_not_at_all(tmp_path: Path, fault: Fault) -> None:
    def run(disk: Disk) -> None:
        folder, found = tmp_path / disk.name, tmp_path / f"{disk.name}-found"
        folder.mkdir()
        told: int | None = None
        try:
            open_store(folder, disk).close()
        except OSError as error:
            told = error.errno
        except PowerLossError:
            disk.after_power_loss(found, seed=disk.at)
        assert told in (None, errno.ENOSPC, errno.EIO)
        with open_store(found if found.exists() else folder) as store:
            batch, worker = fill(store, *KEYS), a_worker()
            store.claims.add_worker(worker)
            accepted = Told()
            _finish(store, worker, batch, accepted)
            assert_complete(store, accepted)

    for at in points(count_operations(run)):
        disk = Disk(fault=fault, at=at)
        try:
            run(disk)
        except Exception as error:
            raise AssertionError(f"operation {at}: {disk.log[at - 1]}") from error


def open_store_despite(folder: Path, disk: Disk) -> Store | None:
    """Open a store; return None if the power went meanwhile."""
    try:
        return open_store(folder, disk)
    except PowerLossError:
        return None


def abandon(store: Store) -> None:
    """Leave a store whose disk is gone, as a killed process does."""
    with contextlib.suppress(PowerLossError):
        store.close()


def test_a_completion_is_synced_before_it_is_answered_and_a_claim_is_not(
    prepared: Path, tmp_path: Path
) -> None:
    folder, disk = tmp_path / "state", Disk()
    shutil.copytree(prepared, folder)
    with open_store(folder, disk) as store:
        batch, worker = fill(store, *KEYS), a_worker()
        store.claims.add_worker(worker)
        for _ in range(4):
            before = len(disk.log)
            (claim,) = store.claims.claim_next(worker, batch, 1)
            assert "sync" not in " ".join(disk.log[before:])
            store.claims.complete_one(done(claim))
            assert disk.log[-1] == f"sync {FILE}-wal"
