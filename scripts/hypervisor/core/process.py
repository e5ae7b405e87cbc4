"""Which process this is, whether another still lives, how to end what it left behind, and where it runs."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

LINUX = sys.platform.startswith("linux")

#: In the environment of everything a worker starts; how its orphans are found again.
WORKER_MARK = "HYPERVISOR_WORKER"
#: How often marked processes are looked for again where there were some (a process in the kernel's hands
#: cannot be killed, and is not waited for for ever), and where one may be about to bear the mark.
_LOOKS, _DOUBTS = 20, 5
#: How often a running program is looked at, in seconds: at least, where the kernel does not tell its
#: end; and at most, as nothing but a look tells that it has to stop.
_FIRST_POLL, _LAST_POLL = 0.001, 0.1
#: The parent of all threads of Linux's own.
_KERNEL = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A process, told apart from any other that ever bore its number.

    A pid alone is reused within hours; boot, namespace, pid and start time together are not.
    """

    host: str
    #: Random at each boot on Linux; the time of boot elsewhere.
    boot: str
    #: Inode of the pid namespace: in a container the same pid is another process.
    pid_namespace: str
    pid: int
    #: Start time as the kernel counts it (clock ticks since boot on Linux), immune to clock
    #: changes; "" where it could not be read.
    start: str

    def to_json(self) -> dict[str, Any]:
        """Return the identity as plain data."""
        # Not `asdict`, which copies: it is on the way of every claim.
        return {name: getattr(self, name) for name in self.__slots__}


def _read(path: str) -> str:
    """Return a small file's text; bare calls, as each claim by a new process pays for four of them."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096).decode("utf-8", "replace")
    finally:
        os.close(descriptor)


def this_process() -> Identity:
    """Return the identity of the calling process."""
    return identity_of(os.getpid())


def identity_of(pid: int) -> Identity:
    """Return the identity of process *pid* of this pid namespace; its start is "" if it is gone."""
    return Identity(
        host=host_name(),
        boot=boot_id(),
        pid_namespace=_pid_namespace(os.getpid()),
        pid=pid,
        start=start_time(pid),
    )


@lru_cache(maxsize=1)
def host_name() -> str:
    """Return a name for this machine: its host name and, where there is one, its machine id.

    Cloned machines share a host name; the id (machine-id(5)) tells most of them apart.
    """
    with contextlib.suppress(OSError):
        return f"{os.uname().nodename}/{_read('/etc/machine-id').strip()[:12]}"
    return os.uname().nodename


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Return what tells this boot of the machine from any other."""
    with contextlib.suppress(OSError):
        return _read("/proc/sys/kernel/random/boot_id").strip()
    import psutil  # noqa: PLC0415 - 100 ms, and only where there is no /proc

    return f"at-{int(psutil.boot_time())}"


@lru_cache(maxsize=8)
def _pid_namespace(pid: int) -> str:
    # By pid, as a forked child in a new namespace would otherwise inherit the answer.
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid").strip("pid:[]")
    return ""


def start_time(pid: int) -> str:
    """Return when process *pid* started, as the kernel counts it; "" when it is gone or a zombie."""
    if LINUX:
        try:
            stat = _read(f"/proc/{pid}/stat")
        except OSError:
            return ""
        # The command's name may hold blanks and parentheses: count from the last one (proc(5)).
        fields = stat[stat.rindex(")") + 2 :].split()
        return "" if fields[0] in "ZX" else fields[19]
    import psutil  # noqa: PLC0415 - only where there is no /proc

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.Error:
        return ""


Life = Literal["alive", "dead", "unknown"]


def life_of(other: Identity, here: Identity) -> Life:
    """Tell whether the process *other* still runs, seen from the process *here*.

    Returns:
        ``unknown`` where that cannot be seen: another machine, or another pid namespace.
    """
    if other.boot != here.boot:
        # The same machine, booted again: all its processes of then are gone.
        return "dead" if other.host == here.host else "unknown"
    if other.pid_namespace != here.pid_namespace:
        return "unknown"
    return "alive" if other.start and start_time(other.pid) == other.start else "dead"


