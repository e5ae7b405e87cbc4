"""The task that a coordinator has started this agent for: it is claimed already, and reports are awaited.

Such an agent ends no claim. What it says goes into a file, and the coordinator, which holds the claim,
decides from evidence how the task ended.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .errors import Refused

#: Names in the agent's environment; none holds KEY, TOKEN or AUTH, which clients filter.
TASK, ATTEMPT, REPORT = "HYPERVISOR_TASK_ID", "HYPERVISOR_ATTEMPT", "HYPERVISOR_REPORT"
#: Its batch, and the branch of the hive that it shares.
BATCH, BRANCH = "HYPERVISOR_BATCH", "HYPERVISOR_BRANCH"

ReportKind = Literal["done", "blocked", "released"]


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

    def report(self, kind: ReportKind, **said: str) -> None:
        """Write the report. A later one replaces an earlier one; each is whole."""
        path = Path(self.report_path)
        draft = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}")
        known = {key: value for key, value in said.items() if value}
        draft.write_text(json.dumps({"kind": kind, **known}, ensure_ascii=False), "utf-8", "replace")
        os.replace(draft, path)


def read_report(path: str) -> Mapping[str, Any] | None:
    """Return what an agent has reported, None if there is nothing that can be read."""
    try:
        data = json.loads(Path(path).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return data if isinstance(data, dict) and data.get("kind") in ("done", "blocked", "released") else None
