"""What `hypervisor run` costs for a task that takes no time, beside the same by hand.

In one run, medians of several rounds, per task:

- the yardstick: a shell script that adds a worktree, commits in it, merges and removes it, task after task
- `run` with each isolation, on tasks whose agent writes a file and commits it
- `run --isolation none`, on tasks whose agent does nothing but report

and the git processes of each, by subcommand: those that were started by anybody, git itself among them,
counted with strace where there is one, and else those that were found in the PATH.

    uv run bench/run.py [--tasks 40] [--jobs 2] [--rounds 3] [--code FOLDER] [--folder D] [--isolation clone]

``--code`` measures another checkout of the code, with its own options.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_BY_HAND = """
set -e
n=0
while [ $n -lt $1 ]; do
  git worktree add -q -b "task-$n" "../tree-$n" HEAD
  (cd "../tree-$n"; echo x > "f-$n"; git add .; git commit -qm x)
  git merge -q --no-ff -m "Merge $n" "task-$n"
  git worktree remove "../tree-$n"
  git branch -q -d "task-$n"
  n=$((n + 1))
done
"""
_COMMITS = 'n=${HYPERVISOR_TASK_ID#t-}; echo x > "f-$n"; git add .; git commit -qm x'
_REPORTS = """printf '{"kind": "done", "text": "did it", "evidence": "seen"}' > "$HYPERVISOR_REPORT" """
_EXECUTED = re.compile(r'execve\("(?:[^"]*/)?(git[a-z-]*)", \["[^"]*"((?:, "(?:[^"\\]|\\.)*")*)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one run came to, in milliseconds per task."""

    cpu: float
    wall: float


def main() -> int:
    """Measure, and print the figures."""
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.folder) as home:
        os.environ["HOME"] = home
        return _measure(options)


def _measure(options: argparse.Namespace) -> int:
    code = Path(options.code).resolve()
    ways: dict[str, Callable[[Path], list[str]]] = {"by hand (sh)": lambda _: by_hand(options.tasks)}
    for kind in options.isolation:
        ways[f"run, {kind}"] = partial(run_words, code, options, _COMMITS, kind)
    ways["run, none"] = partial(run_words, code, options, _REPORTS, "none")
    found: dict[str, list[Spent]] = {name: [] for name in ways}
    for way in ways.values():
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            measured(Path(folder), way, 1)
    for _ in range(options.rounds):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                found[name].append(measured(Path(folder), way, options.tasks))
    base = statistics.median(one.cpu for one in found["by hand (sh)"])
    load = os.getloadavg()[0]
    print(f"{options.tasks} tasks, {options.jobs} at once, {options.rounds} rounds; load {load:.1f}")
    for name, spent in found.items():
        cpu, wall = (statistics.median(getattr(one, what) for one in spent) for what in ("cpu", "wall"))
        print(f"{name:16} {cpu:7.1f} ms CPU a task ({cpu / base:4.2f} times by hand), {wall:7.1f} ms wall")
    for name, way in ways.items():
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            calls = counted(Path(folder), way, options.tasks)
        told = ", ".join(f"{word} {count}" for word, count in calls.most_common())
        print(f"{name:16} {sum(calls.values()) / options.tasks:5.1f} git processes a task: {told}")
    return 0


def by_hand(tasks: int) -> list[str]:
    """Return the words of the yardstick."""
    return ["sh", "-c", _BY_HAND, "sh", str(tasks)]


def run_words(code: Path, options: argparse.Namespace, agent: str, isolation: str, place: Path) -> list[str]:
    """Return the words of a run with an agent that is a shell script."""
    script = place.parent / "agent"
    script.write_text(f"#!/bin/sh\n{agent}\n")
    script.chmod(0o755)
    python = code / ".venv/bin/python"
    words = [
        str(python) if python.exists() else sys.executable,
        str(code / "scripts/hypervisor_cli.py"),
        "run",
    ]
    words += ["--all", "-j", str(options.jobs), "--agent", "exec", "--exec", str(script)]
    return [*words, "--isolation", isolation]


def project(place: Path, tasks: int) -> None:
    """Make a project of tasks, each about a file of its own."""
    (place / "tasks").mkdir(parents=True)
    (place / ".gitignore").write_text(".hypervisor/\n")
    for number in range(tasks):
        head = f"id: t-{number}\nstatus: active\naccept_reports: true\n"
        (place / f"tasks/t-{number}.md").write_text(f"---\n{head}---\n# Task {number}\n")
    for words in ("init -q -b main", "config user.name A", "config user.email a@example.invalid", "add -A",
                  "commit -qm Begin"):  # fmt: skip
        subprocess.run(["git", *words.split()], cwd=place, check=True, capture_output=True)


def started(place: Path, words: list[str], path: str = "") -> None:
    """Run *words* in a project to their end."""
    # One home for all: compiled code is kept there, and a user's is there already.
    environment = {"PATH": path or os.environ["PATH"], "HOME": os.environ["HOME"]}
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(
            f"{' '.join(words)}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )


def measured(folder: Path, way: Callable[[Path], list[str]], tasks: int) -> Spent:
    """Return what all processes of one run used."""
    place = folder / "project"
    project(place, tasks)
    words = way(place)
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    started(place, words)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - begun
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Spent(cpu=1000 * cpu / tasks, wall=1000 * wall / tasks)


def counted(folder: Path, way: Callable[[Path], list[str]], tasks: int) -> Counter[str]:
    """Return how many git processes one run started, by subcommand."""
    place, log = folder / "project", folder / "log"
    project(place, tasks)
    words = way(place)
    log.touch()
    if strace := shutil.which("strace"):
        traced = [
            strace,
            "-f",
            "-qq",
            "-s",
            "4096",
            "-e",
            "trace=execve",
            "-e",
            "status=successful",
            "-o",
            str(log),
        ]
        started(place, [*traced, *words])
        texts = (_EXECUTED.search(line) for line in log.read_text("utf-8", "replace").splitlines())
        return Counter(
            _subcommand(one[1], re.findall(r'"((?:[^"\\]|\\.)*)"', one[2])) for one in texts if one
        )
    real = shutil.which("git")
    (folder / "bin").mkdir()
    (folder / "bin/git").write_text(f'#!/bin/sh\necho "$*" >> "{log}"\nexec {real} "$@"\n')
    (folder / "bin/git").chmod(0o755)
    started(place, words, f"{folder / 'bin'}:{os.environ['PATH']}")
    return Counter(_subcommand("git", line.split()) for line in log.read_text().splitlines())


def _subcommand(program: str, words: list[str]) -> str:
    if program != "git":
        return program.removeprefix("git-")
    while words and words[0].startswith("-"):
        words = words[2 if words[0] in ("-c", "-C") else 1 :]
    return words[0] if words else "git"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--code", default=str(ROOT), help="the checkout that is measured")
    parser.add_argument("--folder", help="where to work; without it: the system's temporary folder")
    parser.add_argument("--isolation", nargs="*", default=["clone", "worktree"])
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
