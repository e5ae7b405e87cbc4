"""Real workers, killed and stopped without end, and what must hold all the same.

::

    uv run bench/storm.py --items 10000 --workers 32 --kill-every 0.2 --seed 1
    uv run bench/storm.py --items 10000 --workers 32 --disk-full 5     # as root: mounts a tmpfs
    uv run bench/storm.py --items 10000 --workers 32 --skew 3600       # clocks an hour apart; libfaketime
    uv run bench/storm.py --items 1000000 --workers 64 --kill-every 0.5 --stop-every 2 \
        --calm-after 600 --deadline 3600                               # half an hour, and 5 GB

Half of the workers are plain processes, a quarter holds by lease, a quarter seems to be on
machines of its own. Exit 0: every invariant held; 1: one did not, each on a line of its own.
"""

from __future__ import annotations

import argparse
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, os.environ.get("STORM_SCRIPTS") or str(Path(__file__).resolve().parents[1] / "scripts"))
sys.path.append(str(Path(__file__).resolve().parents[1]))

from bench.storm_disk import fill, ground
from bench.storm_scene import Scene, Told, Wound, digest, recovery

from hypervisor.core.keys import canonical, item_key
from hypervisor.queue.queue import SEGMENT

WORKER = str(Path(__file__).resolve().with_name("storm_worker.py"))
KINDS = ("local", "lease", "local", "foreign")
_TICK = 0.01
#: As Debian's package faketime installs it.
_FAKETIME = f"/usr/lib/{os.uname().machine}-linux-gnu/faketime/libfaketime.so.1"
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
    #: After so long nobody is killed or stopped any more; 0: until the queue is drained.
    calm_after: float = 0.0
    #: By so much the clocks of every third and every fourth worker are ahead, and behind.
    skew: float = 0.0


