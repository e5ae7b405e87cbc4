"""What a store says of the machines that use it: their zones, since when they are heard, who lives there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hypervisor.core.process import this_process
from hypervisor.report.activity import coordinator_lives, idle_workers, killed_run
from hypervisor.report.timeline import Timeline
from hypervisor.store.records import Worker
from hypervisor.store.shared import Machine, machines
from hypervisor.store.spend import Account, Spend
from hypervisor.store.store import Store
from stores import Database, a_worker, done, fill, take

LEASE = 900.0
ELSEWHERE = replace(this_process(), host="ant/1", boot="another", pid_namespace="4", pid=7)


def give_sign(store: Store, run: str, host: str, zone: str) -> None:
    store.spending(Account(run=run, batch="b", host=host), 3600.0, lambda: zone).put(Spend())


def shift(store: Store, table: str, column: str, seconds: float) -> None:
    """Let what was written be so many seconds older."""
    text = f"UPDATE {table} SET {column} = {column} - {round(seconds * 1000)}"
    store.engine.write(lambda tx: tx.run(text))


def a_worker_elsewhere(name: str) -> Worker:
    return replace(a_worker(), id=name, process=ELSEWHERE)


def found(store: Store) -> dict[str, Machine]:
    return {one.host: one for one in machines(store.engine, LEASE, 86400.0)}


def test_a_machine_has_the_zone_that_its_latest_coordinator_saw(db: Database) -> None:
    store = db.open()
    give_sign(store, "run-1-a", "ant/1", "danger")
    shift(store, "spend", "updated_at", 5)
    give_sign(store, "run-2-b", "ant/1", "safe")
    give_sign(store, "run-3-c", "bee/1", "warning")
    assert {host: one.zone for host, one in found(store).items()} == {"ant/1": "safe", "bee/1": "warning"}
    assert found(store)["ant/1"].heard < 5


def test_the_zone_of_a_machine_that_is_silent_for_a_lease_is_not_known(db: Database) -> None:
    store = db.open()
    give_sign(store, "run-1-a", "ant/1", "danger")
    shift(store, "spend", "updated_at", LEASE + 1)
    assert found(store)["ant/1"].zone == ""
    assert found(store)["ant/1"].heard > LEASE


def test_what_a_machine_works_on_is_listed_by_its_host(db: Database) -> None:
    store = db.open()
    batch, worker = fill(store, "a", "b"), a_worker_elsewhere("worker-7-ab")
    store.claims.add_worker(worker)
    take(store, worker, batch)
    ((item, attempt, _, _),) = found(store)["ant/1"].items
    assert (item, attempt) == ("path/a", 1)


def test_a_coordinator_of_another_machine_lives_while_it_gives_signs(postgres_db: Database) -> None:
    store, timeline = postgres_db.open(), Timeline()
    timeline.coordinator = "run-7-ab"
    assert killed_run(store, timeline) == "run-7-ab"
    give_sign(store, "run-7-ab", "ant/1", "safe")
    assert coordinator_lives(store, timeline)
    assert killed_run(store, timeline) == ""
    shift(store, "spend", "updated_at", 91)
    assert killed_run(store, timeline) == "run-7-ab"


def test_an_idle_worker_of_another_machine_is_seen_by_its_beats(postgres_db: Database) -> None:
    store = postgres_db.open()
    batch, worker = fill(store, "a", "b"), a_worker_elsewhere("worker-7-ab")
    store.claims.add_worker(worker)
    claim = take(store, worker, batch)
    assert idle_workers(store, batch, set()) == []  # it is busy
    store.claims.complete_one(done(claim))
    assert idle_workers(store, batch, set()) == ["worker-7-ab"]
    shift(store, "worker", "seen_at", 91)
    assert idle_workers(store, batch, set()) == []
    store.claims.add_worker(worker)  # its next beat
    assert idle_workers(store, batch, set()) == ["worker-7-ab"]


@pytest.mark.parametrize("sign", [True, False])
def test_a_run_whose_process_cannot_be_seen_is_over_once_its_coordinator_is_silent(
    db: Database, monkeypatch: pytest.MonkeyPatch, *, sign: bool
) -> None:
    store = db.open()
    batch = fill(store, "a")
    monkeypatch.setattr("hypervisor.store.sessions.this_process", lambda: ELSEWHERE)
    with store.sessions.background_run("s", batch):
        monkeypatch.undo()
        assert store.sessions.open_runs("s") == 1
        shift(store, "background_run", "began_at", LEASE + 1)
        if sign:
            name = store.batches.get(batch).name
            store.spending(Account(run="run-7-ab", batch=name, host="ant/1"), 3600.0).put(Spend())
        assert store.sessions.open_runs("s") == int(sign)
