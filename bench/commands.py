"""A command for each item: the batch worker and GNU parallel, with `xargs -P` as the yardstick.

The command is a shell that appends a byte to a file of the item's name, so that it can be seen how
often each was run.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench import measure
from bench.contenders import items
from bench.drain import PEER_WORKERS, Row, Say, Table, ground

#: The first that runs the first item, if that is asked for, tells its pid and stays in the middle of it.
MARK = """#!/bin/sh
printf . >> "$1"
if [ -e hold ] && [ "$1" = item-0000000 ]; then
    rm hold
    echo $$ > held.new
    mv held.new held
    exec sleep 600
fi
"""


def command(name: str, jobs: int) -> list[str]:
    """Return the command that runs `MARK` for each line of ``queue.txt``."""
    if name == "xargs":
        return ["xargs", "-P", str(jobs), "-a", "queue.txt", "-n", "1", "./mark"]
    if name == "parallel":
        return ["parallel", "-j", str(jobs), "--joblog", "log", "--resume", "-a", "queue.txt", "./mark"]
    script = str(measure.SCRIPTS / "batch_worker.py")
    words = [sys.executable, script, "--dir", ".", "--all", "--workers", str(jobs)]
    return [*words, "--exec", "./mark {}"]


def there() -> list[str]:
    """Return who is installed; the yardstick first."""
    return [name for name in ("xargs", "batch-worker", "parallel") if name[0] == "b" or shutil.which(name)]


def commands(where: Path, runs: int, count: int, say: Say) -> list[Row]:
    """Measure each with as many commands at once as there are workers elsewhere."""
    table = Table(say)
    for jobs in PEER_WORKERS:
        for _ in range(runs):
            for name in there():
                with ground(where) as folder:
                    _lay_out(folder, count)
                    used = measure.spent(command(name, jobs), folder)
                    executed = [_times(folder / item) for item in items(count)]
                what = {"name": name, "whole": True, "items": count, "workers": jobs}
                table.add(what, used.cpu, used.wall, executed)
    return table.rows


def killed(where: Path, count: int) -> Iterator[Row]:
    """Kill each in the middle of an item, and start it anew."""
    for name in there()[1:]:
        with ground(where) as folder:
            _lay_out(folder, count)
            (folder / "hold").touch()
            words = command(name, 1)
            first = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while not (folder / "held").exists():
                time.sleep(0.01)
            first.kill()
            first.wait()
            begun = time.monotonic()
            again = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            after = _again(folder / "item-0000000", again, begun)
            again.wait(60)
            left_running = _end(int((folder / "held").read_text("utf-8")))
            never = sum(_times(folder / item) == 0 for item in items(count))
        fate = "stranded" if after is None else "again"
        row = {"name": name, "fate": fate, "after_s": after, "others_never": never}
        yield {**row, "beside": "not tried", "first_goes_on": left_running}


def _again(path: Path, process: subprocess.Popen[bytes], begun: float) -> float | None:
    """Return the seconds from *begun* to the second execution; None if the process ends without it."""
    while True:
        ended = process.poll() is not None
        if _times(path) > 1:
            return round(time.monotonic() - begun, 3)
        if ended:
            return None
        time.sleep(0.005)


def _end(pid: int) -> bool:
    """End what the killed one has left; tell whether it still ran."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _lay_out(folder: Path, count: int) -> None:
    (folder / "queue.txt").write_text("".join(f"{item}\n" for item in items(count)), "utf-8")
    (folder / "mark").write_text(MARK, "utf-8")
    (folder / "mark").chmod(0o755)


def _times(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
