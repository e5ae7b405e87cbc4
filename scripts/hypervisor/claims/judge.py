"""Dead, silent or alive: *when* a claim may be revoked. Never whether its holder may complete.

A wrong verdict costs a second attempt at the work and nothing else, as completion and revocation
exclude each other (`directory`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..core import clock
from ..core.machine import Identity, Life, life_of, on_network
from .layout import Layout
from .port import HolderKind
from .records import Owner
from .workers import intending, lock_state


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is known of a holder."""

    gone: bool
    #: For people: how it is known that it is gone, or who it is.
    detail: str
    #: The dead worker, something of which still runs and has to be ended first (R7); "" if none.
    orphans_of: str = ""


@dataclass(slots=True)
class Judge:
    """Looks at open claims from one process; changes nothing."""

    layout: Layout
    here: Identity
    #: Applied where the claim itself does not say (nobody has signed it).
    lease_seconds: float = field(kw_only=True)
    #: A process that stays watches a claim through its own monotonic clock; one that asks once
    #: and ends compares with a file's time instead (R5).
    patient: bool = field(kw_only=True)
    monotonic: Callable[[], float] = field(default=time.monotonic, kw_only=True)
    _seen: dict[str, tuple[tuple[int, int, int], float]] = field(default_factory=dict)
    _network: bool | None = None

    def verdict(self, key: str, generation: int) -> Verdict:
        """Judge an open claim.

        Raises:
            FileNotFoundError: The claim's directory is gone.
        """
        path = self.layout.claim_path(key, generation)
        owner = self.layout.owner(key, generation)
        if owner is None:
            return self._unsigned(path)
        holder = owner.holder
        who = f"{holder.name} ({holder.id})"
        if holder.kind is HolderKind.PROCESS:
            life, orphans = self._process(owner)
            if life == "alive":
                return Verdict(gone=False, detail=f"held by {who}")
            if life == "dead":
                orphans_of = holder.id if orphans else ""
                return Verdict(gone=True, detail=f"worker {holder.id} is dead", orphans_of=orphans_of)
        elif life_of(owner.process, self.here) == "dead":
            # An agent outlives the process that claimed for it, but not its client, and not the
            # machine's next boot.
            if owner.process.boot != self.here.boot:
                return Verdict(gone=True, detail=f"{who} was gone when the machine was booted again")
            if holder.kind is HolderKind.SESSION:
                return Verdict(gone=True, detail=f"the client of {who} is gone")
        return self._silence(path, holder.lease_seconds, owner, f"held by {who}")

    def silent_seconds(self, key: str, generation: int) -> float:
        """Return how long ago the last heartbeat was, by the store's own clock.

        Raises:
            FileNotFoundError: The claim's directory is gone.
        """
        stat = self.layout.files.lstat(self.layout.claim_path(key, generation))
        return max(0.0, (self._store_time_ns() - stat.st_mtime_ns) / 1e9)

    def _process(self, owner: Owner) -> tuple[Life, bool]:
        """Return whether the process lives, and whether it left something that still does."""
        life = life_of(owner.process, self.here)
        if owner.process.boot != self.here.boot or self._on_network():
            return life, False
        # The same kernel: its locks are seen here, whatever pid namespace the worker lives in.
        lock = lock_state(self.layout.workers, owner.holder.id)
        if lock == "missing":
            return life, False
        if lock == "free":
            return "dead", False
        return ("dead", True) if life == "dead" else ("alive", False)

    def _unsigned(self, path: str) -> Verdict:
        """Judge a claim that nobody has signed: its maker is between two calls, or died there (R4)."""
        if not self._on_network():
            makers = [worker for worker, _ in intending(self.layout.workers, os.path.basename(path))]
            living = [worker for worker in makers if lock_state(self.layout.workers, worker) == "held"]
            if living:
                return Verdict(gone=False, detail=f"being claimed by {living[0]}")
            if makers:
                return Verdict(gone=True, detail=f"worker {makers[0]} died while claiming")
        return self._silence(path, self.lease_seconds, None, "claimed by nobody known")

    def _silence(self, path: str, lease: float, owner: Owner | None, who: str) -> Verdict:
        try:
            stat = self.layout.files.lstat(path)
        except FileNotFoundError:
            self._seen.pop(path, None)
            raise
        if self.patient:
            signature = (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)
            seen, since = self._seen.get(path, (None, 0.0))
            if seen != signature:
                since = self.monotonic()
                self._seen[path] = (signature, since)
            silent = self.monotonic() - since
        else:
            silent = (self._store_time_ns() - stat.st_mtime_ns) / 1e9
            if owner is not None and owner.process.boot == self.here.boot:
                # While the machine slept nobody could beat (R15). It may have slept before the
                # last beat, so that this errs on the holder's side.
                silent -= max(0.0, clock.suspended_seconds() - owner.suspended)
        if silent >= lease:
            return Verdict(gone=True, detail=f"{who}, silent for {silent:.1f} s (lease {lease:g} s)")
        return Verdict(gone=False, detail=who)

    def _store_time_ns(self) -> int:
        """Return the time by the clock that stamps the store's files, which may be a server's."""
        probe = f"{self.layout.trash}probe.{secrets.token_hex(8)}"
        descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            return os.fstat(descriptor).st_mtime_ns
        finally:
            os.close(descriptor)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(probe)

    def _on_network(self) -> bool:
        if self._network is None:
            self._network = on_network(self.layout.root)
        return self._network
