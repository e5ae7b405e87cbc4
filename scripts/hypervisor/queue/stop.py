"""How a worker is told to end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable


class Stop:
    """``soon`` after the item in hand, ``now`` without it."""

    def __init__(self) -> None:
        self.soon = threading.Event()
        self.now = threading.Event()
        #: The `Work.stopped` of the item in hand.
        self.in_hand = threading.Event()
        #: Called after each `ask`, with whether to end now; says so to whoever waits.
        self.told: Callable[[bool], None] | None = None

    def ask(self) -> None:
        """Ask once to end soon; asked again, to end now."""
        if self.soon.is_set():
            self.now.set()
            self.in_hand.set()
        self.soon.set()
        if self.told is not None:
            self.told(self.now.is_set())

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
