"""Work that a run kept on its branch instead of merging it: what it changed, and merging it after a look."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import Refused
from ..core.model import CLOSED, Outcome, Task, TaskHead, TaskStatus
from ..core.process import this_process
from ..core.project import Project
from ..git.git import Git, shown
from ..git.merging import Conflict, Integration, Merged, Unverified
from ..git.remote import Remote, RemoteUnreachable
from ..git.repository import Repository
from ..git.trailers import merge_message
from ..queue.batch import Batch
from ..store.liveness import WorkerLock, new_worker_id
from ..store.records import Work, Worker, WorkerKind
from ..tasks.completion import TaskCompletion
from ..tasks.files import read_task
from ..tasks.service import TaskService
from .checks import Checks
from .containment import containment_of
from .delivery import delivery_of
from .options import RunOptions
from .run import bring_home, brought_up_to_date, starting_point
from .verdict import Failed
from .workspace_pool import prepares_merged


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptWork:
    """The commits of one attempt."""

    task: TaskHead
    #: ``hypervisor/<batch>/<name>``; "" for work that is merged.
    branch: str
    #: The commits before and after.
    base: str
    tip: str

    @property
    def batch(self) -> str:
        """The name of the batch that it belongs to."""
        return self.branch.split("/")[1]


def find_kept(service: TaskService, name: str) -> KeptWork:
    """Return the work of a task: that on a kept branch, or else what was merged.

    Raises:
        UsageError: There is no such task.
        Refused: There is no work of it.
    """
    task = service.find(name)
    git = Git(service.project.root)
    store = service.catalog.store
    cycles = reversed(store.claims.cycles(service.key(task))) if store is not None else ()
    for work in [work for work, _ in cycles if work.result]:
        if store is not None and store.shared and work.state == Outcome.SUCCESS:
            tip = _merged_elsewhere(service, task, work)
            return KeptWork(task=task, branch="", base=git.commit(f"{tip}^1"), tip=tip)
        result = work.result or {}
        branch = str(result.get("branch") or "")
        tip = git.commit(f"refs/heads/{branch}") if branch.startswith("hypervisor/") else ""
        if not tip and store is not None and store.shared:
            tip = _fetched(service, work, branch)
        if tip:
            base = git.run("merge-base", "HEAD", tip, check=False) or tip
            return KeptWork(task=task, branch=branch, base=base, tip=tip)
        if tip := _merge_of(git, result):
            return KeptWork(task=task, branch="", base=git.commit(f"{tip}^1"), tip=tip)
    raise Refused(f"{task.id}: no branch of it was kept, and nothing of it was merged")


def accept(project: Project, batch: Batch, service: TaskService, kept: KeptWork) -> list[str]:
    """Merge kept work, verified, into the branch that is checked out; then the task is done.

    A second call after a crash or a refusal goes on where the first one ended. On a store of many machines
    the work is delivered to the remote's branch, as that of a run is.

    Returns:
        What was done, in words.

    Raises:
        Refused: It cannot be merged, does not verify, or the checkout is in the way. The task is as it was.
    """
    task, settings = read_task(Path(kept.task.path), service.settings), service.settings
    service.rescue()  # a dead coordinator holds it no longer
    held = service.held(kept.task)
    if held is not None:
        raise Refused(f"{task.id} is held by {held.worker.name}; wait for its end, or release it first")
    if task.status in CLOSED:
        raise Refused(f"{task.id} is {task.status} already")
    asked = starting_point(project, RunOptions(agent="claude", merge="ff"))
    if service.store.shared:
        asked = brought_up_to_date(project, asked, settings)
        latest = service.store.claims.latest(service.key(kept.task))
        if latest is not None and latest.state == Outcome.SUCCESS:  # of another who accepts it at this moment
            raise Refused(f"{task.id} is done already")
    folder = project.state / "worktrees" / batch.id
    repository = Repository.read(project.root)
    merges = batch.store.merges.of_batch(batch.record.id)
    integration = Integration(repository, folder, batch.id, asked.start_branch, asked.start_commit, merges)
    containment = containment_of(asked, settings, project, repository, batch.folder)
    integration.prepare = prepares_merged(batch, repository, folder, containment)
    checks = Checks.of(settings, containment)
    if service.store.shared:
        return _delivered(batch, service, kept, integration, asked, checks)

    def verified(place: Path) -> str | None:
        checked = checks.verify(task, place)
        return f"`{checked.command}`: {checked.line or 'no output'}" if isinstance(checked, Failed) else None

    # From the branch as it is now: an earlier run's integration branch may be behind it.
    integration.close()
    merged: Merged | Conflict | Unverified = Merged(commit=integration.tip)
    if not repository.git().contains(integration.tip, asked.start_commit):
        merged = integration.merge(asked.start_commit, f"Merge {asked.start_branch}")
    if isinstance(merged, Merged):
        check = verified if task.verify else None
        merged = integration.merge(kept.branch, merge_message(task.id, task.title), check)
        by_hand = repository.git().contains(asked.start_commit, kept.tip)
        if by_hand and task.verify and (why := integration.why_not(integration.tip, verified)):
            merged = Unverified(text=why)
    if not isinstance(merged, Merged):
        integration.close()
        raise Refused(_why_not(merged, task, kept, asked.start_branch))
    commands = {task.verify} if task.verify else set()
    said = bring_home(project, batch, integration, asked, 1, checks, lambda: commands)
    if not _is_merged(project, merged.commit):
        raise Refused(f"{task.id}: {'; '.join(said)}")
    work = service.store.claims.latest(service.key(kept.task))
    if work is not None:
        service.store.claims.reopen(
            work.id, batch.number
        )  # its batch gets the new result in place of the old
    service.finish(task.path, TaskCompletion(
        outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text=f"accepted {kept.branch}", commit=kept.tip,
        details={"batch": batch.id, "evidence": {"commit": kept.tip, "merged": merged.commit}},
    ))  # fmt: skip
    return said


def _delivered(
    batch: Batch,
    service: TaskService,
    kept: KeptWork,
    integration: Integration,
    asked: RunOptions,
    checks: Checks,
) -> list[str]:
    """Complete the task with its kept work, and have that merged to the remote's branch; then say so."""
    store, project, never = service.store, service.project, threading.Event()
    worker = Worker(
        id=new_worker_id("accept", os.getpid()), kind=WorkerKind.PROCESS, name=service.actor.name,
        process=this_process(),
    )  # fmt: skip
    lock = WorkerLock(store.workers, worker.id)
    try:
        delivery = delivery_of(project, store, integration, asked, worker, checks)
        where = f"{delivery.remote.name}/{delivery.branch}"
        if why := delivery.offer(kept.tip, kept.branch, never):
            raise Refused(f"{kept.task.id}: {why}")
        work = store.claims.latest(service.key(kept.task))
        if work is not None:  # its batch gets the new result in place of the old
            store.claims.reopen(work.id, batch.number)
        in_delivery = TaskService(
            project, service.settings, service.actor, store, worker=worker, batch=batch.number,
            deliver=delivery.branch,
        )  # fmt: skip
        in_delivery.finish(kept.task.path, TaskCompletion(
            outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text=f"accepted {kept.branch}", commit=kept.tip,
            details={"batch": batch.id, "branch": kept.branch, "evidence": {"commit": kept.tip}},
        ))  # fmt: skip
        work = store.claims.latest(service.key(kept.task))
        assert work is not None  # noqa: S101 - it has just ended
        if not delivery.settle(work.id, never):
            again = f"`hypervisor run --resume {batch.id}` merges it"
            return [f"accepted, and not on {where} yet: {again}"]
        now = store.claims.latest(service.key(kept.task)) or work
        if now.state != Outcome.SUCCESS:
            raise Refused(f"{kept.task.id}: {(now.result or {}).get('outcome')}")
        delivery.drop_local(kept.branch, kept.tip)
        return [f"merged to {where}", *delivery.bring_checkout(asked.start_branch)]
    finally:
        integration.close()
        lock.close()


