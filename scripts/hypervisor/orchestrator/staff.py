"""Who works on what: the agents of a run, and the rules that give each of them its tasks.

A run has one agent, or several among which the rules of ``[[agents.rules]]`` choose. An agent that cannot
work now (its program is missing, its login, its allowance) is passed over, and the next rule counts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import ConfigError
from ..core.model import Complexity, TaskHead
from ..runners.agent import Agent

#: The agents that a rule may name.
KNOWN = ("claude", "gemini")
_LISTS = ("complexity", "assignee", "needs", "project", "type", "tags")
_KEYS = ("agent", "model", "tokens", "usd", *_LISTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
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


def rules_in(settings: Mapping[str, Any]) -> list[Rule]:
    """Return the rules of ``[[agents.rules]]``.

    Raises:
        ConfigError: One cannot be understood; the text says which.
    """
    return [_rule(number, table) for number, table in enumerate(settings["agents"]["rules"], 1)]


def _rule(number: int, table: object) -> Rule:
    where = f"agents.rules, rule {number}"
    if not isinstance(table, Mapping) or table.get("agent") not in KNOWN:
        raise ConfigError(f"{where}: agent must be one of {', '.join(KNOWN)}")
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
    return Rule(**told)


@dataclass(slots=True)
class Spending:
    """What an agent has used up in a batch."""

    tokens: float = 0.0
    usd: float = 0.0


@dataclass(slots=True)
class Staff:
    """The agents of a run; several threads ask it."""

    rules: Sequence[Rule]
    #: Makes the agent of a rule.
    hire: Callable[[Rule], Agent]
    spent: dict[str, Spending] = field(default_factory=dict)
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
        """Return one agent of each name."""
        first = {rule.agent: rule for rule in reversed(self.rules)}
        return [self.hire(first[name]) for name in self.names]

    def choose(self, task: TaskHead, now: float) -> Agent | str:
        """Return the agent that takes *task* now, or why none does."""
        why = "no rule of [[agents.rules]] gives it to an agent"
        with self._lock:
            for rule in self.rules:
                if not rule.fits(task):
                    continue
                held = self._unfit(rule, now)
                if not held:
                    return self.hire(rule)
                why = held
        return why

    def _unfit(self, rule: Rule, now: float) -> str:
        name, used = rule.agent, self.spent.get(rule.agent, Spending())
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
            spent = self.spent.setdefault(name, Spending())
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
