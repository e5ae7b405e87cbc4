"""One task in the hands of one agent: from the claim to the verdict.

The agent works in a folder of its own; what it leaves there is gathered, looked at, verified and
merged by us. Nothing that it says decides anything.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core.commission import BRANCH
from ..core.errors import ClaimLost, HypervisorError, Refused, Taken
from ..core.keys import item_key
from ..core.model import Outcome, Task, TaskStatus
from ..events import RunEvent
from ..git.git import Git
from ..git.merging import Conflict, Unverified
from ..git.oversight import look
from ..git.trailers import merge_message, merged_commit
from ..git.work import Tree
from ..runners.agent import Agent, AgentEnd, Assignment, How, Usage
from ..runners.claude import child_environment
from ..tasks.claiming import Hold
from ..tasks.endings import Ending
from .briefing import RUN_MARK, prompt_for, read_reported, report_path, variables
from .checks import verify
from .evidence import Failed, Verdict, judge
from .handover import branch_of, handed
from .shop import Shop, gather

#: sysexits.h: "temporary failure"; what a command says that was told "too many".
_EX_TEMPFAIL = 75


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What the coordinator has to know of an attempt that is over."""

    #: An `Outcome`, ``again`` (no attempt lost), ``retry`` (one lost), ``held`` or ``gone``.
    how: str
    text: str
    #: Until when nothing is to be begun, in seconds since the epoch.
    pause_until: float | None = None
    #: Whether the service said "too many".
    crowded: bool = False
    #: Why the agent can be given nothing more, and the batch has to stop if there is no other; "" if it can.
    stop_batch: str = ""
    #: The agent's name, "" if there was none.
    agent: str = ""


