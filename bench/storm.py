"""Real workers, killed and stopped without end, and what must hold all the same.

::

    uv run bench/storm.py --items 10000 --workers 32 --kill-every 0.2 --seed 1
    uv run bench/storm.py --items 10000 --workers 32 --disk-full 5     # as root: mounts a tmpfs

Half of the workers are plain processes, a quarter holds by lease, a quarter seems to be on
machines of its own. Exit 0: every invariant held; 1: one did not, each on a line of its own.
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
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCRIPTS = os.environ.get("STORM_SCRIPTS") or str(Path(__file__).resolve().parents[1] / "scripts")
sys.path[:0] = [SCRIPTS, str(Path(__file__).resolve().parents[1])]

from bench.storm_worker import Told
from hypervisor.claims.directory import DirectoryStore
from hypervisor.claims.port import ItemState
from hypervisor.keys import canonical, generation_name, item_key, split_generation
from hypervisor.queue import Cursor, Queue

WORKER = Path(__file__).resolve().with_name("storm_worker.py")
KINDS = ("local", "lease", "local", "foreign")
_TICK = 0.01
_SAMPLE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How hard it blows. Times in seconds; 0 for never."""

    items: int = 10_000
    workers: int = 32
    kill_every: float = 0.2
    stop_every: float = 1.0
    lease: float = 2.0
    seed: str = "1"
    deadline: float = 600.0
    disk_full: float = 0.0


@dataclass(slots=True)
class Wound:
    """A claim whose worker was killed, until somebody else has it or it is finished."""

    kind: str
    key: str
    generation: int
    killed: float
    #: Whether the whole queue was handed out, so that workers had nothing but rescue to do.
    late: bool
    healed: float | None = None


@dataclass(slots=True)
class Findings:
    """What a storm did and what came of it; `broken` is empty if every invariant held."""

    table: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


