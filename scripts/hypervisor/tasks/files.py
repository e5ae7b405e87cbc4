"""Task files: what they say in whatever vocabulary, and edits of it. How a file is replaced: `rewriting`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import Unreadable
from ..core.model import Complexity, FileEdit, KeyEdit, LineEdit, Priority, Task, TaskStatus
from ..core.text import printable_line
from .rewriting import read_file, rewrite

if TYPE_CHECKING:
    from ..documents.reader import ParsedFile
    from ..documents.yaml_edit import Document

#: Characters of a line of a completion report.
_LONG = 10_000

# ------------------------------------------------------------------------- read


def read_task(path: Path, settings: Mapping[str, Any]) -> Task:
    """Read a task file.

    Raises:
        Unreadable: It cannot be read, or is no task; see the reason.
    """
    return read_content(path, read_file(path, settings["tasks"]["max_bytes"]), settings)


def read_content(path: Path, data: bytes, settings: Mapping[str, Any]) -> Task:
    """Return the task that a file with this content is, to look at.

    Raises:
        Unreadable: It is no task; see the reason.
    """
    from ..documents import reader  # noqa: PLC0415 - the YAML loader, which not every command needs

    return _task(path, reader.read(data, str(path)), settings)


def read_body(path: Path, settings: Mapping[str, Any]) -> str:
    """Return the text of a task file below its frontmatter, which is not read.

    Raises:
        Unreadable: It cannot be read.
    """
    from ..documents import markdown  # noqa: PLC0415 - as above

    text = markdown.decode(read_file(path, settings["tasks"]["max_bytes"]), str(path))
    place = markdown.split(text)
    return text[place[2] :] if place else text


def open_task(path: Path, settings: Mapping[str, Any]) -> tuple[Task, Document]:
    """Read a task file; return the task, and the document that edits of it are made from.

    Raises:
        Unreadable: It cannot be read, or is no task; see the reason.
    """
    return parse_task(path, read_file(path, settings["tasks"]["max_bytes"]), settings)


def parse_task(path: Path, data: bytes, settings: Mapping[str, Any]) -> tuple[Task, Document]:
    """Return the task that a file with this content is, and the document.

    Raises:
        Unreadable: It is no task; see the reason.
    """
    from ..documents import yaml_edit  # noqa: PLC0415 - the YAML loader, which not every command needs

    document = yaml_edit.parse(data, str(path))
    return _task(path, document, settings), document


def _task(path: Path, parsed: ParsedFile, settings: Mapping[str, Any]) -> Task:
    from ..documents.markdown import headings  # noqa: PLC0415 - with the file's text only

    values, words = parsed.values, parsed.words

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
        or next((found.title for found in headings(parsed.body) if found.title), "")
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
        accept_reports=values["accept_reports"] is True if "accept_reports" in values else None,
        front={str(key).lower(): value for key, value in values.items()},
        body=parsed.body,
    )


def edit_key(document: Document, key: str, value: str | None, settings: Mapping[str, Any]) -> KeyEdit:
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
    told = [f"- {name}: {printable_line(text, _LONG)}" for name, text in rows if text]
    lines = ["", "## Completion", "", *told]
    return LineEdit(text=newline.join(lines) + newline, after=None)


# ------------------------------------------------------------------------- words


def folded(word: str) -> str:
    """Return *word* as words are compared: without case, "-" and "_" read as a blank."""
    return " ".join(word.replace("-", " ").replace("_", " ").casefold().split())


def status_of(word: str, settings: Mapping[str, Any]) -> TaskStatus | None:
    """Return the status that *word* stands for, None if no vocabulary knows it."""
    return _statuses(_frozen(settings["status"])).get(folded(word))


def status_word(task: Task, status: TaskStatus, settings: Mapping[str, Any]) -> str:
    """Return the word for *status* in the vocabulary that the task's file uses.

    That is the first whose word the file uses, to the letter if there is one; where the vocabulary
    has no word for the status, the first one's is taken.
    """
    vocabularies: list[Mapping[str, str]] = settings["status"]["vocabularies"]
    exact = [v for v in vocabularies if task.status_word in v.values()]
    near = [v for v in vocabularies if folded(task.status_word) in {folded(word) for word in v.values()}]
    for vocabulary in [*exact, *near, *vocabularies]:
        if status.value in vocabulary:
            return vocabulary[status.value]
    return status.value


def priority_of(word: str, settings: Mapping[str, Any]) -> Priority:
    """Return the priority that *word* stands for; medium where it is not known."""
    wanted = folded(word)
    for name, words in settings["priority"]["words"].items():
        if wanted == name or wanted in words:
            return Priority(name)
    return Priority.MEDIUM


def spelling(key: str, used: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Return how a file with the keys *used* spells *key*; the key itself where it has none."""
    by_folded = _by_folded(tuple(used))
    for candidate in (key, *settings["tasks"]["aliases"].get(key, ())):
        if candidate in by_folded:
            return by_folded[candidate]
    return key


@lru_cache(maxsize=64)  # a project's files bear the same few sets of keys, and each is asked for all of ours
def _by_folded(names: tuple[str, ...]) -> Mapping[str, str]:
    return {name.lower().replace("-", "_"): name for name in names}


def _frozen(table: Mapping[str, Any]) -> str:
    return json.dumps(table, sort_keys=True)


@lru_cache(maxsize=16)
def _statuses(table: str) -> Mapping[str, TaskStatus]:
    data = json.loads(table)
    found: dict[str, TaskStatus] = {}
    for vocabulary in data["vocabularies"]:
        for status, word in vocabulary.items():
            found.setdefault(folded(word), TaskStatus(status))
    found.update({folded(word): TaskStatus(status) for word, status in data["words"].items()})
    return found
