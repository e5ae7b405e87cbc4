"""Tasks of one project as agents and people use them: claim, complete, block, release, change.

A status moves only under the task's claim. Each act is: publish what was decided, read the file, decide, one
transaction in the store, edit the file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..core.assignment import AssignedTask
from ..core.errors import ClaimLost, Refused, Taken
from ..core.model import CLOSED, MOVES, FileEdit, LineEdit, Outcome, Task, TaskHead, TaskStatus
from ..core.paths import Project
from ..store.records import AgentTask, Claim, Completion, Held, Result, Work, Worker
from ..store.sessions import MAIN, AgentClaim
from ..store.store import Store
from .actor import Actor
from .actor_claims import ActorClaims
from .catalog import TaskCatalog
from .claim_edit import apply_claim_edit, claim_edit, revert_claim_edit, revert_keys
from .completion import CompletedBy, TaskCompletion, result_of
from .eligibility import Wanted, in_turn, nothing_ready
from .publication import publish, publish_pending, restore, settle
from .receipts import append_receipt, receipt_lines
from .tasks import edit_file, edit_key, open_task, parse_task, read_task, status_word

if TYPE_CHECKING:
    from .live import LiveIndex

#: How often a task is looked at anew that is finished, changes hands or is saved under the look.
_LOOKS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What a caller is told of its claim."""

    #: The attempt's number: rises with every claim of the task, over all its cycles.
    attempt: int
    #: Seconds of silence after which others may take over.
    expires_in: float
    #: The claim itself, for callers that renew or complete it in the store.
    claim: Claim


