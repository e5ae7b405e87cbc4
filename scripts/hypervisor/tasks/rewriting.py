"""Rewriting of task files: whole or not at all, durable, one writer at a time, and many at once.

Each file is read, changed and replaced under its lock. An editor that saves the file in that moment
knows no lock: the change then starts over from what it saved, so that nothing it wrote is lost.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import Refused, Unreadable, UnreadableReason
from ..core.files import exchange, sync_directory
from ..core.project import file_lock_path

#: Takes a file's content; returns the new one, and what was left out, a line each.
Change = Callable[[bytes], tuple[bytes, list[str]]]

_LOCK_SECONDS = 60.0
#: How often an edit starts over because an editor saved the file under it.
_TRIES = 20
#: Files whose locks are held at once, and whose bytes are synced in parallel.
_AT_ONCE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """One file to change."""

    path: Path
    change: Change
    #: Asked under the lock; False leaves the file as it is.
    guard: Callable[[], bool] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """What became of a `Rewrite`."""

    #: What was left out because the file says something else by now.
    conflicts: tuple[str, ...] = ()
    #: The file's content afterwards; None where it was not read, or the guard said no.
    data: bytes | None = None
    #: Why the file could not be read or written; it stays as it was.
    error: Unreadable | Refused | OSError | None = None


@dataclass(slots=True)
class _Draft:
    """A file's new content beside it, not yet durable."""

    index: int
    target: Path
    temporary: Path
    descriptor: int
    stamp: tuple[int, int, int]
    answer: Rewritten


def rewrite(path: Path, change: Change, guard: Callable[[], bool] | None = None) -> Rewritten:
    """Change one file; durable on return.

    Raises:
        Unreadable: It cannot be read or changed; it stays as it was.
        Refused: Another process keeps it locked.
        OSError: The disk said no; it stays as it was.
    """
    answer = rewrite_all([Rewrite(path=path, change=change, guard=guard)])[0]
    if answer.error is not None:
        raise answer.error
    return answer


def rewrite_all(rewrites: Sequence[Rewrite], patience: float | None = None) -> list[Rewritten]:
    """Change many files; durable on return. Their bytes are synced in parallel, each folder once.

    Args:
        rewrites: The files.
        patience: Seconds to wait for the lock of each; a minute by default.

    Returns:
        What became of each, in order; the failure of one does not keep the others from being changed.
    """
    answers = [Rewritten()] * len(rewrites)
    locks: dict[int, Path] = {}
    for index, one in enumerate(rewrites):
        try:
            locks[index] = file_lock_path(str(one.path), os.environ)
        except OSError as error:
            answers[index] = Rewritten(error=error)
    # Sorted by their locks, as two that lock several at once would else wait for each other; changes of
    # one file follow each other.
    left = sorted(locks, key=locks.__getitem__)
    while left:
        now: list[int] = []
        seen: set[Path] = set()
        for index in left:
            if locks[index] not in seen and len(now) < _AT_ONCE:
                seen.add(locks[index])
                now.append(index)
        _rewrite_some(rewrites, now, locks, answers, _LOCK_SECONDS if patience is None else patience)
        left = [index for index in left if index not in set(now)]
    return answers


def _rewrite_some(
    rewrites: Sequence[Rewrite],
    indexes: Sequence[int],
    paths: Mapping[int, Path],
    answers: list[Rewritten],
    patience: float,
) -> None:
    with contextlib.ExitStack() as locks:
        locked = []
        for index in indexes:
            try:
                locks.enter_context(_locked(rewrites[index].path, paths[index], patience))
                locked.append(index)
            except (Refused, OSError) as error:
                answers[index] = Rewritten(error=error)
        for _ in range(_TRIES):
            locked = _try_once(rewrites, locked, answers)
            if not locked:
                return
    for index in locked:
        path = rewrites[index].path
        busy = Refused(f"{path}: keeps being changed by another program; close it and try again")
        answers[index] = Rewritten(error=busy)


def _try_once(rewrites: Sequence[Rewrite], indexes: Sequence[int], answers: list[Rewritten]) -> list[int]:
    """Change files whose locks are held; return those that an editor saved meanwhile."""
    drafts: list[_Draft] = []
    again: list[int] = []
    try:
        for index in indexes:
            try:
                draft = _draft(rewrites[index], index, answers)
            except (Unreadable, Refused, OSError) as error:
                answers[index] = Rewritten(error=error)
            else:
                drafts += [draft] if draft is not None else []
        errors = _sync(drafts)
        folders: dict[Path, list[int]] = {}
        for draft, failed in zip(drafts, errors, strict=True):
            try:
                if failed is not None:
                    raise failed
                if read_stamp(rewrites[draft.index].path) != draft.stamp or not _put(draft):
                    again.append(draft.index)
                    continue
                folders.setdefault(draft.target.parent, []).append(draft.index)
                answers[draft.index] = draft.answer
            except (Unreadable, OSError) as error:
                answers[draft.index] = Rewritten(error=error)
        for folder, changed in folders.items():
            try:
                sync_directory(folder)
            except OSError as error:
                for index in changed:
                    answers[index] = Rewritten(error=error)
    finally:
        for draft in drafts:
            os.close(draft.descriptor)
            with contextlib.suppress(OSError):
                os.unlink(draft.temporary)
    return again


