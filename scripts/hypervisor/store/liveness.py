"""Which workers are dead, and taking their claims from them.

Expiry and death are suspicion: they decide *when* a claim is taken from a worker, never whether it may
complete. A wrong verdict costs a second attempt at the work and nothing else, as the attempt's id decides.

A worker process holds ``flock`` on ``workers/<id>.lock`` for its life and passes the descriptor on to what it
starts, so that the kernel tells of its death at once, through SIGKILL too, and a child that outlives it
shows as well: it is ended before the work is handed to another.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..core.errors import Refused
from ..core.process import Identity, end_orphans, life_of
from .claims import Claims
from .records import Revoked, Worker, WorkerKind

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_SUFFIX = ".lock"
#: The id of a run's coordinator, and its pid in it.
_RUN = re.compile(r"run-(\d+)-[0-9a-f]+\.lock$")
#: Longer than a living process takes from making its file to locking it.
_NEWBORN_SECONDS = 3600.0


def new_worker_id(name: str, pid: int) -> str:
    """Return an id that no other worker ever had."""
    return f"{_UNSAFE.sub('-', name)[:40]}-{pid}-{secrets.token_hex(4)}"


def require_no_run_above(folder: str) -> None:
    """Raise where this process was started by an agent of a run, which may speak for its own task only.

    Args:
        folder: The folder ``workers`` of the project.

    Raises:
        Refused: It was. Its environment does not matter: the kernel knows what it descends from.
    """
    with contextlib.suppress(FileNotFoundError):
        runs = {int(found[1]): name for name in os.listdir(folder) if (found := _RUN.match(name))}
        for pid in _ancestors() if runs else ():
            if pid in runs and lock_state(folder, runs[pid].removesuffix(_SUFFIX)) == "held":
                raise Refused(
                    "an agent of a run asks for this, and may speak for its own task only; a person can do "
                    "it outside of the run"
                )


def _ancestors() -> list[int]:
    """Return the pids of the processes that this one descends from, the nearest first."""
    if not os.path.isdir("/proc/self"):
        import psutil  # noqa: PLC0415 - only where there is no /proc

        return [parent.pid for parent in psutil.Process().parents()]
    found: list[int] = []
    pid = os.getppid()
    while pid > 0 and pid not in found:
        found.append(pid)
        try:
            stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        except OSError:
            break
        pid = int(stat[stat.rindex(")") + 2 :].split()[1])
    return found


class WorkerLock:
    """The lock that a worker process holds for its life.

    Args:
        folder: The folder ``workers``; made if it is missing.
        worker: `Worker.id`.
    """

    def __init__(self, folder: str, worker: str) -> None:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self.path = os.path.join(folder, worker + _SUFFIX)
        newborn = os.path.join(folder, f".{worker}{_SUFFIX}")
        #: To be inherited by children, so that one that outlives its worker is seen.
        self.descriptor = os.open(newborn, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
            # Locked before it bears its name, so that nobody ever sees a living worker's file free.
            os.rename(newborn, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(newborn)
            os.close(self.descriptor)
            raise

    def note(self, attempt: int) -> None:
        """Note in the file which attempt is in hand, 0 for none.

        For a worker that claims several items at once: should it die, those that it had not begun cost
        no attempt. See `in_hand`.
        """
        os.pwrite(self.descriptor, b"%020d\n" % attempt, 0)

    def close(self) -> None:
        """Release the lock and remove its file: this worker is gone."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        os.close(self.descriptor)


def in_hand(folder: str, worker: str) -> int | None:
    """Return the attempt that a dead worker had in hand, 0 for none; None where it has not noted that."""
    try:
        with open(os.path.join(folder, worker + _SUFFIX), "rb") as file:
            return int(file.read(32) or b"-")
    except (OSError, ValueError):
        return None


def lock_state(folder: str, worker: str) -> Literal["held", "free", "missing"]:
    """Return whether a worker's lock is held."""
    try:
        descriptor = os.open(os.path.join(folder, worker + _SUFFIX), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return "missing"
    try:
        # Shared, so that two that look at once do not take each other for the owner.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "held"
    finally:
        os.close(descriptor)
    return "free"


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """Why a worker counts as dead."""

    why: str
    #: Whether something that it started still runs and has to be ended first.
    orphans: bool = False


@dataclass(slots=True)
class LivenessChecker:
    """Judges workers, from one process. Changes nothing.

    Args:
        folder: The folder ``workers``.
        here: This process.
        one_machine: Whether all workers of the store run on this machine (SQLite).
    """

    folder: str
    here: Identity
    one_machine: bool

    def death(self, worker: Worker) -> Death | None:
        """Return why *worker* is dead; None if it lives, or that cannot be seen from here."""
        who, process = f"{worker.name} ({worker.id})", worker.process
        if process.boot != self.here.boot:
            same = self.one_machine or process.host == self.here.host
            return Death(why=f"{who} ended when the machine was restarted") if same else None
        if not self.one_machine and process.host != self.here.host:
            return None  # a container beside this one: neither its locks nor its processes are seen from here
        if worker.kind is WorkerKind.PROCESS:
            return self._death_of_process(worker)
        if worker.kind is WorkerKind.SESSION and life_of(process, self.here) == "dead":
            return Death(why=f"the client of {who} is gone")
        return None

    def _death_of_process(self, worker: Worker) -> Death | None:
        life = life_of(worker.process, self.here)
        # The same kernel: its locks are seen here, whatever pid namespace the worker lives in.
        state = lock_state(self.folder, worker.id)
        # On a server's store the locks of another clone on this machine are elsewhere: missing says nothing.
        gone = life != "alive" if self.one_machine else life == "dead"
        if state == "free" or (state == "missing" and gone):
            return Death(why=f"worker {worker.id} is dead")
        if life == "dead":
            return Death(why=f"worker {worker.id} is dead", orphans=True)
        return None


@dataclass(slots=True)
class Rescuer:
    """Takes over what dead and silent workers held. Whoever asks for work calls it.

    Args:
        claims: The claims of the store.
        checker: Judges the workers.
        end: Ends the processes that a dead worker left.
    """

    claims: Claims
    checker: LivenessChecker
    end: Callable[[str], object] = end_orphans
    _next: float = 0.0

    def rescue(self) -> list[Revoked]:
        """Revoke the claims of all workers that are dead or silent; return what was revoked."""
        found = []
        for worker in self.claims.holders():
            death = self.checker.death(worker)
            if death is None:
                continue
            if death.orphans:
                self.end(worker.id)
            hand = in_hand(self.checker.folder, worker.id)
            while revoked := self.claims.revoke_worker(worker.id, death.why, in_hand=hand):
                found += revoked
        while silent := self.claims.sweep_silent():
            found += silent
        return found

    def rescue_now_and_then(self, seconds: float = 0.5) -> list[Revoked]:
        """Do so unless this process did within the last *seconds*."""
        now = time.monotonic()
        if now < self._next:
            return []
        self._next = now + seconds
        return self.rescue()


def forget_dead(folder: str) -> int:
    """Delete the lock files of dead workers, which say nothing more; return how many."""
    count = 0
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            with contextlib.suppress(FileNotFoundError):
                # A free file without its name is about to be locked, unless its maker died between the two.
                newborn = name.startswith(".") and time.time() - os.stat(path).st_mtime < _NEWBORN_SECONDS
                if not newborn and lock_state(folder, name.removesuffix(_SUFFIX)) == "free":
                    os.unlink(path)
                    count += 1
    return count
