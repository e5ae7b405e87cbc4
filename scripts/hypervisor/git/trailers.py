"""The line in the message of a merge that names its task, by which the merge is found again."""

from __future__ import annotations

from .git import Git


def merge_message(task: str, title: str) -> str:
    """Return the message of the commit that merges a task's work."""
    return f"{title}\n\n{_trailer(task)}"


def merged_commit(git: Git, task: str, span: str) -> str:
    """Return the newest commit of *span* that merges a task's work, "" if there is none."""
    line = _trailer(task)
    # Git finds the words anywhere in a message; they count as a line of their own only.
    found = git.run("log", "--format=%H", "--fixed-strings", f"--grep={line}", span).split()
    told = (commit for commit in found if line in git.run("log", "-1", "--format=%B", commit).splitlines())
    return next(told, "")


def _trailer(task: str) -> str:
    return f"Hypervisor-Task: {task}"
