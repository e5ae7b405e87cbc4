"""The processes of this machine, which of them belong to which agent, and signals that meet the right one.

The table is read from ``/proc`` on Linux, and by psutil elsewhere: of 150 processes psutil needs 19 ms of CPU
for a look and this 3, and its start times move when the clock is set.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from ..core.process import LINUX, Moment, pids_since, start_time

#: prctl(2): orphans below us become our children, and not those of init.
_SET_CHILD_SUBREAPER = 36
#: In the environment of all that a coordinator starts; its value tells nothing.
OURS = "HYPERVISOR_COORDINATOR"
#: The marks of all agents that somebody is within, separated by blanks: agents may run agents.
WITHIN = "HYPERVISOR_WITHIN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One row of the table."""

    pid: int
    parent: int
    #: The pid of the leader of its session.
    session: int
    #: When it started, as `start_time` of core tells it, and the same in seconds, on `process_clock`.
    start: str
    order: float
    #: CPU time of its own and of the children that it has waited for, in seconds.
    cpu_seconds: float = 0.0
    #: Resident memory, in bytes; pages that it shares with others count in full.
    rss: int = 0
    zombie: bool = False


Table: TypeAlias = Mapping[int, Process]
#: Returns the environment that a process was started with; None if it may not be read.
Environment: TypeAlias = Callable[[int], "list[bytes] | None"]


def processes(since: Moment | None = None) -> dict[int, Process]:
    """Return all processes that can be seen, by their pids; with *since*, only those that count.

    Those are what can have been started since then, and this process.
    """
    if not LINUX:
        return _from_psutil()
    return _from_proc({*pids_since(since), os.getpid()})


def _from_proc(pids: Iterable[int]) -> dict[int, Process]:
    found = {}
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    for pid in pids:
        try:
            descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
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
        found[pid] = Process(
            pid=pid, parent=int(words[1]), session=int(words[3]),
            start=words[19].decode(), order=int(words[19]) / tick,
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


# ------------------------------------------------------- whose a process is, pure


class ProcessTree:
    """Sorts processes by agent, look by look: also after setsid, a double fork, or a wiped environment.

    A process belongs to an agent if its parent does, or its session did, or its environment bears the agent's
    mark. What was once known to belong stays so, whatever becomes of its parents. Only what descends from
    this process is ever looked at, where the system lets us adopt orphans: nothing else can be ours.

    Args:
        own: The pid of this process.
        environment: How to read another's environment.
        adopts: Whether orphans below us become our children.
    """

    def __init__(self, own: int, environment: Environment, *, adopts: bool) -> None:
        self._own, self._environment, self._adopts = own, environment, adopts
        #: By pid and start; each the mark of an agent.
        self._known: dict[tuple[int, str], str] = {}
        self._sessions: dict[int, str] = {}

    def look(self, table: Table, marks: Mapping[str, float]) -> dict[str, list[Process]]:
        """Return the living processes of each agent.

        Args:
            table: All processes.
            marks: The marks of the agents, each with the least `Process.order` of what can be its.
        """
        self._known = {
            key: mark
            for key, mark in self._known.items()
            if key[0] in table and table[key[0]].start == key[1] and mark in marks
        }
        found: dict[str, list[Process]] = {mark: [] for mark in marks}
        if marks:
            least = min(marks.values())
            # Parents first: a child never starts before its parent, but may have the lower number.
            for process in sorted(table.values(), key=lambda one: (one.order, one.pid)):
                if process.order < least or process.pid == self._own:
                    continue
                mark = self._mark_of(process, table, marks)
                if mark:
                    self._known[process.pid, process.start] = mark
                    if not process.zombie:
                        found[mark].append(process)
        own = table[self._own].session if self._own in table else 0
        self._sessions = {
            one.session: mark for mark, some in found.items() for one in some if one.session != own
        }
        return found

    def strays(self, table: Table, marks: Mapping[str, float], leaving: str) -> list[Process]:
        """Return orphans that some agent has left and wiped clean, if that can only have been *leaving*.

        All that we start ourselves bears our variable, so that an orphan of ours without it was begun by
        an agent. It is told only where no other agent that runs could have begun it.
        """
        if not self._adopts:
            return []
        others = [least for mark, least in marks.items() if mark != leaving]
        # Whatever we start but agents is of our session; no agent's child can ever come back to it.
        ours = table[self._own].session if self._own in table else 0
        return [
            one
            for one in table.values()
            if one.parent == self._own and not one.zombie
            and one.session != ours and one.order >= marks[leaving]
            and (one.pid, one.start) not in self._known
            and not any(one.order >= least for least in others)
            and self._is_wiped(one.pid)
        ]  # fmt: skip

    # ---------------------------------------------------------------- details

    def _mark_of(self, process: Process, table: Table, marks: Mapping[str, float]) -> str:
        known = self._known.get((process.pid, process.start))
        if known:
            return known
        parent = table.get(process.parent)
        if parent is not None and parent.pid != self._own and parent.order <= process.order:
            mark = self._known.get((parent.pid, parent.start), "")
            if mark:
                return mark
        mark = self._sessions.get(process.session, "")
        if mark in marks and process.order >= marks[mark]:
            return mark
        if self._adopts and not self._descends(process, table):
            return ""
        return self._marked(process.pid, marks)

    def _descends(self, process: Process, table: Table) -> bool:
        seen = 0
        one: Process | None = process
        while one is not None and one.pid > 1 and seen < len(table):
            if one.parent == self._own:
                return True
            one, seen = table.get(one.parent), seen + 1
        return False

    def _marked(self, pid: int, marks: Mapping[str, float]) -> str:
        for entry in self._environment(pid) or ():
            name, _, value = entry.decode("utf-8", "replace").partition("=")
            # The outermost that is ours: what an agent's own agents start is the agent's.
            if name == WITHIN:
                return next((mark for mark in value.split() if mark in marks), "")
        return ""

    def _is_wiped(self, pid: int) -> bool:
        environment = self._environment(pid)
        if environment is None:
            return False
        # A program that shows a title of its own writes it over its environment: that is no environment.
        if any(b"=" not in entry for entry in environment):
            return False
        return not any(entry.startswith(OURS.encode() + b"=") for entry in environment)
