"""Taking a task: what has to hold before, what is written into its file, and who gets which."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.assignment import AssignedTask
from ..core.errors import ClaimLost, Refused, Taken, Unreadable
from ..core.files import real_path
from ..core.model import CLOSED, FileEdit, KeyEdit, Task, TaskHead, TaskStatus
from ..store.records import AgentTask, Claim, Held
from ..store.sessions import MAIN, AgentClaim
from ..store.store import Store
from .actor_claims import ActorClaims
from .edits import edit_of
from .eligibility import Wanted, in_turn, nothing_ready
from .files import edit_key, open_task, parse_task, read_task, status_word
from .publication import finished_words, restore, settle
from .rewriting import rewrite

if TYPE_CHECKING:
    from ..documents import yaml_edit

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


class TaskClaimer:
    """Claims tasks in an actor's name."""

    def __init__(self, claims: ActorClaims) -> None:
        self._claims = claims
        self._catalog = claims.catalog
        self._actor = claims.catalog.actor
        self._settings = claims.catalog.settings

    def claim(self, name: str) -> tuple[Task, Hold]:
        """Take a task: its status becomes ``in_progress`` and its assignee the actor.

        A claim that the actor has already is renewed and returned once more.

        Raises:
            Taken: Somebody else holds it.
            Refused: It is done, cancelled, somebody else's, or waits for another task; or the actor is a
                session's agent that has another one in hand.
        """
        self._settle()
        task = self._catalog.find(name)
        other = self._in_hand()
        if other is not None and other.claim.key != self._catalog.key(task):
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
            return self._take(self._catalog.find(mine.claim.text))
        tried: dict[str, str] = {}
        while True:
            with self._catalog.view() as view:
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
        task = self._catalog.find(assigned.task)
        held = self._claims.open_claim(task, assigned.attempt)
        if held is None:
            raise ClaimLost(self._claims.loss_of(task, assigned.attempt))
        fresh = read_task(Path(task.path), self._settings)
        if self._actor.session:
            sessions = self._claims.store.sessions
            sessions.assign(self._actor.session, self._actor.agent, held.attempt, _agent_task(fresh))
        return fresh, self._hold(held.claim)

    def _take(self, task: TaskHead) -> tuple[Task, Hold]:
        store, key = self._claims.store, self._catalog.key(task)
        for _ in range(_LOOKS):
            # The store first, the file second: a task that is claimable after its result was published has
            # been reopened by its owner, and begins the next cycle.
            latest = self._claims.settled(key)
            held = store.claims.held(key)
            if held is not None and self._actor.is_known_as(held.worker):
                store.claims.renew([held.attempt])
                return read_task(Path(task.path), self._settings), self._hold(held.claim)
            fresh, document = open_task(Path(task.path), self._settings)
            reopen = False
            if latest is not None and latest.decided:
                reopen = self._catalog.may_reopen(fresh, latest)
                if not reopen:
                    raise Refused(f"{task.id}: {finished_words(latest)}")
            if held is not None and fresh.status not in CLOSED:
                raise Taken(
                    f"{task.id} is held by {held.worker.name} (attempt {held.number}); take another, or wait"
                )
            if why := self._catalog.refusal(fresh):
                raise Refused(f"{task.id}: {why}")
            edit = claim_edit(fresh, document, self._actor.name, self._settings)
            revert = edit.to_json()
            if branch := self._claims.deliver:  # the store shows who has it; the file is changed by a merge
                edit = FileEdit(path=edit.path)
                revert = {**edit.to_json(), "deliver": branch}
            answer = store.claims.claim(
                self._claims.worker, key, self._catalog.relative(task),
                revert=revert, batch=self._claims.batch, reopen=reopen,
                lock=self._catalog.lock_name(task), task=_agent_task(fresh),
            )  # fmt: skip
            if isinstance(answer, Claim):
                data = self._begin(task, answer, edit)
                if data is None:
                    continue
                return parse_task(Path(task.path), data, self._settings)[0], self._hold(answer)
        raise Refused(f"{task.id}: it keeps changing hands, or its file is being saved; try again")

    def _begin(self, task: TaskHead, claim: Claim, edit: FileEdit) -> bytes | None:
        """Write the claim into the task's file; None, and nothing is held, if its owner saved it just now."""
        store = self._claims.store
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

    def _settle(self) -> None:
        # Who holds many claims looks now and then; who asks once looks now.
        settle(self._claims.store, 0.5 if self._claims.own_worker is not None else 0.0)

    def _in_hand(self) -> AgentClaim | None:
        """Return what the actor holds, if it is an agent of which that is known: such a one does one task."""
        if self._actor.agent in ("", MAIN):
            return None
        held = self._claims.store.sessions.open_claims(self._actor.session, self._actor.agent)
        return next((one for one in held if not one.assigned), None)

    def _hold(self, claim: Claim) -> Hold:
        lease = self._settings["claims"]["lease_seconds"]
        return Hold(attempt=claim.number, expires_in=lease, claim=claim)


