"""Tasks of one project as agents and people use them: claim, complete, block, release, change.

A status moves only under the task's claim. Each act is: publish what was decided, read the file, decide,
one transaction in the store, edit the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..core.assignment import AssignedTask
from ..core.model import Task, TaskHead, TaskStatus
from ..core.paths import Project
from ..store.records import Claim, Held, Result, Worker
from ..store.store import Store
from .actor import Actor
from .completion import TaskCompletion

if TYPE_CHECKING:
    from .catalog import TaskCatalog
    from .eligibility import Wanted
    from .live import LiveIndex


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

    def __init__(
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
        raise NotImplementedError

    project: Project
    settings: Mapping[str, Any]
    actor: Actor
    batch: int | None

    @property
    def store(self) -> Store:
        """The project's store; opened, and made, on first use."""
        raise NotImplementedError

    @property
    def catalog(self) -> TaskCatalog:
        """The tasks, to look at. Opens no store where there is none."""
        raise NotImplementedError

    @property
    def worker(self) -> Worker:
        """The worker in whose name claims are made."""
        raise NotImplementedError

    def as_actor(self, actor: Actor) -> TaskService:
        """Return a service over the same store and worker that acts in another name."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the store, if this service opened it."""

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
        raise NotImplementedError

    def relative(self, task: TaskHead) -> str:
        """Return the task's path below the project's root."""
        raise NotImplementedError

    def key(self, task: TaskHead) -> str:
        """Return the task's key in the store."""
        raise NotImplementedError

    def held(self, task: TaskHead) -> Held | None:
        """Return who holds *task*; that worker may be dead."""
        raise NotImplementedError

    def why_not(self, task: TaskHead) -> str | None:
        """Return why an agent may not claim *task* now, None if it may."""
        raise NotImplementedError

    def result(self, task: TaskHead) -> Result | None:
        """Return the latest accepted result of *task*, None if it has none."""
        raise NotImplementedError

    # ------------------------------------------------------------------ claim

    def claim(self, name: str) -> tuple[Task, Hold]:
        """Take a task: its status becomes ``in_progress`` and its assignee the actor.

        A claim that the actor has already is renewed and returned once more.

        Raises:
            Taken: Somebody else holds it.
            Refused: It is done, cancelled, somebody else's, or waits for another task; or the actor is a
                session's agent that has another one in hand.
        """
        raise NotImplementedError

    def claim_next(self, wanted: Wanted) -> tuple[Task, Hold] | str:
        """Take the most urgent task that is ready and *wanted*; return why there is none.

        An agent that has a task in hand is answered with that one.
        """
        raise NotImplementedError

    def assigned(self, task: AssignedTask) -> tuple[Task, Hold]:
        """Return the task that a coordinator holds for this agent, with the coordinator's claim.

        Raises:
            ClaimLost: The coordinator no longer holds it.
        """
        raise NotImplementedError

    def require_held(self, name: str, attempt: int | None = None) -> None:
        """Raise unless the actor holds a claim on the task that it may end.

        Raises:
            ClaimLost: It had one.
            Refused: It has none.
        """
        raise NotImplementedError

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
        raise NotImplementedError

    def release(self, name: str, reason: str, attempt: int | None = None) -> Task:
        """Give a task back as it was before the claim, at no cost in attempts.

        Raises:
            Refused: There is no claim of the actor's to release.
        """
        raise NotImplementedError

    def give_back(
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
        raise NotImplementedError

    def cancel(self, name: str, reason: str) -> Result:
        """Cancel a task, whoever holds it; its holder can no longer complete."""
        raise NotImplementedError

    # ------------------------------------------------------------------- edit

    def update(
        self, name: str, values: Mapping[str, str | None], body: str = "", attempt: int | None = None
    ) -> list[str]:
        """Change frontmatter keys other than the status, and append to the body.

        Args:
            name: Id or path of the task.
            values: The keys, and their new values.
            body: Text to append.
            attempt: The number of the attempt under which this is written; without it none is needed.

        Returns:
            What could not be changed, a line each.

        Raises:
            ClaimLost: The claim that is meant has ended.
        """
        raise NotImplementedError

    def move(self, name: str, status: TaskStatus) -> None:
        """Set a status that neither begins nor ends work (``inbox``, ``active``, ``review``).

        Raises:
            Refused: The move is not allowed, or somebody holds the task.
        """
        raise NotImplementedError

    def receipt(self, name: str, line: str, item: str = "", *, failed: bool = False) -> TaskHead:
        """Append a receipt to a task's body; needs no claim."""
        raise NotImplementedError

    def begin_receipt(self, name: str, item: str, *, again: bool = False) -> str:
        """Record that what leaves a receipt for *item* is about to be done: ``go``, ``done``, ``in doubt``."""
        raise NotImplementedError

    # ----------------------------------------------------- workers that ended

    def rescue(self) -> list[str]:
        """Take over what dead and silent workers held; publish and restore what is left of files.

        Returns:
            The ids of the tasks that were taken over.
        """
        raise NotImplementedError

    def release_agent(self, session: str, agent: str, why: str) -> list[str]:
        """Release all that an agent of a session holds, as it has ended; return the ids of the tasks."""
        raise NotImplementedError

    def end_session(self, session: str, why: str) -> list[str]:
        """Release all that a session's agents hold; return the ids of the tasks."""
        raise NotImplementedError

    def beat(self, session: str, agent: str) -> None:
        """Renew the leases of all that an agent of a session holds: it was heard."""
        raise NotImplementedError
