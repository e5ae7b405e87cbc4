"""What is missing or wrong here, and what to type about it: all checks, in their order."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.paths import Project
from . import doctor_place, doctor_programs, doctor_project
from .checkup import Finding


def examine(project: Project, environ: Mapping[str, str]) -> list[Finding]:
    """Look at the machine, the programs and the project; changes nothing, and leaves nothing behind.

    No login is read: a client is asked for its own, in a way that costs nothing.
    """
    return [
        *doctor_programs.examine(project, environ),
        *doctor_place.examine(project),
        *doctor_project.examine(project, environ),
    ]
