"""What all attempts of a run share: the batch, the claims, the agents, their folders, the supervisor."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.errors import ClaimLost, Loss, Unreadable
from ..core.model import Outcome, Task, TaskStatus
from ..core.process import this_process
from ..core.project import Project
from ..core.text import now_text
from ..git.checkout import Snapshot
from ..git.clones import Clones
from ..git.git import GitError
from ..git.merging import Integration
from ..git.oversight import CheckoutWatch, is_ours
from ..git.repository import Repository
from ..git.work import Gathered, Tree, in_scope
from ..git.workspaces import Workspaces
from ..git.worktrees import Worktrees
from ..queue.batch import Batch
from ..runners.base import Agent, AgentEnd, How
from ..store.events import RunEvent
from ..store.liveness import WorkerLock, new_worker_id
from ..store.records import Claim, Completion, Worker, WorkerKind
from ..store.store import Store
from ..tasks.actor import Actor
from ..tasks.completion import TaskCompletion
from ..tasks.files import read_task
from ..tasks.index_watch import LiveIndex
from ..tasks.service import TaskService
from ..tasks.terms import TaskTerms
from .checks import Checks
from .containment import Containment, containment_of
from .delivery import GitDelivery, delivery_of
from .notifying import Notifier
from .options import RunOptions
from .router import AgentRouter, name_of, router_of
from .supervisor import AgentSupervisor, supervisor_of
from .verdict import Evidence, Reported, Verdict, decide_outcome, not_gathered
from .workspace_pool import WorkspacePool

#: What no agent does to a disk by what it leaves in its folder.
_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE})


@dataclass(slots=True)
class RunContext:
    """What all attempts of a run share. Thread-safe: the store serialises what they write."""

    batch: Batch
    service: TaskService
    router: AgentRouter
    options: RunOptions
    worker: Worker
    #: The descriptor of the worker's lock, for children to inherit.
    inherit: tuple[int, ...]
    trees: Workspaces | None
    #: Where attempts get their folders; None where there are no trees.
    pool: WorkspacePool | None
    #: Where verified work is merged; None where nothing is, or where that is delivered by git.
    integration: Integration | None
    #: Brings finished work to the remote's branch, on a store of many machines.
    delivery: GitDelivery | None
    #: Looks at the user's checkout; None where there are no trees.
    watch: CheckoutWatch | None
    supervisor: AgentSupervisor
    #: Makes the sandboxes of its agents; None where it has none.
    containment: Containment | None
    #: Tells a user who is away of what happens.
    notifier: Notifier
    #: Runs `verify`.
    checks: Checks
    #: Adds an event of the run: ``tell(RunEvent.PAUSED, task id or "", until=..., why=...)``.
    tell: Callable[..., None]
    #: The claims of the tasks that run now, by the task's id; None while one is being claimed.
    running: dict[str, Claim | None]
    #: Set once the run ends without waiting for anything: the user said so twice.
    over: threading.Event = field(default_factory=threading.Event)
    #: The tasks whose work was merged: paths, each with its `verify`.
    merged: dict[str, str] = field(default_factory=dict)
    #: Held by the attempt whose agent merges what conflicts: one at a time, so that none is too late.
    resolving: threading.Lock = field(default_factory=threading.Lock)
    #: Printed at the end of the run, a line each.
    notes: list[str] = field(default_factory=list)

    @property
    def project(self) -> Project:
        """The project."""
        return self.service.project

    @property
    def store(self) -> Store:
        """The project's store."""
        return self.service.store

    @property
    def attempts(self) -> int:
        """Counted attempts after which a task is given up; ``--retries`` may raise the setting."""
        return max(int(self.service.settings["claims"]["attempts"]), self.options.retries + 1)

    def service_of(self, agent: Agent) -> TaskService:
        """Return the service in the name of *agent*: the same store, the same worker."""
        same = self.service.actor.name == agent.name
        return self.service if same else self.service.as_actor(Actor(name=agent.name))

    @property
    def contained(self) -> bool:
        """Whether agents can write nowhere but in their own clones."""
        return self.containment is not None and self.options.isolation == "clone"

    def terms_of(self, claim: Claim, task: Task) -> TaskTerms:
        """Return what *task* is judged by: what its file said when the batch took it, or else says now."""
        batches, batch = self.store.batches, self.batch.record.id
        kept = batches.terms_of(batch, claim.work)
        if kept is None:
            batches.freeze(batch, {claim.work: TaskTerms.of(task).to_json()})
            return TaskTerms.of(task)
        return TaskTerms.from_json(kept)

    def changes_of(self, task: Task) -> tuple[str, ...]:
        """Return what the file of *task* says otherwise now than the terms that it is judged by."""
        try:
            return TaskTerms.of(task).changes(read_task(Path(task.path), self.service.settings))
        except Unreadable as error:
            return (f"its file cannot be read any more: {error}",)

    def decide(self, task: Task, claim: Claim, completion: TaskCompletion, agent: str) -> None:
        """Commit a result that changes no file, as the task's own cannot be changed."""
        result = {
            "item": self.service.relative(task), "task_id": task.id, "task_file": task.path,
            "status": completion.outcome.value, "outcome": completion.text, "worker": agent,
            "attempt": claim.number, "finished": now_text(), "commit": completion.commit,
            **completion.details,
        }  # fmt: skip
        self.store.claims.complete_one(Completion(
            attempt=claim.attempt, status=completion.outcome.value, result=result, published=True,
            tokens=completion.tokens, cost_usd=completion.cost_usd,
        ))  # fmt: skip

    def is_fault(self, error: Exception) -> bool:
        """Return whether an error is a fault of the machine or of the user's repository, and no agent's."""
        full = isinstance(error, OSError) and error.errno in _FAULTS
        if full or "No space left" in str(error) or self.trees is None:
            return True
        return not self.trees.repository.git().ok("rev-parse", "--git-dir")

    def is_ours(self, path: str) -> bool:
        """Return whether a path below the root is a task file or the state of a tool, and no work."""
        return is_ours(path, self.service.settings["tasks"]["globs"])

    def in_scope(self, task: Task, path: str) -> bool:
        """Return whether *task* may change *path*."""
        return in_scope(path, task.files, self.is_ours)


