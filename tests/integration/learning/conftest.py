"""A store on each engine."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypervisor.core.config import settings_of
from hypervisor.store.base import Engine
from hypervisor.store.postgres import PostgresEngine
from hypervisor.store.sqlite import FILE, SqliteEngine
from hypervisor.store.store import Store
from postgres import INSTALL, programs, start_server


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Start one PostgreSQL server for all tests."""
    if not programs():
        pytest.skip(f"no PostgreSQL here: {INSTALL}")
    with start_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty database of each kind."""
    made: Engine
    if request.param == "sqlite":
        made = SqliteEngine(tmp_path / FILE)
    else:
        made = PostgresEngine(request.getfixturevalue("postgres_url"), f"t{secrets.token_hex(6)}")
    yield made
    made.close()


@pytest.fixture
def store(engine: Engine, tmp_path: Path) -> Store:
    """An empty store on each engine."""
    return Store(engine, tmp_path, settings_of(tmp_path))
