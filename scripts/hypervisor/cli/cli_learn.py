"""`hypervisor learn`: what was learnt of running tasks at once, and what people say of it."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from ..core.paths import find_project
from ..learning.learner import Told
from ..learning.learnings import Learnings
from ..mcp.tools_agents import learnt_rows
from .console import EXIT_DONE, EXIT_NOTHING, print_json, shown


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``learn`` what it takes."""
    verbs = commands["learn"].add_subparsers(dest="verb", metavar="VERB", required=True)
    show: ArgumentParser = verbs.add_parser(
        "show", help="how many of each type of task are best run at once, and why"
    )
    show.add_argument("type", nargs="?", metavar="TYPE", help="only tasks of this type")
    show.add_argument(
        "-j", "--jobs", type=int, default=8, metavar="N", help="of at most so many (default: 8)"
    )
    show.add_argument("--json", action="store_true", help="print one JSON document")
    show.set_defaults(action=_show)
    add: ArgumentParser = verbs.add_parser(
        "add", help="say what is known of a type of task; counts until it is measured"
    )
    add.add_argument("type", metavar="TYPE")
    add.add_argument("--benefit", type=float, metavar="X",
                     help="0: a further agent adds nothing; 1: as much as the first")  # fmt: skip
    add.add_argument("--notes", default="")
    add.add_argument("--cpu", type=float, metavar="CORES", help="that one agent keeps busy")
    add.add_argument("--ram", type=float, metavar="MB", help="that one agent needs")
    add.add_argument("--caller", default="", metavar="NAME", help="who says so")
    add.add_argument("--json", action="store_true", help="print one JSON document")
    add.set_defaults(action=_add)


def _show(options: Namespace) -> int:
    if options.jobs < 1:
        raise UsageError(f"-j {options.jobs}: at least 1")
    project = find_project(Path.cwd(), os.environ)
    if project.state.is_dir():
        Learnings(project).learn()
    rows = learnt_rows(project, options.type, options.jobs)
    return _print(options, rows)


def _add(options: Namespace) -> int:
    if options.benefit is None and not options.notes and options.cpu is None and options.ram is None:
        raise UsageError("say what is known: --benefit, --notes, --cpu or --ram")
    project = find_project(Path.cwd(), os.environ)
    caller = options.caller or os.environ.get("HYPERVISOR_CALLER", "")
    told = Told(benefit=options.benefit, notes=options.notes, cpu=options.cpu, ram_mb=options.ram, by=caller)
    Learnings(project).tell(options.type, told)
    return _print(options, learnt_rows(project, options.type))


def _print(options: Namespace, rows: list[dict[str, Any]]) -> int:
    if options.json:
        print_json(rows)
    for row in rows if not options.json else ():
        name = shown(row["type"] or "untyped") + (
            "" if row["pattern"] == "independent" else f" ({row['pattern']})"
        )
        print(f"{name}: {row['at_once']} at once: {shown(row['why'], 500)}")
        facts = (
            [f"{row['success_rate']:.0%} succeed, {row['mean_seconds']:g} s each"]
            if "mean_seconds" in row
            else []
        )
        facts += [f"benefit {row['benefit']:g}"] if row["benefit"] is not None else []
        facts.append(f"bottleneck {row['bottleneck']}")
        cost = row["resource_cost"]
        facts += [f"{cost['cpu']:g} cores"] if "cpu" in cost else []
        facts += [f"{cost['ram']:g} MB"] if "ram" in cost else []
        print(f"  {'; '.join(facts)}")
        if told := row.get("told"):
            said = ", ".join(f"{key} {told[key]:g}" for key in ("benefit", "cpu", "ram_mb") if key in told)
            notes = ": ".join(part for part in (said, shown(told.get("notes", ""), 500)) if part)
            print(f"  said by {shown(told.get('by', '') or 'somebody')}, {told['at'][:10]}: {notes}")
    if not rows and not options.json:
        print("nothing is known yet; runs of agents are learnt of by themselves", file=sys.stderr)
    return EXIT_DONE if rows else EXIT_NOTHING
