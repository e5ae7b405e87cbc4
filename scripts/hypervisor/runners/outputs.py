"""What the commands and agents of a batch have printed: kept whole, compressed, measured, removed.

Whoever writes an output holds a shared lock on the file, and a command inherits it with the file itself:
the kernel lets go of it when the last of them is dead. What is locked is neither compressed nor removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest

from ..core.files import path_exists, sync_directory

#: What a file system gives to any file: a smaller one does not shrink.
_BLOCK = 4096
_CHUNK = 2**20
#: Nearly as small as the highest level makes it, in a third of the time.
_LEVEL = 6
_ENDING = ".gz"
#: How often `begin` may find that a file or its folder has gone before it was locked.
_TRIES = 20
#: An attempt's name (see `keys`), ``.verify`` for the command that checked it, ``.out`` or ``.err``, its
#: further parts, and all of them compressed. The hash in it keeps apart what is the user's: nothing else is
#: looked at.
_NAME = r"[a-z0-9-]+-[0-9a-f]{32}(?:\.r\d+)?(?:~\d+)?(?:\.verify)?\.(?:out|err)(?:\.\d+)?"
_OUTPUT = re.compile(_NAME + r"(?:\.gz)?")
_DRAFT = re.compile(rf"\.{_NAME}\.[0-9a-f]{{16}}\.tmp")


@dataclass(slots=True, kw_only=True)
class Packed:
    """What came of compressing."""

    files: int = 0
    #: Bytes of those files before and after.
    before: int = 0
    after: int = 0
    #: Names of those that were left as they are, each with the reason.
    left: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What lies in a folder of outputs."""

    files: int
    bytes: int
    #: When the newest of them was written, in seconds since the epoch; 0 for none.
    newest: float


def begin(path: str, flags: int = os.O_WRONLY) -> int:
    """Open the output *path*, empty, and say that it is being written for as long as anybody has it open.

    Args:
        path: The file; its folder is made if there is none.
        flags: How to open it; it is made and emptied in any case.

    Raises:
        OSError: It cannot be opened.
    """
    flags |= os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    for left in reversed(range(_TRIES)):
        try:
            descriptor = os.open(path, flags, 0o666)
        except FileNotFoundError:  # no folder yet
            if not left:
                raise
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            continue
        with contextlib.suppress(OSError):  # a file system without locks: nobody compresses there either
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_nlink or not left:
            break
        os.close(descriptor)  # `remove` had it in hand between the two calls: what is written would be lost
    return descriptor


def measure(folder: str) -> Size:
    """Return how much lies in the folder of outputs; one that is not there holds nothing."""
    found = [state for _, state in _outputs(folder)]
    return Size(
        files=len(found),
        bytes=sum(state.st_size for state in found),
        newest=max((state.st_mtime for state in found), default=0.0),
    )


def compress(folder: str, *, dry_run: bool = False) -> Packed:
    """Compress every output in *folder* that nobody writes and that may shrink.

    Each is written beside the old one, synced, renamed, and only then the old one is removed. Ended at
    any moment, this leaves the old one, or the new one, or both, whole.

    Args:
        folder: The folder of outputs.
        dry_run: Count what would be compressed, and change nothing.

    Raises:
        OSError: The disk is full, or cannot be read; what was done so far stays done.
    """
    packed = Packed()
    if not dry_run:
        _remove_drafts(folder)
    for name, state in _outputs(folder):
        if name.endswith(_ENDING) or state.st_size <= _BLOCK:
            continue
        if dry_run:
            packed.files, packed.before = packed.files + 1, packed.before + state.st_size
            continue
        try:
            try:
                _compress_one(folder, name, packed)
            except FileNotFoundError:
                # Another that begins took the draft, not locked yet, for that of a dead one.
                _compress_one(folder, name, packed)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
                raise
            packed.left[name] = error.strerror or str(error)
    return packed


