"""Tasks of one project as agents and people use them: find, claim, complete, give back.

Moving a status needs the task's claim, as does nothing else. What a claim writes into the file
(``in_progress``, the assignee) is noted with the claim before it is written, so that whoever ends
the claim can put back what was there.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import clock
from .batches import next_life, task_key
from .claims.directory import DirectoryStore, Policy
from .claims.port import Attempt, Busy, Claim, Done, Held, Holder, HolderKind, Payload
from .effects import write_edits
from .errors import ClaimLost, Loss, Refused, Unreadable, UsageError
from .index import Index
from .keys import split_life
from .model import CLOSED, MOVES, FileEdit, KeyEdit, LineEdit, Outcome, Task, TaskHead, TaskStatus
from .paths import Project
from .preflight import claim_refusal
from .tasks import (
    append_receipt,
    completion_report,
    edit_file,
    edit_key,
    find_task_files,
    open_task,
    read_task,
    revert_file,
    status_word,
)

_LOOKS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """In whose name the desk acts."""

    name: str
    session: str = ""
    agent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a claim of a task is to end."""

    outcome: Outcome
    status: TaskStatus
    #: One line: what was done, or why not.
    text: str
    commit: str = ""
    evidence: str = ""
    next_step: str = ""


@dataclass(slots=True)
class Desk:
    """The tasks of one project."""

    project: Project
    settings: Mapping[str, Any]
    caller: Caller
    #: Files that could not be read at the last look, and why.
    unreadable: list[str] = field(default_factory=list)

    # ------------------------------------------------------------------- look

    def tasks(self) -> list[TaskHead]:
        """Return every readable task, in the order of their paths."""
        if not self.project.state.is_dir() and not any(find_task_files(self.project.root, self.settings)):
            return []  # not a project of ours: looking at it leaves nothing behind
        index = Index(self.project, self.settings)
        try:
            index.refresh()
            self.unreadable = index.unreadable()
            return list(index.heads())
        finally:
            index.close()

    def find(self, name: str, among: list[TaskHead] | None = None) -> TaskHead:
        """Return the task with this id, or at this path below the project's root.

        Raises:
            UsageError: There is none, or several bear the id.
        """
        tasks = self.tasks() if among is None else among
        path = os.path.join(self.project.root, name)
        found = [task for task in tasks if task.id.lower() == name.lower() or task.path == path]
        if len(found) == 1:
            return found[0]
        if found:
            paths = ", ".join(self.relative(task) for task in found)
            raise UsageError(f"{name}: {len(found)} tasks bear this id ({paths}); name the path instead")
        raise UsageError(f"{name}: no such task in {self.project.root}; see `hypervisor task list`")

    def relative(self, task: TaskHead) -> str:
        """Return the task's path below the project's root."""
        return os.path.relpath(task.path, self.project.root)

    def held(self, task: TaskHead) -> Held | None:
        """Return the open claim of *task*; its holder may be dead."""
        store = DirectoryStore(str(self.project.state), policy=Policy(patient=False))
        return store.held(next_life(store.layout, self._key(task)))

    def refusals(self, tasks: list[TaskHead]) -> Callable[[TaskHead], str | None]:
        """Return a function that says why an agent may not claim a task now, None if it may.

        Args:
            tasks: All of the project's, among which dependencies are looked up.
        """
        unmet = dependencies(tasks)
        store = DirectoryStore(str(self.project.state), policy=Policy(patient=False))
        begun: set[str] = set()
        if os.path.isdir(store.layout.locks):
            begun = {split_life(key)[0] for key in store.layout.unfinished()}

        def refusal(task: TaskHead) -> str | None:
            ours = False
            # Only a task with a claim's directory can be held: the others cost no system call.
            if begun and (name := self._key(task)) in begun:
                key = next_life(store.layout, name)
                if store.is_held(key):
                    held = store.held(key)
                    return f"held by {held.holder.name}" if held else "held"
                ours = self._begun_by_us(store, key)
            return claim_refusal(task, self.caller.name, self.settings, unmet=unmet(task), ours=ours)

        return refusal

    # ------------------------------------------------------------------ claim

    def claim(self, name: str) -> tuple[Task, Claim]:
        """Take a task: its status becomes ``in_progress`` and its assignee the caller.

        Raises:
            Refused: It is done, cancelled, held, somebody else's, or waits for another task.
        """
        tasks = self.tasks()
        task = self.find(name, tasks)
        unmet = dependencies(tasks)(task)
        with self._store() as store:
            for _ in range(_LOOKS):
                # The results first, the file second: a task that is claimable after its result was
                # seen has been reopened by its owner, and begins a new life.
                key = next_life(store.layout, self._key(task))
                self._must_be_claimable(store, key, task, unmet)
                answer = store.claim(key, self.relative(task))
                if isinstance(answer, Busy):
                    raise Refused(f"{task.id} is {answer.detail}; take another, or wait")
                if isinstance(answer, Done):
                    continue
                try:
                    self._begin(store, answer, task, unmet)
                except BaseException:
                    store.release(answer, "could not be begun")
                    raise
                return read_task(Path(task.path), self.settings), answer
        raise Refused(f"{task.id} keeps changing hands; try again")

    def _must_be_claimable(self, store: DirectoryStore, key: str, task: TaskHead, unmet: list[str]) -> None:
        fresh = read_task(Path(task.path), self.settings)
        ours = self._begun_by_us(store, key)
        why = claim_refusal(fresh, self.caller.name, self.settings, unmet=unmet, ours=ours)
        if why:
            raise Refused(f"{task.id}: {why}")

    def _begin(self, store: DirectoryStore, claim: Claim, task: TaskHead, unmet: list[str]) -> None:
        put_back(store, claim.key, below=claim.generation)
        fresh, document = open_task(Path(task.path), self.settings)
        why = claim_refusal(fresh, self.caller.name, self.settings, unmet=unmet, ours=False)
        if why:
            raise Refused(f"{task.id}: {why}")
        word = status_word(fresh, TaskStatus.IN_PROGRESS, self.settings)
        edits = (
            edit_key(document, "status", word, self.settings),
            edit_key(document, "assignee", self.caller.name, self.settings),
        )
        edit = FileEdit(path=os.path.realpath(task.path), keys=edits)
        store.annotate(claim, {"edit": edit.to_json()})
        if edit_file(Path(edit.path), edit):  # its owner saved it in this moment
            put_back(store, claim.key, below=claim.generation + 1)
            raise Refused(f"{task.id}: its file was changed this moment; look at it and try again")

    # -------------------------------------------------------------------- end

    def finish(self, name: str, ending: Ending, generation: int | None = None) -> Mapping[str, Any]:
        """End the caller's claim of a task with a result; without a claim, take one first.

        Args:
            name: Id or path of the task.
            ending: See `Ending`.
            generation: Of the claim that is meant; a stale one is refused.

        Raises:
            ClaimLost: The claim is no longer the caller's.
            Refused: Somebody else holds the task, or it may not move there.
        """
        task = self.find(name)
        with self._store() as store:
            claim = self._open_claim(store, task, generation)
            if claim is None:
                if task.status in CLOSED:
                    raise Refused(f"{task.id} is {task.status} already; its owner may reopen it in the file")
                claim = self._bare_claim(store, task)
            try:
                payload = self._payload(task, claim, ending)
            except BaseException:
                if claim.holder == store_holder(store):
                    store.release(claim, "nothing was changed")
                raise
            return store.complete(claim, payload)

    def _payload(self, task: TaskHead, claim: Claim, ending: Ending) -> Payload:
        fresh, document = open_task(Path(task.path), self.settings)
        if ending.status not in MOVES[fresh.status or TaskStatus.ACTIVE]:
            raise Refused(f"{task.id} is {fresh.status}: it cannot become {ending.status}")
        word = status_word(fresh, ending.status, self.settings)
        edit = edit_key(document, "status", word, self.settings)
        now = clock.now_text()
        report = completion_report(
            outcome=f"{ending.outcome.value}: {ending.text}",
            commit=ending.commit,
            evidence=ending.evidence,
            next_step=ending.next_step,
            who=f"{self.caller.name}, generation {claim.generation}",
            when=now,
            newline=document.newline,
        )
        payload: dict[str, Any] = {
            "item": self.relative(task),
            "task_id": task.id,
            "task_file": os.path.realpath(task.path),
            "status": ending.outcome.value,
            "outcome": ending.text,
            "worker": self.caller.name,
            "session": self.caller.session,
            "agent": self.caller.agent,
            "finished": now,
            "edit": FileEdit(path=os.path.realpath(task.path), keys=(edit,), lines=(report,)).to_json(),
        }
        for key in ("commit", "evidence", "next_step"):
            if getattr(ending, key):
                payload[key] = getattr(ending, key)
        return payload

    def release(self, name: str, reason: str, generation: int | None = None) -> Task:
        """Give a task back as it was before the claim.

        Raises:
            Refused: There is no claim of the caller's to release.
        """
        task = self.find(name)
        with self._store() as store:
            claim = self._open_claim(store, task, generation)
            if claim is None:
                raise Refused(f"{task.id} is not held; there is nothing to release")
            # Before the claim ends: afterwards another may hold the task, and the file is his.
            put_back(store, claim.key, below=claim.generation + 1)
            store.release(claim, reason)
        return read_task(Path(task.path), self.settings)

    def cancel(self, name: str, reason: str) -> Mapping[str, Any]:
        """Cancel a task, whoever holds it; its holder can no longer complete."""
        task = self.find(name)
        ending = Ending(outcome=Outcome.SKIPPED, status=TaskStatus.CANCELLED, text=reason or "cancelled")
        with self._store() as store:
            key = next_life(store.layout, self._key(task))
            store.revoke(key, f"cancelled by {self.caller.name}")
            claim = self._bare_claim(store, task)
            try:
                put_back(store, claim.key, below=claim.generation)
                payload = self._payload(task, claim, ending)
            except BaseException:
                store.release(claim, "nothing was changed")
                raise
            return store.complete(claim, payload)

    def reap(self) -> list[str]:
        """Free what the dead and the silent hold, and put their tasks back as they were."""
        with self._store() as store:
            freed = store.reap()
            for key in store.layout.unfinished():
                edit = self._last_edit(store, key)
                if edit is None or store.is_held(key) or not self._begun_by_us(store, key):
                    continue
                # By its item, as this may be the claim that gives the task up.
                claim = store.claim(key, os.path.relpath(edit.path, os.path.realpath(self.project.root)))
                if isinstance(claim, Claim):
                    try:
                        put_back(store, key, below=claim.generation)
                    finally:
                        store.release(claim, "put back after its holder was gone")
        return freed

    # ------------------------------------------------------------------- edit

    def update(self, name: str, values: Mapping[str, str | None], body: str = "") -> list[str]:
        """Change frontmatter keys other than the status, and append to the body.

        Returns:
            What could not be changed, a line each.
        """
        task = self.find(name)
        if "assignee" in values and self.held(task):
            raise Refused(f"{task.id} is held; its assignee changes with the claim")
        _, document = open_task(Path(task.path), self.settings)
        keys: list[KeyEdit] = [edit_key(document, key, value, self.settings) for key, value in values.items()]
        lines = (LineEdit(text=body.rstrip("\n") + document.newline, after=None),) if body else ()
        return edit_file(Path(task.path), FileEdit(path=task.path, keys=tuple(keys), lines=lines))

    def move(self, name: str, status: TaskStatus) -> None:
        """Set a status that neither begins nor ends work (``inbox``, ``active``, ``review``).

        Raises:
            Refused: The move is not allowed, or somebody holds the task.
        """
        task = self.find(name)
        with self._store() as store:
            if self._open_claim(store, task, None) is not None:
                raise Refused(f"{task.id} is held; release, block or complete it instead")
            claim = self._bare_claim(store, task)
            try:
                fresh, document = open_task(Path(task.path), self.settings)
                if fresh.status is not None and status not in MOVES[fresh.status]:
                    raise Refused(f"{task.id} is {fresh.status}: it cannot become {status}")
                word = status_word(fresh, status, self.settings)
                edit = edit_key(document, "status", word, self.settings)
                edit_file(Path(task.path), FileEdit(path=task.path, keys=(edit,)))
            finally:
                store.release(claim, f"moved to {status}")

    def receipt(self, name: str, line: str) -> TaskHead:
        """Append a receipt to a task's body; needs no claim."""
        task = self.find(name)
        append_receipt(Path(task.path), line)
        return task

    # ---------------------------------------------------------------- details

    def _key(self, task: TaskHead) -> str:
        return task_key(self.project, os.path.realpath(task.path))

    @contextmanager
    def _store(self) -> Iterator[DirectoryStore]:
        self.project.prepare()
        claims = self.settings["claims"]
        holder = Holder(
            id=f"{self.caller.name}-{secrets.token_hex(6)}",
            kind=HolderKind.LEASE,
            name=self.caller.name,
            lease_seconds=claims["lease_seconds"],
            session=self.caller.session,
            agent=self.caller.agent,
        )
        policy = Policy(
            attempts=claims["attempts"],
            lease_seconds=claims["lease_seconds"],
            patient=False,
            effects=write_edits,
            give_up=lambda item, attempts: self._give_up(store, item, attempts),
        )
        store = DirectoryStore(str(self.project.state), holder, policy=policy)
        try:
            yield store
        finally:
            store.close()

    def _give_up(self, store: DirectoryStore, item: str, attempts: list[Attempt]) -> Payload:
        """Return the result of a task whose workers all vanished: blocked, for a person to look at."""
        tries = "; ".join(f"attempt {a.generation}: {a.detail or a.how}" for a in attempts)
        text = f"gave up after {len(attempts)} attempts: {tries}"
        payload: dict[str, Any] = {
            "item": item, "status": Outcome.FAILED.value, "outcome": text, "finished": clock.now_text(),
        }  # fmt: skip
        path = os.path.realpath(self.project.root / item)
        key = next_life(store.layout, task_key(self.project, path))
        try:
            put_back(store, key, below=store.layout.highest(key))
            task, document = open_task(Path(path), self.settings)
            if task.status in CLOSED:  # by hand, meanwhile
                return payload
            word = status_word(task, TaskStatus.BLOCKED, self.settings)
            edit = edit_key(document, "status", word, self.settings)
        except Unreadable:
            return payload
        edit_record = FileEdit(path=os.path.realpath(task.path), keys=(edit,))
        return {**payload, "task_id": task.id, "task_file": task.path, "edit": edit_record.to_json()}

    def _bare_claim(self, store: DirectoryStore, task: TaskHead) -> Claim:
        answer = store.claim(next_life(store.layout, self._key(task)), self.relative(task))
        if isinstance(answer, Claim):
            return answer
        detail = answer.detail if isinstance(answer, Busy) else "finished this moment"
        raise Refused(f"{task.id} is {detail}; try again, or name its --generation")

    def _open_claim(self, store: DirectoryStore, task: TaskHead, generation: int | None) -> Claim | None:
        """Return the open claim of *task* that the caller may act on, None if there is none."""
        key = next_life(store.layout, self._key(task))
        held = store.held(key)
        if held is None:
            if generation is not None:
                raise ClaimLost(self._stale(store, key, generation))
            return None
        if generation is not None and generation != held.generation:
            raise ClaimLost(self._stale(store, key, generation))
        if generation is None and held.holder.name != self.caller.name:
            raise Refused(
                f"{task.id} is held by {held.holder.name}; "
                f"pass --generation {held.generation} to act on that claim"
            )
        return Claim(key=key, generation=held.generation, token=held.token, holder=held.holder.id)

    def _stale(self, store: DirectoryStore, key: str, generation: int) -> Loss:
        end = store.layout.end_if_there(key, generation)
        if end is not None and end.how != "done":
            return Loss(key=key, generation=generation, reason=end.how, detail=end.detail)
        finished = split_life(key)[1] > 1
        return Loss(key=key, generation=generation, reason="finished" if finished else "gone")

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


def dependencies(tasks: list[TaskHead]) -> Callable[[TaskHead], list[str]]:
    """Return a function that gives the dependencies of a task that are not done, unknown ones too."""
    done = {task.id.lower() for task in tasks if task.status is TaskStatus.DONE}
    return lambda task: [name for name in task.depends_on if name.lower() not in done]


def store_holder(store: DirectoryStore) -> str:
    """Return the id of the store's holder, "" if it is only looked at."""
    return store.holder.id if store.holder else ""
