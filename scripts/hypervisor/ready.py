"""The queue of a scheduler: which of the tasks that may start comes first, and which stand back.

Tasks with the same `files` stand behind the first of them. One that conflicts with a running task is
parked, with all that have its files, until that one ends.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush

from .schedule import Entry
from .scopes import Scopes

#: How many tasks that conflict with running ones a single look at the queue passes over.
LOOKS = 1000


class ReadyQueue:
    """The ready tasks of a batch, each told by its number, which is its place in *tasks*.

    Args:
        tasks: All tasks of the batch, in batch order.
        scope_gate: Whether tasks whose files overlap are kept apart.
    """

    def __init__(self, tasks: Sequence[Entry], *, scope_gate: bool) -> None:
        self._tasks = tasks
        self._gate = scope_gate
        self._in = bytearray(len(tasks))  # heaps keep what has left the queue, until it comes to the top
        self._place = array("q", bytes(8 * len(tasks)))  # rank * total + number: sorts the queue
        self._heap: list[int] = []
        self._groups: dict[tuple[str, ...], list[int]] = {}
        #: Files that are stood back from, with the running task that keeps others from them.
        self._parked: dict[tuple[str, ...], int] = {}
        self._parks: dict[int, list[tuple[str, ...]]] = {}
        self._scopes = Scopes()
        self._running: dict[str, int] = {}  # those with files

    # ------------------------------------------------------------------ asked

    def first(self) -> int | None:
        """Return the first task that conflicts with nothing; None if there is none within `LOOKS`."""
        for _ in range(LOOKS):
            at = self._top()
            by = None if at is None else self._conflict(at)
            if at is None or by is None:
                return at
            self._park(self._tasks[at].files, self._running[by])
        return None

    def first_of(self, some: Iterable[int]) -> int | None:
        """Return the first of *some* that is in the queue and conflicts with nothing."""
        free = [at for at in some if self._in[at] and self._conflict(at) is None]
        return min(free, key=self._place.__getitem__, default=None)

    @property
    def looks_on(self) -> bool:
        """Whether there is more to look at when `first` found nothing."""
        return bool(self._heap)

    def first_parked(self) -> tuple[int, int]:
        """Return a task that is parked, and the running one that it conflicts with; there must be one."""
        return next(
            (place % len(self._tasks), by)
            for files, by in self._parked.items()
            if (place := self._head(files)) is not None
        )

    # ------------------------------------------------------------------- told

    def put(self, at: int, rank: int | None = None) -> None:
        """Put a task in, where its number and *rank* say, 0 for the first; None for the place that it had."""
        if rank is not None:
            self._place[at] = rank * len(self._tasks) + at
        self._in[at] = True
        place, files = self._place[at], self._tasks[at].files
        if not (files and self._gate):
            heappush(self._heap, place)
            return
        heappush(self._groups.setdefault(files, []), place)
        if files not in self._parked and self._head(files) == place:
            heappush(self._heap, place)

    def discard(self, at: int) -> None:
        """Take a task out."""
        self._in[at] = False

    def occupy(self, at: int) -> None:
        """Take a task out, as it runs now: others keep away from its files."""
        task = self._tasks[at]
        self._in[at] = False
        if task.files and self._gate:
            self._scopes.add(task.id, task.files)
            self._running[task.id] = at
            self._park(task.files, at)

    def release(self, at: int) -> None:
        """Note that a task runs no more."""
        name = self._tasks[at].id
        if self._running.pop(name, None) is None:
            return
        self._scopes.remove(name)
        for files in self._parks.pop(at, ()):
            del self._parked[files]
            self._bring(files)

    # ------------------------------------------------------------------ inside

    def _top(self) -> int | None:
        """Return the first of the queue, without what has left it otherwise."""
        while self._heap:
            at = self._heap[0] % len(self._tasks)
            files = self._tasks[at].files
            if self._in[at] and files not in self._parked:
                return at
            heappop(self._heap)
            if files in self._groups and files not in self._parked:
                self._bring(files)
        return None

    def _head(self, files: tuple[str, ...]) -> int | None:
        """Return the place of the first task in the queue with these files."""
        group = self._groups.get(files, [])
        while group and not self._in[group[0] % len(self._tasks)]:
            heappop(group)
        return group[0] if group else None

    def _bring(self, files: tuple[str, ...]) -> None:
        place = self._head(files)
        if place is None:
            self._groups.pop(files, None)
        else:
            heappush(self._heap, place)

    def _conflict(self, at: int) -> str | None:
        files = self._tasks[at].files
        return self._scopes.conflict(files) if files and self._gate else None

    def _park(self, files: tuple[str, ...], by: int) -> None:
        if files not in self._parked:
            self._parked[files] = by
            self._parks.setdefault(by, []).append(files)