class Attempt:
    """One attempt at one task."""

    def __init__(self, shop: Shop, path: str, stopped: threading.Event, *, may_retry: bool) -> None:
        self.shop = shop
        #: Of the task, below the project's root.
        self.path = path
        self.stopped = stopped
        #: Whether there is another attempt if this one counts as failed.
        self.may_retry = may_retry
        #: Called with the task's id and the generation of its claim, once it has one.
        self.claimed: Callable[[str, int], None] = lambda _task, _generation: None
        #: Who works on it, None until somebody was chosen; and the desk in his name.
        self.agent: Agent | None = None
        self.desk = shop.desk
        #: 0 for the most urgent: in want of memory the others are ended first.
        self.rank = 2
        #: What the agent used of the machine, None if none was set to work; and whether it, or its service,
        #: said "not now".
        self.usage: Usage | None = None
        self.refused = False

    def run(self) -> Ended:
        """Carry the attempt through; never raises but for faults of ours."""
        return replace(self._run(), agent=self.agent.name if self.agent else "")

    def _run(self) -> Ended:
        try:
            with self.shop.lock:
                head, now = self.shop.desk.find(self.path), time.time()
                chosen = self.shop.staff.choose(head, now)
                if isinstance(chosen, str):
                    return Ended(how="held" if self.shop.staff.waits(head, now) else "gone", text=chosen)
                self.agent, self.desk = chosen, self.shop.desk_of(chosen)
                task, hold = self.desk.claim(self.path)
        except Taken as error:
            return Ended(how="held", text=str(error))
        except HypervisorError as error:
            return Ended(how="gone", text=str(error))
        self.claimed(task.id, hold.generation)
        try:
            return self._work(task, hold)
        except ClaimLost as error:
            return Ended(how="gone", text=str(error))
        except BaseException as error:
            self._give_back(task, hold, f"could not be worked on: {error}", counted=False)
            raise

    # ------------------------------------------------------------------- work

    def _work(self, task: Task, hold: Hold) -> Ended:
        merged = self._merged_before(task)
        if merged is not None:
            return self._finish(task, hold, merged, None, None, time.monotonic())
        begun = time.monotonic()
        shop = self.shop
        base = shop.integration.tip if shop.integration else shop.orders.start_commit
        tree = shop.trees.open(task.id, hold.generation, base) if shop.trees else None
        before = look(shop.desk.project, shop.is_ours) if shop.trees else None
        report = report_path(shop.batch.folder, task.id, hold.generation)
        end = self._run_agent(self._assignment(task, hold, tree, report), hold.generation)
        verdict = judge(gather(shop, task, tree, end, read_reported(report), before))
        if verdict.merge and shop.integration is not None and tree is not None:
            self._must_hold(task)
            verdict = self._merge(task, tree, verdict)
        return self._finish(task, hold, verdict, end, tree, begun)

    def _run_agent(self, assignment: Assignment, generation: int) -> AgentEnd:
        """Run the agent, and tell of its begin and its end what the summary and `status` need."""
        assert self.agent is not None  # noqa: S101 - chosen before the claim
        begun, task, name = time.monotonic(), assignment.task_id, self.agent.name
        self.shop.tell(
            RunEvent.BEGUN,
            task,
            generation=generation,
            agent=name,
            log=os.path.relpath(assignment.log, self.shop.batch.folder),
        )
        end = self.shop.care.run(self.agent, assignment, self.rank)
        self.shop.staff.used(name, end.tokens, end.cost_usd)
        self.usage = assignment.usage
        self.refused = end.how in (How.RATE_LIMIT, How.OVERLOAD) or end.exit == _EX_TEMPFAIL
        self.shop.tell(
            RunEvent.ENDED, task, generation=generation, agent=name, how=end.how.value, tokens=end.tokens,
            cost_usd=end.cost_usd, seconds=round(time.monotonic() - begun, 3),
        )  # fmt: skip
        return end

    def _must_hold(self, task: Task) -> None:
        """Hold that the task is still ours: what was cancelled meanwhile is not merged any more."""
        store, claim = self.shop.desk.open_store, self.shop.desk.open_claims.get(task.id)
        if store is not None and claim is not None:
            store.beat(claim)

    def _merged_before(self, task: Task) -> Verdict | None:
        """Return the verdict of an attempt that died between its merge and its result."""
        integration = self.shop.integration
        git = Git(self.shop.desk.project.root)
        if integration is None or not git.exists(integration.branch):
            return None
        commit = merged_commit(git, task.id, f"{self.shop.orders.start_commit}..{integration.branch}")
        if not commit:
            return None
        return Verdict(
            outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text="merged by an attempt that died after that",
            evidence={"commit": commit, "merged": True}, merge=False, keep=False,
        )  # fmt: skip

    # -------------------------------------------------------------- the agent

    def _assignment(self, task: Task, hold: Hold, tree: Tree | None, report: str) -> Assignment:
        shop = self.shop
        root = str(shop.desk.project.root)
        extra = variables(task, hold.generation, report, shop.desk, shop.batch, shop.worker)
        branch = branch_of(shop.orders)
        extra[BRANCH] = branch
        logs = shop.batch.logs
        os.makedirs(logs, exist_ok=True)
        assert self.agent is not None  # noqa: S101 - chosen before the claim
        return Assignment(
            task_id=task.id,
            prompt=prompt_for(task, tree, handed(shop.desk, task, branch), self.agent.briefing),
            cwd=str(shop.trees.place(tree)) if tree and shop.trees else root,
            log=os.path.join(logs, f"{item_key(task.id)}~{hold.generation}"),
            environment=child_environment(os.environ, extra),
            inherit=shop.inherit,
            mark=(RUN_MARK, f"{shop.batch.id}/{task.id}~{hold.generation}"),
            timeout=shop.orders.timeout,
            allowed=shop.orders.allowed_for(self.agent.name),
            verify=task.verify,
            stopped=self.stopped,
        )

    # -------------------------------------------------------------------- end

    def _merge(self, task: Task, tree: Tree, verdict: Verdict) -> Verdict:
        assert self.shop.integration is not None  # noqa: S101 - asked before

        def verified(folder: Path) -> str | None:
            result = verify(task, folder, self.shop.desk.settings)
            return f"{result.command}: {result.line}" if isinstance(result, Failed) else None

        merged = self.shop.integration.merge(tree.branch, merge_message(task.id, task.title), verified)
        if isinstance(merged, Conflict):
            text = f"conflicts with other work in {', '.join(merged.files[:5])}; kept on {tree.branch}"
        elif isinstance(merged, Unverified):
            text = f"does not verify beside other work ({merged.text}); kept on {tree.branch}"
        else:
            self.shop.merged.add(task.path)
            return replace(verdict, evidence={**verdict.evidence, "merged": merged.commit})
        return replace(
            verdict, outcome=Outcome.BLOCKED, status=TaskStatus.REVIEW, text=text, merge=False, keep=True
        )

    def _finish(
        self,
        task: Task,
        hold: Hold,
        verdict: Verdict,
        end: AgentEnd | None,
        tree: Tree | None,
        begun: float,
    ) -> Ended:
        crowded = end is not None and end.how in (How.RATE_LIMIT, How.OVERLOAD)
        if verdict.again == "no attempt" or (verdict.again == "retry" and self.may_retry):
            counted = verdict.again == "retry"
            self._give_back(task, hold, verdict.text, counted=counted)
            self._tidy(tree)
            return Ended(
                how="retry" if counted else "again", text=verdict.text,
                pause_until=verdict.pause_until, crowded=crowded, stop_batch=verdict.stop_batch,
            )  # fmt: skip
        details: dict[str, Any] = {
            "batch": self.shop.batch.id,
            "evidence": dict(verdict.evidence),
            "seconds": round(time.monotonic() - begun, 3),
        }
        if end is not None and self.agent is not None:
            details |= {
                "runner": self.agent.name,
                "tokens": end.tokens,
                "cost_usd": end.cost_usd,
                "turns": end.turns,
                "how": end.how.value,
            }
        if tree is not None and verdict.keep:
            details["branch"] = tree.branch
        commit = str(verdict.evidence.get("commit") or "")
        ending = Ending(
            outcome=verdict.outcome, status=verdict.status or TaskStatus.BLOCKED, text=verdict.text,
            commit=commit, evidence=_in_words(verdict.evidence), details=details,
        )  # fmt: skip
        with self.shop.lock:
            self.desk.finish(self.desk.relative(task), ending, hold.generation)
        self._tidy(tree)
        return Ended(how=verdict.outcome.value, text=verdict.text)

    def _give_back(self, task: Task, hold: Hold, why: str, *, counted: bool) -> None:
        with self.shop.lock, contextlib.suppress(ClaimLost):  # it was taken from us, which is as good
            name = self.desk.relative(task)
            self.desk.give_back(name, why, hold.generation, counted=counted)

    def _tidy(self, tree: Tree | None) -> None:
        """Take the worktree away; what holds work that is nowhere else stays."""
        if tree is None or self.shop.trees is None:
            return
        # Refused where it holds work that is nowhere else; `hypervisor clean` says what.
        with contextlib.suppress(Refused):
            self.shop.trees.remove(tree, merged_into=self._merged_into())

    def _merged_into(self) -> str | None:
        integration = self.shop.integration
        known = integration is not None and Git(self.shop.desk.project.root).exists(integration.branch)
        return integration.branch if integration is not None and known else None


def _in_words(evidence: Mapping[str, Any]) -> str:
    return "; ".join(f"{key} {shlex.quote(str(value))}" for key, value in evidence.items() if value)[:500]
