"""What set-up costs a run: tasks that need ``npm ci``, with workspaces that are used again and without.

Each task's `verify` runs code of a package that ``npm ci`` installs from a folder beside the project, with as
many files as asked for; nothing is fetched. The runs take turns; figures are medians over the rounds.

    uv run bench/workspaces.py [--tasks 12] [--jobs 2] [--rounds 3] [--files 2000]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_TASK = """---
id: t-{n}
status: active
files: [src/{n}.js]
verify: node src/{n}.js
---
# Task {n}
"""
_AGENT = """mkdir -p src
echo "require('local').check(${HYPERVISOR_TASK_ID#t-})" > "src/${HYPERVISOR_TASK_ID#t-}.js"
"""


def make_project(folder: Path, tasks: int, files: int, *, reuse: bool) -> None:
    """Make a project with so many tasks that needs a package of so many files."""
    package = folder / "local"
    (package / "lib").mkdir(parents=True)
    (package / "package.json").write_text('{"name": "local", "version": "1.0.0", "main": "index.js"}')
    (package / "index.js").write_text("exports.check = n => { if (!(n >= 0)) process.exit(1) }\n")
    for number in range(files):
        (package / f"lib/{number}.js").write_text(f"module.exports = {number}\n" * 20)
    subprocess.run(["npm", "pack", "--silent"], cwd=package, check=True, stdout=subprocess.DEVNULL)
    project = folder / "project"
    (project / "tasks").mkdir(parents=True)
    (project / "local.tgz").write_bytes((package / "local-1.0.0.tgz").read_bytes())
    wants = {"name": "project", "version": "1.0.0", "dependencies": {"local": "file:local.tgz"}}
    (project / "package.json").write_text(json.dumps(wants))
    (project / ".gitignore").write_text("node_modules\n")
    for number in range(tasks):
        (project / f"tasks/t-{number}.md").write_text(_TASK.format(n=number))
    npm = ["npm", "install", "--package-lock-only", "--offline", "--no-audit", "--silent"]
    subprocess.run(npm, cwd=project, check=True)
    (project / ".hypervisor").mkdir()
    (project / ".hypervisor/config.toml").write_text(
        f'[worktree]\nsetup = ["npm ci --offline --no-audit --no-fund"]\nreuse = {str(reuse).lower()}\n'
    )
    for words in (["init", "-q", "-b", "main"], ["add", "--all"], ["commit", "-qm", "Project"]):
        subprocess.run(["git", *words], cwd=project, check=True)


def measure(folder: Path, jobs: int, tasks: int) -> tuple[float, int]:
    """Run all tasks of the project; return the seconds, and how often set-up ran."""
    agent = folder / "agent"
    agent.write_text(f"#!/bin/sh\n{_AGENT}")
    agent.chmod(0o755)
    project = folder / "project"
    words = [str(ROOT / "bin/hypervisor"), "run", "--all", "--agent", "exec", "--exec", str(agent), "-j"]
    begun = time.monotonic()
    done = subprocess.run([*words, str(jobs)], cwd=project, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - begun
    if done.returncode or f"{tasks} queued = {tasks} success" not in done.stdout:
        sys.exit(f"the run failed:\n{done.stdout}{done.stderr}")
    logs = {path.name.split(".")[0] for path in project.glob(".hypervisor/batches/*/logs/setup-*")}
    return seconds, len(logs)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=12)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=2000)
    options = parser.parse_args()
    os.environ |= {f"GIT_{who}_{what}": "bench@example.invalid" for who in ("AUTHOR", "COMMITTER")
                   for what in ("NAME", "EMAIL")}  # fmt: skip
    found: dict[bool, list[tuple[float, int]]] = {True: [], False: []}
    for _ in range(options.rounds):
        for reuse in (True, False):
            with tempfile.TemporaryDirectory(prefix="hypervisor-bench-") as name:
                make_project(Path(name), options.tasks, options.files, reuse=reuse)
                found[reuse].append(measure(Path(name), options.jobs, options.tasks))
    for reuse, rounds in found.items():
        seconds = statistics.median(one for one, _ in rounds)
        setups = statistics.median(one for _, one in rounds)
        what = "used again" if reuse else "made anew for each task"
        print(f"workspaces {what}: {seconds:.1f} s, {setups:g} set-ups ({options.tasks} tasks)")


if __name__ == "__main__":
    main()
