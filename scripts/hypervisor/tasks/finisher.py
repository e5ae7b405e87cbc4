"""How work on a task ends: with a result, given back, or cancelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.errors import ClaimLost, Refused
from ..core.model import CLOSED, KeyEdit, Outcome, Task, TaskHead, TaskStatus
from ..store.records import Claim, Completion, Held, Result
from .actor_claims import ActorClaims
from .claimer import revert_claim_edit, revert_keys
from .completion import CompletedBy, TaskCompletion, result_of
from .files import edit_key, open_task, read_task
from .publication import publish, publish_pending, settle

#: How often a task is looked at anew that changes hands under the look.
_LOOKS = 8


class TaskFinisher:
    """Ends claims on tasks in an actor's name."""

    def __init__(self, claims: ActorClaims) -> None:
        self._claims = claims
        self._catalog = claims.catalog
        self._actor = claims.catalog.actor
        self._settings = claims.catalog.settings

    def finish(
        self, name: str, completion: TaskCompletion, attempt: int | None = None, *, unclaimed: bool = True
    ) -> Result:
        """End the actor's claim on a task with a result. The same completion twice is one.

        Args:
            name: Id or path of the task.
            completion: How it ends.
            attempt: The number of the attempt that is meant; a stale one is refused.
            unclaimed: Whether a task that nobody holds is claimed on the way.

        Raises:
            ClaimLost: The claim is no longer the actor's.
            Refused: Somebody else holds the task, or it may not move there.
        """
        store = self._claims.store
        publish_pending(store)
        task = self._catalog.find(name)
        self._claims.settled(self._catalog.key(task))
        before = self._claims.accepted_before(task, completion, attempt)
        if before is not None:
            return before
        held = self._claims.open_claim(task, attempt)
        if held is None:
            if task.status in CLOSED:
                raise Refused(f"{task.id} is {task.status} already; its owner may reopen it in the file")
            if not unclaimed:
                raise Refused(f"{task.id} is not claimed by you; claim it first, or pass the attempt")
        claim = held.claim if held is not None else self._bare_claim(task)
        try:
            fresh, document = open_task(Path(task.path), self._settings)
            by = self._claims.completed_by(claim, held)
            edits: tuple[KeyEdit, ...] = ()
            if self._claims.deliver:  # its claim wrote nothing
                edits = (edit_key(document, "assignee", by.name, self._settings),)
                fresh = replace(fresh, status=TaskStatus.IN_PROGRESS)
            item = self._catalog.relative(task)
            result = result_of(fresh, document, item, completion, by, self._settings, restored=edits)
            if self._claims.deliver:
                result["deliver"] = self._claims.deliver
        except BaseException:
            if held is None:
                store.claims.unclaim([claim])
            raise
        self._complete(task, claim, completion, result)
        return result

    def _complete(
        self, task: TaskHead, claim: Claim, completion: TaskCompletion, result: Mapping[str, Any]
    ) -> None:
        store = self._claims.store
        decided = Completion(
            attempt=claim.attempt, status=completion.outcome.value, result=result, published=False,
            tokens=completion.tokens, cost_usd=completion.cost_usd, log=completion.log,
        )  # fmt: skip
        try:
            accepted = store.claims.complete_one(decided)
        except ClaimLost as error:
            raise ClaimLost(replace(error.loss, key=task.id)) from None
        except OSError:
            if not store.shared:
                raise
            accepted = store.claims.complete_one(decided)  # its outcome was not known; the answer is the same
        store.drop_lock(claim.work, claim.attempt, claim.lock)
        publish(store, [store.claims.work(accepted.work)])

    def _bare_claim(self, task: TaskHead) -> Claim:
        """Claim a task for its completion alone."""
        store, key = self._claims.store, self._catalog.key(task)
        latest = store.claims.latest(key)
        answer = store.claims.claim(
            self._claims.worker, key, self._catalog.relative(task), batch=self._claims.batch,
            reopen=latest is not None and latest.decided and latest.published,
        )  # fmt: skip
        if isinstance(answer, Claim):
            return answer
        detail = f"held by {answer.worker.name}" if isinstance(answer, Held) else "finished this moment"
        raise Refused(f"{task.id} is {detail}; try again, or pass the attempt")

    def release(self, name: str, reason: str, attempt: int | None = None) -> Task:
        """Give a task back as it was before the claim, at no cost in attempts.

        Raises:
            Refused: There is no claim of the actor's to release.
        """
        store = self._claims.store
        publish_pending(store)
        task = self._catalog.find(name)
        held = self._claims.open_claim(task, attempt)
        if held is None:
            raise Refused(f"{task.id} is not held; there is nothing to release")
        revert_claim_edit(store, held)
        if self._actor.holds(held.worker) or not self._actor.name:
            store.claims.release(held.claim, reason)
        else:  # taken from its holder, whose session is told
            store.claims.revoke(held.attempt, f"{self._actor.name} released it: {reason}", counted=False)
        store.drop_lock(held.work, held.attempt, held.lock)
        store.claims.set_restored([held.attempt])
        return read_task(Path(task.path), self._settings)

    def ask(  # noqa: PLR0913 - what is kept of a question and of its attempt
        self,
        name: str,
        question: str,
        choices: Sequence[str] = (),
        attempt: int | None = None,
        *,
        place: Mapping[str, Any] | None = None,
        tokens: int | None = None,
        cost_usd: float | None = None,
    ) -> int:
        """Give a task back, at no cost in attempts, until a person has answered the question of its agent.

        Returns:
            The number of the question.

        Raises:
            Refused: The actor has no claim on the task, or the question is empty.
            ClaimLost: The claim has ended.
        """
        store, task = self._claims.store, self._catalog.find(name)
        if not question.strip():
            raise Refused(f"{task.id}: the question is empty; say what a person has to decide")
        held = self._claims.open_claim(task, attempt)
        if held is None:
            raise Refused(f"{task.id} is not claimed by you; claim it before you ask")
        revert_claim_edit(store, held)
        number = store.questions.ask(
            held.claim, task.id, held.worker.name if not self._actor.name else self._actor.name,
            question.strip(), choices, place=place, tokens=tokens, cost_usd=cost_usd,
        )  # fmt: skip
        store.drop_lock(held.work, held.attempt, held.lock)
        store.claims.set_restored([held.attempt])
        return number

    def give_back(  # noqa: PLR0913 - what is kept of the attempt, each by its name
        self,
        name: str,
        reason: str,
        attempt: int,
        *,
        counted: bool,
        limit: int | None = None,
        delay: float = 0.0,
        tokens: int | None = None,
        cost_usd: float | None = None,
        log: str | None = None,
    ) -> bool:
        """Give a task back so that it is tried again, at the cost of an attempt or without.

        Returns:
            Whether it was given up with it, as its attempts are used up: the task is blocked then.

        Raises:
            ClaimLost: The claim has ended.
        """
        store = self._claims.store
        task = self._catalog.find(name)
        held = self._claims.open_claim(task, attempt)
        if held is None:
            raise ClaimLost(self._claims.loss_of(task, attempt))
        revert_claim_edit(store, held)
        gave_up = store.claims.fail(
            held.claim, reason, counted=counted, limit=limit, delay=delay, tokens=tokens, cost_usd=cost_usd,
            log=log,
        )  # fmt: skip
        store.drop_lock(held.work, held.attempt, held.lock)
        store.claims.set_restored([held.attempt])
        if gave_up is not None:
            publish(store, [store.claims.work(gave_up.work)])
        return gave_up is not None

    def cancel(self, name: str, reason: str) -> Result:
        """Cancel a task, whoever holds it; its holder can no longer complete."""
        store = self._claims.store
        completion = TaskCompletion(
            outcome=Outcome.SKIPPED, status=TaskStatus.CANCELLED, text=reason or "cancelled"
        )
        settle(store)
        for _ in range(_LOOKS):
            task = self._catalog.find(name)
            held = store.claims.held(self._catalog.key(task))
            fresh, document = open_task(Path(task.path), self._settings)
            by = CompletedBy(
                name=self._actor.name or "somebody",
                session=self._actor.session,
                agent=self._actor.agent,
            )
            result = result_of(
                fresh, document, self._catalog.relative(task), completion, by, self._settings,
                restored=revert_keys(document, held),
            )  # fmt: skip
            cancelled = store.claims.cancel(
                self._catalog.key(task), self._catalog.relative(task), result, by.name, published=False
            )
            if cancelled is not None:
                if held is not None:
                    store.drop_lock(held.work, held.attempt, held.lock)
                publish(store, [cancelled])
                return result
            self._claims.settled(self._catalog.key(task))  # its holder finished it in this moment
        raise Refused(f"{name}: it keeps changing hands; try again")
