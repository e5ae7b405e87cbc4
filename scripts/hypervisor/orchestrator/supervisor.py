"""Supervises running agents: resource limits and budgets."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..core.errors import ConfigError
from ..core.process import host_name
from ..monitor.budget import BudgetTracker, Caps, caps_of
from ..monitor.metrics import Sampler
from ..monitor.monitor import ResourceMonitor
from ..monitor.overseer import Action, Limits, Overseer
from ..monitor.processes import OURS, WITHIN
from ..monitor.zones import ZoneBounds, ZoneTracker
from ..queue.batch import Batch
from ..runners.base import Agent, AgentEnd, Assignment, How
from ..runners.registry import RUNNERS
from ..store.spend import Account
from .options import RunOptions

#: The session that a run was started from, handed on to the runs that its agents start.
SESSION = "HYPERVISOR_SESSION"
#: What `merge.conflicts` may say: who merges what conflicts.
CONFLICTS = ("agent", "person")
#: How often budgets are compared with what other runs spend, in seconds.
_LOOK_SECONDS = 1.0
#: How an agent ends that does not come to its own end.
_CUT = (How.TIMEOUT, How.STOPPED, How.KILLED)


@dataclass(slots=True)
class AgentSupervisor:
    """Runs the agents of a run within its limits."""

    monitor: ResourceMonitor
    budgets: BudgetTracker
    #: The session that the run was started from; "" for none.
    session: str = ""
    #: How many agents all runs of that session may have at work; 0 for any number.
    per_session: int = 0
    #: What was wrong with an agent's surroundings, each of them said once.
    warnings: list[str] = field(default_factory=list)
    _looked: float = float("-inf")
    _reached: str = ""

    def open(self) -> None:
        """Begin to watch. All that this process starts from now on bears a variable that says so."""
        os.environ[OURS] = "1"
        self.monitor.start()

    def close(self) -> None:
        """Stop watching, and keep the last figures of what was spent."""
        self.monitor.close()
        self.budgets.look()

    def used_up(self) -> str:
        """Return which budget is used up, "" for none; stop all agents then, at no cost to their tasks."""
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._looked, self._reached = time.monotonic(), self.budgets.look()
            if self._reached:
                self.monitor.stop_all(self._reached)
        return self._reached

    def why_not(self, running: int) -> str:
        """Return why no further agent may begin beside so many of this run; "" if one may."""
        if self.session and self.per_session and running:  # one may always run
            others = self.budgets.spending.at_work_of_session()
            if running + others >= self.per_session:
                return f"{running + others} agents of this session are at work, and {self.per_session} may be"
        return self.budgets.why_not(running)

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
            print(f"hypervisor: WARNING: {text}", file=sys.stderr, flush=True)

    def run(self, agent: Agent, assignment: Assignment, rank: int) -> AgentEnd:
        """Run an agent to its end, within its limits; *rank* is 0 for the most urgent."""
        mark, log = assignment.mark[1], assignment.log
        watched = self.monitor.attend(mark, assignment.task_id, rank, log, assignment.stopped)
        if why := self.budgets.start(mark):
            self.monitor.leave(watched)
            return AgentEnd(how=How.STOPPED, text=why)

        def used(tokens: int, talks: int, asks_again: bool) -> None:
            watched.tokens = tokens
            if why := self.budgets.used(mark, tokens, talks, asks_again=asks_again):
                self.monitor.stop(watched, why)

        within = f"{os.environ.get(WITHIN, '')} {mark}".strip()
        told = {**assignment.environment, OURS: "1", WITHIN: within, SESSION: self.session}
        left = self.budgets.left_usd()
        end: AgentEnd | None = None
        try:
            end = agent.run(
                replace(assignment, environment=told, used=used, warn=self._warn, budget_usd=left)
            )
        finally:
            survivors = self.monitor.leave(watched)
            tokens, cost = (end.tokens, end.cost_usd) if end else (None, None)
            cut = end is None or watched.act is not None or end.how in _CUT
            self.budgets.ended(mark, tokens, cost, cut=cut)
        if end.tokens is None and watched.tokens:
            end = replace(end, input_tokens=watched.tokens)  # it was ended before it could say its sum
        act = watched.act
        if act is not None:
            how = How.STOPPED if act.action is Action.STOP else How.LIMIT
            left_over = f"; {survivors} of its processes had hidden and were ended" if survivors else ""
            return replace(end, how=how, text=f"{act.why}{left_over}")
        if end.how is How.BUDGET and left is not None:
            return replace(end, how=How.STOPPED, text=f"the budget is used up ({end.text})")
        return end


def supervisor_of(batch: Batch, options: RunOptions, run: str, tell: Callable[..., None]) -> AgentSupervisor:
    """Return the supervisor of a run's agents.

    Args:
        batch: What is run.
        options: What the user asked for.
        run: `Worker.id` of the coordinator.
        tell: Adds an event of the run.

    Raises:
        ConfigError: A setting makes no sense.
    """
    settings = batch.store.settings
    check_settings(settings)
    machine, budget = settings["machine"], settings["budget"]
    counts_tokens = options.agent not in RUNNERS or RUNNERS[options.agent].counts_tokens  # auto: clients
    session = os.environ.get("CLAUDE_CODE_SESSION_ID") or os.environ.get(SESSION, "")
    within = tuple(dict.fromkeys(one.split("/")[0] for one in os.environ.get(WITHIN, "").split()))
    account = Account(batch=batch.id, run=run, session=session, within=within, host=host_name())
    bounds = ZoneBounds.of(machine, cpu=counts_tokens or machine["exec_cpu"])
    monitor = ResourceMonitor(
        Sampler(batch.folder), ZoneTracker(bounds), Overseer(Limits.of(settings["overseer"])),
        machine["look_seconds"], tell,
    )  # fmt: skip

    def zone() -> str:
        return monitor.state.zone.word if monitor.state.reading.at else ""

    spending = batch.store.spending(account, 3600.0 * budget["project_hours"], zone)
    return AgentSupervisor(
        monitor=monitor,
        budgets=BudgetTracker(
            _caps(options, budget), spending, budget["answer_tokens"], counts=counts_tokens
        ),
        session=session,
        per_session=int(machine["per_session"]),
    )  # fmt: skip


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise unless the settings for machine, overseer and budgets make sense.

    Raises:
        ConfigError: They do not.
    """
    for key, value in settings["machine"].items():
        if not isinstance(value, bool) and value < 0:
            raise ConfigError(f"`machine.{key}` must be 0 or more, not {value}")
    if settings["merge"]["conflicts"] not in CONFLICTS:
        known = " or ".join(f'"{one}"' for one in CONFLICTS)
        raise ConfigError(f"`merge.conflicts` must be {known}, not {settings['merge']['conflicts']}")
    ZoneBounds.of(settings["machine"], cpu=True)
    Limits.of(settings["overseer"])
    caps_of(settings["budget"])


def _caps(options: RunOptions, budget: Mapping[str, Any]) -> dict[str, Caps]:
    """Return the budgets, of which what the user asked for this batch counts more than its settings."""
    found = caps_of(budget)
    asked = {
        "tokens": options.budget_tokens, "usd": options.budget_usd, "attempts": options.budget_attempts,
        "seconds": None if options.budget_minutes is None else 60.0 * options.budget_minutes,
    }  # fmt: skip
    told = {name: float(value) for name, value in asked.items() if value is not None}
    return {**found, "batch": replace(found["batch"], **told)}
