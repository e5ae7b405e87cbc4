"""P8: triage of task files: the batch worker, a naive worker as the yardstick, and the floor below both.

All three are commands that are measured whole: from their start to the end of their last process. The naive
worker is what one writes in an hour: a `mkdir` lock by the file's stem, `frontmatter.load`, one key set, the
file dumped in place, nothing synced, no result kept. The floor does what a durable one must: read, parse the
YAML, replace the file durably. As a program: one process of the floor, or of the naive one.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from bench import measure
from bench.measure import Row, Say, Table, ground

#: Task files are triaged by one worker, and by as many as the goal is set for.
_WORKERS = (1, 8)
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


def lay_out(folder: Path, count: int) -> None:
    """Make the task files, and the queue of them."""
    (folder / "tasks").mkdir()
    for number in range(count):
        text = TASK.format(number, _TITLES[number % len(_TITLES)], number % 28 + 1)
        (folder / f"tasks/task-{number:05}.md").write_text(text, "utf-8")
    (folder / "queue.txt").write_text("".join(f"tasks/task-{n:05}.md\n" for n in range(count)), "utf-8")


def command(name: str, workers: int) -> list[str]:
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
    for workers in _WORKERS:
        for _ in range(runs):
            for name in (*naive, "floor", "batch-worker"):
                with ground(where) as folder:
                    lay_out(folder, count)
                    used = measure.spent(command(name, workers), folder, cache=folder / "cache")
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
