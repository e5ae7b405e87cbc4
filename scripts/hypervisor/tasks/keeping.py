"""The claims of a project's tasks: the store, what is noted beside it, and how they are given back."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from ..claims.directory import DirectoryStore, Policy
from ..claims.port import Attempt, Claim, Holder, HolderKind, Payload
from ..core.errors import ClaimLost, Unreadable
from ..core.machine import Identity
from ..core.model import Task, TaskHead
from ..errands import FOLDER as ERRANDS
from ..events import Happening, claim_end, log_of, tell
from ..inbox import Inbox
from ..lives import current_life, next_life, task_key
from ..mending import end_key, end_of, untold
from ..sessions import Note, Session, fate_of
from .effects import write_edits
from .endings import given_up
from .queries import Asked, with_claims
from .tasklist import TaskList, earlier_claims, put_back

__all__ = ["Keeping", "earlier_claims", "put_back"]


@dataclass(slots=True)
class Keeping(TaskList):
    """Claims of tasks, to hold and to end; the rules of who may stand above it."""

    #: The store of somebody who stays and holds many claims at once; None: one is opened for each act.
    open_store: DirectoryStore | None = None
    #: The claims made on it that have not ended, by the id of their task.
    open_claims: dict[str, Claim] = field(default_factory=dict)
    #: What each event says beside the rest: for which session, as a part of which batch.
    also: Mapping[str, str] = field(default_factory=dict)

    def reap(self) -> list[str]:
        """Free what the dead and the silent hold, and put their tasks back as they were.

        Returns:
            The keys that are free or finished through this call.
        """
        with self._store() as store:
            freed = store.reap()
            for key in store.layout.unfinished():
                edit = self._last_edit(store, key)
                if edit is None or store.is_held(key) or not self._begun_by_us(store, key):
                    continue
                # By its item, as this may be the claim that gives the task up.
                claim = store.claim(key, os.path.relpath(edit.path, os.path.realpath(self.project.root)))
                if not isinstance(claim, Claim):
                    continue
                try:
                    put_back(store, key, below=claim.generation)
                finally:
                    why = self._why_free(store, key, claim.generation)
                    store.release(claim, "put back after its holder was gone")
                number = earlier_claims(store, key) + claim.generation - 1
                whose = self._holder_at(store, key, claim.generation - 1)
                self._tell(Happening.REAPED, self._id_at(edit.path), whose, generation=number, why=why)
        return freed

    def let_go(self, session: str, agent: str, why: str) -> list[str]:
        """Release all that an agent holds whose end is known; forget what it had.

        Returns:
            The ids of the tasks that are free through this call.
        """
        notes = self._session(session)
        freed = []
        for note in notes.notes(agent):
            told = True
            with self._store() as store:
                if not note.commissioned and fate_of(store, note).how == "open":
                    gone, told = self._give_back(store, note, why, session, agent)
                    freed += [note.task] if gone else []
                if not note.commissioned and fate_of(store, note).how != "open":
                    told = self._tell_if_untold(store, session, agent, note)
            if told:
                notes.drop(agent, note.key, note.generation)
        return freed

    def end_session(self, session: str, why: str) -> list[str]:
        """Release all that a session's agents hold; forget the session but for what it was not told.

        A client may go on with a session that has ended.
        """
        notes = self._session(session)
        freed = [task for agent in notes.agents() for task in self.let_go(session, agent, why)]
        inbox = Inbox(self.project.state, session)
        errands = os.path.isdir(notes.folder / ERRANDS) and bool(os.listdir(notes.folder / ERRANDS))
        kept = () if not errands and inbox.forget_if_told() else (*inbox.FILES, ERRANDS)
        notes.forget(but=kept)
        return freed

    def mend(self, session: str) -> None:
        """Tell of the ends of a session's claims of which nobody has told, as he died first."""
        notes, known = self._session(session), Inbox(self.project.state, session).known()
        with self._store() as store:
            for agent, note in list(untold(notes, store, known)):
                told = self._tell_if_untold(store, session, agent, note)
                if told and fate_of(store, note).how == "ended":
                    notes.drop(agent, note.key, note.generation)

    def _tell_if_untold(self, store: DirectoryStore, session: str, agent: str, note: Note) -> bool:
        """Tell of the end of a noted claim that is over, if the log does not; return whether it does now."""
        key = end_key(note)
        if key in Inbox(self.project.state, session).known():
            return True
        ended = fate_of(store, note).how == "ended"
        having = json.dumps(note.task).encode()
        log = log_of(self.project.state)
        if ended and any(claim_end(event) == key for _, event in log.since(0, having)):
            return True
        if ended and store.result(note.key) is None:
            store.reap([note.key])  # decided by somebody who died before it was published
        what, why = end_of(store, note)
        return self._tell(what, note.task, generation=note.number, by=note.name, why=why, session=session,
                          agent=agent)  # fmt: skip

    def _give_back(
        self, store: DirectoryStore, note: Note, why: str, session: str, agent: str
    ) -> tuple[bool, bool]:
        """Give back a noted claim; return whether it was still held, and whether that was told."""
        try:
            store.beat(note.claim)  # still held: so the file is still this claim's to put back
            put_back(store, note.key, below=note.generation + 1)
            store.release(note.claim, why)
        except ClaimLost:
            return False, False
        return True, self._tell(Happening.RELEASED, note.task, generation=note.number, by=note.name, why=why,
                                session=session, agent=agent, taken=True)  # fmt: skip

    # ------------------------------------------------------------------ notes

    def _session(self, name: str) -> Session:
        return Session(self.project.state, name)

    def _remember(self, claim: Claim, task: Task, number: int, *, commissioned: bool = False) -> None:
        """Note a claim for its session's hooks; what was taken from the same agent before is over."""
        caller = self.caller
        if not caller.session:
            return
        session = self._session(caller.session)
        Inbox(self.project.state, caller.session).begin()
        for old in session.notes(caller.agent):
            with self._store() as store:
                if fate_of(store, old).how == "open":
                    continue
                if old.commissioned or self._tell_if_untold(store, caller.session, caller.agent, old):
                    session.drop(caller.agent, old.key, old.generation)
        note = Note(
            task=task.id, path=os.path.realpath(task.path), key=claim.key, generation=claim.generation,
            token=claim.token, holder=claim.holder, number=number, name=caller.name,
            receipts=task.receipts, receipts_to=task.receipts_to, commissioned=commissioned,
        )  # fmt: skip
        session.keep(caller.agent, note)

    def _holder(self, store: DirectoryStore, claim: Claim) -> Holder | None:
        held = store.held(claim.key)
        return held.holder if held is not None and held.token == claim.token else None

    def forget_commission(self, task: TaskHead) -> None:
        """Forget what was noted of a task that a coordinator holds: its agent has reported."""
        session = self._session(self.caller.session)
        for note in session.notes(self.caller.agent) if self.caller.session else ():
            if note.commissioned and note.path == os.path.realpath(task.path):
                session.drop(self.caller.agent, note.key, note.generation)

    def _forget(self, claim: Claim, holder: Holder | None) -> None:
        if holder is not None and holder.session:
            self._session(holder.session).drop(holder.agent, claim.key, claim.generation)

    def _tell(self, what: Happening, task: str, whose: Holder | None = None, **details: Any) -> bool:
        """Add an event; return whether the log has it.

        Args:
            what: What happened.
            task: The id of the task.
            whose: Who held the claim that has ended, if it was an agent: its session is to be told.
            details: What else is known.
        """
        caller = self.caller
        who: dict[str, Any] = {"session": caller.session, "agent": caller.agent, **self.also}
        if whose is not None and whose.session:
            who |= {"session": whose.session, "agent": whose.agent}
        try:
            tell(self.project, what, task, **{"by": caller.name, **who, **details})
        except OSError:  # it decides nothing, and what it tells of has happened
            return False
        return True

    def _holder_at(self, store: DirectoryStore, key: str, generation: int) -> Holder | None:
        """Return who made a claim that may be over, None where that is not known any more."""
        owner = store.layout.owner(key, generation) if generation > 0 else None
        return owner.holder if owner is not None else None

    def _tell_taken_over(self, store: DirectoryStore, claim: Claim, task: Task, number: int) -> None:
        """Tell of the holder from whom this claim was taken over, if it was."""
        why = self._why_free(store, claim.key, claim.generation)
        if why:
            whose = self._holder_at(store, claim.key, claim.generation - 1)
            self._tell(Happening.REAPED, task.id, whose, generation=number - 1, why=why)

    def _why_free(self, store: DirectoryStore, key: str, generation: int) -> str:
        """Return why the claim before *generation* was taken away, "" if it was not."""
        end = store.layout.end_if_there(key, generation - 1) if generation > 1 else None
        # Those that do not count were taken away by somebody who has told of it himself.
        return end.detail if end is not None and end.how == "revoked" and end.counted else ""

    def _id_at(self, path: str) -> str:
        with self.indexed() as index:
            found = with_claims(index, [task_key(self.project, path)], Asked()) if index else []
        return found[0].id if found else os.path.relpath(path, os.path.realpath(self.project.root))

    # ------------------------------------------------------------------ store

    @contextmanager
    def _store(self) -> Iterator[DirectoryStore]:
        if self.open_store is not None:
            yield self.open_store
            return
        self.project.prepare()
        claims = self.settings["claims"]
        caller = self.caller
        client = caller.client if caller.client is not None and caller.client.start else None
        holder = Holder(
            id=f"{caller.name or 'somebody'}-{secrets.token_hex(6)}",
            kind=HolderKind.SESSION if client else HolderKind.LEASE,
            name=caller.name,
            lease_seconds=claims["lease_seconds"],
            session=caller.session,
            agent=caller.agent,
        )
        store = self.new_store(holder, client, patient=False)
        try:
            yield store
        finally:
            store.close()

    def new_store(self, holder: Holder, here: Identity | None = None, *, patient: bool) -> DirectoryStore:
        """Open the project's store in the name of *holder*; see `DirectoryStore`."""
        claims = self.settings["claims"]
        policy = Policy(
            attempts=claims["attempts"],
            lease_seconds=claims["lease_seconds"],
            patient=patient,
            effects=write_edits,
            give_up=lambda item, attempts: self._give_up(store, item, attempts),
        )
        store = DirectoryStore(str(self.project.state), holder, policy=policy, here=here)
        return store

    def _give_up(self, store: DirectoryStore, item: str, attempts: list[Attempt]) -> Payload:
        path = os.path.realpath(self.project.root / item)
        key = next_life(store.layout, task_key(self.project, path))
        with suppress(Unreadable):
            put_back(store, key, below=store.layout.highest(key))
        return given_up(path, item, attempts, self.settings)

    def _last_finished(self, store: DirectoryStore, task: TaskHead) -> str | None:
        key = current_life(store.layout, self._key(task))
        return key if store.layout.finished(key) else None
