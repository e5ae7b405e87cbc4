"""Files that are whole or absent, also after a power loss."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def exists(path: str | Path) -> bool:
    """Tell whether *path* is there, following links; raise OSError where that is not known.

    ``os.path.exists`` says "no" to an I/O error or a missing permission as well, and here
    a wrong "no" would hand out finished work.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def sync_directory(path: str | Path) -> None:
    """Make the names in the directory *path* durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: str | Path, data: bytes, mode: int = 0o644) -> None:
    """Write *data* to a file that must not exist yet, and make its bytes durable.

    The name itself is durable only once its directory is synced.

    Raises:
        FileExistsError: The name is taken.
        OSError: The disk said no; nothing is left under the name.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb", closefd=True) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def write_once(path: Path, data: bytes) -> bool:
    """Give *path* the content *data* if nothing bears that name yet; it appears whole.

    Returns:
        Whether it was this call that made it.
    """
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}")
    write_new(temporary, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    sync_directory(path.parent)
    return True


def replace(path: Path, data: bytes) -> None:
    """Put *data* in the place of the file at *path*: whole, durable, same permissions.

    A link is followed, so that the file it points to is the one replaced. The temporary
    file stands beside it, as a rename works on one file system only.
    """
    path = path.resolve()
    try:
        mode = os.stat(path).st_mode & 0o7777
    except FileNotFoundError:
        mode = 0o644
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        write_new(temporary, data, mode)
        os.chmod(temporary, mode)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(path.parent)


def append_lines(path: str | Path, data: bytes) -> int:
    """Append whole lines to a file, which is made if missing; durable on return.

    What a dead writer left of a line is ended first, so that it spoils no other. Callers keep each
    other out.

    Returns:
        The file's size.
    """
    there = exists(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if data and size and os.pread(descriptor, 1, size - 1) != b"\n":
            data = b"\n" + data
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
        size = os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    if not there:
        sync_directory(os.path.dirname(os.path.abspath(path)))
    return size


def identity(path: str) -> tuple[int, int] | None:
    """Return what tells the file at *path* from another that takes its name; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
