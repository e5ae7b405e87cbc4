"""What the dead had in hand is taken while there is still something else to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hypervisor.claims.directory import DirectoryStore, Policy
from hypervisor.claims.files import Files
from hypervisor.claims.port import Claim, Holder, HolderKind
from hypervisor.claims.workers import new_worker_id
from hypervisor.core.model import Outcome, Report
from hypervisor.queue import worker
from hypervisor.queue.batch import Batch, Place
from hypervisor.queue.batches import open_folder
from hypervisor.queue.heart import Stop
from hypervisor.queue.operations import retry
from hypervisor.queue.queue import Queue
from hypervisor.runners.port import Work


class Order:
    """A runner that keeps the order of what it was given."""

    name = "order"

    def __init__(self) -> None:
        self.items: list[str] = []

    def run(self, work: Work) -> Report:
        self.items.append(work.item)
        return Report(status=Outcome.SUCCESS, outcome="")


def holder(name: str) -> Holder:
    return Holder(
        id=new_worker_id(name, os.getpid()), kind=HolderKind.PROCESS, name=name, lease_seconds=900.0
    )


def test_what_a_dead_worker_held_is_done_before_the_queue_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "RESCUE_SECONDS", 0.0)
    (tmp_path / "queue.txt").write_text("".join(f"item-{number}\n" for number in range(100)))
    batch = open_folder(str(tmp_path), cwd=str(tmp_path))
    dead = DirectoryStore(str(tmp_path), holder("dead"))
    place = batch.place(batch.queue.take(1)[0].item)
    assert isinstance(dead.claim(place.key, place.item), Claim)
    dead.close()  # with the claim open: as if its process had died

    runner = Order()
    drain = worker.Worker(
        batch,
        runner,
        holder("living"),
        policy=Policy(),
        orders=worker.Orders(),
        tell=lambda event: None,
        stop=Stop(),
    )
    assert drain.run().processed == 100
    assert sorted(runner.items) == sorted(f"item-{number}" for number in range(100))
    assert runner.items.index("item-0") < 75


def test_a_sweep_does_what_it_finds_before_it_looks_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else workers that are killed more often than a long queue can be looked through get nowhere.
    (tmp_path / "queue.txt").write_text("".join(f"item-{number}\n" for number in range(100)))
    batch = open_folder(str(tmp_path), cwd=str(tmp_path))
    batch.queue.take(100)  # by somebody who died of it
    looked: list[str] = []
    place = Batch.place

    def look(batch: Batch, item: str) -> Place:
        looked.append(item)
        return place(batch, item)

    monkeypatch.setattr(Batch, "place", look)
    seen: list[int] = []

    class Looking(Order):
        def run(self, work: Work) -> Report:
            seen.append(len(looked))
            return super().run(work)

    drain = worker.Worker(
        batch,
        runner := Looking(),
        holder("living"),
        policy=Policy(),
        orders=worker.Orders(),
        tell=lambda event: None,
        stop=Stop(),
    )
    assert drain.run().processed == 100
    assert seen == list(range(1, 101))
    assert runner.items == [f"item-{number}" for number in range(100)]
    assert batch.queue.unsettled()[1] == [0], "the last segment stays open, as it may grow"


def abandoned(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> Batch:
    """Return a batch whose lines, ten to a segment, were all handed out to somebody who died of it."""
    monkeypatch.setattr("hypervisor.queue.queue.SEGMENT", 90)
    (folder / "queue.txt").write_text("".join(f"item-{number:03d}\n" for number in range(count)))
    batch = open_folder(str(folder), cwd=str(folder))
    batch.queue.take(count)
    return batch


def test_a_sweep_waits_for_room_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = abandoned(tmp_path, monkeypatch, 30)
    told: list[str] = []
    full = [OSError(errno.ENOSPC, "full"), OSError(errno.ENOSPC, "full")]
    sync = Batch.sync_results

    def syncing(batch: Batch) -> None:
        if full:
            raise full.pop()
        sync(batch)

    monkeypatch.setattr(Batch, "sync_results", syncing)
    drain = worker.Worker(
        batch, Order(), holder("living"), policy=Policy(), orders=worker.Orders(),
        tell=lambda event: told.append(event.kind), stop=Stop(),
    )  # fmt: skip
    assert drain.run().processed == 30
    assert (full, told.count("trouble")) == ([], 1)
    assert batch.queue.unsettled()[1] == [2]


def test_a_sweep_is_shared_and_what_is_settled_is_durable_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = abandoned(tmp_path, monkeypatch, 100)
    said: list[str] = []
    sync, settle, glance = Batch.sync_results, Queue.settle, Batch.glance

    def syncing(batch: Batch) -> None:
        said.append("sync")
        sync(batch)

    def settling(queue: Queue, number: int, epoch: str) -> None:
        said.append("settle")
        settle(queue, number, epoch)

    def glancing(batch: Batch) -> Callable[[str], bool]:
        finished = glance(batch)

        def look(item: str) -> bool:
            looked.append(item)
            return finished(item)

        return look

    looked: list[str] = []
    monkeypatch.setattr(Batch, "sync_results", syncing)
    monkeypatch.setattr(Queue, "settle", settling)
    monkeypatch.setattr(Batch, "glance", glancing)

    def sweep() -> worker.Worker:
        return worker.Worker(
            batch, Order(), holder("living"), policy=Policy(), orders=worker.Orders(),
            tell=lambda event: None, stop=Stop(),
        )  # fmt: skip

    assert sweep().run().processed == 100
    assert said == ["sync", "settle"] * 9
    assert sorted(looked) == sorted(f"item-{number:03d}" for number in range(100))
    looked.clear()
    assert sweep().run().processed == 0
    last = [f"item-{number:03d}" for number in range(90, 100)]
    assert looked == last, "the others lie in settled segments"
    looked.clear()
    epoch = batch.queue.cursor().epoch
    monkeypatch.setattr(Queue, "unsettled", lambda _: (epoch, list(range(10))))  # so it was, a moment ago
    assert sweep().run().processed == 0
    assert looked == last, "and so do those that somebody else has settled meanwhile"


def test_a_segment_with_an_item_that_another_holds_is_not_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = abandoned(tmp_path, monkeypatch, 30)
    other = DirectoryStore(str(tmp_path), holder("other"), policy=Policy())
    assert isinstance(other.claim(batch.place("item-003").key, "item-003"), Claim)
    drain = worker.Worker(
        batch, Order(), holder("living"), policy=Policy(), orders=worker.Orders(wait=False),
        tell=lambda event: None, stop=Stop(),
    )  # fmt: skip
    assert drain.run().processed == 29
    assert 0 in batch.queue.unsettled()[1]
    assert 1 not in batch.queue.unsettled()[1]


def test_the_results_of_each_store_that_was_looked_at_are_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.txt").write_text("item\n")
    batch = open_folder(str(tmp_path), cwd=str(tmp_path))
    batch.place("item")
    batch.layout(str(tmp_path / "none"))
    synced: list[str] = []
    sync = Files.sync

    def syncing(files: Files, path: str) -> None:
        sync(files, path)
        synced.append(os.path.normpath(path))

    monkeypatch.setattr(Files, "sync", syncing)
    batch.sync_results()
    assert synced == [str(tmp_path / "results")], "a store without results is passed over"


def test_a_glance_takes_no_open_item_for_finished(tmp_path: Path) -> None:
    (tmp_path / "queue.txt").write_text("done\nopened again\nnever begun\n")
    batch = open_folder(str(tmp_path), cwd=str(tmp_path))
    assert not batch.glance()("done")  # where nobody was before
    store = DirectoryStore(str(tmp_path), holder("one"))
    for item in ("done", "opened again"):
        claim = store.claim(batch.place(item).key, item)
        assert isinstance(claim, Claim)
        store.complete(claim, {"item": item, "status": "failed", "outcome": ""})
    assert retry(batch, ["opened again"], {"failed"}) == ["opened again"]
    finished = batch.glance()
    assert [finished(item) for item in ("done", "./done", "opened again", "never begun")] == [
        True, True, False, False,
    ]  # fmt: skip
    store.close()
