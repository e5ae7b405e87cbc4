"""What an agent knows that a coordinator has started: its task is claimed, and reports are awaited.

Such an agent ends no claim. What it says goes into a file, and the coordinator, who holds the claim,
decides from evidence what came of the task.
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
TASK, GENERATION, REPORT = "HYPERVISOR_TASK_ID", "HYPERVISOR_GENERATION", "HYPERVISOR_REPORT"
#: Its batch, and the branch of the hive that it shares.
BATCH, BRANCH = "HYPERVISOR_BATCH", "HYPERVISOR_BRANCH"

Kind = Literal["done", "blocked", "released"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commission:
    """One task, held for this agent by its coordinator."""

    task: str
    #: The generation of the coordinator's claim.
    generation: int
    #: The file that the report goes to.
    report: str

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Commission | None:
        """Return the commission that an environment tells of, None if it tells of none."""
        task, generation, report = environ.get(TASK), environ.get(GENERATION, ""), environ.get(REPORT)
        if not task or not report or not generation.isdecimal():
            return None
        return cls(task=task, generation=int(generation), report=report)

    def must_be(self, task: str) -> None:
        """Hold that *task* is the one that this agent was started for.

        Raises:
            Refused: It is another one.
        """
        if task.lower() != self.task.lower():
            raise Refused(f"you were started for {self.task} alone; {task} is not yours")

    def tell(self, kind: Kind, **said: str) -> None:
        """Report; a later report takes the place of an earlier one, and each is whole."""
        path = Path(self.report)
        draft = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}")
        known = {key: value for key, value in said.items() if value}
        draft.write_text(json.dumps({"kind": kind, **known}, ensure_ascii=False), "utf-8", "replace")
        os.replace(draft, path)


def read_report(path: str) -> Mapping[str, Any] | None:
    """Return what an agent has reported, None if nothing that can be read."""
    try:
        data = json.loads(Path(path).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return data if isinstance(data, dict) and data.get("kind") in ("done", "blocked", "released") else None
