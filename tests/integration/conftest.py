"""Databases for the tests: each engine, a fresh schema for each test, any number of stores open on it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
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


#: Empties a schema but for what says that it is ours, faster than a new one is made.
_EMPTY = """
DO $$
DECLARE
    made record;
BEGIN
    SET LOCAL lock_timeout = '1s';
    SET LOCAL session_replication_role = replica;
    FOR made IN SELECT relname AS name, relkind AS kind FROM pg_class
        WHERE relnamespace = '{schema}'::regnamespace AND relkind IN ('r', 'S')
    LOOP
        IF made.kind = 'S' THEN
            PERFORM setval('{schema}.' || made.name, 1, false);
        ELSE
            EXECUTE 'DELETE FROM {schema}.' || made.name
                || CASE made.name WHEN 'meta' THEN $q$ WHERE name NOT IN ('schema', 'project')$q$ ELSE '' END;
        END IF;
    END LOOP;
END $$
"""


@pytest.fixture(scope="session")
def empty_schemas() -> list[str]:
    """The schemas that earlier tests are done with."""
    return []


@pytest.fixture
def db(
    engine: str, request: pytest.FixtureRequest, empty_schemas: list[str], tmp_path: Path
) -> Iterator[Database]:
    """A database without any rows, on each engine."""
    if engine == "sqlite":
        with Database(engine, tmp_path / "state") as made:
            yield made
            made.assert_sound()
        return
    url = request.getfixturevalue("postgres_url")
    made = Database(engine, tmp_path / "state", url)
    if empty_schemas:
        made.schema = empty_schemas.pop()
    with made:
        yield made
        made.assert_sound()
    with psycopg.connect(url) as connection, contextlib.suppress(psycopg.errors.LockNotAvailable):
        connection.execute(_EMPTY.replace("{schema}", made.schema))
        empty_schemas.append(made.schema)


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
