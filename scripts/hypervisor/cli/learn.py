"""`hypervisor learn`: show what runs measured of each task type, and add what people know."""

from __future__ import annotations

import contextlib
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from ..core.project import find_project
from ..core.settings import settings_of
from ..learning.lessons import Lessons, advice_answer
from ..orchestrator.concurrency import capacity_of, cores
from ..store.lessons import Lesson
from ..store.store import Store
from .console import EXIT_DONE, EXIT_NOTHING, print_json, shown

_JOBS = 8


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Register the verbs of ``learn``."""
    verbs = commands["learn"].add_subparsers(dest="verb", metavar="VERB", required=True)
    show: ArgumentParser = verbs.add_parser(
        "show", help="for each task type: how many to run at once, and why"
    )
    show.add_argument("type", nargs="?", metavar="TYPE", help="only tasks of this type")
    show.add_argument(
        "-j",
        "--workers",
        dest="jobs",
        type=int,
        default=_JOBS,
        metavar="N",
        help=f"at most N at once (default: {_JOBS})",
    )
    show.add_argument("--json", action="store_true", help="print one JSON document")
    show.set_defaults(action=_show)
    add: ArgumentParser = verbs.add_parser(
        "add", help="record what is known of a task type; used until runs have measured it"
    )
    add.add_argument("type", metavar="TYPE")
    add.add_argument("--benefit", type=float, metavar="X",
                     help="gain of one more agent: 0 none, 1 as much as the first")  # fmt: skip
    add.add_argument("--notes", default="")
    add.add_argument(
        "--cpu",
        type=float,
        metavar="CORES",
        help="cores that one agent uses; with --ram as a share, a share of them",
    )
    add.add_argument(
        "--ram",
        type=float,
        metavar="MB",
        help="memory that one agent needs; up to 1: a share of this machine's",
    )
    add.add_argument("--caller", default="", metavar="NAME", help="name of the source")
    add.add_argument("--json", action="store_true", help="print one JSON document")
    add.set_defaults(action=_add)


def _show(options: Namespace) -> int:
    if options.jobs < 1:
        raise UsageError(f"-j {options.jobs}: must be at least 1")
    project = find_project(Path.cwd(), os.environ)
    settings, rows = settings_of(project.state), list[dict[str, Any]]()
    # No store yet: nothing is known.
    with contextlib.suppress(FileNotFoundError), Store.open(project.state, settings, create=False) as store:
        rows = Lessons(store.lessons).rows(capacity_of(project, settings, options.jobs), options.type)
    return _print(options, rows, kept=False)


def _add(options: Namespace) -> int:
    if options.benefit is None and not options.notes and options.cpu is None and options.ram is None:
        raise UsageError("nothing to record; give --benefit, --notes, --cpu or --ram")
    project = find_project(Path.cwd(), os.environ)
    settings = settings_of(project.state)
    cpu, ram = Lessons.in_units(options.cpu, options.ram, cores())
    lesson = Lesson(
        task_type=options.type, benefit=options.benefit, notes=options.notes, cpu=cpu,
        ram_mb=ram, author=options.caller or os.environ.get("HYPERVISOR_CALLER", ""),
    )  # fmt: skip
    project.prepare()
    with Store.open(project.state, settings) as store:
        lessons = Lessons(store.lessons)
        lessons.add(lesson)
        rows = lessons.rows(capacity_of(project, settings, _JOBS), options.type.strip())
    return _print(options, rows, kept=True)


def _print(options: Namespace, rows: list[dict[str, Any]], *, kept: bool) -> int:
    if options.json:
        print_json(advice_answer(rows, (options.type or "").strip(), kept=kept))
    for row in rows if not options.json else ():
        for line in _lines(row):
            print(line)
    if not rows and not options.json:
        print("nothing is known yet; `hypervisor run` measures on its own", file=sys.stderr)
    return EXIT_DONE if rows else EXIT_NOTHING


def _lines(row: Mapping[str, Any]) -> list[str]:
    name = shown(row["type"] or "untyped")
    if row["pattern"] != "independent":
        name += f" ({row['pattern']})"
    facts = []
    if "mean_seconds" in row:
        facts.append(f"{row['success_rate']:.0%} succeed, {row['mean_seconds']:g} s each")
    if "mean_tokens" in row:
        facts.append(f"{row['mean_tokens']:,} tokens each")
    if row["benefit"] is not None:
        facts.append(f"benefit {row['benefit']:g}")
    facts.append(f"bottleneck {row['bottleneck']}")
    cost = row["resource_cost"]
    facts += [f"{cost[key]:g} {unit}" for key, unit in (("cpu", "cores"), ("ram", "MB")) if key in cost]
    lines = [f"{name}: {row['at_once']} at once: {shown(row['why'], 500)}", f"  {'; '.join(facts)}"]
    if lesson := row.get("lesson"):
        figures = ", ".join(f"{key} {lesson[key]:g}" for key in ("benefit", "cpu", "ram") if key in lesson)
        said = ": ".join(part for part in (figures, shown(lesson.get("notes", ""), 500)) if part)
        lines.append(f"  added by {shown(lesson.get('by', '') or 'unknown')}, {lesson['at'][:10]}: {said}")
    return lines
