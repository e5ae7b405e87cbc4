"""New task files: their id, their folder and their text."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import Refused, UsageError
from ..core.files import matches_any, sync_directory, write_new
from ..core.model import Priority, TaskStatus
from ..core.project import Project
from .discovery import fixed_parts
from .files import parse_task

#: Characters of an id that is made of a title.
_ID_LENGTH = 40
#: What a file name and every client take, without quotes in a shell.
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A task that is to be written."""

    title: str
    #: "" for one made of the title.
    id: str = ""
    status: TaskStatus = TaskStatus.ACTIVE
    priority: Priority | None = None
    files: Sequence[str] = ()
    #: The command that shows that it is done.
    verify: str = ""
    body: str = ""
    type: str = ""
    #: Ids of the tasks that it waits for.
    depends_on: Sequence[str] = ()
    #: The branch of the hive that its agent shares.
    branch: str = ""
    #: Whether its agent's report alone makes it done: where there is nothing else to look at.
    accept_reports: bool = False


def create_task(project: Project, new: NewTask, settings: Mapping[str, Any], taken: Container[str]) -> Path:
    """Write a task file; durable on return.

    Args:
        project: The project.
        new: The task.
        settings: The project's.
        taken: The ids of its tasks, in lower case.

    Raises:
        UsageError: A value cannot be written, or no folder is looked through for tasks.
        Refused: The id is taken.
    """
    title = " ".join(new.title.split())
    if not title or not title.isprintable():
        raise UsageError("the title is empty or not printable; say in one line what is to be done")
    if new.id and not _ID.fullmatch(new.id):
        raise UsageError(
            f"--id {new.id}: must begin with a letter or digit; then letters, digits, `.`, `_`, `-`"
        )
    if new.id.lower() in taken:
        raise Refused(f"there is a task {new.id} already; see `hypervisor task show {new.id}`")
    task = new.id or _free_id(title, taken)
    path = folder_of_new(project, settings) / f"{task}.md"
    data = text_of(new, task, title).encode()
    _require_read_back(path, data, new, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_new(path, data)
    except FileExistsError:
        raise Refused(f"{path} is there already; give another --id") from None
    sync_directory(path.parent)
    return path


def folder_of_new(project: Project, settings: Mapping[str, Any]) -> Path:
    """Return the folder for new tasks: the first that `tasks.globs` means and is there, else the first.

    Raises:
        UsageError: Every glob has a wildcard in its folders.
    """
    globs = settings["tasks"]["globs"]
    parts = [fixed_parts([glob])[0] for glob in globs]
    found = [project.root / part for part in parts if matches_any(os.path.join(part, "t.md"), globs)]
    if not found:
        raise UsageError(
            f"no folder for a new task: each of tasks.globs ({', '.join(globs)}) has many folders"
        )
    return next((folder for folder in found if folder.is_dir()), found[0])


def _free_id(title: str, taken: Container[str]) -> str:
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain.replace("'", "")).strip("-")
    if len(words) > _ID_LENGTH:  # whole words, if there is more than one
        words = words[: _ID_LENGTH + 1].rpartition("-")[0] or words[:_ID_LENGTH]
    name, number = words or "task", 2
    while name in taken:
        name, number = f"{words or 'task'}-{number}", number + 1
    return name


def text_of(new: NewTask, task: str, title: str) -> str:
    """Return the text of a new task's file.

    Args:
        new: The task.
        task: Its id.
        title: Its title, in one line.
    """
    from ..documents.yaml_edit import spell_new  # noqa: PLC0415 - the YAML loader

    keys: dict[str, str | Sequence[str]] = {
        "id": task, "title": title, "status": new.status.value,
        "priority": new.priority.value if new.priority else "", "type": new.type,
        "depends_on": new.depends_on, "files": new.files, "verify": new.verify, "branch": new.branch,
    }  # fmt: skip
    front = "".join(f"{key}: {spell_new(value)}\n" for key, value in keys.items() if value)
    front += "accept_reports: true\n" if new.accept_reports else ""
    body = new.body.strip("\r\n")
    heading = "" if body.startswith("# ") else f"# {title}\n" + ("\n" if body else "")
    return f"---\n{front}---\n{heading}{body}" + ("\n" if body else "")


def _require_read_back(path: Path, data: bytes, new: NewTask, settings: Mapping[str, Any]) -> None:
    """Raise unless the text is read as the task that was asked for."""
    task, _ = parse_task(path, data, settings)
    for name, wanted in (("status", new.status), ("files", tuple(new.files)), ("verify", new.verify)):
        if getattr(task, name) != wanted:
            raise UsageError(
                f"--{name} {wanted!r} would be read as {getattr(task, name)!r}; spell it differently"
            )
