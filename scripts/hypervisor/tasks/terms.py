"""What a task is judged by, as its file said when a run took it. Pure.

An agent may write to the file of its task, or to another's. What decides whether work counts is therefore
read once, kept in the store, and compared with the file afterwards.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeVar

from ..core.model import TaskHead

T = TypeVar("T", bound=TaskHead)

#: What stands between the words of a command, and between a test's file and its name.
_BETWEEN = re.compile(r"""[\s'"=;&|()<>]+|::""")
#: What ends a command of a line.
_COMMAND_ENDS = re.compile(r"&&|[;|&\n]")
#: Programs that look at a file, and run nothing of it: to make that file is the task's work.
_READERS = frozenset(
    {
        "test",
        "[",
        "[[",
        "!",
        "grep",
        "egrep",
        "fgrep",
        "rg",
        "diff",
        "cmp",
        "cat",
        "head",
        "tail",
        "wc",
        "ls",
        "stat",
        "jq",
    }
)
#: Longest value that is shown to people.
_SHOWN = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTerms:
    """The keys of a task that decide when it runs, what it may change and when it is done."""

    verify: str = ""
    files: tuple[str, ...] = ()
    accept_reports: bool | None = None
    depends_on: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @classmethod
    def of(cls, task: TaskHead) -> Self:
        """Return the terms that a task's file states."""
        return cls(**{one.name: getattr(task, one.name) for one in fields(cls)})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read back what `to_json` wrote."""
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        """Return the terms as plain data, without those that say nothing."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in found.items()
            if value not in ("", (), None)
        }

    def apply_to(self, task: T) -> T:
        """Return *task* with these terms, whatever its file says now."""
        return replace(task, **{one.name: getattr(self, one.name) for one in fields(self)})

    def changes(self, task: TaskHead) -> tuple[str, ...]:
        """Return what the file of *task* says otherwise now, a line for each key: both texts."""
        now = self.of(task)
        return tuple(
            f"{one.name} was {_text(getattr(self, one.name))} and is now {_text(getattr(now, one.name))}"
            for one in fields(self)
            if getattr(self, one.name) != getattr(now, one.name)
        )


def _text(value: object) -> str:
    text = (
        ", ".join(value)
        if isinstance(value, tuple)
        else str(value).lower()
        if isinstance(value, bool)
        else value
    )
    shown = str(text) if text not in ("", None) else "empty"
    return f"`{shown}`" if len(shown) <= _SHOWN else f"`{shown[: _SHOWN - 1]}…`"


def own_judge(
    task: TaskHead, is_task_file: Callable[[str], bool], may_change: Callable[[str], bool], file: str = ""
) -> str:
    """Return how a task could decide itself whether it is done, in words; "" if it could not.

    Args:
        task: The task.
        is_task_file: Tells whether a path below the root is a task file.
        may_change: Tells whether the task names a path among its files.
        file: The task's own file, below the root; "" where that is not known.
    """
    named = [path for path in task.files if is_task_file(posixpath.normpath(path))]
    if named:
        return f"its files name a task file ({', '.join(named)})"
    if file and task.files and may_change(file):
        return f"its files name the folder of its own task file ({file})"
    parts = (posixpath.normpath(part) for part in _BETWEEN.split(task.verify) if "/" in part or "." in part)
    paths = list(dict.fromkeys(parts))
    if judged := [path for path in paths if is_task_file(path)]:
        return f"its verify reads a task file ({', '.join(judged)})"
    run = {
        posixpath.normpath(part)
        for command in _COMMAND_ENDS.split(task.verify)
        if (command.split() or [""])[0] not in _READERS
        for part in _BETWEEN.split(command)
    }
    paths = [path for path in paths if path in run and not path.startswith(("/", ".."))]
    own = [path for path in paths if task.files and may_change(path)]
    return f"it may change what its verify runs ({', '.join(own)})" if own else ""
