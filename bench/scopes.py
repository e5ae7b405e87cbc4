"""What the scope gate saves: tasks whose files overlap, run eight at once, with the gate and without.

Each of N tasks appends a line to one of M shared files, as an agent would: it reads the file, thinks,
writes it whole and commits. Printed for each way: how many came through merged, how many ended in a
conflict, and how many lines are in the files at the end (a line is lost if its task is done and it is
not there). Exit 1 if a line was lost, or if there was a conflict with the gate.

    uv run bench/scopes.py [--tasks 40] [--files 5] [--jobs 8]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
AGENT = """#!/bin/sh
set -e
file=shared-$(cat "$HYPERVISOR_ROOT/which/$HYPERVISOR_TASK_ID").txt
text=$(cat "$file")
sleep 0.2
printf '%s\\n%s\\n' "$text" "$HYPERVISOR_TASK_ID" > "$file"
git add "$file"
git commit --quiet -m "Line of $HYPERVISOR_TASK_ID"
"""


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


def set_up(root: Path, tasks: int, files: int) -> None:
    for name in ("tasks", "which"):
        (root / name).mkdir(parents=True)
    for number in range(files):
        (root / f"shared-{number}.txt").write_text("begin\n")
    for number in range(tasks):
        name, file = f"t-{number:02}", number % files
        (root / "which" / name).write_text(f"{file}\n")
        keys = f"id: {name}\ntitle: Line {number}\nstatus: active\nfiles: [shared-{file}.txt]\n"
        (root / "tasks" / f"{name}.md").write_text(f"---\n{keys}---\n# {name}\n\nAdd a line.\n")
    agent = root.parent / "agent"
    agent.write_text(AGENT)
    agent.chmod(0o755)
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "config", "user.name", "A User")
    git(root, "config", "user.email", "user@example.invalid")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "-m", "Begin")


def measure(folder: Path, options: argparse.Namespace, *more: str) -> dict[str, float]:
    root = folder / "project"
    set_up(root, options.tasks, options.files)
    words = [sys.executable, str(ROOT / "scripts/hypervisor_cli.py"), "run", "--all", "-j", str(options.jobs)]
    begun = time.monotonic()
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    done = subprocess.run(
        [*words, "--agent", "exec", "--exec", str(folder / "agent"), "--json", *more],
        cwd=root, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.monotonic() - begun
    rows = json.loads(done.stdout)["workers"]
    merged = {row["task_id"] for row in rows if row["status"] == "success"}
    lines = {line for file in root.glob("shared-*.txt") for line in file.read_text().split()} - {"begin"}
    return {
        "merged": len(merged), "conflicts": sum("conflict" in str(row.get("reason")) for row in rows),
        "lost lines": len(merged - lines), "seconds": round(seconds, 1),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--files", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=8)
    options = parser.parse_args()
    found = {}
    for name, more in (("with the gate", []), ("without it", ["--no-scope-gate"])):
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(Path(folder), options, *more)
        print(f"{name:14} " + ", ".join(f"{value} {key}" for key, value in found[name].items()))
    bad = any(one["lost lines"] for one in found.values()) or found["with the gate"]["conflicts"]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
