"""Edits of task files as the store keeps them: with the path that the file had where they were made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.model import FileEdit
from ..store.store import Store


def edit_of(store: Store, kept: Mapping[str, Any], text: str) -> FileEdit:
    """Return an edit that the store kept, with the path that its file has on this machine.

    Args:
        store: The store. On one of many machines the edit may have been made in another clone.
        kept: ``attempt.revert``, or ``edit`` of a result.
        text: The text of the item: for a task its path below the project's root.
    """
    edit = FileEdit.from_json(kept)
    below = os.path.normpath(text)
    if store.shared and edit.path.endswith(f"/{below}"):
        return replace(edit, path=str(Path(store.folder).parent / below))
    return edit
