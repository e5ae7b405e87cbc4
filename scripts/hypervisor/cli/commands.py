"""The commands that a run would start, as `preflight` lists them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import UsageError
from ..core.model import TaskHead
from ..core.project import Project
from ..core.trust import TrustRecord
from ..orchestrator.commands import WantedCommand, commands_of_run, untrusted
from ..orchestrator.containment import refusal, wanted
from ..orchestrator.options import RunOptions
from .trust import print_commands, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandList:
    """What a run would start, and how."""

    project: Project
    commands: Sequence[WantedCommand]
    #: Those that came with the repository, and were not trusted yet.
    new: Sequence[WantedCommand]
    #: Their keys.
    keys: frozenset[tuple[str, str]]
    #: Whether they run in a sandbox; why not, where they would.
    sandbox: bool
    why: str

    @classmethod
    def of(
        cls, asked: RunOptions, settings: Mapping[str, Any], project: Project, tasks: Sequence[TaskHead]
    ) -> CommandList:
        """Return what a run of *tasks* with these options would start."""
        found = commands_of_run(asked, settings, project, tasks)
        mode = wanted(asked, settings)
        try:
            why = "it is switched off" if mode == "off" else refusal(asked, settings)
        except UsageError as error:
            why = str(error)
        new = untrusted(project, settings, found, TrustRecord.of(project.root, os.environ))
        return cls(project=project, commands=found, new=new, sandbox=not why, why=why,
            keys=frozenset(one.key for one in new),
        )  # fmt: skip

    def _is_new(self, one: WantedCommand) -> bool:
        return bool(one.files) and one.key in self.keys

    def print(self) -> None:
        """Print each command on a line, those that must be trusted first apart from the others."""
        print(f"commands, {'in a sandbox' if self.sandbox else f'WITHOUT a sandbox ({self.why})'}:")
        print_commands([one for one in self.commands if not self._is_new(one)], self.project)
        if self.new:
            print("came with the repository, and have to be trusted first (`hypervisor trust`):")
            print_commands(self.new, self.project)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "sandbox": {"on": self.sandbox, "why": self.why},
            "commands": [
                {**to_json(one, self.project), "sandbox": self.sandbox and one.kind != "setting",
                 "trusted": not self._is_new(one)}
                for one in self.commands
            ],
        }  # fmt: skip
