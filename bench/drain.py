"""Draining a queue of no-op items: what a claim costs, and a whole life; durable or not.

Each round measures all rows of one size and number of workers one after another. The ratio of a row is
to the yardstick's last run before it, which is repeated right before each row of ours.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bench import measure
from bench.peers import CONTENDERS, there

#: Where the peers claim; their whole lives are told by the smallest size.
PEERS = ("litequeue", "huey", "persist-queue")
PEER_SIZE, PEER_WORKERS = 10_000, (1, 8)
#: From this size on the usual run has claims only, of one number of workers.
LONG, LONG_WORKERS = 100_000, 8

#: A number of items, a number of workers, and the rows: who, and whether the whole life.
Plan = tuple[int, int, list[tuple[str, bool]]]
#: Bytes that measurements may leave until the end.
_ROOM = 8 << 30

Row = dict[str, Any]
Say = Callable[[str], None]


@contextlib.contextmanager
def ground(where: Path) -> Iterator[Path]:
    """Give a measurement a new folder in *where*, and leave it there while there is room.

    Deleting thousands of directories makes those that are made next cost several times as much on ext4,
    so that whoever comes after would pay for whoever was before.
    """
    limit = _limit(where)
    yield Path(tempfile.mkdtemp(prefix="bench-", dir=where)).resolve()
    if _free(where) < limit:
        for folder in where.glob("bench-*"):
            measure.clear(folder)


@cache
def _limit(where: Path) -> int:
    return _free(where) - min(_ROOM, _free(where) // 2)


def _free(where: Path) -> int:
    told = os.statvfs(where)
    return told.f_bavail * told.f_frsize


class Table:
    """Rows of figures; a run is added to each in turn, to the yardstick first."""

    def __init__(self, say: Say) -> None:
        self.rows: list[Row] = []
        self._say = say

    def add(self, what: Row, cpu: float, wall: float, executed: Sequence[int]) -> None:
        """Add a run.

        Args:
            what: Who, and how many items and workers.
            cpu: Seconds of all processes.
            wall: Seconds.
            executed: How often each item was.
        """
        row = next((row for row in self.rows if what.items() <= row.items()), None)
        if row is None:
            row = {**what, "runs": []}
            self.rows.append(row)
        count = what["items"]
        run = {
            "cpu_us": round(1e6 * cpu / count, 2),
            "wall_s": round(wall, 4),
            "duplicates": sum(times > 1 for times in executed),
            "losses": count - sum(times > 0 for times in executed),
        }
        base = next(r for r in self.rows if all(r[key] == what[key] for key in ("items", "workers")))
        row["runs"].append(run)
        first = base["runs"][-1]
        run["cpu_ratio"] = round(run["cpu_us"] / first["cpu_us"], 3)
        run["wall_ratio"] = round(run["wall_s"] / first["wall_s"], 3)
        self._say(
            f"{row['name']:18} {'life ' if row['whole'] else 'claim'} {count:>7} items {row['workers']:>2} "
            f"workers {run['cpu_us']:>9.1f} us (x{run['cpu_ratio']:.2f}) {run['wall_s']:>8.3f} s"
            f" (x{run['wall_ratio']:.2f}), twice {run['duplicates']}, never {run['losses']}"
        )


def plan(sizes: Sequence[int], workers: Sequence[int], *, every: bool) -> Iterator[Plan]:
    """Yield what is measured; with *every* all lives too, which write several files an item."""
    yardstick, ours = ("mkdir", False), ("hypervisor", False)
    for count in sizes:
        for crew in workers:
            if count >= LONG and crew != LONG_WORKERS and not every:
                continue
            rows = [
                yardstick,
                ("cursor", False),
                yardstick,
                ours,
                ("sqlite", False),
                ("sqlite-blocks", False),
            ]
            if every or count <= PEER_SIZE // 10:
                rows += [yardstick, ("mkdir-race", False)]
            if every or count <= PEER_SIZE // 10 or (count <= PEER_SIZE and crew in PEER_WORKERS):
                rows += [yardstick, ("hypervisor", True), ("sqlite", True)]
            if crew in PEER_WORKERS:
                claims, lives = count == min(PEER_SIZE, max(sizes)), count == min(sizes) <= PEER_SIZE
                rows += [(name, False) for name in PEERS if claims and there(name)]
                rows += [(name, True) for name in PEERS if lives and there(name)]
            yield count, crew, rows


def drain(where: Path, runs: int, plans: Iterable[Plan], say: Say) -> list[Row]:
    """Measure the claims and lives that are planned."""
    table = Table(say)
    for count, crew, rows in plans:
        for _ in range(runs):
            for name, whole in rows:
                _measure(table, where, {"name": name, "whole": whole, "items": count, "workers": crew})
    return table.rows


def durable(where: Path, runs: int, count: int, say: Say) -> list[Row]:
    """Measure claims and completions that a power loss cannot take back."""
    table = Table(say)
    for crew in PEER_WORKERS:
        for _ in range(runs):
            for name in ("floor", "hypervisor-durable", "sqlite-full"):
                _measure(table, where, {"name": name, "whole": True, "items": count, "workers": crew})
    return table.rows


def _measure(table: Table, where: Path, what: Row) -> None:
    with ground(where) as folder:
        CONTENDERS[what["name"]].fill(folder, what["items"])
        words = [what["name"], str(folder), *(["--whole"] if what["whole"] else [])]
        found = measure.drained(words, what["workers"])
    table.add(what, found.cpu, found.wall, list(found.ran.values()))
