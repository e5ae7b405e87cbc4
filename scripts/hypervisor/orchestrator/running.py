"""Setting up a run: the batch, the store, the worktrees, the agent; and what is done at its end."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import orders as kept
from ..claims.port import Holder, HolderKind
from ..claims.workers import new_worker_id
from ..core.config import settings_of
from ..core.errors import HypervisorError, Refused, UsageError
from ..core.globs import matches_any
from ..core.paths import Project
from ..events import Happening, tell
from ..git.git import Git
from ..git.merging import FastForward, Integration, Merged
from ..git.oversight import checkout_lock
from ..git.worktrees import Worktrees
from ..learning.learnings import Learnings
from ..orders import Orders
from ..queue.batch import Batch
from ..queue.heart import Stop
from ..queue.progress import Progress
from ..queue.summary import entries
from ..queue.tally import Event, Tally
from ..tasks.desk import Desk
from ..tasks.tasklist import Caller
from . import schedule
from .care import care_of
from .checks import run_check
from .coordinator import Coordinator
from .evidence import Failed
from .hiring import name_of, staff_of
from .pacing import pacing_of, with_lanes
from .shop import Shop

#: How long each check of all that came together may take.
_CHECK_SECONDS = 600.0


def starting_point(project: Project, orders: Orders) -> Orders:
    """Return *orders* with the branch and the commit that the run begins from.

    Raises:
        UsageError: There is no git repository with a commit, and the orders need one.
    """
    if orders.isolation == "none":
        return replace(orders, merge="none")
    git = Git(project.root)
    if not git.ok("rev-parse", "--verify", "--quiet", "HEAD^{commit}"):
        raise UsageError(
            f"{project.root}: no git repository with a commit, so there are no worktrees; "
            f"commit something, or add --isolation none"
        )
    branch = git.branch()
    if branch is None and orders.merge == "ff":
        raise UsageError(f"{project.root}: no branch is checked out; check one out, or add --merge branch")
    return replace(orders, start_branch=branch or "", start_commit=git.head())


@contextmanager
def shop_of(project: Project, batch: Batch, orders: Orders) -> Iterator[Shop]:
    """Open all that a run's attempts share; close it at the end."""
    settings = settings_of(project.state)
    staff = staff_of(orders, settings, Progress.of(batch.folder))
    # The user's word on how often a task is tried again counts more than the project's.
    claims = {**settings["claims"], "attempts": max(settings["claims"]["attempts"], orders.retries + 1)}
    desk = Desk(project, {**settings, "claims": claims}, Caller(name=name_of(staff)))
    project.prepare()
    holder = Holder(
        id=new_worker_id("run", os.getpid()),
        kind=HolderKind.PROCESS,
        name=name_of(staff),
        lease_seconds=claims["lease_seconds"],
    )
    store = desk.new_store(holder, patient=True)
    desk.open_store = store
    folder = project.state / "worktrees" / batch.id
    trees = integration = None
    if orders.isolation == "worktree":
        trees = Worktrees(project.root, folder, batch.id)
        if orders.merge != "none":
            integration = Integration(
                project.root, folder, batch.id, orders.start_branch, orders.start_commit
            )
    descriptor = store.lock_descriptor
    try:
        yield Shop(
            batch=batch, desk=desk, staff=staff, orders=orders, worker=holder.id,
            inherit=(descriptor,) if descriptor is not None else (), trees=trees, integration=integration,
            care=care_of(project, batch, orders, settings, holder.id),
        )  # fmt: skip
    finally:
        store.close()


def waiting_tasks(desk: Desk, batch: Batch) -> list[schedule.Entry]:
    """Return the tasks of *batch* that have no result yet, in its order; their keys are their paths."""
    found: list[schedule.Entry] = []
    types: dict[str, str] = {}
    with desk.indexed() as index:
        for entry in entries(batch):
            if entry is None or entry.result is not None or index is None:
                continue
            path = os.path.relpath(os.path.join(desk.project.root, entry.place.item), desk.project.root)
            task = index.at(path)
            if task is not None:
                one = schedule.Entry(
                    id=task.id, key=path, rank=task.priority.rank, depends_on=task.depends_on,
                    files=task.files, order=len(found),
                )  # fmt: skip
                found.append(one)
                if task.type:
                    types[task.id] = task.type
    # Ids are the same in whatever case; the scheduler knows them in one.
    ids = {one.id.lower(): one.id for one in found}
    return with_lanes([
        replace(one, depends_on=tuple(ids.get(name.lower(), name) for name in one.depends_on))
        if one.depends_on
        else one
        for one in found
    ], types)  # fmt: skip


def carry_out(shop: Shop, tell: Callable[[Event], None], stop: Stop) -> tuple[Tally, str]:
    """Run the agents; return what was done, and why it ended early ("" if it did not)."""
    shop.desk.reap()  # what a dead coordinator had in hand: its agents are ended, its tasks put back
    orders, machine = shop.orders, shop.desk.settings["machine"]
    limit = orders.limit if orders.agent == "exec" else min(orders.limit, machine["per_batch"])
    if limit < orders.limit:
        shop.notes.append(f"at most {limit} agents at once, not {orders.limit} (machine.per_batch)")
    rules = schedule.Rules(
        limit=limit, canary=orders.canary, halt_fail_percent=orders.halt_percent or None,
        retries=orders.retries, strategy="sequential" if orders.strategy == "sequential" else "parallel",
        scope_gate=orders.scope_gate, grow_seconds=machine["grow_seconds"],
        # A command may be over before its start shows in any figure; it waits only where that matters.
        stagger_seconds=machine["stagger_seconds"], stagger_always=orders.agent != "exec",
    )  # fmt: skip
    tasks = waiting_tasks(shop.desk, shop.batch)
    project = shop.desk.project
    say = (shop.tell, lambda line: tell(Event(kind="paced", item="", text=line)))
    pacing = pacing_of(project, shop.desk.settings, orders.strategy, orders.limit, tasks, say)
    coordinator = Coordinator(shop, tasks, rules, tell, stop, pacing)
    tally = coordinator.run()
    # Of a run that is killed before this the next one learns.
    with contextlib.suppress(HypervisorError, OSError):
        Learnings(project).learn()
    shop.notes += pacing.explain()
    return tally, coordinator.halted


