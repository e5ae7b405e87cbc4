"""The system calls of the protocol, one a method.

They stand apart so that a test can stop a process between any two of them, or let any one fail.
Nothing here decides: "no such file" and "exists" are raised like every other error.
"""

from __future__ import annotations

import contextlib
import os

from ..core import durable


class Files:
    """The file system, as the directory store uses it."""

    def exists(self, path: str) -> bool:
        """Look for *path*, following links; only "no such file" is a no."""
        return durable.exists(path)

    def lstat(self, path: str) -> os.stat_result:
        """Look at *path* itself."""
        return os.lstat(path)

    def mkdir(self, path: str) -> None:
        """Make a directory: the arbiter."""
        os.mkdir(path)

    def rmdir(self, path: str) -> None:
        """Take an empty directory away."""
        os.rmdir(path)

    def symlink(self, text: str, path: str) -> None:
        """Write *text* under the name *path*: it appears whole, or not at all."""
        os.symlink(text, path)

    def readlink(self, path: str) -> str:
        """Read what `symlink` wrote; OSError EINVAL where the name is a file."""
        return os.readlink(path)

    def link(self, source: str, path: str) -> None:
        """Give the file *source* a second name: it appears whole, or not at all."""
        os.link(source, path)

    def write_new(self, path: str, data: bytes) -> None:
        """Write a file under a name never used before, and make its bytes durable."""
        durable.write_new(path, data)

    def read(self, path: str) -> bytes:
        """Read a whole file."""
        with open(path, "rb") as file:
            return file.read()

    def sync(self, directory: str) -> None:
        """Make the names in *directory* durable."""
        durable.sync_directory(directory)

    def touch(self, path: str) -> None:
        """Set the time of *path* to now, by the file system's own clock."""
        os.utime(path)

    def rename(self, source: str, target: str) -> None:
        """Move a directory away."""
        os.rename(source, target)

    def names(self, directory: str) -> list[str]:
        """List a directory."""
        return os.listdir(directory)

    def delete_tree(self, directory: str) -> None:
        """Delete a flat directory, or a file; what is gone already is fine."""
        with contextlib.suppress(FileNotFoundError):
            try:
                names = os.listdir(directory)
            except NotADirectoryError:
                os.unlink(directory)
                return
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(directory, name))
            os.rmdir(directory)
