"""Machines that share a PostgreSQL and a git remote, under faults: what is done twice, lost, stuck or slow.

Starts hosts in namespaces (`tests/acceptance/hosts/lab.py`), each running ``hypervisor run --all``
again and again as a supervisor would, and does one fault after the other to one of them, at random:

========  ==================================================================================================
kill      all processes of a host end by SIGKILL
database  a host cannot reach the database for longer than its lease
remote    a host cannot reach the git remote
both      neither
restart   the database is restarted as after a crash
zombie    a host stands still past its lease, then goes on
========  ==================================================================================================

The clock of one host is an hour ahead, where there is a C compiler. At the end each task must have one
accepted result, merged once; all other figures must be zero. ``refused`` counts branches of attempts that
were pushed and not accepted. Recovery is the time from a fault to the first
result that is published after it, by whatever host.

Run: ``bench/hosts.py --tasks 30 --faults 6 --seeds 1 2 3``. With ``--faults 0`` it shows the table of who did
what. Needs root.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from acceptance.hosts.lab import LEASE_SECONDS, Command, Host, Lab, git, laboratory, missing, shifted_clock

NAMES = ("ant", "bee", "cat", "dog", "eel")
FAULTS = ("kill", "database", "remote", "both", "restart", "zombie")
#: How often a host may be started anew before a run counts as stuck.
_STARTS = 40


def main() -> int:
    """Run the seeds; print a JSON object for each, then the sums. Exit 1 if anything is not as it must be."""
    parser = argparse.ArgumentParser(description="Machines that share a database and a remote, under faults.")
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=30)
    parser.add_argument("--faults", type=int, default=6, help="how many, one after the other")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--agent-seconds", default="1.5")
    parser.add_argument("--longest", type=float, default=2 * LEASE_SECONDS, help="seconds that a fault lasts")
    options = parser.parse_args()
    if why := missing():
        print(why, file=sys.stderr)
        return 2
    found = [_seed(options, seed) for seed in options.seeds]
    bad = sum(sum(one["faults"].values()) for one in found)
    waits = sorted(wait for one in found for wait in one["recovery"])
    if waits:
        half, most = waits[len(waits) // 2], waits[min(len(waits) - 1, int(len(waits) * 0.99))]
        print(f"recovery: {len(waits)} faults, p50 {half:.1f} s, p99 {most:.1f} s, lease {LEASE_SECONDS:g} s")
    print("sound" if not bad else f"NOT sound: {bad}")
    return 1 if bad else 0


def _seed(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="hypervisor-hosts-"))
    try:
        with laboratory(folder) as lab:
            return _storm(lab, options, random.Random(seed), seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _storm(lab: Lab, options: argparse.Namespace, chance: random.Random, seed: int) -> dict[str, Any]:
    lab.make_tasks(options.tasks)
    lab.make_agent(options.agent_seconds)
    ahead = shifted_clock(lab.folder, 3600) if options.faults else {}
    hosts = [
        lab.add_host(name, **(ahead if at == 0 else {})) for at, name in enumerate(NAMES[: options.hosts])
    ]
    supervisors = [_Supervisor(host, lab, options.tasks) for host in hosts]
    begun = time.monotonic()
    for one in supervisors:
        one.thread.start()
    while options.faults and not lab.delivered():
        time.sleep(0.05)  # the time to start is not that to recover
    recovery, done = [], []
    for _ in range(options.faults):
        if lab.delivered() >= options.tasks:
            break
        what, host = chance.choice(FAULTS), chance.choice(hosts)
        time.sleep(chance.uniform(0.5, 3.0))
        before, at = lab.delivered(), time.monotonic()
        _inflict(lab, host, what, chance.uniform(LEASE_SECONDS, options.longest))
        while lab.delivered() <= before and time.monotonic() < at + 20 * LEASE_SECONDS:
            time.sleep(0.05)
        if before < options.tasks:
            recovery.append(time.monotonic() - at)
            done.append(f"{what} {host.name}")
    for one in supervisors:
        one.thread.join()
    faults = lab.faults()
    figures = {
        "seed": seed, "seconds": round(time.monotonic() - begun, 1), "inflicted": done,
        "states": sorted(set(lab.states().values())), "agents": len(lab.runs()), "faults": faults,
        "recovery": [round(wait, 1) for wait in recovery], "who": lab.table(),
        "starts": {one.host.name: one.starts for one in supervisors}, "commits": len(lab.merges()),
        "refused": len(git(lab.remote, "branch", "--format=%(refname:short)").split()) - 1,
    }  # fmt: skip
    print(json.dumps(figures), flush=True)
    if sum(faults.values()):
        for host in hosts:
            for command in host.commands:
                print(f"--- {host.name}\n{command.text[-2000:]}", file=sys.stderr)
    return figures


def _inflict(lab: Lab, host: Host, what: str, seconds: float) -> None:
    def later(undo: Callable[[], None]) -> None:
        # Not waited for: recovery is counted from the fault's beginning.
        threading.Timer(seconds, undo).start()

    if what == "kill":
        host.kill()
    elif what == "restart":
        lab.server.restart()
    elif what == "zombie":
        host.pause()
        later(host.wake)
    else:
        host.cut(*(("database", "remote") if what == "both" else (what,)))
        later(host.mend)


class _Supervisor:
    """Starts a host's command again until all is done, as systemd or a person would."""

    def __init__(self, host: Host, lab: Lab, tasks: int) -> None:
        self.host, self._lab, self._tasks = host, lab, tasks
        self.starts = 0
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while self._lab.delivered() < self._tasks and self.starts < _STARTS:
            self.starts += 1
            command: Command = self.host.work()
            command.process.wait()
            if self._lab.delivered() < self._tasks:
                time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
