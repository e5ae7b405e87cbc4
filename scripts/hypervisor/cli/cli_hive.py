"""`hypervisor hive`: what agents have found, at a shell."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path

from ..core.commission import BATCH, TASK
from ..core.paths import find_project
from ..learning.hive import Hive
from ..report.workload import current_branch
from .console import EXIT_DONE, EXIT_NOTHING, print_json, shown


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``hive`` what it takes."""
    verbs = commands["hive"].add_subparsers(dest="verb", metavar="VERB", required=True)
    add: ArgumentParser = verbs.add_parser("add", help="keep a finding")
    add.add_argument(
        "text", metavar="TEXT", help="what was found, and where it stands; - reads it from standard input"
    )
    add.add_argument("--branch", default="", help="of the hive; without it your batch's, or the git branch")
    add.add_argument("--task", default="", metavar="ID", help="the task in which it was found")
    add.add_argument("--caller", default="", metavar="NAME", help="who found it")
    add.add_argument("--json", action="store_true", help="print one JSON document")
    add.set_defaults(action=_add)
    search: ArgumentParser = verbs.add_parser(
        "search", help="show findings: best match first, else newest first"
    )
    search.add_argument("query", nargs="*", metavar="WORD")
    search.add_argument("--branch", default="", help="only of this branch")
    search.add_argument("--limit", type=int, default=20, metavar="N", help="at most so many (default: 20)")
    search.add_argument("--json", action="store_true", help="print one JSON document")
    search.set_defaults(action=_search)


def _hive() -> Hive:
    return Hive(find_project(Path.cwd(), os.environ))


def _add(options: Namespace) -> int:
    hive = _hive()
    text = sys.stdin.read() if options.text == "-" else options.text
    found = hive.share(
        text, branch=options.branch or current_branch(hive.project, os.environ),
        task=options.task or os.environ.get(TASK, ""), batch=os.environ.get(BATCH, ""),
        who=options.caller or os.environ.get("HYPERVISOR_CALLER", ""),
    )  # fmt: skip
    print_json(found.to_json()) if options.json else print(
        f"kept on {shown(found.branch)}: finding {found.id}"
    )
    return EXIT_DONE


def _search(options: Namespace) -> int:
    hive = _hive()
    found = hive.search(" ".join(options.query), branch=options.branch, limit=options.limit)
    if options.json:
        print_json([one.to_json() for one in found])
    for one in found if not options.json else ():
        print(f"{shown(one.branch)}  {shown(one.task or '-')}: {shown(one.text, 2000)}")
    if not found and not options.json:
        branches = ", ".join(f"{shown(name)} ({count})" for name, count in hive.branches().items())
        print(f"nothing found; there are findings on: {branches or 'no branch'}", file=sys.stderr)
    return EXIT_DONE if found else EXIT_NOTHING
