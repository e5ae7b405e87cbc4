"""What running a command costs beside running it: no-op items and tasks, eight at once.

In one run, per item, medians of several rounds: `batch_worker.py --exec true` (claims, results, logs),
`hypervisor run --agent exec` on tasks in the project's folder and in worktrees, `xargs -P`, and GNU
parallel where it is installed. No yardstick keeps a result, claims anything, or survives a kill.

    uv run bench/overhead.py [--items 1000] [--tasks 100] [--jobs 8] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def timed(words: list[str], cwd: Path, text: str = "") -> float:
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd)}
    begun = time.monotonic()
    subprocess.run(words, cwd=cwd, env=environment, input=text, text=True, capture_output=True, check=False)
    return time.monotonic() - begun


def items(folder: Path, options: argparse.Namespace) -> float:
    (folder / "queue.txt").write_text("".join(f"item {n}\n" for n in range(options.items)))
    script = str(ROOT / "scripts/batch_worker.py")
    words = [sys.executable, script, "--dir", ".", "--all", "--workers", str(options.jobs), "--exec", "true"]
    return timed(words, folder) / float(options.items)


def tasks(folder: Path, options: argparse.Namespace, *more: str) -> float:
    (folder / "tasks").mkdir()
    for number in range(options.tasks):
        text = f"---\nid: t-{number}\nstatus: active\nfiles: [f-{number}]\n---\n# T\n"
        (folder / f"tasks/t-{number}.md").write_text(text)
    (folder / "agent").write_text('#!/bin/sh\ntouch "f-${HYPERVISOR_TASK_ID#t-}"\n')
    (folder / "agent").chmod(0o755)
    for words in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=A", "-c", "user.email=a@example.invalid", "commit", "-qm", "Begin"],
    ):
        subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)
    script = str(ROOT / "scripts/hypervisor_cli.py")
    words = [sys.executable, script, "run", "--all", "-j", str(options.jobs), "--agent", "exec"]
    return timed([*words, "--exec", str(folder / "agent"), *more], folder) / float(options.tasks)


def yardstick(words: list[str]) -> Callable[[Path, argparse.Namespace], float]:
    def run(folder: Path, options: argparse.Namespace) -> float:
        text = "".join(f"item{n}\n" for n in range(options.items))
        return timed(words, folder, text) / float(options.items)

    return run


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    jobs = str(options.jobs)
    ways: dict[str, Callable[[Path, argparse.Namespace], float]] = {
        "xargs -P": yardstick(["xargs", "-P", jobs, "-n", "1", "true"]),
        "batch_worker --exec": items,
        "run, isolation none": lambda folder, o: tasks(folder, o, "--isolation", "none"),
        "run, worktrees": tasks,
    }
    if shutil.which("parallel"):
        ways["GNU parallel"] = yardstick(["parallel", "-j", jobs, "true"])
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(way(Path(folder), options))
    base = statistics.median(found["xargs -P"])
    for name, seconds in found.items():
        middle = statistics.median(seconds)
        print(f"{name:20} {middle * 1000:8.2f} ms an item, {middle / base:6.1f} times xargs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
