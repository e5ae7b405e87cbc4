"""Tasks of one project as agents and people use them: find, claim, complete, give back.

Moving a status needs the task's claim, as does nothing else. What a claim writes into the file
(``in_progress``, the assignee) is noted with the claim before it is written, so that whoever ends
the claim can put back what was there.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import clock
from .batches import next_life, task_key
from .claims.directory import DirectoryStore, Policy
from .claims.port import Attempt, Busy, Claim, Done, Holder, HolderKind, Payload
from .effects import write_edits
from .errors import ClaimLost, Loss, Refused, Unreadable
from .model import CLOSED, MOVES, FileEdit, KeyEdit, LineEdit, Outcome, Task, TaskHead, TaskStatus
from .preflight import claim_refusal
from .tasklist import TaskList, dependencies, earlier_claims, put_back
from .tasks import (
    append_receipt,
    completion_report,
    edit_file,
    edit_key,
    open_task,
    read_task,
    status_word,
)

_LOOKS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a claim of a task is to end."""

    outcome: Outcome
    status: TaskStatus
    #: One line: what was done, or why not.
    text: str
    commit: str = ""
    evidence: str = ""
    next_step: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What a caller is told of its claim."""

    #: Rises with every claim of the task, in whatever life: names one claim for ever.
    generation: int
    #: Seconds of silence after which others may take over.
    expires_in: float


@dataclass(slots=True)
class Desk(TaskList):
    """The tasks of one project, to act on."""

    # ------------------------------------------------------------------ claim

    def claim(self, name: str) -> tuple[Task, Hold]:
        """Take a task: its status becomes ``in_progress`` and its assignee the caller.

        Raises:
            Refused: It is done, cancelled, held, somebody else's, or waits for another task.
        """
        tasks = self.tasks()
        task = self.find(name, tasks)
        unmet = dependencies(tasks)(task)
        with self._store() as store:
            for _ in range(_LOOKS):
                # The results first, the file second: a task that is claimable after its result was
                # seen has been reopened by its owner, and begins a new life.
                key = next_life(store.layout, self._key(task))
                self._must_be_claimable(store, key, task, unmet)
                answer = store.claim(key, self.relative(task))
                if isinstance(answer, Busy):
                    raise Refused(f"{task.id} is {answer.detail}; take another, or wait")
                if isinstance(answer, Done):
                    continue
                try:
                    self._begin(store, answer, task, unmet)
                except BaseException:
                    store.release(answer, "could not be begun")
                    raise
                number = earlier_claims(store, key) + answer.generation
                lease = self.settings["claims"]["lease_seconds"]
                return read_task(Path(task.path), self.settings), Hold(generation=number, expires_in=lease)
        raise Refused(f"{task.id} keeps changing hands; try again")

    def _must_be_claimable(self, store: DirectoryStore, key: str, task: TaskHead, unmet: list[str]) -> None:
        fresh = read_task(Path(task.path), self.settings)
        ours = self._begun_by_us(store, key)
        why = claim_refusal(fresh, self.caller.name, self.settings, unmet=unmet, ours=ours)
        if why:
            raise Refused(f"{task.id}: {why}")

    def _begin(self, store: DirectoryStore, claim: Claim, task: TaskHead, unmet: list[str]) -> None:
        put_back(store, claim.key, below=claim.generation)
        fresh, document = open_task(Path(task.path), self.settings)
        why = claim_refusal(fresh, self.caller.name, self.settings, unmet=unmet, ours=False)
        if why:
            raise Refused(f"{task.id}: {why}")
        word = status_word(fresh, TaskStatus.IN_PROGRESS, self.settings)
        edits = (
            edit_key(document, "status", word, self.settings),
            edit_key(document, "assignee", self.caller.name, self.settings),
        )
        edit = FileEdit(path=os.path.realpath(task.path), keys=edits)
        store.annotate(claim, {"edit": edit.to_json()})
        if edit_file(Path(edit.path), edit):  # its owner saved it in this moment
            put_back(store, claim.key, below=claim.generation + 1)
            raise Refused(f"{task.id}: its file was changed this moment; look at it and try again")

    # -------------------------------------------------------------------- end

    def finish(self, name: str, ending: Ending, generation: int | None = None) -> Mapping[str, Any]:
        """End the caller's claim of a task with a result; without a claim, take one first.

        Args:
            name: Id or path of the task.
            ending: See `Ending`.
            generation: Of the claim that is meant; a stale one is refused.

        Raises:
            ClaimLost: The claim is no longer the caller's.
            Refused: Somebody else holds the task, or it may not move there.
        """
        task = self.find(name)
        with self._store() as store:
            claim = self._open_claim(store, task, generation)
            if claim is None:
                if task.status in CLOSED:
                    raise Refused(f"{task.id} is {task.status} already; its owner may reopen it in the file")
                claim = self._bare_claim(store, task)
            try:
                payload = self._payload(task, earlier_claims(store, claim.key) + claim.generation, ending)
            except BaseException:
                if claim.holder == store_holder(store):
                    store.release(claim, "nothing was changed")
                raise
            return store.complete(claim, payload)

    def _payload(self, task: TaskHead, number: int, ending: Ending) -> Payload:
        fresh, document = open_task(Path(task.path), self.settings)
        if ending.status not in MOVES[fresh.status or TaskStatus.ACTIVE]:
            raise Refused(f"{task.id} is {fresh.status}: it cannot become {ending.status}")
        word = status_word(fresh, ending.status, self.settings)
        edit = edit_key(document, "status", word, self.settings)
        now = clock.now_text()
        report = completion_report(
            outcome=f"{ending.outcome.value}: {ending.text}",
            commit=ending.commit,
            evidence=ending.evidence,
            next_step=ending.next_step,
            who=f"{self.caller.name}, generation {number}",
            when=now,
            newline=document.newline,
        )
        payload: dict[str, Any] = {
            "item": self.relative(task),
            "task_id": task.id,
            "task_file": os.path.realpath(task.path),
            "status": ending.outcome.value,
            "outcome": ending.text,
            "worker": self.caller.name,
            "session": self.caller.session,
            "agent": self.caller.agent,
            "finished": now,
            "edit": FileEdit(path=os.path.realpath(task.path), keys=(edit,), lines=(report,)).to_json(),
        }
        for key in ("commit", "evidence", "next_step"):
            if getattr(ending, key):
                payload[key] = getattr(ending, key)
        return payload

    def release(self, name: str, reason: str, generation: int | None = None) -> Task:
        """Give a task back as it was before the claim.

        Raises:
            Refused: There is no claim of the caller's to release.
        """
        task = self.find(name)
        with self._store() as store:
            claim = self._open_claim(store, task, generation)
            if claim is None:
                raise Refused(f"{task.id} is not held; there is nothing to release")
            # Before the claim ends: afterwards another may hold the task, and the file is his.
            put_back(store, claim.key, below=claim.generation + 1)
            store.release(claim, reason)
        return read_task(Path(task.path), self.settings)

    def cancel(self, name: str, reason: str) -> Mapping[str, Any]:
        """Cancel a task, whoever holds it; its holder can no longer complete."""
        task = self.find(name)
        ending = Ending(outcome=Outcome.SKIPPED, status=TaskStatus.CANCELLED, text=reason or "cancelled")
        with self._store() as store:
            key = next_life(store.layout, self._key(task))
            store.revoke(key, f"cancelled by {self.caller.name}")
            claim = self._bare_claim(store, task)
            try:
                put_back(store, claim.key, below=claim.generation)
                payload = self._payload(task, earlier_claims(store, claim.key) + claim.generation, ending)
            except BaseException:
                store.release(claim, "nothing was changed")
                raise
            return store.complete(claim, payload)

    def reap(self) -> list[str]:
        """Free what the dead and the silent hold, and put their tasks back as they were."""
        with self._store() as store:
            freed = store.reap()
            for key in store.layout.unfinished():
                edit = self._last_edit(store, key)
                if edit is None or store.is_held(key) or not self._begun_by_us(store, key):
                    continue
                # By its item, as this may be the claim that gives the task up.
                claim = store.claim(key, os.path.relpath(edit.path, os.path.realpath(self.project.root)))
                if isinstance(claim, Claim):
                    try:
                        put_back(store, key, below=claim.generation)
                    finally:
                        store.release(claim, "put back after its holder was gone")
        return freed

    # ------------------------------------------------------------------- edit

    def update(self, name: str, values: Mapping[str, str | None], body: str = "") -> list[str]:
        """Change frontmatter keys other than the status, and append to the body.

        Returns:
            What could not be changed, a line each.
        """
        task = self.find(name)
        if "assignee" in values and self.held(task):
            raise Refused(f"{task.id} is held; its assignee changes with the claim")
        _, document = open_task(Path(task.path), self.settings)
        keys: list[KeyEdit] = [edit_key(document, key, value, self.settings) for key, value in values.items()]
        lines = (LineEdit(text=body.rstrip("\n") + document.newline, after=None),) if body else ()
        return edit_file(Path(task.path), FileEdit(path=task.path, keys=tuple(keys), lines=lines))

    def move(self, name: str, status: TaskStatus) -> None:
        """Set a status that neither begins nor ends work (``inbox``, ``active``, ``review``).

        Raises:
            Refused: The move is not allowed, or somebody holds the task.
        """
        task = self.find(name)
        with self._store() as store:
            if self._open_claim(store, task, None) is not None:
                raise Refused(f"{task.id} is held; release, block or complete it instead")
            claim = self._bare_claim(store, task)
            try:
                fresh, document = open_task(Path(task.path), self.settings)
                if fresh.status is not None and status not in MOVES[fresh.status]:
                    raise Refused(f"{task.id} is {fresh.status}: it cannot become {status}")
                word = status_word(fresh, status, self.settings)
                edit = edit_key(document, "status", word, self.settings)
                edit_file(Path(task.path), FileEdit(path=task.path, keys=(edit,)))
            finally:
                store.release(claim, f"moved to {status}")

    def receipt(self, name: str, line: str) -> TaskHead:
        """Append a receipt to a task's body; needs no claim."""
        task = self.find(name)
        append_receipt(Path(task.path), line)
        return task

    # ---------------------------------------------------------------- details

    @contextmanager
    def _store(self) -> Iterator[DirectoryStore]:
        self.project.prepare()
        claims = self.settings["claims"]
        holder = Holder(
            id=f"{self.caller.name}-{secrets.token_hex(6)}",
            kind=HolderKind.LEASE,
            name=self.caller.name,
            lease_seconds=claims["lease_seconds"],
            session=self.caller.session,
            agent=self.caller.agent,
        )
        policy = Policy(
            attempts=claims["attempts"],
            lease_seconds=claims["lease_seconds"],
            patient=False,
            effects=write_edits,
            give_up=lambda item, attempts: self._give_up(store, item, attempts),
        )
        store = DirectoryStore(str(self.project.state), holder, policy=policy)
        try:
            yield store
        finally:
            store.close()

    def _give_up(self, store: DirectoryStore, item: str, attempts: list[Attempt]) -> Payload:
        """Return the result of a task whose workers all vanished: blocked, for a person to look at."""
        tries = "; ".join(f"attempt {a.generation}: {a.detail or a.how}" for a in attempts)
        text = f"gave up after {len(attempts)} attempts: {tries}"
        payload: dict[str, Any] = {
            "item": item, "status": Outcome.FAILED.value, "outcome": text, "finished": clock.now_text(),
        }  # fmt: skip
        path = os.path.realpath(self.project.root / item)
        key = next_life(store.layout, task_key(self.project, path))
        try:
            put_back(store, key, below=store.layout.highest(key))
            task, document = open_task(Path(path), self.settings)
            if task.status in CLOSED:  # by hand, meanwhile
                return payload
            word = status_word(task, TaskStatus.BLOCKED, self.settings)
            edit = edit_key(document, "status", word, self.settings)
        except Unreadable:
            return payload
        edit_record = FileEdit(path=os.path.realpath(task.path), keys=(edit,))
        return {**payload, "task_id": task.id, "task_file": task.path, "edit": edit_record.to_json()}

    def _bare_claim(self, store: DirectoryStore, task: TaskHead) -> Claim:
        answer = store.claim(next_life(store.layout, self._key(task)), self.relative(task))
        if isinstance(answer, Claim):
            return answer
        detail = answer.detail if isinstance(answer, Busy) else "finished this moment"
        raise Refused(f"{task.id} is {detail}; try again, or name its --generation")

    def _open_claim(self, store: DirectoryStore, task: TaskHead, generation: int | None) -> Claim | None:
        """Return the open claim of *task* that the caller may act on, None if there is none."""
        key = next_life(store.layout, self._key(task))
        earlier = earlier_claims(store, key)
        held = store.held(key)
        if generation is not None and (held is None or generation != earlier + held.generation):
            raise ClaimLost(self._stale(store, key, generation, earlier))
        if held is None:
            return None
        if generation is None and held.holder.name != self.caller.name:
            raise Refused(
                f"{task.id} is held by {held.holder.name}; "
                f"pass --generation {earlier + held.generation} to act on that claim"
            )
        return Claim(key=key, generation=held.generation, token=held.token, holder=held.holder.id)

    def _stale(self, store: DirectoryStore, key: str, generation: int, earlier: int) -> Loss:
        if generation <= earlier:
            return Loss(key=key, generation=generation, reason="finished", detail="in an earlier life")
        end = store.layout.end_if_there(key, generation - earlier)
        if end is not None and end.how != "done":
            return Loss(key=key, generation=generation, reason=end.how, detail=end.detail)
        return Loss(key=key, generation=generation, reason="gone")


def store_holder(store: DirectoryStore) -> str:
    """Return the id of the store's holder, "" if it is only looked at."""
    return store.holder.id if store.holder else ""
