"""What the arguments of a call mean, where a word or a name has to be one that we know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import UsageError
from ..core.model import TaskStatus

_LONGEST_NAME = 100

Arguments = Mapping[str, Any]


def status_in(arguments: Arguments) -> TaskStatus | None:
    """Return the status that is asked for, None if none is.

    Raises:
        UsageError: There is no such status.
    """
    if "status" not in arguments:
        return None
    word = arguments["status"].strip().lower().replace("-", "_").replace(" ", "_")
    if word not in list(TaskStatus):
        raise UsageError(f"update_task: status must be one of {', '.join(TaskStatus)}")
    return TaskStatus(word)


def caller_in(caller: str) -> str:
    """Return *caller* if it can be one assignee of a file, and its claim's holder.

    Raises:
        UsageError: It cannot.
    """
    name = caller.strip().lstrip("@")
    if not name or len(name) > _LONGEST_NAME or not name.isprintable() or "," in name:
        raise UsageError(f"caller {caller[:80]!r}: must be one name of at most {_LONGEST_NAME} characters")
    return name
