"""Tasks of one project as agents and people use them: claim, complete, block, release, change.

A status moves only under the task's claim. Each act is: publish what was decided, read the file, decide, one
transaction in the store, edit the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..core.assignment import AssignedTask
from ..core.errors import Refused
from ..core.model import MOVES, FileEdit, LineEdit, Task, TaskHead, TaskStatus
from ..core.project import Project
from ..core.text import safe_text
from ..store.records import Held, Result, Worker
from ..store.sessions import AgentClaim
from ..store.store import Store
from .actor import Actor
from .actor_claims import ActorClaims
from .catalog import TaskCatalog
from .claimer import Hold, TaskClaimer
from .completion import TaskCompletion
from .eligibility import Wanted
from .files import edit_file, edit_key, open_task, status_word
from .finisher import TaskFinisher
from .publication import restore, settle
from .receipts import append_receipt, receipt_lines

if TYPE_CHECKING:
    from .index_watch import LiveIndex

__all__ = ["Hold", "TaskService"]


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
        deliver: The remote's branch whose merge commits publish results, where those are delivered by git; a
            claim then marks no file.
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
        deliver: str = "",
    ) -> None:
        self.project = project
        self.settings = settings
        self.actor = actor
        #: The tasks, to look at. Opens no store where there is none.
        self.catalog = TaskCatalog(project, settings, actor, store, live=live)
        self._claims = ActorClaims(self.catalog, worker, batch, deliver)
        self._claimer = TaskClaimer(self._claims)
        self._finisher = TaskFinisher(self._claims)
        self._live = live

    @property
    def store(self) -> Store:
        """The project's store; opened, and made, on first use."""
        return self.catalog.open_store()

    @property
    def worker(self) -> Worker:
        """The worker in whose name claims are made."""
        return self._claims.worker

    def as_actor(self, actor: Actor) -> TaskService:
        """Return a service over the same store and worker that acts in another name."""
        return TaskService(
            self.project, self.settings, actor, self.store, live=self._live, worker=self._claims.own_worker,
            batch=self._claims.batch, deliver=self._claims.deliver,
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
        """Take a task; see `TaskClaimer.claim`."""
        return self._claimer.claim(name)

    def claim_next(self, wanted: Wanted) -> tuple[Task, Hold] | str:
        """Take the most urgent task that is wanted; see `TaskClaimer.claim_next`."""
        return self._claimer.claim_next(wanted)

    def assigned(self, assigned: AssignedTask) -> tuple[Task, Hold]:
        """Return the task that a coordinator holds for this agent; see `TaskClaimer.assigned`."""
        return self._claimer.assigned(assigned)

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

    # -------------------------------------------------------------------- end

    def finish(
        self, name: str, completion: TaskCompletion, attempt: int | None = None, *, unclaimed: bool = True
    ) -> Result:
        """End the actor's claim on a task with a result; see `TaskFinisher.finish`."""
        return self._finisher.finish(name, completion, attempt, unclaimed=unclaimed)

    def release(self, name: str, reason: str, attempt: int | None = None) -> Task:
        """Give a task back as it was before the claim; see `TaskFinisher.release`."""
        return self._finisher.release(name, reason, attempt)

    def give_back(self, name: str, reason: str, attempt: int, *, counted: bool, **kept: Any) -> bool:
        """Give a task back so that it is tried again; see `TaskFinisher.give_back`."""
        return self._finisher.give_back(name, reason, attempt, counted=counted, **kept)

    def ask(
        self, name: str, question: str, choices: Sequence[str] = (), attempt: int | None = None, **kept: Any
    ) -> int:
        """Park a task until a person has answered; see `TaskFinisher.ask`."""
        return self._finisher.ask(name, question, choices, attempt, **kept)

    def cancel(self, name: str, reason: str) -> Result:
        """Cancel a task, whoever holds it; see `TaskFinisher.cancel`."""
        return self._finisher.cancel(name, reason)

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
        plain = {key: value and safe_text(value) for key, value in values.items()}
        keys = [edit_key(document, key, value, self.settings) for key, value in plain.items()]
        receipts = receipt_lines(body)
        for line in receipts:
            self.receipt(name, line)
        free = body and not receipts
        lines = (
            (
                LineEdit(
                    text=safe_text(body.replace("\r\n", "\n")).rstrip("\n") + document.newline, after=None
                ),
            )
            if free
            else ()
        )
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
