"""One worker of the storm, a real process over the public classes; and the evidence that it leaves.

It logs, one `write` a line, what it ran and what it was told, so that this can be compared with
what lies on the disk (`Told`, `Scene`)::

    ran       key generation worker         the runner was given this claim
    accepted  key generation worker token   `complete` returned
    lost      key generation worker token   `complete` raised ClaimLost
    silenced  key generation worker token   a heartbeat raised ClaimLost
    trouble   -   0          worker text    the worker waits for the machine
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import sys
import threading
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
from hypervisor.claims.port import Claim, Holder, HolderKind, ItemState, Payload
from hypervisor.errors import ClaimLost
from hypervisor.heart import Stop
from hypervisor.keys import generation_name, split_generation
from hypervisor.machine import this_process
from hypervisor.model import Outcome, Report
from hypervisor.queue import HEAD_BYTES, SETTLED, Cursor
from hypervisor.runners.port import Work
from hypervisor.worker import Orders, Worker

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
    trouble: list[str] = field(default_factory=list)

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


def digest(data: bytes) -> bytes:
    """Return what tells a result from another; a million results are too much to keep."""
    return hashlib.blake2b(data, digest_size=16).digest()


class Scene:
    """The folder of a storm, as it lies on the disk; takes no lock, as a stopped worker may hold it."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.realpath(folder)

    def names(self, folder: str) -> list[str]:
        """List a folder of the store."""
        try:
            return os.listdir(os.path.join(self.folder, folder))
        except FileNotFoundError:  # before the first worker has come
            return []

    def finished(self) -> set[str]:
        """Return the keys that have a result."""
        return {name.removesuffix(".json") for name in self.names("results")}

    def result(self, key: str) -> Path:
        """Return the path of the result of *key*."""
        return Path(self.folder, "results", f"{key}.json")

    def cursor(self) -> tuple[int, set[int]]:
        """Read how far the queue was handed out, and which segments are settled; waits for no lock."""
        data = b""
        with contextlib.suppress(FileNotFoundError):
            data = Path(self.folder, "cursor").read_bytes()
        head = Cursor.from_bytes(data[:HEAD_BYTES])
        marks = data[HEAD_BYTES:]
        settled = {number for number in range(len(marks)) if marks[number : number + 1] == SETTLED}
        return (head.next, settled) if head else (0, set())

    def claims_of(self, worker: str) -> Iterator[tuple[str, int, str]]:
        """Yield key, generation and whether it is unsigned of each open claim that *worker* has made."""
        intent = ""
        with contextlib.suppress(FileNotFoundError):
            intent = Path(self.folder, "workers", worker).read_bytes().partition(b"\n")[0].decode()
        for name in self.names("locks"):
            path = os.path.join(self.folder, "locks", name)
            key, generation = split_generation(name)
            try:
                holder = json.loads(os.readlink(path + "/owner"))["holder"]
            except FileNotFoundError:
                holder = worker if name == intent else ""
            # `end` as a link is a revocation; as a file it is a result that somebody has to publish.
            gone = os.path.islink(path + "/end") or not os.path.isdir(path) or self.result(key).exists()
            if holder == worker and not gone:
                yield key, generation, "" if os.path.islink(path + "/owner") else " unsigned"

    def faults(self, expected: set[str], seen: dict[str, bytes], records: dict[str, Any]) -> Iterator[str]:
        """Yield what must not be when all workers are gone; tidy up; put the results in *records*."""
        store, finished = DirectoryStore(self.folder), self.finished()
        for key in sorted(finished):
            data = self.result(key).read_bytes()
            with contextlib.suppress(ValueError):
                records[key] = json.loads(data)
            record = records.get(key, {})
            if record.get("key") != key or record.get("status") != "success" or "token" not in record:
                yield f"{key}: torn, or not its own result: {data[:200]!r}"
            if seen.setdefault(key, digest(data)) != digest(data):
                yield f"{key}: the result has changed"
        for key in sorted(finished - expected):
            yield f"{key}: a result of no item"
        for key in sorted(lost := expected - finished):
            yield f"{key}: no result; attempts {store.attempts(key)}, held {store.held(key)}"
        states = Counter(store.snapshot(expected).values())
        if states[ItemState.FINISHED] != len(expected) - len(lost):
            yield f"the census does not close: {states}"
        if not lost:
            store.tidy()
            for folder in ("locks", "trash", "workers"):
                yield from (f"left in {folder}/: {name}" for name in self.names(folder) if name[0] != ".")
        ours = {"queue.txt", "cursor", "manifest.json", "results", "locks", "trash", "workers"}
        others = [name for name in set(self.names(".")) - ours if name[0] != "."]  # drafts are counted
        yield from (f"left in the folder: {name}" for name in others)
        for folder, _, names in os.walk(self.folder):
            paths = [os.path.join(folder, name) for name in names if name[0] != "."]
            yield from (f"an empty file: {path}" for path in paths if not os.lstat(path).st_size)


@dataclass(slots=True)
class Wound:
    """A claim whose worker was killed, until somebody else has it or it is finished."""

    kind: str
    key: str
    generation: int
    killed: float
    #: Whether the whole queue was handed out, so that there was nothing left to do but rescue.
    late: bool
    healed: float | None = None

    def look(self, scene: Scene) -> None:
        """See whether it has healed."""
        if self.healed is None:
            successor = os.path.join(scene.folder, "locks", generation_name(self.key, self.generation + 1))
            if os.path.lexists(successor) or scene.result(self.key).exists():
                self.healed = time.monotonic()


def recovery(wounds: list[Wound]) -> dict[str, str]:
    """Return the times from a kill to the claim's next life, by kind of worker."""
    times: dict[str, list[float]] = defaultdict(list)
    for wound in wounds:
        if wound.healed is not None:
            when = "queue handed out" if wound.late else "queue not empty"
            times[f"recovery s, {wound.kind}, {when}"].append(wound.healed - wound.killed)
    table = {}
    for name, found in sorted(times.items()):
        found.sort()
        p50, p99 = (found[round(part * (len(found) - 1))] for part in (0.5, 0.99))
        table[name] = f"p50 {p50:.2f}  p99 {p99:.2f}  max {found[-1]:.2f}  n {len(found)}"
    return table


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
