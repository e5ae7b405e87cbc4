"""Routes tasks to agents: the agents of a run, and the rules that choose among them.

A run has one agent, or several among which the rules of ``[[agents.rules]]`` choose. An agent that cannot
work now (its program is missing, its login, its allowance) is passed over, and the next rule counts.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import ConfigError, UsageError
from ..core.model import Complexity, TaskHead
from ..runners.base import Agent
from ..runners.registry import CLIENTS, RUNNERS, RunnerOptions
from ..store.batches import Spent
from .containment import refusal
from .options import RunOptions

#: Chooses by the rules of the settings.
AUTO = "auto"
#: What a run may be told to use.
AGENTS = (AUTO, *(name for name, kind in RUNNERS.items() if kind.agent))
#: In whose name a run with several agents holds its claims.
_MANY = "hypervisor"
_LISTS = ("complexity", "assignee", "needs", "project", "type", "tags")
_KEYS = ("agent", "model", "tokens", "usd", *_LISTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingRule:
    """Gives an agent the tasks for which all that it names holds."""

    agent: str
    #: The model that it is run with, "" for its own choice.
    model: str = ""
    complexity: tuple[str, ...] | None = None
    #: One of the task's assignees is one of these.
    assignee: tuple[str, ...] | None = None
    #: What the agent has: all that the task needs is among it.
    needs: tuple[str, ...] | None = None
    project: tuple[str, ...] | None = None
    type: tuple[str, ...] | None = None
    #: One of the task's tags is one of these.
    tags: tuple[str, ...] | None = None
    #: Holds while the agent has used fewer tokens, or less money, in this batch; None without a limit.
    tokens: float | None = None
    usd: float | None = None

    def fits(self, task: TaskHead) -> bool:
        """Tell whether *task* is of the kind that the rule names; what was used up is not looked at."""
        return (
            _among(self.complexity, [task.complexity or ""])
            and _among(self.assignee, task.assignee)
            and _among(self.project, [task.project])
            and _among(self.type, [task.type])
            and _among(self.tags, task.tags)
            and (self.needs is None or set(task.needs) <= set(self.needs))
        )


def _among(wanted: Sequence[str] | None, found: Sequence[str]) -> bool:
    known = {word.casefold() for word in wanted or ()}
    return wanted is None or any(word.casefold() in known for word in found)


def rules_in(settings: Mapping[str, Any]) -> list[RoutingRule]:
    """Return the rules of ``[[agents.rules]]``.

    Raises:
        ConfigError: One cannot be understood; the text says which.
    """
    agents = (*CLIENTS, *acp_runners(settings))
    return [_rule(number, table, agents) for number, table in enumerate(settings["agents"]["rules"], 1)]


def acp_runners(settings: Mapping[str, Any]) -> dict[str, RunnerOptions]:
    """Return the agents of ``[runners]``, each with its name.

    Raises:
        ConfigError: One cannot be understood; the text says which.
    """
    found = {}
    for name, table in settings.get("runners", {}).items():
        where = f"runners.{name}"
        if name in (AUTO, *RUNNERS):
            raise ConfigError(f"{where}: {name} is a runner already; choose another name")
        if not isinstance(table, Mapping) or not table.get("command"):
            raise ConfigError(f'{where}: needs a command, as in command = ["{name}", "acp"]')
        if unknown := sorted(table.keys() - {"command", "auth", "mode"}):
            raise ConfigError(f"{where}: there is no key `{unknown[0]}`; known here: command, auth, mode")
        command = table["command"]
        if not (isinstance(command, list) and all(isinstance(word, str) for word in command)):
            raise ConfigError(f"{where}: `command` must be a list of texts")
        told = {key: table.get(key, "") for key in ("auth", "mode")}
        if wrong := [key for key, value in told.items() if not isinstance(value, str)]:
            raise ConfigError(f"{where}: `{wrong[0]}` must be a text")
        found[name] = RunnerOptions(command=tuple(command), name=name, **told)
    return found


def _rule(number: int, table: object, agents: Sequence[str]) -> RoutingRule:
    where = f"agents.rules, rule {number}"
    if not isinstance(table, Mapping) or table.get("agent") not in agents:
        raise ConfigError(f"{where}: agent must be one of {', '.join(agents)}")
    for key, value in table.items():
        if key not in _KEYS:
            raise ConfigError(f"{where}: there is no key `{key}`; known here: {', '.join(_KEYS)}")
        if key in _LISTS and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            raise ConfigError(f"{where}: `{key}` must be a list of texts")
        number_like = isinstance(value, int | float) and not isinstance(value, bool)
        if key in ("tokens", "usd") and not (number_like and value >= 0):
            raise ConfigError(f"{where}: `{key}` must be a number of at least 0")
        if key == "model" and not isinstance(value, str):
            raise ConfigError(f"{where}: `model` must be a text")
    unknown = set(table.get("complexity", ())) - {*Complexity, ""}
    if unknown:
        raise ConfigError(f"{where}: complexity must be of {', '.join(Complexity)}, not {sorted(unknown)[0]}")
    told: dict[str, Any] = {key: tuple(value) if key in _LISTS else value for key, value in table.items()}
    return RoutingRule(**told)


@dataclass(slots=True)
class Used:
    """What an agent has used in a batch."""

    tokens: float = 0.0
    usd: float = 0.0


@dataclass(slots=True)
class AgentRouter:
    """The agents of a run. Thread-safe."""

    rules: Sequence[RoutingRule]
    make_agent: Callable[[RoutingRule], Agent]
    #: By the agent's name.
    spent: dict[str, Used] = field(default_factory=dict)
    #: Why an agent is out for the rest of the run.
    out: dict[str, str] = field(default_factory=dict)
    #: Until when an agent may not work, in seconds since the epoch, and why.
    rests: dict[str, tuple[float, str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def names(self) -> list[str]:
        """The agents that the rules name, each once, in their order."""
        return list(dict.fromkeys(rule.agent for rule in self.rules))

    def agents(self) -> list[Agent]:
        """Return an agent of each name."""
        first = {rule.agent: rule for rule in reversed(self.rules)}
        return [self.make_agent(first[name]) for name in self.names]

    def choose(self, task: TaskHead, now: float) -> Agent | str:
        """Return the agent that takes *task* now, or why none does."""
        why = "no rule of [[agents.rules]] gives it to an agent"
        with self._lock:
            for rule in self.rules:
                if not rule.fits(task):
                    continue
                held = self._unfit(rule, now)
                if not held:
                    return self.make_agent(rule)
                why = held
        return why

    def _unfit(self, rule: RoutingRule, now: float) -> str:
        name, used = rule.agent, self.spent.get(rule.agent, Used())
        if name in self.out:
            return f"{name} cannot work: {self.out[name]}"
        until, why = self.rests.get(name, (0.0, ""))
        if now < until:
            return f"{name} rests: {why}"
        if rule.tokens is not None and used.tokens >= rule.tokens:
            return f"{name} has used {used.tokens:g} tokens, and {rule.tokens:g} may be"
        if rule.usd is not None and used.usd >= rule.usd:
            return f"{name} has used {used.usd:.4f} USD, and {rule.usd:g} may be"
        return ""

    def waits(self, task: TaskHead, now: float) -> bool:
        """Tell whether an agent that rests now will take *task* later."""
        with self._lock:
            return any(
                rule.fits(task) and rule.agent not in self.out and self.rests.get(rule.agent, (0.0,))[0] > now
                for rule in self.rules
            )

    def used(self, name: str, tokens: float | None, usd: float | None) -> None:
        """Note what an agent's run has used up, as far as it is known."""
        with self._lock:
            spent = self.spent.setdefault(name, Used())
            spent.tokens += tokens or 0
            spent.usd += usd or 0.0

    def drop(self, name: str, why: str) -> bool:
        """Note that an agent cannot work any more; return whether another still can."""
        with self._lock:
            self.out[name] = why
            return any(other not in self.out for other in self.names)

    def rest(self, name: str, until: float, why: str) -> bool:
        """Note that an agent may not work until then; return whether another may."""
        with self._lock:
            self.rests[name] = until, why
            return any(other not in self.out and other not in self.rests for other in self.names)


