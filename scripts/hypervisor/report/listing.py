"""Tasks in rows and counts, as plain data. Imports little: most commands need no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.model import Complexity, TaskHead, TaskStatus
from ..tasks.view import Asked

if TYPE_CHECKING:
    from ..tasks.catalog import TaskCatalog
    from ..tasks.service import TaskService


def task_row(tasks: TaskCatalog | TaskService, task: TaskHead) -> dict[str, Any]:
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


def task_rows(tasks: TaskCatalog | TaskService, found: Sequence[TaskHead], total: int) -> dict[str, Any]:
    """Return a list of tasks: those that are shown, and how many there are."""
    return {"tasks": [task_row(tasks, task) for task in found], "total": total}


def index_stats(catalog: TaskCatalog, *, projects: bool) -> dict[str, Any]:
    """Count the tasks of a project, and name what is wrong with their dependencies.

    Args:
        catalog: The project's tasks.
        projects: Whether to count each ``project:`` by itself as well.
    """
    with catalog.view() as view:
        _, ready = view.listed(Asked(), limit=0, ready=True)
        by_status = _sorted(view.counts("status").get("", {}))
        stats: dict[str, Any] = {
            "root": str(catalog.project.root),
            "total": sum(by_status.values()),
            "ready": ready,
            "by_status": by_status,
            "by_complexity": _sorted(view.counts("complexity").get("", {})),
            "unreadable": catalog.unreadable,
            "cycles": [list(cycle) for cycle in view.edges.cycles],
            "unknown_dependencies": {name: list(by) for name, by in view.edges.unknown.items()},
        }
        if projects:
            stats["by_project"] = {
                name: _sorted({word or "no status": n for word, n in words.items()})
                for name, words in sorted(view.counts("project").items())
            }
    return stats


def dependency_faults(stats: Mapping[str, Any]) -> list[str]:
    """Return what `index_stats` found wrong with dependencies, a line each."""
    lines = [f"circle of dependencies: {' -> '.join([*cycle, cycle[0]])}" for cycle in stats["cycles"]]
    unknown = stats["unknown_dependencies"].items()
    return lines + [f"no such task: {name}, on which {', '.join(by)} depends" for name, by in unknown]


def asked_of(asked: Mapping[str, Any]) -> Asked:
    """Return which tasks are asked for by the filters of a tool or a command."""
    status, complexity = asked.get("status"), asked.get("complexity")
    return Asked(
        status=TaskStatus(status) if status else None,
        complexity=Complexity(complexity) if complexity else None,
        project=asked.get("project"), parent=asked.get("parent"), assignee=asked.get("assignee"),
        tags=asked.get("tags") or (),
    )  # fmt: skip


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))
