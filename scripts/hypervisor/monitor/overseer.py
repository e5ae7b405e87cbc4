"""Decides which agent uses too much, and what is done about it. Pure.

An agent that comes near one of its limits is reported; one that goes beyond is asked to end (TERM), then
ended (KILL), with all its processes. Where memory is short nobody is asked. In an emergency the least
urgent is ended first, and waits again at no cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ..core.errors import ConfigError
from .zones import MachineState, Zone

#: An agent alone in an emergency is its cause if it holds this share of the memory, in percent.
_CAUSE_PERCENT = 25.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSample:
    """What an agent's processes use at one moment."""

    #: Bytes.
    rss: int = 0
    cpu_seconds: float = 0.0
    #: CPU time used since it last said something.
    mute_cpu_seconds: float = 0.0
    processes: int = 0
    #: Seconds since it was begun, and since it last said something.
    wall: float = 0.0
    silence: float = 0.0
    #: None where nobody counts.
    tokens: int | None = None
    #: 0 for the most urgent; among equals the one that was begun last is ended first.
    rank: int = 2
    order: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one agent may use; `[overseer]` of the settings. 0 is no limit."""

    #: Share of the machine's memory, or of the control group's that we are in; and bytes.
    rss_percent: float = 0.0
    rss_bytes: float = 0.0
    cpu_seconds: float = 0.0
    mute_cpu_seconds: float = 0.0
    processes: float = 0.0
    wall_seconds: float = 0.0
    silence_seconds: float = 0.0
    tokens: float = 0.0
    #: From this share of a limit on it is told.
    alert_percent: float = 80.0
    #: Between TERM and KILL.
    grace_seconds: float = 5.0

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Limits:
        """Return the limits of the settings' table ``overseer``.

        Raises:
            ConfigError: One is below 0.
        """
        for key, value in table.items():
            if not isinstance(value, bool) and value < 0:
                raise ConfigError(f"`overseer.{key}` must be 0, for no limit, or more, not {value}")
        return cls(
            rss_percent=table["rss_percent"],
            rss_bytes=table["rss_mib"] * 2**20,
            cpu_seconds=table["cpu_seconds"],
            mute_cpu_seconds=table["mute_cpu_seconds"],
            processes=table["processes"],
            wall_seconds=table["wall_seconds"],
            silence_seconds=table["silence_seconds"],
            tokens=table["tokens"],
            alert_percent=table["alert_percent"],
            grace_seconds=table["grace_seconds"],
        )


class Action(StrEnum):
    """What is done."""

    ALERT = "alert"  #: it is told that an agent comes near a limit
    TERM = "term"  #: it went beyond, and is asked to end
    KILL = "kill"  #: it did not, and is ended; it has failed
    STOP = "stop"  #: it is ended at once, and waits again at no cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Enforcement:
    """An action, and the figure that asks for it."""

    #: The agent.
    mark: str
    action: Action
    #: What is used up: ``memory``, ``cpu``, ``mute cpu``, ``processes``, ``wall``, ``silence``, ``tokens``.
    what: str
    #: Of which so much is used, and so much may be.
    figure: float
    limit: float
    #: The same in words.
    why: str


@dataclass(slots=True)
class _Case:
    """What was done about an agent so far."""

    alerted: set[str] = field(default_factory=set)
    #: Why it is being ended, and since when.
    act: Enforcement | None = None
    since: float = 0.0
    killed: bool = False


class Overseer:
    """Decides, look by look. Times are in seconds, on any one clock."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._cases: dict[str, _Case] = {}

    def look(self, now: float, samples: Mapping[str, AgentSample], state: MachineState) -> list[Enforcement]:
        """Return what is to be done.

        Args:
            now: The time.
            samples: What each agent uses, by its mark; only those that run.
            state: The machine's state.
        """
        self._cases = {mark: self._cases.get(mark, _Case()) for mark in samples}
        hurry = state.now >= Zone.DANGER  # nobody is given time to use more of what is short
        acts: list[Enforcement] = []
        for mark, sample in samples.items():
            acts += self._one(now, mark, sample, state, hurry=hurry)
        if state.now is Zone.EMERGENCY and not any(case.act for case in self._cases.values()):
            acts += self._relieve(now, samples, state)
        return acts

    # ---------------------------------------------------------------- details

    def _one(
        self, now: float, mark: str, sample: AgentSample, state: MachineState, *, hurry: bool
    ) -> Iterator[Enforcement]:
        case = self._cases[mark]
        if case.act is not None:
            late = now - case.since >= self._limits.grace_seconds
            # What is killed may have begun something new meanwhile: it is killed until nothing is left.
            if case.killed or hurry or late:
                case.killed = True
                yield self._with(case.act, Action.STOP if case.act.action is Action.STOP else Action.KILL)
            return
        for what, figure, limit, unit in self._measures(sample, state):
            if limit <= 0:
                continue
            share = 100.0 * figure / limit
            words = f"{_round(figure)} {unit} used, and {_round(limit)} may be"
            act = Enforcement(mark=mark, action=Action.TERM, what=what, figure=figure, limit=limit, why=words)
            if share > 100.0:
                case.act, case.since, case.killed = act, now, hurry and what == "memory"
                yield self._with(act, Action.KILL) if case.killed else act
                return
            if share >= self._limits.alert_percent and what not in case.alerted:
                case.alerted.add(what)
                yield self._with(act, Action.ALERT)

    def _measures(self, sample: AgentSample, state: MachineState) -> Iterator[tuple[str, float, float, str]]:
        limits, ram = self._limits, state.reading.ram_bytes
        mib = 2.0**20
        most = [limits.rss_bytes] if limits.rss_bytes else []
        most += [ram * limits.rss_percent / 100.0] if ram and limits.rss_percent else []
        yield "memory", sample.rss / mib, min(most, default=0.0) / mib, "MiB of memory"
        yield "processes", sample.processes, limits.processes, "processes"
        yield "tokens", sample.tokens or 0, limits.tokens, "tokens"
        yield "cpu", sample.cpu_seconds, limits.cpu_seconds, "s of CPU"
        yield "mute cpu", sample.mute_cpu_seconds, limits.mute_cpu_seconds, "s of CPU without a word"
        yield "silence", sample.silence, limits.silence_seconds, "s of silence"
        yield "wall", sample.wall, limits.wall_seconds, "s of time"

    def _relieve(
        self, now: float, samples: Mapping[str, AgentSample], state: MachineState
    ) -> Iterator[Enforcement]:
        """End one agent in an emergency; the next one at the next look, if it is still one."""
        if not samples:
            return
        mark = max(samples, key=lambda one: (samples[one].rank, samples[one].order))
        sample, ram = samples[mark], state.reading.ram_bytes or 0
        share = 100.0 * sample.rss / ram if ram else 0.0
        why = f"an emergency ({state.why})"
        if len(samples) > 1:
            act = Enforcement(
                mark=mark, action=Action.STOP, what="memory", figure=sample.rss / 2**20, limit=0.0,
                why=f"stopped in {why}, as the least urgent of {len(samples)}",
            )  # fmt: skip
        elif share >= _CAUSE_PERCENT:
            # Alone, and the cause: it would do the same again.
            act = Enforcement(
                mark=mark, action=Action.KILL, what="memory", figure=sample.rss / 2**20, limit=ram / 2**20,
                why=f"{sample.rss / 2**20:.0f} MiB of memory used, {share:.0f} % of all, in {why}",
            )  # fmt: skip
        else:
            return  # others fill the memory; one may always run
        case = self._cases[mark]
        case.act, case.since, case.killed = act, now, True
        yield act

    @staticmethod
    def _with(act: Enforcement, action: Action) -> Enforcement:
        return Enforcement(
            mark=act.mark, action=action, what=act.what, figure=act.figure, limit=act.limit, why=act.why
        )


def _round(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.3g}"
