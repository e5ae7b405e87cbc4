"""An agent that is any command: one task, one run, never through a shell."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from .agent import AgentEnd, Assignment, How
from .child import ChildEnd, run_child
from .program import last_line

#: In the assignment's environment: what takes the place of ``{}``.
ITEM = "HYPERVISOR_ITEM"
#: sysexits.h: "configuration error"; here the task waits for something from outside, which it names.
_EX_TEMPFAIL, _EX_CONFIG = 75, 78


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandAgent:
    """Runs a command for each task.

    Exit 0 is an end of its own. All else failed; whoever looks at `AgentEnd.exit` can tell 75 (another
    attempt may help) and 78 (the task is blocked, and the text says on what).
    """

    #: Program and arguments; each ``{}`` stands for the item, which is appended if there is none.
    command: Sequence[str]
    name: str = "exec"
    briefing: Sequence[str] = ("worker.md",)

    @property
    def permissions(self) -> str:
        """Nobody restrains a command."""
        return "may do whatever its command does"

    def run(self, assignment: Assignment) -> AgentEnd:
        """Run the command to its end."""
        said = [b""]

        def hear(line: bytes) -> None:
            if line.strip():
                said[0] = line

        end = run_child(self.arguments(assignment), assignment, on_line=hear)
        word = last_line(said[0].decode("utf-8", "replace")) or last_line(end.stderr)
        return ended_otherwise(end, assignment, self.command[0]) or AgentEnd(
            how=How.FAILED if end.code else How.ENDED,
            text=_text(end.code or 0, word),
            exit=end.code,
            survivors=end.survivors,
        )

    def arguments(self, assignment: Assignment) -> list[str]:
        """Return program and arguments for the assignment's item, which is the task's id if none is told."""
        item = assignment.environment.get(ITEM, assignment.task_id)
        if any("{}" in word for word in self.command):
            return [word.replace("{}", item) for word in self.command]
        return [*self.command, item]


def _text(code: int, word: str) -> str:
    if code in (0, _EX_TEMPFAIL, _EX_CONFIG):
        return word or f"exit {code}"
    return f"exit {code}: {word}" if word else f"exit {code}"


def ended_otherwise(end: ChildEnd, assignment: Assignment, program: str) -> AgentEnd | None:
    """Return the end of a program that was not started, or that was ended by a signal; None for others."""
    if end.not_started:
        error = end.not_started
        return AgentEnd(how=_not_started(error, assignment, program), text=_why(error, program))
    if end.ended_by == "stopped":
        how, text = How.STOPPED, "stopped"
    elif end.ended_by:
        how, text = How.TIMEOUT, f"timed out after {assignment.timeout:g} s"
    elif end.code is not None and end.code < 0:
        how, text = How.KILLED, f"killed by signal {signal_name(-end.code)}"
    else:
        return None
    return AgentEnd(how=how, text=text, exit=end.code, survivors=end.survivors)


def _not_started(error: OSError, assignment: Assignment, program: str) -> How:
    # A working folder that is gone gives the same error as a missing program, but is one task's fault.
    missing = error.errno in (errno.ENOENT, errno.EACCES, errno.ENOTDIR)
    usable = os.path.isdir(assignment.cwd) and os.access(assignment.cwd, os.X_OK)
    return How.MISSING if missing and usable and program else How.FAILED


def _why(error: OSError, program: str) -> str:
    where = f" ({error.filename})" if error.filename and error.filename != program else ""
    return f"cannot start {program!r}: {error.strerror}{where}"


def signal_name(number: int) -> str:
    """Return a signal's number with its name, where it has one."""
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)