@contextmanager
def opened_run(project: Project, batch: Batch, options: RunOptions) -> Iterator[RunContext]:
    """Open all that a run's attempts share, on the batch's store; close it at the end."""
    store, record = batch.store, batch.record
    router = router_of(options, store.settings, store.batches.spent_by_runner(record.id))
    name = name_of(router)
    worker = Worker(
        id=new_worker_id("run", os.getpid()), kind=WorkerKind.PROCESS, name=name, process=this_process()
    )
    running: dict[str, Claim | None] = {}

    def tell(what: RunEvent, task: str, **details: Any) -> None:
        data = {key: value for key, value in ({"task": task} | details).items() if value not in ("", None)}
        claim = running.get(task)
        with contextlib.suppress(OSError):  # a full disk costs the event, and no agent's work
            work, attempt = (claim.work, claim.attempt) if claim else (None, None)
            store.events.add(what, data, batch=record.id, work=work, attempt=attempt)

    folder = project.state / "worktrees" / record.name
    trees: Workspaces | None = None
    pool = integration = watch = delivery = repository = None
    if options.isolation != "none":
        repository = Repository.read(project.root)
    containment = containment_of(options, store.settings, project, repository, batch.folder)
    if repository is not None:
        trees = (Clones if options.isolation == "clone" else Worktrees)(repository, folder, record.name)
        pool = WorkspacePool(trees, store.settings["worktree"], batch.logs, record.name, containment)
        globs = store.settings["tasks"]["globs"]
        watch = CheckoutWatch(project, repository, lambda path: is_ours(path, globs), store.merges.is_known)
        if options.merge != "none":
            integration = Integration(
                repository, folder, record.name, options.start_branch, options.start_commit,
                store.merges.of_batch(record.id), prepare=pool.prepare_merged,
            )  # fmt: skip
    supervisor = supervisor_of(batch, options, worker.id, tell)
    checks = replace(Checks.of(store.settings, containment), monitor=supervisor.monitor)
    if integration is not None and store.shared:
        delivery = delivery_of(project, store, integration, options, worker, checks)
        integration = None
    lock = WorkerLock(store.workers, worker.id)
    about = {"batch": record.name, "project": str(project.root)}
    live = LiveIndex()  # each attempt looks its task up three times
    try:
        yield RunContext(
            batch=batch, options=options, router=router, worker=worker, inherit=(lock.descriptor,),
            service=TaskService(
                project, store.settings, Actor(name=name), store, live=live, worker=worker, batch=record.id,
                deliver=delivery.branch if delivery else "",
            ),
            supervisor=supervisor, containment=containment, checks=checks,
            trees=trees, pool=pool, integration=integration, delivery=delivery, watch=watch, tell=tell,
            running=running, notifier=Notifier(store.settings["notify"], about),
        )  # fmt: skip
    finally:
        if pool is not None:
            pool.shut()
        live.close()
        lock.close()


