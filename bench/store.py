"""What the store costs: claims and results beside plain SQLite and beside other queues in one file.

Sections of docs/benchmarks.md:

* P1: claim and complete without fsync, CPU an item. Yardstick: plain SQLite, unfenced.
* P2: one claim by a fresh process, in queues of which half is done. Yardstick: the shortest queue.
* P3: claim and complete durably, wall time. Yardstick: plain SQLite with ``synchronous=FULL``.
* killed: what becomes of the item of a consumer that is killed while it works on it.

As a program it is one consumer: it opens a queue, prints ``ready``, waits for a line, drains the queue, and
prints one line of JSON. With ``--hold`` it prints the number of its first item and stays in the middle of it;
with ``--claim`` it claims once and reports what that took.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from bench import measure
from bench.contenders import CONTENDERS, PEERS, Ours, installed, number
from bench.measure import Row, Say, Spent, Table, ground

#: Fresh processes that claim once, in each round of P2.
_CLAIMS = 7
#: The items of a queue whose first consumer is killed, and for how long the next one tries.
_KILLED_ITEMS, _PATIENCE = 20, 3.0


# --------------------------------------------------------------------- sections


def claim_and_complete(where: Path, runs: int, count: int, workers: Sequence[int], say: Say) -> list[Row]:
    """Measure P1."""
    names = ["sqlite", "hypervisor", "hypervisor-blocks", *filter(installed, PEERS)]
    return _drain(where, Table("P1", "cpu_us", say), names, runs, count, workers)


def durably(where: Path, runs: int, count: int, workers: Sequence[int], say: Say) -> list[Row]:
    """Measure P3."""
    names = ["sqlite-full", "hypervisor-durable", "hypervisor-together"]
    return _drain(where, Table("P3", "wall_us", say), names, runs, count, workers)


def _drain(
    where: Path, table: Table, names: Sequence[str], runs: int, count: int, workers: Sequence[int]
) -> list[Row]:
    for many in workers:
        for _ in range(runs):
            for name in names:
                with ground(where) as folder:
                    CONTENDERS[name].fill(folder, count)
                    used = measure.drained([__file__, name, str(folder)], many)
                executed = [used.ran[item] for item in range(count)]
                table.add(name, used, executed, items=count, workers=many)
    return table.rows


def one_claim(where: Path, runs: int, sizes: Sequence[int], say: Say) -> list[Row]:
    """Measure P2: the queues are laid out once, half done; each process claims one more item."""
    table, folders = Table("P2", "cpu_us", say), {}
    for size in sizes:
        folders[size] = where / f"queue-{size}"
        folders[size].mkdir()
        fill_half(folders[size], size)
    for _ in range(runs):
        for size, folder in folders.items():
            answers = []
            for _ in range(_CLAIMS):
                (process,) = measure.consumers([__file__, "hypervisor", str(folder), "--claim"], 1)
                measure.go(process)
                answers.append(measure.answer_of(process))
            cpu, wall = (statistics.median(one[key] for one in answers) for key in ("cpu", "wall"))
            table.add("hypervisor", Spent(cpu=cpu, wall=wall, ran=Counter()), [1], items=size)
    return table.rows


def fill_half(folder: Path, size: int, block: int = 2000) -> None:
    """Lay out a queue of which half is done."""
    Ours.fill(folder, size)
    consumer = Ours(folder)
    consumer.block = block
    for _ in range(size // 2 // block):
        consumer.finish(consumer.take())
    consumer.block = size // 2 % block
    consumer.finish(consumer.take() if consumer.block else [])
    consumer.store.close()


def killed(where: Path, say: Say) -> list[Row]:
    """Kill a consumer of each in the middle of an item, and start another one."""
    rows = []
    for name in ("sqlite", "hypervisor", *filter(installed, PEERS)):
        with ground(where) as folder:
            CONTENDERS[name].fill(folder, _KILLED_ITEMS)
            (first,) = measure.consumers([__file__, name, str(folder), "--hold"], 1)
            measure.go(first)
            held = int(measure.line(first))
            first.kill()
            first.wait()
            (second,) = measure.consumers([__file__, name, str(folder), f"--until={held}"], 1)
            measure.go(second)
            ran = Counter(measure.answer_of(second)["ran"])
        others = sum(ran[item] != 1 for item in range(_KILLED_ITEMS) if item != held)
        rows.append({"section": "killed", "name": name, "again": ran[held], "others_wrong": others})
        say(f"killed: {rows[-1]}")
    return rows


# --------------------------------------------------------------------- consumer


def main() -> None:
    """Be one consumer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hold", action="store_true", help="stay in the middle of the first item")
    parser.add_argument("--claim", action="store_true", help="open the queue and claim once")
    parser.add_argument("--until", type=int, metavar="N", help="drain until item N was executed, or give up")
    options = parser.parse_args()
    contender = CONTENDERS[options.contender]
    consumer = None if options.claim else contender(options.folder)
    print("ready", flush=True)
    sys.stdin.readline()
    ran: list[str] = []
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    if consumer is None:
        contender(options.folder).take()
    elif options.hold:
        consumer.drain(_hold)
    else:
        consumer.drain(ran.append)
        while options.until is not None and options.until not in map(number, ran):
            if time.monotonic() - begun > _PATIENCE:
                break
            time.sleep(0.05)
            consumer.drain(ran.append)
    ended, used = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({
        "cpu": cpu, "wall": ended - begun, "begun": begun, "ended": ended,
        "ran": [number(item) for item in ran],
    }))  # fmt: skip


def _hold(item: str) -> None:
    print(number(item), flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
