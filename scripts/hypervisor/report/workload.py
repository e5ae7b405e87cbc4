"""What runs in a project now, what waits, and what the machine has left: the answer of `get_task_stats`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from ..core.assignment import BRANCH
from ..core.errors import HypervisorError, UsageError
from ..core.model import Task
from ..core.project import Project
from ..core.settings import settings_of
from ..git.git import Git
from ..monitor.metrics import Sampler
from ..monitor.zones import ZoneBounds, ZoneTracker
from ..orchestrator.options import options_of
from ..queue.batch import Batch
from ..queue.batches import open_record
from ..queue.summary import take_census
from ..store.progress import HeldItem
from ..store.store import Store
from ..tasks.actor import Actor
from ..tasks.catalog import TaskCatalog
from ..tasks.view import CatalogView
from .activity import coordinator_lives, timeline_of

#: The newest batches that are looked at for one that is run and has nothing in work at the moment.
_NEWEST = 10
_NAMES = 50
#: Over which CPU is measured.
_CPU_SECONDS = 0.25
#: The mean since an earlier look that is older says nothing of now.
_FRESH_SECONDS = 10.0


def workload(project: Project, settings: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what runs, what is queued, and the machine's state, as plain data."""
    batches: list[dict[str, Any]] = []
    tasks: list[dict[str, Any]] = []
    try:
        store = Store.open(project.state, settings_of(project.state), create=False)
    except FileNotFoundError:
        store = None
    if store is not None:
        with store:
            store.rescuer.rescue_now_and_then()
            with TaskCatalog(project, settings, Actor(name=""), store).view() as view:
                batches, tasks = _in_store(project, store, view)
    return {
        "running": len(tasks),
        "queued": sum(row["queued"] for row in batches),
        "branch_id": current_branch(project, environ),
        "tasks": tasks[:_NAMES],
        "batches": batches,
        "resources": resources(project, settings),
    }


def current_branch(project: Project, environ: Mapping[str, str]) -> str:
    """Return the hive's branch where none is named: the batch's, else the git branch, else ``main``."""
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
    sampler, tracker = _sampler(str(project.root)), ZoneTracker(ZoneBounds.of(settings["machine"], cpu=True))
    now = time.monotonic()
    if now - _LOOKED.get(sampler, 0.0) > _FRESH_SECONDS:  # else CPU is the mean since the last look
        sampler.read()
        time.sleep(_CPU_SECONDS)
    _LOOKED[sampler] = time.monotonic()
    state = tracker.read(sampler.read())
    return {
        "zone": state.zone.word, **({"why": state.why} if state.why else {}),
        **state.reading.figures(),
    }  # fmt: skip


# ---------------------------------------------------------------------- details

#: When each sampler was read last.
_LOOKED: WeakKeyDictionary[Sampler, float] = WeakKeyDictionary()


@lru_cache(maxsize=4)
def _sampler(root: str) -> Sampler:
    return Sampler(root)


def _in_store(
    project: Project, store: Store, view: CatalogView
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the batches that are run or have items in work, the newest first, and all items in work."""
    held, now = store.progress.held(), store.progress.now()
    of_batch: dict[int | None, list[HeldItem]] = {}
    for one in held:
        of_batch.setdefault(one.batch, []).append(one)
    batches = []
    for number, record in enumerate(reversed(store.batches.all())):
        running = of_batch.get(record.id, [])
        if not running and number >= _NEWEST:
            continue
        batch = open_record(store, record, project)
        live = coordinator_lives(store, timeline_of(batch))
        if live or running:
            batches.append(_row(batch, live=live, running=len(running)))
    names = {record.id: record.name for record in store.batches.all()}
    tasks = []
    for one in held:
        in_batch = {"batch_id": names[one.batch]} if one.batch in names else {}
        seconds = round(max(0.0, now - one.claimed_at / 1000), 1)
        tasks.append({**_named(project, view, one.text), **in_batch, "seconds": seconds})
    return batches, tasks


def _row(batch: Batch, *, live: bool, running: int) -> dict[str, Any]:
    branch = strategy = ""
    try:
        options = options_of(batch)
        branch, strategy = options.hive_branch, options.strategy
    except UsageError:
        pass  # of workers inside a session
    row = {
        "batch_id": batch.id, "branch_id": branch, "strategy": strategy, "running": running,
        "queued": take_census(batch).of("waiting"), "held_up": timeline_of(batch).held_up,
        "coordinator": live,
    }  # fmt: skip
    return {key: value for key, value in row.items() if value != ""}


def _named(project: Project, view: CatalogView, text: str) -> dict[str, Any]:
    """Return what an item is called, and its type if it is a task."""
    task = view.at_path(os.path.join(os.path.realpath(project.root), text)) if text.endswith(".md") else None
    if task is None:
        return {"task_id": text}
    return {"task_id": task.id, **({"type": task.type} if task.type else {})}