class Storm:
    """One storm over one folder, which must be new or empty.

    Args:
        plan: See `Plan`.
        folder: Where the queue and the store lie.
        logs: Where the workers keep their side logs: elsewhere, as the folder's disk may be full.
    """

    def __init__(self, plan: Plan, folder: str, logs: str) -> None:
        self.plan, self.folder, self.logs = plan, os.path.realpath(folder), logs
        self.chance = random.Random(plan.seed)  # noqa: S311 - no secret
        self.findings = Findings()
        self.counts: Counter[str] = Counter()
        self.wounds: list[Wound] = []
        #: Each result as it was when it was first seen.
        self.results: dict[str, bytes] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.stopped: dict[str, float] = {}
        self.over = threading.Event()
        self.queue = Queue(os.path.join(self.folder, "queue.txt"), os.path.join(self.folder, "cursor"))
        self.keys: list[str] = []
        self._stops: list[int] = []
        self._started = 0

    def run(self) -> Findings:
        """Let it blow until the queue is drained or the time is up; look at everything after it."""
        self._lay_out()
        begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        sampler = threading.Thread(target=self._sample, daemon=True)
        sampler.start()
        filler = threading.Thread(target=self._fill, daemon=True)
        if self.plan.disk_full:
            filler.start()
        try:
            for number in range(self.plan.workers):
                self._start(KINDS[number % len(KINDS)])
            self._blow(begun)
        finally:
            for process in self.running.values():
                process.kill()
                process.wait()
            self.over.set()
            sampler.join()
            if self.plan.disk_full:
                filler.join()
        wall, used = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        self._check()
        cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
        self.findings.table |= {**self._recovery(), "wall s": round(wall, 1), "CPU s": round(cpu, 1)}
        return self.findings

    def _lay_out(self) -> None:
        os.makedirs(self.folder, exist_ok=True)
        os.makedirs(self.logs, exist_ok=True)
        items = [f"work/item-{number:06d}" for number in range(self.plan.items)]
        self.keys = [item_key(canonical(item, self.folder)) for item in items]
        lines = [f"{item}\n" for item in items]
        for item in items[::100]:  # a second spelling of one in a hundred
            lines.append(f"work/./{item.removeprefix('work/')}\n")
            self.keys.append(item_key(canonical(item, self.folder)))
        Path(self.queue.path).write_text("".join(lines), "ascii")
        self._stops = [line.stop for line in self.queue.lines()]

    def _start(self, kind: str) -> None:
        self._started += 1
        name = f"{kind}-{self._started:05d}"
        words = [sys.executable, "-I", str(WORKER), self.folder, "--logs", self.logs, "--id", name]
        words += ["--kind", kind, "--lease", str(self.plan.lease), "--seed", self.plan.seed]
        with open(os.path.join(self.logs, f"{name}.err"), "wb") as errors:
            self.running[name] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                env={**os.environ, "STORM_SCRIPTS": SCRIPTS},
            )  # fmt: skip

    # ------------------------------------------------------------------ while it blows

    def _blow(self, begun: float) -> None:
        kill_at, stop_at = (begun + every for every in (self.plan.kill_every, self.plan.stop_every))
        while self.running:
            now = time.monotonic()
            if now > begun + self.plan.deadline:
                self.findings.broken.append(f"not drained within {self.plan.deadline:g} s")
                return
            drained = len(self.results) >= self.plan.items
            for name, at in list(self.stopped.items()):
                if drained or now >= at:
                    del self.stopped[name]
                    self.running[name].send_signal(signal.SIGCONT)
            self._bury(drained)
            if not drained and self.plan.kill_every and now >= kill_at:
                kill_at += self.plan.kill_every
                self._kill(self.chance.choice(sorted(self.running)))
            able = sorted(set(self.running) - set(self.stopped))
            if not drained and able and self.plan.stop_every and now >= stop_at:
                stop_at += self.plan.stop_every
                self._halt(self.chance.choice(able))
            self._heal()
            time.sleep(_TICK)

    def _bury(self, drained: bool) -> None:
        """See who ended by itself, which none may do before the queue is drained."""
        for name, process in list(self.running.items()):
            code = process.poll()
            if code is None:
                continue
            del self.running[name]
            self.stopped.pop(name, None)
            if code:
                last = Path(self.logs, f"{name}.err").read_text("utf-8", "replace").strip()[-300:]
                self.findings.broken.append(f"{name} died by itself (exit {code}): {last}")
            elif missing := self.plan.items - len(self._finished()):
                self.findings.broken.append(f"{name} left while {missing} items were open")
            if (
                not drained
                and len(self.running) < self.plan.workers
                and len(self._finished()) < self.plan.items
            ):
                self._start(name.partition("-")[0])

    def _halt(self, name: str) -> None:
        self.running[name].send_signal(signal.SIGSTOP)
        self.stopped[name] = time.monotonic() + self.chance.uniform(1.5, 2.5) * self.plan.lease
        self.counts["stops"] += 1

    def _kill(self, name: str) -> None:
        """Kill one worker; hold it still before, for as long as it takes to see what it holds."""
        process = self.running.pop(name)
        self.stopped.pop(name, None)
        process.send_signal(signal.SIGSTOP)
        patience = time.monotonic() + 0.1  # it stops once its system call is through
        while _state(process.pid) not in "TZX" and time.monotonic() < patience:
            time.sleep(0.0005)
        late = self._cursor().next >= self._stops[-1]
        held = [(key, generation) for key, generation, who in self._open_claims() if who == name]
        process.kill()
        killed = time.monotonic()
        process.wait()
        kind = name.partition("-")[0]
        self.wounds += [Wound(kind, key, generation, killed, late) for key, generation in held]
        self.counts["kills"] += 1
        self._start(kind)

    def _open_claims(self) -> Iterator[tuple[str, int, str]]:
        """Yield key, generation and worker of every claim that neither an end nor a result has ended."""
        intents = {}
        for worker in self._names("workers"):
            with contextlib.suppress(FileNotFoundError):
                data = Path(self.folder, "workers", worker).read_bytes()
                intents[data.rstrip(b" ").decode("ascii", "replace")] = worker
        for name in self._names("locks"):
            path = os.path.join(self.folder, "locks", name)
            key, generation = split_generation(name)
            try:
                worker = json.loads(os.readlink(path + "/owner"))["holder"]
            except FileNotFoundError:
                worker = intents.get(name, "")
            if os.path.isdir(path) and not os.path.islink(path + "/end") and key not in self.results:
                yield key, generation, worker

    def _heal(self) -> None:
        for wound in self.wounds:
            if wound.healed is None:
                successor = generation_name(wound.key, wound.generation + 1)
                found = (self._result(wound.key), os.path.join(self.folder, "locks", successor))
                if any(map(os.path.lexists, found)):
                    wound.healed = time.monotonic()

    def _sample(self) -> None:
        """Read each result once, soon after it has appeared; watch the queue's low mark."""
        try:
            while not self.over.wait(_SAMPLE):
                low = self._cursor().low
                for key in self._finished() - self.results.keys():
                    self.results[key] = Path(self._result(key)).read_bytes()
                below = {key for key, stop in zip(self.keys, self._stops, strict=True) if stop <= low}
                if early := below - self._finished():
                    self.findings.broken.append(f"the low mark passed {len(early)} open items")
        except OSError as error:
            self.findings.broken.append(f"the sampler failed: {error}")

    def _fill(self) -> None:
        """Fill the disk once a third is done, names first, and keep it full for a while."""
        while len(self.results) < self.plan.items / 3 and not self.over.wait(_TICK):
            pass
        filler = Path(self.folder).parent / "filler"
        filler.mkdir()
        until = time.monotonic() + self.plan.disk_full
        with open(filler / "data", "ab", buffering=0) as data:
            while time.monotonic() < until and not self.over.wait(_TICK):
                with contextlib.suppress(OSError):
                    while True:
                        (filler / str(self.counts["names taken"])).touch()
                        self.counts["names taken"] += 1
                with contextlib.suppress(OSError):
                    while data.write(bytes(1 << 16)):
                        self.counts["fillings"] += 1
        self.counts["done while full"] = len(self._finished()) - len(self.results)
        shutil.rmtree(filler)

    # ------------------------------------------------------------------ after it

    def _check(self) -> None:
        """Look for everything that must not be, on the disk and in what the workers were told."""
        self._heal()
        broken, finished, expected = self.findings.broken, self._finished(), set(self.keys)
        store = DirectoryStore(self.folder)
        records: dict[str, dict[str, Any]] = {}
        self.counts["torn"] = 0
        for key in sorted(finished):
            data = Path(self._result(key)).read_bytes()
            try:
                records[key] = json.loads(data)
                whole = records[key]["key"] == key and records[key]["status"] == "success"
            except (ValueError, KeyError, TypeError):
                whole = False
            if not whole:
                self.counts["torn"] += 1
                broken.append(f"{key}: torn, or not its own result: {data[:200]!r}")
            if self.results.setdefault(key, data) != data:
                broken.append(f"{key}: the result has changed")
        broken += [f"a result of no item: {key}" for key in sorted(finished - expected)]
        lost = sorted(expected - finished)
        broken += [
            f"{key}: no result; attempts {store.attempts(key)}, held {store.held(key)}" for key in lost
        ]
        told = Told.read(self.logs)
        broken += told.contradictions(records)
        left = {folder: len(self._names(folder)) for folder in ("locks", "trash", "workers")}
        if not lost:
            store.tidy()
            broken += [f"left in {folder}/: {names}" for folder in left if (names := self._names(folder))]
        ours = {"queue.txt", "cursor", "manifest.json", "results", *left}
        broken += [f"left in the folder: {name}" for name in sorted(set(os.listdir(self.folder)) - ours)]
        for folder, _, names in os.walk(self.folder):
            paths = (os.path.join(folder, name) for name in names)
            broken += [f"an empty file: {path}" for path in paths if not os.lstat(path).st_size]
        states = Counter(store.snapshot(expected).values())
        if states[ItemState.FINISHED] + len(lost) != self.plan.items or len(self._stops) != len(self.keys):
            broken.append(f"the census does not close: {states}, {len(self._stops)} lines")
        winners = {(key, record.get("token")) for key, record in records.items()}
        self.findings.table = {
            "items": self.plan.items,
            "accepted": len(finished & expected),
            "doubles": sum(n > 1 for n in Counter(key for key, _ in told.accepted).values()),
            "lost": len(lost),
            "stuck": sum(wound.healed is None for wound in self.wounds),
            "torn": self.counts["torn"],
            "executions": told.ran.total(),
            "of them repeated": told.ran.total() - len({key for key, _ in told.ran}),
            "told ClaimLost": len(told.lost),
            "winners whose beat was refused": len(winners & told.silenced.keys()),
            "waits for room": len(told.trouble),
            "workers that looked for orphans": told.rescuers,
            "kills": self.counts["kills"],
            "stops": self.counts["stops"],
            "generations max": max((generation for _, generation in told.ran), default=0),
            "left before the last tidying": left,
            **{name: n for name, n in self.counts.items() if name not in ("kills", "stops", "torn")},
        }

    def _recovery(self) -> dict[str, str]:
        """Return p50, p99 and the worst time from a kill to the claim's next life, by kind of worker."""
        table = {}
        for kind in sorted(set(KINDS)):
            for late in (False, True):
                mine = [wound for wound in self.wounds if wound.kind == kind and wound.late == late]
                times = sorted(wound.healed - wound.killed for wound in mine if wound.healed)
                if times:
                    p50, p99 = (times[int(part * (len(times) - 1))] for part in (0.5, 0.99))
                    when = "queue handed out" if late else "queue not empty"
                    table[f"recovery s, {kind}, {when}"] = (
                        f"p50 {p50:.2f}  p99 {p99:.2f}  max {times[-1]:.2f}  ({len(times)})"
                    )
        return table

    # ------------------------------------------------------------------ details

    def _names(self, folder: str) -> list[str]:
        try:
            return os.listdir(os.path.join(self.folder, folder))
        except FileNotFoundError:  # before the first worker has come
            return []

    def _finished(self) -> set[str]:
        return {name.removesuffix(".json") for name in self._names("results")}

    def _result(self, key: str) -> str:
        return os.path.join(self.folder, "results", f"{key}.json")

    def _cursor(self) -> Cursor:
        """Read the cursor without its lock, which a stopped worker may hold."""
        try:
            return Cursor.from_bytes(Path(self.folder, "cursor").read_bytes())
        except FileNotFoundError:
            return Cursor()