def _agent_task(task: Task) -> AgentTask:
    return AgentTask(task=task.id, receipts=task.receipts, receipts_to=task.receipts_to)


# ----------------------------------------------------------------- the mark in the file


def claim_edit(task: Task, document: yaml_edit.Document, name: str, settings: Mapping[str, Any]) -> FileEdit:
    """Return the edit that a claim in the name of *name* makes; its inverse is `Held.revert`. Pure.

    Raises:
        Unreadable: A value is written in a way that cannot be edited without loss.
    """
    word = status_word(task, TaskStatus.IN_PROGRESS, settings)
    keys = (
        edit_key(document, "status", word, settings),
        edit_key(document, "assignee", name, settings),
    )
    return FileEdit(path=real_path(task.path), keys=keys)


def apply_claim_edit(edit: FileEdit) -> bytes | None:
    """Write a claim's edit into its file; all of it or, where the file was changed since, nothing.

    Returns:
        The file's content; None if its owner saved it in this moment.

    Raises:
        Unreadable: The file cannot be read or edited.
        Refused: Another process keeps it locked.
        OSError: The disk said no.
    """
    from ..documents import yaml_edit  # noqa: PLC0415 - the YAML loader

    def whole(data: bytes) -> tuple[bytes, list[str]]:
        changed, conflicts = yaml_edit.apply(data, edit)
        return (data, conflicts) if conflicts else (changed, [])

    answer = rewrite(Path(edit.path), whole)
    return None if answer.conflicts else answer.data


def revert_claim_edit(store: Store, held: Held) -> None:
    """Take back what an open claim wrote into its file, before the claim ends.

    Afterwards another may hold the task, and the file is the other's. What its owner has changed is left.

    Raises:
        Refused: Another process keeps the file locked.
        OSError: The disk said no.
    """
    if not held.revert:
        return
    from ..documents import yaml_edit  # noqa: PLC0415 - the YAML loader

    edit = edit_of(store, held.revert, held.text)

    def still_open() -> bool:
        now = store.claims.held(held.key)
        return now is not None and now.attempt == held.attempt

    with contextlib.suppress(Unreadable):  # gone, or no task any more: its owner's
        rewrite(Path(edit.path), lambda data: (yaml_edit.revert(data, edit)[0], []), still_open)


def revert_keys(document: yaml_edit.Document, held: Held | None) -> tuple[KeyEdit, ...]:
    """Return the edits that take back what still stands of a claim, but for the status. Pure."""
    if held is None or not held.revert:
        return ()
    edit = FileEdit.from_json(held.revert)
    return tuple(
        KeyEdit(key=one.key, old=one.new, new=one.old)
        for one in edit.keys[1:]
        if one.old != one.new and document.source(one.key) == one.new
    )
