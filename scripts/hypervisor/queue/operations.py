"""What a person does to a batch from outside: take over from the dead, reopen, cancel, undo."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import Refused, Unreadable
from ..core.model import FileEdit, KeyEdit, Outcome, TaskStatus
from ..core.text import now_text
from ..store.records import Held, Work
from .batch import Batch, ItemRef
from .locks import BatchLocks
from .summary import QueueEntry, entries


def settle(batch: Batch) -> list[str]:
    """Take over what dead and silent workers held in the batch's store, and write what is left of files.

    Returns:
        The items that were taken over.
    """
    from ..tasks.publication import settle as settle_files  # noqa: PLC0415 - for these commands only

    revoked = batch.store.rescuer.rescue()
    BatchLocks(batch).drop_revoked(revoked)
    settle_files(batch.store)
    return [one.text for one in revoked]


def chosen(batch: Batch, items: list[str], wanted: Callable[[QueueEntry], bool]) -> list[QueueEntry]:
    """Return the entries of *batch* that are *wanted*, all or those that *items* name.

    Args:
        batch: The batch.
        items: Queue lines in any spelling; for a task, its id does as well.
        wanted: Which are wanted, by where they stand.

    Raises:
        Refused: An item is not in the batch.
    """
    keys = {batch.ref(item).key: item for item in items}
    ids = {item.casefold(): item for item in items}
    named: set[str] = set()
    found = []
    for entry in entries(batch):
        name = keys.get(entry.ref.key)
        if name is None and entry.ref.task and items:
            name = ids.get(_task_id(batch, entry.ref).casefold())
        if items and name is None:
            continue
        named.add(name or "")
        if wanted(entry):
            found.append(entry)
    if missing := [item for item in items if item not in named]:
        raise Refused(f"not in batch {batch.id}: {', '.join(missing)}; see `hypervisor summary`")
    return found


def retry(batch: Batch, items: list[str], states: set[str]) -> list[str]:
    """Reopen finished items, each as a new cycle; what it was before stays readable.

    The file of a task that an agent has ended says ``active`` again.

    Returns:
        The items that are waiting now.
    """
    settle(batch)
    reopened = []
    for entry in chosen(batch, items, lambda entry: entry.state in states):
        if entry.ref.task:
            _activate(batch, entry)
        if batch.store.claims.reopen(entry.work.id, batch.number) is not None:
            reopened.append(entry.ref.item)
    return reopened


def cancel(batch: Batch, items: list[str]) -> list[str]:
    """Give items that have no result the result ``skipped``; whoever works on one loses it.

    Returns:
        The items that were cancelled.
    """
    from ..tasks.publication import publish  # noqa: PLC0415 - for this command only

    settle(batch)
    locks = BatchLocks(batch)
    cancelled = []
    for entry in chosen(batch, items, lambda entry: entry.state in ("waiting", "running")):
        ref, now = entry.ref, now_text()
        result: dict[str, Any] = {
            "item": ref.item, "status": Outcome.SKIPPED.value, "outcome": "cancelled", "batch": batch.id,
            "started": now, "finished": now,
        }  # fmt: skip
        held = batch.store.claims.held(ref.key)
        if held is not None and held.revert:
            result["edit"] = _restoring(held).to_json()
        done = batch.store.claims.cancel(ref.key, ref.item, result, "the user", published=False, reopen=False)
        if done is None:  # finished in this moment
            continue
        locks.drop_of(done.id)
        publish(batch.store, [done])
        cancelled.append(ref.item)
    return cancelled


def undo(batch: Batch) -> tuple[list[str], list[str]]:
    """Put back what the batch changed in task files, the latest change first.

    Returns:
        The files put back, and one line for each change that was left because somebody has
        changed the same place since.

    Raises:
        Refused: Items of the batch are being worked on.
    """
    from ..tasks.publication import is_taken_back, take_back  # noqa: PLC0415 - the YAML loader

    settle(batch)
    cycles: list[tuple[int, Work, str, bool]] = []
    for entry in entries(batch):
        if entry.state == "running":
            raise Refused(f"{entry.ref.item} is being worked on; stop the workers first")
        found = [
            (decided or 0, work)
            for work, decided in batch.store.claims.cycles(entry.ref.key)
            if work.id == entry.work.id or (work.result or {}).get("batch") == batch.id
        ]
        cycles += [
            (decided, work, _changed_path(entry.ref, work), work.id != found[-1][1].id)
            for decided, work in found
            if (work.result or {}).get("batch") in (batch.id, None)
        ]
    by_path: dict[str, list[Work]] = {}
    for _, work, path, _ in sorted(cycles, key=lambda one: one[:1]):
        by_path.setdefault(path, []).append(work)
    undone = {path for path, works in by_path.items() if is_taken_back(batch.store, works)}
    changed, left = [], []
    for _, work, path, reopened in sorted(cycles, key=lambda one: one[:1], reverse=True):
        if path in undone:
            continue
        before = _content(path)
        if reopened:
            _deactivate(batch, work)
        left += [
            one.why if one.why.startswith(one.path) else f"{one.path}: {one.why}"
            for one in take_back(batch.store, work)
        ]
        if _content(path) != before and path not in changed:
            changed.append(path)
    return changed, left


def merges_of(batch: Batch) -> list[str]:
    """Return the merge commits of a batch's tasks, the newest first; `undo` leaves them."""
    results = [entry.result or {} for entry in entries(batch, ("success",))]
    results.sort(key=lambda result: str(result.get("finished")), reverse=True)
    told = [result["evidence"] for result in results if isinstance(result.get("evidence"), Mapping)]
    return [str(evidence["merged"]) for evidence in told if evidence.get("merged")]