def _state(pid: int) -> str:
    stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    return stat[stat.rindex(")") + 2]


@contextlib.contextmanager
def ground(plan: Plan, folder: str) -> Iterator[str]:
    """Give a storm its folder: a disk of its own, just large enough, if that is to be full."""
    if not plan.disk_full:
        yield folder
        return
    disk = os.path.join(folder, "disk")
    os.makedirs(disk)
    size, names = plan.items * 3 * 4096 + (32 << 20), plan.items * 2 + 4000
    options = f"size={size},nr_inodes={names}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "storm", disk], check=True)
    try:
        yield os.path.join(disk, "store")
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def main() -> int:
    """Run a storm as the command line says; tell by the exit whether all invariants held."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in asdict(Plan()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
    parser.add_argument("--folder", help="an empty folder to storm in; kept")
    parser.add_argument("--json", action="store_true")
    words = vars(parser.parse_args())
    folder, as_json = words.pop("folder"), words.pop("json")
    plan = Plan(**words)
    if plan.disk_full and os.geteuid() != 0:
        print("storm.py: --disk-full mounts a small disk, which only root may; start it as root")
        return 2
    scratch = folder or tempfile.mkdtemp(prefix="storm-")
    with ground(plan, os.path.join(scratch, "store")) as place:
        findings = Storm(plan, place, os.path.join(scratch, "side")).run()
    if as_json:
        print(json.dumps(asdict(findings), indent=1))
    else:
        width = max(map(len, findings.table))
        print("\n".join(f"{name:{width}}  {value}" for name, value in findings.table.items()))
        print("\n".join(f"BROKEN: {line}" for line in findings.broken[:50]))
    if not folder and not findings.broken:
        shutil.rmtree(scratch)
    elif findings.broken:
        print(f"{len(findings.broken)} broken; everything is kept in {scratch}", file=sys.stderr)
    return 1 if findings.broken else 0


if __name__ == "__main__":
    sys.exit(main())
