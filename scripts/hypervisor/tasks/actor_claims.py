"""Which claim an actor means, whether it may act on it, and how it was lost."""

from __future__ import annotations

from dataclasses import replace

from ..core.errors import ClaimLost, Loss, Refused
from ..core.model import TaskHead
from ..core.text import time_text
from ..store.records import Claim, Held, Result, Work, Worker
from ..store.store import Store
from .catalog import TaskCatalog
from .completion import CompletedBy, TaskCompletion
from .publication import publish, restore


class ActorClaims:
    """The claims on a project's tasks as the actor of a catalog sees them.

    Args:
        catalog: The tasks, and in whose name it acts.
        own_worker: The worker that claims, where that is not the actor's own.
        batch: The batch in whose name claims are made, if any.
        deliver: See `TaskService`.
    """

    def __init__(
        self,
        catalog: TaskCatalog,
        own_worker: Worker | None = None,
        batch: int | None = None,
        deliver: str = "",
    ) -> None:
        self.catalog = catalog
        self.own_worker = own_worker
        self.batch = batch
        self.deliver = deliver

    @property
    def store(self) -> Store:
        """The project's store; opened, and made, on first use."""
        return self.catalog.open_store()

    @property
    def worker(self) -> Worker:
        """The worker in whose name claims are made."""
        return self.own_worker or self.catalog.actor.worker

    def settled(self, key: str) -> Work | None:
        """Return the latest cycle of a task; what is left to be written to its file is written.

        Raises:
            OSError: It could not be written.
            Refused: Another process keeps the file locked.
        """
        store = self.store
        latest = store.claims.latest(key)
        if latest is not None and latest.state == "ready":
            restore(store, [latest.id])
        elif latest is not None and latest.decided and not latest.published:
            publish(store, [latest])
            return store.claims.work(latest.id)
        return latest

    def open_claim(self, task: TaskHead, attempt: int | None) -> Held | None:
        """Return the open claim on *task* that the actor may act on, None if there is none.

        Raises:
            ClaimLost: The claim that is meant has ended.
            Refused: It is somebody else's.
        """
        held = self.catalog.held(task)
        if attempt is not None:
            if held is None or held.number != attempt:
                raise ClaimLost(self.loss_of(task, attempt))
            return held
        if held is None or not self.catalog.actor.holds(held.worker):
            self.require_not_lost(task)
        if held is not None and not self.catalog.actor.holds(held.worker):
            raise Refused(
                f"{task.id} is held by {held.worker.name}; "
                f"pass the attempt ({held.number}) to act on that claim"
            )
        return held

    def require_not_lost(self, task: TaskHead) -> None:
        """Raise if the actor had a claim on *task* that was taken from it, and has not claimed it since."""
        actor, store = self.catalog.actor, self.catalog.store
        if not actor.agent or store is None:
            return
        key = self.catalog.key(task)
        lost = [one for one in store.sessions.lost_claims(actor.session, actor.agent) if one.claim.key == key]
        mine = [one for one in store.claims.attempts(key) if actor.is_author(one)] if lost else []
        if lost and mine[-1].id == lost[-1].claim.attempt:
            number, why = lost[-1].claim.number, lost[-1].status.why
            raise ClaimLost(Loss(key=task.id, attempt=number, reason="revoked", detail=why))

    def loss_of(self, task: TaskHead, number: int) -> Loss:
        """Return how the attempt *number* at *task* ended."""
        store = self.catalog.store
        for one in store.claims.attempts(self.catalog.key(task)) if store else []:
            if one.number == number and store is not None:
                if lost := store.claims.loss(one.id):
                    return replace(lost, key=task.id)
                if one.outcome == "again":
                    return Loss(key=task.id, attempt=number, reason="released", detail=one.detail)
                detail = f"this attempt ended as {one.outcome}: {one.detail}"
                return Loss(key=task.id, attempt=number, reason="finished", detail=detail)
        return Loss(key=task.id, attempt=number, reason="unknown", detail="there is no such attempt")

    def accepted_before(
        self, task: TaskHead, completion: TaskCompletion, attempt: int | None
    ) -> Result | None:
        """Return the result of a call that is repeated because its answer never arrived."""
        store = self.catalog.store
        latest = store.claims.latest(self.catalog.key(task)) if store is not None else None
        result = latest.result if latest else None
        said = (completion.outcome.value, completion.text)
        if result is None or (result.get("status"), result.get("outcome")) != said:
            return None
        actor = self.catalog.actor
        if attempt is not None:
            mine = attempt == result.get("attempt")
        else:
            mine = bool(actor.agent) and (result.get("session"), result.get("agent")) == (
                actor.session,
                actor.agent,
            )
        # A file that the remote's merge changes shows it only once that has come here.
        same = task.status is completion.status or bool(result.get("deliver"))
        return result if mine and same else None

    def completed_by(self, claim: Claim, held: Held | None) -> CompletedBy:
        """Return who ends a claim: its holder, or another actor that gives its name.

        Args:
            claim: The claim.
            held: Its holder; None for a claim that is made for its end alone.
        """
        actor, own = self.catalog.actor, self.own_worker
        worker = held.worker if held is not None else own or actor.worker
        started = time_text(held.claimed_at / 1000) if held is not None else ""
        if held is None or (actor.name and not actor.holds(worker) and worker != own):
            return CompletedBy(
                name=actor.name or "somebody",
                session=actor.session,
                agent=actor.agent,
                attempt=claim.number,
                started=started,
            )
        return CompletedBy(
            name=actor.name if own else worker.name or actor.name,
            session=worker.session or actor.session,
            agent=worker.agent or actor.agent,
            attempt=claim.number,
            started=started,
        )
