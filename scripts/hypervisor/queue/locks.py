"""The lock directories of a batch's claims: in the batch's folder, the project's, or none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import Unreadable
from ..store.directories import LockDirectories
from ..store.records import Claim, Revoked
from ..store.store import Store
from .batch import Batch


def foreign_names(folders: Iterable[LockDirectories], store: Store | None) -> dict[str, str]:
    """Return the names that directories and files of somebody else hold, each with its path."""
    found: dict[str, str] = {}
    for locks in folders:
        try:
            there = os.listdir(locks.path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        ours = store.claims.recorded_locks(there) if store is not None else set()
        found |= locks.foreign({name.removesuffix(".lock") for name in there}, ours)
    return found


def foreign_items(batch: Batch) -> list[str]:
    """Return the waiting items of a batch that a lock directory of somebody else holds."""
    names = foreign_names(batch.lock_directories, batch.store)
    if not names:
        return []
    waiting = batch.store.batches.items(batch.number, ["ready"])
    return [item.work.text for item in waiting if lock_name_of(batch, item.work.key, item.work.text) in names]


@dataclass(slots=True)
class BatchLocks:
    """Shows the claims of one worker as directories where a folder asks for them, and heeds others'."""

    batch: Batch
    #: Items that somebody else's directory or file held when they were last claimed: their lines by key.
    foreign: dict[str, str] = field(default_factory=dict)
    #: The names of this worker's directories, by attempt.
    _names: dict[int, str] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def used(self) -> bool:
        """Return whether claims make directories."""
        return bool(self.batch.lock_directories)

    def take(self, claims: Sequence[Claim]) -> tuple[list[Claim], list[tuple[Claim, str]]]:
        """Make the directories of claims; return those that have theirs, the others with their holders."""
        folders = self.batch.lock_directories
        if not folders:
            return list(claims), []
        taken, foreign = [], []
        for claim in claims:
            held = self._take(claim, folders)
            if held:
                self.foreign[claim.key] = claim.text
                foreign.append((claim, held))
            else:
                self.foreign.pop(claim.key, None)
                taken.append(claim)
        return taken, foreign

    def drop(self, claims: Iterable[Claim]) -> None:
        """Remove the directories of claims that have ended."""
        names = {claim.attempt: name for claim in claims if (name := self._names.pop(claim.attempt, ""))}
        for name in names.values():
            for locks in self.batch.lock_directories:
                locks.drop(name)
        # Only now: whatever bears the name from here on is another's.
        self.batch.store.claims.forget_locks(names)

    def drop_of(self, work: int) -> None:
        """Remove the directories of all attempts at an item that has its result."""
        if self.used():
            names = self.batch.store.claims.locks_of_work(work)
            for locks in self.batch.lock_directories:
                for name in names.values():
                    locks.drop(name)
            self.batch.store.claims.forget_locks(names)

    def drop_revoked(self, revoked: Iterable[Revoked]) -> None:
        """Remove the directories of claims that were taken from dead workers."""
        folders = self.batch.lock_directories
        for one in revoked if folders else ():
            names = self.batch.store.claims.locks_of_work(one.work)
            if one.attempt in names:
                for locks in folders:
                    locks.drop(names[one.attempt])
                self.batch.store.claims.forget_locks([one.attempt])

    def news(self, claim: Claim, held: str) -> bool:
        """Return whether the user was not told yet that somebody else holds the item."""
        fresh = claim.key not in self._told
        self._told.add(claim.key)
        return fresh and bool(held)

    def _take(self, claim: Claim, folders: Sequence[LockDirectories]) -> str:
        claims = self.batch.store.claims
        name = lock_name_of(self.batch, claim.key, claim.text)
        if name != claim.lock:
            claims.set_lock(claim, name)
        ours = {one for attempt, one in claims.locks_of_work(claim.work).items() if attempt != claim.attempt}
        for done, locks in enumerate(folders):
            if held := locks.take(name, ours):
                for earlier in folders[:done]:
                    earlier.drop(name)
                return held
        self._names[claim.attempt] = name
        return ""


def lock_name_of(batch: Batch, key: str, text: str) -> str:
    """Return what the lock directory of an item is called: the task's id, else the item's key."""
    ref = batch.ref_by(key, text)
    if not ref.task:
        return key
    from ..tasks.eligibility import lock_name  # noqa: PLC0415 - the YAML loader
    from ..tasks.files import read_task  # noqa: PLC0415

    try:
        return lock_name(read_task(Path(ref.path), batch.store.settings), key)
    except Unreadable:
        return key
