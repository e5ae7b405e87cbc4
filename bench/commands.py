"""P6: a command for each item: the batch worker and GNU parallel, with `xargs -P` as the yardstick.

The command is a shell that appends a byte to a file of the item's name, so that it can be seen how
often each was run.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from bench import measure
from bench.contenders import items
from bench.measure import Row, Say, Table, ground

_MARK = """#!/bin/sh
printf . >> "$1"
"""
_JOBS = (1, 8)


def command(name: str, jobs: int) -> list[str]:
    """Return the command that runs ``./mark`` for each line of ``queue.txt``."""
    if name == "xargs":
        return ["xargs", "-P", str(jobs), "-a", "queue.txt", "-n", "1", "./mark"]
    if name == "parallel":
        return ["parallel", "-j", str(jobs), "--joblog", "log", "--resume", "-a", "queue.txt", "./mark"]
    script = str(measure.SCRIPTS / "batch_worker.py")
    words = [sys.executable, script, "--dir", ".", "--all", "--workers", str(jobs)]
    return [*words, "--exec", "./mark {}"]


def commands(where: Path, runs: int, count: int, say: Say) -> list[Row]:
    """Measure each with one command at a time, and with eight."""
    table = Table("P6", "wall_us", say)
    names = [name for name in ("xargs", "batch-worker", "parallel") if "-" in name or shutil.which(name)]
    for jobs in _JOBS:
        for _ in range(runs):
            for name in names:
                with ground(where) as folder:
                    _lay_out(folder, count)
                    used = measure.spent(command(name, jobs), folder)
                    executed = [_times(folder / item) for item in items(count)]
                table.add(name, used, executed, items=count, workers=jobs)
    return table.rows


def _lay_out(folder: Path, count: int) -> None:
    (folder / "queue.txt").write_text("".join(f"{item}\n" for item in items(count)), "utf-8")
    (folder / "mark").write_text(_MARK, "utf-8")
    (folder / "mark").chmod(0o755)


def _times(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
