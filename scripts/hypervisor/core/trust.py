"""What the user has trusted: commands and settings of repositories, by their text, for each project.

The record stands in the user's own state folder, never in the repository. It is added to by single writes,
so that two commands at once lose nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import Refused
from .project import foreign, state_folder

#: A command or a setting: what it is, and its text.
Trusted = tuple[str, str]


@dataclass(frozen=True, slots=True)
class TrustRecord:
    """The commands and settings of one project that were trusted on this machine."""

    root: Path
    #: None where the user has no home.
    file: Path | None

    @classmethod
    def of(cls, root: Path, environ: Mapping[str, str]) -> TrustRecord:
        """Return the record of the project at *root*; nothing is read or made yet."""
        folder = state_folder(environ)
        name = hashlib.blake2b(os.fsencode(root), digest_size=16).hexdigest()
        return cls(root, folder / "hypervisor" / "trusted" / f"{name}.jsonl" if folder else None)

    def read(self) -> frozenset[Trusted]:
        """Return what was trusted.

        Raises:
            Refused: The record may hold what others have written.
        """
        if self.file is None:
            return frozenset()
        try:
            data = self.file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return frozenset()
        for place in (self.file.parent.parent, self.file.parent, self.file):
            if why := foreign(place):
                raise Refused(f"{place}: {why}; what is trusted there is not used")
        return frozenset(filter(None, map(_entry, data.splitlines())))

    def add(self, trusted: Iterable[Trusted]) -> None:
        """Add to the record; durable on return.

        Raises:
            Refused: It cannot be written, or it may hold what others have written.
        """
        new = sorted(set(trusted) - self.read())
        if not new:
            return
        if self.file is None:
            raise Refused("HOME is not set; set it, or XDG_STATE_HOME, so that what you trust can be kept")
        try:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            opened = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise Refused(f"{self.file}: {error.strerror}; XDG_STATE_HOME names another folder") from error
        # A line that a crash has cut short is ended first.
        lines = [json.dumps({"root": str(self.root), "kind": kind, "text": text}) for kind, text in new]
        with os.fdopen(opened, "ab", buffering=0) as file:
            file.write("".join(f"\n{line}" for line in [*lines, ""]).encode())
            os.fsync(file.fileno())

    def forget(self) -> bool:
        """Trust nothing of the project any more; return whether something was trusted."""
        if self.file is None:
            return False
        try:
            self.file.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


def _entry(line: bytes) -> Trusted | None:
    try:
        found = json.loads(line)
        return str(found["kind"]), str(found["text"])
    except (ValueError, RecursionError, TypeError, KeyError):
        return None
