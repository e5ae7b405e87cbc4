"""Care for a run's agents while they work: what their processes use, and what they spend."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..core.errors import ConfigError
from ..core.paths import Project
from ..events import log_of
from ..monitor.budget import Caps, Spend, caps_of
from ..monitor.lineage import OURS, WITHIN
from ..monitor.overseer import Deed, Limits, Overseer
from ..monitor.purse import Purse
from ..monitor.readings import Sampler
from ..monitor.watch import Watch
from ..monitor.zones import Bounds, Gauge
from ..orders import Orders
from ..queue.batch import Batch
from ..queue.progress import Progress
from ..runners.agent import Agent, AgentEnd, Assignment, How
from ..spending import Account, Spending

#: The session that a run was started from, handed on to the runs that its agents start.
SESSION = "HYPERVISOR_SESSION"
#: How an agent ends that does not come to its own end.
_CUT = (How.TIMEOUT, How.STOPPED, How.KILLED)


@dataclass(slots=True)
class Care:
    """What all agents of a run share."""

    watch: Watch
    purse: Purse
    #: The session that the run was started from; "" for none.
    session: str = ""
    #: How many agents all runs of that session may have at work; 0 for any number.
    per_session: int = 0

    def open(self) -> None:
        """Begin to watch. All that this process starts from now on bears a variable that says so."""
        os.environ[OURS] = "1"
        self.watch.start()

    def close(self) -> None:
        """Watch no more, and leave the last word on what was spent."""
        self.watch.close()
        self.purse.look()

    def why_not(self, running: int) -> str:
        """Return why no further agent may begin beside so many of this run; "" if one may."""
        if self.session and self.per_session and running:  # one may always run
            others = self.purse.spending.at_work_of_session()
            if running + others >= self.per_session:
                return f"{running + others} agents of this session are at work, and {self.per_session} may be"
        return self.purse.why_not()

    def run(self, agent: Agent, assignment: Assignment, rank: int) -> AgentEnd:
        """Run an agent to its end, within its limits; *rank* is 0 for the most urgent."""
        mark, log = assignment.mark[1], assignment.log
        watched = self.watch.attend(mark, assignment.task_id, rank, log, assignment.stopped)
        self.purse.begun(mark)

        def used(tokens: int, talks: int, asks_again: bool) -> None:
            watched.tokens = tokens
            if why := self.purse.used(mark, tokens, talks, asks_again=asks_again):
                self.watch.stop(watched, why)

        within = f"{os.environ.get(WITHIN, '')} {mark}".strip()
        told = {**assignment.environment, OURS: "1", WITHIN: within, SESSION: self.session}
        left = self.purse.left_usd()
        end: AgentEnd | None = None
        try:
            end = agent.run(replace(assignment, environment=told, used=used, budget_usd=left))
        finally:
            survivors = self.watch.leave(watched)
            tokens, cost = (end.tokens, end.cost_usd) if end else (None, None)
            cut = end is None or watched.act is not None or end.how in _CUT
            self.purse.ended(mark, tokens, cost, cut=cut)
        if end.tokens is None and watched.tokens:
            end = replace(end, input_tokens=watched.tokens)  # it was ended before it could say its sum
        act = watched.act
        if act is not None:
            how = How.STOPPED if act.deed is Deed.STOP else How.LIMIT
            left_over = f"; {survivors} of its processes had hidden and were ended" if survivors else ""
            return replace(end, how=how, text=f"{act.why}{left_over}")
        if end.how is How.BUDGET and left is not None:
            return replace(end, how=How.STOPPED, text=f"the budget is used up ({end.text})")
        return end


def care_of(project: Project, batch: Batch, orders: Orders, settings: Mapping[str, Any], run: str) -> Care:
    """Return what looks after the agents of a run, whose coordinator has the id *run*.

    Raises:
        ConfigError: A setting makes no sense.
    """
    check_settings(settings)
    machine, budget = settings["machine"], settings["budget"]
    is_command = orders.agent == "exec"
    session = os.environ.get("CLAUDE_CODE_SESSION_ID") or os.environ.get(SESSION, "")
    within = tuple(dict.fromkeys(one.split("/")[0] for one in os.environ.get(WITHIN, "").split()))
    progress = Progress.of(batch.folder)
    spending = Spending(
        project.state,
        Account(batch=batch.id, run=run, session=session, within=within),
        3600.0 * budget["project_hours"],
    )
    bounds = Bounds.of(machine, cpu=not is_command or machine["exec_cpu"])
    return Care(
        watch=Watch(
            Sampler(batch.folder), Gauge(bounds), Overseer(Limits.of(settings["overseer"])),
            machine["look_seconds"], log_of(batch.folder).tell,
        ),
        purse=Purse(
            _caps(orders, budget), spending, budget["answer_tokens"], counts=not is_command,
            before=Spend(
                tokens=sum(one.tokens or 0 for one in progress.spent.values()), usd=progress.cost_usd,
                attempts=sum(one.attempts for one in progress.spent.values()),
            ),
        ),
        session=session,
        per_session=int(machine["per_session"]),
    )  # fmt: skip


def check_settings(settings: Mapping[str, Any]) -> None:
    """Hold that the settings for machine, overseer and budgets make sense.

    Raises:
        ConfigError: They do not.
    """
    for key, value in settings["machine"].items():
        if not isinstance(value, bool) and value < 0:
            raise ConfigError(f"`machine.{key}` must be 0 or more, not {value}")
    Bounds.of(settings["machine"], cpu=True)
    Limits.of(settings["overseer"])
    caps_of(settings["budget"])


def _caps(orders: Orders, budget: Mapping[str, Any]) -> dict[str, Caps]:
    """Return the budgets, of which what the user asked for this batch counts more than its settings."""
    found = caps_of(budget)
    asked = {
        "tokens": orders.budget_tokens, "usd": orders.budget_usd, "attempts": orders.budget_attempts,
        "seconds": None if orders.budget_minutes is None else 60.0 * orders.budget_minutes,
    }  # fmt: skip
    told = {name: float(value) for name, value in asked.items() if value is not None}
    return {**found, "batch": replace(found["batch"], **told)}
