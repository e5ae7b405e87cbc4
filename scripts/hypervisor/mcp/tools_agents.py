"""The tools on agents and what they learn: spawned tasks, what runs, the learner, the hive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from ..core.commission import BATCH, Commission
from ..core.config import settings_of
from ..core.errors import HypervisorError, Refused, UsageError
from ..core.machine import Identity
from ..core.paths import Project
from ..learning.advice import Advice, advise
from ..learning.hive import Hive
from ..learning.learner import Known, Lane, Told
from ..learning.learnings import Learnings
from ..orchestrator.pacing import room_of
from ..report.workload import branch_of_task, current_branch, workload
from ..tasks.tasklist import Caller, TaskList
from ..tasks.tasks import read_task
from .arguments import Arguments
from .tools_events import wait_for_events

#: As many as an answer shows.
_FINDINGS = 20
#: What advice takes for as many as may run, where nobody has said.
_CAP = 8


class Box(Protocol):
    """A server's tools, as far as these need it."""

    environ: Mapping[str, str]
    #: The client's process, if it is known.
    client: Identity | None

    @property
    def project(self) -> Project:
        """The project, as it is now."""

    @property
    def commission(self) -> Commission | None:
        """The task for which a coordinator has started this server's client, if one has."""


def _spawn_parallel_tasks(box: Box, arguments: Arguments) -> Any:
    # All of a coordinator: a tenth of the time that a server takes to start, and few sessions spawn.
    from ..orchestrator.spawning import arrange_words, make, orders_of, read_requests, start  # noqa: PLC0415

    if box.commission is not None:
        raise Refused(
            f"you were started for {box.commission.task} alone, and start no others; if it is too much for "
            f'one, update_task(status="blocked") and say in next_step which tasks it should be'
        )
    requests = read_requests(arguments["tasks"])
    strategy, pattern = arrange_words(arguments.get("strategy", ""))
    project = box.project
    branch = arguments.get("branch_id", "") or current_branch(project, box.environ)
    orders = orders_of(project, settings_of(project.state), strategy, branch)
    spawned = make(project, requests, pattern, orders)
    pid = start(project, spawned.batch, box.environ)
    return {
        "batch_id": spawned.batch.id, "tasks": list(spawned.tasks), "branch_id": branch, "strategy": strategy,
        "pattern": pattern, "at_once": orders.limit, "isolation": orders.isolation, "coordinator_pid": pid,
        "next": "go on; look with get_task_stats, batch_status, and at the end batch_summary",
    }  # fmt: skip


def _get_task_stats(box: Box, _: Arguments) -> Any:
    return workload(box.project, settings_of(box.project.state), box.environ)


def _learn_parallelization(box: Box, arguments: Arguments) -> Any:
    cost = arguments.get("resource_cost", {})
    unknown = [str(key) for key in cost if key not in ("cpu", "ram")]
    figures = [cost.get(key) for key in ("cpu", "ram")]
    if unknown or any(not isinstance(one, int | float | None) or isinstance(one, bool) for one in figures):
        raise UsageError("learn_parallelization: resource_cost must be {cpu: cores, ram: MB}, both numbers")
    said = {key: arguments[key] for key in ("parallel_benefit", "notes", "resource_cost") if key in arguments}
    learnings = Learnings(box.project)
    name = arguments["task_type"].strip()
    if said:
        told = Told(
            benefit=arguments.get("parallel_benefit"), notes=arguments.get("notes", ""), cpu=figures[0],
            ram_mb=figures[1], by=arguments.get("caller_agent", "") or "claude",
        )  # fmt: skip
        learnings.tell(name, told)
    if box.project.state.is_dir():
        learnings.learn()
    rows = learnt_rows(box.project, name)
    return {"task_type": name, "kept": bool(said), "advice": rows}


def learnt_rows(project: Project, task_type: str | None = None, cap: int = _CAP) -> list[dict[str, Any]]:
    """Return what is known of each kind of task, and what follows from it, as plain data.

    Args:
        project: Whose.
        task_type: Only of this type; None for all.
        cap: How many may run at once at most.
    """
    room = room_of(project, settings_of(project.state), cap)
    known = Learnings(project).known()
    lanes = sorted(known, key=lambda lane: (lane.type, lane.pattern))
    rows = [
        learnt_row(lane, known[lane], advise(known[lane], room, explores=False))
        for lane in lanes
        if task_type is None or lane.type == task_type
    ]
    if not rows and task_type is not None:
        lane, nothing = Lane(type=task_type), Known()
        rows = [learnt_row(lane, nothing, advise(nothing, room, explores=False))]
    return rows


def learnt_row(lane: Lane, known: Known, advice: Advice) -> dict[str, Any]:
    """Return one kind of task in one row."""
    totals = known.totals
    row: dict[str, Any] = {
        "type": lane.type, "pattern": lane.pattern, "samples": advice.samples,
        "advice": "sequential" if advice.concurrency == 1 else "parallel", "at_once": advice.concurrency,
        "benefit": None if advice.benefit is None else round(advice.benefit, 2),
        "bottleneck": advice.bottleneck, "why": advice.why,
    }  # fmt: skip
    if totals.tries:
        row |= {
            "success_rate": round(totals.successes / totals.tries, 3), "refused": totals.refused,
            "mean_seconds": round(totals.seconds / totals.tries, 2),
        }  # fmt: skip
    cost = {"cpu": known.cpu, "ram": known.ram_mb}
    row["resource_cost"] = {key: round(value, 2) for key, value in cost.items() if value is not None}
    if known.told is not None:
        row["told"] = {key: value for key, value in asdict(known.told).items() if value not in (None, "")}
    return row


def _share_finding(box: Box, arguments: Arguments) -> Any:
    project, commission = box.project, box.commission
    task = arguments.get("task_id", "") or (commission.task if commission else "")
    branch = arguments.get("branch_id", "") or _branch_of_task(box, task)
    found = Hive(project).share(
        arguments["text"], branch=branch, task=task, batch=box.environ.get(BATCH, "") if commission else "",
        who=arguments.get("caller_agent", "") or arguments.get("caller_session", ""),
    )  # fmt: skip
    return {"finding": found.id, "branch_id": found.branch, **({"task_id": found.task} if found.task else {})}


def _search_findings(box: Box, arguments: Arguments) -> Any:
    hive, branch = Hive(box.project), arguments.get("branch_id", "")
    found = hive.search(arguments.get("query", ""), branch=branch, limit=_FINDINGS)
    answer: dict[str, Any] = {"findings": [one.to_json() for one in found]}
    return answer if found else answer | {"branches": hive.branches()}


def _branch_of_task(box: Box, task: str) -> str:
    """Return the branch that a spawned task was given, else the one that is meant where none is named."""
    if task and not box.commission:
        settings = settings_of(box.project.state)
        with suppress(HypervisorError):
            named = TaskList(box.project, settings, Caller(name="")).find(task)
            return branch_of_task(read_task(Path(named.path), settings), box.project, box.environ)
    return current_branch(box.project, box.environ)


#: By name.
TOOLS: Mapping[str, Callable[[Box, Arguments], Any]] = {
    "spawn_parallel_tasks": _spawn_parallel_tasks,
    "get_task_stats": _get_task_stats,
    "learn_parallelization": _learn_parallelization,
    "share_finding": _share_finding,
    "search_findings": _search_findings,
    "wait_for_events": wait_for_events,
}
