"""What it takes to start, and the memory that it takes: commands, measured whole."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from bench import measure, triaging
from bench.claim_cost import fill
from bench.drain import Row, Say, ground

_EMPTY = '# /// script\n# requires-python = ">=3.11"\n# dependencies = []\n# ///\n'
#: Task files that the worker whose memory is told goes through.
_TASKS = 500


def startup(where: Path, runs: int, count: int, say: Say) -> list[Row]:
    """Measure each command; *count* is how many items the large batch holds."""
    rows: list[Row] = []
    with ground(where) as folder:
        for name, words, cwd, more in _commands(folder, count):
            row: Row = {"name": name, **more, "runs": []}
            for number in range(runs + 1):
                if name.startswith("batch_worker, "):
                    measure.clear(cwd)
                    cwd.mkdir()
                    triaging.lay_out(cwd, _TASKS)
                used = measure.spent(words, cwd, cache=cwd / "cache" if "uv" not in words else None)
                if number:  # the first run warms the caches
                    row["runs"].append(
                        {
                            "cpu_ms": round(1000 * used.cpu, 2),
                            "wall_ms": round(1000 * used.wall, 2),
                            "memory_mb": round(used.memory / 1e6, 1),
                        }
                    )
            rows.append(row)
            say(f"{name}: {row['runs'][-1]}")
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
    sys.path.insert(0, str(measure.SCRIPTS))
    from hypervisor.core.paths import Project  # noqa: PLC0415
    from hypervisor.queue.batches import open_folder  # noqa: PLC0415 - found only now

    project = Project(root, root / ".hypervisor")
    project.prepare()
    if count:
        fill(project.batches / "large", count)
        open_folder(os.path.realpath(project.batches / "large"), cwd=str(root))
