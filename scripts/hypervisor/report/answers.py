"""The answers of tools and commands on a task, as plain data: one shape for both. Imports little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.assignment import AssignedTask, ReportKind
from ..core.errors import UsageError
from ..core.model import Complexity, Priority, Task, TaskHead, TaskStatus
from ..core.text import time_text
from ..tasks.completion import TaskCompletion
from ..tasks.files import read_body
from .listing import task_row

if TYPE_CHECKING:
    from ..store.records import Attempt
    from ..tasks.service import Hold, TaskService

#: The most attempts of a task that are shown: its last.
_HISTORY = 12


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
    return row | {"body": read_body(Path(task.path), service.settings)}


def _attempt_row(one: Attempt) -> dict[str, Any]:
    ended = {} if one.ended_at is None else {"ended": time_text(one.ended_at / 1000)}
    row = {
        "attempt": one.number, "by": one.name or one.worker, "claimed": time_text(one.claimed_at / 1000),
        **ended, "outcome": one.outcome, "why": one.detail, "tokens": one.tokens, "cost_usd": one.cost_usd,
        "log": one.log,
    }  # fmt: skip
    return {key: value for key, value in row.items() if value not in (None, "")}


def claim_answer(service: TaskService, task: Task, hold: Hold, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the answer to a caller that has claimed a task; what others have found is in it.

    An agent of a run has that in its prompt.
    """
    row = task_row(service, task)
    for key in ("files", "receipts", "receipts_to", "verify", "depends_on"):
        if getattr(task, key):
            row[key] = getattr(task, key)
    claim = {"attempt": hold.attempt, "expires_in": hold.expires_in}
    asked = service.store.questions.of_work(hold.claim.work) if hold.attempt > 1 else ()
    answers = [{"question": one.text, "answer": one.answer} for one in asked if one.answered_at is not None]
    answer = {"task": row | {"body": task.body}, "claim": claim} | ({"answers": answers} if answers else {})
    if AssignedTask.of(environ):
        return answer
    from ..orchestrator.prompt import shared_context  # noqa: PLC0415 - most answers need no run's modules
    from .workload import branch_of_task  # noqa: PLC0415

    branch = branch_of_task(task, service.project, environ)
    shared = shared_context(service, task, branch).strip()
    return answer | {"from_others": shared} if shared else answer


def changed(
    service: TaskService, name: str, result: str = "", not_changed: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the answer to a caller that has changed a task or ended its claim.

    Args:
        service: The project's tasks.
        name: The task.
        result: The status of the result that the claim ended with, if it has one.
        not_changed: What could not be changed, a line each.
    """
    answer: dict[str, Any] = {"task": task_row(service, service.find(name))}
    answer |= {"result": result} if result else {}
    return answer | ({"not_changed": list(not_changed)} if not_changed else {})


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
    service.forget_assigned()
    return changed(service, assigned.task, "reported; it is checked once you have ended")


def asked(
    service: TaskService,
    assigned: AssignedTask | None,
    name: str,
    question: str,
    choices: Sequence[str],
    attempt: int | None,
) -> dict[str, Any]:
    """Park the task of an agent that asks a person; return the answer to the agent.

    Args:
        service: The project's tasks.
        assigned: The task that a coordinator started the agent for, if one did: it parks the task then.
        name: The task.
        question: What a person is to decide.
        choices: Answers to choose from.
        attempt: Which claim is meant, if several may be.

    Raises:
        Refused: The task is not the agent's, or the question is empty.
    """
    if not question.strip():
        raise UsageError("the question is empty; say what a person has to decide")
    end = "end your turn now: you, or the next attempt, will get the answer"
    if assigned is None:
        number = service.ask(name, question, choices, attempt)
        return {
            "question": number,
            "result": f"the claim has ended, and the task waits for the answer; {end}",
        }
    assigned.require(name)
    assigned.report("asked", text=question, choices=list(choices))
    service.forget_assigned()
    return {"result": f"the question goes to a person; commit what you have, and {end}"}


def check_values(values: Mapping[str, str]) -> None:
    """Raise unless keys with a closed set of words have one of them.

    Raises:
        UsageError: One has not.
    """
    for key, known in (("priority", Priority), ("complexity", Complexity)):
        if key in values and values[key] not in list(known):
            raise UsageError(f"{key} {values[key]}: must be one of {', '.join(known)}")