def remove(folder: str, until: float = math.inf) -> Size:
    """Remove the outputs in *folder* that nobody writes; the folder stays, as somebody may be about to write.

    Args:
        folder: The folder of outputs.
        until: What was written to after this stays, in seconds since the epoch: whoever decided knew nothing
            of it.

    Returns:
        What was removed.
    """
    _remove_drafts(folder)
    files = freed = 0
    for name, _ in list(_outputs(folder)):
        path = os.path.join(folder, name)
        with _alone(path) as descriptor:
            # Looked at only now: it may have been written to since it was found.
            if descriptor is not None and (state := os.fstat(descriptor)).st_mtime <= until:
                os.unlink(path)
                files, freed = files + 1, freed + state.st_size
    return Size(files=files, bytes=freed, newest=0.0)


# ---------------------------------------------------------------------- details


def _outputs(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield name and state of each output, in the order of names; a link is none, wherever it leads."""
    try:
        if stat.S_ISLNK(os.lstat(folder).st_mode):
            return
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    for name in names:
        if not _OUTPUT.fullmatch(name):
            continue
        with contextlib.suppress(FileNotFoundError):
            state = os.lstat(os.path.join(folder, name))
            if stat.S_ISREG(state.st_mode):
                yield name, state


@contextlib.contextmanager
def _alone(path: str) -> Iterator[int | None]:
    """Yield a descriptor of the file that nobody else has locked, or None."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield None
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another one may have been here between the two calls.
            there = os.fstat(descriptor).st_nlink > 0
        except BlockingIOError:
            there = False
        yield descriptor if there else None
    finally:
        os.close(descriptor)


def _compress_one(folder: str, name: str, packed: Packed) -> None:
    path = os.path.join(folder, name)
    target = path + _ENDING
    with _alone(path) as descriptor:
        if descriptor is None:
            if path_exists(path):
                packed.left[name] = "is being written"
            return
        before = os.fstat(descriptor)
        if path_exists(target):
            # Of a compression that was cut short; anything else is the user's to look at.
            if not _same(path, target):
                packed.left[name] = f"differs from {name}{_ENDING}; look at both"
                return
        elif not _write(descriptor, before, folder, name):
            packed.left[name] = "was written to meanwhile"
            return
        os.unlink(path)
        packed.files += 1
        packed.before += before.st_size
        packed.after += os.stat(target).st_size


def _write(source: int, before: os.stat_result, folder: str, name: str) -> bool:
    """Write the compressed file, durable; return False if the old one was written to meanwhile."""
    import gzip  # noqa: PLC0415 - see above

    draft = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, before.st_mode & 0o777)
    try:
        with open(descriptor, "wb") as file, open(os.dup(source), "rb") as old:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)  # it is no debris while it is being written
            old.seek(0)
            with gzip.GzipFile("", "wb", _LEVEL, file, mtime=before.st_mtime) as new:
                while chunk := old.read(_CHUNK):
                    new.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            os.utime(draft, ns=(before.st_atime_ns, before.st_mtime_ns))  # its age is the output's
            now = os.fstat(source)
            # A process of a version that knows no lock may write to it.
            if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                os.unlink(draft)
                return False
            os.rename(draft, os.path.join(folder, name + _ENDING))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    sync_directory(folder)
    return True


def _same(plain: str, packed: str) -> bool:
    """Tell whether the compressed file holds what the plain one holds."""
    import zlib  # noqa: PLC0415 - see above

    try:
        # As far as the longer of the two goes.
        return all(one == other for one, other in zip_longest(_read(plain), _read(packed)))
    except (OSError, EOFError, zlib.error):  # not one that we have written
        return False


def _read(path: str) -> Iterator[bytes]:
    """Yield the content of an output, compressed or not, in pieces."""
    import gzip  # noqa: PLC0415 - not where outputs are written, which every worker does

    with gzip.open(path, "rb") if path.endswith(_ENDING) else open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _remove_drafts(folder: str) -> None:
    """Remove what compressions that were killed have left."""
    try:
        names = [name for name in os.listdir(folder) if _DRAFT.fullmatch(name)]
    except FileNotFoundError:
        return
    for name in names:
        path = os.path.join(folder, name)
        with _alone(path) as descriptor:
            if descriptor is not None:
                os.unlink(path)
