"""What goes on beside the item in hand: the heartbeat of its claim, and being told to stop."""

from __future__ import annotations

import os
import signal
import sys
import threading

from ..claims.directory import DirectoryStore
from ..claims.port import Claim
from ..core.errors import ClaimLost


class Stop:
    """How a worker is told to end: ``soon`` after the item in hand, ``now`` without it."""

    def __init__(self) -> None:
        self.soon = threading.Event()
        self.now = threading.Event()
        #: The `Work.stopped` of the item in hand.
        self.in_hand = threading.Event()

    def ask(self) -> None:
        """Ask once to end soon; asked again, to end now."""
        if self.soon.is_set():
            self.now.set()
            self.in_hand.set()
        self.soon.set()

    def listen(self, *signals: int) -> None:
        """Ask on each of *signals*.

        The handler only writes a byte: it may run while the main thread is inside a lock of the
        very event that it would have to set.
        """
        read, write = os.pipe()
        for number in signals:
            signal.signal(number, lambda *_: os.write(write, b"!"))
        threading.Thread(target=self._asked, args=(read,), daemon=True).start()

    def _asked(self, descriptor: int) -> None:
        while os.read(descriptor, 1):
            self.ask()


class Heart:
    """Renews the claim in hand from a thread, and says so when it is lost."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._current: tuple[DirectoryStore, Claim, threading.Event] | None = None
        self._thread: threading.Thread | None = None

    def attend(self, store: DirectoryStore, claim: Claim, lost: threading.Event) -> None:
        """Begin to renew *claim*; set *lost* when it is no longer held."""
        with self._lock:
            self._current = (store, claim, lost)
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, daemon=True, name="heart")
            self._thread.start()

    def rest(self) -> None:
        """Stop renewing."""
        with self._lock:
            self._current = None

    def _beat(self) -> None:
        pause = threading.Event()
        while not pause.wait(self._seconds):
            with self._lock:
                if self._current is None:
                    continue
                store, claim, lost = self._current
                try:
                    store.beat(claim)
                except ClaimLost:
                    lost.set()
                except OSError as error:
                    # The next beat may pass; if none does, the claim is lost and says so.
                    print(f"heartbeat: {error}", file=sys.stderr)
