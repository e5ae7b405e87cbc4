"""Real workers over one store, killed and stopped without end, and what must hold all the same.

::

    uv run bench/storm.py --items 10000 --workers 32 --kill-every 0.2 --seed 1
    uv run bench/storm.py --engine postgres --items 10000 --workers 32 --kill-every 0.2
    uv run bench/storm.py --items 1000000 --workers 64 --kill-every 0.5 --stop-every 2 \
        --work 0.001 --calm-after 600 --deadline 3600

Half of the workers are processes whose death is seen at once; the others hold by lease, on PostgreSQL half of
them on what seems to be another machine. With ``--files`` each result is also published into a file. Exit 0:
every invariant held; 1: one did not, each on a line of its own.

Workers are forked from this process, which has no database open while it does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
sys.path.append(str(Path(__file__).resolve().parents[1]))

from bench.storm_worker import BATCH, Place, StormWorker

from hypervisor.store.records import Item
from hypervisor.store.store import Store

#: On SQLite there are no other machines.
KINDS = {"sqlite": ("process", "lease"), "postgres": ("process", "lease", "process", "foreign")}
_TICK = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How hard it blows. Times in seconds; 0 for never."""

    items: int = 10_000
    workers: int = 32
    kill_every: float = 0.2
    stop_every: float = 1.0
    lease: float = 2.0
    block: int = 8
    work: float = 0.05
    files: bool = False
    seed: str = "1"
    deadline: float = 900.0
    #: After so long nobody is killed or stopped any more; 0: until all items have their results.
    calm_after: float = 0.0


@dataclass(slots=True)
class Storm:
    """One storm in *folder*, over SQLite or the PostgreSQL at *url*."""

    plan: Plan
    folder: str
    url: str = ""
    #: What it came to; and each invariant that did not hold.
    table: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    #: For each living worker its name; for each stopped one when it goes on; for each killed one its death.
    running: dict[int, str] = field(default_factory=dict)
    stopped: dict[int, float] = field(default_factory=dict)
    killed: dict[str, float] = field(default_factory=dict)
    _started: int = 0

    @property
    def place(self) -> Place:
        """Where it is."""
        plan = self.plan
        return Place(
            folder=self.folder,
            url=self.url,
            lease=plan.lease,
            block=plan.block,
            work=plan.work,
            files=plan.files,
        )

    def run(self) -> None:
        """Let it blow until every item has its result or the time is up; look at everything after it."""
        for name in ("logs", "files"):
            os.makedirs(os.path.join(self.folder, name))
        with self.place.open() as store:
            batch = store.batches.create("storm", self.folder, {})
            for first in range(0, self.plan.items, 5000):
                numbers = range(first, min(first + 5000, self.plan.items))
                store.batches.add(batch.id, [Item(key=f"item-{n:07}", text=f"item-{n}") for n in numbers])
        begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            for _ in range(self.plan.workers):
                self._start()
            self._blow(begun)
        finally:
            for pid in self.running:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        wall, used = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
        with self.place.open() as store:
            self.check(store)
        self.table |= {"wall s": round(wall, 1), "CPU s": round(cpu, 1)}

    def _start(self, kind: str = "") -> None:
        kinds = KINDS["postgres" if self.url else "sqlite"]
        kind = kind or kinds[self._started % len(kinds)]
        name = f"{kind}-{self._started:05}"
        self._started += 1
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                StormWorker(self.place, kind, name, self.plan.seed).run()
                code = 0
            except BaseException:  # noqa: BLE001 - whatever it is, it is told
                Path(self.folder, "logs", f"{name}.err").write_text(traceback.format_exc(), "utf-8")
            finally:
                os._exit(code)
        self.running[pid] = name

    def _blow(self, begun: float) -> None:
        plan, chance = self.plan, random.Random(self.plan.seed)
        kill_at, stop_at = begun + plan.kill_every, begun + plan.stop_every
        while self.running:
            now = time.monotonic()
            if now > begun + plan.deadline:
                self.broken.append(f"not done within {plan.deadline:g} s")
                return
            calm = 0 < plan.calm_after < now - begun
            for pid, at in list(self.stopped.items()):
                if calm or now >= at:
                    del self.stopped[pid]
                    os.kill(pid, signal.SIGCONT)
            calm = self._bury() or calm
            if not calm and plan.kill_every and now >= kill_at:
                kill_at = max(kill_at + plan.kill_every, now)  # those that were missed are not made up for
                awake = sorted(
                    set(self.running) - set(self.stopped)
                )  # those that stand still shall come back
                self._kill(chance.choice(awake or sorted(self.running)))
            able = sorted(set(self.running) - set(self.stopped))
            if able and not calm and plan.stop_every and now >= stop_at:
                stop_at = max(stop_at + plan.stop_every, now)
                os.kill(pid := chance.choice(able), signal.SIGSTOP)
                self.stopped[pid] = now + chance.uniform(1.5, 2.5) * plan.lease
                self.counts["stops"] += 1
            time.sleep(_TICK)

    def _bury(self) -> bool:
        """Look who ended by itself; return whether any did as it found that every item has its result."""
        for pid in list(self.running):
            found, status = os.waitpid(pid, os.WNOHANG)
            if not found:
                continue
            name = self.running.pop(pid)
            self.stopped.pop(pid, None)
            if status == 0:
                self.counts["ended"] += 1
            else:
                error = Path(self.folder, "logs", f"{name}.err").read_text("utf-8")
                self.broken.append(f"{name} failed: {error[-2000:]}")
                self._start(name.partition("-")[0])
        return self.counts["ended"] > 0

    def _kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        name = self.running.pop(pid)
        self.killed[name] = time.time() * 1000
        os.waitpid(pid, 0)
        self.stopped.pop(pid, None)
        self.counts["kills"] += 1
        self._start(name.partition("-")[0])

    def check(self, store: Store) -> None:
        """Compare what the store holds with what the workers were told, and count."""
        told = Told.read(os.path.join(self.folder, "logs"))
        items = {item.work.key: item.work for item in store.batches.items(BATCH)}
        census = store.batches.census(BATCH)
        self.broken += store.violations()
        missing = [key for key, work in items.items() if work.result is None]
        torn = [key for key, work in items.items() if work.result and work.result.get("key") != key]
        winners = Counter(told.accepted.values())
        doubles = [key for key, count in winners.items() if count > 1]
        for attempt, key in told.accepted.items():
            if items[key].result not in (None, told.results[attempt]):
                self.broken.append(
                    f"{key}: attempt {attempt} was told accepted, the result is {items[key].result}"
                )
        both = sorted(told.lost & told.accepted.keys())
        self.broken += [f"attempt {attempt} was told lost, and accepted" for attempt in both]
        for key, work in items.items() if self.plan.files else ():
            file = Path(self.folder, "files", key)
            if not work.published or not file.exists() or file.read_text("utf-8") != json.dumps(work.result):
                torn.append(key)
        self.broken += [f"no result: {key}" for key in missing] + [f"torn: {key}" for key in torn]
        self.broken += [f"accepted twice: {key}" for key in doubles]
        executed = len(told.ran)
        self.table = {
            "engine": store.engine.dialect,
            "items": self.plan.items,
            "accepted": sum(work.result is not None for work in items.values()),
            "doubles": len(doubles),
            "lost": len(missing) + self.plan.items - len(items),
            "stuck": census["running"] + census["ready"],
            "torn": len(torn),
            "executions": executed,
            "of them repeated": executed - len(set(told.ran.values())),
            "told ClaimLost": len(told.lost),
            **{name: self.counts[name] for name in ("kills", "stops")},
            **self._recovery(store, told),
        }

    def _recovery(self, store: Store, told: Told) -> dict[str, str]:
        """Return for each kind of worker the seconds from a kill until its claims could be claimed again."""
        rows = store.engine.read("SELECT worker, ended_at FROM attempt WHERE outcome = 'revoked'")
        seconds: dict[str, list[float]] = {}
        for worker, ended in rows:
            name = told.workers.get(worker, "")
            if name in self.killed:
                late = (ended - self.killed[name]) / 1000
                seconds.setdefault(name.partition("-")[0], []).append(max(0.0, late))
        return {f"recovery s, {kind}": _quantiles(found) for kind, found in sorted(seconds.items())}


