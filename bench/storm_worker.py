"""One worker of the storm: a real process over the public classes.

It logs, one `write` a line, what it ran and what it was told, so that this can be compared with
what lies on the disk (`storm_scene`)::

    ran       key generation worker         the runner was given this claim
    accepted  key generation worker token   `complete` returned
    lost      key generation worker token   `complete` raised ClaimLost
    silenced  key generation worker token   a heartbeat raised ClaimLost
    trouble   -   0          worker text    the worker waits for the machine
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, os.environ.get("STORM_SCRIPTS") or str(Path(__file__).parents[1] / "scripts"))

from hypervisor.claims.directory import DirectoryStore, Policy
from hypervisor.claims.port import Claim, Holder, HolderKind, Payload
from hypervisor.core.errors import ClaimLost
from hypervisor.core.keys import split_generation
from hypervisor.core.machine import this_process
from hypervisor.core.model import Outcome, Report
from hypervisor.queue.batches import open_folder
from hypervisor.queue.heart import Stop
from hypervisor.queue.worker import Orders, Worker
from hypervisor.runners.port import Work

#: So many that no item is given up because its workers were killed.
ATTEMPTS = 50
#: The longest that an item takes, in seconds.
LONGEST = 0.003


class Log:
    """The side log of one worker."""

    def __init__(self, folder: str, worker: str) -> None:
        self.worker = worker
        path = os.path.join(folder, f"{worker}.log")
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def add(self, word: str, key: str = "-", generation: int = 0, text: str = "") -> None:
        """Append one line, in one call."""
        fields = (word, key, str(generation), self.worker, text.replace("\n", " "))
        os.write(self._descriptor, ("\t".join(fields) + "\n").encode())


class LoggingStore(DirectoryStore):
    """A store that logs what it told its worker."""

    def __init__(self, *arguments: Any, log: Log, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._log = log

    def complete(self, claim: Claim, payload: Payload) -> Mapping[str, Any]:
        """Complete, and log what came of it."""
        try:
            result = super().complete(claim, payload)
        except ClaimLost:
            self._log.add("lost", claim.key, claim.generation, claim.token)
            raise
        self._log.add("accepted", claim.key, claim.generation, claim.token)
        return result

    def beat(self, claim: Claim) -> None:
        """Renew, and log a loss."""
        try:
            super().beat(claim)
        except ClaimLost:
            self._log.add("silenced", claim.key, claim.generation, claim.token)
            raise


class NoopRunner:
    """Takes up to three milliseconds, and logs that it ran."""

    name = "noop"

    def __init__(self, log: Log, chance: random.Random) -> None:
        self._log = log
        self._chance = chance

    def run(self, work: Work) -> Report:
        """Do nothing for a moment."""
        key, generation = split_generation(os.path.basename(work.log))
        self._log.add("ran", key, generation)
        # Not `time.sleep`, which libfaketime breaks where it leaves the monotonic clock alone.
        threading.Event().wait(self._chance.uniform(0, LONGEST))
        return Report(status=Outcome.SUCCESS, outcome="nothing was to be done")


def main() -> int:
    """Drain the folder; tell by the exit whether the worker came to its own end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder")
    parser.add_argument("--logs", required=True)
    parser.add_argument("--id", required=True)
    parser.add_argument("--kind", choices=("local", "lease", "foreign"), required=True)
    parser.add_argument("--lease", type=float, required=True)
    parser.add_argument("--seed", required=True)
    told = parser.parse_args()
    log = Log(told.logs, told.id)
    here = this_process()
    if told.kind == "foreign":  # a machine that only this worker runs on: nobody sees it die
        here = replace(here, host=f"host-of-{told.id}", boot=f"boot-of-{told.id}")
    worker = Worker(
        open_folder(told.folder, cwd=told.folder),
        NoopRunner(log, random.Random(f"{told.seed} {told.id}")),
        Holder(
            id=told.id,
            kind=HolderKind.LEASE if told.kind == "lease" else HolderKind.PROCESS,
            name=f"storm-{told.kind}",
            lease_seconds=told.lease,
        ),
        policy=Policy(attempts=ATTEMPTS, lease_seconds=told.lease),
        orders=Orders(beat_seconds=told.lease / 4, poll_seconds=0.05),
        tell=lambda event: log.add(event.kind, text=event.text) if event.kind == "trouble" else None,
        stop=Stop(),
        open_store=partial(LoggingStore, here=here, log=log),
    )
    worker.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
