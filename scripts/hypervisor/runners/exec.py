"""The `exec` runner: one command an item, never through a shell."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import load
from ..errors import Unreadable
from ..machine import WORKER_MARK, end_group, end_orphans
from ..model import Outcome, Report
from ..paths import state_above
from .port import Work

#: sysexits.h: "temporary failure; the user is invited to retry".
EX_TEMPFAIL = 75
#: sysexits.h: "configuration error"; here: the item waits for something from outside.
EX_CONFIG = 78
#: How much of the end of the output is looked at for the last line.
_TAIL = 8192
#: How often a running command is looked at, in seconds; short at first, for short commands.
_FIRST_POLL, _LAST_POLL = 0.001, 0.1


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
        os.makedirs(os.path.dirname(work.log), exist_ok=True)
        out, err = work.log + ".out", work.log + ".err"
        with open(out, "wb") as stdout, open(err, "wb") as stderr:
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
                report = self._report(process.returncode, ended_by, _last_line(out) or _last_line(err))
        for path in (out, err):
            if os.path.getsize(path) == 0:
                os.unlink(path)
        return report

    def arguments(self, item: str) -> list[str]:
        """Return program and arguments for *item*."""
        if any("{}" in word for word in self.command):
            return [word.replace("{}", item) for word in self.command]
        return [*self.command, item]

    def _watch(self, process: subprocess.Popen[bytes], work: Work) -> str:
        """Wait until the command has ended; end it if it must. Return what ended it, "" if itself."""
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        pause, ended_by = _FIRST_POLL, ""
        # WNOWAIT: the leader stays a zombie until its group is ended, so that the group's number
        # cannot be given to somebody else's processes meanwhile.
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if work.stopped.wait(pause):
                ended_by = "stopped"
            elif deadline is not None and time.monotonic() > deadline:
                ended_by = f"timed out after {self.timeout:g} s"
            if ended_by:
                break
            pause = min(pause * 2, _LAST_POLL)
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
    from ..tasks import read_task  # noqa: PLC0415 - the YAML loader: only where there is a task

    environment = {"HYPERVISOR_TASK_FILE": work.path}
    with contextlib.suppress(Unreadable):  # the command may still know what to do with it
        settings = load(state_above(Path(work.path).parent))
        environment["HYPERVISOR_TASK_ID"] = read_task(Path(work.path), settings).id
    return environment


def _last_line(path: str) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - _TAIL))
        lines = file.read().decode("utf-8", "replace").split("\n")
    full = [line.strip() for line in lines if line.strip()]
    return full[-1][:500] if full else ""
