"""Batches that are made, opened and found: a folder or a name becomes a `Batch` here.

Where the state of ``--dir D`` lies: in ``D/hypervisor.db`` if that is there; else in the store of the project
that has a batch of that folder: the project in whose state folder D lies, the project of the first task
that the queue names, the one that D lies in, the one of the current folder. A queue that nobody has begun is
begun in the store of the project of its first task, and in a store of its own if it names none; in the store
of the project that D lies in if that is on a server.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from ..core.files import sync_directory, write_once
from ..core.project import Project, find_project, state_above
from ..core.settings import SPAWNED, settings_of
from ..core.text import now_text
from ..store.records import BatchRecord
from ..store.shared import is_begun, store_url
from ..store.sqlite import FILE
from ..store.store import Store
from .batch import SEPARATORS, Batch, BatchOptions, home_of_line
from .source import QueueSource


def open_folder(
    folder: str | os.PathLike[str],
    *,
    cwd: str,
    nul: bool = False,
    queue: str | None = None,
    write: bool = True,
    claims: Mapping[str, Any] | None = None,
) -> Batch:
    """Open a folder as a batch, and settle what its workers must agree on if nobody has yet.

    Args:
        folder: The folder (``--dir``).
        cwd: What relative items are looked for in first.
        nul: Whether items end with NUL.
        queue: Another queue file than the folder's ``queue.txt``.
        write: Whether to settle anything; without it a queue that nobody has begun is looked at in a
            store that is thrown away.
        claims: Settings of ``[claims]`` that take the place of the project's.

    Raises:
        UsageError: There is no queue, or the batch was begun with other words.
    """
    folder = os.path.realpath(folder)
    if queue and not os.path.isfile(os.path.join(cwd, queue)):
        raise UsageError(f"--queue {queue}: no such file; write one item a line into it")
    if not os.path.isdir(folder):
        raise UsageError(f"{folder}: no such folder; make it and put a queue.txt into it")
    path = os.path.realpath(os.path.join(cwd, queue)) if queue else os.path.join(folder, "queue.txt")
    batch = _find(folder, path, cwd, claims)
    if batch is None:
        if not os.path.isfile(path):
            raise UsageError(f"{path}: no such queue; write one item a line, or name one with --queue")
        batch = _begin(folder, path, "nul" if nul else "newline", cwd, claims, write=write)
    try:
        if nul and batch.options.separator != "nul":
            raise UsageError(f"{folder}: this queue was begun with items a line each; omit -0")
        own = os.path.realpath(batch.source.path)
        if queue and own != path:
            raise UsageError(f"{folder}: this batch was begun with the queue {own}; omit --queue")
        if not os.path.isfile(own) and not batch.store.shared:
            raise UsageError(f"{own}: the batch's queue is gone; put it back")
    except BaseException:
        batch.close()
        raise
    return batch


def find_folder(folder: str, *, cwd: str) -> Batch | None:
    """Open the batch that was begun in a folder; None if none was."""
    folder = os.path.realpath(folder)
    return _find(folder, os.path.join(folder, "queue.txt"), cwd, None)


def create(
    project: Project, items: Iterable[str], options: BatchOptions, name: str = "", **kept: Any
) -> Batch:
    """Make a batch of *items* in the store of *project*; durable on return.

    Args:
        project: The project.
        items: The queue's lines, in their order.
        options: What its workers must agree on.
        name: Of the batch, a new one by default. Its folder may be there, with what else belongs to it.
        kept: What else is kept with its row, such as ``run``: the options of a run.
    """
    project.prepare()
    name = name or new_batch_name()
    folder = project.batches / name
    folder.mkdir(parents=True, exist_ok=True)
    separator = SEPARATORS[options.separator]
    write_once(folder / options.queue, b"".join(os.fsencode(item) + separator for item in items))
    sync_directory(folder.parent)
    store = Store.open(project.state, settings_of(project.state))
    try:
        record = store.batches.create(name, _folder_text(folder, project), _row_of(options, project) | kept)
        batch = Batch(store, record, str(folder), project)
        batch.take_in()
    except BaseException:
        store.close()
        raise
    batch.refresh()
    return batch


def create_of_tasks(project: Project, run: list[str], skipped: Iterable[tuple[str, str]]) -> Batch:
    """Make a batch of tasks of *project*.

    Args:
        project: The project, in whose state folder the batch lies.
        run: Paths of the tasks below the project's root, in their order.
        skipped: Those that are left out, and why.
    """
    return create(project, run, task_options(project, skipped))


def look_at_tasks(project: Project, run: list[str], skipped: Iterable[tuple[str, str]]) -> Batch:
    """Return what `create_of_tasks` would make, in a store that is thrown away."""
    temporary = _thrown_away()
    folder = Path(temporary.name)
    options = task_options(project, skipped)
    (folder / options.queue).write_bytes(b"".join(os.fsencode(item) + b"\0" for item in run))
    store = Store.local(folder, settings_of(project.state))
    record = store.batches.create("batch", "", options.to_json())
    return Batch(store, record, str(folder), project, temporary=temporary)


def task_options(project: Project, skipped: Iterable[tuple[str, str]] = ()) -> BatchOptions:
    """Return the options of a batch of tasks of *project*."""
    return BatchOptions(
        base=str(project.root.resolve()),
        separator="nul",
        tasks=True,
        skipped=tuple({"item": item, "reason": why} for item, why in skipped),
    )


def new_batch_name() -> str:
    """Return a batch's id that no other bears; those made later come later."""
    return f"{now_text()[:19].replace('-', '').replace(':', '')}-{os.urandom(3).hex()}"


