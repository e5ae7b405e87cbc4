"""What runs in a project now, what waits, and what the machine has left: the answer of `get_task_stats`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from ..claims.directory import DirectoryStore, Policy
from ..claims.workers import lock_state
from ..core.commission import BRANCH
from ..core.errors import HypervisorError, UsageError
from ..core.model import Task
from ..core.paths import Project
from ..events import RunEvent, log_of
from ..git.git import Git
from ..monitor.readings import Sampler
from ..monitor.zones import Bounds, Gauge
from ..orchestrator.handover import branch_of
from ..orders import read as read_orders
from ..queue.batch import Batch
from ..queue.batches import open_folder
from ..queue.progress import Progress
from ..queue.summary import entries
from ..tasks.tasklist import Caller, TaskList

#: The newest batches that are looked at for those that are not run by a coordinator.
_NEWEST = 10
_NAMES = 50
#: Over which CPU is measured.
_CPU_SECONDS = 0.25
#: What it was since a look of before that is older says nothing of now.
_FRESH_SECONDS = 10.0


def workload(project: Project, settings: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what runs, what is queued, and the machine's state, as plain data."""
    listed = TaskList(project, settings, Caller(name=""))
    batches: list[dict[str, Any]] = []
    tasks: list[dict[str, Any]] = []
    seen: set[str] = set()
    for batch, live in _batches(project):
        row, running = _row(batch, listed)
        if live or running:
            batches.append({**row, "coordinator": live})
            tasks += running
            seen |= {one["path"] for one in running}
    # What is held without a batch: a person's, or a session's own.
    tasks += [{**_named(listed, path), "path": path} for path in sorted(_held(project) - seen)]
    return {
        "running": len(tasks),
        "queued": sum(row["queued"] for row in batches),
        "branch_id": current_branch(project, environ),
        "tasks": [{key: value for key, value in one.items() if key != "path"} for one in tasks[:_NAMES]],
        "batches": batches,
        "resources": resources(project, settings),
    }


def current_branch(project: Project, environ: Mapping[str, str]) -> str:
    """Return the hive's branch for whoever names none: his batch's, else the git branch, else ``main``."""
    if environ.get(BRANCH):
        return environ[BRANCH]
    try:
        return Git(project.root).branch() or "main"
    except (HypervisorError, OSError):
        return "main"


def branch_of_task(task: Task, project: Project, environ: Mapping[str, str]) -> str:
    """Return the hive's branch of a task: its own, if it was spawned on one, else `current_branch`."""
    own = task.front.get("branch")
    return own if isinstance(own, str) and own else current_branch(project, environ)


def resources(project: Project, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the machine's zone and its figures now."""
    sampler, gauge = _sampler(str(project.root)), Gauge(Bounds.of(settings["machine"], cpu=True))
    now = time.monotonic()
    if now - _LOOKED.get(sampler, 0.0) > _FRESH_SECONDS:  # else CPU is told since the last look
        sampler.read()
        time.sleep(_CPU_SECONDS)
    _LOOKED[sampler] = time.monotonic()
    standing = gauge.read(sampler.read())
    return {
        "zone": standing.zone.word, **({"why": standing.why} if standing.why else {}),
        **standing.reading.figures(),
    }  # fmt: skip


# ---------------------------------------------------------------------- details

#: When each sampler was read last.
_LOOKED: WeakKeyDictionary[Sampler, float] = WeakKeyDictionary()


@lru_cache(maxsize=4)
def _sampler(root: str) -> Sampler:
    return Sampler(root)


def _batches(project: Project) -> list[tuple[Batch, bool]]:
    """Return the batches that may have work in hand, the newest first, and whether each is being run."""
    try:
        names = sorted(os.listdir(project.batches), reverse=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = []
    for at, name in enumerate(names):
        folder = project.batches / name
        live = _is_run(project, str(folder))
        if not live and at >= _NEWEST:
            continue
        try:
            found.append(
                (open_folder(str(folder), cwd=str(project.root), project=project, write=False), live)
            )
        except UsageError:  # it is being made, or is none
            continue
    return found


def _is_run(project: Project, folder: str) -> bool:
    """Tell whether a coordinator that lives works on the batch in *folder*."""
    worker = ""
    for event in log_of(folder).read():
        if event.get("event") == RunEvent.STARTED:
            worker = str(event.get("worker", ""))
        elif event.get("event") == RunEvent.FINISHED:
            worker = ""
    return bool(worker) and "/" not in worker and lock_state(str(project.state / "workers"), worker) == "held"


def _row(batch: Batch, listed: TaskList) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    progress, now = Progress.of(batch.folder), time.time()
    branch = strategy = ""
    try:
        orders = read_orders(batch.folder)
        branch, strategy = branch_of(orders), orders.strategy
    except UsageError:
        pass  # of workers inside a session
    running, queued = [], 0
    for entry in entries(batch):
        if entry is None:
            continue
        queued += entry.state == "waiting"
        if entry.state == "running":
            named = _named(listed, entry.place.path)
            agent = progress.at_work.get(named["task_id"])
            since = {"seconds": round(agent.seconds(now), 1)} if agent else {}
            running.append({**named, "batch_id": batch.id, **since, "path": entry.place.path})
    row = {
        "batch_id": batch.id, "branch_id": branch, "strategy": strategy, "running": len(running),
        "queued": queued, "held_up": progress.held_up,
    }  # fmt: skip
    return {key: value for key, value in row.items() if value != ""}, running


def _named(listed: TaskList, path: str) -> dict[str, Any]:
    """Return how a task is called, and its type."""
    relative = os.path.relpath(path, os.path.realpath(listed.project.root))
    try:
        task = listed.find(relative)
    except UsageError:
        return {"task_id": relative}
    return {"task_id": task.id, **({"type": task.type} if task.type else {})}


def _held(project: Project) -> set[str]:
    """Return the paths of the tasks that somebody holds now."""
    store = DirectoryStore(str(project.state), policy=Policy(patient=False))
    if not os.path.isdir(store.layout.locks):
        return set()
    found = set()
    for key in store.layout.unfinished():
        held = store.held(key) if store.is_held(key) else None
        edit = held.note.get("edit") if held is not None else None
        if isinstance(edit, dict) and edit.get("path"):
            found.add(os.path.realpath(str(edit["path"])))
    return found
