#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "apsw>=3.51.3", "pyyaml>=6.0.2", "filelock>=3.16", "psutil>=6.0", "rich>=13.9",
#     "litequeue==0.9", "huey==3.5.4", "persist-queue==1.1.0", "python-frontmatter==1.3.0",
#     "inotify-simple>=2.0", "mcp>=2,<3", "pytest>=8",
# ]
# ///
"""All figures of docs/performance.md: measured, kept as JSON, and rendered, by one command.

::

    uv run bench/benchmarks.py --render           # five rounds of all sections; writes the page
    uv run bench/benchmarks.py --only P3          # one section; may be repeated
    uv run bench/benchmarks.py --quick            # small and twice: whether it works, not how fast

Sections that are not measured keep their figures, if these are of the same machine. A peer that is not
installed is left out and named. Exit 1: one of our own rows executed an item twice or never.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from bench import items, measure, page, run, sessions, store, tools
from bench.contenders import CONTENDERS, installed
from bench.measure import Row

RESULTS = measure.ROOT / "docs/performance.json"
PAGE = measure.ROOT / "docs/performance.md"
#: What must be the same for figures to stand on one page.
SAME = ("processor", "memory", "system", "file system", "Python")


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


def sections(quick: bool, runs: int, where: Path) -> dict[str, Callable[[], list[Row]]]:
    """Return how each section is measured."""
    workers = [1, 4] if quick else [1, 8, 32]
    sizes = {60: 1} if quick else {1000: 0, 10_000: 7, 100_000: 0}  # tasks, and rounds of the commands
    lengths = [1000, 4000] if quick else [1000, 10_000, 100_000, 1_000_000]
    return {
        "P1": lambda: store.claim_and_complete(where, runs, 200 if quick else 2000, workers, say),
        "P2": lambda: store.one_claim(where, runs, lengths, say),
        "P3": lambda: store.durably(where, runs, 50 if quick else 500, workers[:2], say),
        "P4": lambda: tools.scale(where, sizes, (1, 2) if quick else (1, 16), 8 if quick else 80, say),
        "P5": lambda: sessions.tool_calls(where, runs, 4 if quick else 40, say),
        "start": lambda: sessions.session_starts(where, runs, say),
        "P6": lambda: items.commands(where, runs, 50 if quick else 500, say),
        "P7": lambda: run.no_op_tasks(where, runs, 4 if quick else 100, say),
        "P8": lambda: items.triage(where, runs, 60 if quick else 1000, say),
        "P11": lambda: sessions.server_starts(where, runs, say),
        "P12": lambda: test_suite(say),
        "queued": lambda: run.queued(where, (10, 100) if quick else (100, 100_000), say),
        "killed": lambda: store.killed(where, say),
        "startup": lambda: items.startup(where, runs, 1000 if quick else 100_000, say),
    }


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what is asked for; return all that is known then."""
    where = Path(tempfile.mkdtemp(prefix="benchmarks-", dir=options.folder)).resolve()
    try:
        kept: dict[str, Any] = {"machine": measure.machine(where), "quick": options.quick, "rows": []}
        if options.json.exists():
            before = json.loads(options.json.read_text("utf-8"))
            if all(before["machine"].get(name) == kept["machine"][name] for name in SAME):
                kept["rows"] = before["rows"]
        kept["skipped"] = sorted(one.label for name, one in CONTENDERS.items() if not installed(name))
        begun = time.monotonic()
        for name, act in sections(options.quick, options.runs, where).items():
            if not set(parts_of(name)).isdisjoint(options.only):
                kept["rows"] = [row for row in kept["rows"] if row["section"] not in parts_of(name)] + act()
                write(kept, options.json)
        say(f"took {time.monotonic() - begun:.0f} s; kept in {os.path.relpath(options.json)}")
    finally:
        measure.clear(where)
    return kept


def parts_of(name: str) -> tuple[str, ...]:
    """Return the sections of the page that one measurement fills."""
    return ("P7", "P10", "git") if name == "P7" else (name,)


def test_suite(say: Callable[[str], None]) -> list[Row]:
    """Measure P12: `tests/run`, once."""
    found = measure.Figures("P12", say)
    begun = time.monotonic()
    done = subprocess.run([measure.ROOT / "tests/run"], stdout=subprocess.DEVNULL, check=False)
    found.add("tests/run", wall_s=time.monotonic() - begun, exit_code=done.returncode)
    return found.rows


def write(kept: dict[str, Any], path: Path) -> None:
    """Write the figures, one row a line."""
    head = {key: value for key, value in kept.items() if key != "rows"}
    rows = ",\n".join(f"  {json.dumps(row)}" for row in kept["rows"])
    path.write_text(f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n{rows}\n ]\n}}\n', "utf-8")


def main() -> int:
    """Measure and render; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, help="rounds of each row (5; with --quick 2)")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--only", action="append", choices=page.SECTIONS, help="measure this section")
    parser.add_argument("--folder", type=Path, help="where to measure (the system's temporary folder)")
    parser.add_argument(
        "--json", type=Path, default=RESULTS, help=f"what is read and written ({RESULTS.name})"
    )
    parser.add_argument("--render", action="store_true", help=f"write docs/{PAGE.name} too")
    parser.add_argument(
        "--no-run", action="store_true", help="measure nothing: print, or render, what is kept"
    )
    options = parser.parse_args()
    options.only = options.only or [*page.SECTIONS]
    options.runs = options.runs or (2 if options.quick else 5)
    kept = json.loads(options.json.read_text("utf-8")) if options.no_run else measured(options)
    text = page.render(kept)
    PAGE.write_text(text, "utf-8") if options.render else print(text)
    found = page.misses(kept["rows"])
    for miss in found:
        say(f"FAULT {miss}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
