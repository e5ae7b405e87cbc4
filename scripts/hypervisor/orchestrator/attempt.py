"""One attempt at one task by one agent: from the claim to the verdict.

The agent works in a folder of its own; what it leaves there is gathered, inspected, verified and merged by
the coordinator. Nothing that the agent says decides anything.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..core.assignment import BRANCH
from ..core.errors import ClaimLost, HypervisorError, Refused, Taken
from ..core.model import Outcome, TaskStatus
from ..core.project import task_key
from ..git.remote import RemoteUnreachable
from ..git.work import Tree
from ..runners.base import Assignment, How
from ..runners.claude import child_environment
from ..store.records import Claim
from ..tasks.completion import TaskCompletion
from .attempt_work import AttemptEnd, AttemptWork
from .best_of import CANDIDATE, candidates_of, in_all, ranked, side_by_side
from .parking import Continuation, continuation_of, park
from .prompt import RUN_MARK, prompt_for, report_path, shared_context, variables
from .resolving import Merging
from .run_context import RunContext, merged_before, require_held
from .turns import AgentTurns
from .verdict import Verdict, not_now, terms_changed
from .workspace_pool import SetupFailed


class TaskAttempt:
    """One attempt at one task.

    Args:
        run: The run.
        path: The task's, below the project's root.
        stopped: Set to end the agent.
        may_retry: Whether another attempt follows if this one counts as failed.
        rank: 0 for the most urgent: where memory is short the others are ended first.
        claimed: Called with the claim, once there is one.
    """

    def __init__(
        self,
        run: RunContext,
        path: str,
        stopped: threading.Event,
        *,
        may_retry: bool,
        rank: int,
        claimed: Callable[[Claim], None],
    ) -> None:
        self._run, self._path, self._stopped = run, path, stopped
        self._may_retry, self._claimed = may_retry, claimed
        #: Its claim; None before there is one.
        self.claim: Claim | None = None
        #: Its agents.
        self.turns = AgentTurns(run, rank)

    def run(self) -> AttemptEnd:
        """Carry the attempt through. Raises only for faults of our own."""
        run = self._run
        try:
            head, now = run.service.find(self._path), time.time()
            agent = run.router.choose(head, now)
            if isinstance(agent, str):
                return AttemptEnd(how="held" if run.router.waits(head, now) else "gone", text=agent)
            service = run.service_of(agent)
            task, hold = service.claim(self._path)
        except Taken as error:
            return AttemptEnd(how="held", text=str(error))
        except HypervisorError as error:
            return self._not_claimed(str(error))
        self.claim = run.running[task.id] = hold.claim
        self._claimed(hold.claim)
        work = AttemptWork(
            task=task, claim=hold.claim, service=service, started=time.monotonic(), agent=agent
        )
        try:
            return replace(self._work(work), agent=agent.name)
        except ClaimLost as error:
            return AttemptEnd(how="gone", text=str(error), agent=agent.name)
        except BaseException as error:
            self._give_back(work, f"could not be worked on: {error}", counted=False)
            raise

    def _not_claimed(self, why: str) -> AttemptEnd:
        """Return what it means that the task cannot be claimed; another machine may have finished it."""
        run, gone = self._run, AttemptEnd(how="gone", text=why)
        if run.delivery is None:
            return gone
        latest = run.store.claims.latest(task_key(run.project.root, run.project.root / self._path))
        if latest is not None and latest.decided:
            if latest.state == Outcome.SUCCESS and not latest.published:
                return AttemptEnd(how="held", text=why)  # those that wait for it begin with what is merged
            text = f"{latest.state} on another machine"
            return AttemptEnd(how="elsewhere", text=text, outcome=Outcome(latest.state))
        with contextlib.suppress(HypervisorError):
            if run.service.catalog.unmet(run.service.find(self._path)):
                return AttemptEnd(how="held", text=why)
        return gone

    def _work(self, work: AttemptWork) -> AttemptEnd:
        run, task = self._run, work.task
        if merged := merged_before(run, work.claim):
            return self._finish(work, merged)
        terms = run.terms_of(work.claim, task)
        if changes := terms.changes(task):
            return self._finish(work, terms_changed(changes))
        earlier = continuation_of(run.store, work.claim)
        try:
            base, count = self._base(), candidates_of(task, run.options)
            alone = count == 1 or run.pool is None or earlier.number is not None
            if alone:
                work, verdict = self._try(work, base, earlier)
            else:
                work, verdict = self._best_of(work, base, earlier, count)
        except Refused as error:
            fault = Verdict(outcome=Outcome.BLOCKED, status=TaskStatus.BLOCKED, text=str(error))
            return self._finish(work, fault)
        except RemoteUnreachable as error:
            return self._finish(work, not_now(str(error)))
        except SetupFailed as error:
            halt = str(error) if error.halts else ""
            return replace(self._finish(work, not_now(str(error))), halt=halt)
        tree = work.tree
        if verdict.again == "answer" and work.reported and work.end:
            said, end, place = work.reported, work.end, work.workspace
            text = park(run, work.service, task, work.claim, said, end, place)
            return AttemptEnd(how="parked", text=text)
        if verdict.merge and run.integration is not None and tree is not None:
            require_held(run, work.claim)
            merging = Merging(run, self.turns, work, tree, verdict, self._stopped)
            work, verdict = merging.carry_out(lambda one, text: self._assignment(one, Continuation(), text))
        if run.delivery is not None and tree is not None and (verdict.merge or verdict.keep):
            require_held(run, work.claim)
            verdict = self._offer(tree, verdict)
            work = replace(work, merged=verdict.merge)
        return self._finish(work, verdict)

    def _try(self, work: AttemptWork, base: str, earlier: Continuation) -> tuple[AttemptWork, Verdict]:
        """Let an agent work in a folder that begins from *base*; return what it left, and the verdict."""
        run, task = self._run, work.task
        workspace = None
        if run.pool:
            workspace = run.pool.open(task.id, work.number, base, self._stopped, earlier.number)
        before = run.watch.look() if run.watch else None
        report = report_path(run.batch.folder, work.claim.key, work.number)
        logs = run.batch.logs
        os.makedirs(logs, exist_ok=True)
        log = os.path.join(logs, f"{work.claim.key}~{work.number}")
        work = replace(work, workspace=workspace, log=log, report=report)
        assignment = self._assignment(work, earlier)
        session = earlier.session(work.agent)
        return self.turns.carry_out(work, assignment, before, session, earlier.resumed_prompt(task.id))

    def _best_of(
        self, work: AttemptWork, base: str, earlier: Continuation, count: int
    ) -> tuple[AttemptWork, Verdict]:
        """Let several agents try at once; return the best work, with what all have used, and its verdict."""
        run = self._run
        assert run.pool is not None and run.trees is not None  # noqa: S101, PT018 - else there is one
        tried = side_by_side(count, lambda one: self._try(replace(work, candidate=one), base, earlier))
        git = run.trees.repository.git()
        order, told = ranked(git, base, [(one.number, verdict, one.end) for one, verdict in tried])
        best, verdict = tried[order[0]]
        for other, _ in (tried[at] for at in order[1:]):
            if other.workspace is not None and other.gathered is not None:
                run.pool.close(other.workspace, other.gathered, merged=False, spare=True)
        name = best.agent.name
        run.store.claims.set_log(work.claim, os.path.relpath(best.log, run.batch.folder), name)
        verdict = replace(verdict, evidence={**verdict.evidence, "candidates": told})
        return replace(best, end=in_all([one.end for one, _ in tried], best.end)), verdict

    def _base(self) -> str:
        """Return the commit that the agent begins from: all that is merged."""
        run = self._run
        if run.delivery is not None:
            return run.delivery.base()
        return run.integration.tip if run.integration else run.options.start_commit

    def _offer(self, tree: Tree, verdict: Verdict) -> Verdict:
        """Push the agent's branch, so that every machine has its work before the result is accepted."""
        delivery, commit = self._run.delivery, str(verdict.evidence.get("commit") or "")
        assert delivery is not None  # noqa: S101 - asked before
        if not commit:
            return verdict
        why = delivery.offer(commit, tree.branch, self._stopped)
        if not why or not verdict.merge:
            return verdict
        return not_now(f"{why}; its work is kept on {tree.branch} of this machine")

    def _assignment(self, work: AttemptWork, earlier: Continuation, context: str = "") -> Assignment:
        """Return what the agent of *work* is started with; *context* stands behind its task's text."""
        run, task, number = self._run, work.task, work.claim.number
        branch = run.options.hive_branch
        extra = variables(task, number, work.report, run.service, run.batch.record.name, run.worker.id)
        extra[BRANCH] = branch
        extra |= work.workspace.environment if work.workspace else {}
        extra |= {CANDIDATE: str(work.candidate)} if work.candidate else {}
        context = context or earlier.context() + shared_context(run.service, task, branch)
        return Assignment(
            task_id=task.id,
            prompt=prompt_for(task, work.tree, context, work.agent.briefing),
            cwd=str(run.trees.place(work.tree)) if work.tree and run.trees else str(run.project.root),
            log=work.log,
            environment=child_environment(os.environ, extra),
            inherit=run.inherit,
            mark=(RUN_MARK, f"{run.batch.record.name}/{task.id}~{work.number}"),
            timeout=run.options.timeout,
            allowed=run.options.allowed_for(work.agent.name),
            verify=task.verify,
            in_scope=lambda path: run.in_scope(task, path),
            stopped=self._stopped,
        )

    # -------------------------------------------------------------------- end

    def _finish(self, work: AttemptWork, verdict: Verdict) -> AttemptEnd:
        end = work.end
        if verdict.again == "no attempt" or (verdict.again == "retry" and self._may_retry):
            counted = verdict.again == "retry"
            gave_up = self._give_back(work, verdict.text, counted=counted)
            self._close(work)
            if gave_up:
                return AttemptEnd(how=Outcome.FAILED.value, text=verdict.text)
            return AttemptEnd(
                how="retry" if counted else "again", text=verdict.text, pause_until=verdict.pause_until,
                crowded=end is not None and end.how in (How.RATE_LIMIT, How.OVERLOAD),
                stop_batch=verdict.stop_batch,
            )  # fmt: skip
        details: dict[str, Any] = {
            "batch": self._run.batch.record.name,
            "evidence": dict(verdict.evidence),
            "seconds": round(time.monotonic() - work.started, 3),
        }
        if end is not None:
            details |= {
                "runner": work.agent.name, "tokens": end.tokens, "cost_usd": end.cost_usd, "turns": end.turns,
                "how": end.how.value,
            }  # fmt: skip
        if work.reported is not None:  # in full, for the tasks that wait for this one
            details["report"] = {"text": work.reported.text, "evidence": work.reported.evidence}
        delivers = self._run.delivery is not None and verdict.merge
        tree = work.tree  # its workspace forgets it once it is closed
        something = work.gathered is not None and (work.gathered.commits or not work.gathered.is_all)
        if tree is not None and (delivers or (verdict.keep and something)):
            details["branch"] = tree.branch
        elif verdict.keep:
            details["next_step"] = f"see `hypervisor log {work.task.id}`"
        completion = TaskCompletion(
            outcome=verdict.outcome, status=verdict.status or TaskStatus.BLOCKED, text=verdict.text,
            commit=str(verdict.evidence.get("commit") or ""), evidence=verdict.evidence_line,
            details=details, tokens=end.tokens if end else None, cost_usd=end.cost_usd if end else None,
        )  # fmt: skip
        text = verdict.text
        try:
            work.service.finish(work.service.relative(work.task), completion, work.claim.number)
        except ClaimLost:
            raise
        except HypervisorError as error:  # its file is gone, or says what cannot be: the result counts
            text = f"{text}; its file could not be changed: {error}"
            self._run.decide(work.task, work.claim, replace(completion, text=text), work.agent.name)
        self._close(work)
        if delivers and tree is not None:
            return self._delivered(work, tree, verdict)
        return AttemptEnd(how=verdict.outcome.value, text=text)

    def _delivered(self, work: AttemptWork, tree: Tree, verdict: Verdict) -> AttemptEnd:
        """Wait until the accepted work is merged; return how the task ended with that."""
        run, claim = self._run, work.claim
        assert run.delivery is not None  # noqa: S101 - asked before
        if not run.delivery.settle(claim.work, run.over):
            return AttemptEnd(how=verdict.outcome.value, text=f"{verdict.text}; it waits to be merged")
        latest = run.store.claims.latest(claim.key)
        if latest is not None and latest.id != claim.work and latest.decided:
            result = latest.result or {}
            return AttemptEnd(how=latest.state, text=str(result.get("outcome") or ""))
        run.merged[work.task.path] = work.task.verify
        run.delivery.drop_local(tree.branch, str(verdict.evidence.get("commit") or ""))
        return AttemptEnd(how=verdict.outcome.value, text=verdict.text)

    def _give_back(self, work: AttemptWork, why: str, *, counted: bool) -> bool:
        """Give the task back; return whether it was given up, as earlier runs have used up its attempts."""
        end = work.end
        with contextlib.suppress(ClaimLost):  # it was taken from us, which is as good
            return work.service.give_back(
                work.service.relative(work.task), why, work.claim.number, counted=counted,
                limit=self._run.attempts, tokens=end.tokens if end else None,
                cost_usd=end.cost_usd if end else None,
            )  # fmt: skip
        return False

    def _close(self, work: AttemptWork) -> None:
        """Remove the agent's folder, unless it holds work that is nowhere else."""
        if work.workspace is not None and work.gathered is not None and self._run.pool is not None:
            self._run.pool.close(work.workspace, work.gathered, merged=work.merged)
