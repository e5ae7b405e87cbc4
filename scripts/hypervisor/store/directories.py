"""Lock directories and result files: the state as other programs see it, where a folder asks for them.

A folder (of a batch, or a project's ``.hypervisor/``) with a folder ``locks`` shows every claim in it as a
directory, made with ``mkdir``, and takes any other directory there, or a file ``<name>.lock``, as somebody
else's claim. A folder that holds a folder ``results`` gets every result as ``results/<key>.json``. Who makes
neither pays for neither.

The store decides among our own workers; the directory tells everybody else. The transaction of a claim
records the name before the directory is made. So a directory whose name an earlier attempt of the same
work recorded is ours, left by a crash, and is taken over; any other that exists is a foreign holder.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.files import sync_directory, write_new


@dataclass(slots=True)
class LockDirectories:
    """The folder ``locks`` in *folder*, if there is one."""

    folder: str

    @property
    def path(self) -> str:
        """The folder's path."""
        return os.path.join(self.folder, "locks")

    @property
    def used(self) -> bool:
        """Whether claims make lock directories here."""
        return os.path.isdir(self.path)

    def take(self, name: str, ours: Collection[str]) -> str:
        """Make the directory *name*; return who holds it instead, "" if it was made.

        Args:
            name: What the claim's transaction recorded.
            ours: Names that earlier attempts of the same work recorded.
        """
        path = os.path.join(self.path, name)
        try:
            os.mkdir(path)
        except FileExistsError:
            if name not in ours or not os.path.isdir(path):
                return f"held by a lock directory: {path}"
        except FileNotFoundError:  # the folder was removed meanwhile: nobody asks for directories any more
            return ""
        if os.path.lexists(path + ".lock"):
            self.drop(name)
            return f"held by a lock file: {path}.lock"
        return ""

    def drop(self, name: str) -> None:
        """Remove the directory *name*, which is ours."""
        with contextlib.suppress(FileNotFoundError, OSError):
            os.rmdir(os.path.join(self.path, name))

    def foreign(self, names: Iterable[str], ours: Collection[str]) -> dict[str, str]:
        """Return those of *names* that a directory or file of somebody else holds, each with its path."""
        try:
            there = set(os.listdir(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        found = {}
        for name in names:
            for entry in (name, name + ".lock"):
                if entry in there and entry not in ours:
                    found[name] = os.path.join(self.path, entry)
        return found


@dataclass(slots=True)
class ResultFiles:
    """The folder ``results`` in *folder*, if there is one."""

    folder: str

    @property
    def path(self) -> str:
        """The folder's path."""
        return os.path.join(self.folder, "results")

    @property
    def used(self) -> bool:
        """Whether results are written here."""
        return os.path.isdir(self.path)

    def write(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Write results by key, each whole or not at all. One that is there already is replaced."""
        for key, result in results.items():
            temporary = os.path.join(self.path, f".{key}.{os.getpid()}.tmp")
            data = (
                json.dumps(result, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
            )
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            write_new(temporary, data)
            os.rename(temporary, os.path.join(self.path, f"{key}.json"))
        if results:
            sync_directory(self.path)
