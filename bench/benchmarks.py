#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "pyyaml>=6.0.2", "filelock>=3.16", "psutil>=6.0", "rich>=13.9",
#     "litequeue==0.9", "huey==3.5.4", "persist-queue==1.1.0", "python-frontmatter==1.3.0",
# ]
# ///
"""All figures of docs/benchmarks.md: measured, kept as JSON, and rendered, by one command.

::

    uv run bench/benchmarks.py --render           # five runs of all but the long ones; writes the page
    uv run bench/benchmarks.py --only long        # 100,000 items with each number of workers, and whole lives
    uv run bench/benchmarks.py --million          # a million items, once; takes 10 GB and 2 million inodes
    uv run bench/benchmarks.py --quick            # small and twice: whether it works, not how fast

What is not measured again stays as it was kept, if it is of this machine.

A peer that is not installed is left out and named. Exit 1: our own rows had an item twice or never.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from bench import measure, page, triaging
from bench.commands import commands
from bench.drain import Row, Table, drain, durable, ground, plan
from bench.killed import killed
from bench.peers import CONTENDERS, there
from bench.startup import startup

RESULTS = measure.ROOT / "docs/benchmarks.json"
PAGE = measure.ROOT / "docs/benchmarks.md"
SECTIONS = ("drain", "commands", "killed", "durable", "triage", "startup")
#: Those that take long are measured only if they are asked for.
LONG_SECTIONS = ("long", "million")
#: What must be the same for figures to stand on one page.
SAME = ("processor", "memory", "system", "file system", "Python")
#: Rows that must have each item once.
OURS = ("cursor", "hypervisor", "hypervisor-durable", "batch-worker")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--runs", type=int, help="runs of each row (5; with --quick 2)")
    made.add_argument("--quick", action="store_true", help="small sizes")
    made.add_argument("--million", action="store_true", help="the same as --only million")
    made.add_argument("--sizes", type=_numbers, help="items to drain (1000,10000,100000)")
    made.add_argument("--workers", type=_numbers, help="workers that drain (1,8,32)")
    made.add_argument(
        "--only", action="append", choices=SECTIONS + LONG_SECTIONS, help="measure this; may be repeated"
    )
    made.add_argument("--folder", type=Path, help="where to measure (the system's temporary folder)")
    made.add_argument("--json", type=Path, help=f"what is read and written ({RESULTS.name} in docs/)")
    made.add_argument("--render", action="store_true", help=f"write docs/{PAGE.name} too")
    made.add_argument("--no-run", action="store_true", help="measure nothing: print, or render, what is kept")
    return made


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def sections(options: argparse.Namespace, where: Path) -> dict[str, Callable[[], list[Row]]]:
    """Return how each section is measured."""
    quick, runs = options.quick, options.runs
    sizes = options.sizes or ([200] if quick else [1000, 10_000, 100_000])
    workers = options.workers or ([1, 4] if quick else [1, 8, 32])
    return {
        "drain": lambda: drain(where, runs, plan(sizes, workers, every=False), say),
        "long": lambda: drain(where, runs, plan([100_000], workers, every=True), say),
        "million": lambda: drain(where, runs, plan([1_000_000], [8], every=False), say),
        "commands": lambda: commands(where, runs, 50 if quick else 500, say),
        "killed": lambda: killed(where, 1.0 if quick else 5.0, say),
        "durable": lambda: durable(where, runs, 50 if quick else 500, say),
        "triage": lambda: triage(where, runs, 60 if quick else 1000),
        "startup": lambda: startup(where, runs, 1000 if quick else 100_000, say),
    }


def triage(where: Path, runs: int, count: int) -> list[Row]:
    """Measure the triage of *count* task files."""
    table = Table(say)
    for workers in (1, 4):
        for _ in range(runs):
            for name in triaging.there():
                with ground(where) as folder:
                    triaging.lay_out(folder, count)
                    used = measure.spent(triaging.command(name, workers), folder, cache=folder / "cache")
                    done = triaging.changed(folder, count)
                what = {"name": name, "whole": True, "items": count, "workers": workers}
                table.add(what, used.cpu, used.wall, done)
    return table.rows


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what is asked for; return all that is known then."""
    where = Path(tempfile.mkdtemp(prefix="benchmarks-", dir=options.folder)).resolve()
    try:
        kept: dict[str, Any] = {"machine": measure.machine(where), "sections": {}}
        if options.json.exists():
            before = json.loads(options.json.read_text("utf-8"))
            if all(before["machine"].get(name) == kept["machine"][name] for name in SAME):
                kept["sections"] = before["sections"]  # the others stay as they were
        kept["skipped"] = sorted({CONTENDERS[name].label for name in CONTENDERS if not there(name)})
        begun = time.monotonic()
        for name, measured in sections(options, where).items():
            if name not in options.only:
                continue
            started = time.monotonic()
            rows = measured()
            kept["sections"][name] = {
                "rows": rows,
                "runs": 1 if name == "killed" else options.runs,
                "quick": options.quick,
                "seconds": round(time.monotonic() - started),
            }
            options.json.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
        say(f"took {time.monotonic() - begun:.0f} s; kept in {os.path.relpath(options.json)}")
    finally:
        measure.clear(where)
    return kept


def faults(kept: dict[str, Any]) -> list[str]:
    """Return each of our rows that had an item twice or never."""
    found = []
    for section, told in kept["sections"].items():
        for row in told["rows"]:
            bad = [one for one in row.get("runs", []) if one.get("duplicates") or one.get("losses")]
            lost = row.get("fate", "again") != "again" or row.get("others_never")
            if row["name"] in OURS and (bad or lost):
                found.append(f"{section}: {row['name']} of {row.get('items', '')}: {bad or row}")
    return found


def main() -> int:
    options = parser().parse_args()
    options.only = options.only or ([] if options.million else [*SECTIONS])
    options.only += ["million"] if options.million else []
    options.runs = options.runs or (1 if options.only == ["million"] else 2 if options.quick else 5)
    options.json = options.json or RESULTS
    kept = json.loads(options.json.read_text("utf-8")) if options.no_run else run(options)
    print(page.render(kept))
    if options.render:
        PAGE.write_text(page.render(kept), "utf-8")
    broken = faults(kept)
    for text in broken:
        say(f"BROKEN: {text}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
