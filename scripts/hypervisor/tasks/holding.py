"""Which claim a caller means, whether he may act on it, and what he is told if it is no longer his."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..claims.directory import DirectoryStore
from ..claims.port import Busy, Claim
from ..core.errors import ClaimLost, Loss, Refused
from ..core.model import TaskHead
from ..lives import next_life
from ..sessions import fate_of
from .claiming import Claiming, claim_of
from .endings import Author
from .keeping import earlier_claims


@dataclass(slots=True)
class Holding(Claiming):
    """The tasks of one project, and whose they are."""

    def must_hold(self, name: str, generation: int | None = None) -> None:
        """Hold that the caller has a claim of a task that it may end.

        Raises:
            ClaimLost: It had one.
            Refused: It has none.
        """
        task = self.find(name)
        with self._store() as store:
            if self._open_claim(store, task, generation) is None:
                raise Refused(f"{task.id} is not claimed by you; claim it first, or pass the generation")

    # ---------------------------------------------------------------- details

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

    def _publish_decided(self, store: DirectoryStore, task: TaskHead) -> bool:
        """Publish what was decided of *task* by a process that died, or failed, before it could.

        So nobody is told that his claim is lost whose result then is accepted (I7).
        """
        key = next_life(store.layout, self._key(task))
        end = store.layout.end_if_there(key, store.layout.highest(key))
        return end is not None and end.how == "done" and bool(store.reap([key]))

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
        return claim_of(held)

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
