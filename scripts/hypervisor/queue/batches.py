"""Batches that are made, opened and found: a folder becomes a `Batch` here."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from ..core import clock, durable
from ..core.config import SPAWNED
from ..core.errors import UsageError
from ..core.paths import Project
from ..manifest import SEPARATORS, Manifest, read_manifest, task_manifest, to_json
from .batch import Batch
from .queue import Queue

#: So many items of a new batch are pinned at one time: what is in memory of each is more than its line.
_PINNED = 1000


def open_folder(
    folder: str,
    *,
    cwd: str,
    nul: bool = False,
    queue: str | None = None,
    project: Project | None = None,
    write: bool = True,
) -> Batch:
    """Open a folder as a batch, and settle what its workers must agree on if nobody has yet.

    Args:
        folder: The folder (``--dir``).
        cwd: What relative items are looked for in first.
        nul: Whether items end with NUL.
        queue: Another queue file than the folder's ``queue.txt``.
        project: The project that the batch belongs to, for one that lies in its state folder.
        write: Whether to settle anything; without it the folder is only looked at.

    Raises:
        UsageError: There is no queue, or the batch was begun with other words.
    """
    folder = os.path.realpath(folder)
    if not os.path.isdir(folder):
        raise UsageError(f"{folder}: no such folder; make it and put a queue.txt into it")
    path = os.path.realpath(os.path.join(cwd, queue)) if queue else os.path.join(folder, "queue.txt")
    manifest_path = Path(folder, "manifest.json")
    manifest = read_manifest(manifest_path)
    if manifest is None:
        if not os.path.isfile(path):
            raise UsageError(f"{path}: no such queue; write one item a line, or name one with --queue")
        separator = "nul" if nul else "newline"
        base = _find_base(Queue(path, "", SEPARATORS[separator]), [cwd, folder, os.path.dirname(folder)])
        manifest = Manifest(base=base, queue=os.path.relpath(path, folder), separator=separator)
        if write and not durable.write_once(manifest_path, to_json(manifest)):
            manifest = read_manifest(manifest_path) or manifest  # another worker was first
    if nul and manifest.separator != "nul":
        raise UsageError(f"{folder}: this queue was begun with items a line each; leave -0 away")
    own = os.path.realpath(os.path.join(folder, manifest.queue))
    if queue and own != path:
        raise UsageError(f"{folder}: this batch was begun with the queue {own}; leave --queue away")
    if not os.path.isfile(own):
        raise UsageError(f"{own}: the batch's queue is gone; put it back")
    if write:
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.join(folder, "results"))
    return Batch(folder, manifest, project or _project_of_batch(folder))


def create(folder: Path, items: list[str], manifest: Manifest, project: Project) -> Batch:
    """Make a batch of *items*; durable on return, and there for others only once it is whole."""
    separator = SEPARATORS[manifest.separator]
    (folder / "results").mkdir(parents=True)  # the folder may be there, with what else belongs to the batch
    data = b"".join(os.fsencode(item) + separator for item in items)
    durable.write_once(folder / "queue.txt", data)
    batch = Batch(str(folder), manifest, project)
    for at in range(0, len(items), _PINNED):
        batch.pin(items[at : at + _PINNED])
    durable.write_once(folder / "manifest.json", to_json(manifest))
    durable.sync_directory(folder.parent)
    return batch


def create_of_tasks(project: Project, run: list[str], skipped: Iterable[tuple[str, str]]) -> Batch:
    """Make a batch of tasks of *project*.

    Args:
        project: The project, in whose state folder the batch lies.
        run: Paths of the tasks below the project's root, in their order.
        skipped: Those that are left out, and why.
    """
    project.prepare()
    return create(project.batches / new_batch_name(), run, task_manifest(project, skipped), project)


def new_batch_name() -> str:
    """Return a batch's id that no other bears; those made later come later."""
    return f"{clock.now_text()[:19].replace('-', '').replace(':', '')}-{os.urandom(3).hex()}"


def spawned_folder(project: Project, batch: str) -> Path:
    """Return where the tasks lie that were made for *batch*; see `spawning`."""
    return project.state / SPAWNED / batch


def open_named(project: Project, name: str) -> Batch:
    """Open a batch of *project* to look at: the one with this id, or the newest for "".

    Raises:
        UsageError: There is none.
    """
    folder = project.batches / name if name else newest(project)
    if folder is None:
        raise UsageError(f"{project.root} has no batch yet; `hypervisor preflight --all --batch` makes one")
    if "/" in name or name in (".", "..") or not os.path.isdir(folder):
        raise UsageError(f"{name}: no such batch in {project.batches}; see `hypervisor status`")
    return open_folder(str(folder), cwd=str(project.root), project=project, write=False)


def newest(project: Project) -> Path | None:
    """Return the folder of the project's newest batch, or None."""
    try:
        names = sorted(name for name in os.listdir(project.batches))
    except FileNotFoundError:
        return None
    whole = [name for name in names if (project.batches / name / "manifest.json").is_file()]
    return project.batches / whole[-1] if whole else None


def _project_of_batch(folder: str) -> Project | None:
    """Return the project in whose state folder the batch lies, if it lies in one."""
    batches, state = os.path.dirname(folder), os.path.dirname(os.path.dirname(folder))
    if os.path.basename(batches) == "batches" and os.path.isfile(os.path.join(state, ".gitignore")):
        return Project(Path(os.path.dirname(state)), Path(state))
    return None


def _find_base(queue: Queue, candidates: list[str]) -> str:
    """Return the folder that the queue's relative items are relative to.

    That is where the first of them exists; it is settled once, so that workers started from
    different folders mean the same files.
    """
    for line in queue.lines():
        if os.path.isabs(line.item):
            continue
        for folder in candidates:
            if os.path.lexists(os.path.join(folder, line.item)):
                return os.path.realpath(folder)
        break
    return os.path.realpath(candidates[0])
