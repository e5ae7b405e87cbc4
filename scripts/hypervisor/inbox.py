"""What a session of a client has been told, and what not yet: its place in the log of events.

A message that was handed to the client is *offered*. It is *told* when it stands in the client's own
transcript; until then it is repeated, afterwards never. So the same end may be offered twice where the
first offer is lost, and none is forgotten: what is not known to be told is told again.

The state is one small file, replaced as a whole under a lock. Without it, or where it is damaged, the
log is read from its beginning.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .events import Log, log_of
from .hooks.notices import Notice, needle, notice_of
from .sessions import Session

_STATE, _LOCK = ".inbox.json", ".inbox.lock"
#: Keys of notices that were told, kept for lines that stand twice in the log.
_MOST_TOLD = 5000


@dataclass(slots=True, kw_only=True)
class Offer:
    """A message that the client was given."""

    mark: str
    keys: list[str]
    #: The client's event at which it was given; ``watch`` for a line that wakes it.
    event: str
    #: Of the tool call after which it was given, and of the prompt; "" where there is none.
    use: str = ""
    prompt: str = ""
    #: Seconds since the epoch.
    at: float = 0.0
    #: Length of the transcript before it, in bytes.
    place: int = 0


@dataclass(slots=True)
class Box:
    """The state of one session's inbox, while its lock is held."""

    session: str
    log: Log
    #: Up to where the log has been read, in bytes.
    read: int = 0
    #: What stood before that place: a log that was replaced is read from its beginning.
    seen: str = ""
    #: What has not been told, the oldest first; what is on offer too.
    waiting: list[Notice] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    #: How often in a row the client was kept from stopping.
    blocks: int = 0
    #: The client's transcript of the session; "" where no hook has named it yet.
    transcript: str = ""

    def collect(self) -> None:
        """Take in what the log has since the last time."""
        if self.is_up_to_date():
            return
        known = {notice.key for notice in self.waiting} | set(self.told)
        start = self.read if self.log.before(self.read) == self.seen else 0
        for place, event in self.log.since(start, needle(self.session)):
            self.read = place
            notice = notice_of(event, self.session)
            if notice is not None and notice.key not in known:
                self.waiting.append(notice)
                known.add(notice.key)
        self.seen = self.log.before(self.read)

    def is_up_to_date(self) -> bool:
        """Tell whether the log has been read to its end."""
        return self.read == self.log.size() and self.seen == self.log.before(self.read)

    def pending(self) -> list[Notice]:
        """Return what is neither told nor on offer."""
        offered = {key for offer in self.offers for key in offer.keys}
        return [notice for notice in self.waiting if notice.key not in offered]

    def offer(self, notices: Sequence[Notice], event: str, **where: Any) -> Offer:
        """Note that *notices* are handed to the client; the caller hands them over after the lock."""
        made = Offer(
            mark=secrets.token_hex(4), keys=[one.key for one in notices], event=event, at=time.time(), **where
        )
        self.offers.append(made)
        return made

    def settle(self, decide: Callable[[Offer], bool | None]) -> None:
        """Look at each offer anew.

        Args:
            decide: True: the client has it; False: it is lost; None: not known yet.
        """
        verdicts = [(offer, decide(offer)) for offer in self.offers]
        for offer, verdict in verdicts:
            if verdict:
                self.mark_told(offer.keys)
        self.offers = [offer for offer, verdict in verdicts if verdict is None]

    def mark_told(self, keys: Sequence[str]) -> None:
        """Note that the client has these."""
        self.told = [*self.told, *keys][-_MOST_TOLD:]
        self.waiting = [notice for notice in self.waiting if notice.key not in set(keys)]

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain data."""
        return {
            "read": self.read, "seen": self.seen, "waiting": [asdict(one) for one in self.waiting],
            "offers": [asdict(one) for one in self.offers], "told": self.told, "blocks": self.blocks,
            "transcript": self.transcript,
        }  # fmt: skip


class Inbox:
    """The inbox of one session.

    Args:
        state: The project's state folder.
        session: The client's id of the session.
    """

    #: Its files in the session's folder.
    FILES = (_STATE, _LOCK)

    def __init__(self, state: Path, session: str) -> None:
        self.session = session
        self.folder = Session(state, session).folder
        self._log = log_of(state)

    def begin(self) -> None:
        """Make the inbox before the session's first claim: what was before does not concern it."""
        if (self.folder / _STATE).exists():
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            if not (self.folder / _STATE).exists():
                size = self._log.size()
                self._write(Box(self.session, self._log, read=size, seen=self._log.before(size)))

    def is_there(self) -> bool:
        """Tell whether this session has one."""
        return (self.folder / _STATE).exists()

    def idle(self) -> bool:
        """Tell whether there is nothing to tell and nothing on offer, at the cost of two looks."""
        try:
            box = self._read()
        except FileNotFoundError:
            return True
        return box.is_up_to_date() and not (box.waiting or box.offers or box.blocks)

    def known(self) -> set[str]:
        """Return the keys of all that the session was told, or is to be told."""
        try:
            box = self._read()
        except FileNotFoundError:
            return set()
        box.collect()
        return {notice.key for notice in box.waiting} | set(box.told)

    def pending(self) -> list[Notice]:
        """Return what is neither told nor on offer; change nothing."""
        try:
            box = self._read()
        except FileNotFoundError:
            return []
        box.collect()
        return box.pending()

    @contextmanager
    def open(self) -> Iterator[Box]:
        """Give the state to change; no other process has it meanwhile.

        Raises:
            FileNotFoundError: The session has none.
        """
        with self._locked():
            box = self._read()
            before = box.to_json()
            box.collect()
            yield box
            if box.to_json() != before:
                self._write(box)

    def forget_if_told(self) -> bool:
        """Remove the state if nothing is left to tell; tell whether it is gone."""
        with contextlib.suppress(FileNotFoundError), self.open() as box:
            if box.waiting:
                return False
        for name in (_STATE, _LOCK):
            (self.folder / name).unlink(missing_ok=True)
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read(self) -> Box:
        data = (self.folder / _STATE).read_bytes()
        box = Box(self.session, self._log)
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
            known = json.loads(data)
            return Box(
                self.session, self._log, read=int(known["read"]), seen=str(known["seen"]),
                waiting=[Notice(**one) for one in known["waiting"]],
                offers=[Offer(**one) for one in known["offers"]],
                told=[str(key) for key in known["told"]], blocks=int(known["blocks"]),
                transcript=str(known["transcript"]),
            )  # fmt: skip
        return box  # damaged: all is told again

    def _write(self, box: Box) -> None:
        # Whole or as before; not synced: a power loss ends the session, and costs a repetition at most.
        path = self.folder / _STATE
        temporary = path.with_name(f"{_STATE}.{secrets.token_hex(6)}")
        try:
            temporary.write_text(json.dumps(box.to_json(), ensure_ascii=True), "utf-8")
            os.rename(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
