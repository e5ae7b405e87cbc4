"""Task files of several clones that share a store: what a claim wrote in one is taken back in another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from commands import write_task
from hypervisor.core.project import Project
from hypervisor.core.settings import default_settings
from hypervisor.store.postgres import PostgresEngine
from hypervisor.store.store import Store
from hypervisor.tasks.actor import Actor
from hypervisor.tasks.publication import restore
from hypervisor.tasks.service import TaskService
from stores import Database


@pytest.fixture
def clones(postgres_db: Database, tmp_path: Path) -> list[tuple[Path, Store]]:
    postgres_db.open()  # makes the tables, and removes them at the end
    made = []
    for name in ("one", "two"):
        root = tmp_path / name
        write_task(root / "tasks/t-1.md")
        (root / ".hypervisor").mkdir()
        engine = PostgresEngine(postgres_db.url, postgres_db.schema)
        made.append((root, Store(engine, root / ".hypervisor", default_settings())))
    return made


def test_a_claim_of_one_clone_is_taken_back_in_the_file_of_another(clones: list[tuple[Path, Store]]) -> None:
    (one, first), (two, second) = clones
    before = (two / "tasks/t-1.md").read_text()
    with (
        first,
        second,
        TaskService(
            Project(one, one / ".hypervisor"), first.settings, Actor(name="claude", session="s"), first
        ) as service,
    ):
        _, hold = service.claim("t-1")
        shutil.copy(one / "tasks/t-1.md", two / "tasks/t-1.md")  # as `git pull` brings it
        assert (two / "tasks/t-1.md").read_text() != before
        shutil.rmtree(one)  # that machine is gone
        second.claims.revoke(hold.claim.attempt, "its machine is gone")
        assert restore(second) == [hold.claim.work]
    assert (two / "tasks/t-1.md").read_text() == before
