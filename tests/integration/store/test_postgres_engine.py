"""What the PostgreSQL engine promises beside the contract of both engines."""

from __future__ import annotations

import errno
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import psycopg
import pytest

from hypervisor.core.errors import StoreNewer, StoreUnusable
from hypervisor.store.base import Transaction
from hypervisor.store.postgres import PostgresEngine
from stores import Database, a_worker, done, fill, rows, take


def test_a_server_that_cannot_be_reached_is_told_without_its_url() -> None:
    url = "postgresql://user:secret-word@127.0.0.1:1/postgres"
    with pytest.raises(OSError, match="cannot be reached") as caught:
        PostgresEngine(url)
    assert caught.value.errno == errno.ECONNREFUSED
    assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize("word", ["se/cret", "12/cret", "se?cret", "se@cret", "se#cret", "se:cret"])
def test_a_password_that_is_not_escaped_is_not_told(word: str) -> None:
    with pytest.raises((StoreUnusable, OSError)) as caught:
        PostgresEngine(f"postgresql://user:{word}@127.0.0.1:1/postgres?connect_timeout=2")
    assert not {"se", "cret", "12"} & set(re.split(r"\W+", str(caught.value)))


def test_a_wrong_password_is_told_without_it(postgres_url: str) -> None:
    parts = urlsplit(postgres_url)
    with pytest.raises(StoreUnusable, match="refuses the user or the password") as caught:
        PostgresEngine(f"postgresql://{parts.username}:wrong-word@127.0.0.1:{parts.port}/postgres")
    assert "wrong-word" not in str(caught.value)


def test_projects_share_a_database_in_schemas_of_their_own(postgres_db: Database) -> None:
    other = Database("postgres", postgres_db.folder, postgres_db.url)
    with other:
        fill(postgres_db.open(), "a")
        assert other.open().batches.all() == []


def test_a_schema_of_a_newer_version_is_read_and_not_written(postgres_db: Database) -> None:
    store = postgres_db.open()
    batch = fill(store, "a")
    store.engine.write(lambda tx: tx.run("UPDATE meta SET value = '2' WHERE name = 'schema'"))
    older = postgres_db.open()
    assert older.batches.census(batch)["ready"] == 1
    with pytest.raises(StoreNewer, match="update hypervisor"):
        fill(older, "b")


def test_who_may_use_the_tables_needs_no_right_to_make_any(postgres_db: Database) -> None:
    fill(postgres_db.open(), "a")
    name = postgres_db.schema
    with psycopg.connect(postgres_db.url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'word'")
        admin.execute(f"GRANT USAGE ON SCHEMA {name} TO {name}")
        admin.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {name} TO {name}")
        admin.execute("REVOKE CREATE ON DATABASE postgres FROM PUBLIC")
    parts = urlsplit(postgres_db.url)
    url = f"postgresql://{name}:word@127.0.0.1:{parts.port}/postgres"
    engine = PostgresEngine(url, name)
    assert engine.read("SELECT count(*) FROM work") == [(1,)]
    engine.close()
    with pytest.raises(StoreUnusable, match="refuses this user"):
        PostgresEngine(url, "another_schema")


def test_a_deadlock_is_tried_again(postgres_db: Database) -> None:
    stores = [postgres_db.open(), postgres_db.open()]
    names = ("a", "b")
    for name in names:
        stores[0].batches.create(name, "", {})
    meeting, calls = threading.Barrier(2), [0, 0]

    def cross(number: int) -> None:
        def body(tx: Transaction) -> None:
            calls[number] += 1
            first, second = names if number == 0 else names[::-1]
            tx.run("SET LOCAL deadlock_timeout = '20ms'")
            # What returns something is waited for.
            tx.run("UPDATE batch SET drain_at = 1 WHERE name = :name RETURNING id", {"name": first})
            if calls[number] == 1:
                meeting.wait(20)
            tx.run("UPDATE batch SET drain_at = 1 WHERE name = :name", {"name": second})

        stores[number].engine.write(body)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(cross, range(2)))
    assert sum(calls) > 2