def _merged_elsewhere(service: TaskService, task: TaskHead, work: Work) -> str:
    """Return the commit of the remote's branch that a success was delivered with.

    Raises:
        Refused: It is not merged yet, or not fetched.
    """
    git, commit = Git(service.project.root), service.store.merges.delivered_with(work.id)
    if not commit:
        commit = _merge_of(git, work.result or {})  # by a worker in a session
    if not commit:
        raise Refused(f"{task.id} is done, and its work waits to be merged; a run of any machine does that")
    if not git.exists(commit):
        raise Refused(f"{task.id} is done and merged as {commit[:12]}, which is not here yet: `git pull`")
    return commit


def _fetched(service: TaskService, work: Work, branch: str) -> str:
    """Return the commit of a branch that another machine has pushed, "" where it is merged or not there."""
    settings, commit = service.settings, str((work.result or {}).get("commit") or "")
    if not branch.startswith("hypervisor/") or not commit or work.state == Outcome.SUCCESS:
        return ""
    repository = Repository.read(service.project.root)
    if not repository.branch:
        return ""
    git, remote = (
        repository.git(),
        Remote.of(repository, repository.branch, settings["git"]["remote_seconds"]),
    )
    if not git.exists(commit):
        try:
            remote.fetch([branch.split("/")[1]])
        except RemoteUnreachable as error:
            raise Refused(f"{branch} is on another machine: {error}") from error
    return commit if git.exists(commit) else ""


def _why_not(merged: Conflict | Unverified, task: Task, kept: KeptWork, onto: str) -> str:
    if isinstance(merged, Unverified):
        return f"{kept.branch} does not verify on {onto}: {merged.text}"
    files = ", ".join(map(shown, merged.files[:5])) or merged.text
    then = f"merge it by hand (`git merge {kept.branch}`), then `hypervisor accept {task.id}` again"
    return f"{kept.branch} conflicts with {onto} in {files}; {then}"


def _merge_of(git: Git, result: Mapping[str, Any]) -> str:
    """Return the merge commit of a result, else its commit; "" where neither is in the branch."""
    evidence = result.get("evidence")
    merged = evidence.get("merged") if isinstance(evidence, Mapping) else None
    for name in (merged, result.get("commit")):
        commit = git.commit(name) if isinstance(name, str) and name else ""
        if commit and git.contains("HEAD", commit):
            return commit
    return ""


def _is_merged(project: Project, commit: str) -> bool:
    return Git(project.root).contains("HEAD", commit)