def hand_over(shop: Shop) -> list[str]:
    """Bring what is merged to the user's branch, as the orders say; return what was done, in words."""
    project, orders = shop.desk.project, shop.orders
    globs = shop.desk.settings["tasks"]["globs"]
    commands = {task.verify for task in shop.desk.tasks() if task.verify and task.path in shop.merged}
    said = move_on(project, shop.integration, orders, globs, commands) if shop.integration else []
    if orders.commit_tasks:
        said.append(commit_tasks(project, shop.batch.id, globs))
    return said


def move_on(
    project: Project,
    integration: Integration,
    orders: Orders,
    globs: list[str],
    commands: Collection[str] = (),
) -> list[str]:
    """Move the user's branch on to what is merged, if the orders say so.

    Args:
        project: The project.
        integration: Where the work was merged.
        orders: What the user asked for.
        globs: Which files are tasks.
        commands: What must pass once the branch's own news, if there are any, are merged in.

    Returns:
        What was done, in words.
    """
    said = []
    if orders.merge == "ff":
        git = Git(project.root)
        before = git.head()
        moved = _fast_forward(project, integration, globs)
        if not moved.done and not git.contains(integration.tip, git.commit(orders.start_branch)):
            # Others have moved the branch meanwhile: their work is merged in first.
            def check(folder: Path) -> str | None:
                failed = (
                    one for c in sorted(commands) if isinstance(one := run_check(c, folder, 600.0), Failed)
                )
                return next((f"{one.command}: {one.line}" for one in failed), None)

            news = integration.merge(orders.start_branch, f"Merge {orders.start_branch}", check)
            if isinstance(news, Merged):
                moved = _fast_forward(project, integration, globs)
        where = f"branch {orders.start_branch}"
        if not moved.done:
            said.append(f"{where} not moved: {moved.why}")
        else:
            said.append(f"{where} moved on" if git.head() != before else f"nothing to merge into {where}")
    else:
        said.append(f"the work is on the branch {integration.branch}")
    try:
        integration.close()
    except Refused as error:
        said.append(str(error))
    return said


def commit_tasks(project: Project, batch: str, globs: list[str]) -> str:
    """Commit the task files that have changed, and nothing else; return what was done, in words."""
    git = Git(project.root)
    root = os.path.realpath(project.root)
    changed = [os.path.join(git.top_level, entry.path) for entry in git.status().entries]
    ours = [path for path in changed if matches_any(os.path.relpath(path, root), globs)]
    if not ours:
        return "no task file has changed"
    git.run("add", "--", *ours)
    git.run("-c", "core.hooksPath=/dev/null", "commit", "--quiet", "-m", f"Tasks: batch {batch}", "--", *ours)
    return f"{len(ours)} task file(s) committed"


def on_finish(command: str, folder: str) -> str:
    """Run the user's command at the end of a batch; return what came of it, in words."""
    words: list[Any] = [*shlex.split(command), folder]
    try:
        code = subprocess.run(words, stdin=subprocess.DEVNULL, check=False).returncode
    except OSError as error:
        return f"--on-finish {command}: {error.strerror}"
    return f"--on-finish {command}: exit {code}"


def keep_orders(batch: Batch, orders: Orders) -> None:
    """Keep the orders with their batch, so that it can be gone on with."""
    kept.write(batch.folder, orders)


def _fast_forward(project: Project, integration: Integration, globs: list[str]) -> FastForward:
    """Move the user's branch on, and say so: other coordinators must not take it for an agent's doing."""
    git = Git(project.root)
    with checkout_lock(project):
        before = git.head()
        moved = integration.fast_forward(lambda path: matches_any(path, globs))
        if moved.done and git.head() != before:
            tell(project, Happening.MOVED_ON, integration.batch, head=git.head())
    return moved


def tidy_up(project: Project, *, dry_run: bool) -> list[dict[str, str]]:
    """Remove the worktrees of runs in which nothing is left that is nowhere else.

    Returns:
        For each its folder, what was done (``removed``, ``kept``, ``would``) and why.
    """
    folder = project.state / "worktrees"
    found = []
    for batch in sorted(os.listdir(folder)) if folder.is_dir() else ():
        trees = Worktrees(project.root, folder / batch, batch)
        merge = f"hypervisor/{batch}/merge"
        git = Git(project.root)
        for tree in trees.found():
            what, why = "removed", ""
            if dry_run:
                left = trees.inspect(tree)
                facts = [f"{len(left.commits)} commit(s)"] if left.commits else []
                facts += [f"{len(left.uncommitted)} uncommitted change(s)"] if left.uncommitted else []
                what, why = "would", ", ".join(facts) or "nothing in it"
            else:
                into = merge if git.exists(merge) else git.branch()
                try:
                    trees.remove(tree, merged_into=into)
                except Refused as error:
                    what, why = "kept", str(error)
            found.append({"worktree": os.path.relpath(tree.path, project.root), "what": what, "why": why})
    return found
