"""What the store takes and returns: frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ..core.errors import Loss
from ..core.process import Identity

Result = Mapping[str, Any]


class WorkerKind(StrEnum):
    """How the death of a worker shows."""

    #: A process of ours: its death is seen at once on the same machine.
    PROCESS = "process"
    #: An agent inside a client: the client's death is seen on the same machine, its own silence everywhere.
    SESSION = "session"
    #: Whatever else: only its silence is seen.
    LEASE = "lease"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """Whoever holds claims."""

    #: Unique for ever, never another's.
    id: str
    kind: WorkerKind
    #: What people call it: ``batch-worker``, ``claude``, ``gemini``; the assignee that a claim writes.
    name: str
    #: The process whose death ends its claims: itself, or its agent's client.
    process: Identity
    #: The client's session and the agent in it, for a claim made by an agent; "" otherwise.
    session: str = ""
    agent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentTask:
    """What the hooks of an agent's client need to know of the task that the agent claims."""

    #: The task's id.
    task: str
    #: Tools whose use leaves a receipt in the task; the id of another task that gets it too, "" for none.
    receipts: tuple[str, ...] = ()
    receipts_to: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to work on one item: a lease, which can be lost at any moment.

    **Having this record proves nothing**: only the store's answer to `Claims.complete` does. Whoever acts on
    the world outside between the two must put up with a second worker that does the same after a
    revocation, and fences with `attempt`.
    """

    #: The fencing token: unique, rising, never reused.
    attempt: int
    work: int
    key: str
    cycle: int
    #: 1, 2, 3 ... for people and git refs; goes on over the cycles of an item.
    number: int
    #: The queue line; for a task its path below the project root.
    text: str
    #: `Worker.id`.
    worker: str
    #: The lock directory that shows the claim to others, "" for none.
    lock: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Returned instead of a claim: another worker holds the item."""

    attempt: int
    work: int
    number: int
    key: str
    cycle: int
    text: str
    worker: Worker
    claimed_at: int
    #: Milliseconds until the lease ends; negative once it has.
    expires_in: int
    #: What the claim changed in the task file, as `Claims.claim` was given it.
    revert: Mapping[str, Any] | None
    batch: int | None
    #: The lock directory that shows the claim to others, "" for none.
    lock: str
    #: Milliseconds since the worker was last heard.
    silent: int

    @property
    def claim(self) -> Claim:
        """The claim itself, to act on in its holder's name."""
        return Claim(
            attempt=self.attempt, work=self.work, key=self.key, cycle=self.cycle, number=self.number,
            text=self.text, worker=self.worker.id, lock=self.lock,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """Returned instead of a claim: the item has its result."""

    work: int
    cycle: int
    result: Result
    #: Whether this call gave the item up, as its attempts were used up.
    gave_up: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The end of one attempt with a result."""

    attempt: int
    #: ``success``, ``blocked``, ``failed`` or ``skipped``.
    status: str
    #: The result as people and programs read it; JSON.
    result: Result
    #: Whether nothing is left to be written to a file (see `Claims.unpublished`).
    published: bool = True
    tokens: int | None = None
    cost_usd: float | None = None
    log: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The answer to a completion: it is the item's result, and durable."""

    work: int
    result: Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One cycle of an item."""

    id: int
    key: str
    cycle: int
    text: str
    #: ``ready``, ``running`` or a result's status.
    state: str
    #: Ended attempts of this cycle that count against the limit.
    attempts: int
    last_number: int
    result: Result | None
    published: bool

    @property
    def decided(self) -> bool:
        """Whether it has its result."""
        return self.result is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One claim of an item, open or ended."""

    id: int
    #: The cycle of the item that it is an attempt at.
    work: int
    #: The batch in whose name it was made, if any.
    batch: int | None
    number: int
    worker: str
    #: The worker's `name`, session and agent; "" where they are forgotten.
    name: str
    session: str
    agent: str
    claimed_at: int
    ended_at: int | None
    #: A result's status; ``again``: given back by its worker; ``revoked``: taken away; None while open.
    outcome: str | None
    detail: str
    counted: bool
    revert: Mapping[str, Any] | None
    restored: bool
    #: What worked on it: ``claude``, ``gemini``, ``exec``, ``triage`` ...; "" where that was not kept.
    runner: str
    tokens: int | None
    cost_usd: float | None
    log: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned:
    """What an ended attempt wrote into its task file, and nobody has taken back."""

    attempt: int
    work: int
    key: str
    text: str
    #: As `Claims.claim` was given it.
    revert: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """One claim that was taken from a dead or silent worker."""

    attempt: int
    work: int
    text: str
    why: str
    #: Whether the item was given up with it, as its attempts were used up.
    gave_up: bool


Answer = Accepted | Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item to be put into a batch."""

    key: str
    text: str
    #: 0 critical, 1 high, 2 medium, 3 low
    priority: int = 2
    #: Whether a finished and published cycle is followed by the next one (its owner reopened the task).
    reopen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """A batch as the store knows it."""

    id: int
    #: What people call it; the name of its folder.
    name: str
    folder: str
    created_at: int
    options: Mapping[str, Any] = field(default_factory=dict)
    queue_offset: int = 0
    queue_tail: bytes = b""
    drain_at: int | None = None
    finished_at: int | None = None
    #: Lines that named an item which another line had named before.
    duplicates: int = 0
