"""P6 and P8: a command for each item, and triage of task files; and what starting costs.

P6: the batch worker and GNU parallel, with `xargs -P` as the yardstick. The command is a shell that appends
a byte to a file of the item's name, so that it can be seen how often each was run.

P8: the batch worker, a naive worker as the yardstick, and the floor below both. All three are commands that
are measured whole. The naive worker is what one writes in an hour: a `mkdir` lock by the file's stem,
`frontmatter.load`, one key set, the file dumped in place, nothing synced, no result kept. The floor does
what a durable one must: read, parse the YAML, replace the file durably. As a program: one process of the
floor, or of the naive one.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from bench import measure
from bench.contenders import items
from bench.measure import Row, Say, Table, ground
from bench.store import fill_half

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


# ----------------------------------------------------------------------- triage

#: Task files are triaged by one worker, and by as many as the goal is set for.
_TRIAGERS = (1, 8)
TASK = """---
id: task-{0}
title: {1} number {0}
status: inbox # as it came
priority: medium
tags: [one, "two three"]
project: Shelfmark
created: 2025-02-{2:02}
---
# {1} number {0}

The rules say three days, the website says a week, and the code says none at all. Say the same
everywhere, and write down where it was decided.

- [ ] Find the places
- [ ] Change `app/rules/{0}.py`
- [ ] Tell the readers
"""
_TITLES = (
    "Rename a field",
    "Fix the typo in the readme",
    "Decide on the grace period",
    "Speed up the search",
)


def lay_out_tasks(folder: Path, count: int) -> None:
    """Make the task files, and the queue of them."""
    (folder / "tasks").mkdir()
    for number in range(count):
        text = TASK.format(number, _TITLES[number % len(_TITLES)], number % 28 + 1)
        (folder / f"tasks/task-{number:05}.md").write_text(text, "utf-8")
    (folder / "queue.txt").write_text("".join(f"tasks/task-{n:05}.md\n" for n in range(count)), "utf-8")


def triager(name: str, workers: int) -> list[str]:
    """Return the command that goes through the queue in its folder."""
    if name == "batch-worker":
        script = str(measure.SCRIPTS / "batch_worker.py")
        return [sys.executable, script, "--dir", ".", "--all", "--workers", str(workers)]
    return [sys.executable, str(Path(__file__).resolve()), name, "--workers", str(workers)]


def changed(folder: Path, count: int) -> list[int]:
    """Return 1 for each file that is whole and says something else than before, else 0."""
    found = []
    for number in range(count):
        text = (folder / f"tasks/task-{number:05}.md").read_text("utf-8")
        whole = text.startswith("---\n") and text.rstrip().endswith("Tell the readers")
        found.append(int(whole and text != TASK.format(number, _TITLES[number % 4], number % 28 + 1)))
    return found


def triage(where: Path, runs: int, count: int, say: Say) -> list[Row]:
    """Measure the triage of *count* task files."""
    table = Table("P8", "wall_us", say)
    naive = ["naive"] if importlib.util.find_spec("frontmatter") else []
    for workers in _TRIAGERS:
        for _ in range(runs):
            for name in (*naive, "floor", "batch-worker"):
                with ground(where) as folder:
                    lay_out_tasks(folder, count)
                    used = measure.spent(triager(name, workers), folder, cache=folder / "cache")
                    table.add(name, used, changed(folder, count), items=count, workers=workers)
    return table.rows


def _floor(path: str) -> None:
    import yaml  # noqa: PLC0415 - the naive one loads it in its own way

    from hypervisor.core.files import replace_file  # noqa: PLC0415 - found only now

    with open(path, encoding="utf-8") as file:
        text = file.read()
    _, head, body = text.split("---\n", 2)
    fields = yaml.load(head, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    line = f"status: {'active' if fields['status'] == 'inbox' else fields['status']}\n"
    replace_file(Path(path), f"---\n{line}{head}---\n{body}".encode())


def _naive(path: str) -> None:
    frontmatter = importlib.import_module("frontmatter")
    try:
        os.mkdir(f"locks/{Path(path).stem}")
    except FileExistsError:
        return
    post = frontmatter.load(path)
    post["status"] = "active"
    with open(path, "w", encoding="utf-8") as file:
        file.write(frontmatter.dumps(post))


# ------------------------------------------------------------------------ start

_EMPTY = '# /// script\n# requires-python = ">=3.11"\n# dependencies = []\n# ///\n'
#: Task files that the worker whose memory is told goes through.
_TASKS = 500


def startup(where: Path, runs: int, count: int, say: Say) -> list[Row]:
    """Measure each command; *count* is how many items the large batch holds."""
    rows: list[Row] = []
    with ground(where) as folder:
        for name, words, cwd, more in _starts(folder, count):
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
                    lay_out_tasks(cwd, _TASKS)
                used = measure.spent(words, cwd, cache=cwd / "cache" if "uv" not in words else None)
                if number:  # the first run warms the caches
                    row["cpu_ms"].append(round(1000 * used.cpu, 2))
                    row["wall_ms"].append(round(1000 * used.wall, 2))
                    row["memory_mb"].append(round(used.memory / 1e6, 1))
            rows.append(row)
            say(f"{name}: {row}")
    return rows


def _starts(folder: Path, count: int) -> Iterator[tuple[str, list[str], Path, Row]]:
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
    yield name, triager("batch-worker", 1), folder / "work", {"items": _TASKS}


def _project(root: Path, count: int) -> None:
    """Make a project; with a batch of *count* items, the first half of them done."""
    state = root / ".hypervisor"
    state.mkdir(parents=True)
    if count:
        fill_half(state, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", choices=("floor", "naive"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--share", type=int, help="be one of the workers")
    options = parser.parse_args()
    if options.share is None and options.workers > 1:
        started = [subprocess.Popen([*sys.orig_argv, f"--share={share}"]) for share in range(options.workers)]
        sys.exit(max(process.wait() for process in started))
    sys.path.insert(0, str(measure.SCRIPTS))
    paths = Path("queue.txt").read_text("utf-8").splitlines()
    if options.name == "naive":
        os.makedirs("locks", exist_ok=True)
        for path in paths:  # each of them goes through all
            _naive(path)
    else:
        for path in paths[options.share or 0 :: options.workers]:
            _floor(path)


if __name__ == "__main__":
    main()
