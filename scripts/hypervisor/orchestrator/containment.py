"""The sandboxes of a run: what its agents, and the commands that check their work, find in theirs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core.bootstrap import RELAY
from ..core.errors import ConfigError, UsageError
from ..core.files import remove_tree
from ..core.process import LINUX
from ..core.project import Project
from ..git.repository import Repository
from ..runners.base import Assignment
from ..runners.sandbox import RELAYED, Sandbox, expanded, fault, of_program
from .options import SANDBOX, RunOptions
from .relay import Relay

#: Stands for ``--sandbox`` where that is not typed: of one shell, or of a container that is one itself.
VARIABLE = "HYPERVISOR_SANDBOX"
#: The product itself, whose prompts, server and hooks agents use.
_PLUGIN = str(Path(__file__).resolve().parents[3])


@dataclass(frozen=True, slots=True, kw_only=True)
class Containment:
    """Makes the sandboxes of one batch."""

    project: Project
    #: None where agents work without git.
    repository: Repository | None
    isolation: str
    #: Folder in which each start has one of its own while it lasts.
    folder: str
    #: The table ``[sandbox]`` of the settings.
    settings: Mapping[str, Any]

    @contextlib.contextmanager
    def around(self, name: str, place: Path, words: Sequence[str], relay: str = "") -> Iterator[Sandbox]:
        """Yield the sandbox of one start; its own folders are removed at the end.

        Args:
            name: Of the start, one of a kind within the batch.
            place: The project's folder in the checkout that it works in, all of which is writable.
            words: What is started: a program, and its arguments as far as they name files of the machine's.
            relay: The socket on which the coordinator answers it; "" for none.
        """
        home = os.path.realpath(os.path.expanduser("~"))
        scratch = os.path.join(self.folder, name)
        remove_tree(Path(scratch))
        base, path = str(self.project.root), os.environ.get("PATH", os.defpath)
        top = str(self.repository.top) if self.repository else base
        programs = [os.path.abspath(one) for one in path.split(os.pathsep) if one]
        readable = [top, base, _PLUGIN, sys.prefix, sys.base_prefix, *programs, *of_program(words[0], path)]
        readable += [word for word in words if os.path.isabs(word)]
        hidden = [str(self.project.state), *expanded(self.settings["hidden"], base, home)]
        checkout = str(place)
        if self.repository is not None:
            checkout = checkout.removesuffix("/" + self.repository.prefix.rstrip("/"))
        writable = [checkout, *expanded(self.settings["writable"], base, home)]
        if self.repository is not None:
            common = str(self.repository.common)
            if self.isolation == "worktree":
                writable.append(common)
            elif self.isolation == "clone":  # of the user's git folder it borrows the objects, and no more
                hidden.append(common)
                readable += [f"{common}/objects", *_borrowed(f"{common}/objects")]
        try:
            yield Sandbox(
                scratch=scratch,
                home=home if os.path.isdir(home) and home != "/" else f"{scratch}/home",
                writable=tuple(writable),
                readable=(*readable, *expanded(self.settings["readable"], base, home)),
                hidden=tuple(hidden),
                bound=((relay, RELAYED if LINUX else relay),) if relay else (),
                environment=tuple(self.settings["environment"]),
            )
        finally:
            remove_tree(Path(scratch))

    @contextlib.contextmanager
    def contain(self, assignment: Assignment, name: str, words: Sequence[str]) -> Iterator[Assignment]:
        """Yield *assignment* with a sandbox in which our server and commands reach this process."""
        relay = Relay(environment=assignment.environment, folder=str(self.project.root))
        socket = relay.open()
        try:
            with self.around(name, Path(assignment.cwd), words, socket) as sandbox:
                told = {**assignment.environment, RELAY: RELAYED if LINUX else socket}
                yield replace(assignment, sandbox=sandbox, environment=told)
        finally:
            relay.close()


def _borrowed(objects: str) -> list[str]:
    """Return the folders of objects that the user's repository borrows itself."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        lines = Path(objects, "info/alternates").read_text("utf-8").splitlines()
        return [os.path.realpath(os.path.join(objects, line)) for line in lines if line]
    return []


def wanted(options: RunOptions, settings: Mapping[str, Any]) -> str:
    """Return ``auto``, ``on`` or ``off``: ``--sandbox``, else the variable, else the settings.

    Raises:
        ConfigError: The variable or the settings say something else.
    """
    asked = options.sandbox or os.environ.get(VARIABLE) or str(settings["run"]["sandbox"])
    if asked not in SANDBOX:
        raise ConfigError(
            f"the sandbox ({VARIABLE}, or run.sandbox) must be {', '.join(SANDBOX)}; not {asked!r}"
        )
    return asked


def refusal(options: RunOptions, settings: Mapping[str, Any]) -> str:
    """Return why the run has no sandbox although it would have one, "" if it has one or wants none.

    Raises:
        UsageError: It must have one, and there is none to be had.
    """
    asked = wanted(options, settings)
    why = fault() if asked != "off" else ""
    if why and asked == "on":
        raise UsageError(f"no sandbox: {why}; or run without one: --sandbox off")
    return why


def containment_of(
    options: RunOptions,
    settings: Mapping[str, Any],
    project: Project,
    repository: Repository | None,
    folder: str,
) -> Containment | None:
    """Return what makes the sandboxes of a run, None if it has none."""
    if wanted(options, settings) == "off" or refusal(options, settings):
        return None
    return Containment(
        project=project, repository=repository, isolation=options.isolation,
        folder=os.path.join(folder, "sandboxes"), settings=settings["sandbox"],
    )  # fmt: skip
