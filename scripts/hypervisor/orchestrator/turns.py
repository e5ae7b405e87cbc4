"""The turns of an attempt's agents: each is run, what it left is judged, and what counts is reviewed."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace

from ..git.checkout import Snapshot
from ..git.work import Tree
from ..runners.base import AgentEnd, Assignment, How, Usage
from ..runners.kept_tails import keep_tails
from ..store.events import RunEvent
from .attempt_work import AttemptWork
from .prompt import take_reported
from .reviewing import WorkReview, add_cost, asks_for_review
from .run_context import RunContext, judge, require_held
from .verdict import Verdict

#: sysexits.h: "temporary failure"; how a command says "too many requests".
_EX_TEMPFAIL = 75


@dataclass(slots=True)
class AgentTurns:
    """Runs the agents of one attempt."""

    run: RunContext
    #: 0 for the most urgent: where memory is short the others are ended first.
    rank: int
    #: What the last agent used of the machine, None if none was started.
    usage: Usage | None = None
    #: Whether that agent, or its service, said "not now".
    refused: bool = False

    def carry_out(
        self,
        work: AttemptWork,
        assignment: Assignment,
        before: Snapshot | None,
        session: str = "",
        prompt: str = "",
    ) -> tuple[AttemptWork, Verdict]:
        """Run the agent of *work*, and have its work reviewed if it asks for that.

        Args:
            work: The attempt, with the agent's folder.
            assignment: What a new agent is started with.
            before: What the checkout was like as it began; None where it has no folder of its own.
            session: A session of the client's that goes on instead, "" for none.
            prompt: What that session is told.

        Returns:
            The attempt with what the agent left, and the verdict.
        """
        work, verdict = self._judged(work, self._go_on(work, assignment, session, prompt), before)
        tree = work.tree
        if verdict.merge and tree is not None and asks_for_review(work.task, self.run.service.settings):
            return self._review(work, verdict, tree, assignment, before)
        return work, verdict

    # ---------------------------------------------------------------- details

    def _judged(
        self, work: AttemptWork, end: AgentEnd, before: Snapshot | None
    ) -> tuple[AttemptWork, Verdict]:
        """Take what the agent has reported and left that has just ended, and decide on it."""
        said = take_reported(work.report)
        gathered, verdict = judge(self.run, work.task, work.tree, end, said, before, work.log, work.filed)
        return replace(work, end=add_cost(end, work.end), reported=said, gathered=gathered), verdict

    def _review(
        self, work: AttemptWork, verdict: Verdict, tree: Tree, assignment: Assignment, before: Snapshot | None
    ) -> tuple[AttemptWork, Verdict]:
        """Have verified work reviewed, and changed as the reviewer asks; hold back what is not approved."""

        def change(asked: Assignment, prompt: str) -> Verdict:
            nonlocal work
            session = work.end.session if work.end else ""
            work, judged = self._judged(work, self._go_on(work, asked, session, prompt), before)
            return judged

        review = WorkReview(self.run, work.task, work.agent, tree, assignment, self.rank)
        verdict = review.carry_out(verdict, change, lambda: require_held(self.run, work.claim))
        return replace(work, end=add_cost(work.end, review.spent)), verdict

    def _go_on(self, work: AttemptWork, assignment: Assignment, session: str, prompt: str) -> AgentEnd:
        """Run the agent: with *prompt* in the *session* that it had, if it had one, else in a new one."""
        if session:
            end = self._contained(work, replace(assignment, resume=session, prompt=prompt))
            if end.how is not How.FAILED or end.tokens:  # else the client has no such session any more
                return end
        return self._contained(work, assignment)

    def _contained(self, work: AttemptWork, assignment: Assignment) -> AgentEnd:
        """Run the agent, in a sandbox if the run has one."""
        containment = self.run.containment
        if containment is None:
            return self._run_agent(work, assignment)
        with containment.contain(assignment, os.path.basename(work.log), work.agent.starts) as contained:
            return self._run_agent(work, contained)

    def _run_agent(self, work: AttemptWork, assignment: Assignment) -> AgentEnd:
        """Run the agent, and add the events of its start and its end."""
        run, task, name, started = self.run, work.task.id, work.agent.name, time.monotonic()
        log = os.path.relpath(assignment.log, run.batch.folder)
        run.store.claims.set_log(work.claim, log, name)
        run.tell(RunEvent.BEGUN, task, attempt=work.claim.number, agent=name, log=log)
        end = run.supervisor.run(work.agent, assignment, self.rank)
        keep_tails(run.store, [(work.claim.attempt, assignment.log)])
        run.router.used(name, end.tokens, end.cost_usd)
        self.usage = assignment.usage
        self.refused = end.how in (How.RATE_LIMIT, How.OVERLOAD) or end.exit == _EX_TEMPFAIL
        run.tell(
            RunEvent.ENDED, task, attempt=work.claim.number, agent=name, how=end.how.value,
            tokens=end.tokens, cost_usd=end.cost_usd, seconds=round(time.monotonic() - started, 3),
        )  # fmt: skip
        return end
