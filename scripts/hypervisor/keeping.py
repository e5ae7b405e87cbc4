"""The claims of a project's tasks: the store, what is noted beside it, and how they are given back."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from .claims.directory import DirectoryStore, Policy
from .claims.port import Attempt, Claim, Holder, HolderKind, Payload
from .effects import write_edits
from .endings import given_up
from .errors import ClaimLost, Unreadable
from .events import Happening, tell
from .lives import current_life, next_life, task_key
from .machine import Identity
from .model import Task, TaskHead
from .sessions import Note, Session, fate_of
from .tasklist import TaskList, earlier_claims, put_back

__all__ = ["Keeping", "earlier_claims", "put_back"]


@dataclass(slots=True)
class Keeping(TaskList):
    """Claims of tasks, to hold and to end; the rules of who may stand above it."""

    #: The store of somebody who stays and holds many claims at once; None: one is opened for each act.
    open_store: DirectoryStore | None = None
    #: The claims made on it that have not ended, by the id of their task.
    open_claims: dict[str, Claim] = field(default_factory=dict)

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
                self._tell(Happening.REAPED, self._id_at(edit.path), generation=number, why=why)
        return freed

    def let_go(self, session: str, agent: str, why: str) -> list[str]:
        """Release all that an agent holds whose end is known; forget what it had.

        Returns:
            The ids of the tasks that are free through this call.
        """
        notes = self._session(session)
        freed = []
        for note in notes.notes(agent):
            with self._store() as store:
                mine = not note.commissioned and fate_of(store, note).how == "open"
                if mine and self._give_back(store, note, why):
                    freed.append(note.task)
            notes.drop(agent, note.key, note.generation)
        return freed

    def end_session(self, session: str, why: str) -> list[str]:
        """Release all that a session's agents hold; forget the session."""
        notes = self._session(session)
        freed = [task for agent in notes.agents() for task in self.let_go(session, agent, why)]
        notes.forget()
        return freed

    def _give_back(self, store: DirectoryStore, note: Note, why: str) -> bool:
        try:
            store.beat(note.claim)  # still held: so the file is still this claim's to put back
            put_back(store, note.key, below=note.generation + 1)
            store.release(note.claim, why)
        except ClaimLost:
            return False
        self._tell(Happening.RELEASED, note.task, generation=note.number, by=note.name, why=why)
        return True

    # ------------------------------------------------------------------ notes

    def _session(self, name: str) -> Session:
        return Session(self.project.state, name)

    def _remember(self, claim: Claim, task: Task, number: int, *, commissioned: bool = False) -> None:
        """Note a claim for its session's hooks; what was taken from the same agent before is over."""
        caller = self.caller
        if not caller.session:
            return
        session = self._session(caller.session)
        for old in session.notes(caller.agent):
            with self._store() as store:
                if fate_of(store, old).how != "open":
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

    def _tell(self, what: Happening, task: str, **details: Any) -> None:
        caller = self.caller
        with suppress(OSError):  # it decides nothing, and what it tells of has happened
            tell(self.project, what, task, **{
                "by": caller.name, "session": caller.session, "agent": caller.agent, **details,
            })  # fmt: skip

    def _tell_taken_over(self, store: DirectoryStore, claim: Claim, task: Task, number: int) -> None:
        """Tell of the holder from whom this claim was taken over, if it was."""
        why = self._why_free(store, claim.key, claim.generation)
        if why:
            self._tell(Happening.REAPED, task.id, generation=number - 1, why=why)

    def _why_free(self, store: DirectoryStore, key: str, generation: int) -> str:
        """Return why the claim before *generation* was taken away, "" if it was not."""
        end = store.layout.end_if_there(key, generation - 1) if generation > 1 else None
        # Those that do not count were taken away by somebody who has told of it himself.
        return end.detail if end is not None and end.how == "revoked" and end.counted else ""

    def _id_at(self, path: str) -> str:
        found = [task.id for task in self.tasks() if os.path.realpath(task.path) == path]
        return found[0] if found else os.path.relpath(path, os.path.realpath(self.project.root))

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
