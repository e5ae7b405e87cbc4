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

from ..claims.files import Files
from ..claims.layout import Layout
from ..core import durable
from ..core.config import settings_of
from ..core.globs import matches_any
from ..core.keys import canonical, item_key, life_key, resolve, split_generation, split_life
from ..core.paths import Project, state_above
from ..lives import current_life, next_life, task_key
from ..manifest import SEPARATORS, Manifest
from .queue import Queue


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

    def sync_results(self) -> None:
        """Make durable what results there are, in every store that was looked at."""
        for layout in self._layouts.values():
            with contextlib.suppress(FileNotFoundError):  # a store without any
                layout.files.sync(layout.results)

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


@lru_cache(maxsize=4096)
def _project_above(folder: str) -> Project | None:
    state = state_above(Path(os.path.realpath(folder)))
    return Project(state.parent, state) if state else None


def _below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")
