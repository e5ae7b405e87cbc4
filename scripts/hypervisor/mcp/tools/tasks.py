"""The tools on tasks: look, claim, end, change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...core.assignment import AssignedTask
from ...core.errors import UsageError
from ...core.model import Complexity, Outcome, Task, TaskStatus
from ...queue.batches import tasks_of
from ...report.answers import asked, changed, check_values, claim_answer, reported, task_details
from ...report.listing import asked_of, index_stats, task_rows
from ...report.plan import plan_answer
from ...tasks.completion import NO_OUTCOME, TaskCompletion
from ...tasks.eligibility import Wanted
from ...tasks.service import Hold, TaskService
from ..arguments import Arguments, caller_in, status_in
from ..context import ToolContext
from .batches import LONGEST

#: The name of a caller that gives none.
_AGENT = "claude"
_LIMIT = 50
_MOST = 500
#: What `update_task` sets.
_KEYS = frozenset({"assignee", "priority", "complexity", "project"})


# ------------------------------------------------------------------------- look


def _list_tasks(context: ToolContext, arguments: Arguments) -> Any:
    for key, known in (("status", TaskStatus), ("complexity", Complexity)):
        if key in arguments and arguments[key] not in list(known):
            raise UsageError(f"list_tasks: {key} must be one of {', '.join(known)}")
    start, limit = arguments.get("offset", 0), min(arguments.get("limit", _LIMIT), _MOST)
    with context.service(arguments, _AGENT) as service, service.catalog.view() as view:
        found, total = view.listed(asked_of(arguments), limit, start, ready=arguments.get("ready", False))
        return task_rows(service.catalog, found, total)


def _get_task(context: ToolContext, arguments: Arguments) -> Any:
    with context.service(arguments, _AGENT) as service:
        row = task_details(service, service.find(arguments["id"]))
    _cut(row)
    return row


def _preflight(context: ToolContext, arguments: Arguments) -> Any:
    if "ids" in arguments and not arguments["ids"]:
        raise UsageError("preflight: ids is an empty list; leave it away for all tasks")
    with context.service(arguments, _AGENT) as service:
        with service.catalog.view() as view:
            made, tasks = view.plan(arguments.get("ids", ()), arguments.get("parent", ""))
        creates = arguments.get("create_batch", False)
        return plan_answer(service.catalog, made, tasks, creates=creates)


def _get_index_stats(context: ToolContext, arguments: Arguments) -> Any:
    with context.service(arguments, _AGENT) as service:
        return index_stats(service.catalog, projects=arguments.get("include_projects", False))


# ------------------------------------------------------------------------ claim


def _claim_task(context: ToolContext, arguments: Arguments) -> Any:
    if assigned := context.assigned:
        assigned.require(arguments["id"])
        return _assigned(context, arguments, assigned)
    with context.service(arguments, caller_in(arguments["caller"])) as service:
        return _claimed(context, service, *service.claim(arguments["id"]))


def _claim_next_task(context: ToolContext, arguments: Arguments) -> Any:
    if assigned := context.assigned:
        return _assigned(context, arguments, assigned)
    name, complexity = caller_in(arguments["caller"]), arguments.get("complexity")
    if complexity and complexity not in list(Complexity):
        raise UsageError(f"claim_next_task: complexity must be one of {', '.join(Complexity)}")
    named = arguments.get("batch")
    number, among = tasks_of(context.project, named) if named else (None, None)
    wanted = Wanted(
        project=arguments.get("project", ""),
        complexity=Complexity(complexity) if complexity else None,
        among=among,
        has=frozenset(arguments.get("needs", ())),
    )
    with context.service(arguments, name, number) as service:
        taken = service.claim_next(wanted)
        if isinstance(taken, str):
            return {"task": None, "reason": taken}
        return _claimed(context, service, *taken)


def _assigned(context: ToolContext, arguments: Arguments, assigned: AssignedTask) -> Any:
    """Return the coordinator's claim."""
    with context.service(arguments, _AGENT) as service:
        return _answer(context, service, *service.assigned(assigned))


def _claimed(context: ToolContext, service: TaskService, task: Task, hold: Hold) -> Any:
    if not service.actor.agent:
        context.given[task.path] = hold.attempt
    return _answer(context, service, task, hold)


def _answer(context: ToolContext, service: TaskService, task: Task, hold: Hold) -> Any:
    answer = claim_answer(service, task, hold, context.environ)
    _cut(answer["task"])
    return answer


def _attempt(context: ToolContext, service: TaskService, arguments: Arguments) -> int | None:
    """Return which claim is meant: the one that is named, else the one that this server gave out."""
    if "attempt" in arguments or service.actor.agent:
        number: int | None = arguments.get("attempt")
        return number
    return context.given.get(service.find(arguments["id"]).path)


