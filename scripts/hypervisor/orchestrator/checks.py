"""Commands that say whether work is good: a task's `verify`, and those run on what was merged.

They run what an agent has left, so they are run like one: in the sandbox, under the overseer, with a limit on
time and on output, and what they leave behind is ended.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.model import Task
from ..monitor.monitor import ResourceMonitor
from ..monitor.processes import OURS, WITHIN
from ..runners.base import Assignment
from ..runners.child import ChildEnd, run_child
from ..runners.pump import LINE_BYTES
from .containment import Containment
from .prompt import RUN_MARK
from .verdict import Failed, Passed

#: Bytes of each of its outputs that are kept, and characters of the line that is told.
_KEPT, _LINE = 16 * 2**20, 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """Runs checks."""

    #: Seconds that one may take.
    seconds: float
    #: Makes their sandboxes; None for none.
    containment: Containment | None = None
    #: Holds them to the limits of an agent; None where no run is at work.
    monitor: ResourceMonitor | None = None
    #: Set when all of them must end at once.
    stopped: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def of(cls, settings: Mapping[str, Any], containment: Containment | None = None) -> Checks:
        """Return what runs checks outside of a run."""
        return cls(seconds=settings["run"]["verify_seconds"], containment=containment)

    def verify(self, task: Task, folder: Path, log: str = "") -> Passed | Failed | None:
        """Run a task's `verify` command in *folder*; None if it names none. See `run`."""
        return self.run(task.verify, folder, log) if task.verify else None

    def run(self, command: str, folder: Path, log: str = "") -> Passed | Failed:
        """Run a command that says whether work is good.

        Args:
            command: A line for ``sh``.
            folder: The project's folder in the checkout that it is about.
            log: Where its output is kept: this path with ``.verify.out`` and ``.verify.err``; "" for nowhere.
        """
        begun, said = time.monotonic(), [b""]

        def hear(line: bytes) -> None:
            if line.strip():
                said[0] = line

        with contextlib.ExitStack() as held:
            place = f"{log}.verify" if log else f"{held.enter_context(tempfile.TemporaryDirectory())}/verify"
            name = f"{os.path.basename(log) or 'merged'}-{threading.get_ident()}.verify"
            mark = f"{os.path.basename(os.path.dirname(place))}/{name}"
            within = f"{os.environ.get(WITHIN, '')} {mark}".strip()
            sandbox = None
            if self.containment is not None:
                sandbox = held.enter_context(self.containment.around(name, folder, ("sh",)))
            assignment = Assignment(
                task_id=name, prompt="", cwd=str(folder), log=place, mark=(RUN_MARK, mark), sandbox=sandbox,
                environment={**os.environ, OURS: "1", WITHIN: within}, timeout=self.seconds, most_bytes=_KEPT,
                stopped=threading.Event() if self.monitor else self.stopped,
            )  # fmt: skip
            watched = self.monitor and self.monitor.attend(mark, name, 0, place, assignment.stopped)
            try:
                end = run_child(["sh", "-c", command], assignment, on_line=hear)
            finally:
                if self.monitor and watched:
                    self.monitor.leave(watched)
            if not said[0] and _size(f"{place}.out") > LINE_BYTES:
                said[0] = b"a line that is too long to show"
        if watched and watched.act is not None:
            return Failed(command=command, code=None, line=watched.act.why)
        if end.code == 0 and not end.ended_by:
            return Passed(command=command, seconds=round(time.monotonic() - begun, 3))
        return self._failed(command, end, said[0])

    def _failed(self, command: str, end: ChildEnd, said: bytes) -> Failed:
        if end.not_started:
            return Failed(command=command, code=None, line=f"cannot be started: {end.not_started.strerror}")
        if end.ended_by == "timed out":
            return Failed(command=command, code=None, line=f"did not end within {self.seconds:g} s")
        if end.ended_by:
            return Failed(command=command, code=None, line="was stopped")
        lines = end.stderr.strip().splitlines()
        line = lines[-1] if lines else said.decode("utf-8", "replace").strip()
        return Failed(command=command, code=end.code, line=line[:_LINE])


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
