"""The message of a merge commit names its task, for people: which attempt merged what is in the store."""

from __future__ import annotations

#: The trailer that names it.
TASK_TRAILER = "Hypervisor-Task"


def merge_message(task: str, title: str) -> str:
    """Return the message of the commit that merges a task's work."""
    return f"{title}\n\n{TASK_TRAILER}: {task}"
