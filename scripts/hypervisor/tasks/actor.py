"""Who acts on tasks: a person at a shell, an agent inside a client, a coordinator."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ..core.process import Identity, this_process
from ..store.columns import plain
from ..store.records import Attempt, Worker, WorkerKind
from ..store.sessions import MAIN

__all__ = ["MAIN", "Actor"]

#: The longest name, session or agent that a worker's row keeps.
_LONGEST = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """In whose name a service acts."""

    #: Becomes the assignee of what is claimed. "" acts for whoever holds the task: enough to end a claim.
    name: str
    #: The client's session, "" where there is none.
    session: str = ""
    #: The session's agent, `MAIN` for its own thread; "" where that is not known.
    agent: str = ""
    #: The client's process, whose death ends what its agents hold.
    client: Identity | None = None

    @property
    def worker(self) -> Worker:
        """The worker in whose name this actor claims; the same for the same session, agent and name."""
        client = self.client if self.client is not None and self.client.start else None
        process = client or this_process()
        # Of another client's process, or after another boot, the same names are another worker: the
        # death of the first one must not end what the second one holds.
        life = [process.host, process.boot, *((str(process.pid), process.start) if client else ())]
        parts = "\0".join([self.session, self.agent, self.name, *life]).encode("utf-8", "surrogateescape")
        return Worker(
            id=f"agent-{hashlib.blake2b(parts, digest_size=12).hexdigest()}",
            kind=WorkerKind.SESSION if client else WorkerKind.LEASE,
            name=plain(self.name or "somebody", _LONGEST),
            process=process,
            session=plain(self.session, _LONGEST),
            agent=plain(self.agent, _LONGEST),
        )

    def holds(self, worker: Worker) -> bool:
        """Return whether a claim of *worker* is this actor's to end.

        The client's own word on who calls counts more than a name, which many agents share.
        """
        if self.agent:
            unknown = worker.agent == "" and worker.session == self.session
            return unknown or self.is_known_as(worker)
        same_session = not self.session or not worker.session or self.session == worker.session
        return bool(self.name) and worker.name == self.name and same_session

    def is_known_as(self, worker: Worker) -> bool:
        """Return whether the actor is *worker* by the client's word, and does not only bear its name."""
        mine = (plain(self.session, _LONGEST), plain(self.agent, _LONGEST))
        return bool(self.agent) and mine == (worker.session, worker.agent)

    def is_author(self, attempt: Attempt) -> bool:
        """Return whether the actor made *attempt*, by the client's word."""
        mine = (plain(self.session, _LONGEST), plain(self.agent, _LONGEST))
        return bool(self.agent) and mine == (attempt.session, attempt.agent)
