"""Tasks of one project as agents and people use them: claim, complete, block, give back, change.

Moving a status needs the task's claim, as does nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..claims.directory import DirectoryStore
from ..core.errors import Refused
from ..core.model import CLOSED, MOVES, FileEdit, KeyEdit, LineEdit, Outcome, Task, TaskHead, TaskStatus
from ..events import Happening
from ..lives import next_life
from .claiming import claim_of
from .endings import Author, Ending, result_of
from .holding import Holding
from .keeping import earlier_claims, put_back
from .tasks import append_receipt, begin_receipt, edit_file, edit_key, open_task, read_task, status_word

_HAPPENINGS = {
    TaskStatus.DONE: Happening.COMPLETED,
    TaskStatus.CANCELLED: Happening.CANCELLED,
    TaskStatus.BLOCKED: Happening.BLOCKED,
    TaskStatus.REVIEW: Happening.BLOCKED,
}


@dataclass(slots=True)
class Desk(Holding):
    """The tasks of one project, to act on."""

    # -------------------------------------------------------------------- end

    def finish(
        self, name: str, ending: Ending, generation: int | None = None, *, unclaimed: bool = True
    ) -> Mapping[str, Any]:
        """End the caller's claim of a task with a result. The same ending twice is one.

        Args:
            name: Id or path of the task.
            ending: See `Ending`.
            generation: Of the claim that is meant; a stale one is refused.
            unclaimed: Whether a task that nobody holds is claimed on the way.

        Raises:
            ClaimLost: The claim is no longer the caller's.
            Refused: Somebody else holds the task, or it may not move there.
        """
        task = self.find(name)
        with self._store() as store:
            if self._publish_decided(store, task):
                task = self.find(name)
            before = self._accepted_before(store, task, ending, generation)
            if before is not None:
                return before
            claim = self._open_claim(store, task, generation)
            if claim is None:
                if task.status in CLOSED:
                    raise Refused(f"{task.id} is {task.status} already; its owner may reopen it in the file")
                if not unclaimed:
                    raise Refused(f"{task.id} is not claimed by you; claim it first, or pass the generation")
                claim = self._bare_claim(store, task)
            author = self._author(store, claim)
            holder = self._holder(store, claim)
            try:
                payload = result_of(task, self.relative(task), ending, author, self.settings)
            except BaseException:
                if store.holder is not None and claim.holder == store.holder.id:
                    store.release(claim, "nothing was changed")
                raise
            result = store.complete(claim, payload)
            self.open_claims.pop(task.id, None)
            # The note goes last: as long as it is there, an end that is not in the log is told later.
            if self._tell(_HAPPENINGS[ending.status], task.id, holder, generation=author.number,
                          by=author.name, why=ending.text, commit=ending.commit):  # fmt: skip
                self._forget(claim, holder)
            return result

    def _accepted_before(
        self, store: DirectoryStore, task: TaskHead, ending: Ending, generation: int | None
    ) -> Mapping[str, Any] | None:
        """Return the result of a call that is repeated because its answer never arrived."""
        key = self._last_finished(store, task)
        result = store.result(key) if key else None
        said = (ending.outcome.value, ending.text)
        if key is None or result is None or (result.get("status"), result.get("outcome")) != said:
            return None
        if generation is not None:
            mine = generation == earlier_claims(store, key) + int(result["generation"])
        else:
            caller = self.caller
            mine = bool(caller.agent) and (result.get("session"), result.get("agent")) == (
                caller.session,
                caller.agent,
            )
        return result if mine and task.status is ending.status else None

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
            author = self._author(store, claim)
            holder = self._holder(store, claim)
            # Before the claim ends: afterwards another may hold the task, and the file is his.
            put_back(store, claim.key, below=claim.generation + 1)
            mine = holder is None or self.caller.holds(holder)
            if mine:
                store.release(claim, reason)
            else:  # taken from its holder, who is told so
                store.revoke(claim.key, f"{author.name} released it: {reason}", claim.generation)
            told = self._tell(
                Happening.RELEASED, task.id, holder, generation=author.number, by=author.name, why=reason
            )
            if mine and told:
                self._forget(claim, holder)
        return read_task(Path(task.path), self.settings)

    def give_back(self, name: str, reason: str, generation: int, *, counted: bool) -> None:
        """Give a task back so that it is tried again, at the cost of an attempt or without.

        Raises:
            ClaimLost: The claim has ended.
        """
        task = self.find(name)
        with self._store() as store:
            claim = self._open_claim(store, task, generation)
            if claim is None:
                return
            put_back(store, claim.key, below=claim.generation + 1)
            (store.fail if counted else store.release)(claim, reason)
            self.open_claims.pop(task.id, None)
            self._tell(Happening.RELEASED, task.id, generation=generation, why=reason)

    def cancel(self, name: str, reason: str) -> Mapping[str, Any]:
        """Cancel a task, whoever holds it; its holder can no longer complete."""
        task = self.find(name)
        ending = Ending(outcome=Outcome.SKIPPED, status=TaskStatus.CANCELLED, text=reason or "cancelled")
        caller = self.caller
        with self._store() as store:
            key = next_life(store.layout, self._key(task))
            held = store.held(key)
            store.revoke(key, f"cancelled by {caller.name}")
            claim = self._bare_claim(store, task)
            number = earlier_claims(store, claim.key) + claim.generation
            author = Author(name=caller.name, session=caller.session, agent=caller.agent, number=number)
            try:
                put_back(store, claim.key, below=claim.generation)
                payload = result_of(task, self.relative(task), ending, author, self.settings)
            except BaseException:
                store.release(claim, "nothing was changed")
                raise
            result = store.complete(claim, payload)
            self._tell(
                Happening.CANCELLED, task.id, held.holder if held else None, why=ending.text,
                generation=number - claim.generation + held.generation if held else None,
            )  # fmt: skip
            return result

    # ------------------------------------------------------------------- edit

    def update(
        self, name: str, values: Mapping[str, str | None], body: str = "", generation: int | None = None
    ) -> list[str]:
        """Change frontmatter keys other than the status, and append to the body.

        Args:
            name: Id or path of the task.
            values: The keys, and what they are to be.
            body: Text to append.
            generation: Of the claim under which this is written; without it none is needed.

        Returns:
            What could not be changed, a line each.

        Raises:
            ClaimLost: The claim that is meant has ended.
        """
        task = self.find(name)
        if generation is not None or self.caller.agent:
            with self._store() as store:
                if generation is not None:
                    self._open_claim(store, task, generation)
                self._must_not_have_lost(store, task)
                held = store.held(next_life(store.layout, self._key(task)))
                if held is not None and self.caller.is_known_as(held.holder):  # a sign of life like any other
                    store.beat(claim_of(held))
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
            held = store.held(next_life(store.layout, self._key(task)))
            if held is not None:
                name = held.holder.name
                raise Refused(f"{task.id} is held by {name}; release, block or complete it instead")
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

    def receipt(self, name: str, line: str, item: str = "", *, failed: bool = False) -> TaskHead:
        """Append a receipt to a task's body; needs no claim. See `tasks.append_receipt`."""
        task = self.find(name)
        self.project.prepare()
        append_receipt(Path(task.path), line, item, failed=failed)
        return task

    def begin_receipt(self, name: str, item: str, *, again: bool = False) -> str:
        """Note that what leaves a receipt for *item* is about to be done; see `Ledger.begin`."""
        task = self.find(name)
        self.project.prepare()
        return begin_receipt(Path(task.path), item, again=again)
