"""Waiting on the store: within a tick of a change, free while nothing happens, and for the dead too."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hypervisor.core.process import identity_of
from hypervisor.store.store import Store
from hypervisor.store.waiting import wait_until
from stores import Database, a_worker, done, fill, take


@pytest.fixture
def store(db: Database) -> Store:
    return db.open()


def test_what_is_there_already_is_found_at_once(store: Store) -> None:
    assert wait_until(store, lambda: "found", time.monotonic()) == "found"


def test_a_deadline_ends_it(store: Store) -> None:
    begun = time.monotonic()
    assert wait_until(store, lambda: None, begun + 0.2) is None
    assert 0.2 <= time.monotonic() - begun < 5


def test_whoever_no_longer_listens_ends_it(store: Store) -> None:
    asked: list[bool] = []

    def stopped() -> bool:
        asked.append(True)
        return len(asked) > 2

    assert wait_until(store, lambda: None, None, stopped=stopped) is None


def test_a_change_by_another_process_is_seen_within_a_second(db: Database) -> None:
    batch, worker = fill(db.open(), "a"), a_worker()
    other, store = db.open(), db.open()
    other.claims.add_worker(worker)
    claim = take(other, worker, batch)
    looked = threading.Event()
    ended: list[float] = []

    def complete() -> None:
        assert looked.wait(20)
        other.claims.complete_one(done(claim))
        ended.append(time.monotonic())

    thread = threading.Thread(target=complete)
    thread.start()

    def look() -> float | None:
        looked.set()
        return time.monotonic() if store.batches.census(batch)["success"] else None

    found = wait_until(store, look, time.monotonic() + 20)
    thread.join()
    assert found is not None
    assert found - ended[0] < 1.0


def test_while_nothing_changes_nothing_is_asked(sqlite_db: Database) -> None:
    store = sqlite_db.open()
    looks: list[float] = []
    assert wait_until(store, lambda: looks.append(time.monotonic()), time.monotonic() + 0.5) is None
    assert len(looks) == 1


def test_the_death_of_a_worker_ends_the_wait_for_its_claim(sqlite_db: Database, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    worker = a_worker(process=identity_of(process.pid))
    store, other = sqlite_db.open(), sqlite_db.open()
    batch = fill(store, "a")
    other.claims.add_worker(worker)
    take(other, worker, batch)

    def look() -> bool | None:
        if process.poll() is None:
            process.kill()
            process.wait()
        return True if not store.progress.held() else None

    assert wait_until(store, look, time.monotonic() + 20) is True
    assert process.stdin is not None
    process.stdin.close()
