"""What a result says about the world outside the store: the edits of its task file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import Unreadable
from ..core.model import FileEdit


def write_edits(result: Mapping[str, Any], unpublished: Callable[[], bool]) -> None:
    """Apply the edits of a decided result to its task file, unless it is published by now.

    Whoever publishes a result calls this first, so that the file says "done" before the result
    can be seen. Once it can be seen, the file is its owner's again and is left alone. An edit that
    no longer fits (the file is gone, a key was changed by hand) is passed over and told: the file's
    owner was there last, and what was decided stands in the result.
    """
    if not result.get("edit"):
        return
    from .tasks import edit_file  # noqa: PLC0415 - the YAML loader: only where there is an edit

    edit = FileEdit.from_json(result["edit"])
    try:
        conflicts = edit_file(Path(edit.path), edit, guard=unpublished)
    except Unreadable as error:
        conflicts = [str(error)]
    for conflict in conflicts:
        print(f"hypervisor: {edit.path}: not changed: {conflict}", file=sys.stderr)
