"""In whose name a command acts, and on which project: ``--caller`` and the folder that it is called in."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.project import find_project
from ..core.settings import settings_of

if TYPE_CHECKING:
    from ..tasks.actor import Actor
    from ..tasks.catalog import TaskCatalog
    from ..tasks.service import TaskService


def add_caller(command: ArgumentParser, action: Any) -> None:
    """Add ``--caller`` and ``--json`` to a command, which carries out *action*."""
    command.add_argument("--caller", metavar="NAME", help="name of the actor (default: you)")
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.set_defaults(action=action)


def require_person() -> None:
    """Raise where an agent of a run has started this command; see `liveness.require_no_run_above`."""
    from ..store.liveness import require_no_run_above  # noqa: PLC0415 - for those who act

    require_no_run_above(str(find_project(Path.cwd(), os.environ).state / "workers"))


def service_of(options: Namespace, batch: int | None = None, *, acts: bool = True) -> TaskService:
    """Return the tasks of the project, to act on in the caller's name, and in a batch's if one is given.

    Args:
        options: What was typed.
        batch: `BatchRecord.id`.
        acts: Whether something is to be done. An agent of a run may do that to its own task only.

    Raises:
        Refused: It is another's.
    """
    from ..core.assignment import AssignedTask  # noqa: PLC0415
    from ..tasks.service import TaskService  # noqa: PLC0415 - to act takes more modules than to look

    project = find_project(Path.cwd(), os.environ)
    if acts:
        assigned = AssignedTask.of(os.environ)
        if assigned is None:
            require_person()
        elif name := getattr(options, "id", None):
            assigned.require(name)
    return TaskService(project, settings_of(project.state), _actor(options), batch=batch)


def catalog_of(options: Namespace) -> TaskCatalog:
    """Return the tasks of the project, to look at."""
    from ..tasks.catalog import TaskCatalog  # noqa: PLC0415

    project = find_project(Path.cwd(), os.environ)
    return TaskCatalog(project, settings_of(project.state), _actor(options))


def _actor(options: Namespace) -> Actor:
    import getpass  # noqa: PLC0415

    from ..tasks.actor import Actor  # noqa: PLC0415

    name = options.caller or os.environ.get("HYPERVISOR_CALLER") or getpass.getuser()
    return Actor(name=name, session=os.environ.get("CLAUDE_CODE_SESSION_ID", ""))
