"""Looking at the tasks of one project: which there are, who holds them, which may be claimed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .. import gates
from ..claims.directory import DirectoryStore, Policy
from ..claims.port import Held, Holder
from ..core.errors import Unreadable, UsageError
from ..core.keys import life_key, split_life
from ..core.machine import Identity
from ..core.model import FileEdit, TaskHead, TaskStatus
from ..core.paths import Project
from ..lives import next_life, task_key
from .graph import graph_of
from .index import Index
from .preflight import Named, claim_refusal
from .queries import Edges
from .tasks import find_task_files, open_task, revert_file

if TYPE_CHECKING:
    from .live import LiveIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """In whose name the desk acts."""

    #: "" for whoever holds the task: enough to end a claim, not to make one.
    name: str
    #: The client's session, "" where there is none.
    session: str = ""
    #: The session's agent, `MAIN` for its own thread; "" where that is not known.
    agent: str = ""
    #: The client's process, whose death ends what its agents hold.
    client: Identity | None = None

    def holds(self, holder: Holder) -> bool:
        """Tell whether a claim of *holder* is this caller's to end.

        The client's own word on who calls counts more than a name, which many agents share.
        """
        if self.agent:
            unknown = holder.agent == "" and holder.session == self.session
            return unknown or self.is_known_as(holder)
        same_session = not self.session or not holder.session or self.session == holder.session
        return bool(self.name) and holder.name == self.name and same_session

    def is_known_as(self, holder: Holder) -> bool:
        """Tell whether the caller is *holder* itself by the client's word, and not only called like it."""
        # A claim keeps the first letters of the client's names (`records.Owner.to_text`).
        mine = (self.session[:200], self.agent[:200])
        return bool(self.agent) and mine == (holder.session, holder.agent)


class Dependencies(Protocol):
    """What is known of the tasks that others wait for: a `Graph`, or `Edges`."""

    def unmet(self, task: TaskHead) -> list[str]:
        """Return what *task* waits for, each with its name and what is wrong with it."""

    def waits_for(self, task: TaskHead) -> list[str]:
        """Return the ids of what *task* waits for, as it spells them."""


@dataclass(frozen=True, slots=True)
class Refusals:
    """Why an agent may not claim the tasks of a project, as of one look."""

    dependencies: Dependencies
    #: Keys of the tasks with a claim's directory: no others can be held.
    begun: frozenset[str]
    #: Of a task, and of what it waits for.
    _refusal: Callable[[TaskHead, Sequence[str]], str | None]

    def __call__(self, task: TaskHead) -> str | None:
        """Return why a task may not be claimed now, None if it may."""
        return self._refusal(task, self.dependencies.unmet(task))

    def waits_for(self, task: TaskHead) -> list[str]:
        """Return the ids of the tasks whose end is all that a task waits for; empty if there is more."""
        names = self.dependencies.waits_for(task)
        return names if names and self._refusal(task, ()) is None else []