def spawned_folder(project: Project, batch: str) -> Path:
    """Return where the tasks lie that were made for *batch*."""
    return project.state / SPAWNED / batch


def open_named(project: Project, name: str, *, claims: Mapping[str, Any] | None = None) -> Batch:
    """Open a batch of *project*: the one with this id, or the newest for "".

    Raises:
        UsageError: There is none.
    """
    store = _store_of(project.state, claims)
    if store is not None:
        record = (
            store.batches.find(name) if name else max(store.batches.all(), key=lambda b: b.id, default=None)
        )
        if record is not None:
            return _opened(store, record, project)
        store.close()
    if name:
        raise UsageError(f"{name}: no such batch in {project.root}; see `hypervisor status`")
    raise UsageError(f"{project.root} has no batch yet; `hypervisor preflight --all --batch` makes one")


def tasks_of(project: Project, name: str) -> tuple[int, frozenset[str]]:
    """Return the number of a batch of *project*, and the paths of its task files.

    Raises:
        UsageError: There is no such batch.
    """
    with open_named(project, name) as batch:
        items = batch.store.batches.items(batch.number)
        return batch.number, frozenset(batch.ref_of(item.work).path for item in items)


def open_record(store: Store, record: BatchRecord, project: Project) -> Batch:
    """Return a batch of *project* whose row and store the caller has; the store stays the caller's."""
    return Batch(store, record, _absolute(record.folder, project), project)


def all_of(project: Project, store: Store) -> list[Batch]:
    """Return all batches in the store of *project*, the oldest first."""
    return [open_record(store, record, project) for record in store.batches.all()]


def has_batches(project: Project) -> bool:
    """Return whether *project* has any batch."""
    store = _store_of(project.state, None)
    if store is None:
        return False
    with store:
        return bool(store.batches.all())


def begun_since(batch: Batch) -> Batch | None:
    """Return what became of a queue that was looked at before anybody had begun it; None: nobody has yet."""
    return _find(batch.folder, batch.source.path, batch.options.base, None)


@contextlib.contextmanager
def store_of(project: Project) -> Iterator[Store | None]:
    """Yield the store of a project, to be closed at the end; None if it has none."""
    store = _store_of(project.state, None)
    try:
        yield store
    finally:
        if store is not None:
            store.close()


# ------------------------------------------------------------------- details


def _find(folder: str, queue: str, cwd: str, claims: Mapping[str, Any] | None) -> Batch | None:
    """Return the batch that was begun in *folder*; None if there is none."""
    if os.path.exists(os.path.join(folder, FILE)):
        own = Store.local(folder, _settings(None, claims))
        if records := own.batches.all():
            return Batch(own, records[0], folder)
        own.close()  # its maker died before the batch was in it
        return None
    for project in _candidates(folder, queue, cwd):
        store = _store_of(project.state, claims)
        if store is None:
            continue
        inside = os.path.realpath(project.batches) == os.path.dirname(folder)
        batches = store.batches
        record = batches.find(os.path.basename(folder)) if inside else None
        record = record or batches.in_folder(_folder_text(folder, project))
        if record is not None:
            return _opened(store, record, project)
        store.close()
    return None


