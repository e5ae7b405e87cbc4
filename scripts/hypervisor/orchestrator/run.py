"""A run from its starting point to its end: the tasks, the agents, and bringing their work to the user."""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.errors import Refused, UsageError
from ..core.files import matches_any
from ..core.project import Project
from ..git.clones import Clones
from ..git.git import Git, GitError
from ..git.merging import FastForward, Integration, Merged
from ..git.oversight import checkout_lock
from ..git.remote import Remote, RemoteUnreachable
from ..git.repository import Repository
from ..git.workspaces import Workspaces
from ..git.worktrees import Worktrees
from ..learning.lessons import Lessons
from ..queue.batch import Batch
from ..queue.counts import ItemEvent, RunCounts
from ..queue.stop import Stop
from ..tasks.terms import TaskTerms
from . import schedule
from .checks import Checks
from .concurrency import capacity_of, make_controller, with_classes
from .coordinator import Coordinator
from .delivery import GitDelivery
from .options import RunOptions
from .run_context import RunContext
from .verdict import Failed
from .workspace_pool import remove_unused

#: How often a push is tried that comes too late, as others have pushed.
_PUSHES = 5
#: Tasks without a result, those in the hands of another coordinator among them.
OPEN = ("ready", "running")
#: Gets a folder; returns why what is in it is not good, or None.
Check = Callable[[Path], str | None]


def starting_point(project: Project, options: RunOptions) -> RunOptions:
    """Return *options* with the branch and the commit that the run begins from.

    Raises:
        UsageError: There is no git repository with a commit, and the options need one.
    """
    if options.isolation == "none":
        return replace(options, merge="none")
    try:
        repository = Repository.read(project.root)
    except Refused as error:
        raise UsageError(f"{error}; or add --isolation none") from error
    if repository.branch is None and options.merge == "ff":
        raise UsageError(f"{project.root}: no branch is checked out; check one out, or add --merge branch")
    if options.push:
        Remote.of(repository, repository.branch or "", 0)  # there is one
    return replace(options, start_branch=repository.branch or "", start_commit=repository.head)


def brought_up_to_date(project: Project, options: RunOptions, settings: Mapping[str, Any]) -> RunOptions:
    """Fetch, and bring the user's checkout to what other machines have merged, if it can be.

    For a store of many machines, before tasks are chosen.

    Raises:
        UsageError: There is no remote, work could not be merged there, or it lacks commits of the branch.
    """
    if options.isolation == "none":
        return options
    if options.merge == "none":
        raise UsageError("--merge none: machines that share a store deliver their work; use ff or branch")
    repository = Repository.read(project.root)
    remote = Remote.of(repository, options.start_branch, settings["git"]["remote_seconds"])
    name = f"{remote.name}/{remote.branch}"
    try:
        theirs = remote.fetch()
    except RemoteUnreachable as error:
        raise UsageError(f"{error}; other machines' work comes from there") from error
    git = repository.git()
    if not theirs or not git.contains(theirs, options.start_commit):
        ahead = f"{options.start_branch} has commits that {name} has not"
        raise UsageError(f"{ahead}; `git push` them first: agents of all machines begin from {name}")
    if theirs == options.start_commit:
        return options
    folder = project.state / "worktrees" / "up-to-date"
    integration = Integration(repository, folder, "up-to-date", options.start_branch, options.start_commit)
    with checkout_lock(project):
        moved = integration.fast_forward(lambda path: matches_any(path, settings["tasks"]["globs"]), theirs)
    return replace(options, start_commit=theirs) if moved.done else options


def going_on(project: Project, batch: Batch, options: RunOptions) -> RunOptions:
    """Return the *options* of a batch that is resumed: from where the user's branch is by now.

    Not where its own branch is still there: that has work that the user's lacks, and goes on.
    """
    if options.isolation == "none" or batch.store.merges.of_batch(batch.record.id).tips():
        return options
    head = Git(project.root).commit(f"refs/heads/{options.start_branch}") if options.start_branch else ""
    return replace(options, start_commit=head) if head else options


