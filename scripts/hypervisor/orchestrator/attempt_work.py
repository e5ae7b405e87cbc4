"""What an attempt's agent has done so far, and how the attempt ended."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.model import Outcome, Task
from ..git.work import Gathered, Tree
from ..runners.base import Agent, AgentEnd
from ..store.records import Claim
from ..tasks.service import TaskService
from .verdict import Reported
from .workspace_pool import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnd:
    """How an attempt ended, as far as the coordinator has to know."""

    #: An `Outcome`, ``again`` (no attempt lost), ``retry`` (one lost), ``parked`` (it waits for an answer),
    #: ``held``, ``elsewhere`` (another machine has finished it) or ``gone``.
    how: str
    text: str
    #: Before which nothing starts, in seconds since the epoch.
    pause_until: float | None = None
    #: Whether the service said "too many requests".
    crowded: bool = False
    #: Why the agent can take no further task, and the batch has to stop if there is no other; "" if it can.
    stop_batch: str = ""
    #: Why the batch has to stop, whatever the agent; "" if it need not.
    halt: str = ""
    #: The agent's name, "" if there was none.
    agent: str = ""
    #: How it ended elsewhere.
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptWork:
    """What the agent of an attempt has done so far."""

    task: Task
    claim: Claim
    #: The task as its file has it, where `task` is more than that: several that are merged.
    filed: Task | None = None
    #: In the agent's name.
    service: TaskService
    started: float
    agent: Agent
    workspace: Workspace | None = None
    #: What it left there, once that has been gathered.
    gathered: Gathered | None = None
    #: Whether its work was merged.
    merged: bool = False
    end: AgentEnd | None = None
    #: What it said of its task, and the file that it says that in.
    reported: Reported | None = None
    report: str = ""
    #: Path of its output, without the ending.
    log: str = ""
    #: Its number among the candidates of its attempt; 0 where there is one only.
    candidate: int = 0

    @property
    def number(self) -> str:
        """The attempt's number, and the candidate's."""
        return f"{self.claim.number}.{self.candidate}" if self.candidate else str(self.claim.number)

    @property
    def tree(self) -> Tree | None:
        """The folder that its agent works in; None for the project's."""
        return self.workspace.tree if self.workspace else None
