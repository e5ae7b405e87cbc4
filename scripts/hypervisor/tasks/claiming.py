"""Taking a task: what has to hold before, what is written into its file, and who gets which.

What a claim writes (``in_progress``, the assignee) is noted with the claim before it is written, so
that whoever ends the claim can put back what was there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from ..claims.directory import DirectoryStore
from ..claims.port import MAIN, Busy, Claim, Done, Held
from ..core import clock
from ..core.commission import Commission
from ..core.errors import ClaimLost, Loss, Refused, Taken
from ..core.model import FileEdit, Task, TaskHead, TaskStatus
from ..events import Happening
from ..gates import gates_of, shut_for_task
from ..lives import next_life
from ..sessions import Note, fate_of
from .keeping import Keeping, earlier_claims, put_back
from .looking import look_at
from .preflight import claim_refusal
from .selection import Wanted, in_turn, nothing_ready
from .tasks import edit_file, edit_key, open_task, read_task, status_word

#: How often a task is looked at anew that is finished, or changes hands, under the look.
_LOOKS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What a caller is told of its claim."""

    #: Rises with every claim of the task, in whatever life: names one claim for ever.
    generation: int
    #: Seconds of silence after which others may take over.
    expires_in: float


@dataclass(slots=True)
class Claiming(Keeping):
    """The tasks of one project, to take."""

    def claim(self, name: str) -> tuple[Task, Hold]:
        """Take a task: its status becomes ``in_progress`` and its assignee the caller.

        A claim that the caller has already is answered once more.

        Raises:
            Refused: It is done, cancelled, held, somebody else's, or waits for another task; or
                the caller is a session's agent that has another one in hand.
        """
        task = self.find(name)
        unmet = self.unmet(task)
        with self._store() as store:
            other = self._in_hand(store)
            if other is not None and other.path != os.path.realpath(task.path):
                raise Refused(
                    f"you have {other.task} in hand (generation {other.number}), and a worker does one task; "
                    f"complete, block or release it first"
                )
            return self._take(store, task, unmet)

    def claim_next(self, wanted: Wanted) -> tuple[Task, Hold] | str:
        """Take the most urgent task that is ready and *wanted*; return why there is none.

        An agent that has a task in hand is answered with that one.
        """
        with self._store() as store:
            mine = self._in_hand(store)
            if mine is not None:
                return self._take(store, self.find(self._name_of(mine)), [])
            tried: dict[str, str] = {}
            while True:
                with look_at(self) as look:
                    found = look.candidates(wanted, tried)
                    if not found:
                        return nothing_ready(look.why_none(wanted, tried))
                for task in in_turn(found):
                    try:
                        return self._take(store, task, [])
                    except Refused as error:  # another was quicker, or its owner has just changed it
                        why = str(error).removeprefix(f"{task.id}: ").removeprefix(f"{task.id} is ")
                        tried[task.path] = why

    def commissioned(self, commission: Commission) -> tuple[Task, Hold]:
        """Return the task that a coordinator holds for this agent; note it for the agent's hooks.

        Raises:
            ClaimLost: The coordinator holds it no more.
        """
        task = self.find(commission.task)
        held = self.held(task)
        if held is None or held.generation != commission.generation:
            raise ClaimLost(Loss(key=task.id, generation=commission.generation, reason="gone"))
        fresh = read_task(Path(task.path), self.settings)
        with self._store() as store:
            key = next_life(store.layout, self._key(task))
            claim = claim_of(replace(held, key=key, generation=store.layout.highest(key)))
        self._remember(claim, fresh, held.generation, commissioned=True)
        lease = self.settings["claims"]["lease_seconds"]
        return fresh, Hold(generation=held.generation, expires_in=lease)

    def _take(self, store: DirectoryStore, task: TaskHead, unmet: list[str]) -> tuple[Task, Hold]:
        lease = self.settings["claims"]["lease_seconds"]
        for _ in range(_LOOKS):
            # The results first, the file second: a task that is claimable after its result was
            # seen has been reopened by its owner, and begins a new life.
            key = next_life(store.layout, self._key(task))
            held = store.held(key)
            if held is not None and self.caller.is_known_as(held.holder):
                number = earlier_claims(store, key) + held.generation
                store.beat(claim_of(held))
                return read_task(Path(task.path), self.settings), Hold(generation=number, expires_in=lease)
            self._must_be_claimable(store, key, task, unmet)
            answer = store.claim(key, self.relative(task))
            if isinstance(answer, Busy):
                raise Taken(f"{task.id} is {answer.detail}; take another, or wait")
            if isinstance(answer, Done):
                continue
            number = earlier_claims(store, key) + answer.generation
            try:
                self._begin(store, answer, task, unmet)
                fresh = read_task(Path(task.path), self.settings)
                self._remember(answer, fresh, number)
            except BaseException:
                store.release(answer, "could not be begun")
                raise
            if self.open_store is not None:
                self.open_claims[task.id] = answer
            self._tell_taken_over(store, answer, fresh, number)
            self._tell(Happening.CLAIMED, task.id, generation=number)
            return fresh, Hold(generation=number, expires_in=lease)
        raise Refused(f"{task.id}: it keeps changing hands; try again")

    def _must_be_claimable(self, store: DirectoryStore, key: str, task: TaskHead, unmet: list[str]) -> None:
        fresh = read_task(Path(task.path), self.settings)
        ours = self._begun_by_us(store, key)
        why = claim_refusal(fresh, self.caller.name, self.settings, unmet=unmet, ours=ours)
        why = why or shut_for_task(gates_of(self.project.state), task.id)
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


def claim_of(held: Held) -> Claim:
    """Return a claim that somebody holds, to act on."""
    return Claim(key=held.key, generation=held.generation, token=held.token, holder=held.holder.id)