EndedBy = Literal["", "stopped", "timed out"]


def wait_for_end(pid: int, stopped: threading.Event, timeout: float | None) -> EndedBy:
    """Wait until a child has ended, or must be ended.

    It is not reaped: it stays a zombie until its group is ended, so that the group's number cannot be
    given to somebody else's processes meanwhile.

    Args:
        pid: The child.
        stopped: Set when it has to stop.
        timeout: Seconds that it has; None for as long as it takes.

    Returns:
        "" if it has ended by itself, else why it must be ended.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = _FIRST_POLL
    with contextlib.ExitStack() as held:
        end = _end_of(pid, held)
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if stopped.is_set():
                return "stopped"
            if deadline is not None and time.monotonic() > deadline:
                return "timed out"
            if end is not None:
                end.poll(1000 * _LAST_POLL)
            else:
                stopped.wait(pause)
                pause = min(pause * 2, _LAST_POLL)
    return ""


def _end_of(pid: int, held: contextlib.ExitStack) -> select.poll | None:
    """Return what wakes at a child's end, where the kernel has that (Linux 5.3)."""
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
    held.callback(os.close, descriptor)
    end = select.poll()
    end.register(descriptor, select.POLLIN)
    return end


def end_group(group: int, grace_seconds: float = 5.0, *, since: Moment | None = None) -> None:
    """End the process group *group*, which the caller has started, after *since*, and not yet reaped.

    TERM first; KILL for what is left after *grace_seconds*. The leader must not have been
    waited for: as long as it is a zombie at worst, the number cannot be another group's.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while time.monotonic() < deadline and _running_members(group, since):
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _running_members(group: int, since: Moment | None = None) -> bool:
    """Tell whether the group has a member that still runs (a zombie does not)."""
    if not LINUX:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True
    for pid in pids_since(since):
        try:
            stat = _read(f"/proc/{pid}/stat")
        except OSError:
            continue
        fields = stat[stat.rindex(")") + 2 :].split()
        if int(fields[2]) == group and fields[0] not in "ZX":
            return True
    return False


def end_orphans(worker: str, grace_seconds: float = 1.0) -> list[int]:
    """End all that *worker*, which is dead, has started; return the pids."""
    return end_marked(WORKER_MARK, worker, grace_seconds)


def end_marked(
    name: str, value: str, grace_seconds: float = 1.0, *, since: Moment | None = None
) -> list[int]:
    """End every process whose environment has *value* under *name*, but for the caller.

    TERM first, KILL after *grace_seconds*; on return they are gone. It looks again until nothing new is
    there, as a process may start another one while it is being ended. The variable is given to all that is
    started, so that nothing that is not ours is ever ended, and a child that left its group is found too.

    Args:
        name: The variable.
        value: What it holds.
        grace_seconds: What they have between TERM and KILL.
        since: What started before that moment is not looked at.

    Returns:
        The pids that were ended.
    """
    ended: list[int] = []
    doubts = 0
    for _ in range(_LOOKS):
        found, doubt = _marked(name, value, since, ended)
        if not found:
            doubts += 1
            if not doubt or doubts > _DOUBTS:
                break
            time.sleep(0.01)
            continue
        import psutil  # noqa: PLC0415 - 100 ms, and only where there is one

        for process in found if not ended else ():  # what was begun meanwhile is killed at once
            with contextlib.suppress(psutil.Error):
                process.terminate()
        _, alive = psutil.wait_procs(found, timeout=0.0 if ended else grace_seconds)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=1.0)  # its item is handed out once this returns
        ended += [process.pid for process in found]
    return ended


def marked(name: str, value: str, *, since: Moment | None = None) -> list[Any]:
    """Return the processes, of psutil, that `end_marked` would end now."""
    return _marked(name, value, since, ())[0]


def process_clock() -> float:
    """Return the start, on the clock of processes' starts, of one that would be started now, or some less."""
    # On Linux a clock that nobody can set; the ticks of starts are coarser than this reading.
    return time.clock_gettime(time.CLOCK_BOOTTIME) - 0.02 if LINUX else time.time() - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A time, and how far the kernel had come in numbering processes: what started later is quickly found."""

    #: `process_clock` then.
    clock: float
    #: The newest process's pid, and how many had been started since boot; 0 where that is not told.
    pid: int = 0
    forks: int = 0


def this_moment() -> Moment:
    """Return the moment of the call."""
    clock = process_clock()
    if LINUX:
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(_read("/proc/loadavg").split()[-1])
            with open("/proc/stat", "rb") as file:
                text = file.read()
            return Moment(
                clock=clock, pid=pid, forks=int(text.split(b"\nprocesses ", 1)[1].split(None, 1)[0])
            )
    return Moment(clock=clock)


def pids_since(moment: Moment | None) -> list[int]:
    """Return the pids of all processes, of Linux, that can have been started since; of all without a moment.

    The kernel numbers processes one after another, and begins anew at the end. As long as so few were
    started that it cannot have come round, those since then lie between two numbers.
    """
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    if moment is None or not moment.pid or not _in_turn():
        return pids
    now = this_moment()
    if not 0 <= now.forks - moment.forks < _most_pids() // 4:
        return pids
    if moment.pid <= now.pid:
        return [pid for pid in pids if moment.pid <= pid <= now.pid]
    return [pid for pid in pids if pid >= moment.pid or pid <= now.pid]


@lru_cache(maxsize=1)
def _most_pids() -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(_read("/proc/sys/kernel/pid_max"))
    return 0


@lru_cache(maxsize=1)
def _in_turn() -> bool:
    """Tell, by a thread of ours, whether the kernel's figures mean what they say; in some sandboxes not."""
    before = this_moment()
    made = threading.Thread(target=lambda: None)
    made.start()
    made.join()
    after, number = this_moment(), made.native_id or 0
    between = before.pid < number <= after.pid
    return after.forks > before.forks > 0 and (between or after.pid < before.pid)


