"""The processes of this machine as a table, and signals that meet the right one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass

from ..core.process import LINUX, start_time

#: prctl(2): orphans below us become our children, and not those of init.
_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One row of the table."""

    pid: int
    parent: int
    #: The pid of the leader of its session.
    session: int
    #: When it started, as `machine.start_time` tells it, and the same as a number to compare with.
    start: str
    order: float
    #: CPU time of its own and of the children that it has waited for, in seconds.
    cpu_seconds: float = 0.0
    #: Resident memory, in bytes; pages that it shares with others count in full.
    rss: int = 0
    zombie: bool = False


def processes() -> dict[int, Process]:
    """Return all processes that can be seen, by their pids."""
    return _from_proc() if LINUX else _from_psutil()


def _from_proc() -> dict[int, Process]:
    found = {}
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            descriptor = os.open(f"/proc/{name}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            text = os.read(descriptor, 4096)
        except OSError:  # it ended between the two calls
            continue
        finally:
            os.close(descriptor)
        # The command's name may hold blanks and parentheses: count from the last one (proc(5)).
        words = text[text.rindex(b")") + 2 :].split()
        found[int(name)] = Process(
            pid=int(name), parent=int(words[1]), session=int(words[3]),
            start=words[19].decode(), order=float(words[19]),
            cpu_seconds=sum(map(int, words[11:15])) / tick, rss=int(words[21]) * page,
            zombie=words[0] in (b"Z", b"X"),
        )  # fmt: skip
    return found


def _from_psutil() -> dict[int, Process]:
    import psutil  # noqa: PLC0415 - only where there is no /proc

    found = {}
    wanted = ["pid", "ppid", "create_time", "cpu_times", "memory_info", "status"]
    for one in psutil.process_iter(wanted, ad_value=None):
        told = one.info
        if told["create_time"] is None:
            continue
        session = 0
        with contextlib.suppress(OSError):
            session = os.getsid(one.pid)
        cpu = told["cpu_times"]
        found[one.pid] = Process(
            pid=one.pid, parent=told["ppid"] or 0, session=session,
            start=f"{told['create_time']:.2f}", order=told["create_time"],
            cpu_seconds=cpu.user + cpu.system if cpu else 0.0,
            rss=told["memory_info"].rss if told["memory_info"] else 0,
            zombie=told["status"] == psutil.STATUS_ZOMBIE,
        )  # fmt: skip
    return found


def environment_of(pid: int) -> list[bytes] | None:
    """Return the environment that a process was started with, NAME=value each; None if it may not be read."""
    if LINUX:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
            return [one for one in file.read().split(b"\0") if one]
        return None
    import psutil  # noqa: PLC0415 - only where there is no /proc

    with contextlib.suppress(psutil.Error, OSError):
        return [os.fsencode(f"{key}={value}") for key, value in psutil.Process(pid).environ().items()]
    return None


def proportional_memory(some: Iterable[Process]) -> int | None:
    """Return the memory of some processes, each shared page divided by its sharers; None if not told."""
    total = 0
    for one in some:
        try:
            with open(f"/proc/{one.pid}/smaps_rollup", encoding="ascii", errors="replace") as file:
                line = next((line for line in file if line.startswith("Pss:")), "")
        except FileNotFoundError:
            continue  # it is gone
        except OSError:
            return None
        if line:
            total += int(line.split()[1]) * 1024
    return total if LINUX else None


def send(process: Process, number: signal.Signals) -> bool:
    """Send a signal to this very process, and to no other that has got its pid since.

    Returns:
        Whether it was there.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except AttributeError:  # not Linux: between the look and the signal there is a moment
        descriptor = None
    except OSError:
        return False
    try:
        # Looked at after the descriptor holds it: what it holds cannot change any more.
        if start_time(process.pid) != process.start:
            return False
        if descriptor is None:
            os.kill(process.pid, number)
        else:
            signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return True


def adopt_orphans() -> bool:
    """Make orphans below this process its children, so that none of them is ever lost from sight.

    Returns:
        Whether the system can do that (Linux).
    """
    if not LINUX:
        return False
    try:
        return bool(ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def bury(pid: int) -> None:
    """Take away a zombie that we have adopted."""
    with contextlib.suppress(OSError):
        os.waitpid(pid, os.WNOHANG)