class TaskService:
    """The tasks of one project, to act on.

    Args:
        project: The project.
        settings: Its settings.
        actor: In whose name it acts.
        store: The project's store, if it is open already; it is not closed with the service then.
        live: The index of a process that stays.
        worker: The worker that claims, for a process that holds many claims at once; by default the actor's.
        batch: The batch in whose name claims are made, for a coordinator.
    """

    def __init__(  # noqa: PLR0913 - what it is composed of, each by its name
        self,
        project: Project,
        settings: Mapping[str, Any],
        actor: Actor,
        store: Store | None = None,
        *,
        live: LiveIndex | None = None,
        worker: Worker | None = None,
        batch: int | None = None,
    ) -> None:
        self.project = project
        self.settings = settings
        self.actor = actor
        self.batch = batch
        #: The tasks, to look at. Opens no store where there is none.
        self.catalog = TaskCatalog(project, settings, actor, store, live=live)
        self._claims = ActorClaims(self.catalog)
        self._live = live
        self._worker = worker

    @property
    def store(self) -> Store:
        """The project's store; opened, and made, on first use."""
        return self.catalog.open_store()

    @property
    def worker(self) -> Worker:
        """The worker in whose name claims are made."""
        return self._worker or self.actor.worker

    def as_actor(self, actor: Actor) -> TaskService:
        """Return a service over the same store and worker that acts in another name."""
        return TaskService(
            self.project, self.settings, actor, self.store, live=self._live, worker=self._worker,
            batch=self.batch,
        )  # fmt: skip

    def close(self) -> None:
        """Close the store, if this service opened it."""
        self.catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------- look

    def find(self, name: str) -> TaskHead:
        """Return the task with this id, or at this path below the project's root.

        Raises:
            UsageError: There is none, or several bear the id.
        """
        return self.catalog.find(name)

    def relative(self, task: TaskHead) -> str:
        """Return the task's path below the project's root."""
        return self.catalog.relative(task)

    def key(self, task: TaskHead) -> str:
        """Return the task's key in the store."""
        return self.catalog.key(task)

    def held(self, task: TaskHead) -> Held | None:
        """Return who holds *task*; that worker may be dead."""
        return self.catalog.held(task)

    def why_not(self, task: TaskHead) -> str | None:
        """Return why an agent may not claim *task* now, None if it may."""
        return self.catalog.why_not(task)

    def result(self, task: TaskHead) -> Result | None:
        """Return the latest accepted result of *task*, None if it has none."""
        store = self.catalog.store
        cycles = store.claims.cycles(self.key(task)) if store else []
        return next((work.result for work, _ in reversed(cycles) if work.result is not None), None)

    # ------------------------------------------------------------------ claim

    def claim(self, name: str) -> tuple[Task, Hold]:
        """Take a task: its status becomes ``in_progress`` and its assignee the actor.

        A claim that the actor has already is renewed and returned once more.

        Raises:
            Taken: Somebody else holds it.
            Refused: It is done, cancelled, somebody else's, or waits for another task; or the actor is a
                session's agent that has another one in hand.
        """
        self._settle()
        task = self.find(name)
        other = self._in_hand()
        if other is not None and other.claim.key != self.key(task):
            raise Refused(
                f"you have {other.task.task} in hand (attempt {other.claim.number}), and a worker does one "
                f"task; complete, block or release it first"
            )
        return self._take(task)

    def claim_next(self, wanted: Wanted) -> tuple[Task, Hold] | str:
        """Take the most urgent task that is ready and *wanted*; return why there is none.

        An agent that has a task in hand is answered with that one.
        """
        self._settle()
        mine = self._in_hand()
        if mine is not None:
            return self._take(self.find(mine.claim.text))
        tried: dict[str, str] = {}
        while True:
            with self.catalog.view() as view:
                found = view.candidates(wanted, tried)
                if not found:
                    return nothing_ready(view.why_none(wanted, tried))
            for task in in_turn(found):
                try:
                    return self._take(task)
                except Refused as error:  # another was quicker, or its owner has just changed it
                    why = str(error).removeprefix(f"{task.id}: ").removeprefix(f"{task.id} is ")
                    tried[task.path] = why

    def assigned(self, assigned: AssignedTask) -> tuple[Task, Hold]:
        """Return the task that a coordinator holds for this agent, with the coordinator's claim.

        Raises:
            ClaimLost: The coordinator no longer holds it.
        """
        task = self.find(assigned.task)
        held = self._claims.open_claim(task, assigned.attempt)
        if held is None:
            raise ClaimLost(self._claims.loss_of(task, assigned.attempt))
        fresh = read_task(Path(task.path), self.settings)
        if self.actor.session:
            sessions = self.store.sessions
            sessions.assign(self.actor.session, self.actor.agent, held.attempt, _agent_task(fresh))
            sessions.show(self.actor.session)
        return fresh, self._hold(held.claim)

    def forget_assigned(self) -> None:
        """Note that an agent has reported on the task that a coordinator holds for it."""
        if self.actor.session and self.catalog.store is not None:
            self.store.sessions.unassign(self.actor.session, self.actor.agent)

    def require_held(self, name: str, attempt: int | None = None) -> None:
        """Raise unless the actor holds a claim on the task that it may end.

        Raises:
            ClaimLost: It had one.
            Refused: It has none.
        """
        task = self.find(name)
        if self._claims.open_claim(task, attempt) is None:
            raise Refused(f"{task.id} is not claimed by you; claim it first, or pass the attempt")

    def _take(self, task: TaskHead) -> tuple[Task, Hold]:
        store, key = self.store, self.key(task)
        for _ in range(_LOOKS):
            # The store first, the file second: a task that is claimable after its result was published has
            # been reopened by its owner, and begins the next cycle.
            latest = self._settled(key)
            held = store.claims.held(key)
            if held is not None and self.actor.is_known_as(held.worker):
                store.claims.renew([held.attempt])
                return read_task(Path(task.path), self.settings), self._hold(held.claim)
            fresh, document = open_task(Path(task.path), self.settings)
            if held is not None and fresh.status not in CLOSED:
                raise Taken(
                    f"{task.id} is held by {held.worker.name} (attempt {held.number}); take another, or wait"
                )
            if why := self.catalog.refusal(fresh):
                raise Refused(f"{task.id}: {why}")
            edit = claim_edit(fresh, document, self.actor.name, self.settings)
            answer = store.claims.claim(
                self.worker, key, self.relative(task), revert=edit.to_json(), batch=self.batch,
                reopen=latest is not None and latest.decided and latest.published,
                lock=self.catalog.lock_name(task), task=_agent_task(fresh),
            )  # fmt: skip
            if isinstance(answer, Claim):
                data = self._begin(task, answer, edit)
                if data is None:
                    continue
                if self.actor.session:
                    store.sessions.show(self.actor.session)
                return parse_task(Path(task.path), data, self.settings)[0], self._hold(answer)
        raise Refused(f"{task.id}: it keeps changing hands, or its file is being saved; try again")

    def _begin(self, task: TaskHead, claim: Claim, edit: FileEdit) -> bytes | None:
        """Write the claim into the task's file; None, and nothing is held, if its owner saved it just now."""
        store = self.store
        if holder := store.take_lock(claim):
            store.claims.unclaim([claim])
            raise Taken(f"{task.id} is {holder}; take another, or wait")
        try:
            data = apply_claim_edit(edit)
        except BaseException:
            with contextlib.suppress(ClaimLost):
                store.claims.release(claim, "could not be begun")
            store.drop_lock(claim.work, claim.attempt, claim.lock)
            restore(store, [claim.work])
            raise
        if data is None:
            store.drop_lock(claim.work, claim.attempt, claim.lock)
            store.claims.unclaim([claim])
        return data

    def _settled(self, key: str) -> Work | None:
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

    def _settle(self) -> None:
        # Who holds many claims looks now and then; who asks once looks now.
        settle(self.store, 0.5 if self._worker is not None else 0.0)

    def _in_hand(self) -> AgentClaim | None:
        """Return what the actor holds, if it is an agent of which that is known: such a one does one task."""
        if self.actor.agent in ("", MAIN):
            return None
        held = self.store.sessions.open_claims(self.actor.session, self.actor.agent)
        return next((one for one in held if not one.assigned), None)

    def _hold(self, claim: Claim) -> Hold:
        lease = self.settings["claims"]["lease_seconds"]
        return Hold(attempt=claim.number, expires_in=lease, claim=claim)

    # -------------------------------------------------------------------- end

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
        store = self.store
        publish_pending(store)
        task = self.find(name)
        self._settled(self.key(task))
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
            fresh, document = open_task(Path(task.path), self.settings)
            by = self._claims.completed_by(claim, held, self._worker)
            result = result_of(fresh, document, self.relative(task), completion, by, self.settings)
        except BaseException:
            if held is None:
                store.claims.unclaim([claim])
            raise
        self._complete(task, claim, completion, result)
        return result

    def _complete(
        self, task: TaskHead, claim: Claim, completion: TaskCompletion, result: Mapping[str, Any]
    ) -> None:
        store = self.store
        decided = Completion(
            attempt=claim.attempt, status=completion.outcome.value, result=result, published=False,
            tokens=completion.tokens, cost_usd=completion.cost_usd, log=completion.log,
        )  # fmt: skip
        try:
            accepted = store.claims.complete_one(decided)
        except ClaimLost as error:
            raise ClaimLost(replace(error.loss, key=task.id)) from None
        store.drop_lock(claim.work, claim.attempt, claim.lock)
        publish(store, [store.claims.work(accepted.work)])

    def _bare_claim(self, task: TaskHead) -> Claim:
        """Claim a task for its completion alone."""
        store, key = self.store, self.key(task)
        latest = store.claims.latest(key)
        answer = store.claims.claim(
            self.worker, key, self.relative(task), batch=self.batch,
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
        store = self.store
        publish_pending(store)
        task = self.find(name)
        held = self._claims.open_claim(task, attempt)
        if held is None:
            raise Refused(f"{task.id} is not held; there is nothing to release")
        revert_claim_edit(store, held)
        if self.actor.holds(held.worker) or not self.actor.name:
            store.claims.release(held.claim, reason)
        else:  # taken from its holder, whose session is told
            store.claims.revoke(held.attempt, f"{self.actor.name} released it: {reason}", counted=False)
        store.drop_lock(held.work, held.attempt, held.lock)
        store.claims.set_restored([held.attempt])
        return read_task(Path(task.path), self.settings)

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
        store = self.store
        task = self.find(name)
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
        store = self.store
        completion = TaskCompletion(
            outcome=Outcome.SKIPPED, status=TaskStatus.CANCELLED, text=reason or "cancelled"
        )
        settle(store)
        for _ in range(_LOOKS):
            task = self.find(name)
            held = store.claims.held(self.key(task))
            fresh, document = open_task(Path(task.path), self.settings)
            by = CompletedBy(
                name=self.actor.name or "somebody", session=self.actor.session, agent=self.actor.agent
            )
            result = result_of(
                fresh, document, self.relative(task), completion, by, self.settings,
                restored=revert_keys(document, held),
            )  # fmt: skip
            cancelled = store.claims.cancel(
                self.key(task), self.relative(task), result, by.name, published=False
            )
            if cancelled is not None:
                if held is not None:
                    store.drop_lock(held.work, held.attempt, held.lock)
                publish(store, [cancelled])
                return result
            self._settled(self.key(task))  # its holder finished it in this moment
        raise Refused(f"{name}: it keeps changing hands; try again")

    # ------------------------------------------------------------------- edit

    def update(
        self, name: str, values: Mapping[str, str | None], body: str = "", attempt: int | None = None
    ) -> list[str]:
        """Change frontmatter keys other than the status, and append to the body.

        Args:
            name: Id or path of the task.
            values: The keys, and their new values.
            body: Text to append; a list of lines that begin with ``- `` is receipts.
            attempt: The number of the attempt under which this is written; without it none is needed.

        Returns:
            What could not be changed, a line each.

        Raises:
            ClaimLost: The claim that is meant has ended.
        """
        task = self.find(name)
        held = self.held(task)
        if attempt is not None or self.actor.agent:
            if attempt is not None:
                self._claims.open_claim(task, attempt)
            if held is not None and self.actor.is_known_as(held.worker):  # a sign of life like any other
                self.store.claims.renew([held.attempt])
            else:
                self._claims.require_not_lost(task)
        if "assignee" in values and held is not None:
            raise Refused(f"{task.id} is held; its assignee changes with the claim")
        _, document = open_task(Path(task.path), self.settings)
        keys = [edit_key(document, key, value, self.settings) for key, value in values.items()]
        receipts = receipt_lines(body)
        for line in receipts:
            self.receipt(name, line)
        free = body and not receipts
        lines = (LineEdit(text=body.rstrip("\n") + document.newline, after=None),) if free else ()
        return edit_file(Path(task.path), FileEdit(path=task.path, keys=tuple(keys), lines=lines))

    def move(self, name: str, status: TaskStatus) -> None:
        """Set a status that neither begins nor ends work (``inbox``, ``active``, ``review``).

        Raises:
            Refused: The move is not allowed, or somebody holds the task.
        """
        if self.catalog.store is not None:
            settle(self.store)
        task = self.find(name)
        fresh, document = open_task(Path(task.path), self.settings)
        self._require_free(task)
        if fresh.status is not None and status not in MOVES[fresh.status]:
            raise Refused(f"{task.id} is {fresh.status}: it cannot become {status}")
        edit = edit_key(document, "status", status_word(fresh, status, self.settings), self.settings)

        def still_free() -> bool:
            # Under the file's lock: a claim that comes now finds another status than it has read.
            self._require_free(task)
            return True

        conflicts = edit_file(Path(task.path), FileEdit(path=task.path, keys=(edit,)), guard=still_free)
        if conflicts:
            raise Refused(f"{task.id}: its file was changed this moment; look at it and try again")

    def _require_free(self, task: TaskHead) -> None:
        held = self.held(task)
        if held is not None:
            raise Refused(f"{task.id} is held by {held.worker.name}; release, block or complete it instead")

    def receipt(self, name: str, line: str, item: str = "", *, failed: bool = False) -> TaskHead:
        """Append a receipt to a task's body; needs no claim."""
        task = self.find(name)
        append_receipt(
            self.store, self.key(task), self.project.root, Path(task.path), line, item, failed=failed
        )
        return task

    def begin_receipt(self, name: str, item: str, *, again: bool = False) -> str:
        """Note that what leaves a receipt for *item* is about to be done: ``go``, ``done``, ``in doubt``."""
        return self.store.receipts.begin(self.key(self.find(name)), item, again=again)

    # ----------------------------------------------------- workers that ended

    def rescue(self) -> list[str]:
        """Take over what dead and silent workers held; publish and restore what is left of files.

        Returns:
            The ids of the tasks that were taken over; of items that are no tasks, their text.
        """
        if self.catalog.store is None:
            return []
        revoked = settle(self.store)
        if not revoked:
            return []
        with self.catalog.indexed() as index:
            found = {one.text: index.at(one.text) if index else None for one in revoked}
        return [task.id if task else text for text, task in found.items()]

    def release_agent(self, session: str, agent: str, why: str) -> list[str]:
        """Release all that an agent of a session holds, as it has ended; return the ids of the tasks."""
        store = self.catalog.store
        return self._left(store, store.sessions.release_agent(session, agent, why)) if store else []

    def end_session(self, session: str, why: str) -> list[str]:
        """Release all that a session's agents hold; return the ids of the tasks."""
        store = self.catalog.store
        return self._left(store, store.sessions.end(session, why)) if store else []

    def _left(self, store: Store, released: list[AgentClaim]) -> list[str]:
        """Restore the task files of claims that were released with their workers' ends."""
        for one in released:
            store.drop_lock(one.claim.work, one.claim.attempt, one.claim.lock)
        if released:
            restore(store, [one.claim.work for one in released])
        return [one.task.task for one in released]

    def beat(self, session: str, agent: str) -> None:
        """Renew the leases of all that an agent of a session holds: it was heard."""
        if self.catalog.store is not None:
            self.store.sessions.beat(session, agent)


def _agent_task(task: Task) -> AgentTask:
    return AgentTask(task=task.id, receipts=task.receipts, receipts_to=task.receipts_to)
