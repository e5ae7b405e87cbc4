"""What the user asked of a run; kept with its batch in the store, so that the run can be resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..core.errors import UsageError
from ..queue.batch import Batch

ISOLATION = ("clone", "worktree", "none")
SANDBOX = ("auto", "on", "off")
STRATEGIES = ("auto", "parallel", "sequential", "adaptive")
#: Its key among what is kept with a batch.
KEY = "run"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How agents are run on the tasks of a batch."""

    #: ``claude``, ``gemini``, ``exec``, or ``auto``: by the rules of the settings.
    agent: str
    #: For ``exec``: program and arguments.
    command: tuple[str, ...] = ()
    model: str = ""
    #: How many run at once.
    limit: int = 4
    #: ``clone``: each attempt in a private clone; ``worktree``: in a git worktree, which shares the user's
    #: refs and settings; ``none``: all in the project's folder.
    isolation: str = "clone"
    #: ``ff``: what is verified is merged, and the branch that the run began from is fast-forwarded if it can
    #: be; ``branch``: merged on the batch's branch; ``none``: each task's work stays on its own branch.
    merge: str = "ff"
    commit_tasks: bool = False
    #: Whether what was merged is pushed to the remote that the branch follows.
    push: bool = False
    #: Whether agents may do everything without being asked.
    skip_permissions: bool = False
    #: ``auto``, ``on`` or ``off``; "" for what the environment or the settings say. See `containment`.
    sandbox: str = ""
    #: What else they may do, in the agent's own words; with several agents each after a name and a colon.
    allowed: tuple[str, ...] = ()
    #: How many tasks are tried first; 0 for none.
    canary: int = 0
    #: Share of failures, in percent, at which nothing more starts; 0 for never.
    halt_percent: float = 0.0
    #: Seconds after which a task's agent is ended; None for never.
    timeout: float | None = None
    retries: int = 0
    #: How many agents work on each task at once, the best of which is merged; a task may say otherwise.
    best_of: int = 1
    #: What the batch may spend; None for what the settings say.
    budget_usd: float | None = None
    budget_tokens: int | None = None
    budget_minutes: float | None = None
    budget_attempts: int | None = None
    #: One of `STRATEGIES`; see `concurrency`.
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

    @property
    def hive_branch(self) -> str:
        """The branch of the hive that the agents of the run share."""
        return self.branch or self.start_branch or "main"

    def allowed_for(self, agent: str) -> tuple[str, ...]:
        """Return what else the agent of that name may do."""
        if self.agent != "auto":
            return self.allowed
        mark = f"{agent}:"
        return tuple(rule.removeprefix(mark) for rule in self.allowed if rule.startswith(mark))


def keep_options(batch: Batch, options: RunOptions) -> None:
    """Keep *options* with a batch, unless it has some: what a run began with stays."""
    if KEY not in batch.record.options:
        batch.set_options(**{KEY: asdict(options)})


def change_options(batch: Batch, options: RunOptions, changes: Mapping[str, Any]) -> RunOptions:
    """Keep *options* of a batch with some of them changed, and return them."""
    changed = replace(options, **changes)
    batch.set_options(**{KEY: asdict(changed)})
    return changed


def options_of(batch: Batch) -> RunOptions:
    """Return the options of a batch that was begun with `hypervisor run`.

    Raises:
        UsageError: It was not.
    """
    kept = batch.record.options.get(KEY)
    if not isinstance(kept, Mapping):
        raise UsageError(f"{batch.id}: not begun with `hypervisor run`; there is nothing to resume")
    known: dict[str, Any] = {key: kept[key] for key in kept if key in RunOptions.__dataclass_fields__}
    return RunOptions(**{**known, "command": tuple(known["command"]), "allowed": tuple(known["allowed"])})