# ------------------------------------------------------------------- details


def _task_id(batch: Batch, ref: ItemRef) -> str:
    from ..tasks.files import read_task  # noqa: PLC0415 - the YAML loader

    with contextlib.suppress(Unreadable):
        return read_task(Path(ref.path), batch.store.settings).id
    return ""


def _restoring(held: Held) -> FileEdit:
    """Return the edit that takes back what an open claim wrote into its task's file."""
    edit = FileEdit.from_json(held.revert or {})
    return FileEdit(
        path=edit.path, keys=tuple(KeyEdit(key=one.key, old=one.new, new=one.old) for one in edit.keys)
    )


def _activate(batch: Batch, entry: QueueEntry) -> None:
    """Set a task's file to ``active``, if its result has set another status."""
    from ..tasks.files import edit_file, edit_key, open_task, status_word  # noqa: PLC0415 - the YAML loader

    if not _sets_status(entry.work):
        return
    settings = batch.store.settings
    with contextlib.suppress(Unreadable):
        task, document = open_task(Path(entry.ref.path), settings)
        word = status_word(task, TaskStatus.ACTIVE, settings)
        if task.status is not TaskStatus.ACTIVE:
            key = edit_key(document, "status", word, settings)
            edit_file(Path(task.path), FileEdit(path=task.path, keys=(key,)))


def _deactivate(batch: Batch, work: Work) -> None:
    """Set a file that `_activate` changed to the status that the result had set, so that it can be undone."""
    from ..tasks.files import (  # noqa: PLC0415 - the YAML loader
        edit_file,
        edit_key,
        open_task,
        spelling,
        status_word,
    )

    if not _sets_status(work):
        return
    result, settings = work.result or {}, batch.store.settings
    with contextlib.suppress(Unreadable):
        task, document = open_task(Path(batch.ref_of(work).path), settings)
        if task.status is not TaskStatus.ACTIVE:
            return
        name = spelling("status", document.values, settings)
        keys = FileEdit.from_json(result["edit"]).keys if result.get("edit") else ()
        said = next(
            (KeyEdit(key=name, old=document.source(name), new=one.new) for one in keys if one.key == name),
            None,
        )
        if said is None:  # given up: blocked by no edit of its own
            said = edit_key(document, "status", status_word(task, TaskStatus.BLOCKED, settings), settings)
        edit_file(Path(task.path), FileEdit(path=task.path, keys=(said,)))


def _sets_status(work: Work) -> bool:
    """Return whether a result has set its task's status: an agent's, and one that gave the task up."""
    result = work.result or {}
    return bool(result.get("gave_up") or (result.get("task_id") and result.get("edit")))


def _changed_path(ref: ItemRef, work: Work) -> str:
    edit = (work.result or {}).get("edit")
    return str(edit["path"]) if edit else ref.path


def _content(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError):
        return None
