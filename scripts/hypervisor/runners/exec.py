"""The `exec` runner: one command an item, never through a shell."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import Unreadable
from ..core.model import Outcome, Report
from ..core.process import WORKER_MARK, end_group, end_orphans
from ..core.project import state_above
from ..core.settings import load_settings
from .outputs import begin
from .port import Work
from .program import last_line, wait_for_end

#: sysexits.h: "temporary failure; the user is invited to retry".
EX_TEMPFAIL = 75
#: sysexits.h: "configuration error"; here: the item waits for something from outside.
EX_CONFIG = 78
#: How much of the end of the output is looked at for the last line.
_TAIL = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecRunner:
    """Runs a command for each item.

    Exit 0 is success, 75 asks for another attempt, 78 means blocked, and everything else failed.
    The last line of standard output (of standard error, where that is empty) is the outcome, or
    the reason.
    """

    #: Program and arguments; each ``{}`` stands for the item, which is appended if there is none.
    command: Sequence[str]
    #: Seconds after which the command and all that it started is ended; None for never.
    timeout: float | None = None
    #: Whether a failed command is tried again.
    retry_failures: bool = False
    name: str = "exec"

    def run(self, work: Work) -> Report:
        """Run the command and wait for it."""
        if "\0" in work.item:
            return Report(status=Outcome.FAILED, outcome="the item holds a NUL: no command can be given it")
        with _output(work.log + ".out") as stdout, _output(work.log + ".err") as stderr:
            try:
                process = subprocess.Popen(
                    self.arguments(work.item),
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
                report = self._report(process.returncode, ended_by, _last_line(stdout) or _last_line(stderr))
            return report

    def arguments(self, item: str) -> list[str]:
        """Return program and arguments for *item*."""
        if any("{}" in word for word in self.command):
            return [word.replace("{}", item) for word in self.command]
        return [*self.command, item]

    def _watch(self, process: subprocess.Popen[bytes], work: Work) -> str:
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

    def _report(self, code: int, ended_by: str, last_line: str) -> Report:
        evidence = {"exit": code}
        if ended_by:
            retry = self.retry_failures and ended_by != "stopped"
            return Report(status=Outcome.FAILED, outcome=ended_by, evidence=evidence, retry=retry)
        if code == 0:
            return Report(status=Outcome.SUCCESS, outcome=last_line or "exit 0", evidence=evidence)
        how = f"exit {code}" if code > 0 else f"killed by signal {-code}"
        outcome = f"{how}: {last_line}" if last_line else how
        if code == EX_CONFIG:
            return Report(status=Outcome.BLOCKED, outcome=last_line or how, evidence=evidence)
        retry = self.retry_failures or code == EX_TEMPFAIL
        return Report(status=Outcome.FAILED, outcome=outcome, evidence=evidence, retry=retry)


def _task_environment(work: Work) -> dict[str, str]:
    if not work.task:
        return {}
    from ..tasks.tasks import read_task  # noqa: PLC0415 - the YAML loader: only where there is a task

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


def _last_line(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return (
        last_line(os.pread(descriptor, _TAIL, max(0, size - _TAIL)).decode("utf-8", "replace"))
        if size
        else ""
    )