def open_tasks(run: RunContext) -> list[schedule.QueuedTask]:
    """Return the tasks of the batch that have no result yet, in its order; their keys are their paths.

    What each is judged by is kept with the batch from now on.
    """
    found: list[schedule.QueuedTask] = []
    types: dict[str, str] = {}
    batches, batch = run.store.batches, run.batch.record.id
    kept, new = batches.terms(batch), dict[int, Mapping[str, Any]]()
    with run.service.catalog.indexed() as index:
        for item in batches.items(batch, OPEN):
            task = index.at(item.work.text) if index is not None else None
            if task is not None:
                if terms := kept.get(item.work.id):
                    task = TaskTerms.from_json(terms).apply_to(task)
                else:
                    new[item.work.id] = TaskTerms.of(task).to_json()
                one = schedule.QueuedTask(
                    id=task.id, key=item.work.text, rank=task.priority.rank, depends_on=task.depends_on,
                    files=task.files, order=len(found),
                )  # fmt: skip
                found.append(one)
                if task.type:
                    types[task.id] = task.type
    batches.freeze(batch, new)
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
    if run.delivery is not None:
        run.delivery.say = lambda line: tell(ItemEvent(kind="trouble", item="", text=line))
    coordinator = Coordinator(run, tasks, rules, tell, stop, concurrency)
    counts = coordinator.run()
    run.notes += concurrency.explain()
    if run.pool is not None:
        run.pool.shut()
        run.notes += run.pool.notes
    return counts, coordinator.halted


def deliver(run: RunContext, stopped: threading.Event) -> list[str]:
    """Bring what is merged to the user's branch, as the options say; return what was done, in words.

    Args:
        run: The run, whose agents have ended.
        stopped: Set to wait no longer for a remote that is down.
    """
    options, globs = run.options, run.service.settings["tasks"]["globs"]

    def commands() -> set[str]:
        return {command for command in run.merged.values() if command}

    def tasks_too() -> list[str]:
        git = run.integration.repository.git() if run.integration else Git(run.project.root)
        return [commit_tasks(git, run.batch.id, globs)] if options.commit_tasks else []

    if run.delivery is not None:
        return _delivered(run, run.delivery, stopped)
    if not run.integration:
        return tasks_too()
    merged = len(run.merged)
    return bring_home(
        run.project, run.batch, run.integration, options, merged, run.checks, commands, tasks_too
    )


def bring_home(  # noqa: PLR0913, PLR0917 - where from, where to, and the three steps on the way
    project: Project,
    batch: Batch,
    integration: Integration,
    options: RunOptions,
    merged: int,
    checks: Checks,
    commands: Callable[[], Collection[str]] = tuple,
    then: Callable[[], list[str]] = list,
) -> list[str]:
    """Fast-forward the user's branch to what is merged, and push it, if the options say so.

    Args:
        project: The project.
        batch: Whose work it is.
        integration: Where the work was merged.
        options: What the user asked for.
        merged: How many tasks were merged.
        checks: Runs the commands.
        commands: Returns what must pass once commits that were added to the user's branch or to the remote's
            meanwhile are merged in.
        then: What is done between the two; returns what was done, in words.

    Returns:
        What was done, in words.
    """
    tasks = f"{merged} task{'' if merged == 1 else 's'}"

    def check(folder: Path) -> str | None:
        checked = (checks.run(command, folder) for command in sorted(commands()))
        failed = next((one for one in checked if isinstance(one, Failed)), None)
        return f"{failed.command}: {failed.line}" if failed else None

    def move() -> str:
        if options.merge != "ff":
            return f"the work is on the branch {integration.branch} ({tasks})"
        return _moved(project, batch, integration, options.start_branch, tasks, check)

    if options.push and merged:
        said = _pushed(integration, options, batch, move=move, then=then, check=check)
    else:
        said = [move(), *then()]
    said += integration.forged
    try:
        integration.close()
    except OSError as error:
        said.append(f"{integration.path} cannot be removed: {error.strerror}")
    return said


def _delivered(run: RunContext, delivery: GitDelivery, stopped: threading.Event) -> list[str]:
    """Deliver what still waits, of any machine, and bring the user's checkout up to date; tell both."""
    where = f"{delivery.remote.name}/{delivery.branch}"
    said = [f"{len(run.merged)} task{'' if len(run.merged) == 1 else 's'} merged to {where}"]
    try:
        if left := delivery.finish(stopped):
            what = "1 result waits" if left == 1 else f"{left} results wait"
            said.append(f"{what} to be merged: go on with `hypervisor run --resume {run.batch.id}`")
        if run.options.merge == "ff":
            said += delivery.bring_checkout(run.options.start_branch)
    except GitError as error:
        said.append(f"not up to date with {where}: {error}")
    return said


