"""Runs one program for an agent: what it is told, what it says, and the end of all that it started.

A program may flood its output, never read its input, leave children behind, or give them its pipes. None
of that may hold up the caller, fill its memory, or outlive the call.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.process import LINUX, EndedBy, end_group, end_marked, marked, this_moment, wait_for_end
from .base import Assignment, Usage
from .pump import LINE_BYTES, PART_BYTES, OnLine, Pump, Sink

#: Seconds that a tree has to end by itself: when we end it (a client tells its hooks of its end, which
#: takes up to 1.5 s), and when its leader has ended already.
_GRACE_ENDED, _GRACE_LEFT = 5.0, 1.0


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
) -> ChildEnd:
    """Run *words* to their end, and end all that they started.

    Standard output is kept in ``LOG.out``, then ``LOG.out.1`` ... of *part_bytes* each, standard error
    likewise in ``LOG.err``. Each line of at most *line_bytes* on standard output is given to *on_line*,
    without its newline, in another thread than the caller's.

    A process is found by the assignment's mark in its environment. One that has wiped its environment
    *and* left the process group is not found.
    """
    if assignment.stopped.is_set():
        return ChildEnd(ended_by="stopped")
    out = Sink(assignment.log + ".out", part_bytes, on_line, line_bytes)
    err = Sink(assignment.log + ".err", part_bytes)
    moment = this_moment()
    try:
        process = subprocess.Popen(
            words,
            cwd=assignment.cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**assignment.environment, assignment.mark[0]: assignment.mark[1]},
            pass_fds=assignment.inherit,
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        return ChildEnd(not_started=error)
    except ValueError as error:  # a NUL in a word or in the environment
        return ChildEnd(not_started=OSError(errno.EINVAL, str(error)))
    pump = Pump(process, assignment.prompt.encode("utf-8", "replace"), out, err)
    ended_by: EndedBy = "stopped"  # as it is for an exception, such as Ctrl-C
    survivors: tuple[int, ...] = ()
    try:
        ended_by = wait_for_end(process.pid, assignment.stopped, assignment.timeout)
        if not ended_by:
            survivors = tuple(one.pid for one in marked(*assignment.mark, since=moment))
    finally:
        end_group(process.pid, _GRACE_ENDED if ended_by else _GRACE_LEFT, since=moment)
        _reap(process, assignment.usage)
        end_marked(*assignment.mark, since=moment)
        pump.finish()
    return ChildEnd(
        code=process.returncode,
        ended_by=ended_by,
        survivors=survivors,
        stderr=bytes(err.tail).decode("utf-8", "replace"),
        trouble=out.trouble or err.trouble,
    )


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
