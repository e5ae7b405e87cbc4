"""Any command: one run an item or a task, never through a shell."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import Unreadable
from ..core.model import Outcome, Report
from ..core.process import WORKER_MARK, end_group, end_orphans, wait_for_end
from ..core.project import state_above
from ..core.settings import load_settings
from ..core.text import last_line, signal_name
from .base import AgentEnd, Assignment, How, ItemWork
from .child import ChildEnd, run_child
from .outputs import begin

#: In the assignment's environment: what takes the place of ``{}``.
ITEM = "HYPERVISOR_ITEM"
#: sysexits.h: "temporary failure; the user is invited to retry".
EX_TEMPFAIL = 75
#: sysexits.h: "configuration error"; here: the item waits for something from outside.
EX_CONFIG = 78
#: How much of the end of the output is looked at for the last line.
_TAIL = 8192


def arguments_for(command: Sequence[str], item: str) -> list[str]:
    """Return program and arguments for *item*, which is appended where no word holds ``{}``."""
    if any("{}" in word for word in command):
        return [word.replace("{}", item) for word in command]
    return [*command, item]


# ----------------------------------------------------------------------- items


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecRunner:
    """Runs a command for each item.

    Exit 0 is success, 75 asks for another attempt, 78 means blocked, and everything else failed.
    The last line of standard output (of standard error, where that is empty) is the outcome, or for 75
    and 78 the reason. Of all other failures it is the last line of standard error, where there is one.
    """

    #: Program and arguments; each ``{}`` stands for the item, which is appended if there is none.
    command: Sequence[str]
    #: Seconds after which the command and all that it started is ended; None for never.
    timeout: float | None = None
    #: Whether a failed command is tried again.
    retry_failures: bool = False
    name: str = "exec"

    def run(self, work: ItemWork) -> Report:
        """Run the command and wait for it."""
        if "\0" in work.item:
            return Report(status=Outcome.FAILED, outcome="the item holds a NUL: no command can be given it")
        with _output(work.log + ".out") as stdout, _output(work.log + ".err") as stderr:
            try:
                process = subprocess.Popen(
                    arguments_for(self.command, work.item),
                    cwd=work.base,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    env={**os.environ, **work.environment, **_task_environment(work)},
                    pass_fds=work.inherit,
                    start_new_session=True,
                )
            except OSError as error:
                report = self._not_started(error)
            else:
                ended_by = self._watch(process, work)
                report = self._report(process.returncode, ended_by, _end_of(stdout), _end_of(stderr))
            return report

    def preview(self, work: ItemWork) -> dict[str, Any]:
        """Return the command that would be run."""
        return {"command": arguments_for(self.command, work.item)}

    def _watch(self, process: subprocess.Popen[bytes], work: ItemWork) -> str:
        """Wait until the command has ended; end it if it must. Return what ended it, "" if itself."""
        how = wait_for_end(process.pid, work.stopped, self.timeout)
        ended_by = f"timed out after {self.timeout:g} s" if how == "timed out" else how
        end_group(process.pid, grace_seconds=5.0 if ended_by else 0.0)
        process.wait()
        if ended_by and work.environment.get(WORKER_MARK):
            end_orphans(work.environment[WORKER_MARK])  # what has left the group (setsid)
        return ended_by

    def _not_started(self, error: OSError) -> Report:
        if error.errno in (errno.E2BIG, errno.ENAMETOOLONG):
            return Report(
                status=Outcome.FAILED, outcome=f"the item is too long for a command: {error.strerror}"
            )
        outcome = f"cannot start {self.command[0]!r}: {error.strerror}"
        # Too many processes, no memory: another moment may be better. A missing program is not.
        retry = error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
        return Report(status=Outcome.FAILED, outcome=outcome, retry=retry)

    def _report(self, code: int, ended_by: str, out: str, err: str) -> Report:
        evidence, word = {"exit": code}, _last_word(code, out, err)
        if ended_by:
            retry = self.retry_failures and ended_by != "stopped"
            return Report(status=Outcome.FAILED, outcome=ended_by, evidence=evidence, retry=retry)
        if code == 0:
            return Report(status=Outcome.SUCCESS, outcome=word or "exit 0", evidence=evidence)
        how = f"exit {code}" if code > 0 else f"killed by signal {-code}"
        outcome = f"{how}: {word}" if word else how
        if code == EX_CONFIG:
            return Report(status=Outcome.BLOCKED, outcome=word or how, evidence=evidence)
        retry = self.retry_failures or code == EX_TEMPFAIL
        return Report(status=Outcome.FAILED, outcome=outcome, evidence=evidence, retry=retry)


def _task_environment(work: ItemWork) -> dict[str, str]:
    if not work.task:
        return {}
    from ..tasks.files import read_task  # noqa: PLC0415 - the YAML loader: only where there is a task

    environment = {"HYPERVISOR_TASK_FILE": work.path}
    with contextlib.suppress(Unreadable):  # the command may still know what to do with it
        settings = load_settings(state_above(Path(work.path).parent))
        environment["HYPERVISOR_TASK_ID"] = read_task(Path(work.path), settings).id
    return environment


@contextlib.contextmanager
def _output(path: str) -> Iterator[int]:
    """Yield a descriptor of the new file *path*, which is taken away again if nothing was written."""
    descriptor = begin(path, os.O_RDWR)  # the command inherits that it is held
    try:
        yield descriptor
        if os.fstat(descriptor).st_size == 0:
            os.unlink(path)
    finally:
        os.close(descriptor)


def _end_of(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return (
        last_line(os.pread(descriptor, _TAIL, max(0, size - _TAIL)).decode("utf-8", "replace"))
        if size
        else ""
    )


# ----------------------------------------------------------------------- tasks


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
        return "unrestricted (exec)"

    @property
    def starts(self) -> Sequence[str]:
        """Its command."""
        return self.command

    def words(self, allowed: Sequence[str] = ()) -> list[str]:  # noqa: ARG002 - nothing is held back by flags
        """Return its command."""
        return list(self.command)

    def run(self, assignment: Assignment) -> AgentEnd:
        """Run the command to its end."""
        said = [b""]

        def hear(line: bytes) -> None:
            if line.strip():
                said[0] = line

        item = assignment.environment.get(ITEM, assignment.task_id)
        end = run_child(arguments_for(self.command, item), assignment, on_line=hear)
        out, err = last_line(said[0].decode("utf-8", "replace")), last_line(end.stderr)
        word = _last_word(end.code or 0, out, err)
        return ended_otherwise(end, assignment, self.command[0]) or AgentEnd(
            how=How.FAILED if end.code else How.ENDED,
            text=_text(end.code or 0, word),
            exit=end.code,
            survivors=end.survivors,
        )


def _last_word(code: int, out: str, err: str) -> str:
    """Return what a command said last where its exit code sends people to look: errors for a failure."""
    return out or err if code in (0, EX_TEMPFAIL, EX_CONFIG) else err or out


def _text(code: int, word: str) -> str:
    if code in (0, EX_TEMPFAIL, EX_CONFIG):
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
