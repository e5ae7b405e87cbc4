"""Draining a batch from outside: whoever works on it begins nothing more, and finishes what is in hand.

The word is a file in the batch's folder. It counts for those who were at work when it was given: who
begins afterwards goes on with the batch, so that nothing has to be taken back.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

from .core import clock, durable

FILE = "drain"
#: How old what is known may be where a sweep asks at each of a million lines, in seconds.
_LATELY = 0.2


def ask(folder: str) -> None:
    """Ask all who work on the batch in *folder* to begin nothing more; durable on return."""
    text = f"{clock.now_text()} {secrets.token_hex(8)}\n"  # differs from every one before
    durable.replace(Path(folder, FILE), text.encode())


@dataclass(slots=True)
class Drain:
    """What one worker or coordinator knows of it: made when it begins."""

    folder: str
    _before: tuple[int, int] | None = field(init=False)
    _look_at: float = 0.0

    def __post_init__(self) -> None:
        self._before = self._stamp()

    def asked(self) -> bool:
        """Tell whether it was asked since this one began; costs one system call."""
        now = self._stamp()
        return now is not None and now != self._before

    def asked_lately(self) -> bool:
        """Tell the same, but look only now and then: False where the last look was a moment ago."""
        now = time.monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + _LATELY
        return self.asked()

    def _stamp(self) -> tuple[int, int] | None:
        # A file that was put in the place of another has another inode, or another time.
        try:
            state = os.stat(os.path.join(self.folder, FILE))
        except OSError:
            return None
        return state.st_ino, state.st_mtime_ns
