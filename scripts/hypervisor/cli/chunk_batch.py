"""Which batch a command about chunks means."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from ..core.errors import UsageError
from ..core.project import find_project
from ..review.plan import PLAN, ChunkedBatch, open_chunked

_TASK_ID = re.compile(r"[^/\0]{1,200}$")


def task_folder(task: str) -> Path | None:
    """Return the folder of the batch for a task: below ``$SCRATCHPAD``, or the project's newest, or None.

    Raises:
        UsageError: The id can be no part of a folder's name.
    """
    if not _TASK_ID.match(task) or task in (".", ".."):
        raise UsageError(f"--task {task!r}: must be a task's id")
    scratch = os.environ.get("SCRATCHPAD")
    if scratch:
        return Path(scratch).resolve() / f"batch-{task}"
    batches = find_project(Path.cwd(), os.environ).batches
    names = sorted(path for path in batches.glob("*") if path.name.endswith(f"-batch-{task}"))
    return names[-1] if names else None


def on_chunked(act: Callable[[Namespace, ChunkedBatch], int]) -> Callable[[Namespace], int]:
    """Return the action of a command that works on a chunked batch: open it, act, close it."""

    def action(options: Namespace) -> int:
        made = chunked_of(options)
        with made.batch:
            return act(options, made)

    return action


def chunked_of(options: Namespace) -> ChunkedBatch:
    """Return the chunked batch that a command names, or means.

    The first of: ``--dir``; BATCH, an id or a folder; ``--task``; the one whose worker calls
    (``HYPERVISOR_CHUNK``); the current folder; the newest of the project.

    Raises:
        UsageError: There is none.
    """
    found = _named(options) or _meant()
    if found is None:
        raise UsageError("no batch that is cut into chunks here; name its folder with --dir")
    return open_chunked(found)


def _named(options: Namespace) -> Path | None:
    batch, folder = getattr(options, "batch", None), getattr(options, "dir", None)
    if folder and batch:
        raise UsageError(f"{batch} and --dir {folder} name two batches; omit one")
    if folder:
        return Path(folder)
    if batch:
        named = find_project(Path.cwd(), os.environ).batches / batch
        return named if named.is_dir() else Path(batch)
    task = getattr(options, "task", None)
    if task:
        found = task_folder(task)
        if found is None:
            raise UsageError(
                f"{task}: no batch was cut for it; `hypervisor chunk ... --task {task}` does that"
            )
        return found
    return None


def _meant() -> Path | None:
    if chunk := os.environ.get("HYPERVISOR_CHUNK"):
        return Path(chunk).parent.parent
    if os.environ.get("SCRATCHPAD") and (task := os.environ.get("HYPERVISOR_TASK_ID")):
        found = task_folder(task)
        if found is not None and (found / PLAN).exists():
            return found
    if Path(PLAN).exists():
        return Path.cwd()
    batches = find_project(Path.cwd(), os.environ).batches
    chunked = sorted(path.parent for path in batches.glob(f"*/{PLAN}"))
    return chunked[-1] if chunked else None
