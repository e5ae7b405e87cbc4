"""A store on each engine."""

from __future__ import annotations

import pytest

from hypervisor.store.store import Store
from stores import Database


@pytest.fixture
def store(db: Database) -> Store:
    """An empty store on each engine."""
    return db.open()
