"""The queue of a scheduler: which of the tasks that may start comes first, and which stand back.

Tasks with the same `files` stand behind the first of them. One that conflicts with a running task is
parked, with all that have its files, until that one ends. Lanes of which only so many may run stand in
queues of their own, so that a full one keeps no other back.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush

from ..learning.stats import TaskClass
from ..tasks.scopes import Scopes
from .schedule import QueuedTask

#: How many tasks that conflict with running ones a single look at the queue passes over.
LOOKS = 1000


class ReadyQueue:
    """The ready tasks of a batch, each told by its number, which is its place in *tasks*.

    Args:
        tasks: All tasks of the batch, in batch order.
        scope_gate: Whether tasks whose files overlap are kept apart.
        classes: How many of a class may run at once, for those that are limited.
    """

    def __init__(
        self, tasks: Sequence[QueuedTask], *, scope_gate: bool, classes: Mapping[TaskClass, int] | None = None
    ) -> None:
        self._tasks = tasks
        self._gate = scope_gate
        self._most = dict(classes or {})
        self._runs = dict.fromkeys(self._most, 0)
        self._in = bytearray(len(tasks))  # heaps keep what has left the queue, until it comes to the top
        self._place = array("q", bytes(8 * len(tasks)))  # rank * total + number: sorts the queue
        #: By limited class; all others share that of None.
        self._heaps: dict[TaskClass | None, list[int]] = {
            task_class: [] for task_class in (None, *self._most)
        }
        #: By files, or by limited class and files.
        self._groups: dict[tuple[object, ...], list[int]] = {}
        #: Files that are stood back from, with the running task that keeps others from them.
        self._parked: dict[tuple[str, ...], int] = {}
        self._parks: dict[int, list[tuple[str, ...]]] = {}
        self._scopes = Scopes()
        self._running: dict[str, int] = {}  # those with files

    # ------------------------------------------------------------------ asked

    def first(self) -> int | None:
        """Return the first task that conflicts with nothing; None if there is none within `LOOKS`."""
        for _ in range(LOOKS):
            at = self._first_of_classes()
            by = None if at is None else self._conflict(at)
            if at is None or by is None:
                return at
            self._park(self._tasks[at].files, self._running[by])
        return None

    def first_of(self, some: Iterable[int]) -> int | None:
        """Return the first of *some* that is in the queue and conflicts with nothing."""
        open_ = [at for at in some if self._in[at] and self._has_room(self._class(at))]
        free = [at for at in open_ if self._conflict(at) is None]
        return min(free, key=self._place.__getitem__, default=None)

    @property
    def looks_on(self) -> bool:
        """Whether there is more to look at when `first` found nothing."""
        return any(heap for task_class, heap in self._heaps.items() if self._has_room(task_class))

    def first_parked(self) -> tuple[int, int] | None:
        """Return a task that is parked, and the running one that it conflicts with; None if there is none."""
        return next(
            (
                (place % len(self._tasks), by)
                for files, by in self._parked.items()
                for task_class in self._heaps
                if (place := self._head(task_class, files)) is not None
            ),
            None,
        )

    def full(self) -> dict[TaskClass, int]:
        """Return the classes that keep tasks back as so many of them run, and how many may."""
        return {
            task_class: most
            for task_class, most in self._most.items()
            if not self._has_room(task_class) and self._top(task_class) is not None
        }

    # ------------------------------------------------------------------- told

    def allow(self, task_class: TaskClass, most: int) -> None:
        """Let so many of a class run at once; it must be one of those that are limited."""
        self._most[task_class] = most

    def put(self, at: int, rank: int | None = None) -> None:
        """Put a task in, where its number and *rank* say, 0 for the first; None for the place that it had."""
        if rank is not None:
            self._place[at] = rank * len(self._tasks) + at
        self._in[at] = True
        place, files, task_class = self._place[at], self._tasks[at].files, self._class(at)
        if not (files and self._gate):
            heappush(self._heaps[task_class], place)
            return
        heappush(self._groups.setdefault(_group(task_class, files), []), place)
        if files not in self._parked and self._head(task_class, files) == place:
            heappush(self._heaps[task_class], place)

    def discard(self, at: int) -> None:
        """Take a task out."""
        self._in[at] = False

    def occupy(self, at: int) -> None:
        """Take a task out, as it runs now: others keep away from its files."""
        task, task_class = self._tasks[at], self._class(at)
        self._in[at] = False
        if task_class is not None:
            self._runs[task_class] += 1
        if task.files and self._gate:
            self._scopes.add(task.id, task.files)
            self._running[task.id] = at
            self._park(task.files, at)

    def release(self, at: int) -> None:
        """Note that a task runs no more."""
        name, task_class = self._tasks[at].id, self._class(at)
        if task_class is not None:
            self._runs[task_class] -= 1
        if self._running.pop(name, None) is None:
            return
        self._scopes.remove(name)
        for files in self._parks.pop(at, ()):
            del self._parked[files]
            for one in self._heaps:
                self._bring(one, files)

    # ------------------------------------------------------------------ inside

    def _class(self, at: int) -> TaskClass | None:
        if not self._most:
            return None
        task_class = self._tasks[at].task_class
        return task_class if task_class in self._most else None

    def _has_room(self, task_class: TaskClass | None) -> bool:
        return task_class is None or self._runs[task_class] < self._most[task_class]

    def _first_of_classes(self) -> int | None:
        """Return the first of all classes that have room."""
        tops = [self._top(task_class) for task_class in self._heaps if self._has_room(task_class)]
        return min((at for at in tops if at is not None), key=self._place.__getitem__, default=None)

    def _top(self, task_class: TaskClass | None) -> int | None:
        """Return the first of a class, without what has left it otherwise."""
        heap = self._heaps[task_class]
        while heap:
            at = heap[0] % len(self._tasks)
            files = self._tasks[at].files
            if self._in[at] and files not in self._parked:
                return at
            heappop(heap)
            if _group(task_class, files) in self._groups and files not in self._parked:
                self._bring(task_class, files)
        return None

    def _head(self, task_class: TaskClass | None, files: tuple[str, ...]) -> int | None:
        """Return the place of the first task in the queue of this class with these files."""
        group = self._groups.get(_group(task_class, files), [])
        while group and not self._in[group[0] % len(self._tasks)]:
            heappop(group)
        return group[0] if group else None

    def _bring(self, task_class: TaskClass | None, files: tuple[str, ...]) -> None:
        place = self._head(task_class, files)
        if place is None:
            self._groups.pop(_group(task_class, files), None)
        else:
            heappush(self._heaps[task_class], place)

    def _conflict(self, at: int) -> str | None:
        files = self._tasks[at].files
        return self._scopes.conflict(files) if files and self._gate else None

    def _park(self, files: tuple[str, ...], by: int) -> None:
        if files not in self._parked:
            self._parked[files] = by
            self._parks.setdefault(by, []).append(files)


def _group(task_class: TaskClass | None, files: tuple[str, ...]) -> tuple[object, ...]:
    return files if task_class is None else (task_class, files)
