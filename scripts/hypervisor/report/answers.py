"""What tools and commands answer with, as plain data: one shape for both."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..claims.directory import DirectoryStore, Policy
from ..core.commission import Commission, Kind
from ..core.config import settings_of
from ..core.errors import UsageError
from ..core.model import Complexity, Priority, Task, TaskHead, TaskStatus
from ..history import last
from ..queue.batch import Batch
from ..queue.progress import Progress
from ..queue.summary import STATES, Census, count_entry, count_skipped, entries
from ..tasks.claiming import Hold
from ..tasks.desk import Desk
from ..tasks.endings import Ending
from ..tasks.live import LiveIndex
from ..tasks.looking import Look, look_at
from ..tasks.tasklist import Caller, TaskList
from ..tasks.tasks import read_task
from .listing import task_row

#: How many events of a task are shown: its last.
_HISTORY = 12
#: How many names of waiting items a status shows.
_NAMES = 50


def task_story(desk: Desk, task: TaskHead) -> dict[str, Any]:
    """Return all that is known of a task: its file, its claim, what happened to it."""
    row = task_row(desk, task)
    for key in ("parent", "depends_on", "files", "needs", "tags", "receipts", "receipts_to", "verify"):
        if getattr(task, key):
            row[key] = getattr(task, key)
    held = desk.held(task)
    if held is not None:
        row["claim"] = {
            "generation": held.generation, "holder": held.holder.name,
            "silent_seconds": round(held.silent_seconds, 1),
        }  # fmt: skip
    refusal = desk.why_not(task)
    row["ready"] = refusal is None
    if refusal is not None:
        row["why_not"] = refusal
    row["history"] = [
        {key: event[key] for key in event if key not in ("task", "session")}
        for event in last(desk.project, task.id, _HISTORY)
    ]
    return row | {"body": read_task(Path(task.path), desk.settings).body}


def claim_answer(desk: Desk, task: Task, hold: Hold) -> dict[str, Any]:
    """Return what somebody who has claimed a task is told."""
    row = task_row(desk, task)
    for key in ("files", "receipts", "receipts_to", "verify", "depends_on"):
        if getattr(task, key):
            row[key] = getattr(task, key)
    claim = {"generation": hold.generation, "expires_in": hold.expires_in}
    return {"task": row | {"body": task.body}, "claim": claim}


def reported(desk: Desk, commission: Commission, ending: Ending | str) -> dict[str, Any]:
    """Pass on what an agent says of its commission; return what it is told.

    Args:
        desk: The project's tasks.
        commission: The agent's task.
        ending: How it says that the task ended; a text for "not begun", and why.
    """
    if isinstance(ending, str):
        commission.tell("released", text=ending)
    else:
        kind: Kind = "done" if ending.status is TaskStatus.DONE else "blocked"
        commission.tell(
            kind, text=ending.text, commit=ending.commit, evidence=ending.evidence, next_step=ending.next_step
        )
    task = desk.find(commission.task)
    desk.forget_commission(task)
    return {"task": task_row(desk, task), "result": "reported; it is looked at once you have ended"}


def batch_status(batch: Batch, live: LiveIndex | None = None) -> dict[str, Any]:
    """Return where a batch stands: the census, who runs what, what may be begun, what may not and why.

    Args:
        batch: Which.
        live: The index of a server that stays.
    """
    if batch.project is None:
        return _batch_status(batch, None)
    settings = settings_of(batch.project.state)
    with look_at(TaskList(batch.project, settings, Caller(name=""), live=live)) as look:
        return _batch_status(batch, look)


def _batch_status(batch: Batch, look: Look | None) -> dict[str, Any]:
    census = Census()
    progress, now = Progress.of(batch.folder), time.time()
    running: list[dict[str, Any]] = []
    waiting: list[str] = []
    not_ready: dict[str, str] = {}
    for entry in entries(batch):
        count_entry(census, batch, entry)
        if entry is not None and entry.state == "running":
            store = DirectoryStore(entry.place.root, policy=Policy(patient=False))
            held = store.held(entry.place.key)
            who = (
                {"holder": held.holder.name, "silent_seconds": round(held.silent_seconds, 1)} if held else {}
            )
            task = look.at_real(entry.place.path) if look else None
            item = task.id if task else entry.place.item
            running.append({"item": item, **who, **_at_work(progress, item, now)})
        elif entry is not None and entry.state == "waiting" and min(len(waiting), len(not_ready)) < _NAMES:
            task = look.at_real(entry.place.path) if look else None
            why = look.refusals(task) if look and task else None
            if task is None or why is None:
                waiting.append(task.id if task else entry.place.item)
            elif len(not_ready) < _NAMES:
                not_ready[task.id] = why
    count_skipped(census, batch)
    left = census.of(STATES[-1]) + census.of(STATES[-2])
    return {
        "batch_id": batch.id,
        "census": census.to_json(),
        "closes": census.closes,
        "finished": left == 0 and census.closes,
        "running": running,
        "waiting": waiting[:_NAMES],
        **({"not_ready": not_ready} if not_ready else {}),
        **({"level": progress.level} if progress.level else {}),
        **({"held_up": progress.held_up} if progress.held_up else {}),
        **({"cost_usd": progress.cost_usd} if progress.spent else {}),
    }


def _at_work(progress: Progress, task: str, now: float) -> dict[str, Any]:
    """Return what is known of the agent that a run has put on a task: since when, and how it does."""
    agent = progress.at_work.get(task)
    if agent is None:
        return {}
    before = progress.spent.get(task)
    return {
        "generation": agent.generation,
        "seconds": round(agent.seconds(now), 1),
        "output_seconds_ago": round(agent.silent_seconds(now), 1),
        "log": agent.log,
        **({"attempts_before": before.attempts} if before else {}),
        **({"overseer": progress.overseen[task]} if task in progress.overseen else {}),
    }


def check_values(values: Mapping[str, str]) -> None:
    """Hold that keys with a closed set of words get one of them.

    Raises:
        UsageError: One does not.
    """
    for key, known in (("priority", Priority), ("complexity", Complexity)):
        if key in values and values[key] not in list(known):
            raise UsageError(f"{key} {values[key]}: must be one of {', '.join(known)}")
