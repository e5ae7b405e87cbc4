"""`hypervisor doctor`: checks the machine, the programs and the project, and prints what to type."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from ..core.project import Project, find_project
from . import doctor_place, doctor_programs, doctor_project, doctor_store
from .checkup import CheckFinding
from .console import EXIT_DONE, EXIT_REFUSED, print_json, shown


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``doctor`` what it takes."""
    doctor = commands["doctor"]
    doctor.add_argument("--json", action="store_true", help="print one JSON document")
    doctor.set_defaults(action=_doctor)


def examine(project: Project, environ: Mapping[str, str]) -> list[CheckFinding]:
    """Check the machine, the programs, the store and the project. Changes nothing, leaves nothing behind.

    No login is read: each client is asked for its own, in a way that costs nothing.
    """
    return [
        *doctor_programs.examine(project, environ),
        *doctor_place.examine(project),
        *doctor_store.examine(project),
        *doctor_project.examine(project, environ),
    ]


def _doctor(options: Namespace) -> int:
    findings = examine(find_project(Path.cwd(), os.environ), os.environ)
    if options.json:
        print_json([{**asdict(finding), "ok": finding.level == "ok"} for finding in findings])
    else:
        for finding in findings:
            level = finding.level.upper() if finding.level == "failure" else finding.level
            print(f"{level:7} {finding.check}: {shown(finding.text, 1000)}")
            if finding.do:
                print(f"        do: {finding.do}")
        counts = Counter(finding.level for finding in findings)
        print(f"{counts['failure']} failure(s), {counts['warning']} warning(s)")
    return EXIT_REFUSED if any(finding.level == "failure" for finding in findings) else EXIT_DONE