def gather(run: RunContext, task: Task, tree: Tree | None) -> Gathered | None:
    """Gather what an agent has left into commits on its branch; None if it had no folder of its own."""
    if tree is None or run.trees is None:
        return None
    message = f"{task.title}\n\nLeft uncommitted by its agent."
    return run.trees.gather(tree, message, lambda path: run.in_scope(task, path))


def evidence_of(  # noqa: PLR0913, PLR0917 - all that is known of an attempt
    run: RunContext,
    task: Task,
    gathered: Gathered | None,
    end: AgentEnd,
    reported: Reported | None,
    before: Snapshot | None,
    log: str = "",
    filed: Task | None = None,
) -> Evidence:
    """Verify what an agent has left, and return all that is known of the attempt.

    Args:
        run: The run.
        task: What the agent was to do.
        gathered: What was gathered in its folder, if it had one of its own.
        end: How it ended.
        reported: What it reported.
        before: What the checkout was like as it began; None where it had no folder of its own.
        log: Path of its output, without the ending.
        filed: See `AttemptWork.filed`.
    """
    settings = run.service.settings
    accepts = settings["run"]["accept_reports"] if task.accept_reports is None else task.accept_reports
    common: dict[str, Any] = {
        "end": end,
        "reported": reported,
        "names_files": bool(task.files),
        "worktree": gathered is not None,
        "accept_reports": accepts is True,
        "terms_changed": run.changes_of(filed or task),
        "contained": run.contained,
    }
    place = gathered.place if gathered else run.project.root
    checked = None
    if end.how is How.ENDED and not (gathered and gathered.begun):
        checked = run.checks.verify(task, place, log)
    if gathered is None or run.watch is None or before is None:
        return Evidence(**common, verify=checked)
    return Evidence(
        **common,
        commits=gathered.commits,
        files=gathered.files,
        outside=tuple(path for path in gathered.files if not run.in_scope(task, path)),
        leads_out=gathered.leads_out,
        uncommitted_outside=(*gathered.outside, *gathered.left),
        astray=gathered.astray,
        conflicts=gathered.conflicts or ((gathered.begun,) if gathered.begun else ()),
        main_changed=tuple(run.watch.changed_since(before)),
        suspects=tuple(sorted(run.running.keys() - {task.id})),
        verify=checked,
    )


def merged_before(run: RunContext, claim: Claim) -> Verdict | None:
    """Return the verdict where an earlier attempt died between its merge and its result."""
    if run.integration is None:
        return None
    for commit, moved in run.integration.log.of_work(claim.work):
        # Noted once it was verified, before git moved the branch.
        if moved or run.integration.repository.git().contains(run.integration.tip, commit):
            return Verdict(
                outcome=Outcome.SUCCESS, status=TaskStatus.DONE,
                text="merged by an attempt that died after that",
                evidence={"commit": commit, "merged": True}, merge=False, keep=False,
            )  # fmt: skip
    return None


def require_held(run: RunContext, claim: Claim) -> None:
    """Raise unless the claim is still held: what was cancelled meanwhile is not merged any more.

    Raises:
        ClaimLost: It is not.
    """
    claims = run.store.claims
    if claims.renew([claim.attempt]):
        lost = claims.loss(claim.attempt)
        raise ClaimLost(lost or Loss(key=claim.key, attempt=claim.number, reason="finished"))


def judge(  # noqa: PLR0913, PLR0917 - all that is known of the attempt
    run: RunContext,
    task: Task,
    tree: Tree | None,
    end: AgentEnd,
    reported: Reported | None,
    before: Snapshot | None,
    log: str,
    filed: Task | None = None,
) -> tuple[Gathered | None, Verdict]:
    """Gather what the agent left, and decide; what it broke so that nobody can look fails it alone."""
    gathered = None
    try:
        gathered = gather(run, task, tree)
        evidence = evidence_of(run, task, gathered, end, reported, before, log, filed)
        return gathered, decide_outcome(evidence)
    except (GitError, OSError, ValueError, RecursionError) as error:
        if run.is_fault(error):
            raise
        return gathered, not_gathered(f"{type(error).__name__}: {error}")
