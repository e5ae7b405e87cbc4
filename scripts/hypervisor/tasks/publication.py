"""Publication of results: what a decided result implies is written to files, then noted in the store.

A result is committed first, with the edit of its task file in it; the file is edited next; ``published_at``
is set last. A crash in between leaves a decided, unpublished result, and whoever opens, claims or lists next
publishes it *before* looking at the file. So a file that says ``active`` after publication was reopened by
its owner.

Beginning works the same way backwards: a claim's transaction keeps what the claim is about to change in the
file (``attempt.revert``); an attempt that ends without a result is taken back in the file, and noted as
restored.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..core.errors import Refused, Unreadable
from ..core.model import CLOSED, FileEdit, KeyEdit, TaskStatus
from ..store.records import Abandoned, Attempt, Claim, Result, Revoked, Work
from ..store.store import Store
from .edits import edit_of
from .files import spelling
from .receipts import write_left
from .rewriting import Change, Rewrite, Rewritten, rewrite_all

#: Results that are published together.
_PAGE = 500
#: For how long a file's lock is waited for on the way of another act, in seconds: whoever needs that file
#: waits longer.
_PATIENCE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NotChanged:
    """A part of an edit that was left out: the file's owner changed the same place since."""

    path: str
    why: str


def settle(store: Store, seconds: float = 0.0) -> list[Revoked]:
    """Take over what dead and silent workers held, and write what is left to be written to task files.

    After it the files say what the store says, but for what their owners have changed since. Call it where
    work is asked for and where state is shown as current, before a file is looked at. A file that cannot be
    written now is named on standard error and left to the next call.

    Args:
        store: The store.
        seconds: Workers are not looked at again within this time, by one process.

    Returns:
        The claims that were taken over.
    """
    revoked = store.rescuer.rescue_now_and_then(seconds)
    if store.locks.used:
        for one in revoked:
            store.drop_lock(one.work, one.attempt, store.claims.locks_of_work(one.work).get(one.attempt, ""))
    publish_pending(store)
    with _told():
        restore(store, patience=_PATIENCE)
    with _told():
        write_left(store, Path(store.folder).parent)
    return revoked


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Name what could not be written now; the next call tries again."""
    try:
        yield
    except (Refused, OSError) as error:
        print(f"hypervisor: not written yet: {error}", file=sys.stderr)


# ---------------------------------------------------------------------- results


def publish(store: Store, works: Sequence[Work], patience: float | None = None) -> list[NotChanged]:
    """Write what the results of decided *works* imply, and set them published.

    Edits the task files (all together: temporary files, fsync in parallel, rename, one fsync a folder),
    sets the tasks of given-up work to blocked, and writes ``results/<key>.json`` where there is a folder
    ``results``. May be repeated: an edit that was applied is not applied twice, and one that no longer fits
    is left out and told on standard error: the file's owner was there last.

    Args:
        store: The store.
        works: Decided work.
        patience: Seconds to wait for the lock of each file; a minute by default.

    Returns:
        What was left out.

    Raises:
        OSError: A file could not be written; that result stays unpublished, for the next call.
        Refused: Another process keeps a file locked; likewise.
    """
    works = [work for work in works if not is_delivered_by_git(work)]
    changes = {work.id: change for work in works if (change := _change_of(store, work)) is not None}
    rewrites = [
        Rewrite(path=path, change=change, guard=partial(_is_unpublished, store, work))
        for work, (path, change) in changes.items()
    ]
    answers = dict(zip(changes, rewrite_all(rewrites, patience), strict=True)) if rewrites else {}
    left: list[NotChanged] = []
    failed: list[Exception] = []
    written: list[Work] = []
    for work in works:
        answer = answers.get(work.id, Rewritten())
        if answer.error is not None and not isinstance(answer.error, Unreadable):
            failed.append(answer.error)
            continue
        written.append(work)
        path = str(changes[work.id][0]) if work.id in changes else ""
        whys = [str(answer.error)] if answer.error is not None else answer.conflicts
        left += [NotChanged(path=path, why=why) for why in whys]
    store.write_result_files(written)
    store.claims.set_published(work.id for work in written)
    for one in left:
        print(f"hypervisor: {one.path}: not changed: {one.why}", file=sys.stderr)
    if failed:
        raise failed[0]
    return left


def is_delivered_by_git(work: Work) -> bool:
    """Return whether a result is published by the merge that brings its work to the remote's branch."""
    return bool((work.result or {}).get("deliver"))


def delivered_file(
    data: bytes, work: Work, path: str, settings: Mapping[str, Any]
) -> tuple[bytes, list[str]]:
    """Return a task file as a result that is delivered by git makes it, and what was left out. Pure.

    Raises:
        Unreadable: It is no task.
    """
    from ..documents import yaml_edit  # noqa: PLC0415 - the YAML loader

    result = work.result or {}
    if result.get("gave_up"):
        return _blocked(data, path, [], settings)
    if not result.get("edit"):
        return data, []
    return yaml_edit.apply(data, FileEdit.from_json(result["edit"]))


