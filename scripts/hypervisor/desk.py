"""Tasks of one project as agents and people use them: find, claim, complete, give back.

Moving a status needs the task's claim, as does nothing else. What a claim writes into the file
(``in_progress``, the assignee) is noted with the claim before it is written, so that whoever ends
the claim can put back what was there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import clock
from .batches import next_life
from .claims.directory import DirectoryStore
from .claims.port import MAIN, Busy, Claim, Done
from .endings import Author, Ending, result_of
from .errors import ClaimLost, Loss, Refused
from .events import Happening
from .graph import graph_of
from .keeping import Keeping, earlier_claims, put_back
from .model import CLOSED, MOVES, FileEdit, KeyEdit, LineEdit, Outcome, Task, TaskHead, TaskStatus
from .preflight import claim_refusal
from .selection import Wanted, in_turn, nothing_ready
from .sessions import Note, fate_of
from .tasks import append_receipt, edit_file, edit_key, open_task, read_task, status_word

_LOOKS = 8

_HAPPENINGS = {
    TaskStatus.DONE: Happening.COMPLETED,
    TaskStatus.CANCELLED: Happening.CANCELLED,
    TaskStatus.BLOCKED: Happening.BLOCKED,
    TaskStatus.REVIEW: Happening.BLOCKED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What a caller is told of its claim."""

    #: Rises with every claim of the task, in whatever life: names one claim for ever.
    generation: int
    #: Seconds of silence after which others may take over.
    expires_in: float


