"""The claims that a worker made at once, and the results that it has not told the store yet.

Two threads use a block: the worker takes claims from it, one after the other, and the heartbeat looks after
it meanwhile. Items that wait behind one that takes long are given back, so that an idle worker can have
them; results are told after a twentieth of a second at the latest.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..store.records import Claim, Completion
from .batch import ItemRef

#: An item that takes longer than this keeps no other waiting, in seconds.
LONG_SECONDS = 0.25
#: The longest that a result is kept back, in seconds.
FLUSH_SECONDS = 0.05
#: The largest block.
LARGEST = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An item that has ended, whose result is not accepted yet."""

    claim: Claim
    ref: ItemRef
    completion: Completion
    #: What to tell, and how long it took.
    text: str
    seconds: float


@dataclass(slots=True)
class ClaimBlock:
    """Claims that wait, and what has ended. Thread-safe.

    Args:
        give_back: Gives back claims whose work was not begun.
        accept: Has results accepted.
    """

    give_back: Callable[[Sequence[Claim]], None]
    accept: Callable[[Sequence[Ended]], None]
    #: What went wrong in the heartbeat's thread; raised in the worker's.
    fault: BaseException | None = None
    _waiting: deque[Claim] = field(default_factory=deque)
    _ended: list[Ended] = field(default_factory=list)
    #: When the item in hand was begun, and the oldest of those that have ended did end.
    _begun: float = 0.0
    _oldest: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _telling: threading.Lock = field(default_factory=threading.Lock)

    def fill(self, claims: Sequence[Claim]) -> None:
        """Add claims that were just made."""
        with self._lock:
            self._waiting.extend(claims)
            self._begun = time.monotonic()

    def next(self) -> Claim | None:
        """Take the next claim, to begin with it; None if none is left."""
        with self._lock:
            self._begun = time.monotonic()
            return self._waiting.popleft() if self._waiting else None

    def add(self, ended: Ended) -> None:
        """Add an item that has ended; tell the store if it is time."""
        with self._lock:
            now = time.monotonic()
            if not self._ended:
                self._oldest = now
            self._ended.append(ended)
            due = not self._waiting or now - min(self._oldest, self._begun) > FLUSH_SECONDS
        if due:
            self.flush()

    def flush(self) -> None:
        """Have all results accepted that there are.

        Raises:
            OSError: They could not be.
        """
        with self._telling:
            with self._lock:
                ended, self._ended = self._ended, []
            if ended:
                self.accept(ended)

    def empty(self) -> None:
        """Give back what was not begun."""
        with self._lock:
            waiting, self._waiting = list(self._waiting), deque()
        if waiting:
            self.give_back(waiting)

    def tick(self) -> float | None:
        """Do what is due, from the heartbeat's thread; return the seconds until the next look, or None."""
        try:
            with self._lock:
                now = time.monotonic()
                stuck = bool(self._waiting) and now - self._begun > LONG_SECONDS
                due = bool(self._ended) and now - self._oldest > FLUSH_SECONDS
            if stuck:
                self.empty()
            if due:
                self.flush()
        except BaseException as error:  # noqa: BLE001 - raised where the worker sees it
            self.fault = error
        with self._lock:
            return FLUSH_SECONDS if self._waiting or self._ended else None