def shows(data: bytes, result: Result) -> bool:
    """Return whether a task file has the report of a result: its owner can know how it ended. Pure."""
    from ..documents import yaml_edit  # noqa: PLC0415 - the YAML loader

    edit = FileEdit.from_json(result["edit"]) if result.get("edit") else None
    if edit is None or not edit.lines:
        return False
    return yaml_edit.apply(data, FileEdit(path=edit.path, lines=edit.lines))[0] == data


def finished_words(work: Work) -> str:
    """Return how a task ended whose file does not show it, and what to type next."""
    if not work.published:
        return f"finished as {work.state}; its work waits to be merged"
    return f"finished as {work.state} on another machine; `git pull`, or reopen it with `hypervisor retry`"


def publish_pending(store: Store) -> int:
    """Publish all results that are decided and unpublished; return how many there were.

    A file that cannot be written now is named on standard error, and left to the next call.
    """
    count, after = 0, 0
    while found := store.claims.unpublished(_PAGE, after):
        works = [work for work, _ in found]
        with _told():
            publish(store, works, _PATIENCE)
        mine = [work for work in works if not is_delivered_by_git(work)]
        count, after = count + len(mine), works[-1].id
    return count


def _is_unpublished(store: Store, work: int) -> bool:
    return not store.claims.work(work).published


def _change_of(store: Store, work: Work) -> tuple[Path, Change] | None:
    """Return which file a result changes, and how; None for none."""
    from ..documents import yaml_edit  # noqa: PLC0415 - the YAML loader: only where there is an edit

    result = work.result or {}
    if result.get("edit"):
        edit = edit_of(store, result["edit"], work.text)
        return Path(edit.path), lambda data: yaml_edit.apply(data, edit)
    if not result.get("gave_up"):
        return None
    # The sweep that gave the item up knows no files: what it means for one is worked out here.
    marked = [one for one in store.claims.attempts(work.key) if one.work == work.id and one.revert]
    if not marked:  # no claim of it was a task's
        return None
    left = [edit_of(store, one.revert, work.text) for one in marked if one.revert and not one.restored]
    path = edit_of(store, marked[-1].revert or {}, work.text).path
    return Path(path), lambda data: _blocked(data, path, left, store.settings)


def _blocked(
    data: bytes, path: str, reverts: Sequence[FileEdit], settings: Mapping[str, Any]
) -> tuple[bytes, list[str]]:
    """Return a task file as it was before these claims, and blocked: for a person to look at. Pure."""
    from ..documents import yaml_edit  # noqa: PLC0415 - the YAML loader
    from .files import edit_key, parse_task, status_word  # noqa: PLC0415

    data, _ = _reverted(data, reverts)
    task, document = parse_task(Path(path), data, settings)
    if task.status in CLOSED:  # by hand, meanwhile
        return data, []
    status = edit_key(document, "status", status_word(task, TaskStatus.BLOCKED, settings), settings)
    return yaml_edit.apply(data, FileEdit(path=path, keys=(status,)))


# ----------------------------------------------------------------------- claims


def restore(store: Store, works: Iterable[int] | None = None, *, patience: float | None = None) -> list[int]:
    """Take back in task files what ended attempts wrote there, and note it (`Claims.set_restored`).

    Only attempts that ended without a result, of work that is ready: the file of work that somebody holds
    is its holder's. What its owner has changed in the file since is left.

    Args:
        store: The store.
        works: Which work; all of the store by default.
        patience: Seconds to wait for the lock of each file; a minute by default.

    Returns:
        The work whose file is as it was before.

    Raises:
        OSError: A file could not be written; it is tried again by the next call.
        Refused: Another process keeps a file locked; likewise.
    """
    wanted = None if works is None else set(works)
    left: dict[int, list[Abandoned]] = {}
    for one in store.claims.abandoned():
        if wanted is None or one.work in wanted:
            left.setdefault(one.work, []).append(one)
    if not left:
        return []

    rewrites = []
    for work, ended in left.items():
        edits = [edit_of(store, one.revert, one.text) for one in ended]
        path, ready = Path(edits[-1].path), partial(_is_ready, store, work)
        rewrites.append(Rewrite(path=path, change=partial(_reverted, edits=edits), guard=ready))
    done: list[int] = []
    failed: list[Exception] = []
    for (work, _), answer in zip(left.items(), rewrite_all(rewrites, patience), strict=True):
        # A file that is gone stays gone; one that is no task any more is its owner's.
        if answer.data is not None or isinstance(answer.error, Unreadable):
            done.append(work)
        elif answer.error is not None:
            failed.append(answer.error)
    store.claims.set_restored(one.attempt for work in done for one in left[work])
    if failed:
        raise failed[0]
    return done


