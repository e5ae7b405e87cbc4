"""A batch: its row in a store, its folder, and what its queue lines mean.

A plain folder (``--dir``) has a store of its own. A batch of tasks lives in the store of their project, so
that a task has one claim whoever asks. `batches` opens and makes batches, `source` reads their queues.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from ..core.errors import Refused
from ..core.files import matches_any
from ..core.project import Project, attempt_name, canonical, item_key, resolve, state_above, task_key
from ..core.settings import settings_of
from ..store.directories import LockDirectories
from ..store.records import BatchRecord, Item, Work
from ..store.store import Store
from .source import BLOCK_LINES, QueueSource, TakenIn, take_in

SEPARATORS = {"newline": b"\n", "nul": b"\0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """What all workers of a batch must agree on; kept with its row, settled once."""

    #: Absolute path of the folder that relative items are relative to.
    base: str
    #: The queue file: absolute, or relative to the batch's folder.
    queue: str = "queue.txt"
    #: ``newline`` or ``nul``: what ends an item.
    separator: str = "newline"
    #: Whether every markdown file of the queue is a task, or only those of the project's globs.
    tasks: bool = False
    #: Items left out before the start, and why: ``{"item": ..., "reason": ...}``.
    skipped: tuple[Mapping[str, str], ...] = ()
    #: Tools that act on many items: nobody uses one before it is approved.
    bulk: tuple[str, ...] = ()

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> BatchOptions:
        """Return the options in a batch's row; what others keep there is passed over."""
        known: dict[str, Any] = {
            name: tuple(options[name]) if name in ("skipped", "bulk") else options[name]
            for name in cls.__dataclass_fields__
            if name in options
        }
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        """Return the options as plain data."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRef:
    """What a queue line means."""

    #: The line, verbatim; for a task its path below the project's root.
    item: str
    #: The item's key in the store: equal for all spellings of one item.
    key: str
    #: The path that the item names; for a text, the text.
    path: str
    #: Whether it is a task of the batch's project.
    task: bool


@dataclass(slots=True)
class Batch:
    """An open batch. Close it, or use it as a context manager."""

    store: Store
    record: BatchRecord
    #: Absolute path.
    folder: str
    #: The project whose store it lives in; None for a store of its own.
    project: Project | None = None
    options: BatchOptions = field(init=False)
    #: Where the store lies of a queue that nobody has begun: it is only looked at.
    temporary: tempfile.TemporaryDirectory[str] | None = None

    def __post_init__(self) -> None:
        self._set_options()

    @property
    def id(self) -> str:
        """What people call it."""
        return self.record.name

    @property
    def number(self) -> int:
        """Its id in the store: what the methods of `store.batches.Batches` take."""
        return self.record.id

    @property
    def source(self) -> QueueSource:
        """The queue file."""
        path = os.path.join(self.folder, self.options.queue)
        return QueueSource(path, SEPARATORS[self.options.separator])

    @property
    def logs(self) -> str:
        """Folder of what the items' commands printed."""
        return os.path.join(self.folder, "logs")

    def log_of(self, key: str, number: int) -> str:
        """Return where what an attempt printed is kept, without the ending."""
        return os.path.join(self.logs, attempt_name(key, number))

    @property
    def lock_directories(self) -> list[LockDirectories]:
        """The folders in which claims show as directories: the batch's, the project's, or none."""
        folders = dict.fromkeys((self.folder, self.store.folder))
        return [locks for locks in map(LockDirectories, folders) if locks.used]

    def refresh(self) -> BatchRecord:
        """Read the batch's row again, and return it."""
        self.record = self.store.batches.get(self.record.id)
        self._set_options()
        return self.record

    def set_options(self, **changes: Any) -> None:
        """Change some of what is kept with the batch's row, and leave the rest as it is."""
        options = {**self.store.batches.get(self.record.id).options, **changes}
        self.store.batches.set_options(self.record.id, options)
        self.refresh()

    def take_in(self, limit: int | None = None) -> TakenIn:
        """Take the next lines of the queue file into the store, all of them without a *limit*.

        On a store of many machines the file may be on another one: it takes them in.

        Raises:
            Refused: A line names a task of another project, or of any where the batch has its own store.
        """
        if self.store.shared and not os.path.exists(self.source.path):
            return TakenIn.NOTHING
        done = take_in(self.source, self.store.batches, self.record.id, self._items, limit)
        while limit is None and done is TakenIn.SOME:
            done = take_in(self.source, self.store.batches, self.record.id, self._items, limit)
        return done

    def take_in_some(self) -> TakenIn:
        """Take some lines of the queue file into the store, as `take_in` does."""
        return self.take_in(limit=BLOCK_LINES)

    def ref(self, item: str) -> ItemRef:
        """Return what a queue line means.

        Raises:
            Refused: It is a task that this batch cannot claim.
        """
        base = self.options.base
        text = _is_text(item)
        path = item if text else resolve(item, base)
        home = None if text else home_of(path, self.project, tasks=self.options.tasks)
        if home is not None:
            if self.project is None or home.state != self.project.state:
                raise Refused(self._other_home(item, home))
            real = os.path.realpath(path)
            root = os.path.realpath(home.root)
            return ItemRef(item=os.path.relpath(real, root), key=task_key(root, real), path=real, task=True)
        return ItemRef(item=item, key=self._key_of(item), path=path, task=False)

    def ref_of(self, work: Work) -> ItemRef:
        """Return what an item of the batch means, from its row."""
        return self.ref_by(work.key, work.text)

    def ref_by(self, key: str, text: str) -> ItemRef:
        """Return what the item with that key and text means; both are a row's or a claim's."""
        if self.project is not None:
            path = os.path.join(os.path.realpath(self.project.root), text)
            if not _is_text(text) and item_key(canonical(text, os.path.realpath(self.project.root))) == key:
                return ItemRef(item=text, key=key, path=path, task=True)
        path = text if _is_text(text) else resolve(text, self.options.base)
        return ItemRef(item=text, key=key, path=path, task=False)

    def close(self) -> None:
        """Close the store."""
        self.store.close()
        if self.temporary is not None:
            self.temporary.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---------------------------------------------------------------- details

    def _set_options(self) -> None:
        options = BatchOptions.of(self.record.options)
        base = options.base  # below the project's root it is kept relative: the project may be moved
        if self.project is not None and not os.path.isabs(base):
            base = os.path.normpath(os.path.join(os.path.realpath(self.project.root), base))
        self.options = replace(options, base=base)

    def _items(self, lines: list[str]) -> list[Item]:
        """Return the lines as items to be taken in."""
        if self.project is None:
            base = self.options.base
            for line in lines:
                if line.endswith(".md") and (home := home_of_line(line, base, None, tasks=False)):
                    raise Refused(self._other_home(line, home))
            return [Item(key=item_key(canonical(line, base)), text=line) for line in lines]
        refs = map(self.ref, lines)
        # A task that was finished before begins its next cycle; an item of this batch has one.
        return [Item(key=ref.key, text=ref.item, reopen=ref.task) for ref in refs]

    def _key_of(self, item: str) -> str:
        form = canonical(item, self.options.base)
        if self.project is None:
            return item_key(form)
        # What is no task belongs to this batch alone, in a store that is shared by many.
        return item_key(form, salt=self.record.name)

    def _other_home(self, item: str, home: Project) -> str:
        if self.project is None:
            return (
                f"{self.source.path}: {item} is a task of the project {home.root}, and this queue was begun "
                f"without tasks; put tasks into a queue of their own, or use --tasks there"
            )
        return (
            f"{self.source.path}: {item} is a task of the project {home.root}, the batch belongs to "
            f"{self.project.root}; make a queue for each project"
        )


