"""Runs one program for an agent: what it is told, what it says, and the end of all that it started.

A program may flood its output, never read its input, leave children behind, or give them its pipes. None
of that may hold up the caller, fill its memory, or outlive the call.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.process import (
    LINUX,
    EndedBy,
    end_group,
    end_marked,
    marked,
    start_time,
    this_moment,
    wait_for_end,
)
from ..monitor.processes import adopt_orphans
from .base import Assignment, Usage
from .pump import LINE_BYTES, PART_BYTES, Input, OnLine, Pump, Sink

#: Seconds that a tree has to end by itself: when we end it (a client tells its hooks of its end, which
#: takes up to 1.5 s), and when its leader has ended already.
_GRACE_ENDED, _GRACE_LEFT = 5.0, 1.0
#: Exit codes of a sandbox whose program died of a signal; no other, as programs have codes above 128 as well.
_DIED = {
    128 + number: -number
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGILL, signal.SIGABRT, signal.SIGBUS,
                   signal.SIGFPE, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE, signal.SIGTERM,
                   signal.SIGXCPU) }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildEnd:
    """How the program ended."""

    #: Exit code, negative for a signal; None if it was not started.
    code: int | None = None
    #: What made us end it; "" if it came to its own end.
    ended_by: EndedBy = ""
    #: What was still running after it had ended by itself, and was ended then.
    survivors: tuple[int, ...] = ()
    not_started: OSError | None = None
    #: The end of what it said on standard error.
    stderr: str = ""
    #: What went wrong in keeping its output, which changes nothing in its end; "" if nothing did.
    trouble: str = ""


def run_child(
    words: Sequence[str],
    assignment: Assignment,
    *,
    on_line: OnLine | None = None,
    part_bytes: int = PART_BYTES,
    line_bytes: int = LINE_BYTES,
    talk: Input | None = None,
) -> ChildEnd:
    """Run *words* to their end, and end all that they started.

    Standard output is kept in ``LOG.out``, then ``LOG.out.1`` ... of *part_bytes* each, standard error
    likewise in ``LOG.err``. Each line of at most *line_bytes* on standard output is given to *on_line*,
    without its newline, in another thread than the caller's. Its input is the assignment's prompt, then what
    *talk* is told until that is closed.

    A process is found by the assignment's mark in its environment. One that has wiped its environment
    *and* left the process group is not found; in a sandbox on Linux nothing is left in any case.
    """
    if assignment.stopped.is_set():
        return ChildEnd(ended_by="stopped")
    out = Sink(assignment.log + ".out", part_bytes, on_line, line_bytes, assignment.most_bytes)
    err = Sink(assignment.log + ".err", part_bytes, most_bytes=assignment.most_bytes)
    moment = this_moment()
    with contextlib.ExitStack() as held:
        try:
            process, namespace = _start(words, assignment, held)
        except OSError as error:
            return ChildEnd(not_started=error)
        except ValueError as error:  # a NUL in a word or in the environment
            return ChildEnd(not_started=OSError(errno.EINVAL, str(error)))
        pump = Pump(process, assignment.prompt.encode("utf-8", "replace"), out, err, talk)
        ended_by: EndedBy = "stopped"  # as it is for an exception, such as Ctrl-C
        survivors: tuple[int, ...] = ()
        try:
            ended_by = wait_for_end(process.pid, assignment.stopped, assignment.timeout)
            if not ended_by and namespace is None:
                survivors = tuple(one.pid for one in marked(*assignment.mark, since=moment))
        finally:
            if namespace is not None and ended_by:
                namespace.ask_to_end(_GRACE_ENDED)
            grace = 0.0 if namespace is not None else _GRACE_ENDED if ended_by else _GRACE_LEFT
            end_group(process.pid, grace, since=moment)
            _reap(process, assignment.usage)
            if namespace is not None:
                _add(assignment.usage, namespace.wait())
            else:
                end_marked(*assignment.mark, since=moment)
            pump.finish()
        code, stderr = process.returncode, bytes(err.tail).decode("utf-8", "replace")
        if namespace is not None and not ended_by:
            if not namespace.started:
                return ChildEnd(not_started=_fault(stderr))
            code = _DIED.get(code, code)
        return ChildEnd(
            code=code,
            ended_by=ended_by,
            survivors=survivors,
            stderr=stderr,
            trouble=out.trouble or err.trouble,
        )


def _start(
    words: Sequence[str], assignment: Assignment, held: contextlib.ExitStack
) -> tuple[subprocess.Popen[bytes], _Namespace | None]:
    sandbox, environment, inherit = assignment.sandbox, assignment.environment, assignment.inherit
    namespace = None
    if sandbox is not None:
        sandbox.make()
        status = -1
        if LINUX:
            namespace = _Namespace(held)
            status = namespace.writes
        words, environment = sandbox.wrap(words, assignment.cwd, status), sandbox.variables(environment)
        # Not our lock's descriptor: whoever has it can let go of the lock. It dies with us in any case.
        inherit = (status,) if LINUX else ()
    process = subprocess.Popen(
        words,
        cwd=assignment.cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**environment, assignment.mark[0]: assignment.mark[1]},
        pass_fds=inherit,
        start_new_session=True,
        bufsize=0,
    )
    if namespace is not None:
        os.close(namespace.writes)
    return process, namespace


def _fault(stderr: str) -> OSError:
    """Return why a sandbox did not start its program."""
    last = stderr.strip().rpartition("\n")[2].removeprefix("bwrap: ")
    missing = last.startswith("execvp") and "No such file" in last
    return OSError(errno.ENOENT if missing else errno.EPERM, f"no sandbox: {last[:300]}")


class _Namespace:
    """The processes of a sandbox on Linux: the kernel ends all of them with their first.

    Args:
        held: What is closed at the end.
    """

    def __init__(self, held: contextlib.ExitStack) -> None:
        adopt_orphans()  # so that the first of them is ours to wait for, once bwrap has ended
        #: Where bwrap tells of it, for it to inherit; and where that is read.
        self._reads, self.writes = os.pipe()
        os.set_blocking(self._reads, False)
        held.callback(os.close, self._reads)
        self._told = b""

    def _status(self, key: str) -> int | None:
        """Return what bwrap has told under *key*, None if it did not."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._reads, 4096):
                self._told += chunk
        found = re.search(rb'"%s"\s*:\s*(\d+)' % key.encode(), self._told)
        return int(found[1]) if found else None

    @property
    def started(self) -> bool:
        """Whether the program was started, once bwrap has ended."""
        return self._status("exit-code") is not None

    def ask_to_end(self, seconds: float) -> None:
        """Send TERM to all processes but the first, and wait until they are gone, or so long."""
        first = self._status("child-pid")
        if first is None:
            return
        deadline = time.monotonic() + seconds
        asked: set[int] = set()
        while (children := _children(first)) and time.monotonic() < deadline:
            for pid in children:
                if pid not in asked:  # the program leads a group of its own; what it left behind may as well
                    asked.add(pid)
                    with contextlib.suppress(OSError):
                        os.killpg(os.getpgid(pid), signal.SIGTERM)
            time.sleep(0.02)

    def wait(self) -> resource.struct_rusage | None:
        """Wait until nothing runs in there any more; return what all of it used, None if unknown."""
        first = self._status("child-pid")
        if first is None:
            return None
        with contextlib.suppress(OSError):
            os.kill(
                first, signal.SIGKILL
            )  # it dies with its parent; not by a change of parents at that moment
        try:
            return os.wait4(first, 0)[2]  # it is ours now, where orphans are
        except ChildProcessError:
            deadline = time.monotonic() + _GRACE_ENDED
            while start_time(first) and time.monotonic() < deadline:
                time.sleep(0.002)
            return None


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(one) for one in file.read().split()]
    except OSError:
        return []


def _add(usage: Usage, used: resource.struct_rusage | None) -> None:
    if used is not None:
        usage.cpu_seconds = (usage.cpu_seconds or 0.0) + used.ru_utime + used.ru_stime
        usage.ram_mb = max(usage.ram_mb or 0.0, used.ru_maxrss / 2**10)


def _reap(process: subprocess.Popen[bytes], usage: Usage) -> None:
    """Wait for the end of *process*, and note what it used."""
    try:
        _, status, used = os.wait4(process.pid, 0)
    except ChildProcessError:  # somebody else has
        process.wait()
        return
    process.returncode = os.waitstatus_to_exitcode(status)
    usage.cpu_seconds = used.ru_utime + used.ru_stime
    usage.ram_mb = used.ru_maxrss / (2**10 if LINUX else 2**20)  # kilobytes there, bytes on macOS
