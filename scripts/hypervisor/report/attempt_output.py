"""What an attempt has printed, whole: found by its item, read while it grows, agents' events as text."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from ..core.errors import HypervisorError, NothingToDo, UsageError
from ..core.project import Project
from ..queue.batch import Batch
from ..queue.batches import open_record
from ..runners.base import event_of, list_of, map_of
from ..store.records import Attempt
from ..store.store import Store
from ..store.tails import LogTail
from ..tasks.actor import Actor
from ..tasks.catalog import TaskCatalog
from .activity import log_stem

#: The two streams, by the endings of their files.
STREAMS = ("out", "err")
_CHUNK = 1 << 18
#: Characters of a tool's call that are shown.
_CALL = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOutput:
    """One attempt and where its output is kept."""

    #: The item's key in the store.
    key: str
    attempt: Attempt
    #: Path without ending; "" for an attempt whose output is nowhere.
    stem: str
    #: Its end, where it lies on another machine, or is the transcript of a session's worker; None where
    #: nothing of it was kept.
    tail: LogTail | None = None

    @property
    def kept(self) -> bool:
        """Whether there is anything of it on this machine."""
        return bool(self.stem) and any(_part(self.stem, ending, 0) for ending in STREAMS)


def _key_of_task(project: Project, store: Store, name: str) -> str:
    catalog = TaskCatalog(project, store.settings, Actor(name=""), store)
    return catalog.key(catalog.find(name))


def _key_of(batch: Batch, item: str) -> str:
    """Return the key of an item: a task's id or path, or a line of the batch's queue.

    Raises:
        UsageError: There is none.
    """
    if batch.project is not None:
        with contextlib.suppress(UsageError):
            return _key_of_task(batch.project, batch.store, item)
    with contextlib.suppress(HypervisorError, OSError, ValueError):
        key = batch.ref(item).key
        if batch.store.claims.latest(key) is not None:
            return key
    raise UsageError(f"{item}: no such item in batch {batch.id}, and no such task; see `hypervisor summary`")


def find_output(batch: Batch, item: str, number: int | None = None) -> AttemptOutput:
    """Return the latest attempt at an item that has output, or the one with this *number*.

    Raises:
        UsageError: There is no such item or attempt.
        NothingToDo: Nobody has worked on it.
    """
    key = _key_of(batch, item)
    found = [_output(batch, key, one) for one in batch.store.claims.attempts(key)]
    return _chosen(batch.store, found, item, number)


def find_output_of_task(
    project: Project, store: Store, name: str, number: int | None = None
) -> AttemptOutput:
    """Return the same of a task in a project that has no batch: workers of sessions need none.

    Raises:
        UsageError: There is no such task or attempt.
        NothingToDo: Nobody has worked on it.
    """
    key = _key_of_task(project, store, name)
    found = [AttemptOutput(key=key, attempt=one, stem="") for one in store.claims.attempts(key)]
    return _chosen(store, found, name, number)


def _chosen(store: Store, found: list[AttemptOutput], item: str, number: int | None) -> AttemptOutput:
    if not found:
        raise NothingToDo(f"{item}: not started yet; nothing was printed")
    tails = store.tails.of(one.attempt.id for one in found if not one.kept)
    found = [replace(one, tail=tails.get(one.attempt.id)) for one in found]
    if number is None:
        running = found[-1].attempt.ended_at is None
        there = (one for one in reversed(found) if one.kept or one.tail)
        return found[-1] if running else next(there, found[-1])
    for one in found:
        if one.attempt.number == number:
            return one
    numbers = ", ".join(str(one.attempt.number) for one in found)
    raise UsageError(f"{item}: no attempt {number}; there are {numbers}")


def _output(batch: Batch, key: str, attempt: Attempt) -> AttemptOutput:
    home = batch
    if attempt.batch is not None and attempt.batch != batch.number and batch.project is not None:
        home = open_record(batch.store, batch.store.batches.get(attempt.batch), batch.project)
    # A command that runs has its file before the store knows of it.
    stem = log_stem(home.folder, attempt.log) if attempt.log else home.log_of(key, attempt.number)
    return AttemptOutput(key=key, attempt=attempt, stem=stem)


class StreamReader:
    """Reads one stream of an attempt as it grows: its parts in their order, compressed or not."""

    def __init__(self, stem: str, ending: str) -> None:
        self._stem, self._ending = stem, ending
        self._number = 0
        #: The part that is open, and what is in it.
        self._opened: BinaryIO | None = None
        self._file: BinaryIO | gzip.GzipFile | None = None

    def read(self) -> Iterator[bytes]:
        """Yield what was added since the last call."""
        while True:
            if self._file is None:
                path = _part(self._stem, self._ending, self._number)
                self._opened = _opened(path) if path else None
                if self._opened is None:
                    return
                packed = path.endswith(".gz")
                self._file = gzip.GzipFile(fileobj=self._opened) if packed else self._opened
            while chunk := self._file.read(_CHUNK):
                yield chunk
            # The next part is begun once this one is full: read to its end before that was seen to be so.
            if not _part(self._stem, self._ending, self._number + 1):
                return
            if chunk := self._file.read(_CHUNK):
                yield chunk
                continue
            self.close()
            self._number += 1

    def close(self) -> None:
        """Close the part that is open."""
        if self._opened is not None:
            self._opened.close()
        self._opened = self._file = None


def _part(stem: str, ending: str, number: int) -> str:
    """Return the path of a part of a stream, "" if there is none."""
    if not stem:
        return ""
    path = f"{stem}.{ending}.{number}" if number else f"{stem}.{ending}"
    return next((name for name in (path, f"{path}.gz") if os.path.lexists(name)), "")


def _opened(path: str) -> BinaryIO | None:
    try:
        # A link would lead anywhere, and to open a FIFO would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"{path}: is no file")
    return open(descriptor, "rb")


# ----------------------------------------------------------------------- agents


def event_text(line: bytes) -> str | None:
    """Return what a line of an agent's event stream says to people.

    Returns:
        None for an event that says nothing, and for a line that is no event the line itself.
    """
    event = event_of(line)
    if not event:
        return line.decode("utf-8", "replace") if line.strip() else None
    kind = event.get("type")
    if kind == "assistant":  # Claude Code
        blocks = map(map_of, list_of(map_of(event.get("message")).get("content")))
        said = [_block(one) for one in blocks]
        return "\n".join(one for one in said if one) or None
    if kind == "message" and event.get("role") == "assistant":  # Gemini CLI
        return str(event.get("content") or "") or None
    if kind == "tool_use":
        return _call(event.get("tool_name"), event.get("parameters"))
    if kind == "error":
        return f"error: {event.get('message')}"
    if kind == "result":
        how = event.get("subtype") or event.get("status") or ""
        error = map_of(event.get("error")).get("message") or ""
        return f"[ended: {how}] {event.get('result') or error}".rstrip()
    return None


def _block(block: dict[str, Any]) -> str:
    if block.get("type") == "tool_use":
        return _call(block.get("name"), block.get("input"))
    return str(block.get("text") or "").strip() if block.get("type") == "text" else ""


def _call(name: object, given: object) -> str:
    text = json.dumps(given, ensure_ascii=False) if given else ""
    return f"[{name}] {text if len(text) <= _CALL else text[: _CALL - 1] + '…'}".rstrip()