@dataclass(slots=True)
class Desk(Keeping):
    """The tasks of one project, to act on."""

    # ------------------------------------------------------------------ claim

    def claim(self, name: str) -> tuple[Task, Hold]:
        """Take a task: its status becomes ``in_progress`` and its assignee the caller.

        A claim that the caller has already is answered once more.

        Raises:
            Refused: It is done, cancelled, held, somebody else's, or waits for another task; or
                the caller is a session's agent that has another one in hand.
        """
        tasks = self.tasks()
        task = self.find(name, tasks)
        with self._store() as store:
            other = self._in_hand(store)
            if other is not None and other.path != os.path.realpath(task.path):
                raise Refused(
                    f"you have {other.task} in hand (generation {other.number}), and a worker does one task; "
                    f"complete, block or release it first"
                )
            return self._take(store, task, graph_of(tasks).unmet(task))

    def claim_next(self, wanted: Wanted) -> tuple[Task, Hold] | str:
        """Take the most urgent task that is ready and *wanted*; return why there is none.

        An agent that has a task in hand is answered with that one.
        """
        tasks = self.tasks()
        graph = graph_of(tasks)
        with self._store() as store:
            mine = self._in_hand(store)
            if mine is not None:
                return self._take(store, self.find(self._name_of(mine), tasks), [])
            refusal = self.refusals(tasks)
            reasons = [
                (task, wanted.refusal(task) or refusal(task)) for task in tasks if wanted.asks_for(task)
            ]
            for task in in_turn([task for task, reason in reasons if reason is None]):
                try:
                    return self._take(store, task, graph.unmet(task))
                except Refused as error:  # another was quicker, or its owner has just changed it
                    reasons.append(
                        (task, str(error).removeprefix(f"{task.id}: ").removeprefix(f"{task.id} is "))
                    )
            return nothing_ready(reasons)

    def _take(self, store: DirectoryStore, task: TaskHead, unmet: list[str]) -> tuple[Task, Hold]:
        lease = self.settings["claims"]["lease_seconds"]
        for _ in range(_LOOKS):
            # The results first, the file second: a task that is claimable after its result was
            # seen has been reopened by its owner, and begins a new life.
            key = next_life(store.layout, self._key(task))
            held = store.held(key)
            if held is not None and self.caller.agent and self.caller.holds(held.holder):
                number = earlier_claims(store, key) + held.generation
                store.beat(
                    Claim(key=key, generation=held.generation, token=held.token, holder=held.holder.id)
                )
                return read_task(Path(task.path), self.settings), Hold(generation=number, expires_in=lease)
            self._must_be_claimable(store, key, task, unmet)
            answer = store.claim(key, self.relative(task))
            if isinstance(answer, Busy):
                raise Refused(f"{task.id} is {answer.detail}; take another, or wait")
            if isinstance(answer, Done):
                continue
            number = earlier_claims(store, key) + answer.generation
            try:
                self._begin(store, answer, task, unmet)
            except BaseException:
                store.release(answer, "could not be begun")
                raise
            fresh = read_task(Path(task.path), self.settings)
            self._remember(answer, fresh, number)
            self._tell_taken_over(store, answer, fresh, number)
            self._tell(Happening.CLAIMED, task.id, generation=number)
            return fresh, Hold(generation=number, expires_in=lease)
        raise Refused(f"{task.id}: it keeps changing hands; try again")

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
        store.annotate(claim, {"edit": edit.to_json(), "started": clock.now_text()})
        if edit_file(Path(edit.path), edit):  # its owner saved it in this moment
            put_back(store, claim.key, below=claim.generation + 1)
            raise Refused(f"{task.id}: its file was changed this moment; look at it and try again")

    def _name_of(self, note: Note) -> str:
        return os.path.relpath(note.path, os.path.realpath(self.project.root))

    def _in_hand(self, store: DirectoryStore) -> Note | None:
        """Return what the caller holds, if it is an agent of whom we know: such a one does one task."""
        if self.caller.agent in ("", MAIN):
            return None
        notes = self._session(self.caller.session).notes(self.caller.agent)
        return next((note for note in notes if fate_of(store, note).how == "open"), None)

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
            self._forget(claim, holder)
            self._tell(_HAPPENINGS[ending.status], task.id, generation=author.number, by=author.name,
                       why=ending.text, commit=ending.commit)  # fmt: skip
            return result

    def _author(self, store: DirectoryStore, claim: Claim) -> Author:
        """Return who ends a claim: its holder, or another who names himself."""
        caller, holder = self.caller, self._holder(store, claim)
        number = earlier_claims(store, claim.key) + claim.generation
        started = str(store.layout.note(claim.key, claim.generation).get("started", ""))
        if holder is None or (caller.name and not caller.holds(holder)):
            return Author(
                name=caller.name or "somebody",
                session=caller.session,
                agent=caller.agent,
                number=number,
                started=started,
            )
        return Author(
            name=holder.name or caller.name,
            session=holder.session or caller.session,
            agent=holder.agent or caller.agent,
            number=number,
            started=started,
        )

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
            if holder is None or self.caller.holds(holder):
                store.release(claim, reason)
                self._forget(claim, holder)
            else:  # taken from its holder, who is told so
                store.revoke(claim.key, f"{author.name} released it: {reason}", claim.generation)
            self._tell(Happening.RELEASED, task.id, generation=author.number, by=author.name, why=reason)
        return read_task(Path(task.path), self.settings)

    def cancel(self, name: str, reason: str) -> Mapping[str, Any]:
        """Cancel a task, whoever holds it; its holder can no longer complete."""
        task = self.find(name)
        ending = Ending(outcome=Outcome.SKIPPED, status=TaskStatus.CANCELLED, text=reason or "cancelled")
        caller = self.caller
        with self._store() as store:
            key = next_life(store.layout, self._key(task))
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
            self._tell(Happening.CANCELLED, task.id, why=ending.text)
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

    def receipt(self, name: str, line: str) -> TaskHead:
        """Append a receipt to a task's body; needs no claim."""
        task = self.find(name)
        append_receipt(Path(task.path), line)
        return task

    # ---------------------------------------------------------------- details

    def _bare_claim(self, store: DirectoryStore, task: TaskHead) -> Claim:
        answer = store.claim(next_life(store.layout, self._key(task)), self.relative(task))
        if isinstance(answer, Claim):
            return answer
        detail = answer.detail if isinstance(answer, Busy) else "finished this moment"
        raise Refused(f"{task.id} is {detail}; try again, or name its --generation")

    def _open_claim(self, store: DirectoryStore, task: TaskHead, generation: int | None) -> Claim | None:
        """Return the open claim of *task* that the caller may act on, None if there is none.

        Raises:
            ClaimLost: The claim that is meant has ended.
            Refused: It is somebody else's.
        """
        key = next_life(store.layout, self._key(task))
        earlier = earlier_claims(store, key)
        held = store.held(key)
        if generation is not None and (held is None or generation != earlier + held.generation):
            raise ClaimLost(self._stale(store, key, generation, earlier))
        if generation is None and (held is None or not self.caller.holds(held.holder)):
            self._must_not_have_lost(store, task)
        if held is None:
            return None
        if generation is None and not self.caller.holds(held.holder):
            raise Refused(
                f"{task.id} is held by {held.holder.name}; "
                f"pass the generation ({earlier + held.generation}) to act on that claim"
            )
        return Claim(key=key, generation=held.generation, token=held.token, holder=held.holder.id)

    def _must_not_have_lost(self, store: DirectoryStore, task: TaskHead) -> None:
        """Hold that the caller did not have a claim of *task* that was taken away: it is told so."""
        if not self.caller.agent:
            return
        for note in self._session(self.caller.session).notes(self.caller.agent):
            if note.path == os.path.realpath(task.path):
                fate = fate_of(store, note)
                if fate.how == "lost":
                    raise ClaimLost(
                        Loss(key=note.key, generation=note.number, reason="revoked", detail=fate.why)
                    )

    def _stale(self, store: DirectoryStore, key: str, generation: int, earlier: int) -> Loss:
        if generation <= earlier:
            return Loss(key=key, generation=generation, reason="finished", detail="in an earlier life")
        end = store.layout.end_if_there(key, generation - earlier)
        if end is not None and end.how != "done":
            return Loss(key=key, generation=generation, reason=end.how, detail=end.detail)
        return Loss(key=key, generation=generation, reason="gone")
