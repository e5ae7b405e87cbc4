"""Task files on disk: found, read, and edited under their lock, whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import durable
from ..core.errors import Refused, Unreadable, UnreadableReason
from ..core.model import Complexity, FileEdit, KeyEdit, LineEdit, Task
from ..core.paths import file_lock_path
from .finding import find_task_files, task_paths
from .vocabulary import priority_of, spelling, status_of, status_word

if TYPE_CHECKING:
    from ..documents import frontmatter

__all__ = [
    "append_receipt",
    "begin_receipt",
    "completion_report",
    "edit_file",
    "edit_key",
    "find_task_files",
    "mend_receipts",
    "open_task",
    "read_task",
    "revert_file",
    "status_word",
    "task_paths",
]  # fmt: skip

_LOCK_SECONDS = 60.0
#: How often an edit starts over because an editor saved the file under it.
_EDIT_TRIES = 20


# ------------------------------------------------------------------------- read


def read_task(path: Path, settings: Mapping[str, Any]) -> Task:
    """Read a task file.

    Raises:
        Unreadable: It cannot be read, or is no task; see the reason.
    """
    return open_task(path, settings)[0]


def open_task(path: Path, settings: Mapping[str, Any]) -> tuple[Task, frontmatter.Document]:
    """Read a task file; return the task, and the document that edits of it are made from.

    Raises:
        Unreadable: It cannot be read, or is no task; see the reason.
    """
    from ..documents import frontmatter  # noqa: PLC0415 - the YAML loader, which not every command needs

    data = _read(path, settings["tasks"]["max_bytes"])
    document = frontmatter.parse(data, str(path))
    return _task(path, document, settings), document


def _read(path: Path, most: int) -> bytes:
    name = str(path)
    try:
        # Not blocking, and looked at before it is read: a FIFO would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _cannot_open(name, error) from error
    try:
        # Before `open`, which has an error of its own for a folder.
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable(name, "not a file")
        if found.st_size > most:
            raise Unreadable(name, "too large", f"{found.st_size:,} bytes; `tasks.max_bytes` allows {most:,}")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _cannot_open(name: str, error: OSError | ValueError) -> Unreadable:
    number = error.errno if isinstance(error, OSError) else None
    reasons: dict[int | None, UnreadableReason] = {
        errno.ENOENT: "missing",
        errno.ENOTDIR: "missing",
        errno.EACCES: "no access",
        errno.EPERM: "no access",
        errno.ENAMETOOLONG: "path too long",
        errno.EISDIR: "not a file",
        errno.ENXIO: "not a file",
        errno.ELOOP: "not a file",
        None: "missing",
    }
    if number not in reasons:
        raise error
    detail = ""
    if number == errno.ENAMETOOLONG:
        detail = f"{len(os.fsencode(name)):,} bytes"
    elif number == errno.ELOOP:
        detail = "a link that leads to itself"
    elif number == errno.ENOENT and name.endswith("\r"):
        detail = "the queue's line ends in a carriage return; save it with plain newlines"
    return Unreadable(name if len(name) < 300 else f"{name[:300]}…", reasons[number], detail)


def _task(path: Path, document: frontmatter.Document, settings: Mapping[str, Any]) -> Task:
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
    document: frontmatter.Document, key: str, value: str | None, settings: Mapping[str, Any]
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
    from ..documents import frontmatter  # noqa: PLC0415 - the YAML loader, which not every command needs

    return _rewrite(path, lambda data: frontmatter.apply(data, edit), guard)


def revert_file(path: Path, edit: FileEdit) -> list[str]:
    """Take *edit* back; see `edit_file`. A file that is gone stays gone, and is reported."""
    from ..documents import frontmatter  # noqa: PLC0415 - the YAML loader, which not every command needs

    try:
        return _rewrite(path, lambda data: frontmatter.revert(data, edit), None)
    except Unreadable as error:
        return [str(error)]


def append_receipt(path: Path, line: str, item: str = "", *, failed: bool = False) -> None:
    """Append one line to the ``## Receipts`` of a file's body; durable on return. Needs no claim.

    Args:
        path: The file.
        line: The line.
        item: What it is for: the same item gets no second one. "" for the line itself.
        failed: Whether it says that the item was not done, so that it may have another.

    Raises:
        Unreadable: The file cannot be read.
        Refused: Another process keeps the file locked.
    """
    from ..ledger import Entry, Ledger  # noqa: PLC0415 - with a file's text only

    folded = " ".join(line.split())
    receipt = folded if folded.startswith("- ") else f"- {folded}"
    entry = Entry(item=item or receipt, phase="failed" if failed else "done", line=receipt)
    change_text(path, lambda text, start: Ledger.of(path).enter(text, start, entry))


def begin_receipt(path: Path, item: str, *, again: bool = False) -> str:
    """Note that what leaves a receipt for *item* is about to be done; see `Ledger.begin`."""
    from ..ledger import Ledger  # noqa: PLC0415

    answers: list[str] = []

    def begin(text: str, _start: int) -> str:
        answers.append(Ledger.of(path).begin(item, again=again))
        return text

    change_text(path, begin)
    return answers[-1]


def mend_receipts(path: Path) -> None:
    """Put the receipts that the ledger has, and the body has not, into the body."""
    from ..ledger import Ledger  # noqa: PLC0415

    change_text(path, lambda text, start: Ledger.of(path).mend(text, start))


def change_text(path: Path, change: Callable[[str, int], str]) -> None:
    """Replace a file's text by what *change* returns of it and of the place where its body begins.

    Under the file's lock; durable on return.

    Raises:
        Unreadable: The file cannot be read.
        Refused: Another process keeps the file locked.
    """
    from ..documents import delimiters  # noqa: PLC0415 - with a file's text only

    def changed(data: bytes) -> tuple[bytes, list[str]]:
        start = delimiters.body_start(data, str(path))
        return change(data.decode("utf-8"), start).encode("utf-8"), []

    _rewrite(path, changed, None)


def _rewrite(
    path: Path, change: Callable[[bytes], tuple[bytes, list[str]]], guard: Callable[[], bool] | None
) -> list[str]:
    import filelock  # noqa: PLC0415 - 30 ms, for those who write only

    lock = filelock.FileLock(file_lock_path(str(path), os.environ), timeout=_LOCK_SECONDS)
    try:
        with lock:
            if guard is not None and not guard():
                return []
            for _ in range(_EDIT_TRIES):
                before = _stamp(path)
                data = _read(path, 1 << 62)
                changed, conflicts = change(data)
                if changed == data:
                    return conflicts
                if _stamp(path) == before:  # else an editor saved it; what it wrote must not be lost
                    durable.replace(path, changed)
                    return conflicts
            raise Refused(f"{path}: keeps being changed by another program; close it and try again")
    except filelock.Timeout:
        raise Refused(f"{path}: locked by another process for {_LOCK_SECONDS:g} s; try again") from None


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise _cannot_open(str(path), error) from error
    return found.st_ino, found.st_mtime_ns, found.st_size


def completion_report(  # noqa: PLR0913 - the fields of a report, each by its name
    *, outcome: str, who: str, when: str, commit: str = "", evidence: str = "", next_step: str = "",
    newline: str = "\n",
) -> LineEdit:  # fmt: skip
    """Return the section that a finished task is given at the end of its body."""
    rows = [("Outcome", outcome), ("Commit", commit), ("Evidence", evidence), ("Next", next_step)]
    rows += [("By", who), ("At", when)]
    lines = ["", "## Completion", "", *(f"- {name}: {' '.join(text.split())}" for name, text in rows if text)]
    return LineEdit(text=newline.join(lines) + newline, after=None)