def _moved(
    project: Project, batch: Batch, integration: Integration, where: str, tasks: str, check: Check
) -> str:
    """Fast-forward the user's branch; return what was done, in words."""
    moved = _fast_forward(project, batch, integration)
    git = integration.repository.git()
    behind = not moved.done and not git.contains(integration.tip, git.commit(where))
    # Others have moved the branch meanwhile: their work is merged in first.
    if behind and isinstance(integration.merge(where, f"Merge {where}", check), Merged):
        moved = _fast_forward(project, batch, integration)
    if not moved.done:
        return f"branch {where} not moved: {moved.why}; the work is on {integration.branch}"
    if moved.before != moved.after:
        return f"{where} fast-forwarded {moved.before[:7]}..{moved.after[:7]} ({tasks})"
    return f"nothing to merge into {where}"


def _pushed(
    integration: Integration,
    options: RunOptions,
    batch: Batch,
    *,
    move: Callable[[], str],
    then: Callable[[], list[str]],
    check: Check,
) -> list[str]:
    """Merge in what others have pushed, move the user's branch, and push; again where others were faster."""
    git, said = integration.repository.git(), list[str]()
    remote = Remote.of(
        integration.repository, options.start_branch, batch.store.settings["git"]["remote_seconds"]
    )
    into = remote.branch if options.merge == "ff" else integration.branch
    why = f"others pushed to {remote.name}/{into} {_PUSHES} times meanwhile"
    for _ in range(_PUSHES):
        try:
            theirs = remote.fetch() if options.merge == "ff" else ""
            if theirs and not git.contains(integration.tip, theirs):
                name = f"{remote.name}/{remote.branch}"
                news = integration.merge(theirs, f"Merge {name}", check)
                if not isinstance(news, Merged):
                    why = news.why(name)
                    break
            # Once: a second round brings nothing but the work of others.
            said = [move(), *(said[1:] if said else then())]
            commit = git.commit(options.start_branch) if options.merge == "ff" else ""
            if not commit or not git.contains(commit, integration.tip):
                commit = integration.tip  # the user's checkout was in the way
            if commit == theirs:
                return [*said, f"nothing to push to {remote.name}/{into}"]
            if remote.push(commit, into):
                return [*said, f"pushed {commit[:7]} to {remote.name}/{into}"]
        except GitError as error:  # it does not answer, or does not take it
            why = str(error)
            break
    again = f"hypervisor merge {batch.id} --merge {options.merge} --push"
    said = said or [move(), *then()]
    return [*said, f"not pushed: {why}; the work is kept here, push it with `{again}`"]


def commit_tasks(git: Git, batch: str, globs: list[str]) -> str:
    """Commit the task files that have changed, and nothing else; return what was done, in words."""
    root = os.path.realpath(git.cwd)
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


def _fast_forward(project: Project, batch: Batch, integration: Integration) -> FastForward:
    """Move the user's branch, noted first: other coordinators must not take it for an agent's doing."""
    globs = batch.store.settings["tasks"]["globs"]
    with checkout_lock(project):
        tip = integration.tip
        if tip != integration.start_commit:
            batch.store.merges.add_home(batch.record.id, tip)
        return integration.fast_forward(lambda path: matches_any(path, globs))


def remove_folders(project: Project, *, dry_run: bool) -> list[dict[str, str]]:
    """Remove the folders of runs' agents in which nothing is left that is nowhere else.

    Returns:
        For each its folder, its kind, what was done (``removed``, ``kept``, ``would``) and why.
    """
    folder = project.state / "worktrees"
    batches = sorted(os.listdir(folder)) if folder.is_dir() else []
    if not batches:
        return []
    found = []
    repository = Repository.read(project.root)
    git = repository.git()
    for batch in batches:
        kinds: dict[str, Workspaces] = {
            "clone": Clones(repository, folder / batch, batch),
            "worktree": Worktrees(repository, folder / batch, batch),
        }
        merge = f"hypervisor/{batch}/merge"
        for path in remove_unused(kinds["clone"], dry_run=dry_run):
            place = os.path.relpath(path, project.root)
            what = "would" if dry_run else "removed"
            found.append({"folder": place, "kind": "prepared", "what": what, "why": ""})
        for tree in kinds["clone"].found():
            trees = kinds[tree.kind]
            what, why = "would" if dry_run else "removed", ""
            into = merge if git.exists(merge) else repository.branch
            try:
                trees.remove(tree, merged_into=into, dry_run=dry_run)
            except Refused as error:
                what, why = "kept", str(error)
                if not tree.path.is_dir():
                    why += (
                        f"; see `hypervisor diff {tree.task}`, or discard it: `git branch -D {tree.branch}`"
                    )
            place = os.path.relpath(tree.path, project.root)
            found.append({"folder": place, "kind": tree.kind, "what": what, "why": why})
    return found
