"""In whose name a command acts, and on which project: ``--caller`` and the folder that it is called in."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.config import settings_of
from ..core.paths import find_project

if TYPE_CHECKING:
    from ..tasks.desk import Desk
    from ..tasks.tasklist import Caller, TaskList


def add_caller(command: ArgumentParser, action: Any) -> None:
    """Add ``--caller`` and ``--json`` to a command, which carries out *action*."""
    command.add_argument("--caller", metavar="NAME", help="in whose name (default: you)")
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.set_defaults(action=action)


def desk_of(options: Namespace) -> Desk:
    """Return the tasks of the project, to act on in the caller's name."""
    from ..tasks.desk import Desk  # noqa: PLC0415 - to act takes more modules than to look

    project = find_project(Path.cwd(), os.environ)
    return Desk(project, settings_of(project.state), _caller(options))


def tasks_of(options: Namespace) -> TaskList:
    """Return the tasks of the project, to look at."""
    from ..tasks.tasklist import TaskList  # noqa: PLC0415 - to look takes these only

    project = find_project(Path.cwd(), os.environ)
    return TaskList(project, settings_of(project.state), _caller(options))


def _caller(options: Namespace) -> Caller:
    import getpass  # noqa: PLC0415

    from ..tasks.tasklist import Caller  # noqa: PLC0415

    name = options.caller or os.environ.get("HYPERVISOR_CALLER") or getpass.getuser()
    return Caller(name=name, session=os.environ.get("CLAUDE_CODE_SESSION_ID", ""))
