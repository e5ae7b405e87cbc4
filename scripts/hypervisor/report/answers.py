"""The answers of tools and commands, as plain data: one shape for both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.assignment import AssignedTask, ReportKind
from ..core.errors import UsageError
from ..core.model import Complexity, Priority, Task, TaskHead, TaskStatus
from ..core.settings import settings_of
from ..core.text import time_text
from ..queue.batch import Batch
from ..queue.summary import take_census
from ..store.batches import Running
from ..store.records import Attempt
from ..tasks.actor import Actor
from ..tasks.catalog import TaskCatalog
from ..tasks.completion import TaskCompletion
from ..tasks.files import read_task
from ..tasks.index_watch import LiveIndex
from ..tasks.service import Hold, TaskService
from ..tasks.view import CatalogView
from .activity import active_items
from .listing import task_row
from .timeline import Timeline

#: The most attempts of a task that are shown: its last.
_HISTORY = 12
#: The most names of waiting items that a status shows, and the most items that are looked at for them.
_NAMES, _LOOKED_AT = 50, 2000


def task_details(service: TaskService, task: TaskHead) -> dict[str, Any]:
    """Return all that is known of a task: its file, its claim, its attempts."""
    row = task_row(service, task)
    for key in ("parent", "depends_on", "files", "needs", "tags", "receipts", "receipts_to", "verify"):
        if getattr(task, key):
            row[key] = getattr(task, key)
    held = service.held(task)
    if held is not None:
        row["claim"] = {
            "attempt": held.number, "holder": held.worker.name,
            "silent_seconds": round(held.silent / 1000, 1),
        }  # fmt: skip
    refusal = service.why_not(task)
    row["ready"] = refusal is None
    if refusal is not None:
        row["why_not"] = refusal
    store = service.catalog.store
    attempts = store.claims.attempts(service.key(task)) if store is not None else []
    row["history"] = [_attempt_row(one) for one in attempts[-_HISTORY:]]
    return row | {"body": read_task(Path(task.path), service.settings).body}


def _attempt_row(one: Attempt) -> dict[str, Any]:
    ended = {} if one.ended_at is None else {"ended": time_text(one.ended_at / 1000)}
    row = {
        "attempt": one.number, "by": one.name or one.worker, "claimed": time_text(one.claimed_at / 1000),
        **ended, "outcome": one.outcome, "why": one.detail, "tokens": one.tokens, "cost_usd": one.cost_usd,
        "log": one.log,
    }  # fmt: skip
    return {key: value for key, value in row.items() if value not in (None, "")}


def claim_answer(service: TaskService, task: Task, hold: Hold) -> dict[str, Any]:
    """Return the answer to a caller that has claimed a task."""
    row = task_row(service, task)
    for key in ("files", "receipts", "receipts_to", "verify", "depends_on"):
        if getattr(task, key):
            row[key] = getattr(task, key)
    claim = {"attempt": hold.attempt, "expires_in": hold.expires_in}
    return {"task": row | {"body": task.body}, "claim": claim}


def reported(
    service: TaskService, assigned: AssignedTask, completion: TaskCompletion | str
) -> dict[str, Any]:
    """Write the report of an agent on the task that it was started for; return the answer to it.

    Args:
        service: The project's tasks.
        assigned: The agent's task.
        completion: How it says that the task ended; a text for "not begun", and why.
    """
    if isinstance(completion, str):
        assigned.report("released", text=completion)
    else:
        kind: ReportKind = "done" if completion.status is TaskStatus.DONE else "blocked"
        assigned.report(
            kind, text=completion.text, commit=completion.commit, evidence=completion.evidence,
            next_step=completion.next_step,
        )  # fmt: skip
    task = service.find(assigned.task)
    return {"task": task_row(service, task), "result": "reported; it is checked once you have ended"}


def batch_status(batch: Batch, live: LiveIndex | None = None) -> dict[str, Any]:
    """Return where a batch stands: the census, who runs what, what waits, and why some of it cannot start.

    Args:
        batch: The batch.
        live: The index of a process that stays.
    """
    batch.store.rescuer.rescue_now_and_then()
    if batch.project is None:
        return _batch_status(batch, None)
    settings = settings_of(batch.project.state)
    catalog = TaskCatalog(batch.project, settings, Actor(name=""), batch.store, live=live)
    with catalog.view() as view:
        return _batch_status(batch, view)


def _batch_status(batch: Batch, view: CatalogView | None) -> dict[str, Any]:
    census, timeline = take_census(batch), timeline_of(batch)
    left = census.of("running") + census.of("waiting")
    waiting, not_ready = _waiting(batch, view) if census.of("waiting") else ([], {})
    spent = batch.store.progress.spending(batch.number)
    return {
        "batch_id": batch.id,
        "census": census.to_json(),
        "closes": census.closes,
        "finished": left == 0 and census.closes,
        "running": _running(batch, view, timeline),
        "waiting": waiting,
        **({"not_ready": not_ready} if not_ready else {}),
        **({"level": timeline.level} if timeline.level else {}),
        **({"held_up": timeline.held_up} if timeline.held_up else {}),
        **({"cost_usd": spent.cost_usd} if spent.cost_usd is not None else {}),
    }


def timeline_of(batch: Batch) -> Timeline:
    """Return the events of a batch's runs so far."""
    timeline = Timeline()
    for event in batch.store.events.since(0, batch=batch.number):
        timeline.add(event)
    return timeline


def _waiting(batch: Batch, view: CatalogView | None) -> tuple[list[str], dict[str, str]]:
    """Return the first items that may start, and the first that may not, each with the reason."""
    ready: list[str] = []
    not_ready: dict[str, str] = {}
    for number, item in enumerate(batch.store.batches.items(batch.number, ("ready",))):
        if number >= _LOOKED_AT or min(len(ready), len(not_ready)) >= _NAMES:
            break
        ref = batch.ref_of(item.work)
        task = view.at_path(ref.path) if view is not None and ref.task else None
        why = view.eligibility(task) if view is not None and task is not None else None
        if task is None or why is None:
            ready.append(task.id if task is not None else ref.item)
        elif len(not_ready) < _NAMES:
            not_ready[task.id] = why
    return ready[:_NAMES], not_ready


def _running(batch: Batch, view: CatalogView | None, timeline: Timeline) -> list[dict[str, Any]]:
    def name_of(one: Running) -> str:
        ref = batch.ref_by(one.key, one.text)
        task = view.at_path(ref.path) if view is not None and ref.task else None
        return task.id if task is not None else ref.item

    running, now = batch.store.batches.running(batch.number), batch.store.progress.now()
    rows = active_items(running, timeline, now, name_of=name_of, folder=batch.folder)
    return [
        {
            "item": row["name"], "holder": row["who"], "attempt": row["attempt"],
            "seconds": round(max(0.0, now - row["since"]), 1), "attempts_before": one.number - 1,
            **({"output_seconds_ago": row["output_ago"]} if "output_ago" in row else {}),
            **({"log": one.log} if one.log else {}),
            **({"overseer": row["overseer"]} if "overseer" in row else {}),
        }
        for row, one in zip(rows, running, strict=True)
    ]  # fmt: skip


def check_values(values: Mapping[str, str]) -> None:
    """Raise unless keys with a closed set of words have one of them.

    Raises:
        UsageError: One has not.
    """
    for key, known in (("priority", Priority), ("complexity", Complexity)):
        if key in values and values[key] not in list(known):
            raise UsageError(f"{key} {values[key]}: must be one of {', '.join(known)}")
