"""The tools on agents and what they learn: spawned tasks, what runs, the learner, the hive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...core.assignment import BATCH
from ...core.errors import HypervisorError, Refused, UsageError
from ...core.project import Project
from ...core.settings import settings_of
from ...learning import hive
from ...learning.hive import Hive
from ...learning.lessons import Lessons, advice_answer
from ...orchestrator.concurrency import capacity_of
from ...report.workload import branch_of_task, current_branch, workload
from ...store.lessons import Lesson
from ...store.store import Store
from ...tasks.actor import Actor
from ...tasks.catalog import TaskCatalog
from ...tasks.files import read_task
from ..arguments import Arguments
from ..context import ToolContext

#: As many findings as an answer shows.
_FINDINGS = 20
#: The most that advice lets run at once.
_CAP = 8


def _spawn_parallel_tasks(context: ToolContext, arguments: Arguments) -> Any:
    # All of a coordinator: a tenth of the time that a server takes to start, and few sessions spawn.
    from ...orchestrator.spawn import (  # noqa: PLC0415
        arrange_words,
        make,
        options_for,
        read_requests,
        start,
    )

    if context.assigned is not None:
        raise Refused(
            f"you were started for {context.assigned.task} alone, and start no others; if it is too much for "
            f'one, update_task(status="blocked") and say in next_step which tasks it should be'
        )
    requests = read_requests(arguments["tasks"])
    strategy, pattern = arrange_words(arguments.get("strategy", ""))
    project = context.project
    branch = arguments.get("branch_id", "") or current_branch(project, context.environ)
    options = options_for(project, settings_of(project.state), strategy, branch)
    spawned = make(project, requests, pattern, options)
    with spawned.batch as batch:
        pid = start(project, batch, context.environ)
    return spawned.answer(pid)


def _get_task_stats(context: ToolContext, _: Arguments) -> Any:
    return workload(context.project, settings_of(context.project.state), context.environ)


def _learn_parallelization(context: ToolContext, arguments: Arguments) -> Any:
    cost = arguments.get("resource_cost", {})
    unknown = [str(key) for key in cost if key not in ("cpu", "ram")]
    figures = [cost.get(key) for key in ("cpu", "ram")]
    if unknown or any(not isinstance(one, int | float | None) or isinstance(one, bool) for one in figures):
        raise UsageError("learn_parallelization: resource_cost must be {cpu: cores, ram: MB}, both numbers")
    said = any(key in arguments for key in ("parallel_benefit", "notes", "resource_cost"))
    name = arguments["task_type"].strip()
    capacity = capacity_of(context.project, settings_of(context.project.state), _CAP)
    rows: list[dict[str, Any]] = []  # without a store nothing is known, and a question makes none
    with suppress(FileNotFoundError), _store(context.project, create=said) as store:
        lessons = Lessons(store.lessons)
        if said:
            cpu, ram = Lessons.in_units(figures[0], figures[1], capacity.cores)
            lessons.add(Lesson(
                task_type=name, benefit=arguments.get("parallel_benefit"), notes=arguments.get("notes", ""),
                cpu=cpu, ram_mb=ram, author=arguments.get("caller_agent", "") or "claude",
            ))  # fmt: skip
        rows = lessons.rows(capacity, name)
    return advice_answer(rows, name, kept=said)


def _share_finding(context: ToolContext, arguments: Arguments) -> Any:
    assigned = context.assigned
    task = arguments.get("task_id", "") or (assigned.task if assigned else "")
    branch = arguments.get("branch_id", "") or _branch_of_task(context, task)
    with _store(context.project) as store:
        finding = Hive(store.findings).share(
            arguments["text"], branch=branch, task=task,
            batch=context.environ.get(BATCH, "") if assigned else "",
            author=arguments.get("caller_agent", "") or arguments.get("caller_session", ""),
        )  # fmt: skip
    return hive.shared(finding)


def _search_findings(context: ToolContext, arguments: Arguments) -> Any:
    try:
        with _store(context.project, create=False) as store:
            known = Hive(store.findings)
            query, branch = arguments.get("query", ""), arguments.get("branch_id", "")
            findings = known.search(query, branch=branch, limit=_FINDINGS)
            return hive.found(findings, known.branches() if not findings else {})
    except FileNotFoundError:
        return hive.found([], {})


def _branch_of_task(context: ToolContext, task: str) -> str:
    """Return the branch that a spawned task was given, else the one that is meant where none is named."""
    project = context.project
    if task and not context.assigned:
        settings = settings_of(project.state)
        with suppress(HypervisorError):
            named = TaskCatalog(project, settings, Actor(name="")).find(task)
            return branch_of_task(read_task(Path(named.path), settings), project, context.environ)
    return current_branch(project, context.environ)


@contextmanager
def _store(project: Project, *, create: bool = True) -> Iterator[Store]:
    """Open the project's store for one call.

    Raises:
        FileNotFoundError: There is none, and *create* is False.
    """
    if create:
        project.prepare()
    with Store.open(project.state, settings_of(project.state), create=create) as store:
        yield store


#: By name.
TOOLS: Mapping[str, Callable[[ToolContext, Arguments], Any]] = {
    "spawn_parallel_tasks": _spawn_parallel_tasks,
    "get_task_stats": _get_task_stats,
    "learn_parallelization": _learn_parallelization,
    "share_finding": _share_finding,
    "search_findings": _search_findings,
}
