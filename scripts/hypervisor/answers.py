"""What tools and commands answer with, as plain data: one shape for both."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .batches import Batch, settings_of
from .claiming import Hold
from .claims.directory import DirectoryStore, Policy
from .commission import Commission, Kind
from .desk import Desk
from .endings import Ending
from .errors import UsageError
from .events import read
from .graph import graph_of
from .model import Complexity, Priority, Task, TaskHead, TaskStatus
from .progress import Progress
from .summary import STATES, Census, count_entry, count_skipped, entries
from .tasklist import Caller, TaskList
from .tasks import read_task

#: How many events of a task are shown: its last.
_HISTORY = 12
#: How many names of waiting items a status shows.
_NAMES = 50


def task_row(tasks: TaskList, task: TaskHead) -> dict[str, Any]:
    """Return a task in one row; what is empty is left out, but for the assignee."""
    row = {
        "id": task.id,
        "title": task.title,
        "status": task.status or task.status_word,
        "assignee": list(task.assignee),
        "priority": task.priority,
        "complexity": task.complexity,
        "project": task.project,
        "path": tasks.relative(task),
    }
    return {key: value for key, value in row.items() if value or key == "assignee"}


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
    refusal = desk.refusals(desk.tasks())(task)
    row["ready"] = refusal is None
    if refusal is not None:
        row["why_not"] = refusal
    history = [
        {key: e[key] for key in e if key not in ("task", "session")} for e in read(desk.project, task.id)
    ]
    row["history"] = history[-_HISTORY:]
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


def index_stats(desk: Desk, *, projects: bool) -> dict[str, Any]:
    """Count the tasks of a project, and name what is wrong with their dependencies.

    Args:
        desk: Whose tasks.
        projects: Whether to count each ``project:`` by itself as well.
    """
    tasks = desk.tasks()
    refusal = desk.refusals(tasks)
    graph = graph_of(tasks)
    stats: dict[str, Any] = {
        "root": str(desk.project.root),
        "total": len(tasks),
        "ready": sum(refusal(task) is None for task in tasks),
        "by_status": _counted(task.status or task.status_word or "no status" for task in tasks),
        "by_complexity": _counted(task.complexity for task in tasks if task.complexity),
        "unreadable": desk.unreadable,
        "cycles": [list(cycle) for cycle in graph.cycles],
        "unknown_dependencies": {name: list(by) for name, by in graph.unknown.items()},
    }
    if projects:
        stats["by_project"] = {
            name: _counted(task.status or "no status" for task in tasks if task.project == name)
            for name in sorted({task.project for task in tasks})
        }
    return stats


def dependency_faults(stats: Mapping[str, Any]) -> list[str]:
    """Return what `index_stats` found wrong with dependencies, a line each."""
    lines = [f"circle of dependencies: {' -> '.join([*cycle, cycle[0]])}" for cycle in stats["cycles"]]
    unknown = stats["unknown_dependencies"].items()
    return lines + [f"no such task: {name}, on which {', '.join(by)} depends" for name, by in unknown]


def batch_status(batch: Batch) -> dict[str, Any]:
    """Return where a batch stands: the census, who runs what, what may be begun, what may not and why."""
    census = Census()
    progress, now = Progress.of(batch.folder), time.time()
    running: list[dict[str, Any]] = []
    waiting: list[str] = []
    not_ready: dict[str, str] = {}
    tasks: dict[str, TaskHead] = {}
    refusal: Callable[[TaskHead], str | None] = lambda _: None  # noqa: E731 - of items that are no tasks
    if batch.project is not None:
        listed = TaskList(batch.project, settings_of(batch.project.state), Caller(name=""))
        tasks = {os.path.realpath(task.path): task for task in listed.tasks()}
        refusal = listed.refusals(tasks.values())
    for entry in entries(batch):
        count_entry(census, batch, entry)
        if entry is not None and entry.state == "running":
            store = DirectoryStore(entry.place.root, policy=Policy(patient=False))
            held = store.held(entry.place.key)
            who = (
                {"holder": held.holder.name, "silent_seconds": round(held.silent_seconds, 1)} if held else {}
            )
            item = tasks[entry.place.path].id if entry.place.path in tasks else entry.place.item
            running.append({"item": item, **who, **_at_work(progress, item, now)})
        elif entry is not None and entry.state == "waiting":
            task = tasks.get(entry.place.path)
            why = refusal(task) if task else None
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
    }


def check_values(values: Mapping[str, str]) -> None:
    """Hold that keys with a closed set of words get one of them.

    Raises:
        UsageError: One does not.
    """
    for key, known in (("priority", Priority), ("complexity", Complexity)):
        if key in values and values[key] not in list(known):
            raise UsageError(f"{key} {values[key]}: must be one of {', '.join(known)}")


def matches(asked: Mapping[str, Any], task: TaskHead) -> bool:
    """Tell whether *task* is what is asked for, by status, project, complexity, parent, assignee, tags."""
    for key in ("status", "project", "complexity", "parent"):
        wanted = asked.get(key)
        if wanted is not None and str(wanted).lower() != str(getattr(task, key) or "").lower():
            return False
    assignee = asked.get("assignee")
    names = [name.lower() for name in task.assignee]
    if assignee is not None and assignee.lower().lstrip("@") not in names:
        return False
    return all(tag in task.tags for tag in asked.get("tags") or ())


def _counted(words: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return dict(sorted(counts.items()))
