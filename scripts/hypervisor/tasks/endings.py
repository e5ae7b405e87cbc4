"""How work on a task ends: the result that is kept, and what it changes in the task's file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..claims.port import Attempt
from ..core import clock
from ..core.errors import Refused, Unreadable
from ..core.model import CLOSED, MOVES, FileEdit, Outcome, TaskHead, TaskStatus
from .tasks import completion_report, edit_key, open_task, status_word


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who ends it."""

    name: str
    session: str = ""
    agent: str = ""
    #: The generation of the claim, as people are told it.
    number: int
    #: When the claim was begun; "" where it was made for the ending alone.
    started: str = ""


def result_of(
    task: TaskHead, item: str, ending: Ending, author: Author, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the result of a task.

    Raises:
        Refused: The task's status may not move there.
    """
    fresh, document = open_task(Path(task.path), settings)
    if ending.status not in MOVES[fresh.status or TaskStatus.ACTIVE]:
        raise Refused(f"{task.id} is {fresh.status}: it cannot become {ending.status}")
    edit = edit_key(document, "status", status_word(fresh, ending.status, settings), settings)
    now = clock.now_text()
    report = completion_report(
        outcome=f"{ending.outcome.value}: {ending.text}",
        commit=ending.commit,
        evidence=ending.evidence,
        next_step=ending.next_step,
        who=f"{author.name}, generation {author.number}",
        when=now,
        newline=document.newline,
    )
    path = os.path.realpath(task.path)
    payload: dict[str, Any] = {
        "item": item,
        "task_id": task.id,
        "task_file": path,
        "status": ending.outcome.value,
        "outcome": ending.text,
        "worker": author.name,
        "session": author.session,
        "agent": author.agent,
        "started": author.started or now,
        "finished": now,
        "seconds": clock.seconds_between(author.started, now) if author.started else None,
        "edit": FileEdit(path=path, keys=(edit,), lines=(report,)).to_json(),
    }
    for key in ("commit", "evidence", "next_step"):
        if getattr(ending, key):
            payload[key] = getattr(ending, key)
    return payload | dict(ending.details)


def given_up(path: str, item: str, attempts: list[Attempt], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a task whose workers all vanished: blocked, for a person to look at."""
    tries = "; ".join(f"attempt {a.generation}: {a.detail or a.how}" for a in attempts)
    text = f"gave up after {len(attempts)} attempts: {tries}"
    payload: dict[str, Any] = {
        "item": item, "status": Outcome.FAILED.value, "outcome": text, "finished": clock.now_text(),
    }  # fmt: skip
    try:
        task, document = open_task(Path(path), settings)
        if task.status in CLOSED:  # by hand, meanwhile
            return payload
        edit = edit_key(document, "status", status_word(task, TaskStatus.BLOCKED, settings), settings)
    except Unreadable:
        return payload
    edit_record = FileEdit(path=os.path.realpath(task.path), keys=(edit,))
    return {**payload, "task_id": task.id, "task_file": task.path, "edit": edit_record.to_json()}