@dataclass(slots=True)
class Told:
    """What the workers logged."""

    #: For each attempt that ran, and that was told accepted, its item; for each accepted one the result.
    ran: dict[int, str] = field(default_factory=dict)
    accepted: dict[int, str] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    #: For each worker's id its name.
    workers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str) -> Told:
        """Read all logs."""
        told = cls()
        for path in Path(folder).glob("*.log"):
            for line in path.read_text("utf-8").splitlines():
                words = json.loads(line)
                if "ran" in words:
                    told.ran[words["ran"]] = words["key"]
                elif "accepted" in words:
                    told.accepted[words["accepted"]] = words["key"]
                    told.results[words["accepted"]] = words["result"]
                elif "lost" in words:
                    told.lost.add(words["lost"])
                else:
                    told.workers[words["worker"]] = path.stem
        return told


def _quantiles(values: list[float]) -> str:
    ranked = sorted(values)
    half, most = (ranked[min(len(ranked) - 1, int(share * len(ranked)))] for share in (0.5, 0.99))
    return f"p50 {half:.2f}, p99 {most:.2f} of {len(ranked)}"


@contextlib.contextmanager
def server(engine: str, url: str) -> Iterator[str]:
    """Yield the URL of a database server: *url*, or one that is started for the storm; "" for SQLite."""
    if engine == "sqlite" or url:
        yield url
        return
    from postgres import start_server  # noqa: PLC0415 - of the tests; only where it is used

    with start_server() as started:
        yield started


def main() -> int:
    """Run a storm as the command line says; tell by the exit whether all invariants held."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in asdict(Plan()).items():
        if isinstance(default, bool):
            parser.add_argument("--" + name, action="store_true")
        else:
            parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
    parser.add_argument("--engine", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--url", default="", help="a PostgreSQL server; one is started if it is missing")
    parser.add_argument("--folder", help="an empty folder to storm in; it is kept")
    parser.add_argument("--json", action="store_true")
    words = vars(parser.parse_args())
    engine, url, folder, as_json = (words.pop(name) for name in ("engine", "url", "folder", "json"))
    scratch = folder or tempfile.mkdtemp(prefix="storm-")
    with server(engine, url) as found:
        storm = Storm(Plan(**words), scratch, found)
        storm.run()
    if as_json:
        print(json.dumps({"plan": words, "table": storm.table, "broken": storm.broken}, indent=1))
    else:
        width = max(map(len, storm.table))
        lines = [f"{name:{width}}  {value}" for name, value in storm.table.items()]
        print("\n".join([*lines, *(f"BROKEN: {line}" for line in storm.broken[:50])]))
    if storm.broken:
        print(f"{len(storm.broken)} broken; kept: {scratch}", file=sys.stderr)
    elif not folder:
        shutil.rmtree(scratch)
    return 1 if storm.broken else 0


if __name__ == "__main__":
    sys.exit(main())
