"""Which claim an actor means, whether it may act on it, and how it was lost."""

from __future__ import annotations

from dataclasses import replace

from ..core import clock
from ..core.errors import ClaimLost, Loss, Refused
from ..core.model import TaskHead
from ..store.records import Claim, Held, Result, Worker
from .catalog import TaskCatalog
from .completion import CompletedBy, TaskCompletion


class ActorClaims:
    """The claims on a project's tasks as the actor of a catalog sees them. Changes nothing."""

    def __init__(self, catalog: TaskCatalog) -> None:
        self._catalog = catalog

    def open_claim(self, task: TaskHead, attempt: int | None) -> Held | None:
        """Return the open claim on *task* that the actor may act on, None if there is none.

        Raises:
            ClaimLost: The claim that is meant has ended.
            Refused: It is somebody else's.
        """
        held = self._catalog.held(task)
        if attempt is not None:
            if held is None or held.number != attempt:
                raise ClaimLost(self.loss_of(task, attempt))
            return held
        if held is None or not self._catalog.actor.holds(held.worker):
            self.require_not_lost(task)
        if held is not None and not self._catalog.actor.holds(held.worker):
            raise Refused(
                f"{task.id} is held by {held.worker.name}; "
                f"pass the attempt ({held.number}) to act on that claim"
            )
        return held

    def require_not_lost(self, task: TaskHead) -> None:
        """Raise if the actor had a claim on *task* that was taken from it, and has not claimed it since."""
        actor, store = self._catalog.actor, self._catalog.store
        if not actor.agent or store is None:
            return
        key = self._catalog.key(task)
        lost = [one for one in store.sessions.lost_claims(actor.session, actor.agent) if one.claim.key == key]
        mine = [one for one in store.claims.attempts(key) if actor.is_author(one)] if lost else []
        if lost and mine[-1].id == lost[-1].claim.attempt:
            number, why = lost[-1].claim.number, lost[-1].status.why
            raise ClaimLost(Loss(key=task.id, attempt=number, reason="revoked", detail=why))

    def loss_of(self, task: TaskHead, number: int) -> Loss:
        """Return how the attempt *number* at *task* ended."""
        store = self._catalog.store
        for one in store.claims.attempts(self._catalog.key(task)) if store else []:
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
        store = self._catalog.store
        latest = store.claims.latest(self._catalog.key(task)) if store is not None else None
        result = latest.result if latest else None
        said = (completion.outcome.value, completion.text)
        if result is None or (result.get("status"), result.get("outcome")) != said:
            return None
        actor = self._catalog.actor
        if attempt is not None:
            mine = attempt == result.get("attempt")
        else:
            mine = bool(actor.agent) and (result.get("session"), result.get("agent")) == (
                actor.session,
                actor.agent,
            )
        return result if mine and task.status is completion.status else None

    def completed_by(self, claim: Claim, held: Held | None, own: Worker | None) -> CompletedBy:
        """Return who ends a claim: its holder, or another actor that gives its name.

        Args:
            claim: The claim.
            held: Its holder; None for a claim that is made for its end alone.
            own: The worker in whose name the actor claims, if that is not its own.
        """
        actor = self._catalog.actor
        worker = held.worker if held is not None else own or actor.worker
        started = clock.text_of(held.claimed_at / 1000) if held is not None else ""
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
