"""Databases for the tests: each engine, a fresh schema for each test, any number of stores open on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import postgres
from stores import Database


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a real server; skips where none is installed, and fails there in CI."""
    if not postgres.programs():
        missing = f"no PostgreSQL here: {postgres.INSTALL}"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    with postgres.start_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> str:
    """The name of a database engine: a test that asks for it runs once on each."""
    return str(request.param)


@pytest.fixture
def db(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without any rows, on each engine."""
    url = request.getfixturevalue("postgres_url") if engine == "postgres" else ""
    with Database(engine, tmp_path / "state", url) as made:
        yield made
        made.assert_sound()


@pytest.fixture
def sqlite_db(tmp_path: Path) -> Iterator[Database]:
    """A database without any rows, on SQLite."""
    with Database("sqlite", tmp_path / "state") as made:
        yield made
        made.assert_sound()


@pytest.fixture
def postgres_db(postgres_url: str, tmp_path: Path) -> Iterator[Database]:
    """A database without any rows, on PostgreSQL."""
    with Database("postgres", tmp_path / "state", postgres_url) as made:
        yield made
        made.assert_sound()
