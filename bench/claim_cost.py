"""What one claim by a fresh process costs, by the length of the queue.

Makes a queue of N items of which half have their result, then starts fresh processes that open
the folder and claim one item each. Printed is CPU time from after the imports to the claim in
hand, and that of a bare `mkdir` plus a link in the same process as the yardstick.

    uv run bench/claim_cost.py [--sizes 1000,1000000] [--runs 9]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"

CHILD = """
import os, sys, time
sys.path.insert(0, sys.argv[2])
from hypervisor.queue.batches import open_folder
from hypervisor.claims.directory import DirectoryStore
from hypervisor.claims.port import Claim, Holder, HolderKind
from hypervisor.claims.workers import new_worker_id
folder = sys.argv[1]
begun = time.process_time_ns()
batch = open_folder(folder, cwd=folder)
place = batch.pin(line.item for line in batch.queue.take(1))[0]
name = new_worker_id("bench", os.getpid())
holder = Holder(id=name, kind=HolderKind.PROCESS, name="bench", lease_seconds=900)
store = DirectoryStore(place.root, holder)
claim = store.claim(place.key, place.item)
cost = time.process_time_ns() - begun
assert isinstance(claim, Claim), claim
store.release(claim, "measured")
bare = os.path.join(folder, "bare")
begun = time.process_time_ns()
os.mkdir(bare)
os.symlink("who", bare + "/owner")
yardstick = time.process_time_ns() - begun
os.unlink(bare + "/owner")
os.rmdir(bare)
store.close()
print(cost, yardstick)
"""


def fill(folder: Path, count: int) -> None:
    """Make a queue of *count* items, the first half of them done."""
    sys.path.insert(0, str(SCRIPTS))
    from hypervisor.core.keys import canonical, item_key  # noqa: PLC0415 - found only now
    from hypervisor.queue.queue import Cursor  # noqa: PLC0415

    results = folder / "results"
    results.mkdir(parents=True)
    base = str(folder.resolve())
    with open(folder / "queue.txt", "w", encoding="utf-8") as queue:
        for number in range(count):
            if number == count // 2:
                half = queue.tell()
            queue.write(f"item-{number}\n")
    for number in range(count // 2):
        key = item_key(canonical(f"item-{number}", base))
        record = {"item": f"item-{number}", "status": "success", "key": key, "generation": 1, "token": "0"}
        with open(results / f"{key}.json", "w", encoding="utf-8") as file:
            json.dump(record, file)
    (folder / "cursor").write_bytes(Cursor(next=half).to_bytes())


def measure(folder: Path, runs: int) -> tuple[list[float], list[float]]:
    """Return the cost of a claim and of the yardstick in microseconds, for each run."""
    costs, yardsticks = [], []
    for _ in range(runs + 1):
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(folder), str(SCRIPTS)],
            capture_output=True,
            text=True,
            check=True,
        )
        cost, yardstick = done.stdout.split()
        costs.append(int(cost) / 1000)
        yardsticks.append(int(yardstick) / 1000)
    return costs[1:], yardsticks[1:]  # the first run warms the caches


def main() -> None:
    """Measure each size and print a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="1000,10000,100000,1000000")
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    print("     items  claim us CPU (median)     min     max  mkdir+symlink us  ratio")
    for size in (int(part) for part in options.sizes.split(",")):
        scratch = Path(tempfile.mkdtemp(prefix="claim-cost-"))
        try:
            fill(scratch / "q", size)
            costs, yardsticks = measure(scratch / "q", options.runs)
            middle, yard = statistics.median(costs), statistics.median(yardsticks)
            print(
                f"{size:>10} {middle:>22.0f} {min(costs):>7.0f} {max(costs):>7.0f} {yard:>17.0f} "
                f"{middle / yard:>6.1f}",
                flush=True,
            )
        finally:
            shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
