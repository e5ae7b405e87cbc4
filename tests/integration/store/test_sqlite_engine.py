"""What the SQLite engine promises beside the contract of both engines."""

from __future__ import annotations

import errno
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import apsw
import pytest

from hypervisor.core.errors import StoreDamaged, StoreNewer, StoreUnusable
from hypervisor.store import batches, claim_rows, sqlite, statements
from hypervisor.store.sqlite import FILE, SqliteEngine
from hypervisor.store.store import Store
from stores import Database, a_worker, at_one_moment, done, fill, kinds, take

NOW = {"now": 0, "lease_now": 0}


def engine_of(store: Store) -> SqliteEngine:
    """Return the engine of a store on SQLite."""
    assert isinstance(store.engine, SqliteEngine)
    return store.engine


def connection_of(store: Store) -> apsw.Connection:
    """Return its connection."""
    return engine_of(store)._connection


def plan(store: Store, statement: str, **parameters: object) -> str:
    """Return SQLite's plan for a statement."""
    text = "EXPLAIN QUERY PLAN " + statements.render(statement, "sqlite")
    return "\n".join(str(row[3]) for row in store.engine.read(text, parameters))


# ---------------------------------------------------------------------------------------------- plans


@pytest.fixture
def full(sqlite_db: Database) -> Store:
    """A store with rows, and without statistics: plans must not depend on them."""
    store = sqlite_db.open()
    batch, worker = fill(store, *(f"item-{number}" for number in range(300))), a_worker()
    store.claims.add_worker(worker)
    found = store.claims.claim_next(worker, batch, 100)
    store.claims.complete([done(claim) for claim in found[:80]])
    return store


def test_claiming_costs_the_same_at_any_length_of_the_queue(full: Store) -> None:
    found = plan(full, claim_rows.SQL.next_ready, batch=1, limit=1)
    assert "USING INDEX batch_item_ready (batch=?)" in found
    assert "TEMP B-TREE" not in found, "the order is the index's"
    assert "SCAN" not in found


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (claim_rows.SQL.expired, "one_open_attempt"),
        (claim_rows.SQL.holders, "one_open_attempt"),
        (claim_rows.SQL.open_of_worker, "attempt_open_worker"),
        (claim_rows.SQL.holder, "one_open_attempt"),
        (claim_rows.SQL.open_attempt_of, "one_open_attempt"),
        (claim_rows.SQL.unpublished, "work_unpublished"),
        (claim_rows.SQL.latest, "sqlite_autoindex_work_1"),
        (batches.SQL.any_ready, "batch_item_ready"),
    ],
    ids=[
        "expired",
        "holders",
        "open_of_worker",
        "holder",
        "open_attempt_of",
        "unpublished",
        "latest",
        "any_ready",
    ],
)
def test_a_look_costs_by_what_is_open_and_not_by_what_was(full: Store, statement: str, index: str) -> None:
    found = plan(full, statement, worker="w", work=1, key="k", batch=1, after=0, limit=5)
    # Whichever of the small partial indexes is walked: it holds what is open, and nothing else.
    assert index in found or "attempt_open_worker" in found, found
    assert "SCAN attempt\n" not in found + "\n"


@pytest.mark.parametrize(
    "name", ["complete_attempt", "end_attempt", "decide", "give_back", "renew", "claim_works"]
)
def test_a_transition_finds_its_rows_by_their_ids(full: Store, name: str) -> None:
    words = dict.fromkeys(("attempt", "work", "counted", "limit", "delay", "published", "lease"), 1)
    texts = dict.fromkeys(("outcome", "status", "detail", "tokens", "cost_usd", "log", "result", "gave_up"))
    found = plan(full, getattr(claim_rows.SQL, name), ids="[1]", **words, **texts)
    assert "USING INTEGER PRIMARY KEY (rowid=?)" in found, found


def test_no_statement_is_compiled_twice(full: Store) -> None:
    worker, connection = a_worker(), connection_of(full)
    full.claims.add_worker(worker)

    def life() -> None:
        full.claims.complete([done(claim) for claim in full.claims.claim_next(worker, 1, 3)])

    compiled: list[object] = []

    def note(*words: object) -> int:
        compiled.append(words)
        return apsw.SQLITE_OK

    connection.authorizer = note  # asked while a statement is compiled, and at no other time
    life()
    compiled.clear()
    life()
    # The settings of `synchronous`, before the claim and before the completion, are compiled by nature.
    assert len(compiled) <= 2, compiled


# ----------------------------------------------------------------------------- what cannot be a store here


def test_a_schema_of_a_newer_version_is_read_and_not_written(sqlite_db: Database) -> None:
    store = sqlite_db.open()
    batch = fill(store, "a")
    newer = apsw.Connection(str(sqlite_db.folder / FILE))
    newer.pragma("user_version", sqlite.SCHEMA + 1)
    newer.close()
    older = sqlite_db.open()
    assert older.batches.census(batch)["ready"] == 1
    with pytest.raises(StoreNewer, match="update hypervisor"):
        fill(older, "b")
    assert store.batches.census(batch)["queued"] == 1


def test_a_network_file_system_is_refused_with_what_would_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "network_file_system", lambda _: "nfs4")
    with pytest.raises(StoreUnusable, match=r"nfs4 file system .* HYPERVISOR_HOME name a folder"):
        SqliteEngine(tmp_path / FILE)
    assert list(tmp_path.iterdir()) == []


