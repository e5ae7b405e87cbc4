"""Files that are whole or absent, also after a power loss; which paths a glob means; where a path lies."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

#: File systems on which a lock of another machine is not seen, or is seen late.
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "fuse.sshfs", "fuse.glusterfs",
     "fuse.ceph-fuse", "lustre", "gpfs", "afs", "ocfs2", "gfs2"}
)  # fmt: skip


def path_exists(path: str | Path) -> bool:
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
    temporary = path.with_name(f".{path.name[:100]}.{os.urandom(8).hex()}")
    write_new(temporary, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    sync_directory(path.parent)
    return True


def replace_file(path: Path, data: bytes) -> None:
    """Put *data* in the place of the file at *path*: whole, durable, same permissions.

    A link is followed, so that the file it points to is the one replaced. The temporary
    file stands beside it, as a rename works on one file system only.
    """
    path = path.resolve()
    try:
        mode = os.stat(path).st_mode & 0o7777
    except FileNotFoundError:
        mode = 0o644
    temporary = path.with_name(f".{path.name[:100]}.{os.urandom(8).hex()}.tmp")
    try:
        write_new(temporary, data, mode)
        os.chmod(temporary, mode)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(path.parent)


def exchange(first: Path, second: Path) -> bool:
    """Let two files change names in one step; False where the system cannot do that.

    Raises:
        FileNotFoundError: One of them is not there.
        OSError: The disk said no.
    """
    number = _exchange_call()(os.fsencode(first), os.fsencode(second))
    if number == 0:
        return True
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(second))


@lru_cache(maxsize=1)
def _exchange_call() -> Callable[[bytes, bytes], int]:
    """Return what exchanges two names and returns the number of its error, 0 for none."""
    import ctypes  # noqa: PLC0415 - for those who write only

    library = ctypes.CDLL(None, use_errno=True)
    here, swap = -100, 2  # AT_FDCWD and RENAME_EXCHANGE (linux/fs.h); RENAME_SWAP (macOS) is 2 as well
    linux, macos = (getattr(library, name, None) for name in ("renameat2", "renamex_np"))

    def call(first: bytes, second: bytes) -> int:
        if linux is not None:
            failed = linux(here, first, here, second, swap)
        elif macos is not None:
            failed = macos(first, second, swap)
        else:
            return errno.ENOSYS
        return ctypes.get_errno() if failed else 0

    return call


def file_identity(path: str) -> tuple[int, int] | None:
    """Return what tells the file at *path* from another that takes its name; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it, also where it is closed to its owner, or deeply nested.

    What an agent has put in its place (a link, a pipe, a file) is removed itself: a link is not followed, and
    a pipe, which would wait for a writer, is not opened.

    Raises:
        OSError: Something cannot be removed.
    """
    import shutil  # noqa: PLC0415 - most commands remove no folder

    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except (OSError, RecursionError):
        _remove_level_by_level(path)


def is_folder(path: Path) -> bool:
    """Tell whether there is a folder at *path*, and no link to one."""
    return path.is_dir() and not path.is_symlink()


def _remove_level_by_level(top: Path) -> None:
    """Remove a folder with names that stay short: what lies in its folders is brought up to the top first."""
    import secrets  # noqa: PLC0415 - seldom

    folders = [top]
    while folders:
        folder = folders.pop()
        os.chmod(folder, 0o700)
        for entry in list(os.scandir(folder)):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)  # its own ".." changes as well
            higher = top / secrets.token_hex(8)
            os.rename(entry.path, higher)
            folders.append(higher)
        if folder != top:
            os.rmdir(folder)
    os.rmdir(top)


def file_stamp(path: str) -> tuple[int, ...]:
    """Return what differs once a file has changed, also with its times set back; () if there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return ()
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


# ----------------------------------------------------------------------- globs


def matches_any(relative: str, globs: Iterable[str]) -> bool:
    """Tell whether the path *relative* (to the project root) is meant by one of *globs*.

    ``*`` and ``?`` stand within a name, ``**`` for any number of folders.
    """
    return any(_compiled(glob).fullmatch(relative) for glob in globs)


@lru_cache(maxsize=256)
def _compiled(glob: str) -> re.Pattern[str]:
    out = []
    at = 0
    while at < len(glob):
        if glob.startswith("**/", at):
            out.append("(?:[^/]+/)*")
            at += 3
        elif glob.startswith("**", at):
            out.append(".*")
            at += 2
        elif glob[at] == "*":
            out.append("[^/]*")
            at += 1
        elif glob[at] == "?":
            out.append("[^/]")
            at += 1
        elif glob[at] == "[" and (close := glob.find("]", at + 2)) > 0:
            body = glob[at + 1 : close].replace("\\", "\\\\")
            out.append(f"[{'^' + body[1:] if body[0] in '!^' else body}]")
            at = close + 1
        else:
            out.append(re.escape(glob[at]))
            at += 1
    return re.compile("".join(out), re.DOTALL)


def real_path(path: str | os.PathLike[str]) -> str:
    """Return what `os.path.realpath` does, in a third of the time where the kernel tells an open file's path.

    A task of a run asks some forty times.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):  # O_PATH is Linux's
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            found = os.readlink(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        # A file that was removed meanwhile, or cannot be reached from this root, has another form.
        if found.startswith("/") and not found.endswith(" (deleted)"):
            return found
    return os.path.realpath(path)


def file_system_of(path: str) -> str:
    """Return the type of the file system that *path* lies on, or "" where it is not known."""
    real = os.path.realpath(path)
    best, kind = "", ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines():
            left, _, right = line.partition(" - ")
            mount = left.split()[4].encode().decode("unicode_escape")
            inside = real == mount or real.startswith(mount.rstrip("/") + "/")
            if inside and len(mount) >= len(best):
                best, kind = mount, right.split()[0]
    return kind


def network_file_system(path: str) -> str:
    """Return the kind of network file system that *path* lies on, "" for a local disk."""
    kind = file_system_of(path)
    return kind if kind in NETWORK_FILE_SYSTEMS else ""


def on_network(path: str) -> bool:
    """Tell whether *path* lies on a network file system, where locks cannot be trusted."""
    return file_system_of(path) in NETWORK_FILE_SYSTEMS