def _candidates(folder: str, queue: str, cwd: str) -> Iterator[Project]:
    """Yield the projects in whose stores the batch of *folder* may be."""
    above = state_above(Path(folder))
    inside = Path(os.path.dirname(os.path.dirname(folder)))
    states = [inside] if os.path.basename(os.path.dirname(folder)) == "batches" else []
    states += [state for state in (above, state_above(Path(cwd))) if state is not None]
    seen = set()
    for state in states:
        if state not in seen and is_begun(state):
            seen.add(state)
            yield Project(state.parent, state)
    with contextlib.suppress(OSError):
        home = _first_home(QueueSource(queue), folder, cwd) if os.path.isfile(queue) else None
        if home is not None and home.state not in seen:
            yield home


def _begin(
    folder: str, path: str, separator: str, cwd: str, claims: Mapping[str, Any] | None, *, write: bool
) -> Batch:
    source = QueueSource(path, SEPARATORS[separator])
    home = _project_of_batch(folder) or _first_home(source, folder, cwd) or _shared_home(folder)
    base = _find_base(source, [cwd, folder, os.path.dirname(folder)])
    options = BatchOptions(base=base, queue=os.path.relpath(path, folder), separator=separator)
    temporary = None if write else _thrown_away()
    settings = _settings(home.state if home else None, claims)
    if home and not temporary:
        store = Store.open(home.state, settings)
    else:
        store = Store.local(temporary.name if temporary else folder, settings)
    name = os.path.basename(folder) or "batch"
    text = _folder_text(folder, home)
    record = store.batches.create(name, text, _row_of(options, home))
    if record.folder != text:  # another folder of that name has a batch in this project
        name = f"{name}-{hashlib.blake2b(os.fsencode(folder), digest_size=3).hexdigest()}"
        record = store.batches.create(name, text, _row_of(options, home))
    return Batch(store, record, folder, home, temporary=temporary)


def _thrown_away() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="hypervisor-", ignore_cleanup_errors=True)


def _project_of_batch(folder: str) -> Project | None:
    """Return the project in whose state folder a batch lies, if it lies in one."""
    batches, state = os.path.dirname(folder), os.path.dirname(os.path.dirname(folder))
    if os.path.basename(batches) == "batches" and os.path.isfile(os.path.join(state, ".gitignore")):
        return Project(Path(os.path.dirname(state)), Path(state))
    return None


def _first_home(source: QueueSource, folder: str, cwd: str) -> Project | None:
    """Return the project of the first task that the queue names; None if it names none."""
    base = ""
    for line in source.lines():
        if not line.endswith(".md"):
            continue
        base = base or _find_base(source, [cwd, folder, os.path.dirname(folder)])
        if (home := home_of_line(line, base, None, tasks=False)) is not None:
            return home
    return None


def _shared_home(folder: str) -> Project | None:
    """Return the project that a folder lies in if its store is on a server: other machines may help then."""
    project = find_project(Path(folder), os.environ)
    return project if store_url(project.state, settings_of(project.state)) else None


def _find_base(queue: QueueSource, candidates: list[str]) -> str:
    """Return the folder that the queue's relative items are relative to.

    That is where the first of them exists; it is settled once, so that workers started from
    different folders mean the same files.
    """
    for line in queue.lines():
        if os.path.isabs(line):
            continue
        with contextlib.suppress(ValueError):
            for folder in candidates:
                if os.path.lexists(os.path.join(folder, line)):
                    return os.path.realpath(folder)
        break
    return os.path.realpath(candidates[0])


def _opened(store: Store, record: BatchRecord, project: Project) -> Batch:
    return Batch(store, record, _absolute(record.folder, project), project)


def _store_of(state: Path, claims: Mapping[str, Any] | None) -> Store | None:
    """Open the store of a project; None if it has none."""
    try:
        return Store.open(state, _settings(state, claims), create=False)
    except FileNotFoundError:
        return None


def _settings(state: Path | None, claims: Mapping[str, Any] | None) -> Mapping[str, Any]:
    settings = settings_of(state)
    return {**settings, "claims": {**settings["claims"], **claims}} if claims else settings


def _folder_text(folder: str | os.PathLike[str], project: Project | None) -> str:
    """Return a batch's folder as its row keeps it: relative to the project, so that it may be moved."""
    if project is None:
        return ""  # its own store lies in it
    root, folder = os.path.realpath(project.root), os.path.realpath(folder)
    inside = folder == root or folder.startswith(root.rstrip("/") + "/")
    return os.path.relpath(folder, root) if inside else folder


def _row_of(options: BatchOptions, project: Project | None) -> dict[str, Any]:
    """Return options as a batch's row keeps them."""
    base = options.base if project is None else _folder_text(options.base, project)
    return {**options.to_json(), "base": base}


def _absolute(folder: str, project: Project) -> str:
    return os.path.normpath(os.path.join(os.path.realpath(project.root), folder))