def router_of(
    options: RunOptions, settings: Mapping[str, Any], spent: Mapping[str, Spent] | None = None
) -> AgentRouter:
    """Return the agents of a run.

    Args:
        options: What the user asked for.
        settings: The project's.
        spent: What earlier runs of the batch have used, by agent.

    Raises:
        ConfigError: A rule of the settings cannot be understood.
    """
    ours = acp_runners(settings)

    def make_agent(rule: RoutingRule) -> Agent:
        make = RUNNERS["acp" if rule.agent in ours else rule.agent].agent
        acp = ours.get(rule.agent, RunnerOptions(command=options.command))
        assert make is not None  # noqa: S101 - neither a rule nor a command line may name another
        return make(
            RunnerOptions(
                command=acp.command,
                name=acp.name,
                auth=acp.auth,
                mode=acp.mode,
                model=rule.model or options.model or None,
                skip_permissions=options.skip_permissions,
            )
        )

    rules = rules_in(settings) if options.agent == AUTO else [RoutingRule(agent=options.agent)]
    router = AgentRouter(rules=rules, make_agent=make_agent)
    for name, used in (spent or {}).items():
        router.spent[name] = Used(tokens=used.tokens or 0, usd=used.cost_usd or 0.0)
    if options.agent == AUTO:
        for name in router.names:
            program = ours[name].command[0] if name in ours else name
            if shutil.which(program) is None:
                router.drop(name, "no such program on PATH")
    return router


