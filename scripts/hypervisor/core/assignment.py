"""The task that a coordinator has started this agent for: it is claimed already, and reports are awaited.

Such an agent ends no claim. What it says goes into a file whose name only its own environment has, and the
coordinator, which holds the claim, decides from evidence how the task ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from .errors import Refused

#: Names in the agent's environment; none holds KEY, TOKEN or AUTH, which clients filter.
TASK, ATTEMPT, REPORT = "HYPERVISOR_TASK_ID", "HYPERVISOR_ATTEMPT", "HYPERVISOR_REPORT"
#: Its batch, and the branch of the hive that it shares.
BATCH, BRANCH = "HYPERVISOR_BATCH", "HYPERVISOR_BRANCH"

#: Bytes of a report at most.
_LARGEST = 1 << 20

ReportKind = Literal["done", "blocked", "released", "asked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignedTask:
    """One task, held for this agent by its coordinator."""

    task: str
    #: The number of the coordinator's attempt.
    attempt: int
    #: The file that the report goes to.
    report_path: str

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> AssignedTask | None:
        """Return the task that an environment assigns, None if it assigns none."""
        task, attempt, report = environ.get(TASK), environ.get(ATTEMPT, ""), environ.get(REPORT)
        if not task or not report or not attempt.isdecimal():
            return None
        return cls(task=task, attempt=int(attempt), report_path=report)

    def require(self, task: str) -> None:
        """Raise unless *task* is the one that this agent was started for.

        Raises:
            Refused: It is another one.
        """
        if task.lower() != self.task.lower():
            raise Refused(f"you were started for {self.task} alone; {task} is not yours")

    def report(self, kind: ReportKind, **said: str | Sequence[str]) -> None:
        """Write the report. A later one replaces an earlier one; each is whole."""
        path = Path(self.report_path)
        draft = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}")
        known = {key: value for key, value in said.items() if value}
        draft.write_text(json.dumps({"kind": kind, **known}, ensure_ascii=False), "utf-8", "replace")
        os.replace(draft, path)


def take_report(path: str) -> Mapping[str, Any] | None:
    """Return what an agent has reported, and delete it; None if there is nothing that can be read.

    It is some lines in a regular file. What is a link, a pipe or a folder, or is longer, is no report.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        raw = b""
        if stat.S_ISREG(os.fstat(descriptor).st_mode):  # else, `open` has an error of its own for a folder
            with open(descriptor, "rb", closefd=False) as file:
                raw = file.read(_LARGEST + 1)
    finally:
        os.close(descriptor)
    with contextlib.suppress(OSError):
        os.unlink(path)
    try:
        data = json.loads(raw) if len(raw) <= _LARGEST else None
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) and data.get("kind") in get_args(ReportKind) else None
