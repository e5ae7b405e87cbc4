"""What the user asked of a run; kept with its batch, so that it can be gone on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .core import durable
from .core.errors import UsageError

FILE = "run.json"
STRATEGIES = ("auto", "parallel", "sequential", "adaptive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """How agents are to be run on the tasks of a batch."""

    #: ``claude``, ``gemini``, ``exec``, or ``auto``: by the rules of the settings.
    agent: str
    #: For ``exec``: program and arguments.
    command: tuple[str, ...] = ()
    model: str = ""
    #: How many run at once.
    limit: int = 4
    #: ``worktree``: each task in a git worktree of its own; ``none``: all in the project's folder.
    isolation: str = "worktree"
    #: ``ff``: what is verified is merged, and the branch that the run began from moved on if it can be;
    #: ``branch``: merged on the batch's branch; ``none``: each task's work stays on its own branch.
    merge: str = "ff"
    commit_tasks: bool = False
    #: Whether agents may do everything without being asked.
    skip_permissions: bool = False
    #: Whether Gemini's tools run in a container.
    sandbox: bool = False
    #: What else they may do, in the agent's own words; with several agents each after a name and a colon.
    allowed: tuple[str, ...] = ()
    #: How many tasks are tried first; 0 for none.
    canary: int = 0
    #: Share of failures, in percent, at which nothing more is begun; 0 for never.
    halt_percent: float = 0.0
    #: Seconds after which a task's agent is ended; None for never.
    timeout: float | None = None
    retries: int = 0
    #: What the batch may spend; None for what the settings say.
    budget_usd: float | None = None
    budget_tokens: int | None = None
    budget_minutes: float | None = None
    budget_attempts: int | None = None
    #: ``parallel``, ``sequential``, ``auto`` or ``adaptive``; see `pacer`.
    strategy: str = "parallel"
    #: The branch of the hive that its agents share; "" for the git branch that the run began from.
    branch: str = ""
    #: A command that is run at the end, with the batch's folder as its argument; "" for none.
    on_finish: str = ""
    #: Whether tasks whose `files` overlap may run at once.
    scope_gate: bool = True
    #: The branch and the commit that the run began from; "" without git.
    start_branch: str = ""
    start_commit: str = ""

    def allowed_for(self, agent: str) -> tuple[str, ...]:
        """Return what else the agent of that name may do."""
        if self.agent != "auto":
            return self.allowed
        mark = f"{agent}:"
        return tuple(rule.removeprefix(mark) for rule in self.allowed if rule.startswith(mark))


def write(folder: str, orders: Orders) -> None:
    """Keep *orders* with the batch in *folder*; done once."""
    durable.write_once(Path(folder, FILE), (json.dumps(asdict(orders), indent=1) + "\n").encode())


def read(folder: str) -> Orders:
    """Return the orders of a batch that was begun with `hypervisor run`.

    Raises:
        UsageError: It was not, or its file is damaged.
    """
    path = Path(folder, FILE)
    try:
        data: Mapping[str, Any] = json.loads(path.read_bytes())
        known = {key: value for key, value in data.items() if key in Orders.__dataclass_fields__}
        return Orders(**{**known, "command": tuple(data["command"]), "allowed": tuple(data["allowed"])})
    except FileNotFoundError:
        raise UsageError(f"{folder}: not begun with `hypervisor run`; there is nothing to resume") from None
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path}: damaged ({error}); begin a new run") from error
