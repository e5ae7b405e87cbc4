"""A run from its starting point to its end: the tasks, the agents, and bringing their work to the user."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.errors import Refused, UsageError
from ..core.files import matches_any
from ..core.project import Project
from ..git.git import Git
from ..git.merging import FastForward, Integration, Merged
from ..git.oversight import checkout_lock
from ..git.worktrees import Worktrees
from ..learning.lessons import Lessons
from ..queue.batch import Batch
from ..queue.counts import ItemEvent, RunCounts
from ..queue.stop import Stop
from . import schedule
from .checks import run_check
from .concurrency import capacity_of, make_controller, with_classes
from .coordinator import Coordinator
from .options import RunOptions
from .run_context import RunContext
from .verdict import Failed

#: How long each check of all that came together may take, in seconds.
_CHECK_SECONDS = 600.0
#: Tasks without a result, those in the hands of another coordinator among them.
_OPEN = ("ready", "running")


def starting_point(project: Project, options: RunOptions) -> RunOptions:
    """Return *options* with the branch and the commit that the run begins from.

    Raises:
        UsageError: There is no git repository with a commit, and the options need one.
    """
    if options.isolation == "none":
        return replace(options, merge="none")
    git = Git(project.root)
    if not git.ok("rev-parse", "--verify", "--quiet", "HEAD^{commit}"):
        raise UsageError(
            f"{project.root}: no git repository with a commit, so there are no worktrees; "
            f"commit something, or add --isolation none"
        )
    branch = git.branch()
    if branch is None and options.merge == "ff":
        raise UsageError(f"{project.root}: no branch is checked out; check one out, or add --merge branch")
    return replace(options, start_branch=branch or "", start_commit=git.head())


def open_tasks(run: RunContext) -> list[schedule.QueuedTask]:
    """Return the tasks of the batch that have no result yet, in its order; their keys are their paths."""
    found: list[schedule.QueuedTask] = []
    types: dict[str, str] = {}
    with run.service.catalog.indexed() as index:
        for item in run.store.batches.items(run.batch.record.id, _OPEN):
            task = index.at(item.work.text) if index is not None else None
            if task is not None:
                one = schedule.QueuedTask(
                    id=task.id, key=item.work.text, rank=task.priority.rank, depends_on=task.depends_on,
                    files=task.files, order=len(found),
                )  # fmt: skip
                found.append(one)
                if task.type:
                    types[task.id] = task.type
    # Ids are the same in whatever case; the scheduler knows them in one.
    ids = {one.id.lower(): one.id for one in found}
    return with_classes([
        replace(one, depends_on=tuple(ids.get(name.lower(), name) for name in one.depends_on))
        if one.depends_on
        else one
        for one in found
    ], types)  # fmt: skip


def run_agents(run: RunContext, tell: Callable[[ItemEvent], None], stop: Stop) -> tuple[RunCounts, str]:
    """Run the agents; return what was done, and why it ended early ("" if it did not)."""
    run.service.rescue()  # what a dead coordinator had in hand: its agents are ended, its tasks restored
    options, settings = run.options, run.service.settings
    machine = settings["machine"]
    limit = options.limit if options.agent == "exec" else min(options.limit, machine["per_batch"])
    if limit < options.limit:
        run.notes.append(f"at most {limit} agents at once, not {options.limit} (machine.per_batch)")
    rules = schedule.SchedulingRules(
        limit=limit, canary=options.canary, halt_fail_percent=options.halt_percent or None,
        retries=options.retries, strategy="sequential" if options.strategy == "sequential" else "parallel",
        scope_gate=options.scope_gate, grow_seconds=machine["grow_seconds"],
        # A command may be over before its start shows in any figure; it waits only where that matters.
        stagger_seconds=machine["stagger_seconds"], stagger_always=options.agent != "exec",
    )  # fmt: skip
    tasks = open_tasks(run)
    concurrency = make_controller(
        Lessons(run.store.lessons), options.strategy, capacity_of(run.project, settings, options.limit),
        tasks, log=run.tell, say=lambda line: tell(ItemEvent(kind="paced", item="", text=line)),
    )  # fmt: skip
    coordinator = Coordinator(run, tasks, rules, tell, stop, concurrency)
    counts = coordinator.run()
    run.notes += concurrency.explain()
    return counts, coordinator.halted


def deliver(run: RunContext) -> list[str]:
    """Bring what is merged to the user's branch, as the options say; return what was done, in words."""
    options, globs = run.options, run.service.settings["tasks"]["globs"]
    said = []
    if run.integration:
        commands = {
            task.verify for task in run.service.catalog.tasks() if task.verify and task.path in run.merged
        }
        said = move_branch(run.project, run.batch, run.integration, options, globs, commands)
    if options.commit_tasks:
        said.append(commit_tasks(run.project, run.batch.id, globs))
    return said


def move_branch(
    project: Project,
    batch: Batch,
    integration: Integration,
    options: RunOptions,
    globs: list[str],
    commands: Collection[str] = (),
) -> list[str]:
    """Fast-forward the user's branch to what is merged, if the options say so.

    Args:
        project: The project.
        batch: Whose work it is.
        integration: Where the work was merged.
        options: What the user asked for.
        globs: Which files are tasks.
        commands: What must pass once commits that were added to the user's branch meanwhile are merged in.

    Returns:
        What was done, in words.
    """
    said = []
    if options.merge == "ff":
        git = Git(project.root)
        before = git.head()
        moved = _fast_forward(project, batch, integration, globs)
        if not moved.done and not git.contains(integration.tip, git.commit(options.start_branch)):
            # Others have moved the branch meanwhile: their work is merged in first.
            def check(folder: Path) -> str | None:
                failed = (
                    one
                    for command in sorted(commands)
                    if isinstance(one := run_check(command, folder, _CHECK_SECONDS), Failed)
                )
                return next((f"{one.command}: {one.line}" for one in failed), None)

            news = integration.merge(options.start_branch, f"Merge {options.start_branch}", check)
            if isinstance(news, Merged):
                moved = _fast_forward(project, batch, integration, globs)
        where = options.start_branch
        if not moved.done:
            said.append(f"branch {where} not moved: {moved.why}")
        elif git.head() != before:
            count = len(git.lines("rev-list", f"{before}..HEAD", nul=False))
            said.append(
                f"{where} fast-forwarded to {git.head()[:7]} ({count} commit{'' if count == 1 else 's'})"
            )
        else:
            said.append(f"nothing to merge into {where}")
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
    """Run the user's command at the end of a batch; return how it ended, in words."""
    words: list[Any] = [*shlex.split(command), folder]
    try:
        code = subprocess.run(words, stdin=subprocess.DEVNULL, check=False).returncode
    except OSError as error:
        return f"--on-finish {command}: {error.strerror}"
    return f"--on-finish {command}: exit {code}"


def _fast_forward(project: Project, batch: Batch, integration: Integration, globs: list[str]) -> FastForward:
    """Move the user's branch, noted first: other coordinators must not take it for an agent's doing."""
    with checkout_lock(project):
        tip = integration.tip
        if Git(project.root).head() != tip:
            batch.store.merges.add(batch.record.id, tip)
        return integration.fast_forward(lambda path: matches_any(path, globs))


def remove_worktrees(project: Project, *, dry_run: bool) -> list[dict[str, str]]:
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
