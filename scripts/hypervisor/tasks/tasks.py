"""Task files on disk: found, read, and edited under their lock, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import Unreadable
from ..core.model import Complexity, FileEdit, KeyEdit, LineEdit, Task
from .editing import read_file, rewrite
from .finding import find_task_files, task_paths
from .vocabulary import priority_of, spelling, status_of, status_word

if TYPE_CHECKING:
    from ..documents import yaml_edit

__all__ = [
    "change_text",
    "completion_report",
    "edit_file",
    "edit_key",
    "find_task_files",
    "open_task",
    "parse_task",
    "read_task",
    "revert_file",
    "status_word",
    "task_paths",
]  # fmt: skip

# ------------------------------------------------------------------------- read


def read_task(path: Path, settings: Mapping[str, Any]) -> Task:
    """Read a task file.

    Raises:
        Unreadable: It cannot be read, or is no task; see the reason.
    """
    return open_task(path, settings)[0]


def open_task(path: Path, settings: Mapping[str, Any]) -> tuple[Task, yaml_edit.Document]:
    """Read a task file; return the task, and the document that edits of it are made from.

    Raises:
        Unreadable: It cannot be read, or is no task; see the reason.
    """
    return parse_task(path, read_file(path, settings["tasks"]["max_bytes"]), settings)


def parse_task(path: Path, data: bytes, settings: Mapping[str, Any]) -> tuple[Task, yaml_edit.Document]:
    """Return the task that a file with this content is, and the document.

    Raises:
        Unreadable: It is no task; see the reason.
    """
    from ..documents import yaml_edit  # noqa: PLC0415 - the YAML loader, which not every command needs

    document = yaml_edit.parse(data, str(path))
    return _task(path, document, settings), document


def _task(path: Path, document: yaml_edit.Document, settings: Mapping[str, Any]) -> Task:
    from ..documents.markdown import headings  # noqa: PLC0415 - with the file's text only

    values, words = document.values, document.words

    def one(key: str) -> str:
        name = spelling(key, values, settings)
        value = values.get(name)
        return words.get(name, "") if not isinstance(value, list | Mapping) and value is not None else ""

    def many(key: str) -> tuple[str, ...]:
        value = values.get(spelling(key, values, settings))
        if isinstance(value, list):
            return tuple(str(part) for part in value if part is not None and str(part))
        text = one(key)
        return tuple(part.strip() for part in text.split(",") if part.strip())

    status = one("status")
    complexity = one("complexity").lower()
    return Task(
        path=str(path.absolute()),
        id=one("id") or path.stem,
        title=one("title")
        or next((found.title for found in headings(document.body) if found.title), "")
        or path.stem,
        status=status_of(status, settings),
        status_word=status,
        assignee=tuple(name.lstrip("@") for name in many("assignee")),
        priority=priority_of(one("priority"), settings),
        project=one("project"),
        type=one("type"),
        complexity=Complexity(complexity) if complexity in list(Complexity) else None,
        parent=one("parent"),
        depends_on=many("depends_on"),
        files=many("files"),
        needs=many("needs"),
        tags=many("tags"),
        receipts=many("receipts"),
        receipts_to=one("receipts_to"),
        verify=one("verify"),
        front={str(key).lower(): value for key, value in values.items()},
        body=document.body,
    )


def edit_key(
    document: yaml_edit.Document, key: str, value: str | None, settings: Mapping[str, Any]
) -> KeyEdit:
    """Return the edit that gives *key* the *value*, under the name and in the shape the file uses.

    Raises:
        Unreadable: The value is written in a way that cannot be edited without loss.
    """
    name = spelling(key, document.values, settings)
    listed = isinstance(document.values.get(name), list)
    return document.edit(name, [value] if listed and value is not None else value)


# ------------------------------------------------------------------------- edit


def edit_file(path: Path, edit: FileEdit, *, guard: Callable[[], bool] | None = None) -> list[str]:
    """Apply *edit* to the file.

    Args:
        path: The file.
        edit: What to change.
        guard: Asked under the lock; False leaves the file as it is.

    Returns:
        What was left because the file says something else by now, a line each.

    Raises:
        Unreadable: The file cannot be read or edited; it stays as it was.
        Refused: Another process keeps the file locked.
    """
    from ..documents import yaml_edit  # noqa: PLC0415 - the YAML loader, which not every command needs

    return list(rewrite(path, lambda data: yaml_edit.apply(data, edit), guard).conflicts)


def revert_file(path: Path, edit: FileEdit) -> list[str]:
    """Take *edit* back; see `edit_file`. A file that is gone stays gone, and is reported."""
    from ..documents import yaml_edit  # noqa: PLC0415 - the YAML loader, which not every command needs

    try:
        return list(rewrite(path, lambda data: yaml_edit.revert(data, edit)).conflicts)
    except Unreadable as error:
        return [str(error)]


def change_text(path: Path, change: Callable[[str, int], str]) -> None:
    """Replace a file's text by what *change* returns of it and of the place where its body begins.

    Under the file's lock; durable on return.

    Raises:
        Unreadable: The file cannot be read.
        Refused: Another process keeps the file locked.
    """
    from ..documents import markdown  # noqa: PLC0415 - with a file's text only

    def changed(data: bytes) -> tuple[bytes, list[str]]:
        start = markdown.body_start(data, str(path))
        return change(data.decode("utf-8"), start).encode("utf-8"), []

    rewrite(path, changed)


def completion_report(  # noqa: PLR0913 - the fields of a report, each by its name
    *, outcome: str, who: str, when: str, commit: str = "", evidence: str = "", next_step: str = "",
    newline: str = "\n",
) -> LineEdit:  # fmt: skip
    """Return the section that a finished task is given at the end of its body."""
    rows = [("Outcome", outcome), ("Commit", commit), ("Evidence", evidence), ("Next", next_step)]
    rows += [("By", who), ("At", when)]
    lines = ["", "## Completion", "", *(f"- {name}: {' '.join(text.split())}" for name, text in rows if text)]
    return LineEdit(text=newline.join(lines) + newline, after=None)
