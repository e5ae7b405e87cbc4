#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["pyyaml>=6.0.2", "filelock>=3.16", "psutil>=6.0", "rich>=13.9"]
# ///
"""All figures of docs/scale.md: our tools and commands beside other task trackers, on the same tasks.

::

    uv run bench/trackers.py --render             # all of it, about an hour; writes the page
    uv run bench/trackers.py --sizes 1000 --no-peers
    uv run bench/trackers.py --quick              # small and few: whether it works, not how fast
    sudo uv run bench/trackers.py --ahead --render    # on a machine that others use meanwhile

The peers are Backlog.md (npm `backlog.md`), which reads the very files that we read, and Task Master (npm
`task-master-ai`), which gets the same tasks in its one JSON file. They are installed with npm into a
temporary folder; --npm D takes those of that folder. A command that takes longer than --patience seconds
is ended, and told as that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from bench import measure
from bench.scale import lay_out, lay_out_json, render
from bench.times import Row, percentiles
from bench.tools import commands, tools

RESULTS = measure.ROOT / "docs/scale.json"
PAGE = measure.ROOT / "docs/scale.md"
PACKAGES = {"Backlog.md": "backlog.md", "Task Master": "task-master-ai"}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--sizes", type=_numbers, help="tasks (1000,10000,100000)")
    made.add_argument("--processes", type=_numbers, default=[1, 16], help="at once (1,16)")
    made.add_argument("--calls", type=int, default=200, help="rounds of tools in all (200)")
    made.add_argument("--commands", type=int, default=32, help="rounds of commands in all (32)")
    made.add_argument("--peer-sizes", type=_numbers, help="tasks for the peers (1000,10000)")
    made.add_argument("--no-peers", action="store_true", help="ours only")
    made.add_argument("--npm", type=Path, help="a folder in which the peers are installed")
    made.add_argument("--patience", type=float, default=120.0, help="seconds for a peer's command (120)")
    made.add_argument("--ahead", action="store_true", help="ahead of all other processes; for root")
    made.add_argument("--quick", action="store_true", help="small sizes, few calls")
    made.add_argument("--folder", type=Path, help="where to measure (the system's temporary folder)")
    made.add_argument("--json", type=Path, default=RESULTS, help=f"what is written ({RESULTS.name} in docs/)")
    made.add_argument("--render", action="store_true", help=f"write docs/{PAGE.name} too")
    made.add_argument("--no-run", action="store_true", help="measure nothing: print, or render, what is kept")
    return made


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


@contextlib.contextmanager
def ahead(options: argparse.Namespace) -> Iterator[None]:
    """Let what is started within run ahead of all other processes, if that is asked for."""
    if not options.ahead:
        yield
        return
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def ours(where: Path, options: argparse.Namespace) -> list[Row]:
    """Measure our tools and commands for each size and number of processes."""
    rows: list[Row] = []
    for size in options.sizes:
        folder = where / f"ours-{size}"
        lay_out(folder, size)
        say(f"ours: {size:,} tasks; the first look")
        began = time.perf_counter()
        with ahead(options):
            rows += commands(folder, size, 1, 0)[:1]
        say(f"  {time.perf_counter() - began:.1f} s")
        for processes in options.processes:
            # A command looks at each file's time: with very many they take long.
            rounds = options.commands if size <= 10_000 else options.commands // 4
            with ahead(options):
                rows += tools(folder, size, processes, options.calls)
                say(f"  tools, {processes} processes")
                rows += commands(folder, size, processes, max(rounds, processes))[1:]
            say(f"  commands, {processes} processes")
        measure.clear(folder)
    return rows


# ------------------------------------------------------------------------ peers


def install(where: Path) -> dict[str, str]:
    """Install the peers; return their versions."""
    if not (where / "node_modules").is_dir():
        where.mkdir(parents=True, exist_ok=True)
        words = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(where), *PACKAGES.values()]
        subprocess.run(words, cwd=where, check=True, capture_output=True)
    found = {}
    for name, package in PACKAGES.items():
        told = json.loads((where / "node_modules" / package / "package.json").read_text("utf-8"))
        found[name] = told["version"]
    return found


def peers(where: Path, npm: Path, options: argparse.Namespace) -> list[Row]:
    """Measure the commands of the peers that answer the same questions."""
    rows = []
    for size in options.peer_sizes:
        for name, make in (("Backlog.md", lay_out), ("Task Master", lay_out_json)):
            folder = where / f"peer-{size}"
            make(folder, size)
            for label, words in _peer_commands(name, npm, size):
                seconds = []
                for _ in range(3 if size <= 1000 else 1):
                    with ahead(options):
                        took = _timed(words, folder, options.patience)
                    seconds.append(took)
                    if took >= options.patience:
                        break
                what = {"kind": "peer", "who": name, "name": label, "size": size, "processes": 1}
                rows.append(what | percentiles(seconds) | {"ended": max(seconds) >= options.patience})
                say(f"{name}, {size:,}: {label}: {rows[-1]['p50_ms']:.0f} ms")
            measure.clear(folder)
    return rows


def _peer_commands(name: str, npm: Path, size: int) -> list[tuple[str, list[str]]]:
    some = str(size // 2)
    if name == "Backlog.md":
        words = [str(npm / "node_modules/.bin/backlog")]
        return [
            ("list", [*words, "task", "list", "--plain"]),
            ("list of one status", [*words, "task", "list", "-s", "To Do", "--plain"]),
            ("show", [*words, "task", some, "--plain"]),
            ("begin", [*words, "task", "edit", some, "-s", "In Progress", "--plain"]),
            ("complete", [*words, "task", "edit", some, "-s", "Done", "--plain"]),
            ("create", [*words, "task", "create", "One more", "--plain"]),
        ]
    words = [str(npm / "node_modules/.bin/task-master")]
    return [
        ("list", [*words, "list"]),
        ("list of one status", [*words, "list", "--status", "in-progress"]),
        ("next", [*words, "next"]),
        ("show", [*words, "show", some]),
        ("begin", [*words, "set-status", f"--id={some}", "--status=in-progress"]),
        ("complete", [*words, "set-status", f"--id={some}", "--status=done"]),
    ]


def _timed(words: list[str], folder: Path, patience: float) -> float:
    """Return the seconds of a command; *patience* for one that takes longer.

    Raises:
        RuntimeError: It failed.
    """
    environ = {**os.environ, "HOME": str(folder.parent), "CI": "1", "TASKMASTER_SKIP_AUTO_UPDATE": "1"}
    began = time.perf_counter()
    try:
        done = subprocess.run(
            words, cwd=folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return patience
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {(done.stderr or done.stdout).decode()[-500:]}")
    return time.perf_counter() - began


def run(options: argparse.Namespace) -> dict[str, Any]:
    where = Path(tempfile.mkdtemp(prefix="trackers-", dir=options.folder)).resolve()
    try:
        kept: dict[str, Any] = {"machine": measure.machine(where), "quick": options.quick, "rows": []}
        if options.ahead:
            kept["machine"]["scheduling"] = "ahead of all other processes of the machine (SCHED_FIFO)"
        kept["machine"] = {k: v for k, v in kept["machine"].items() if v != "not installed"}
        if not options.no_peers and shutil.which("npm"):
            npm = (options.npm or where / "npm").resolve()
            kept["machine"] |= install(npm)
            kept["rows"] += peers(where, npm, options)
        kept["rows"] += ours(where, options)
        kept["machine"]["load after"] = f"{os.getloadavg()[0]:.1f}"
        options.json.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    finally:
        measure.clear(where)
    return kept


def main() -> int:
    options = parser().parse_args()
    quick = options.quick
    options.sizes = options.sizes or ([200] if quick else [1000, 10_000, 100_000])
    options.peer_sizes = options.peer_sizes or ([200] if quick else [1000, 10_000])
    if quick:
        options.calls, options.commands = min(options.calls, 32), min(options.commands, 4)
    kept = json.loads(options.json.read_text("utf-8")) if options.no_run else run(options)
    print(render(kept))
    if options.render:
        PAGE.write_text(render(kept), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