def test_a_connection_that_broke_is_made_anew(postgres_db: Database) -> None:
    store, admin = postgres_db.open(), postgres_db.open()
    batch, worker = fill(store, "a", "b"), a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, batch)
    ((pid,),) = rows(store, "SELECT pg_backend_pid()")
    admin.engine.read("SELECT pg_terminate_backend(:pid)", {"pid": pid})
    with pytest.raises(OSError, match="database server"):
        store.claims.complete_one(done(claim))
    assert store.claims.complete_one(done(claim)).result["status"] == "success"


def test_leases_are_by_the_servers_clock(postgres_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store = postgres_db.open()
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    monkeypatch.setattr("time.time", lambda: 0.0)
    monkeypatch.setattr("time.time_ns", lambda: 0)
    monkeypatch.setattr("time.monotonic_ns", lambda: 0)
    take(store, worker, batch)
    ((early, late),) = rows(
        store,
        "SELECT claimed_at - extract(epoch FROM now()) * 1000 < 60000, lease_until > claimed_at + 800000"
        " FROM attempt",
    )
    assert (early, late) == (True, True)
    assert store.claims.sweep_silent() == []


def test_a_durable_commit_waits_for_the_servers_disk_and_others_do_not(postgres_db: Database) -> None:
    engine = postgres_db.open().engine

    def setting(tx: Transaction) -> str:
        return str(tx.run("SHOW synchronous_commit")[0][0])

    assert engine.write(setting) == "off"
    assert engine.write(setting, durable=True) == "on"


def test_what_was_not_committed_is_begun_again_on_a_new_connection(postgres_db: Database) -> None:
    admin = postgres_db.open()
    engine = PostgresEngine(postgres_db.url, postgres_db.schema, patience=30.0)
    calls = []

    def body(tx: Transaction) -> int:
        calls.append(1)
        ((pid,),) = tx.run("SELECT pg_backend_pid()")
        tx.run("INSERT INTO meta (name, value) VALUES ('once', 'x')")
        if len(calls) == 1:
            admin.engine.read("SELECT pg_terminate_backend(:pid)", {"pid": pid})
        tx.run("SELECT 1")
        return len(calls)

    try:
        assert engine.write(body) == 2
        assert engine.read("SELECT count(*) FROM meta WHERE name = 'once'") == [(1,)]
    finally:
        engine.close()


def test_a_write_that_waits_for_nothing_is_begun_again_where_the_connection_broke_before(
    postgres_db: Database,
) -> None:
    # Its statement and its commit leave together: were they the first to find the connection broken, whether
    # they were done would not be known.
    admin = postgres_db.open()
    engine = PostgresEngine(postgres_db.url, postgres_db.schema, patience=30.0)
    try:
        ((pid,),) = engine.read("SELECT pg_backend_pid()")
        admin.engine.read("SELECT pg_terminate_backend(:pid)", {"pid": pid})
        engine.write(lambda tx: tx.run("INSERT INTO meta (name, value) VALUES ('once', 'x')"))
        assert engine.read("SELECT count(*) FROM meta WHERE name = 'once'") == [(1,)]
    finally:
        engine.close()


def test_a_statement_that_fails_after_others_left_with_it_undoes_them(postgres_db: Database) -> None:
    engine = postgres_db.open().engine
    add = "INSERT INTO meta (name, value) VALUES (:name, 'x')"

    def body(tx: Transaction) -> None:
        tx.run("SELECT 1")
        for name in ("first", "schema", "last"):  # the second is there already
            tx.run(add, {"name": name})

    with pytest.raises(psycopg.errors.UniqueViolation):
        engine.write(body)
    assert engine.read("SELECT name FROM meta WHERE value = 'x'") == []
    engine.write(lambda tx: tx.run(add, {"name": "after"}))
    assert engine.read("SELECT name FROM meta WHERE value = 'x'") == [("after",)]


def test_a_host_that_stands_still_within_a_transaction_locks_the_others_out_for_seconds_only(
    postgres_db: Database,
) -> None:
    ((timeout,),) = rows(postgres_db.open(), "SHOW idle_in_transaction_session_timeout")
    assert timeout == "5s"
