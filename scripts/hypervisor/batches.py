"""A batch: a folder with a queue, and for each item the store that holds its claim.

A plain folder (``--dir``) is its own store. An item that is a task of a project takes that
project's claim instead, whoever asks, and the batch's ``results/`` then holds a *view*: a link to
the result that the project's store has or will have. The link is made before the item is claimed
and never changes, so that everybody in the batch means the same life of the task.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from . import clock, durable
from .claims.files import Files
from .claims.layout import Layout
from .config import SPAWNED
from .config import settings_of as settings_of  # noqa: PLC0414 - many take it from here
from .errors import UsageError
from .globs import matches_any
from .keys import canonical, item_key, life_key, resolve, split_generation, split_life
from .lives import current_life, next_life, task_key
from .manifest import SEPARATORS, Manifest, read_manifest, task_manifest, to_json
from .paths import Project, state_above
from .queue import Queue

#: So many items of a new batch are pinned at one time: what is in memory of each is more than its line.
_PINNED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the claim of one item is."""

    item: str
    #: What the item is called in the batch: equal for all spellings of one item.
    name: str
    #: Folder of the store.
    root: str
    #: The life that this batch means.
    key: str
    #: The path that the item names; for a text, the text.
    path: str
    #: Whether it is a task of a project.
    task: bool


@dataclass(slots=True)
class Batch:
    """An open batch."""

    folder: str
    manifest: Manifest
    project: Project | None = None
    _layouts: dict[str, Layout] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The folder's name."""
        return os.path.basename(self.folder)

    @property
    def queue(self) -> Queue:
        """The batch's queue."""
        path = os.path.join(self.folder, self.manifest.queue)
        cursor = os.path.join(self.folder, "cursor")
        return Queue(path, cursor, SEPARATORS[self.manifest.separator])

    @property
    def logs(self) -> str:
        """Folder of what the items' commands printed."""
        return os.path.join(self.folder, "logs")

    def layout(self, root: str) -> Layout:
        """Return the store at *root*, to look at."""
        if root not in self._layouts:
            self._layouts[root] = Layout(root, Files())
        return self._layouts[root]

    def place(self, item: str, *, pin: bool = True) -> Place:
        """Return where the claim of *item* is.

        Args:
            item: A queue line.
            pin: Whether to settle which life of a task this batch means; without it, a task that
                nobody in this batch has looked at yet gets the life that it would have now.
        """
        text = "://" in item or item[:1] in ("{", "[")
        path = item if text else resolve(item, self.manifest.base)
        name = item_key(canonical(item, self.manifest.base))
        own = self.layout(self.folder)
        home = None if text else self._home(path)
        # A project that came to be after the batch had begun with an item does not get it any more.
        mine = own.finished(name) and not os.path.islink(own.result_path(name))
        if home is None or mine or own.highest(name):
            key = current_life(own, name)
            return Place(item=item, name=name, root=self.folder, key=key, path=path, task=False)
        real = os.path.realpath(path)
        name = item_key(canonical(real, self.manifest.base))
        key = self._viewed(name, home, real, pin=pin)
        return Place(item=item, name=name, root=str(home.state), key=key, path=real, task=True)

    def pin(self, items: Iterable[str]) -> list[Place]:
        """Return the places of many items; what they settle is durable on return."""
        places = [self.place(item) for item in items]
        if any(place.task for place in places):
            durable.sync_directory(os.path.join(self.folder, "results"))
        return places

    def glance(self) -> Callable[[str], bool]:
        """Return a quick look, good for one pass over the queue, that knows most finished items.

        "No" is not known: then `place` says more. An item is finished if the batch's own store has its
        result, and no later life of it is open as the pass begins.
        """
        own = self.layout(self.folder)
        names: list[str] = []
        with contextlib.suppress(FileNotFoundError):  # the store of a project's tasks alone
            names = own.files.names(own.locks)
        lives = (split_life(split_generation(name)[0]) for name in names)
        again = {name for name, life in lives if life > 1}

        def finished(item: str) -> bool:
            name = item_key(canonical(item, self.manifest.base))
            try:
                found = own.files.lstat(own.result_path(name))
            except FileNotFoundError:
                return False
            return stat.S_ISREG(found.st_mode) and name not in again  # a link is the view of a task

        return finished

    def find(self, root: str, key: str, item: str) -> Place | None:
        """Return the place of *item* if its life *key*, in the store at *root*, is this batch's."""
        place = self.place(item, pin=False)
        if place.root != root or place.key != key:
            return None
        return place if not place.task or os.path.lexists(self._view(place.name, 1)) else None

    def reopen(self, place: Place) -> Place:
        """Settle on the next life of a finished task, for a second try within this batch."""
        if not place.task:
            raise ValueError("an item of the batch's own store is reopened in that store")
        life = 1
        while os.path.lexists(self._view(place.name, life)):
            life += 1
        home = Project(Path(place.root).parent, Path(place.root))
        self._make_view(place.name, life, home, place.path)
        return self.place(place.item)

    def _home(self, path: str) -> Project | None:
        """Return the project of which *path* is a task, if it is one."""
        if not path.endswith(".md") or "\0" in path:
            return None
        home = self.project
        if home is None or not _below(path, str(home.root)):
            home = _project_above(os.path.dirname(path))
        if home is None or not _below(os.path.realpath(path), str(home.root)):
            return None
        if self.manifest.tasks and home == self.project:
            return home
        relative = os.path.relpath(os.path.realpath(path), home.root)
        return home if matches_any(relative, settings_of(home.state)["tasks"]["globs"]) else None

    def _view(self, name: str, life: int) -> str:
        return os.path.join(self.folder, "results", life_key(name, life) + ".json")

    def _viewed(self, name: str, home: Project, real: str, *, pin: bool) -> str:
        life = 1
        while os.path.lexists(self._view(name, life + 1)):
            life += 1
        try:
            target = os.readlink(self._view(name, life))
        except FileNotFoundError:
            if not pin:
                return next_life(self.layout(str(home.state)), task_key(home, real))
            target = self._make_view(name, life, home, real)
        return os.path.basename(target).removesuffix(".json")

    def _make_view(self, name: str, life: int, home: Project, real: str) -> str:
        store = self.layout(str(home.state))
        key = next_life(store, task_key(home, real))
        if split_life(key)[1] > 1:
            store.files.sync(store.results)  # the result before it counts from here on, come what may
        target = os.path.join(home.state, "results", key + ".json")
        folder = os.path.join(self.folder, "results")
        if _below(os.path.realpath(folder), os.path.realpath(home.state)):
            target = os.path.relpath(target, folder)  # so that the project may be moved
        try:
            os.symlink(target, self._view(name, life))
        except FileExistsError:
            return os.readlink(self._view(name, life))
        return target


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


@lru_cache(maxsize=4096)
def _project_above(folder: str) -> Project | None:
    state = state_above(Path(os.path.realpath(folder)))
    return Project(state.parent, state) if state else None


def _project_of_batch(folder: str) -> Project | None:
    """Return the project in whose state folder the batch lies, if it lies in one."""
    batches, state = os.path.dirname(folder), os.path.dirname(os.path.dirname(folder))
    if os.path.basename(batches) == "batches" and os.path.isfile(os.path.join(state, ".gitignore")):
        return Project(Path(os.path.dirname(state)), Path(state))
    return None


def _below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


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