def _marked(name: str, value: str, since: Moment | None, known: Collection[int]) -> tuple[list[Any], bool]:
    """Return the processes that bear the mark, but for *known*, and whether one may be about to bear it.

    Between a program's exec and its start the kernel shows its environment as empty.
    """
    others = (os.getpid(), *known)
    if LINUX:
        return _marked_in_proc(f"{name}={value}".encode("utf-8", "surrogateescape"), since, others)
    import psutil  # noqa: PLC0415 - 100 ms

    found, doubt = [], False
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            # The start first: of the many that are older nobody reads the environment.
            if process.pid in others or (since and process.create_time() < since.clock):
                continue
            environment = process.environ()
            of_ours = environment.get(name) == value
            if (environment and not of_ours) or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if of_ours:
                found.append(process)
            else:
                doubt = doubt or time.time() - process.create_time() < 1.0
    return found, doubt


def _environment(pid: int) -> bytes:
    with open(f"/proc/{pid}/environ", "rb") as file:
        return file.read()


def _marked_in_proc(mark: bytes, since: Moment | None, others: Collection[int]) -> tuple[list[Any], bool]:
    tick = os.sysconf("SC_CLK_TCK")
    found, doubt = [], False
    for pid in pids_since(since):
        if pid in others:
            continue
        with contextlib.suppress(OSError):
            stat = _read(f"/proc/{pid}/stat")
            fields = stat[stat.rindex(")") + 2 :].split()
            start = int(fields[19]) / tick
            if fields[0] in "ZX" or (since and start < since.clock):
                continue
            environment = _environment(pid)
            if mark in environment.split(b"\0"):
                import psutil  # noqa: PLC0415 - 100 ms, and only where there is one

                with contextlib.suppress(psutil.Error):
                    found.append(psutil.Process(pid))
            elif not environment and int(fields[1]) != _KERNEL:
                doubt = doubt or process_clock() - start < 1.0
    return found, doubt
