"""How many workers a session runs: counted where they are asked for, so that the cap holds.

A client asks for several at once, and says only later which agent came of which request. So a
request takes a place at once; the place is given on to the agent that starts, and is free when the
agent's end is known. A request that came to nothing frees its place after a while.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .sessions import Session, file_name

#: For how long a request keeps its place before an agent has started for it.
_REQUEST_SECONDS = 30.0
#: What is written where an agent was put into the background by the session's own thread.
_OF_MAIN = "main"


class Crowd:
    """The workers of one session.

    Args:
        session: The session.
        silence_seconds: After which an agent of which nothing was heard counts no more.
    """

    def __init__(self, session: Session, silence_seconds: float) -> None:
        self._asked = session.folder / ".asked"
        self._running = session.folder / ".running"
        #: Agents whose end was told; the answer to their launch may still be on its way.
        self._over = session.folder / ".over"
        self._silence = silence_seconds

    def running(self) -> int:
        """Return how many workers run, or are about to."""
        return len(_young(self._asked, _REQUEST_SECONDS)) + len(_young(self._running, self._silence))

    @contextmanager
    def counted(self) -> Iterator[int]:
        """Give the number of workers; no other request is counted meanwhile."""
        self._asked.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._running.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(self._asked, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield self.running()
        finally:
            os.close(descriptor)

    def ask(self, use: str) -> None:
        """Take a place for the request *use*; within `counted`."""
        (self._asked / file_name(use)).touch()

    def withdraw(self, use: str) -> None:
        """Free the place of a request that came to nothing, or is over."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            (self._asked / file_name(use)).unlink()

    def started(self, agent: str, use: str = "", *, of_main: bool = False) -> None:
        """Give a request's place to the agent that has started: its own, else the oldest."""
        place, over = self._running / file_name(agent), self._over / file_name(agent)
        with self.counted():
            if use and over.exists():
                self.withdraw(use)
                return
            over.unlink(missing_ok=True)  # it was woken again
            new = not place.exists()
            if of_main:
                place.write_text(_OF_MAIN, "utf-8")
            elif new:
                place.touch()
            if not new:  # it has its place already: the other requests' are not its to take
                return
            own = self._asked / file_name(use)
            if use and own.exists():
                own.unlink(missing_ok=True)
            elif oldest := _young(self._asked, _REQUEST_SECONDS):
                oldest[0].unlink(missing_ok=True)

    def seen(self, agent: str) -> None:
        """Note a sign of life."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._running / file_name(agent))

    def ended(self, agent: str) -> bool:
        """Free the place of an agent; tell whether it had one."""
        if not self._running.is_dir():
            return False  # this session has started none of ours
        with self.counted():
            self._over.mkdir(mode=0o700, exist_ok=True)
            (self._over / file_name(agent)).touch()
            place = self._running / file_name(agent)
            there = place.exists()
            place.unlink(missing_ok=True)
            return there

    def names(self) -> list[str]:
        """Return the agents that run, as file names."""
        return [place.name for place in _young(self._running, self._silence)]

    def of_main(self) -> list[str]:
        """Return the agents that the session's own thread has put into the background."""
        found = []
        for place in _young(self._running, float("inf")):
            with contextlib.suppress(FileNotFoundError):
                if place.read_text("utf-8") == _OF_MAIN:
                    found.append(place.name)
        return found


def _young(folder: Path, seconds: float) -> list[Path]:
    """Return what was touched within *seconds*, the oldest first."""
    now, found = time.time(), []
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):
                since = entry.stat().st_mtime
                if now - since < seconds:
                    found.append((since, Path(entry.path)))
    return [path for _, path in sorted(found)]
