"""What a storm leaves: what its workers were told, what lies on the disk, how long claims had to wait."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, os.environ.get("STORM_SCRIPTS") or str(Path(__file__).parents[1] / "scripts"))

from hypervisor.claims.directory import DirectoryStore
from hypervisor.claims.port import ItemState
from hypervisor.core.keys import generation_name, split_generation
from hypervisor.queue.queue import HEAD_BYTES, SETTLED, Cursor


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
