"""The background thread of a worker: renews its claims and signals their loss."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol


class Renews(Protocol):
    """What of `store.claims.Claims` a heartbeat needs."""

    def renew(self, attempts: list[int]) -> set[int]:
        """Renew; return the attempts that are lost."""
        ...


class Heartbeat:
    """Renews the claims of one worker from a thread, which begins with the first claim.

    Args:
        claims: The store's claims.
        seconds: Between two renewals.
        tick: Called between them about as often as it asks for: it returns the seconds until it wants to be
            called again, None for not before something was held.
        lease: Seconds without a renewal after which all claims count as lost; None: the store says so.
        idle: Called instead of a renewal while nothing is held, so that other machines hear of the worker.
    """

    def __init__(
        self,
        claims: Renews,
        seconds: float,
        tick: Callable[[], float | None] = lambda: None,
        lease: float | None = None,
        idle: Callable[[], object] | None = None,
    ) -> None:
        self._claims = claims
        self._seconds = seconds
        self._tick = tick
        self._lease = lease
        self._idle = idle
        self._renewed = time.monotonic()
        self._held: dict[int, threading.Event] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None

    def hold(self, attempts: dict[int, threading.Event]) -> None:
        """Begin to renew *attempts*; each one's event is set when it is lost."""
        with self._lock:
            self._held |= attempts
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
            self._thread.start()
        self._wake.set()

    def drop(self, attempts: list[int]) -> None:
        """Stop renewing *attempts*."""
        with self._lock:
            for attempt in attempts:
                self._held.pop(attempt, None)

    def close(self) -> None:
        """End the thread."""
        self._ended = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _beat(self) -> None:
        since = 0.0
        while not self._ended:
            soon = self._tick()
            pause = self._seconds - since if soon is None else min(soon, self._seconds - since)
            if self._wake.wait(pause):
                self._wake.clear()
                # What was held last is renewed with the rest: a lease is many beats long.
                continue
            since += pause
            if since >= self._seconds - 1e-6:
                since = 0.0
                self._renew()

    def _renew(self) -> None:
        with self._lock:
            held = dict(self._held)
        if not held:
            self._renewed = time.monotonic()
            with contextlib.suppress(OSError):  # the next one may pass
                if self._idle is not None:
                    self._idle()
            return
        try:
            begun = time.monotonic()
            for attempt in self._claims.renew(list(held)):
                held[attempt].set()
            self._renewed = begun
        except OSError as error:
            if self._lease is not None and time.monotonic() - self._renewed > self._lease:
                for stopped in held.values():  # others may have them by now
                    stopped.set()
            # The next beat may pass; if none does, the claim is lost and says so.
            print(f"heartbeat: {error}", file=sys.stderr)
