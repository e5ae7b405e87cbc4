"""The port: what a claim store promises, whoever implements it.

A *claim* is proof that one holder holds one life of one item. It is a lease: it can be lost at
any moment, and **holding a `Claim` object proves nothing**. Only `ClaimStore.complete` decides,
and it decides once. Whoever acts on the world outside between `claim` and `complete` must put up
with a second worker doing the same after a revocation; the generation in the claim is the number
to fence with.

Safety never uses a clock; clocks, pids and heartbeats only decide *when* a claim is revoked.
No path, pid or time of this machine stands in these signatures, so that a database can give the
same promises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

#: Stands for a session's own thread where its agents bear ids.
MAIN = "main"


class HolderKind(StrEnum):
    """How it is told that a holder is gone."""

    #: A process of ours: its death is seen at once on the same machine.
    PROCESS = "process"
    #: An agent, whose claim outlives the process that made it: only its silence is seen.
    LEASE = "lease"
    #: An agent inside a client: its silence is seen, and on the same machine the client's death.
    SESSION = "session"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who claims."""

    #: Unique for ever: never used by another holder.
    id: str
    kind: HolderKind
    #: What people call it: ``batch-worker``, ``claude``, ``gemini``.
    name: str
    #: For how long it may be silent before others take over.
    lease_seconds: float
    #: The client's session, for a claim made by an agent.
    session: str = ""
    #: Which agent of the session: its id, `MAIN` for the session itself, "" where it is not known.
    agent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim as handed out. The fencing token is (key, generation, token)."""

    key: str
    #: 1, 2, 3 ... for each life of an item.
    generation: int
    #: Random; what the store recognises its holder by.
    token: str
    #: The `Holder.id`.
    holder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """Somebody else holds the item, or took it this moment."""

    key: str
    #: For people: who, and for how long.
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The item has its result."""

    key: str
    #: Whether this very call gave it up, as its attempts were used up.
    given_up: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A claim as others see it."""

    key: str
    generation: int
    token: str
    holder: Holder
    #: What the holder noted when it began (`ClaimStore.annotate`); empty if nothing.
    note: Mapping[str, Any]
    #: Seconds since the last heartbeat, by the store's own clock.
    silent_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How one generation of a claim ended without a result."""

    generation: int
    how: Literal["revoked", "released"]
    #: Whether it counts against the limit. Crashes and failures do; a release, a drain and a
    #: back-out do not.
    counted: bool
    detail: str


class ItemState(StrEnum):
    """Where an item stands in the store."""

    FINISHED = "finished"
    HELD = "held"
    WAITING = "waiting"


Payload = Mapping[str, Any]


class ClaimStore(ABC):
    """Who holds what, and how it ended. All methods may be called by any number of processes."""

    @abstractmethod
    def claim(self, key: str, item: str) -> Claim | Busy | Done:
        """*Atomically* take the life *key* of *item*, unless it is held or finished.

        Takes over, on the way, a claim whose holder is dead or silent, and finishes the
        publication of a result whose worker died before it. An item that has used up its
        attempts is given its ``failed`` result here.

        Raises:
            OSError: The store could not be read or written; nothing is held.
        """

    @abstractmethod
    def beat(self, claim: Claim) -> None:
        """Say that the holder lives.

        Raises:
            ClaimLost: The claim is no longer held; stop working.
        """

    @abstractmethod
    def annotate(self, claim: Claim, note: Mapping[str, Any]) -> None:
        """Keep *note* with the claim, where it outlives its holder. At most once per claim.

        Raises:
            ClaimLost: The claim is no longer held.
        """

    @abstractmethod
    def complete(self, claim: Claim, payload: Payload) -> Mapping[str, Any]:
        """*Atomically* make *payload* the one result of the item; durable on return.

        May be called again with the same claim: it then says what came of it.

        Returns:
            The result as accepted: the payload of the first call that won, with ``key``,
            ``generation`` and ``token``.

        Raises:
            ClaimLost: Another ending came first. Final: this claim never wins later.
            OSError: Undecided; call again.
        """

    @abstractmethod
    def fail(self, claim: Claim, reason: str) -> None:
        """Give the item back after a counted attempt, so that it is tried again.

        Raises:
            ClaimLost: The claim is no longer held.
        """

    @abstractmethod
    def release(self, claim: Claim, reason: str) -> None:
        """Give the item back; costs no attempt.

        Raises:
            ClaimLost: The claim is no longer held.
        """

    @abstractmethod
    def revoke(self, key: str, why: str, generation: int | None = None) -> bool:
        """End the open claim of *key*, whoever holds it; its holder can no longer complete.

        Args:
            key: The life.
            why: For people, and for the holder.
            generation: Only this one; without it whichever is open.

        Returns:
            Whether a claim was ended by this call.
        """

    @abstractmethod
    def reap(self, keys: Iterable[str] | None = None) -> list[str]:
        """Revoke the claims of the dead and the silent, and publish what is finished.

        Args:
            keys: Lives to look at; None for every unfinished one.

        Returns:
            The keys that are free or finished through this call.
        """

    @abstractmethod
    def result(self, key: str) -> Mapping[str, Any] | None:
        """Return the accepted result, or None. It never changes."""

    @abstractmethod
    def held(self, key: str) -> Held | None:
        """Return the open claim of *key*, or None; its holder may be dead."""

    @abstractmethod
    def attempts(self, key: str) -> list[Attempt]:
        """Return how the ended generations of an unfinished item ended, oldest first."""

    @abstractmethod
    def snapshot(self, keys: Iterable[str]) -> dict[str, ItemState]:
        """Return where each of *keys* stands; a claim of the dead counts as waiting."""
