"""Attending to a session's workers while its own thread rests: what has ended wakes it.

Two ways into the client. At `Stop` a hook that the client runs in the background and that wakes it by its
exit code 2; a client that runs one prompt and ends (`-p`) waits for the hook instead, so that it lives
until its workers are done. And a plugin's monitor, whose lines wake an interactive client that supports
them. One of them at a time attends to a session.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from .. import errands
from ..claims.directory import DirectoryStore, Policy
from ..claims.port import MAIN
from ..core.config import settings_of
from ..core.machine import identity_of, life_of, this_process
from ..core.paths import Project, session_project
from ..crowd import Crowd
from ..events import FILE
from ..inbox import Inbox
from ..mending import untold
from ..sessions import Session, file_name
from ..waiting import wait_until
from . import transcript
from .hookcall import Call, read_call
from .hooking import WENT_ON, Hook
from .telling import hand_over, may_block, settle_resting

#: Exit code by which a hook keeps the client from stopping, or wakes it.
WAKE = 2
#: In the environment of what the guard starts: the client's pid.
CLIENT_PID = "HYPERVISOR_CLIENT_PID"
#: For how long others may end as well before one message tells of them.
_FOLD_SECONDS = 0.5
#: How long the hook of a worker's end, which knows why it ended, may take after the client's note of it.
_HOOK_SECONDS = 2.0
#: A monitor lives as long as its client: it looks less often than somebody waits for.
_MONITOR_TICK = 0.25
_LOCK = ".attended"


def attend(source: IO[bytes], environ: Mapping[str, str]) -> int:
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
    with contextlib.suppress(OSError):
        attendant = Attendant(session_project(environ), call, _life_of_client(environ))
        with attendant.alone() as mine:
            text = attendant.await_end(environ) if mine else ""
        if text:
            print(text, file=sys.stderr)
            return WAKE
    return 0


def monitor(environ: Mapping[str, str], out: IO[str]) -> int:
    """Say a line, or several at once, whenever something of the session has ended; until its client ends."""
    session = environ.get("CLAUDE_CODE_SESSION_ID", "")
    if not session:
        return 0
    gone = _life_of_client(environ)
    attendant = Attendant(session_project(environ), Call(event="", session=session), gone)
    while not gone():
        with contextlib.suppress(FileNotFoundError), attendant.alone() as mine:
            if mine:
                attendant.call_out(out)
                return 0
        time.sleep(1.0)  # the session has done nothing yet, or a hook attends to it for now
    return 0


def _life_of_client(environ: Mapping[str, str]) -> Callable[[], bool]:
    """Return what tells whether the client is gone; without its pid it counts as living."""
    pid = environ.get(CLIENT_PID, "")
    client = identity_of(int(pid)) if pid.isdecimal() and int(pid) > 1 else None
    here = this_process()
    return lambda: client is not None and life_of(client, here) == "dead"


class Attendant:
    """Whoever attends to one session.

    Args:
        project: The project.
        call: The call at which it begins.
        gone: Tells whether the client is gone.
    """

    def __init__(self, project: Project, call: Call, gone: Callable[[], bool]) -> None:
        self.project, self.call, self.gone = project, call, gone
        self.session = Session(project.state, call.session)
        self.inbox = Inbox(project.state, call.session)
        self.crowd = Crowd(self.session, settings_of(project.state)["claims"]["lease_seconds"])
        #: Up to where the client's transcript was looked at.
        self._place = transcript.length(call.transcript)
        self._log = str(project.state / FILE)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Give whether nobody else attends to the session; nobody will meanwhile.

        Raises:
            FileNotFoundError: The session has nothing that could be attended to.
        """
        if not self.inbox.is_there():
            self.inbox.begin() if self.session.folder.is_dir() else None
        descriptor = os.open(self.session.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(descriptor)

    # ---------------------------------------------------------------- a hook

    def await_end(self, environ: Mapping[str, str]) -> str:
        """Return what has ended; "" when the client goes on by itself, or nothing is under way."""

        def look(truth: bool) -> str | None:
            if self._goes_on():
                return ""
            self._bury()
            if truth:
                self._mend()
            on_the_way = settle_resting(self.inbox)
            waits = self.inbox.pending()
            running = self._under_way()
            if any(notice.wakes for notice in waits):
                if not running or self._may_wake(environ):
                    time.sleep(_FOLD_SECONDS if running else 0.0)
                    text = self._wake()
                    if text or not self._may_wake(environ):
                        return text
                on_the_way = True  # a hook was quicker to say it; whether that arrives is to be seen
            return None if running or on_the_way or self._goes_on() else ""

        paths = [self._log, self.call.transcript, str(self.session.folder / WENT_ON)]
        return wait_until(look, paths, None, stopped=self.gone) or ""

    def _goes_on(self) -> bool:
        """Tell whether the other hook at this `Stop` has kept the client from stopping."""
        try:
            (self.session.folder / WENT_ON).unlink()
        except FileNotFoundError:
            return False
        return True

    def _may_wake(self, environ: Mapping[str, str]) -> bool:
        # The client overrides who keeps it from stopping too often: the last time is for all that is left.
        with self.inbox.open() as box:
            box.blocks += 1
            allowed = may_block(box, environ)
            box.blocks -= 1
        return allowed

    def _wake(self) -> str:
        with contextlib.suppress(FileNotFoundError), self.inbox.open() as box:
            if not may_block(box, os.environ):
                return ""
            box.blocks += 1
        return hand_over(self.inbox, "watch", self.crowd.running())[0]

    def _under_way(self) -> int:
        return self.crowd.running() + errands.look(self.project, self.call.session)

    # -------------------------------------------------------------- a monitor

    def call_out(self, out: IO[str]) -> None:
        """Say what has ended, whenever something has, until the client is gone or listens no more."""

        def look(truth: bool) -> None:
            if truth:
                self._mend()
                settle_resting(self.inbox)
                errands.look(self.project, self.call.session)
            if any(notice.wakes for notice in self.inbox.pending()):
                time.sleep(_FOLD_SECONDS)
                text, _ = hand_over(self.inbox, "watch", self.crowd.running())
                if text:
                    out.write(text + "\n")
                    out.flush()

        with contextlib.suppress(BrokenPipeError):
            wait_until(look, [self._log], None, tick=_MONITOR_TICK, stopped=self.gone)

    # ---------------------------------------------------------------- details

    def _bury(self) -> None:
        """End the claims of workers of which the client has noted the end, told or not."""
        self._place, agents = transcript.ended(self.call.transcript, self._place)
        patience = time.monotonic() + _HOOK_SECONDS
        while left := [agent for agent in agents if file_name(agent) in self.crowd.names()]:
            if time.monotonic() > patience:
                break
            time.sleep(0.05)
        for agent in left:
            self._hook().agent_over(agent, "the client says that its worker is over")

    def _mend(self) -> None:
        store = DirectoryStore(str(self.project.state), policy=Policy(patient=False))
        if next(untold(self.session, store, self.inbox.known()), None) is not None:
            self._hook().mend()

    def _hook(self) -> Any:
        return Hook(self.call, self.project)
