"""How work on a task ends: the result that is kept, and what it changes in the task's file. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..core.errors import Refused
from ..core.files import real_path
from ..core.model import MOVES, FileEdit, KeyEdit, Outcome, Task, TaskStatus
from ..core.text import now_text, seconds_between
from .files import completion_report, edit_key, status_word

if TYPE_CHECKING:
    from ..documents import yaml_edit

#: The outcome of a task that was completed without a word on what was done.
NO_OUTCOME = "done; no outcome was given"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCompletion:
    """How a claim of a task is to end."""

    outcome: Outcome
    status: TaskStatus
    #: One line: what was done, or why not.
    text: str
    commit: str = ""
    evidence: str = ""
    next_step: str = ""
    #: What else the result says: tokens, money, the batch, evidence as data.
    details: Mapping[str, Any] = field(default_factory=dict)
    #: Kept with the attempt.
    tokens: int | None = None
    cost_usd: float | None = None
    log: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedBy:
    """Who ends it."""

    name: str
    session: str = ""
    agent: str = ""
    #: The number of the attempt; 0 for what is cancelled without one.
    attempt: int = 0
    #: When the claim began (ISO 8601); "" where it was made for the completion alone.
    started: str = ""


def result_of(  # noqa: PLR0913 - what a result is made of
    task: Task,
    document: yaml_edit.Document,
    item: str,
    completion: TaskCompletion,
    by: CompletedBy,
    settings: Mapping[str, Any],
    *,
    restored: Sequence[KeyEdit] = (),
) -> dict[str, Any]:
    """Return the result of a task, with the edit of its file under ``edit``.

    Args:
        task: The task as its file says now.
        document: That file.
        item: The task's path below the project's root.
        completion: How it ends.
        by: Who ends it.
        settings: The project's.
        restored: Edits that take back what claims wrote, other than the status: part of the same edit.

    Raises:
        Refused: The task's status may not move there.
    """
    if completion.status not in MOVES[task.status or TaskStatus.ACTIVE]:
        raise Refused(f"{task.id} is {task.status}: it cannot become {completion.status}")
    edit = edit_key(document, "status", status_word(task, completion.status, settings), settings)
    now = now_text()
    report = completion_report(
        outcome=f"{completion.outcome.value}: {completion.text}",
        commit=completion.commit,
        evidence=completion.evidence,
        next_step=completion.next_step,
        who=f"{by.name}, attempt {by.attempt}" if by.attempt else by.name,
        when=now,
        newline=document.newline,
    )
    path = real_path(task.path)
    result: dict[str, Any] = {
        "item": item,
        "task_id": task.id,
        "task_file": path,
        "status": completion.outcome.value,
        "outcome": completion.text,
        "worker": by.name,
        "session": by.session,
        "agent": by.agent,
        "attempt": by.attempt,
        "started": by.started or now,
        "finished": now,
        "seconds": seconds_between(by.started, now) if by.started else None,
        "edit": FileEdit(path=path, keys=(edit, *restored), lines=(report,)).to_json(),
    }
    for key in ("commit", "evidence", "next_step"):
        if getattr(completion, key):
            result[key] = getattr(completion, key)
    return result | dict(completion.details)