def restore_held(store: Store, claim: Claim) -> None:
    """Take back in a task file what earlier attempts wrote there, under an open claim of the same work.

    Raises:
        OSError: The file could not be written.
        Refused: Another process keeps it locked.
    """
    ended = store.claims.unrestored(claim.work)
    if not ended:
        return
    edits = [edit_of(store, revert, claim.text) for _, revert in ended]
    rewrite = Rewrite(
        path=Path(edits[-1].path),
        change=partial(_reverted, edits=edits),
        guard=lambda: not store.claims.loss(claim.attempt),
    )
    answer = rewrite_all([rewrite])[0]
    if answer.error is not None and not isinstance(answer.error, Unreadable):
        raise answer.error
    store.claims.set_restored(attempt for attempt, _ in ended)


def _is_ready(store: Store, work: int) -> bool:
    return store.claims.work(work).state == "ready"


def _reverted(data: bytes, edits: Sequence[FileEdit]) -> tuple[bytes, list[str]]:
    """Return a task file as it was before these claims; what was changed since is left. Pure."""
    from ..documents import yaml_edit  # noqa: PLC0415 - the YAML loader

    for edit in reversed(edits):
        data, _ = yaml_edit.revert(data, edit)
    return data, []


# ------------------------------------------------------------------------- undo


def take_back(store: Store, work: Work) -> list[NotChanged]:
    """Undo in a task file what one cycle's result and claims changed, the latest change first.

    Returns:
        What was left because somebody has changed the same place since.

    Raises:
        OSError: The file could not be written.
    """
    mine = [one for one in store.claims.attempts(work.key) if one.work == work.id]
    edits = _edits(store, work, mine)
    if not edits:
        return []
    path = Path(edits[-1].path)
    answer = rewrite_all([Rewrite(path=path, change=lambda data: _taken_back(data, edits, work, store))])[0]
    if isinstance(answer.error, OSError):
        raise answer.error
    whys = [str(answer.error)] if answer.error is not None else answer.conflicts
    return [NotChanged(path=str(path), why=why) for why in whys]


def is_taken_back(store: Store, works: Sequence[Work]) -> bool:
    """Return whether the task file of *works*, one task's cycles in their order, is as before the first.

    That is so if each key that they changed has its first value again, and no line they put in is there.
    """
    from ..documents import yaml_edit  # noqa: PLC0415 - the YAML loader

    edits: list[FileEdit] = []
    for work in works:
        mine = [one for one in store.claims.attempts(work.key) if one.work == work.id]
        edits += _edits(store, work, mine)
    try:
        return bool(edits) and yaml_edit.is_reverted(Path(edits[-1].path).read_bytes(), edits)
    except (OSError, Unreadable):
        return False


def _edits(store: Store, work: Work, attempts: Sequence[Attempt]) -> list[FileEdit]:
    """Return what still stands in the file of a cycle's claims and result, in the order it was written."""
    result = work.result or {}
    gave_up = result.get("gave_up", False)  # by no edit of its own: what its first claim found is restored
    kept = [one for one in attempts if one.revert and (gave_up or not one.restored)]
    edits = [edit_of(store, one.revert, work.text) for one in kept if one.revert]
    return [*edits, edit_of(store, result["edit"], work.text)] if result.get("edit") else edits


def _taken_back(data: bytes, edits: Sequence[FileEdit], work: Work, store: Store) -> tuple[bytes, list[str]]:
    from ..documents import yaml_edit  # noqa: PLC0415 - the YAML loader

    if (work.result or {}).get("gave_up"):
        return _unblocked(data, edits[0], store.settings)
    conflicts: list[str] = []
    for edit in reversed(edits):
        data, left = yaml_edit.revert(data, edit)
        conflicts += left
    return data, conflicts


def _unblocked(data: bytes, first: FileEdit, settings: Mapping[str, Any]) -> tuple[bytes, list[str]]:
    """Return the file of a given-up task with the status that it had before its first claim."""
    from ..documents import yaml_edit  # noqa: PLC0415 - the YAML loader
    from .files import parse_task  # noqa: PLC0415

    task, document = parse_task(Path(first.path), data, settings)
    if task.status is not TaskStatus.BLOCKED:
        return data, [f"{os.path.basename(first.path)}: its status was changed since"]
    name = spelling("status", document.values, settings)
    old = next((key.old for key in first.keys if key.key == name), None)
    if old is None:
        return data, []
    edit = KeyEdit(key=name, old=document.source(name), new=old)
    return yaml_edit.apply(data, FileEdit(path=first.path, keys=(edit,)))
