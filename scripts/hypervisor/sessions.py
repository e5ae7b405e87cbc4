"""What is remembered of a client's session: which of its agents took which claim.

A claim itself says who holds it, but only while it is open. The note outlives a claim that was
taken away, so that its worker can be told and stopped; whoever ends a claim in good order drops it.
Notes decide nothing: losing them costs a heartbeat or a word, never a claim.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from .claims.port import Claim
from .claims.view import DirectoryView
from .core import durable
from .core.keys import generation_name

FOLDER = "sessions"
#: Where the notes of a caller stand of whom only the session is known.
_UNKNOWN = "unknown"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One claim that an agent took."""

    task: str
    #: The task's file, absolute.
    path: str
    #: The claim, as the store knows it.
    key: str
    generation: int
    token: str
    holder: str
    #: The generation as people and agents are told it.
    number: int
    #: What the claim was made as: the assignee.
    name: str
    #: Tools whose use leaves a receipt, and the other task that gets it too ("" for none).
    receipts: tuple[str, ...] = ()
    receipts_to: str = ""
    #: Whether a coordinator holds it for the agent: then the agent's end does not end it.
    commissioned: bool = False

    @property
    def claim(self) -> Claim:
        """The claim itself."""
        return Claim(key=self.key, generation=self.generation, token=self.token, holder=self.holder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What became of a noted claim."""

    #: ``ended``: by this very claim, with a result or a release; ``lost``: by somebody else.
    how: Literal["open", "ended", "lost"]
    #: Why it was lost, for people.
    why: str = ""


class Session:
    """The notes of one session of a client.

    Args:
        state: The project's state folder.
        name: The client's id of the session.
    """

    def __init__(self, state: Path, name: str) -> None:
        self.folder = state / FOLDER / file_name(name)

    def keep(self, agent: str, note: Note) -> None:
        """Note a claim that *agent* (an id, "main", or "" if it is not known) has made."""
        folder = self._folder(agent)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.write_once(folder / _claim_name(note.key, note.generation), json.dumps(asdict(note)).encode())

    def drop(self, agent: str, key: str, generation: int) -> None:
        """Forget a claim."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(self._folder(agent) / _claim_name(key, generation))

    def notes(self, agent: str) -> list[Note]:
        """Return the noted claims of *agent*; a damaged note is passed over."""
        return list(_read(self._folder(agent)))

    def agents(self) -> list[str]:
        """Return the agents of which there are notes."""
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return []
        return ["" if n == _UNKNOWN else n for n in names if (self.folder / n).is_dir() and n[:1] != "."]

    def first(self, what: str) -> bool:
        """Tell whether this is the first time that *what* is asked of this session."""
        folder = self.folder / ".once"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.close(os.open(folder / file_name(what), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        return True

    def forget(self, but: Collection[str] = ()) -> None:
        """Forget all of the session, or all *but* the files and folders of these names."""
        if not but:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        for entry in os.scandir(self.folder) if self.folder.is_dir() else ():
            if entry.name not in but and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name not in but:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)

    def _folder(self, agent: str) -> Path:
        return self.folder / (file_name(agent) if agent else _UNKNOWN)


def fate_of(store: DirectoryView, note: Note) -> Fate:
    """Return what became of a noted claim, from the store alone."""
    result = store.result(note.key)
    if result is not None:
        if result.get("token") == note.token:
            return Fate(how="ended")
        by = f" by {result['worker']}" if result.get("worker") else ""
        what = "cancelled" if result.get("status") == "skipped" else f"finished ({result.get('status')})"
        reason = str(result.get("outcome", ""))
        tail = f": {reason}" if reason and reason != "cancelled" else ""
        return Fate(how="lost", why=f"{note.task} was {what}{by}{tail}")
    end = store.layout.end_if_there(note.key, note.generation)
    if end is not None:
        if end.how == "revoked":
            return Fate(how="lost", why=end.detail or "it was revoked")
        return Fate(how="ended")
    owner = store.layout.owner(note.key, note.generation)
    if owner is None or owner.token != note.token:
        return Fate(how="lost", why="its place in the store is gone")
    return Fate(how="open")


def _read(folder: Path) -> Iterator[Note]:
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if not name.endswith(".json"):
            continue
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError):
            data: dict[str, Any] = json.loads((folder / name).read_bytes())
            yield Note(**{**data, "receipts": tuple(data["receipts"])})


def _claim_name(key: str, generation: int) -> str:
    # A key may be as long as a name can be; the claim's own name stands in the note.
    name = generation_name(key, generation)
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest() + ".json"


def file_name(name: str) -> str:
    """Return *name* where it is fit to be a file's, else a hash: it comes from outside."""
    if _PLAIN.fullmatch(name) and name != _UNKNOWN:
        return name
    return "x" + hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=16).hexdigest()
