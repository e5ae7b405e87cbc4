"""What a store on PostgreSQL costs, on a real server that is started on loopback.

``claims`` (P9): workers drain one queue: our store; a raw ``FOR UPDATE SKIP LOCKED`` claim and an update, one
transaction each, with the commits synced as ours are; procrastinate and PgQueuer, where they are installed:
``uv run --with procrastinate --with pgqueuer bench/server.py claims``. Our store writes an attempt and two
events for each item, and fences; a raw claim does not.

``coordinators``: up to 1,000 coordinators, a thread and a connection each, claim an item, hold it for a
while, renew its lease every two seconds, and complete it. The rate that they offer is known (coordinators
by seconds held), so the curve shows where the server no longer keeps up.

It is one module, though a long one, as both need the same server, the same store and the same count of what
was done twice or never.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.util
import json
import multiprocessing
import os
import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "scripts"))
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import psycopg
from bench.contenders import items
from bench.measure import machine

from hypervisor.core.process import this_process
from hypervisor.store.claims import Claims
from hypervisor.store.liveness import new_worker_id
from hypervisor.store.postgres import PostgresEngine
from hypervisor.store.records import Completion, Item, Worker, WorkerKind
from hypervisor.store.store import Store
from postgres import start_server

_SETTINGS = {"claims": {"attempts": 3, "lease_seconds": 900.0}}
_RESULT = json.dumps({"status": "success", "outcome": "did nothing", "text": "x" * 300})
#: Between two renewals of a simulated coordinator, in seconds.
_BEAT_SECONDS = 2.0
#: Threads of one process: with more, Python's lock is what is measured.
_THREADS = 50


# ------------------------------------------------------------------------ P9


def _fill_raw(url: str, count: int) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("DROP TABLE IF EXISTS raw_item")
        db.execute(
            "CREATE TABLE raw_item (id bigint PRIMARY KEY, name text, state int, owner text, result text)"
        )
        db.execute("CREATE INDEX raw_waiting ON raw_item (id) WHERE state = 0")
        with db.cursor() as cursor:
            rows = [(number, name) for number, name in enumerate(items(count))]
            cursor.executemany("INSERT INTO raw_item (id, name, state) VALUES (%s, %s, 0)", rows)


def _drain_raw(url: str) -> int:
    done, owner = 0, str(os.getpid())
    with psycopg.connect(url, autocommit=True) as db:
        while True:
            with db.transaction():
                db.execute("SET LOCAL synchronous_commit = off")
                row = db.execute(
                    "UPDATE raw_item SET state = 1, owner = %s WHERE id = (SELECT id FROM raw_item "
                    "WHERE state = 0 ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id",
                    (owner,),
                ).fetchone()
            if row is None:
                return done
            db.execute("UPDATE raw_item SET state = 2, result = %s WHERE id = %s", (_RESULT, row[0]))
            done += 1


def _fill_ours(url: str, count: int) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("DROP SCHEMA IF EXISTS bench CASCADE")
    with Store(PostgresEngine(url, "bench"), "/nowhere", _SETTINGS) as store:
        batch = store.batches.create("bench", "", {})
        store.batches.add(batch.id, [Item(key=item, text=item) for item in items(count)])


def _ours(block: int) -> Callable[[str], int]:
    def drain(url: str) -> int:
        with Store(PostgresEngine(url, "bench"), "/nowhere", _SETTINGS) as store:
            worker, batch, done = _registered(store.claims), _batch_of(store), 0
            while claims := store.claims.claim_next(worker, batch, block):
                store.claims.complete([_done(one.attempt) for one in claims])
                done += len(claims)
            return done

    return drain


def _fill_procrastinate(url: str, count: int) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("DROP SCHEMA IF EXISTS procrastinate CASCADE; CREATE SCHEMA procrastinate")

    async def fill() -> None:
        app, task = _procrastinate(url)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            await task.batch_defer_async(*({"name": name} for name in items(count)))

    asyncio.run(fill())


def _procrastinate(url: str) -> tuple[Any, Any]:
    import procrastinate  # type: ignore[import-not-found, unused-ignore] # noqa: PLC0415 - where it is installed

    kwargs = {"options": "-c search_path=procrastinate"}
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url, kwargs=kwargs))

    @app.task(name="nothing")  # type: ignore[untyped-decorator] # there need be no such package
    async def nothing(name: str) -> None:
        _counted.append(name)

    return app, nothing


#: What a worker of another queue has processed.
_counted: list[str] = []


def _drain_procrastinate(url: str) -> int:
    async def drain() -> None:
        app, _ = _procrastinate(url)
        async with app.open_async():
            await app.run_worker_async(
                wait=False, concurrency=1, install_signal_handlers=False, listen_notify=False
            )

    asyncio.run(drain())
    return len(_counted)


def _fill_pgqueuer(url: str, count: int) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("DROP SCHEMA IF EXISTS pgqueuer CASCADE; CREATE SCHEMA pgqueuer")

    async def fill() -> None:
        from pgqueuer.db import PsycopgDriver  # type: ignore[import-not-found, unused-ignore] # noqa: PLC0415 - where it is installed
        from pgqueuer.queries import Queries  # type: ignore[import-not-found, unused-ignore] # noqa: PLC0415 - likewise

        async with await _pgqueuer_connection(url) as connection:
            queries = Queries(PsycopgDriver(connection))
            await queries.install()
            names = items(count)
            await queries.enqueue(["nothing"] * count, [name.encode() for name in names], [0] * count)

    asyncio.run(fill())


async def _pgqueuer_connection(url: str) -> Any:
    return await psycopg.AsyncConnection.connect(
        url, autocommit=True, options="-c search_path=pgqueuer", prepare_threshold=None
    )


def _drain_pgqueuer(url: str) -> int:
    async def drain() -> None:
        from pgqueuer.db import PsycopgDriver  # type: ignore[import-not-found, unused-ignore] # noqa: PLC0415 - where it is installed
        from pgqueuer.models import Job  # type: ignore[import-not-found, unused-ignore] # noqa: PLC0415 - likewise
        from pgqueuer.qm import QueueManager  # type: ignore[import-not-found, unused-ignore] # noqa: PLC0415 - likewise
        from pgqueuer.queries import Queries  # type: ignore[import-not-found, unused-ignore] # noqa: PLC0415 - likewise
        from pgqueuer.types import QueueExecutionMode  # type: ignore[import-not-found, unused-ignore] # noqa: PLC0415 - likewise

        async with await _pgqueuer_connection(url) as connection:
            manager = QueueManager(Queries(PsycopgDriver(connection)))

            @manager.entrypoint("nothing")  # type: ignore[untyped-decorator] # likewise
            async def nothing(job: Job) -> None:
                _counted.append(str(job.id))

            await manager.run(mode=QueueExecutionMode.drain, batch_size=10)

    asyncio.run(drain())
    return len(_counted)


_QUEUES: dict[str, tuple[Callable[[str, int], None], Callable[[str], int]]] = {
    "raw SKIP LOCKED": (_fill_raw, _drain_raw),
    "Hypervisor, one by one": (_fill_ours, _ours(1)),
    "Hypervisor, eight together": (_fill_ours, _ours(8)),
    "procrastinate": (_fill_procrastinate, _drain_procrastinate),
    "PgQueuer": (_fill_pgqueuer, _drain_pgqueuer),
}


#: What a worker of another queue imports: before the clock starts, as ours is imported by then too.
_IMPORTS = {
    "procrastinate": ("procrastinate",),
    "PgQueuer": ("pgqueuer.db", "pgqueuer.qm", "pgqueuer.queries"),
}
#: A round that takes longer than this is broken, in seconds.
_PATIENCE = 900.0


def _consume(name: str, url: str, start: Any, answers: Any) -> None:
    for module in _IMPORTS.get(name, ()):
        importlib.import_module(module)
    start.wait()
    begun = time.monotonic()
    done = _QUEUES[name][1](url)
    answers.put((done, begun, time.monotonic()))


def _answer(answers: Any, processes: Sequence[Any]) -> Any:
    """Return what the next worker reports.

    Raises:
        RuntimeError: A worker died, or takes too long.
    """
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(queue.Empty):
            return answers.get(timeout=1.0)
        if any(process.exitcode for process in processes):
            break
    for process in processes:
        process.kill()
    raise RuntimeError(f"a worker died or hangs; exit codes {[process.exitcode for process in processes]}")


def claims(url: str, runs: int, count: int, workers: Sequence[int]) -> None:
    """Print items a second for each queue and number of workers, the median of all rounds."""
    context = multiprocessing.get_context("spawn")
    names = [
        name for name in _QUEUES
        if name[0] not in "pP" or importlib.util.find_spec(name.lower()) is not None
    ]  # fmt: skip
    print("| queue | workers | items a second | of raw |\n|---|---|---|---|")
    for many in workers:
        rates: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(runs):
            for name in names:
                _QUEUES[name][0](url, count)
                start, answers = context.Barrier(many + 1), context.Queue()
                processes = [
                    context.Process(target=_consume, args=(name, url, start, answers)) for _ in range(many)
                ]
                for process in processes:
                    process.start()
                start.wait()
                told = [_answer(answers, processes) for _ in processes]
                for process in processes:
                    process.join()
                if sum(done for done, _, _ in told) != count:
                    raise RuntimeError(f"{name}: {sum(done for done, _, _ in told)} of {count} items")
                rates[name].append(count / (max(t[2] for t in told) - min(t[1] for t in told)))
                # The table comes once all rounds are over, which takes minutes.
                print(f"{name}, {many} workers: {rates[name][-1]:,.0f}/s", file=sys.stderr, flush=True)
        raw = statistics.median(rates["raw SKIP LOCKED"])
        for name in names:
            rate = statistics.median(rates[name])
            print(f"| {name} | {many} | {rate:,.0f} | {rate / raw:.2f} |", flush=True)


# ------------------------------------------------------------------- simulation


def _registered(claims: Claims) -> Worker:
    name = new_worker_id("bench", os.getpid())
    worker = Worker(id=name, kind=WorkerKind.PROCESS, name="bench", process=this_process())
    claims.add_worker(worker)
    return worker


def _batch_of(store: Store) -> int:
    batch = store.batches.find("bench")
    assert batch is not None
    return batch.id


def _done(attempt: int) -> Completion:
    return Completion(attempt=attempt, status="success", result=json.loads(_RESULT))


def _coordinators(url: str, threads: int, hold: float, seconds: float, start: Any, answers: Any) -> None:
    """Be *threads* coordinators for *seconds*; answer with the times of all calls."""
    stores = [Store(PostgresEngine(url, "bench"), "/nowhere", _SETTINGS) for _ in range(threads)]
    workers = [_registered(store.claims) for store in stores]
    times: dict[str, list[float]] = {"claim": [], "beat": [], "complete": []}
    faults: list[str] = []
    start.wait()
    end = time.monotonic() + seconds

    def timed(what: str, call: Callable[[], Any]) -> Any:
        begun = time.monotonic()
        answer = call()
        times[what].append(time.monotonic() - begun)
        return answer

    def live(store: Store, worker: Worker, number: int) -> None:
        try:
            batch = _batch_of(store)
            time.sleep(hold * number / threads)  # as coordinators do not begin at one moment
            while time.monotonic() < end:
                claim = timed("claim", lambda: store.claims.claim_next(worker, batch, 1))[0]
                done = time.monotonic() + hold
                while (left := done - time.monotonic()) > 0:
                    time.sleep(min(left, _BEAT_SECONDS))
                    if left > _BEAT_SECONDS:
                        timed("beat", partial(store.claims.renew, [claim.attempt]))
                timed("complete", partial(store.claims.complete, [_done(claim.attempt)]))
        except Exception as error:  # noqa: BLE001 - told with the figures
            faults.append(f"{type(error).__name__}: {error}"[:200])

    running = [
        threading.Thread(target=live, args=(store, worker, number))
        for number, (store, worker) in enumerate(zip(stores, workers, strict=True))
    ]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    answers.put((times, faults))
    for store in stores:
        store.close()


def coordinators(url: str, counts: Sequence[int], hold: float, seconds: float) -> None:
    """Print a row for each number of coordinators."""
    context = multiprocessing.get_context("spawn")
    print(
        "| coordinators | offered/s | completed/s | claim p50 / p99 ms | beat p99 ms | complete p50 / p99 ms "
        "| connections | bytes an item | dead rows | autovacuums | faults |\n" + "|---" * 11 + "|"
    )
    for count in counts:
        _fill_ours(url, int(1.2 * count * (seconds / hold + 2)))
        with psycopg.connect(url, autocommit=True) as db:
            before = _size(db)
            parts = [min(_THREADS, count - at) for at in range(0, count, _THREADS)]
            start, answers = context.Barrier(len(parts) + 1), context.Queue()
            processes = [
                context.Process(target=_coordinators, args=(url, part, hold, seconds, start, answers))
                for part in parts
            ]
            for process in processes:
                process.start()
            start.wait()
            used = db.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
            connections = (used.fetchone() or (0,))[0] - 1
            told = [_answer(answers, processes) for _ in processes]
            for process in processes:
                process.join()
            times = {
                what: sorted(t for one, _ in told for t in one[what])
                for what in ("claim", "beat", "complete")
            }
            faults = [fault for _, some in told for fault in some]
            done = len(times["complete"])
            vacuum = db.execute(
                "SELECT coalesce(sum(n_dead_tup), 0), coalesce(sum(autovacuum_count), 0) "
                "FROM pg_stat_user_tables WHERE schemaname = 'bench'"
            ).fetchone() or (0, 0)
            grown = (_size(db) - before) / max(1, done)
            print(
                f"| {count:,} | {count / hold:,.0f} | {done / seconds:,.0f} "
                f"| {_at(times['claim'], 0.5)} / {_at(times['claim'], 0.99)} | {_at(times['beat'], 0.99)} "
                f"| {_at(times['complete'], 0.5)} / {_at(times['complete'], 0.99)} | {connections:,} "
                f"| {grown:,.0f} | {vacuum[0]:,} | {vacuum[1]} | {len(faults)} |",
                flush=True,
            )
            for fault in sorted(set(faults))[:5]:
                print(f"  {fault}", file=sys.stderr)


def _size(db: psycopg.Connection[Any]) -> int:
    row = db.execute(
        "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class AS c "
        "WHERE c.relnamespace = 'bench'::regnamespace AND c.relkind = 'r'"
    ).fetchone()
    return int(row[0]) if row else 0


def _at(ordered: Sequence[float], share: float) -> str:
    return f"{ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000:,.1f}" if ordered else "-"


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("claims", "coordinators"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--coordinators", type=int, nargs="+", default=[10, 100, 300, 1000])
    parser.add_argument("--hold", type=float, default=5.0, help="seconds that an item is held")
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    with start_server(connections=1200) as url:
        print(", ".join(f"{name} {value}" for name, value in machine(Path("/tmp")).items()))
        if options.what == "claims":
            claims(str(url), options.runs, options.items, options.workers)
        else:
            coordinators(str(url), options.coordinators, options.hold, options.seconds)


if __name__ == "__main__":
    main()