def name_of(router: AgentRouter) -> str:
    """Return in whose name a run holds its claims."""
    return router.names[0] if len(router.names) == 1 else _MANY


def permissions_of(router: AgentRouter) -> str:
    """Return in one line which agents work, and what each may do without being asked."""
    agents = router.agents()
    if len(agents) == 1:
        return agents[0].permissions
    return "; ".join(f"{one.name} {router.out.get(one.name) or one.permissions}" for one in agents)


def require_runnable(options: RunOptions, settings: Mapping[str, Any]) -> None:
    """Raise unless the agents that *options* name are installed and can do what is asked of them.

    Raises:
        UsageError: They are not, or cannot.
        ConfigError: A rule of the settings cannot be understood.
    """
    router = router_of(options, settings)
    if options.agent == AUTO:
        if not router.names:
            raise UsageError("--agent auto: [[agents.rules]] names no agent; add a rule, or name the agent")
        if len(router.out) == len(router.names):
            raise UsageError(f"{', '.join(router.names)}: no such program; install one, or put it on PATH")
        if options.model:
            raise UsageError("--model: with --agent auto each rule of [[agents.rules]] names its own `model`")
        for rule in options.allowed:
            if rule.partition(":")[0] not in CLIENTS:
                clients = " or ".join(f"{name}:" for name in CLIENTS)
                raise UsageError(f"--allow {rule}: with --agent auto begin it with {clients}")
    else:
        ours = acp_runners(settings)
        if options.agent not in AGENTS and options.agent not in ours:
            known = ", ".join((*AGENTS, *ours))
            raise UsageError(f"--agent {options.agent}: no such agent; known here: {known}")
        if options.model and (options.agent in ours or options.agent == "acp"):
            raise UsageError("--model: name it in the agent's command, or in its own settings")
        command = ours[options.agent].command if options.agent in ours else options.command
        program = command[0] if command else options.agent
        if shutil.which(program) is None:
            raise UsageError(f"{program}: no such program; install it, or put its folder on PATH")
    if options.agent in CLIENTS and options.budget_usd and not RUNNERS[options.agent].tells_cost:
        raise UsageError(f"--budget-usd: {options.agent} reports no cost; use --budget-tokens")
    refusal(options, settings)
