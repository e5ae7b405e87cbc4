"""Which agents a run has: what its orders and the settings say, made into agents that can be run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from ..orders import Orders
from ..queue.progress import Progress
from ..runners.agent import Agent
from ..runners.claude import ClaudeAgent
from ..runners.command import CommandAgent
from ..runners.gemini import SANDBOXES, GeminiAgent
from .staff import KNOWN, Rule, Spending, Staff, rules_in

#: The word for "by the rules of the settings", and for whoever runs several agents.
AUTO = "auto"
AGENTS = (*KNOWN, AUTO, "exec")
_MANY = "hypervisor"
#: Where the product lies: the plugin that headless agents are given.
_PLUGIN = str(Path(__file__).resolve().parents[3])


def staff_of(orders: Orders, settings: Mapping[str, Any], progress: Progress | None = None) -> Staff:
    """Return the agents of a run.

    Args:
        orders: What the user asked for.
        settings: The project's.
        progress: What earlier runs of the batch have used up.

    Raises:
        ConfigError: A rule of the settings cannot be understood.
    """

    def hire(rule: Rule) -> Agent:
        if rule.agent == "exec":
            return CommandAgent(command=orders.command)
        model = rule.model or orders.model or None
        if rule.agent == "gemini":
            return GeminiAgent(
                plugin=_PLUGIN, model=model, skip_permissions=orders.skip_permissions, sandbox=orders.sandbox
            )
        return ClaudeAgent(plugin=_PLUGIN, model=model, skip_permissions=orders.skip_permissions)

    rules = rules_in(settings) if orders.agent == AUTO else [Rule(agent=orders.agent)]
    staff = Staff(rules=rules, hire=hire)
    for name, spent in (progress.by_agent if progress else {}).items():
        staff.spent[name] = Spending(tokens=spent.tokens or 0, usd=spent.cost_usd or 0.0)
    if orders.agent == AUTO:
        for name in staff.names:
            if shutil.which(name) is None:
                staff.drop(name, "no such program on PATH")
    return staff


def name_of(staff: Staff) -> str:
    """Return in whose name a run holds its claims."""
    return staff.names[0] if len(staff.names) == 1 else _MANY


def may_do(staff: Staff) -> str:
    """Return in one line who works, and what each may do without being asked."""
    agents = staff.agents()
    if len(agents) == 1:
        return agents[0].permissions
    return "; ".join(f"{one.name} {staff.out.get(one.name) or one.permissions}" for one in agents)


def must_make_sense(orders: Orders, settings: Mapping[str, Any]) -> None:
    """Hold that the orders name agents that are there, and ask of them what they can do.

    Raises:
        UsageError: They do not.
        ConfigError: A rule of the settings cannot be understood.
    """
    staff = staff_of(orders, settings)
    if orders.agent == AUTO:
        if not staff.names:
            raise UsageError("--agent auto: [[agents.rules]] names no agent; add a rule, or name the agent")
        if len(staff.out) == len(staff.names):
            raise UsageError(f"{', '.join(staff.names)}: no such program; install one, or put it on PATH")
        if orders.model:
            raise UsageError("--model: with --agent auto each rule of [[agents.rules]] names its own `model`")
        for rule in orders.allowed:
            if rule.partition(":")[0] not in KNOWN:
                raise UsageError(f"--allow {rule}: with --agent auto begin it with claude: or gemini:")
    else:
        program = orders.command[0] if orders.command else orders.agent
        if shutil.which(program) is None:
            raise UsageError(f"{program}: no such program; install it, or put its folder on PATH")
    if orders.agent == "gemini" and orders.budget_usd:
        raise UsageError("--budget-usd: the Gemini CLI tells no money; use --budget-tokens")
    if orders.sandbox:
        _must_have_sandbox(staff)


def _must_have_sandbox(staff: Staff) -> None:
    if "gemini" not in staff.names:
        raise UsageError("--sandbox: only for Gemini; Claude Code has its own, in its settings")
    chosen = os.environ.get("GEMINI_SANDBOX", "")
    wanted = [chosen] if chosen not in ("", "true", "1") else list(SANDBOXES)
    if not any(shutil.which(program) for program in wanted):
        names = " or ".join(wanted)
        raise UsageError(
            f"--sandbox: the Gemini CLI runs its tools in a container, and there is no {names} on PATH; "
            f"install one, or leave --sandbox out"
        )
