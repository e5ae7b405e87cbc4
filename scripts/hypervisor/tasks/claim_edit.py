"""What a claim changes in its task's file: the status and the assignee; and how that is taken back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import Unreadable
from ..core.model import FileEdit, KeyEdit, Task, TaskStatus
from ..store.records import Held
from ..store.store import Store
from .files import edit_key, status_word
from .rewriting import rewrite

if TYPE_CHECKING:
    from ..documents import yaml_edit


def claim_edit(
    task: Task, document: yaml_edit.Document, name: str, settings: Mapping[str, Any]
) -> FileEdit:
    """Return the edit that a claim in the name of *name* makes; its inverse is `Held.revert`. Pure.

    Raises:
        Unreadable: A value is written in a way that cannot be edited without loss.
    """
    word = status_word(task, TaskStatus.IN_PROGRESS, settings)
    keys = (
        edit_key(document, "status", word, settings),
        edit_key(document, "assignee", name, settings),
    )
    return FileEdit(path=os.path.realpath(task.path), keys=keys)


def apply_claim_edit(edit: FileEdit) -> bytes | None:
    """Write a claim's edit into its file; all of it or, where the file was changed since, nothing.

    Returns:
        The file's content; None if its owner saved it in this moment.

    Raises:
        Unreadable: The file cannot be read or edited.
        Refused: Another process keeps it locked.
        OSError: The disk said no.
    """
    from ..documents import yaml_edit  # noqa: PLC0415 - the YAML loader

    def whole(data: bytes) -> tuple[bytes, list[str]]:
        changed, conflicts = yaml_edit.apply(data, edit)
        return (data, conflicts) if conflicts else (changed, [])

    answer = rewrite(Path(edit.path), whole)
    return None if answer.conflicts else answer.data


def revert_claim_edit(store: Store, held: Held) -> None:
    """Take back what an open claim wrote into its file, before the claim ends.

    Afterwards another may hold the task, and the file is the other's. What its owner has changed is left.

    Raises:
        Refused: Another process keeps the file locked.
        OSError: The disk said no.
    """
    if not held.revert:
        return
    from ..documents import yaml_edit  # noqa: PLC0415 - the YAML loader

    edit = FileEdit.from_json(held.revert)

    def still_open() -> bool:
        now = store.claims.held(held.key)
        return now is not None and now.attempt == held.attempt

    with contextlib.suppress(Unreadable):  # gone, or no task any more: its owner's
        rewrite(Path(edit.path), lambda data: (yaml_edit.revert(data, edit)[0], []), still_open)


def revert_keys(document: yaml_edit.Document, held: Held | None) -> tuple[KeyEdit, ...]:
    """Return the edits that take back what still stands of a claim, but for the status. Pure."""
    if held is None or not held.revert:
        return ()
    edit = FileEdit.from_json(held.revert)
    return tuple(
        KeyEdit(key=one.key, old=one.new, new=one.old)
        for one in edit.keys[1:]
        if one.old != one.new and document.source(one.key) == one.new
    )
