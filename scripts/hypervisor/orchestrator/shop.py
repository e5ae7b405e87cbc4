"""What all attempts of a run share, and how they look at what an agent has left."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.model import Task
from ..events import RunEvent, log_of
from ..git.checkout import Snapshot
from ..git.merging import Integration
from ..git.oversight import changed_since, is_ours
from ..git.work import Tree, in_scope
from ..git.worktrees import Worktrees
from ..orders import Orders
from ..queue.batch import Batch
from ..runners.agent import Agent, AgentEnd, How
from ..tasks.desk import Desk
from ..tasks.tasklist import Caller
from .care import Care
from .checks import verify
from .evidence import Facts, Reported
from .staff import Staff


@dataclass(slots=True)
class Shop:
    """What all attempts of a run share."""

    batch: Batch
    desk: Desk
    staff: Staff
    orders: Orders
    #: The holder's id: its lock file tells that it lives.
    worker: str
    inherit: tuple[int, ...]
    trees: Worktrees | None
    integration: Integration | None
    #: What looks after the agents while they work.
    care: Care
    #: Claims and edits, one at a time: the store signs one intent at a time.
    lock: threading.RLock = field(default_factory=threading.RLock)
    #: Paths of the tasks whose work was merged.
    merged: set[str] = field(default_factory=set)
    #: What is said at the end of the run, a line each.
    notes: list[str] = field(default_factory=list)
    #: Tasks that run now.
    running: set[str] = field(default_factory=set)

    def tell(self, what: RunEvent, task: str, **details: Any) -> None:
        """Tell the batch's log what happens; a disk that is full costs the line, and no agent's work."""
        with contextlib.suppress(OSError):
            log_of(self.batch.folder).tell(what, task, **details)

    def desk_of(self, agent: Agent) -> Desk:
        """Return the desk in the name of *agent*: the same store, and the same claims."""
        return (
            self.desk
            if self.desk.caller.name == agent.name
            else replace(self.desk, caller=Caller(name=agent.name))
        )

    def is_ours(self, path: str) -> bool:
        """Tell whether a path below the root is a task file, or the state of a tool, and no work."""
        return is_ours(path, self.desk.settings["tasks"]["globs"])

    def in_scope(self, task: Task, path: str) -> bool:
        """Tell whether *task* may change *path*."""
        return in_scope(path, task.files, self.is_ours)


def gather(
    shop: Shop,
    task: Task,
    tree: Tree | None,
    end: AgentEnd,
    reported: Reported | None,
    before: Snapshot | None,
) -> Facts:
    """Look at what an agent has left, gather its work into commits, and verify it.

    Args:
        shop: Of the run.
        task: What the agent was to do.
        tree: The worktree in which it worked, if it had one of its own.
        end: How it ended.
        reported: What it said of itself.
        before: What the checkout was like as it began; None where there is no worktree.
    """
    common: dict[str, Any] = {
        "end": end,
        "reported": reported,
        "names_files": bool(task.files),
        "worktree": tree is not None,
        "accept_reports": task.front.get("accept_reports", shop.desk.settings["run"]["accept_reports"])
        is True,
    }
    if tree is None or shop.trees is None or before is None:
        checked = None
        if end.how is How.ENDED:
            checked = verify(task, Path(shop.desk.project.root), shop.desk.settings)
        return Facts(**common, verify=checked)
    gathered = shop.trees.gather(
        tree, f"{task.title}\n\nLeft uncommitted by its agent.", lambda path: shop.in_scope(task, path)
    )
    checked = None
    if end.how is How.ENDED and not gathered.begun:
        checked = verify(task, shop.trees.place(tree), shop.desk.settings)
    return Facts(
        **common,
        commits=gathered.commits,
        files=gathered.files,
        outside=tuple(path for path in gathered.files if not shop.in_scope(task, path)),
        uncommitted_outside=(*gathered.outside, *gathered.left),
        astray=gathered.astray,
        conflicts=gathered.conflicts or ((gathered.begun,) if gathered.begun else ()),
        main_changed=tuple(changed_since(shop.desk.project, shop.is_ours, before)),
        suspects=tuple(sorted(shop.running - {task.id})),
        verify=checked,
    )
