"""Wakes a session whose own thread rests when one of its workers or runs has ended.

At `Stop` the client runs a hook in the background, whose exit code wakes it; a client that runs one prompt
and ends (`-p`) waits for the hook instead, so that it lives until its workers are done. One hook at a time
serves a session.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, TypeVar

from ..core.errors import HypervisorError
from ..core.process import identity_of, life_of, this_process
from ..core.project import Project, session_project
from ..core.settings import settings_of
from ..store.sessions import MAIN
from ..store.store import Store
from . import transcript
from .call import Call, read_call
from .delivery import deliver, may_block, settle_resting
from .handler import HookHandler

Found = TypeVar("Found")

#: Exit code that `scripts/launch` makes the one by which a hook wakes the client: nothing else says it.
WAKE = 92
#: In the environment of what the guard starts: the client's pid.
CLIENT_PID = "HYPERVISOR_CLIENT_PID"
#: A file in the state folder, of which each session's waker locks one byte.
_LOCKS = "wakers.lock"
#: For how long others may end as well before one message tells of them.
_FOLD_SECONDS = 0.5
#: How long the hook of a worker's end, which knows why it ended, may take after the client's note of it.
_HOOK_SECONDS = 2.0
#: How much of what came just before its start it looks at.
_BEFORE_BYTES, _BEFORE_SECONDS = 1 << 20, 10.0
#: How often it is seen whether the database or the transcript has changed.
_TICK = 0.05
#: How often it looks whatever has changed: a message may be overdue.
_SAFETY_SECONDS = 1.0
#: Of the time, this share at most goes into looking.
_SHARE = 0.3


def wake_at_stop(source: IO[bytes], environ: Mapping[str, str]) -> int:
    """Wait, at the client's `Stop`, until something has ended that the session is to be told.

    Returns:
        `WAKE` with the message on standard error, or 0 where there is nothing to wait for.
    """
    try:
        call = read_call(json.loads(source.read()))
    except (ValueError, RecursionError):
        return 0
    if call is None or call.event != "Stop" or call.agent != MAIN:
        return 0
    with contextlib.suppress(OSError, HypervisorError):
        project = session_project(environ)
        with Store.open(project.state, settings_of(project.state), create=False) as store:
            waker = SessionWaker(project, store, call, _client_is_gone(environ))
            with waker.alone() as mine:
                text = waker.await_end(environ) if mine else ""
        if text:
            print(text, file=sys.stderr)
            return WAKE
    return 0


def _client_is_gone(environ: Mapping[str, str]) -> Callable[[], bool]:
    """Return a check whether the client is gone; without its pid it counts as living."""
    pid = environ.get(CLIENT_PID, "")
    client = identity_of(int(pid)) if pid.isdecimal() and int(pid) > 1 else None
    here = this_process()
    return lambda: client is not None and life_of(client, here) == "dead"


class SessionWaker:
    """Serves one session.

    Args:
        project: The project.
        store: The project's store.
        call: The call at which it begins.
        gone: Whether the client is gone.
    """

    def __init__(self, project: Project, store: Store, call: Call, gone: Callable[[], bool]) -> None:
        self.project, self.store, self.call, self.gone = project, store, call, gone
        self.session = call.session
        self.sessions = store.sessions
        self.queue = store.notices(call.session)
        #: Up to where the transcript was looked at; and what is too old in it to be news. An agent may
        #: have ended after the client said at `Stop` which ones run, and before this process could look.
        self._place = max(0, transcript.length(call.transcript) - _BEFORE_BYTES)
        self._since = time.time() - _BEFORE_SECONDS

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Yield whether nobody else serves the session; nobody will meanwhile."""
        path = os.path.join(self.store.folder, _LOCKS)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        digest = hashlib.blake2b(self.session.encode("utf-8", "replace"), digest_size=7).digest()
        try:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int.from_bytes(digest), os.SEEK_SET)
            except OSError:
                yield False
                return
            yield True
        finally:
            os.close(descriptor)

    # ---------------------------------------------------------------- a hook

    def await_end(self, environ: Mapping[str, str]) -> str:
        """Return what has ended; "" when the client goes on by itself, or nothing is under way."""

        def look() -> str | None:
            if self._goes_on():
                return ""
            self._note_ended_agents()
            on_the_way = settle_resting(self.queue, self.call.transcript)
            running = self.sessions.workers(self.session) + self.sessions.open_runs(self.session)
            if self.queue.pending():
                if not running or may_block(self.queue.blocks + 1, environ):
                    # The client overrides who keeps it from stopping too often: the last time is for all
                    # that is left.
                    time.sleep(_FOLD_SECONDS if running else 0.0)
                    text = self._wake(environ)
                    if text or not may_block(self.queue.blocks + 1, environ):
                        return text
                on_the_way = True  # a hook was quicker to say it; whether that arrives is to be seen
            return None if running or on_the_way or self._goes_on() else ""

        return self._whenever(look) or ""

    def _goes_on(self) -> bool:
        """Return whether the other hook at this `Stop` has kept the client from stopping."""
        return self.sessions.set_went_on(self.session, went_on=False)

    def _wake(self, environ: Mapping[str, str]) -> str:
        blocks = self.queue.blocks
        if not may_block(blocks, environ):
            return ""
        self.queue.set_blocks(blocks + 1)
        return self._message()

    # ---------------------------------------------------------------- details

    def _whenever(self, look: Callable[[], Found | None]) -> Found | None:
        """Call *look* whenever the database or the transcript has changed, until it returns something."""
        while not self.gone():
            seen, begun = self._state(), time.monotonic()
            self._settle_files(freed=bool(self.store.rescuer.rescue_now_and_then()))
            found = look()
            if found is not None:
                return found
            rest = time.monotonic() + (time.monotonic() - begun) / _SHARE
            while not self.gone() and time.monotonic() < begun + _SAFETY_SECONDS:
                if time.monotonic() >= rest and self._state() != seen:
                    break
                time.sleep(_TICK)
        return None

    def _state(self) -> tuple[int, int]:
        return self.store.engine.version(), transcript.length(self.call.transcript)

    def _message(self) -> str:
        self._settle_files(freed=any(one.end == "taken" for one in self.queue.pending()))
        return deliver(self.queue, "watch", self.sessions.workers(self.session))[0]

    def _settle_files(self, *, freed: bool) -> None:
        """Put the task files of claims that were taken from dead workers back as they were."""
        if freed:
            from ..tasks.publication import settle  # noqa: PLC0415 - the YAML loader, and seldom

            settle(self.store)

    def _note_ended_agents(self) -> None:
        """End the claims of workers of which the client has noted the end, whether it told us or not."""
        self._place, agents = transcript.ended(self.call.transcript, self._place, self._since)
        patience = time.monotonic() + _HOOK_SECONDS
        while left := [agent for agent in agents if agent in self.sessions.running_agents(self.session)]:
            if time.monotonic() > patience:
                break
            time.sleep(_TICK)
        for agent in left:
            handler = HookHandler(self.call, self.project, self.store)
            handler.agent_over(agent, "the client says that its worker is over")
