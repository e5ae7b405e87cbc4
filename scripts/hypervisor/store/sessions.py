"""Sessions of clients: what their agents hold, how many workers they run, which runs they have begun.

The end of a claim, of a worker or of a run is a row of this store and nothing else: what a session is to be
told of is a query over those rows (`notices`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from ..core.process import Identity, life_of, this_process
from . import statements
from .base import Engine, Row, Transaction
from .claim_rows import add_agent_claim
from .claims import Claims
from .columns import from_column, plain
from .heartbeat import LONGEST, renew, who
from .records import AgentTask, Claim

SQL = statements.load("sessions")

#: The agent id of a session's own thread.
MAIN = "main"
#: For how long a request keeps its place before an agent has started for it, in milliseconds.
_REQUEST_MS = 30_000
#: After which a session of which nothing was heard is forgotten, in milliseconds.
_FORGET_MS = 7 * 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimStatus:
    """Whether an agent still has its claim."""

    #: ``ended``: by its worker, or as its worker ended; ``lost``: taken away by somebody else.
    how: Literal["open", "ended", "lost"]
    #: Why it was lost, for people.
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentClaim:
    """A claim that an agent of a session works under."""

    session: str
    #: Its id, `MAIN`, or "" where it is not known.
    agent: str
    #: The task's id, and what its hooks have to do.
    task: AgentTask
    claim: Claim
    #: Whether a coordinator holds it for the agent, whose end does not end it.
    assigned: bool
    status: ClaimStatus


@dataclass(slots=True)
class BackgroundRun:
    """A run that a session has begun."""

    #: How it ended; to be set by who runs it.
    came_to: str = "it ended by an error"


class Sessions:
    """The sessions of a store.

    Args:
        engine: The database.
        claims: The claims of the store.
        lease_seconds: For how long an agent may be silent.
    """

    def __init__(self, engine: Engine, claims: Claims, lease_seconds: float) -> None:
        self._engine = engine
        self._claims = claims
        self._lease = round(lease_seconds * 1000)

    # ----------------------------------------------------------------- claims

    def open_claims(self, session: str, agent: str | None = None) -> list[AgentClaim]:
        """Return the open claims of a session, or of one of its agents, the oldest first."""
        statement = SQL.open_of_session if agent is None else SQL.open_of_agent
        return [_claim_of(row) for row in self._engine.read(statement, who(session, agent or ""))]

    def lost_claims(self, session: str, agent: str) -> list[AgentClaim]:
        """Return the claims that were taken from an agent, the oldest first.

        Those of a worker count until it claims anew.
        """
        return [_claim_of(row) for row in self._engine.read(SQL.lost_of_agent, who(session, agent))]

    def assign(self, session: str, agent: str, attempt: int, task: AgentTask) -> AgentClaim:
        """Note that an agent works under the claim *attempt*, which a coordinator holds for it."""
        me = who(session, agent)

        def body(tx: Transaction) -> Row:
            add_agent_claim(tx, me["session"], me["agent"], attempt, task, assigned=True)
            return tx.run(SQL.claim_of_attempt, {**me, "attempt": attempt})[0]

        return _claim_of(self._engine.write(body))

    def attempts_of(self, session: str, agent: str) -> list[int]:
        """Return all attempts that an agent of a session has made."""
        return [row[0] for row in self._engine.read(SQL.attempts_of_agent, who(session, agent))]

    def unassign(self, session: str, agent: str) -> None:
        """Forget what coordinators hold for an agent, "" for any of the session: it has reported."""
        self._engine.write(lambda tx: tx.run(SQL.unassign, who(session, agent)))

    def beat(self, session: str, agent: str) -> list[AgentClaim]:
        """*Atomically* renew what an agent holds, and its place: it was heard.

        Returns:
            The claims that were taken from it.
        """
        parameters = {**who(session, agent), "lease": self._lease}

        def body(tx: Transaction) -> list[Row]:
            renew(tx, parameters)
            return tx.run(SQL.lost_of_agent, parameters)

        return [_claim_of(row) for row in self._engine.write(body)]

    def release_agent(self, session: str, agent: str, why: str) -> list[AgentClaim]:
        """*Atomically* release all that an agent holds, as it has ended; return what was released.

        Its task files are still to be restored: `tasks.publication.restore`.
        """
        me = who(session, agent)

        def body(tx: Transaction) -> list[AgentClaim]:
            released = self._release(tx, tx.run(SQL.open_of_agent, me), why)
            tx.run(SQL.unassign, me)
            return released

        return self._engine.write(body)

    def end(self, session: str, why: str) -> list[AgentClaim]:
        """*Atomically* release all that a session's agents hold, and free their places.

        What the session was not told yet stays to be told: a client may go on with a session that has ended.
        """
        me = who(session)

        def body(tx: Transaction) -> list[AgentClaim]:
            released = self._release(tx, tx.run(SQL.open_of_session, me), why)
            tx.run(SQL.free_slots, me)
            tx.run(SQL.forget_said, me)
            return released

        return self._engine.write(body)

    def _release(self, tx: Transaction, rows: Sequence[Row], why: str) -> list[AgentClaim]:
        own = [one for one in map(_claim_of, rows) if not one.assigned]
        released = [one for one in own if self._claims.release_in(tx, one.claim.attempt, why) is not None]
        if released:
            ids = json.dumps([one.claim.attempt for one in released])
            tx.run(SQL.left_open, {"session": released[0].session, "ids": ids})
        return released

    # ---------------------------------------------------------------- workers

    def workers(self, session: str) -> int:
        """Return how many workers of a session run, or are about to."""
        return int(self._engine.read(SQL.workers, self._slots(session))[0][0])

    def ask(self, session: str, use: str, limit: int) -> int | None:
        """*Atomically* take a place for the worker that the tool call *use* asks for.

        Returns:
            None if it has one; the number of workers where that is *limit* already.
        """
        parameters = self._slots(session, use=use)

        def body(tx: Transaction) -> int | None:
            tx.run(SQL.touch_session, parameters)  # the row's lock serialises those who count, on PostgreSQL
            if tx.run(SQL.asked, parameters):
                return None
            running = int(tx.run(SQL.workers, parameters)[0][0])
            if running >= limit:
                return running
            tx.run(SQL.ask, parameters)
            return None

        return self._engine.write(body)

    def withdraw(self, session: str, use: str) -> None:
        """Free the place of a request that came to nothing."""
        self._engine.write(lambda tx: tx.run(SQL.withdraw, self._slots(session, use=use)))

    def started(self, session: str, agent: str, use: str = "", *, background: bool = False) -> None:
        """*Atomically* give a request's place to the agent that has started: its own, else the oldest.

        Args:
            session: The session.
            agent: The agent.
            use: The tool call that asked for it, where this answers that call: an agent that has ended by
                then stays so. Without it the agent runs (again).
            background: Whether the session's own thread has put it into the background.
        """
        parameters = self._slots(session, agent=agent, use=use, background=int(background))

        def body(tx: Transaction) -> None:
            tx.run(SQL.touch_session, parameters)
            found = tx.run(SQL.slot_of_agent, parameters)
            if found:
                (slot, ended), *_ = found
                if use and ended:
                    tx.run(SQL.withdraw, parameters)
                else:
                    tx.run(SQL.reopen_slot, {**parameters, "slot": slot})
            elif request := tx.run(SQL.next_request, parameters):
                tx.run(SQL.give_slot, {**parameters, "slot": request[0][0]})
            else:
                tx.run(SQL.add_slot, parameters)

        self._engine.write(body)

    def ended(self, session: str, agent: str) -> bool:
        """Free the place of an agent; return whether it had one.

        Nothing is kept where the session has no workers.
        """
        parameters = self._slots(session, agent=agent)
        if not self._engine.read(SQL.any_slot, parameters):
            return False

        def body(tx: Transaction) -> bool:
            found = tx.run(SQL.slot_of_agent, parameters)
            if not found:  # the answer to its launch may still be on its way
                tx.run(SQL.add_ended, parameters)
                return False
            return bool(tx.run(SQL.end_slot, {"slot": found[0][0]}))

        return self._engine.write(body)

    def running_agents(self, session: str) -> list[str]:
        """Return the workers that run, as far as is known."""
        return [row[0] for row in self._engine.read(SQL.running_agents, self._slots(session))]

    def background_agents(self, session: str) -> list[str]:
        """Return the workers that the session's own thread has put into the background, silent ones too."""
        return [row[0] for row in self._engine.read(SQL.background_agents, self._slots(session))]

    def _slots(self, session: str, *, agent: str = "", use: str = "", background: int = 0) -> dict[str, Any]:
        # A place that lasts longer than any is from before the machine was started again.
        return {
            **who(session, agent), "use": plain(use, LONGEST), "background": background,
            "lease": self._lease, "patience": _REQUEST_MS, "longest": max(self._lease, _REQUEST_MS),
        }  # fmt: skip

    # ------------------------------------------------------------------- runs

    @contextmanager
    def background_run(self, session: str, batch: int) -> Iterator[BackgroundRun]:
        """Note that this process runs *batch* for a session, and when that is over, however it ends.

        Without a session nothing is noted.
        """
        run = BackgroundRun()
        if not session:
            yield run
            return
        process = this_process().to_json()
        parameters = {**who(session), "batch": batch, "process_start": process.pop("start"), **process}

        def body(tx: Transaction) -> int:
            tx.run(SQL.touch_session, parameters)
            return int(tx.run(SQL.begin_run, parameters)[0][0])

        number = self._engine.write(body)
        try:
            yield run
        finally:
            self._end_run(number, run.came_to)

    def open_runs(self, session: str) -> int:
        """Return how many runs of a session go on; note the end of those whose process died."""
        living = 0
        for number, batch, host, boot, namespace, pid, start, silent in self._engine.read(
            SQL.open_runs, who(session)
        ):
            process = Identity(host=host, boot=boot, pid_namespace=namespace, pid=pid, start=start)
            life = life_of(process, this_process())
            # Where its process cannot be seen from here, its coordinator's signs of life decide.
            if life == "dead" or (life == "unknown" and silent > self._lease):
                self._end_run(
                    number, f"its coordinator died; resume it with `hypervisor run --resume {batch}`"
                )
            else:
                living += 1
        return living

    def _end_run(self, run: int, came_to: str) -> None:
        parameters = {"run": run, "came_to": plain(came_to)}
        self._engine.write(lambda tx: tx.run(SQL.end_run, parameters))

    def under_way(self, session: str) -> int:
        """Return how many workers and runs of a session have not ended, as far as is known; 0 for none."""
        running = self.workers(session) + self.open_runs(session)
        return running or sum(one.agent != MAIN and not one.assigned for one in self.open_claims(session))

    # ----------------------------------------------------------------- client

    def first(self, session: str, what: str) -> bool:
        """Return whether this is the first time that *what* is said to a session."""
        parameters = {**who(session), "what": plain(what)}
        return bool(self._engine.write(lambda tx: tx.run(SQL.say_once, parameters)))

    def set_went_on(self, session: str, *, went_on: bool) -> bool:
        """Note whether a hook has kept the client from stopping; return whether that is news.

        The session's waker runs beside that hook, and ends where the client goes on by itself.
        """
        parameters = {**who(session), "went_on": int(went_on)}
        found = self._engine.read(SQL.session, parameters)
        if not found or found[0][2] == parameters["went_on"]:
            return False
        return bool(self._engine.write(lambda tx: tx.run(SQL.set_went_on, parameters)))

    def is_idle(self, session: str) -> bool:
        """Return whether no hook of a session has to look: it holds, runs and has lost nothing."""
        return not self._engine.read(SQL.anything, who(session))

    def is_known(self, session: str) -> bool:
        """Return whether a session has, or had, anything of ours."""
        return bool(session) and bool(self._engine.read(SQL.known, who(session)))

    def forget_old(self) -> int:
        """Forget the sessions of which nothing was heard for a week; return how many."""
        old = [row[0] for row in self._engine.read(SQL.unseen_sessions, {"age": _FORGET_MS})]

        def body(tx: Transaction) -> None:
            for session in old:
                for statement in (
                    SQL.forget_claims, SQL.forget_slots, SQL.forget_runs, SQL.forget_deliveries,
                    SQL.forget_said, SQL.forget_session,
                ):  # fmt: skip
                    tx.run(statement, {"session": session})

        if old:
            self._engine.write(body)
        return len(old)


def _claim_of(row: Row) -> AgentClaim:
    (session, agent, task, receipts, receipts_to, assigned, left_open, attempt, number, worker, lock, outcome,
     detail, work, key, cycle, text, state, result) = row  # fmt: skip
    claim = Claim(
        attempt=attempt, work=work, key=key, cycle=cycle, number=number, text=from_column(text),
        worker=worker, lock=lock or "",
    )  # fmt: skip
    return AgentClaim(
        session=session, agent=agent, claim=claim, assigned=bool(assigned),
        task=AgentTask(task=task, receipts=tuple(json.loads(receipts)), receipts_to=receipts_to),
        status=_status_of(outcome, detail or "", left_open, state, result),
    )  # fmt: skip


def _status_of(
    outcome: str | None, detail: str, left_open: int, state: str, result: str | None
) -> ClaimStatus:
    if outcome is None:
        return ClaimStatus(how="open")
    if outcome != "revoked" or left_open:
        return ClaimStatus(how="ended")
    why = detail or "it was revoked"
    if state == "skipped" and result:  # by whom stands in the attempt, why in the result
        said = plain(json.loads(result).get("outcome", ""))
        why = f"{why}: {said}" if said and said != "cancelled" else why
    return ClaimStatus(how="lost", why=why)