# -------------------------------------------------------------------------- end


def _complete_task(context: ToolContext, arguments: Arguments) -> Any:
    return _finish(context, arguments, TaskCompletion(
        outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text=arguments.get("outcome") or NO_OUTCOME,
        commit=arguments.get("commit", ""), evidence=arguments.get("evidence", ""),
    ))  # fmt: skip


def _finish(context: ToolContext, arguments: Arguments, completion: TaskCompletion) -> Any:
    with context.service(arguments) as service:
        if assigned := context.assigned:
            assigned.require(arguments["id"])
            return reported(service, assigned, completion)
        attempt = _attempt(context, service, arguments)
        result = service.finish(arguments["id"], completion, attempt, unclaimed=False)
        return changed(service, arguments["id"], result["status"])


def _release_task(context: ToolContext, arguments: Arguments) -> Any:
    with context.service(arguments) as service:
        if assigned := context.assigned:
            assigned.require(arguments["id"])
            return reported(service, assigned, arguments["reason"])
        attempt = _attempt(context, service, arguments)
        service.release(arguments["id"], arguments["reason"], attempt)
        return changed(service, arguments["id"])


def _ask_user(context: ToolContext, arguments: Arguments) -> Any:
    with context.service(arguments, _AGENT) as service:
        assigned = context.assigned
        attempt = None if assigned else _attempt(context, service, arguments)
        return asked(
            service, assigned, arguments["id"], arguments["question"], arguments.get("choices", ()), attempt
        )


# ----------------------------------------------------------------------- change


def _update_task(context: ToolContext, arguments: Arguments) -> Any:
    status, body = status_in(arguments), arguments.get("body", "")
    # With a claim the assignee changes by itself.
    keys = _KEYS - {"assignee"} if status is TaskStatus.IN_PROGRESS else _KEYS
    values = {key: arguments[key] for key in sorted(keys) if key in arguments}
    check_values(values)
    if not (values or body or status):
        raise UsageError("update_task: say what to change: status, body or a key")
    # Before anything is written: a refused call changes nothing.
    if status is TaskStatus.DONE:
        raise UsageError("update_task: call complete_task(id, outcome), which says what was done")
    with context.service(arguments) as service:
        if status in (TaskStatus.BLOCKED, TaskStatus.REVIEW):
            if not (arguments.get("reason") or body).strip():
                raise UsageError(f"update_task: status {status} needs a reason")
            if not context.assigned:
                service.require_held(arguments["id"], _attempt(context, service, arguments))
        notes = []
        if values or body:
            notes = service.update(arguments["id"], values, body, arguments.get("attempt"))
        moved = _move(context, arguments, status) if status else {}
        return changed(service, arguments["id"], not_changed=notes) | (moved or {})


def _move(context: ToolContext, arguments: Arguments, status: TaskStatus) -> Any:
    reason = arguments.get("reason") or arguments.get("body", "")
    if status is TaskStatus.IN_PROGRESS:
        return _claim_task(context, {**arguments, "caller": arguments.get("assignee", _AGENT)})
    if status in (TaskStatus.BLOCKED, TaskStatus.REVIEW):
        return _finish(context, arguments, TaskCompletion(
            outcome=Outcome.BLOCKED, status=status, text=reason.strip(),
            evidence=arguments.get("evidence", ""), next_step=arguments.get("next_step", ""),
        ))  # fmt: skip
    with context.service(arguments, _AGENT) as service:
        if status is TaskStatus.CANCELLED:
            service.cancel(arguments["id"], reason)
            return None
        held = service.held(service.find(arguments["id"]))
        named = _attempt(context, service, arguments) is not None
        if held is None or not (named or service.actor.holds(held.worker)):
            service.move(arguments["id"], status)
            return None
    return _release_task(context, {**arguments, "reason": reason or f"set to {status}"})


def _cut(row: dict[str, Any]) -> None:
    if len(row["body"]) > LONGEST:
        row["body"] = row["body"][:LONGEST]
        row["cut"] = f"the body is longer; read {row['path']}"


TOOLS: Mapping[str, Callable[[ToolContext, Arguments], Any]] = {
    "list_tasks": _list_tasks,
    "get_task": _get_task,
    "preflight": _preflight,
    "claim_task": _claim_task,
    "claim_next_task": _claim_next_task,
    "update_task": _update_task,
    "complete_task": _complete_task,
    "release_task": _release_task,
    "ask_user": _ask_user,
    "get_index_stats": _get_index_stats,
}
