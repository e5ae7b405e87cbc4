"""One worker of the storm: a real process that drains the folder through the public classes.

It logs, in a file of its own and one `write` a line, what it ran and what it was told, so that
`storm` can compare what the workers were told with what lies on the disk (`Told`)::

    ran       key generation worker     the runner was given this claim
    accepted  key generation worker token   `complete` returned
    lost      key generation worker token   `complete` raised ClaimLost
    silenced  key generation worker token   a heartbeat raised ClaimLost
    trouble   - 0 worker text           the worker waits for the machine
    rescuer   - 0 worker text           it looked for orphans of a dead worker
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, os.environ.get("STORM_SCRIPTS") or str(Path(__file__).parents[1] / "scripts"))

from hypervisor.batches import open_folder
from hypervisor.claims.directory import DirectoryStore, Policy
from hypervisor.claims.port import Claim, Holder, HolderKind, Payload
from hypervisor.errors import ClaimLost
from hypervisor.keys import split_generation
from hypervisor.machine import this_process
from hypervisor.model import Outcome, Report
from hypervisor.runners.port import Work
from hypervisor.worker import Event, Orders, Stop, Worker

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


@dataclass(slots=True)
class Told:
    """What all workers of a storm logged."""

    #: How often each (key, generation) was executed.
    ran: Counter[tuple[str, int]] = field(default_factory=Counter)
    #: For each (key, token) the workers that were told that it won, or that it lost.
    accepted: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    lost: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    silenced: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    #: Waits for room, and the first words of each kind.
    trouble: list[str] = field(default_factory=list)
    rescuers: int = 0

    @classmethod
    def read(cls, folder: str) -> Told:
        """Read the side logs in *folder*."""
        told = cls()
        for path in Path(folder).glob("*.log"):
            for line in path.read_text("utf-8").splitlines():
                word, key, generation, worker, text = line.split("\t")
                if word == "ran":
                    told.ran[key, int(generation)] += 1
                elif word == "trouble":
                    told.trouble.append(text)
                elif word == "rescuer":
                    told.rescuers += 1
                else:
                    getattr(told, word)[key, text].add(worker)
        return told

    def contradictions(self, results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        """Yield each thing that a worker was told and that the *results* by key do not bear out."""
        highest: dict[str, int] = {}
        for (key, generation), times in self.ran.items():
            highest[key] = max(generation, highest.get(key, 0))
            if times > 1:
                yield f"{key}: generation {generation} was handed out {times} times"
        for (key, token), workers in self.accepted.items():
            if len(workers) > 1:
                yield f"{key}: one token was accepted from {sorted(workers)}"
            if results.get(key, {}).get("token") != token:
                yield f"{key}: {sorted(workers)} was told it had won, and the result is another's"
        for (key, token), workers in self.lost.items():
            if results.get(key, {}).get("token") == token:
                yield f"{key}: {sorted(workers)} was told it had lost, and has won"
        for key, result in results.items():
            if highest.get(key, 0) > result["generation"]:
                yield f"{key}: handed out beyond generation {result['generation']}, which won"
            if (key, result["generation"]) not in self.ran:
                yield f"{key}: generation {result['generation']} won and was never executed"


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
        time.sleep(self._chance.uniform(0, LONGEST))
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
        tell=lambda event: _tell(log, event),
        stop=Stop(),
        open_store=partial(LoggingStore, here=here, log=log),
    )
    worker.run()
    if "psutil" in sys.modules:
        log.add("rescuer", text="looked for a dead worker's processes")
    return 0


def _tell(log: Log, event: Event) -> None:
    if event.kind == "trouble":
        log.add("trouble", text=event.text)


if __name__ == "__main__":
    sys.exit(main())