def home_of(path: str, project: Project | None, *, tasks: bool) -> Project | None:
    """Return the project of which the file *path* is a task, if it is one.

    Args:
        path: An absolute path.
        project: The batch's own project, if it has one.
        tasks: Whether every markdown file of that project is a task.
    """
    if not path.endswith(".md") or "\0" in path:
        return None
    home = project
    if home is None or not _below(path, str(home.root)):
        home = _project_above(os.path.dirname(path))
    if home is None:
        return None
    real, root = os.path.realpath(path), os.path.realpath(home.root)
    if not _below(real, root):
        return None
    if tasks and home == project:
        return home
    return (
        home if matches_any(os.path.relpath(real, root), settings_of(home.state)["tasks"]["globs"]) else None
    )


def home_of_line(line: str, base: str, project: Project | None, *, tasks: bool) -> Project | None:
    """Return the project of which a queue line names a task, if it does; quick where it does not."""
    if not line.endswith(".md") or _is_text(line) or "\0" in line:
        return None
    if project is None and _project_above(os.path.dirname(os.path.join(base, line))) is None:
        return None
    with contextlib.suppress(OSError, ValueError):
        return home_of(resolve(line, base), project, tasks=tasks)
    return None


def _is_text(item: str) -> bool:
    return "://" in item or item[:1] in ("{", "[")


@lru_cache(maxsize=4096)
def _project_above(folder: str) -> Project | None:
    try:
        state = state_above(Path(os.path.realpath(folder)))
    except ValueError:  # a NUL
        return None
    return Project(state.parent, state) if state else None


def _below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")
