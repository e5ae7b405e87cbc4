"""What would run, and what is skipped and why: one answer for the tool and the command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.model import TaskHead
from ..git.oversight import is_ours
from ..git.work import in_scope
from ..queue.batches import create_of_tasks
from ..tasks.catalog import TaskCatalog
from ..tasks.eligibility import Plan
from ..tasks.terms import own_judge


def plan_answer(
    catalog: TaskCatalog, made: Plan, tasks: Sequence[TaskHead], *, creates: bool = False
) -> dict[str, Any]:
    """Return what would run, as plain data; make a batch of it if that is asked for.

    Args:
        catalog: The project's tasks.
        made: The plan.
        tasks: The tasks that it is of.
        creates: Whether to make a batch of what would run.
    """
    by_path = {task.path: task for task in tasks}
    answer = {
        "run": [task.id for task in made.run],
        "skipped": made.by_reason(),
        "unreadable": catalog.unreadable,
        "warnings": _own_judges(catalog, [by_path[named.path] for named in made.run]),
    }
    if creates and made.run:
        skipped = [(catalog.relative(task), why) for task, why in made.skipped]
        with create_of_tasks(catalog.project, list(map(catalog.relative, made.run)), skipped) as batch:
            answer["batch"] = batch.id
    return answer


def _own_judges(catalog: TaskCatalog, tasks: Sequence[TaskHead]) -> list[str]:
    """Return the tasks that could decide themselves whether they are done, a line each."""

    def is_task_file(path: str) -> bool:
        return is_ours(path, catalog.settings["tasks"]["globs"])

    def why(task: TaskHead) -> str:
        return own_judge(task, is_task_file, lambda path: in_scope(path, task.files), catalog.relative(task))

    return [
        f"{task.id} is its own judge: {said}; look at what it did before you rely on it"
        for task in tasks
        if (said := why(task))
    ]
