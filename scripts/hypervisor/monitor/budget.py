"""What a batch, a session and a project may spend, and what a run's agents spend of it while they work.

An agent's next answer is paid for before anybody is told what it cost. So a budget of tokens keeps back
an answer's worth for each conversation that goes on: one more begins only if that fits, and an agent
whose answer leaves too little for the others is ended before it can ask again. Money is counted as clients
tell it at their end; nothing guesses it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..core.errors import ConfigError
from ..store.spend import Spend, Spending

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


# --------------------------------------------------------------------- tracking


@dataclass(slots=True)
class _Open:
    """An agent at work."""

    tokens: int = 0
    #: Its conversations: its own, and those of its subagents.
    talks: int = 1
    #: Answers that may be on their way once it is ended; None for one in each conversation.
    coming: int | None = None


@dataclass(slots=True)
class BudgetTracker:
    """Tracks spending against budgets, and decides whether an agent may start or must end. Thread-safe.

    Args:
        caps: By scope; see `budget.SCOPES`.
        spending: What other runs spend, and where this one's spending is kept.
        answer: What an answer may cost, in tokens, before any was seen.
        counts: Whether this run's agents tell their tokens while they work.
    """

    caps: Mapping[str, Caps]
    spending: Spending
    answer: int
    counts: bool = True
    _own: Spend = field(default_factory=Spend)
    _open: dict[str, _Open] = field(default_factory=dict)
    #: Tokens of answers that were on their way to agents that were ended, at their dearest: nobody tells of
    #: them any more, and they are paid for.
    _lost: int = 0
    _begun: float = field(default_factory=time.monotonic)
    _others: dict[str, Spend] = field(default_factory=lambda: {scope: Spend() for scope in SCOPES})
    _lock: threading.Lock = field(default_factory=threading.Lock)

    # ------------------------------------------------------------------- told

    def start(self, mark: str) -> str:
        """Count an agent that is about to start; other runs know of it on return.

        Returns:
            Why it may not start after all, as another run took the last of the attempts; "" if it may.
        """
        with self._lock:
            self._open[mark] = _Open()
            self._own += Spend(attempts=1)
        self._exchange()
        with self._lock:
            why = too_many(self.caps, self._spent())
            if not why:
                return ""
            del self._open[mark]
            self._own += Spend(attempts=-1)
        self._exchange()
        return why

    def used(self, mark: str, tokens: int, talks: int, *, asks_again: bool) -> str:
        """Note what an agent has used so far.

        Args:
            mark: The agent.
            tokens: All of its answers so far.
            talks: How many conversations it has open.
            asks_again: Whether its last answer is followed by another request.

        Returns:
            Why it must be ended before it asks again; "" if it may go on.
        """
        with self._lock:
            one = self._open.get(mark)
            if one is None:
                return ""
            self.answer = max(self.answer, tokens - one.tokens)
            # Of what this answer begins nothing has been asked yet.
            others = one.talks - 1
            one.tokens, one.talks = max(one.tokens, tokens), max(1, talks)
            if not asks_again or not self._capped:
                return ""
            spent = self._spent()
            why = reached(self.caps, spent) or short_of(self.caps, spent, self._talks, self.answer)
            if why and one.coming is None:
                one.coming = others
            return why

    def ended(self, mark: str, tokens: int | None, usd: float | None, *, cut: bool = False) -> None:
        """Note what an agent has used in all; what it told while it worked counts if it did not say.

        Args:
            mark: The agent.
            tokens: All that it has used, None if it did not say.
            usd: What that cost; None where its client tells no cost, which counts for nothing.
            cut: Whether it did not come to its own end, so that answers may still be on their way.
        """
        with self._lock:
            one = self._open.pop(mark, _Open(coming=0))
            if cut and tokens is None and self.counts:
                self._lost += self.answer * (one.talks if one.coming is None else one.coming)
            known = max(tokens or 0, one.tokens)
            self._own += Spend(tokens=known, usd=usd or 0.0)

    def look(self) -> str:
        """Exchange figures with other runs; return which budget is used up, "" for none."""
        self._exchange()
        with self._lock:
            return reached(self.caps, self._spent())

    # ------------------------------------------------------------------ asked

    def why_not(self, running: int = 0) -> str:
        """Return why no further agent may begin beside *running* of this run; "" if one may."""
        with self._lock:
            # Those that have not begun yet will count; those that have ended already do, so some count twice
            # until their work is merged, which holds up the last attempts of a budget for that long.
            coming = Spend(attempts=max(0, running - len(self._open)))
            spent = {scope: one + coming for scope, one in self._spent().items()}
            talks = self._talks + 1
            return no_more(self.caps, spent) or (
                short_of(self.caps, spent, talks, self.answer) if self.counts else ""
            )

    def left_usd(self) -> float | None:
        """Return what a further agent may cost; None for any sum."""
        with self._lock:
            spent = self._spent()
            return min(
                (cap.usd - spent[scope].usd for scope, cap in self.caps.items() if cap.usd), default=None
            )

    # ---------------------------------------------------------------- details

    @property
    def _capped(self) -> bool:
        return any(cap.any for cap in self.caps.values())

    @property
    def _talks(self) -> int:
        return sum(one.talks for one in self._open.values())

    def _total(self) -> Spend:
        tokens = sum(one.tokens for one in self._open.values())
        return replace(
            self._own + Spend(tokens=tokens),
            seconds=round(time.monotonic() - self._begun, 1),
        )

    def _exchange(self) -> None:
        """Tell other runs what this one has spent, and read what they have."""
        with self._lock:
            mine = self._total()
        # Not under the lock, as it waits for the disk. A full disk costs the figures, and no agent's work.
        with contextlib.suppress(OSError):
            self.spending.put(mine)
            if self._capped:
                others = self.spending.others()
                with self._lock:
                    self._others = others

    def _spent(self) -> dict[str, Spend]:
        mine = self._total() + Spend(tokens=self._lost)
        return {scope: self._others[scope] + mine for scope in SCOPES}
