"""The tasks of one project, to look at: which there are, who holds them, which may be claimed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..core.errors import Unreadable, UsageError
from ..core.model import Outcome, TaskHead, TaskStatus
from ..core.project import Project, task_key
from ..store.directories import LockDirectories
from ..store.records import Held, Work
from ..store.store import Store
from .actor import Actor
from .dependencies import Edges, graph_of
from .discovery import find_task_files
from .eligibility import Dependencies, Eligibility, Named, claim_refusal, lock_name
from .index import Index
from .publication import finished_words, settle, shows
from .view import CatalogView

if TYPE_CHECKING:
    from .index_watch import LiveIndex


class TaskCatalog:
    """The read side. Leaves nothing behind where there is no project of ours.

    Args:
        project: The project.
        settings: Its settings.
        actor: In whose name it asks.
        store: The project's store; by default it is opened if there is one.
        live: The index of a process that stays.
    """

    def __init__(
        self,
        project: Project,
        settings: Mapping[str, Any],
        actor: Actor,
        store: Store | None = None,
        *,
        live: LiveIndex | None = None,
    ) -> None:
        self.project = project
        self.settings = settings
        self.actor = actor
        #: Files that could not be read at the last look, and why.
        self.unreadable: list[str] = []
        self._live = live
        self._given = store
        self._opened: Store | None = None

    # ------------------------------------------------------------------ store

    @property
    def store(self) -> Store | None:
        """The project's store; None while there is none."""
        if self._given is None and self._opened is None:
            with contextlib.suppress(FileNotFoundError):
                self._opened = Store.open(self.project.state, self.settings, create=False)
        return self._given or self._opened

    def open_store(self) -> Store:
        """Return the project's store, made if there is none."""
        store = self.store
        if store is None:
            self.project.prepare()
            store = self._opened = Store.open(self.project.state, self.settings)
        return store

    def close(self) -> None:
        """Close the store, if this catalog opened it."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def settle(self) -> None:
        """Bring claims and task files up to date before they are shown; see `publication.settle`."""
        if self.store is not None:
            settle(self.store)

    # ------------------------------------------------------------------ tasks

    def tasks(self) -> list[TaskHead]:
        """Return every readable task, in the order of their paths."""
        with self.indexed() as index:
            return index.heads() if index else []

    @contextlib.contextmanager
    def indexed(self) -> Iterator[Index | None]:
        """Yield the up-to-date index of the tasks; None where there is no project of ours."""
        if not self.project.state.is_dir() and not any(find_task_files(self.project.root, self.settings)):
            yield None  # looking at it leaves nothing behind
            return
        with self._index(refreshed=True) as index:
            self.unreadable = index.unreadable()
            yield index

    @contextlib.contextmanager
    def view(self) -> Iterator[CatalogView]:
        """Yield one consistent look at the tasks, after claims and files were brought up to date."""
        self.settle()
        with self.indexed() as index:
            if index is not None:
                yield CatalogView(index, self)
                return
        empty = Index(self.project, self.settings, kept=False)
        try:
            yield CatalogView(empty, self)
        finally:
            empty.close()

    def find(self, name: str) -> TaskHead:
        """Return the task with this id, or at this path below the project's root.

        Raises:
            UsageError: There is none, or several bear the id.
        """
        with self._index() as index:
            quick = index.find(name)
        if quick is not None:
            return quick
        with self.indexed() as now:
            return self.find_in(now, name)

    def find_in(self, index: Index | None, name: str) -> TaskHead:
        """Return the task with this id or path, as `find` does, from an index that is up to date."""
        found = index.named(name) if index else []
        if len(found) == 1:
            return found[0]
        if found:
            paths = ", ".join(self.relative(task) for task in found)
            raise UsageError(f"{name}: {len(found)} tasks bear this id ({paths}); name the path instead")
        raise UsageError(f"{name}: no such task in {self.project.root}; see `hypervisor task list`")

    def relative(self, task: TaskHead | Named) -> str:
        """Return the task's path below the project's root."""
        return os.path.relpath(task.path, self.project.root)

    def key(self, task: TaskHead) -> str:
        """Return the task's key in the store."""
        return task_key(self.project.root, task.path)

    # ------------------------------------------------------------------ claims

    def done_by_command(self, tasks: Iterable[Named]) -> dict[str, str]:
        """Return why tasks are done that an `--exec` of a batch has processed, by their paths.

        Such a result changes no file, so that only the store knows of it.
        """
        paths = {task_key(self.project.root, task.path): task.path for task in tasks}
        found = self.store.claims.successes(paths) if self.store is not None and paths else {}
        return {
            paths[key]: f"done by batch {result.get('batch')}; name it to run it again"
            for key, result in found.items()
            if result.get("runner") == "exec" and not result.get("edit")
        }

    def held(self, task: TaskHead) -> Held | None:
        """Return who holds *task*; that worker may be dead."""
        return self.store.claims.held(self.key(task)) if self.store is not None else None

    def unmet(self, task: TaskHead) -> list[str]:
        """Return what *task* waits for, each with what is wrong with it."""
        if task.depends_on and self.store is not None and self.store.shared:
            task = self._without_finished(task)
        if not task.depends_on:
            return []
        with self._index() as index:  # the quick way looks at the files of its dependencies only
            known = [(name, index.find(name)) for name in task.depends_on]
            if all(one and one.id.lower() == name.lower() for name, one in known):
                waits = [name for name, one in known if one and one.status is not TaskStatus.DONE]
                return [Edges(index).told(task.id.lower(), name) for name in waits]
        with self.indexed() as now:
            return Edges(now).unmet(task) if now else list(task.depends_on)

    def why_not(self, task: TaskHead) -> str | None:
        """Return why an agent may not claim *task* now, None if it may."""
        self.settle()
        held = self.held(task)
        return f"held by {held.worker.name}" if held is not None else self.refusal(self.find(task.path))

    def refusal(self, task: TaskHead) -> str | None:
        """Return why an agent may not claim *task*, other than that somebody holds it in the store."""
        why = claim_refusal(task, self.actor.name, self.settings, unmet=self.unmet(task))
        if why is None and self.store is not None and self.store.shared:
            why = self.finished_elsewhere(task)
        why = why or self._foreign_locks().get(lock_name(task, self.key(task)))
        if why or self.store is None:
            return why
        return self.store.review.shut_for_task(task.id) or self._parked().get(task.id.casefold())

    def lock_name(self, task: TaskHead) -> str:
        """Return the name of the lock directory that a claim on *task* makes, "" where none is made."""
        used = LockDirectories(str(self.project.state)).used
        return lock_name(task, self.key(task)) if used else ""

    def eligibility(self, tasks: Iterable[TaskHead]) -> Eligibility:
        """Return which tasks may be claimed as of now.

        Args:
            tasks: All of the project's, among which dependencies are looked up.
        """
        return self.eligibility_by(graph_of(tasks))

    def eligibility_by(self, dependencies: Dependencies) -> Eligibility:
        """Return which tasks may be claimed as of now."""
        store = self.store
        gates = store.review.gates() if store is not None else ()
        gated = {gate.task for gate in gates if gate.task}
        shut = {task.casefold(): store.review.shut_for_task(task) for task in gated} if store else {}
        return Eligibility(
            name=self.actor.name,
            settings=self.settings,
            dependencies=dependencies,
            key=self.key,
            holders={held.key: held.worker.name for held in store.claims.held_all()} if store else {},
            gated={**self._parked(), **{task: why for task, why in shut.items() if why}},
            locks=self._foreign_locks(),
            finished=self.finished_elsewhere if store is not None and store.shared else None,
        )

    # ---------------------------------------------------------- many machines

    def may_reopen(self, task: TaskHead, latest: Work) -> bool:
        """Return whether a task that may be claimed by its file was reopened by its owner.

        On one machine every published result is in the file, so a file that says active was reopened. On a
        store of many machines the file may be older than the result: only one that has its report counts.
        """
        if not latest.published or latest.result is None:
            return False
        if self.store is None or not self.store.shared:
            return True
        try:
            return shows(Path(task.path).read_bytes(), latest.result)
        except (OSError, Unreadable):
            return False

    def finished_elsewhere(self, task: TaskHead) -> str | None:
        """Return how a task ended that is open by its file, as that is older than the result; else None."""
        latest = self.store.claims.latest(self.key(task)) if self.store is not None else None
        if latest is None or not latest.decided or self.may_reopen(task, latest):
            return None
        return finished_words(latest)

    def _without_finished(self, task: TaskHead) -> TaskHead:
        """Return *task* without those dependencies whose success is merged, whatever files say here."""
        assert self.store is not None  # noqa: S101 - asked before
        left = []
        with self._index() as index:
            for name in task.depends_on:
                one = index.find(name)
                latest = self.store.claims.latest(self.key(one)) if one is not None else None
                if latest is None or latest.state != Outcome.SUCCESS or not latest.published:
                    left.append(name)
        return replace(task, depends_on=tuple(left))

    # ---------------------------------------------------------------- details

    def _parked(self) -> dict[str, str]:
        """Return why tasks whose agents have asked a person may not be claimed, by their ids, case-folded."""
        found = self.store.questions.open() if self.store is not None else ()
        return {
            one.task.casefold(): f'waits for an answer: `hypervisor answer {one.id} "..."`' for one in found
        }

    def _foreign_locks(self) -> dict[str, str]:
        """Return what lock directories that are not ours hold, by their names."""
        locks = LockDirectories(str(self.project.state))
        if not locks.used:
            return {}
        entries = os.listdir(locks.path)
        ours = self.store.claims.recorded_locks(entries) if self.store is not None else set()
        names = {entry.removesuffix(".lock") for entry in entries}
        return dict.fromkeys(locks.foreign(names, ours), f"held by a lock directory in {locks.path}")

    @contextlib.contextmanager
    def _index(self, *, refreshed: bool = False) -> Iterator[Index]:
        if self._live is not None:
            with self._live.opened(self.project, self.settings, refreshed=refreshed) as index:
                yield index
            return
        index = Index(self.project, self.settings)
        try:
            if refreshed:
                index.refresh()
            yield index
        finally:
            index.close()