@dataclass(slots=True)
class TaskList:
    """The tasks of one project, to look at."""

    project: Project
    settings: Mapping[str, Any]
    caller: Caller
    #: Files that could not be read at the last look, and why.
    unreadable: list[str] = field(default_factory=list)
    #: The index of somebody who stays; None: one is opened for each look.
    live: LiveIndex | None = None

    def tasks(self) -> list[TaskHead]:
        """Return every readable task, in the order of their paths. For an answer that tells of all."""
        with self.indexed() as index:
            return list(index.heads()) if index else []

    @contextlib.contextmanager
    def indexed(self) -> Iterator[Index | None]:
        """Yield the index of the tasks as they are now; None where there is no project of ours."""
        if not self.project.state.is_dir() and not any(find_task_files(self.project.root, self.settings)):
            yield None  # looking at it leaves nothing behind
            return
        with self._opened(refreshed=True) as index:
            self.unreadable = index.unreadable()
            yield index

    def find(self, name: str, among: list[TaskHead] | None = None) -> TaskHead:
        """Return the task with this id, or at this path below the project's root.

        Raises:
            UsageError: There is none, or several bear the id.
        """
        if among is None:
            with self._opened() as index:
                quick = index.find(name)
            if quick is not None:
                return quick
            with self.indexed() as now:
                return self.find_in(now, name)
        path = os.path.join(self.project.root, name)
        return self._only(name, [t for t in among if t.id.lower() == name.lower() or t.path == path])

    def find_in(self, index: Index | None, name: str) -> TaskHead:
        """Return the task with this id or path, as `find` does, from an index that is up to date."""
        return self._only(name, index.named(name) if index else [])

    def _only(self, name: str, found: list[TaskHead]) -> TaskHead:
        if len(found) == 1:
            return found[0]
        if found:
            paths = ", ".join(self.relative(task) for task in found)
            raise UsageError(f"{name}: {len(found)} tasks bear this id ({paths}); name the path instead")
        raise UsageError(f"{name}: no such task in {self.project.root}; see `hypervisor task list`")

    def unmet(self, task: TaskHead) -> list[str]:
        """Return what *task* waits for, each with what is wrong with it, as `Graph.unmet` does."""
        if not task.depends_on:
            return []
        with self._opened() as index:  # the quick way looks at the files of its dependencies only
            known = [(name, index.find(name)) for name in task.depends_on]
        if all(
            one and one.id.lower() == name.lower() and one.status is TaskStatus.DONE for name, one in known
        ):
            return []
        with self.indexed() as now:
            return Edges(now).unmet(task) if now else list(task.depends_on)

    @contextlib.contextmanager
    def _opened(self, *, refreshed: bool = False) -> Iterator[Index]:
        if self.live is not None:
            with self.live.opened(self.project, self.settings, refreshed=refreshed) as index:
                yield index
            return
        index = Index(self.project, self.settings)
        try:
            if refreshed:
                index.refresh()
            yield index
        finally:
            index.close()

    def why_not(self, task: TaskHead) -> str | None:
        """Return why an agent may not claim *task* now, None if it may."""
        return self._claims()[1](task, self.unmet(task))

    def relative(self, task: TaskHead | Named) -> str:
        """Return the task's path below the project's root."""
        return os.path.relpath(task.path, self.project.root)

    def held(self, task: TaskHead) -> Held | None:
        """Return the open claim of *task*, its generation as in `Hold`; its holder may be dead."""
        store = DirectoryStore(str(self.project.state), policy=Policy(patient=False))
        key = next_life(store.layout, self._key(task))
        held = store.held(key)
        return held and replace(held, generation=earlier_claims(store, key) + held.generation)

    def refusals(self, tasks: Iterable[TaskHead]) -> Refusals:
        """Return what says why an agent may not claim a task now.

        Args:
            tasks: All of the project's, among which dependencies are looked up.
        """
        return self.refusals_by(graph_of(tasks))

    def refusals_by(self, dependencies: Dependencies) -> Refusals:
        """Return what says why an agent may not claim a task now."""
        return Refusals(dependencies, *self._claims())

    def _claims(self) -> tuple[frozenset[str], Callable[[TaskHead, Sequence[str]], str | None]]:
        store = DirectoryStore(str(self.project.state), policy=Policy(patient=False))
        begun: frozenset[str] = frozenset()
        gated = list(gates.gates_of(self.project.state))  # mostly none: one look for all tasks
        if os.path.isdir(store.layout.locks):
            begun = frozenset(split_life(key)[0] for key in store.layout.unfinished())

        def refusal(task: TaskHead, unmet: Sequence[str]) -> str | None:
            ours = False
            # Only a task with a claim's directory can be held: the others cost no system call.
            if begun and (name := self._key(task)) in begun:
                key = next_life(store.layout, name)
                if store.is_held(key):
                    held = store.held(key)
                    return f"held by {held.holder.name}" if held else "held"
                ours = self._begun_by_us(store, key)
            why = claim_refusal(task, self.caller.name, self.settings, unmet=unmet, ours=ours)
            return why or gates.shut_for_task(gated, task.id)

        return begun, refusal

    def _key(self, task: TaskHead) -> str:
        return task_key(self.project, os.path.realpath(task.path))

    def _begun_by_us(self, store: DirectoryStore, key: str) -> bool:
        """Tell whether the file still says what the last claim of *key* wrote into it."""
        edit = self._last_edit(store, key)
        if edit is None:
            return False
        try:
            _, document = open_task(Path(edit.path), self.settings)
        except Unreadable:
            return False
        return all(document.source(change.key) == change.new for change in edit.keys)

    def _last_edit(self, store: DirectoryStore, key: str) -> FileEdit | None:
        for generation in range(store.layout.highest(key), 0, -1):
            note = store.layout.note(key, generation)
            if note.get("edit"):
                return FileEdit.from_json(note["edit"])
        return None


def put_back(store: DirectoryStore, key: str, *, below: int) -> None:
    """Take back what the claims of *key* before generation *below* wrote into the task's file.

    Only for whoever holds the claim, or is about to end it: the file is the holder's.
    """
    for generation in range(below - 1, 0, -1):
        note = store.layout.note(key, generation)
        if note.get("edit"):
            edit = FileEdit.from_json(note["edit"])
            revert_file(Path(edit.path), edit)


def earlier_claims(store: DirectoryStore, key: str) -> int:
    """Return how many claims the lives before *key* had; each ended with the one that has the result."""
    item, life = split_life(key)
    results = [store.result(life_key(item, number)) for number in range(1, life)]
    return sum(int(result["generation"]) for result in results if result is not None)
