"""What stands where in a directory store, and how it is read. Changes nothing.

::

    locks/<key>, locks/<key>~<g>   generation 1, g: a directory; its mtime is the heartbeat
        owner                      link whose text says who (records.Owner)
        note                       what the holder noted when it began; a file, whole or absent
        r.<nonce>                  a result being finished: never reopened, never renamed
        end                        link: revoked or released; or a HARD LINK of r.<nonce>: done
    results/<key>.json             hard link of end=done: write-once
    workers/<id>                   one per living worker, under flock
    trash/                         claims of finished items, on their way out

Only ENOENT means absent; every other error is raised.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from typing import Any

from ..core.keys import generation_name, split_generation
from .files import Files
from .port import Attempt
from .records import End, Owner

FOLDERS = ("locks", "results", "workers", "trash")


class Layout:
    """The names of a store's files, and what they say at this moment."""

    def __init__(self, root: str, files: Files) -> None:
        #: Absolute path of the store.
        self.root = os.path.abspath(root)
        self.files = files
        self.locks = os.path.join(self.root, "locks", "")
        self.results = os.path.join(self.root, "results", "")
        self.workers = os.path.join(self.root, "workers", "")
        self.trash = os.path.join(self.root, "trash", "")

    def make(self) -> None:
        """Make the store's folders where they are missing."""
        if self.files.exists(self.trash):  # the last to be made: the others are there
            return
        for folder in FOLDERS:
            os.makedirs(os.path.join(self.root, folder), exist_ok=True)
        self.files.sync(self.root)

    def claim_path(self, key: str, generation: int) -> str:
        """Return the directory of one generation of a claim."""
        return self.locks + generation_name(key, generation)

    def result_path(self, key: str) -> str:
        """Return the file of the accepted result."""
        return f"{self.results}{key}.json"

    def finished(self, key: str) -> bool:
        """Tell whether the life *key* has its result."""
        return self.files.exists(self.result_path(key))

    def result(self, key: str) -> Mapping[str, Any] | None:
        """Return the accepted result, or None."""
        try:
            record: Mapping[str, Any] = json.loads(self.files.read(self.result_path(key)))
        except FileNotFoundError:
            return None
        return record

    def highest(self, key: str) -> int:
        """Return the highest generation, 0 for none. It may be stale: steps c4 and c6 catch that."""
        generation = 0
        while self.files.exists(self.claim_path(key, generation + 1)):
            generation += 1
        return generation

    def end(self, key: str, generation: int) -> End | None:
        """Return how a generation ended, None if it is open.

        Raises:
            FileNotFoundError: Its directory is gone.
        """
        path = self.claim_path(key, generation)
        try:
            return End.from_text(self.files.readlink(path + "/end"))
        except FileNotFoundError:
            self.files.lstat(path)
            return None
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: no link but a file, so a result
                raise
        return End(how="done", token=json.loads(self.files.read(path + "/end"))["token"])

    def end_if_there(self, key: str, generation: int) -> End | None:
        """Return how a generation ended; None if it is open, or gone."""
        try:
            return self.end(key, generation)
        except FileNotFoundError:
            return None

    def owner(self, key: str, generation: int) -> Owner | None:
        """Return who signed a generation; None if nobody has, or it is gone."""
        try:
            return Owner.from_text(self.files.readlink(self.claim_path(key, generation) + "/owner"))
        except FileNotFoundError:
            return None

    def note(self, key: str, generation: int) -> Mapping[str, Any]:
        """Return what the holder of a generation noted; empty if nothing."""
        try:
            note: Mapping[str, Any] = json.loads(self.files.read(self.claim_path(key, generation) + "/note"))
        except FileNotFoundError:
            return {}
        return note

    def attempts(self, key: str) -> list[Attempt]:
        """Return how the ended generations of an unfinished item ended, oldest first."""
        found = []
        for generation in range(1, self.highest(key) + 1):
            end = self.end_if_there(key, generation)
            if end is not None and end.how != "done":
                found.append(
                    Attempt(generation=generation, how=end.how, counted=end.counted, detail=end.detail)
                )
        return found

    def unfinished(self) -> list[str]:
        """Return the keys that have a claim's directory, sorted."""
        return sorted({split_generation(name)[0] for name in self.files.names(self.locks)})
