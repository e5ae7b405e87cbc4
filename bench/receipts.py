"""Kills a bulk action of many items at random moments; compares its receipts with what was done.

    uv run --no-sync python bench/receipts.py --kills 50 --items 200

For each kill: a fresh task, a worker that does something that cannot be undone for each item (one synced
line in the acting tool's own file) with `begin_receipt` before and `receipt` after it, SIGKILL at a
random moment, `hypervisor receipts verify`, then a second worker to the end, and `verify` again. Prints one
JSON document; exit 1 if an action was done twice, a receipt stands for what was not done, a file is not
whole, or `verify` does not name just what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HYPERVISOR = (sys.executable, str(ROOT / "scripts/hypervisor_cli.py"))
#: What a writer that died leaves beside the file.
DRAFT = re.compile(r"\.t-1\.md\.[0-9a-f]{16}\.tmp")
HEAD = "---\nid: t-1\ntitle: archive\nstatus: active\n---\n# archive\n\nArchive them.\n"

#: The worker, and the tool that acts: it knows itself what it has done.
ACTOR = """
import os, sys
from pathlib import Path
from hypervisor.core.settings import settings_of
from hypervisor.core.project import Project
from hypervisor.tasks.actor import Actor
from hypervisor.tasks.service import TaskService
root, done, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
project = Project(root, root / ".hypervisor")
service = TaskService(project, settings_of(project.state), Actor(name="claude"))
acted = set(open(done).read().split()) if os.path.exists(done) else set()
with open(done, "a") as tool:
    print("ready", flush=True)
    for number in range(count):
        item = f"m-{number:04d}"
        leave = service.begin_receipt("t-1", item)
        if leave == "in doubt":
            leave = "acted" if item in acted else service.begin_receipt("t-1", item, again=True)
        if leave == "go":
            tool.write(item + "\\n"); tool.flush(); os.fsync(tool.fileno())
        if leave != "done":
            service.receipt("t-1", f"Archived: 2025-11-03 | a{number}@b.example | Invoice {number}", item)
"""


@dataclass(slots=True)
class RunCounts:
    """What the kills came to."""

    kills: int = 0
    #: As many receipts as actions at once.
    equal: int = 0
    #: One action without its receipt, which `verify` names.
    one_named: int = 0
    #: Begun, and neither done nor receipted: `verify` names it as in doubt.
    begun_only: int = 0
    #: Kept in the store, and written into the body by `verify`, the next command.
    written_later: int = 0
    #: Killed while the body was written: the file is as it was, and a draft beside it waits for `clean`.
    drafts: int = 0
    resumed_whole: int = 0
    at_actions: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def start(task: Path, done: Path, items: int) -> subprocess.Popen[bytes]:
    """Start a worker; it stands at its first item on return."""
    words = [sys.executable, "-c", ACTOR, str(task.parent.parent), str(done), str(items)]
    worker = subprocess.Popen(words, cwd=ROOT / "scripts", stdout=subprocess.PIPE)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"ready\n"
    return worker


def receipts(task: Path) -> Counter[str]:
    """Return the items that have a receipt in the body."""
    found = [line for line in task.read_text("utf-8").splitlines() if line.startswith("- Archived: ")]
    return Counter(f"m-{int(line.rsplit(' ', 1)[1]):04d}" for line in found)


def verify(folder: Path) -> list[dict[str, str]]:
    """Return what `receipts verify` names."""
    words = [*HYPERVISOR, "receipts", "verify", "t-1", "--json"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    found: list[dict[str, str]] = json.loads(done.stdout)["mismatches"]
    return found


def one_kill(tally: RunCounts, folder: Path, items: int, at: int, after: float) -> None:
    """Kill a worker *after* so many seconds from its action number *at*, look, and let another go on."""
    task, done = folder / "tasks" / "t-1.md", folder / "done"
    task.parent.mkdir()
    (folder / ".hypervisor").mkdir()
    task.write_text(HEAD, "utf-8")
    worker = start(task, done, items)
    while worker.poll() is None and len(done.read_bytes().splitlines() if done.exists() else ()) < at:
        time.sleep(0.001)
    time.sleep(after)
    worker.kill()
    worker.communicate()
    acted, at_once = Counter(done.read_text("utf-8").split() if done.exists() else ()), receipts(task)
    named = verify(folder)
    told = receipts(task)
    text = task.read_text("utf-8")
    tally.kills += 1
    tally.at_actions.append(len(acted))
    tally.equal += acted == told
    tally.one_named += len(set(acted) - set(told)) == 1
    tally.begun_only += acted == told and bool(named)
    tally.written_later += told != at_once
    where = f"kill {tally.kills}, {after:.4f} s after action {at}, {len(acted)} actions"
    others = [name for name in os.listdir(task.parent) if name != "t-1.md"]
    tally.drafts += len(others)
    lines = text.removeprefix(HEAD).split("\n")
    whole = text.startswith(HEAD) and all(not line or line.startswith(("- ", "## ")) for line in lines)
    if not whole or not text.endswith("\n") or not all(map(DRAFT.fullmatch, others)):
        tally.faults.append(f"{where}: the file is not whole")
    if max([*acted.values(), *told.values(), 1]) > 1 or set(told) - set(acted) or at_once - told:
        tally.faults.append(f"{where}: twice, or a receipt of what was not done")
    items_named = {one["text"].split(":")[0] for one in named}
    if not set(acted) - set(told) <= items_named or len(items_named) > 1:
        tally.faults.append(f"{where}: verify names {sorted(items_named)}")
    start(task, done, items).communicate()
    every = Counter(f"m-{number:04d}" for number in range(items))
    if Counter(done.read_text("utf-8").split()) == receipts(task) == every and not verify(folder):
        tally.resumed_whole += 1
    else:
        tally.faults.append(f"{where}: not whole after it went on")


def main() -> int:
    """Run the kills; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance, tally = random.Random(options.seed), RunCounts()
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch, "whole")
        (whole / "tasks").mkdir(parents=True)
        (whole / ".hypervisor").mkdir()
        (whole / "tasks" / "t-1.md").write_text(HEAD, "utf-8")
        begun = time.monotonic()
        start(whole / "tasks" / "t-1.md", whole / "done", options.items).communicate()
        took = time.monotonic() - begun
        for number in range(options.kills):
            folder = Path(scratch, str(number))
            folder.mkdir()
            # Within the time of one item, after any but the last: the machine may be quicker than it was.
            at, after = chance.randrange(options.items - 1), chance.uniform(0, took / options.items)
            one_kill(tally, folder, options.items, at, after)
    print(json.dumps({"items": options.items, "seconds_without_a_kill": round(took, 2), **asdict(tally)}))
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