class Storm:
    """One storm over *folder*, new or empty; *logs* lie elsewhere, as the folder's disk may be full."""

    def __init__(self, plan: Plan, folder: str, logs: str) -> None:
        self.plan, self.scene, self.logs = plan, Scene(folder), logs
        self.chance = random.Random(plan.seed)
        #: What it came to; and each invariant that did not hold.
        self.table: dict[str, Any] = {}
        self.broken: list[str] = []
        self.counts: Counter[str] = Counter()
        self.wounds: list[Wound] = []
        #: A digest of each result as it was when it was first seen.
        self.results: dict[str, bytes] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.stopped: dict[str, float] = {}
        self.over = threading.Event()
        #: For each line of the queue the item's key, and where the line starts.
        self.lines: list[tuple[str, int]] = []
        self._started = 0

    def run(self) -> None:
        """Let it blow until the queue is drained or the time is up; look at everything after it."""
        self._lay_out()
        begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        threads = [threading.Thread(target=act, daemon=True) for act in (self._sample, self._fill)]
        for thread in threads:
            thread.start()
        try:
            for number in range(self.plan.workers):
                self._start(KINDS[number % len(KINDS)])
            self._blow(begun)
        finally:
            for process in self.running.values():
                process.kill()
                process.wait()
            self.over.set()
            for thread in threads:
                thread.join()
        wall, used = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        self.check()
        cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
        self.table |= {**recovery(self.wounds), "wall s": round(wall, 1), "CPU s": round(cpu, 1)}

    def _lay_out(self) -> None:
        os.makedirs(self.scene.folder, exist_ok=True)
        os.makedirs(self.logs, exist_ok=True)
        items = [f"work/item-{number:06d}" for number in range(self.plan.items)]
        items += [item.replace("/", "/./") for item in items[::100]]  # a second spelling of some
        with open(os.path.join(self.scene.folder, "queue.txt"), "wb") as queue:
            for item in items:
                self.lines.append((item_key(canonical(item, self.scene.folder)), queue.tell()))
                queue.write(f"{item}\n".encode())

    def _start(self, kind: str) -> None:
        self._started += 1
        name = f"{kind}-{self._started:05d}"
        words = [sys.executable, "-I", WORKER, self.scene.folder, "--logs", self.logs, "--id", name]
        words += ["--kind", kind, "--lease", str(self.plan.lease), "--seed", self.plan.seed]
        environment = {**os.environ, **self._clock()}
        with open(os.path.join(self.logs, f"{name}.err"), "wb") as errors:
            self.running[name] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stderr=errors, env=environment
            )

    def _clock(self) -> dict[str, str]:
        """Return what makes the next worker's time of day another one; its files keep the machine's."""
        skew = {2: self.plan.skew, 3: -self.plan.skew}.get(self._started % 4, 0.0)
        if not skew:
            return {}
        return {
            "LD_PRELOAD": _FAKETIME, "FAKETIME": f"{skew:+.0f}s", "NO_FAKE_STAT": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip

    def _blow(self, begun: float) -> None:
        kill_at, stop_at = (begun + every for every in (self.plan.kill_every, self.plan.stop_every))
        while self.running:
            now = time.monotonic()
            if now > begun + self.plan.deadline:
                self.broken.append(f"not drained within {self.plan.deadline:g} s")
                return
            calm = 0 < self.plan.calm_after < now - begun or len(self.results) >= self.plan.items
            for name, at in list(self.stopped.items()):
                if calm or now >= at:
                    del self.stopped[name]
                    self.running[name].send_signal(signal.SIGCONT)
            self._bury()
            if not calm and self.plan.kill_every and now >= kill_at:
                kill_at += self.plan.kill_every
                self._kill(self.chance.choice(sorted(self.running)))
            able = sorted(set(self.running) - set(self.stopped))
            if not calm and able and self.plan.stop_every and now >= stop_at:
                stop_at += self.plan.stop_every
                self.running[name := self.chance.choice(able)].send_signal(signal.SIGSTOP)
                self.stopped[name] = now + self.chance.uniform(1.5, 2.5) * self.plan.lease
                self.counts["stops"] += 1
            for wound in self.wounds:
                wound.look(self.scene)
            time.sleep(_TICK)

    def _bury(self) -> None:
        """See who ended by itself, which none may do before the queue is drained."""
        for name, process in list(self.running.items()):
            if process.poll() is None:
                continue
            del self.running[name]
            self.stopped.pop(name, None)
            missing = self.plan.items - len(self.scene.finished())
            if process.returncode or missing:
                last = Path(self.logs, f"{name}.err").read_text("utf-8", "replace").strip()[-300:]
                how = f"exit {process.returncode}, {missing} items open"
                self.broken.append(f"{name} ended by itself ({how}): {last}")
            if missing:
                self._start(name.partition("-")[0])

    def _kill(self, name: str) -> None:
        """Kill one worker; hold it still before, for as long as it takes to see what it holds."""
        process = self.running[name]
        process.send_signal(signal.SIGSTOP)
        if process.returncode is not None:
            return  # it had ended by itself: `_bury` sees to it
        patience = time.monotonic() + 0.1  # it stops once its system call is through
        while _state(process.pid) not in "TZX" and time.monotonic() < patience:
            time.sleep(0.0005)
        late, held = self.scene.cursor()[0] > self.lines[-1][1], list(self.scene.claims_of(name))
        process.kill()
        killed = time.monotonic()
        process.wait()
        del self.running[name]
        self.stopped.pop(name, None)
        kind = name.partition("-")[0]
        self.wounds += [Wound(kind + how, key, generation, killed, late) for key, generation, how in held]
        self.counts["kills"] += 1
        self._start(kind)

    def _sample(self) -> None:
        """Read each result once, soon after it has appeared; hold that what is settled has results."""
        took, known = 0.0, set[int]()
        try:
            while not self.over.wait(max(_SAMPLE, 4 * took)):  # it must not be what most of the time goes to
                begun = time.monotonic()
                settled = self.scene.cursor()[1] - known
                known |= settled
                finished = self.scene.finished()
                for key in finished - self.results.keys():
                    self.results[key] = digest(self.scene.result(key).read_bytes())
                keys = [key for key, start in self.lines if start // SEGMENT in settled] if settled else []
                self.broken += [f"settled, and open: {key}" for key in keys if key not in finished]
                took = time.monotonic() - begun
        except OSError as error:
            self.broken.append(f"the sampler failed: {error}")

    def _fill(self) -> None:
        """Fill the disk once a third is done, if it is to be full."""
        while len(self.results) < self.plan.items / 3 and not self.over.wait(_TICK):
            pass
        if self.plan.disk_full and not self.over.is_set():
            filler = Path(self.scene.folder).parent / "filler"
            fill(filler, self.plan.disk_full, lambda: len(self.scene.finished()), self.over, self.counts)

    def check(self) -> None:
        """Compare what lies on the disk with what the workers were told, and count."""
        for wound in self.wounds:
            wound.look(self.scene)
        left = {folder: len(self.scene.names(folder)) for folder in ("locks", "trash", "workers")}
        left["drafts"] = sum(name[0] == "." for place in (".", "workers") for name in self.scene.names(place))
        told, keys, records = Told.read(self.logs), {key for key, _ in self.lines}, dict[str, Any]()
        self.broken += self.scene.faults(keys, self.results, records)
        self.broken += told.contradictions(records)
        winners = {(key, record.get("token")) for key, record in records.items()}
        done = len(records.keys() & keys)
        self.table = {
            "items": self.plan.items,
            "accepted": done,
            "doubles": sum(n > 1 for n in Counter(key for key, _ in told.accepted).values()),
            "lost": self.plan.items - done,
            "stuck": sum(wound.healed is None for wound in self.wounds),
            "torn": sum(": torn" in line for line in self.broken),
            "executions": told.ran.total(),
            "of them repeated": told.ran.total() - len({key for key, _ in told.ran}),
            "told ClaimLost": len(told.lost),
            "winners whose beat was refused": len(winners & told.silenced.keys()),
            "waits for room": len(told.trouble),
            "generations max": max((generation for _, generation in told.ran), default=0),
            "claims whose worker was killed": len(self.wounds),
            "left before the last tidying": left,
            **self.counts,
        }


def _state(pid: int) -> str:
    stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")  # there, as nobody waited for it
    return stat[stat.rindex(")") + 2]


def main() -> int:
    """Run a storm as the command line says; tell by the exit whether all invariants held."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in asdict(Plan()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
    parser.add_argument("--folder", help="an empty folder to storm in; it is kept")
    parser.add_argument("--json", action="store_true")
    words = vars(parser.parse_args())
    folder, as_json = words.pop("folder"), words.pop("json")
    plan = Plan(**words)
    if plan.disk_full and os.geteuid() != 0:
        print("storm.py: --disk-full mounts a small disk, which only root may; start it as root")
        return 2
    if plan.skew and not os.path.exists(_FAKETIME):
        print("storm.py: --skew needs libfaketime: apt-get install faketime")
        return 2
    scratch = folder or tempfile.mkdtemp(prefix="storm-")
    with ground(plan.items, os.path.join(scratch, "store"), small=bool(plan.disk_full)) as place:
        storm = Storm(plan, place, os.path.join(scratch, "side"))
        storm.run()
    if as_json:
        print(json.dumps({"plan": asdict(plan), "table": storm.table, "broken": storm.broken}, indent=1))
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
