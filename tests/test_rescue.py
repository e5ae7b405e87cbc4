"""What the dead had in hand is taken while there is still something else to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hypervisor import worker
from hypervisor.batches import open_folder
from hypervisor.claims.directory import DirectoryStore, Policy
from hypervisor.claims.port import Claim, Holder, HolderKind
from hypervisor.claims.workers import new_worker_id
from hypervisor.heart import Stop
from hypervisor.model import Outcome, Report
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