def test_a_library_with_the_bug_that_loses_commits_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    with pytest.raises(StoreUnusable, match=r"SQLite 3\.51\.2 can lose commits .* install the package apsw"):
        SqliteEngine(tmp_path / FILE)


def test_a_file_that_is_no_database_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreDamaged, match=FILE):
        SqliteEngine(path)
    assert path.read_bytes() == b"not a database" * 100


def test_a_damaged_page_is_told_with_the_files_name(sqlite_db: Database, tmp_path: Path) -> None:
    store = sqlite_db.open()
    fill(store, *(f"item-{number}" for number in range(500)))
    store.close()
    path = sqlite_db.folder / FILE
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[16:18], "big")
    for page in range(len(data) // size - 10, len(data) // size):  # of the rows; the schema is before
        data[page * size : page * size + 64] = b"\xff" * 64
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(data)
    engine = SqliteEngine(damaged)
    assert engine.damage()
    with pytest.raises(StoreDamaged, match=r"damaged\.db.* move it away together with damaged\.db-wal"):
        engine.read("SELECT count(text) FROM work, batch_item")
    engine.close()


def test_a_missing_store_is_not_made_by_who_only_looks(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Store.open(tmp_path, {"claims": {"attempts": 3, "lease_seconds": 900}}, create=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told_as_such(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="denied") as caught:
        SqliteEngine(tmp_path / FILE)
    assert caught.value.errno in (errno.EACCES, errno.EROFS)


# ------------------------------------------------------------------------------------- files and upkeep


def test_the_files_are_their_owners_alone(sqlite_db: Database) -> None:
    fill(sqlite_db.open(), "a")
    for name in (FILE, f"{FILE}-wal", f"{FILE}-shm", f"{FILE}-gate"):
        assert stat.S_IMODE(os.stat(sqlite_db.folder / name).st_mode) == 0o600, name


def test_the_log_stays_small_beside_servers_that_stay_open(sqlite_db: Database) -> None:
    servers, worker = [sqlite_db.open() for _ in range(8)], a_worker()
    batch = fill(servers[0], *(f"item-{number}" for number in range(40)))
    servers[0].claims.add_worker(worker)
    for call in range(5000 // 4):
        server = servers[call % 8]
        for claim in server.claims.claim_next(worker, batch, 1):
            server.claims.release(claim, "again")
        server.batches.census(batch)
        server.engine.version()
    size = os.path.getsize(sqlite_db.folder / f"{FILE}-wal")
    assert size < 16 << 20, f"{size >> 20} MB"


def test_a_backup_that_is_made_while_others_write_is_sound(sqlite_db: Database, tmp_path: Path) -> None:
    store, writer, stop = sqlite_db.open(), sqlite_db.open(), threading.Event()
    batch, worker = fill(store, *(f"item-{number}" for number in range(50))), a_worker()
    store.claims.add_worker(worker)

    def churn() -> None:
        while not stop.is_set():
            for claim in writer.claims.claim_next(worker, batch, 5):
                writer.claims.release(claim, "again")

    with ThreadPoolExecutor(1) as pool:
        churning = pool.submit(churn)
        for number in range(3):
            engine_of(store).backup(tmp_path / f"copy-{number}.db")
        stop.set()
        churning.result()
    for number in range(3):
        engine = SqliteEngine(tmp_path / f"copy-{number}.db")
        copy = Store(engine, tmp_path, {"claims": {"attempts": 3, "lease_seconds": 900}})
        assert engine.damage() == ""
        assert copy.violations() == []
        assert copy.batches.census(batch)["queued"] == 50
        copy.close()


def test_a_reader_leaves_no_cursor_open(sqlite_db: Database) -> None:
    reader, writer, worker = sqlite_db.open(), sqlite_db.open(), a_worker()
    batch = fill(writer, *(f"item-{number}" for number in range(30)))
    writer.claims.add_worker(worker)
    next(reader.batches.items(batch))
    next(reader.events.since(0), None)
    writer.claims.complete([done(claim) for claim in writer.claims.claim_next(worker, batch, 30)])
    busy, log, copied = connection_of(writer).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
    assert (busy, log, copied) == (0, 0, 0), "an open reader keeps the log from being reset"


def test_a_body_that_raises_changes_nothing_and_lets_others_write(sqlite_db: Database) -> None:
    store, other = sqlite_db.open(), sqlite_db.open()
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)

    def half(tx: object) -> None:
        tx.run("UPDATE work SET state = 'running'")  # type: ignore[attr-defined]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.engine.write(half)
    assert take(other, worker, batch).key == "a"
    assert kinds(list(store.events.since(0))) == ["claimed"]


def test_a_store_that_is_closed_says_so(sqlite_db: Database) -> None:
    store = sqlite_db.open()
    store.close()
    store.close()
    with pytest.raises(RuntimeError, match="closed"):
        store.batches.all()


def test_many_threads_may_share_one_store(sqlite_db: Database) -> None:
    store, worker = sqlite_db.open(), a_worker()
    batch = fill(store, *(f"item-{number}" for number in range(100)))
    store.claims.add_worker(worker)

    def work(_: int) -> int:
        count = 0
        while found := store.claims.claim_next(worker, batch, 3):
            count += len(store.claims.complete([done(claim) for claim in found]))
        return count

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) == 100


def test_a_few_processes_that_make_the_file_at_one_moment_all_get_it_each_time(tmp_path: Path) -> None:
    def make(place: Path, _: int) -> None:
        SqliteEngine(place).close()

    for number in range(60):
        assert at_one_moment(6, partial(make, tmp_path / f"{number}.db")) == [0] * 6
