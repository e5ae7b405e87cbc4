"""What it takes to start, and the memory that it takes: commands, measured whole."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from bench import measure, triaging
from bench.measure import Row, Say, ground
from bench.store import fill_half

_EMPTY = '# /// script\n# requires-python = ">=3.11"\n# dependencies = []\n# ///\n'
#: Task files that the worker whose memory is told goes through.
_TASKS = 500


def startup(where: Path, runs: int, count: int, say: Say) -> list[Row]:
    """Measure each command; *count* is how many items the large batch holds."""
    rows: list[Row] = []
    with ground(where) as folder:
        for name, words, cwd, more in _commands(folder, count):
            row: Row = {
                "section": "startup",
                "name": name,
                **more,
                "cpu_ms": [],
                "wall_ms": [],
                "memory_mb": [],
            }
            for number in range(runs + 1):
                if name.startswith("batch_worker, "):
                    measure.clear(cwd)
                    cwd.mkdir()
                    triaging.lay_out(cwd, _TASKS)
                used = measure.spent(words, cwd, cache=cwd / "cache" if "uv" not in words else None)
                if number:  # the first run warms the caches
                    row["cpu_ms"].append(round(1000 * used.cpu, 2))
                    row["wall_ms"].append(round(1000 * used.wall, 2))
                    row["memory_mb"].append(round(used.memory / 1e6, 1))
            rows.append(row)
            say(f"{name}: {row}")
    return rows


def _commands(folder: Path, count: int) -> Iterator[tuple[str, list[str], Path, Row]]:
    small, large, empty = folder / "small", folder / "large", folder / "empty.py"
    _project(small, 0)
    _project(large, count)
    empty.write_text(_EMPTY, "utf-8")
    worker, hypervisor = (str(measure.SCRIPTS / name) for name in ("batch_worker.py", "hypervisor_cli.py"))
    yield "python -c pass", [sys.executable, "-c", "pass"], folder, {}
    if shutil.which("uv"):
        yield "uv run, a script without dependencies", ["uv", "run", "--quiet", str(empty)], folder, {}
    yield "batch_worker --help", [sys.executable, worker, "--help"], folder, {}
    if shutil.which("uv"):
        yield "uv run batch_worker --help", ["uv", "run", "--quiet", worker, "--help"], folder, {}
    yield "hypervisor status, an empty project", [sys.executable, hypervisor, "status"], small, {}
    name = "hypervisor status, a batch half done"
    yield name, [sys.executable, hypervisor, "status"], large, {"items": count}
    name = "batch_worker, one worker that triages"
    yield name, triaging.command("batch-worker", 1), folder / "work", {"items": _TASKS}


def _project(root: Path, count: int) -> None:
    """Make a project; with a batch of *count* items, the first half of them done."""
    state = root / ".hypervisor"
    state.mkdir(parents=True)
    if count:
        fill_half(state, count)
