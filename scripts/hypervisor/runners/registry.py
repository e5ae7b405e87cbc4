"""The runners that there are: one row each, in `RUNNERS`. `docs/adding-a-runner.md` shows how to add one.

What the rest of the product has to know of a runner before one is made stands in its row; nobody asks for a
runner's name or class to decide what it can do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .base import Agent, QueueRunner

#: The product itself, whose server and hooks headless clients use.
_PLUGIN = str(Path(__file__).resolve().parents[3])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerOptions:
    """What the user asked for; a runner takes from it what concerns it."""

    #: Program and arguments of the `exec` and `acp` runners.
    command: Sequence[str] = ()
    #: The name of an `acp` agent in ``[runners]``, and its further settings there.
    name: str = ""
    auth: str = ""
    mode: str = ""
    #: Seconds after which the command of a queue item is ended; None for never.
    timeout: float | None = None
    retry_failures: bool = False
    #: Return the settings of the project that a file belongs to.
    settings_for: Callable[[str], Mapping[str, Any]] | None = None
    model: str | None = None
    #: Whether an agent may do everything, unasked.
    skip_permissions: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerKind:
    """One runner, before it is made."""

    #: Makes the runner of queue items; None where it takes none.
    queue_runner: Callable[[RunnerOptions], QueueRunner] | None = None
    #: Makes the agent of tasks; None where it takes none.
    agent: Callable[[RunnerOptions], Agent] | None = None
    #: Whether it is a client's program, under the runner's own name: ``[[agents.rules]]`` may name it.
    is_client: bool = False
    #: Whether its agents say while they work how many tokens they have used.
    counts_tokens: bool = False
    #: Whether its agents say at their end what they have cost.
    tells_cost: bool = False


# Each imports its module only when it is made: a queue of commands needs no YAML loader and no client.


def _triage(options: RunnerOptions) -> QueueRunner:
    from .triage import TriageRunner  # noqa: PLC0415

    assert options.settings_for is not None  # noqa: S101 - the caller's fault, not the user's
    return TriageRunner(options.settings_for)


def _exec(options: RunnerOptions) -> QueueRunner:
    from .exec import ExecRunner  # noqa: PLC0415

    return ExecRunner(command=options.command, timeout=options.timeout, retry_failures=options.retry_failures)


def _command(options: RunnerOptions) -> Agent:
    from .exec import CommandAgent  # noqa: PLC0415

    return CommandAgent(command=options.command)


def _claude(options: RunnerOptions) -> Agent:
    from .claude import ClaudeAgent  # noqa: PLC0415

    return ClaudeAgent(plugin=_PLUGIN, model=options.model, skip_permissions=options.skip_permissions)


def _gemini(options: RunnerOptions) -> Agent:
    from .gemini import GeminiAgent  # noqa: PLC0415

    return GeminiAgent(
        plugin=_PLUGIN,
        model=options.model,
        skip_permissions=options.skip_permissions,
    )


def _acp(options: RunnerOptions) -> Agent:
    from .acp import AcpAgent  # noqa: PLC0415

    return AcpAgent(
        command=options.command,
        name=options.name or "acp",
        auth=options.auth,
        mode=options.mode,
        skip_permissions=options.skip_permissions,
    )


RUNNERS: Mapping[str, RunnerKind] = {
    "triage": RunnerKind(queue_runner=_triage),
    "exec": RunnerKind(queue_runner=_exec, agent=_command),
    "claude": RunnerKind(agent=_claude, is_client=True, counts_tokens=True, tells_cost=True),
    "gemini": RunnerKind(agent=_gemini, is_client=True, counts_tokens=True),
    "acp": RunnerKind(agent=_acp, counts_tokens=True),
}
#: The clients: what a rule may name.
CLIENTS = tuple(name for name, kind in RUNNERS.items() if kind.is_client)
