"""In whose name a command acts, and on which project: ``--caller`` and the folder that it is called in."""

from __future__ import annotations

import getpass
import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from .batches import settings_of
from .desk import Desk
from .paths import find_project
from .tasklist import Caller


def add_caller(command: ArgumentParser, action: Any) -> None:
    """Add ``--caller`` and ``--json`` to a command, which carries out *action*."""
    command.add_argument("--caller", metavar="NAME", help="in whose name (default: you)")
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.set_defaults(action=action)


def desk_of(options: Namespace) -> Desk:
    """Return the tasks of the project, to act on in the caller's name."""
    project = find_project(Path.cwd(), os.environ)
    name = options.caller or os.environ.get("HYPERVISOR_CALLER") or getpass.getuser()
    session = os.environ.get("CLAUDE_CODE_SESSION_ID", "")
    return Desk(project, settings_of(project.state), Caller(name=name, session=session))
