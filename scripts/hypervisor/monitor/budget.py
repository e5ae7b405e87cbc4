"""What a batch, a session and a project may spend, and whether that is reached. Pure.

An agent's next answer is paid for before anybody is told what it cost. So a budget of tokens keeps back
an answer's worth for each conversation that goes on: one more begins only if that fits, and an agent
whose answer leaves too little for the others is ended before it can ask again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..core.errors import ConfigError
from ..store.spend import Spend

#: Whose spending is limited, from the smallest.
SCOPES = ("batch", "session", "project")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """The most that may be spent; 0 for no limit."""

    tokens: float = 0.0
    usd: float = 0.0
    seconds: float = 0.0
    attempts: float = 0.0

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return any(getattr(self, one.name) for one in fields(self))


def caps_of(table: Mapping[str, Any]) -> dict[str, Caps]:
    """Return the caps of the settings' table ``budget``, by scope.

    Raises:
        ConfigError: One is below 0.
    """
    found = {}
    for scope in SCOPES:
        for key, value in table[scope].items():
            if value < 0:
                raise ConfigError(f"`budget.{scope}.{key}` must be 0, for no limit, or more, not {value}")
        told = table[scope]
        found[scope] = Caps(
            tokens=told["tokens"], usd=told["usd"], seconds=60.0 * told["minutes"], attempts=told["attempts"]
        )
    return found


def reached(caps: Mapping[str, Caps], spent: Mapping[str, Spend]) -> str:
    """Return which budget is used up, so that nothing may go on, with its figures; "" if none is."""
    for scope, cap in caps.items():
        have = spent[scope]
        of = _of(scope)
        if cap.tokens and have.tokens >= cap.tokens:
            return f"{of} {cap.tokens:g} tokens is used up ({have.tokens} spent)"
        if cap.usd and have.usd >= cap.usd:
            return f"{of} {cap.usd:g} USD is used up ({have.usd:.4f} spent)"
        if cap.seconds and have.seconds >= cap.seconds:
            return f"{of} {cap.seconds / 60:g} minutes is used up ({have.seconds / 60:.1f} spent)"
    return ""


def no_more(caps: Mapping[str, Caps], spent: Mapping[str, Spend]) -> str:
    """Return why nothing more may begin, even if what runs may go on; "" if something may."""
    for scope, cap in caps.items():
        if cap.attempts and spent[scope].attempts >= cap.attempts:
            return f"{_of(scope)} {cap.attempts:g} attempts is used up"
    return reached(caps, spent)


def too_many(caps: Mapping[str, Caps], spent: Mapping[str, Spend]) -> str:
    """Return which budget of attempts is exceeded; "" if none is."""
    for scope, cap in caps.items():
        if cap.attempts and spent[scope].attempts > cap.attempts:
            return f"{_of(scope)} {cap.attempts:g} attempts is used up"
    return ""


def short_of(caps: Mapping[str, Caps], spent: Mapping[str, Spend], talks: int, answer: int) -> str:
    """Return which budget of tokens has no room for the next answers; "" if all have.

    Args:
        caps: The budgets.
        spent: What is known to be spent.
        talks: How many conversations wait for an answer.
        answer: What one may cost, in tokens.
    """
    for scope, cap in caps.items():
        have = spent[scope].tokens
        if cap.tokens and have + talks * answer > cap.tokens:
            return (
                f"{_of(scope)} {cap.tokens:g} tokens has no room for {talks} more "
                f"answer{'' if talks == 1 else 's'} of up to {answer} ({have} spent)"
            )
    return ""


def _of(scope: str) -> str:
    return "the budget of" if scope == "batch" else f"the {scope}'s budget of"