def _draft(rewrite: Rewrite, index: int, answers: list[Rewritten]) -> _Draft | None:
    """Write the new content beside the file; None where there is nothing to change."""
    if rewrite.guard is not None and not rewrite.guard():
        answers[index] = Rewritten()
        return None
    stamp = read_stamp(rewrite.path)
    data = read_file(rewrite.path, 1 << 62)
    changed, conflicts = rewrite.change(data)
    answer = Rewritten(conflicts=tuple(conflicts), data=changed)
    if changed == data:
        answers[index] = answer
        return None
    # A link is followed, so that the file it points to is the one replaced.
    target = rewrite.path.resolve()
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.tmp")
    mode = os.stat(target).st_mode & 0o7777
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        view = memoryview(changed)
        while view:
            view = view[os.write(descriptor, view) :]
    except BaseException:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return _Draft(index, target, temporary, descriptor, stamp, answer)


def _put(draft: _Draft) -> bool:
    """Put the new content in the file's place; False if an editor saved the file in that moment.

    The two change places, so that what an editor put there after the last look comes out and is seen. It
    goes back; if the editor has saved again by then, the newest save is the one that stays.
    """
    try:
        if not exchange(draft.temporary, draft.target):
            os.rename(draft.temporary, draft.target)
            return True
        if read_stamp(draft.temporary) == draft.stamp:
            return True
        expected = os.fstat(draft.descriptor).st_ino
        while True:
            put = read_stamp(draft.temporary)[0]
            exchange(draft.temporary, draft.target)
            if read_stamp(draft.temporary)[0] == expected:
                return False
            expected = put
    except FileNotFoundError:  # deleted in that moment
        return False


def _sync(drafts: Sequence[_Draft]) -> list[OSError | None]:
    """Make the drafts' bytes durable, all at once; return what failed of each."""
    if len(drafts) < 2:
        return [_synced(draft) for draft in drafts]
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - for those who write many

    with ThreadPoolExecutor(len(drafts)) as pool:
        return list(pool.map(_synced, drafts))


def _synced(draft: _Draft) -> OSError | None:
    try:
        os.fsync(draft.descriptor)
    except OSError as error:
        return error
    return None


@contextlib.contextmanager
def _locked(path: Path, lock_path: Path, patience: float) -> Iterator[None]:
    import filelock  # noqa: PLC0415 - 30 ms, for those who write only

    lock = filelock.FileLock(lock_path, timeout=patience)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise Refused(f"{path}: locked by another process for {patience:g} s; try again") from None
    try:
        yield
    finally:
        lock.release()


# ------------------------------------------------------------------------- read


def read_file(path: Path, most: int) -> bytes:
    """Return a file's content.

    Raises:
        Unreadable: It cannot be read, is no file, or has more than *most* bytes.
    """
    name = str(path)
    try:
        # Not blocking, and looked at before it is read: a FIFO would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _cannot_open(name, error) from error
    try:
        # Before `open`, which has an error of its own for a folder.
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable(name, "not a file")
        if found.st_size > most:
            raise Unreadable(name, "too large", f"{found.st_size:,} bytes; `tasks.max_bytes` allows {most:,}")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def read_stamp(path: Path) -> tuple[int, int, int]:
    """Return what differs once another program has saved the file.

    Raises:
        Unreadable: It cannot be looked at.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise _cannot_open(str(path), error) from error
    return found.st_ino, found.st_mtime_ns, found.st_size


def _cannot_open(name: str, error: OSError | ValueError) -> Unreadable:
    number = error.errno if isinstance(error, OSError) else None
    reasons: dict[int | None, UnreadableReason] = {
        errno.ENOENT: "missing",
        errno.ENOTDIR: "missing",
        errno.EACCES: "no access",
        errno.EPERM: "no access",
        errno.ENAMETOOLONG: "path too long",
        errno.EISDIR: "not a file",
        errno.ENXIO: "not a file",
        errno.ELOOP: "not a file",
        None: "missing",
    }
    if number not in reasons:
        raise error
    detail = ""
    if number == errno.ENAMETOOLONG:
        detail = f"{len(os.fsencode(name)):,} bytes"
    elif number == errno.ELOOP:
        detail = "a link that leads to itself"
    elif number == errno.ENOENT and name.endswith("\r"):
        detail = "the queue's line ends in a carriage return; save it with plain newlines"
    return Unreadable(name if len(name) < 300 else f"{name[:300]}…", reasons[number], detail)
