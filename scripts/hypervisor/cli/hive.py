"""`hypervisor hive`: share findings and search them."""

from __future__ import annotations

import contextlib
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path

from ..core.assignment import BATCH, TASK
from ..core.project import find_project
from ..core.settings import settings_of
from ..learning import hive
from ..learning.hive import Hive
from ..report.workload import current_branch
from ..store.hive import Finding
from ..store.store import Store
from .console import EXIT_DONE, EXIT_NOTHING, print_json, shown


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Register the verbs of ``hive``."""
    verbs = commands["hive"].add_subparsers(dest="verb", metavar="VERB", required=True)
    add: ArgumentParser = verbs.add_parser("add", help="share a finding")
    add.add_argument("text", metavar="TEXT", help="what was found, and where; - reads standard input")
    add.add_argument("--branch", default="", help="hive branch (default: your batch's, or the git branch)")
    add.add_argument("--task", default="", metavar="ID", help="the task in which it was found")
    add.add_argument("--caller", default="", metavar="NAME", help="who found it")
    add.add_argument("--json", action="store_true", help="print one JSON document")
    add.set_defaults(action=_add)
    search: ArgumentParser = verbs.add_parser(
        "search", help="search findings, best match first; without words list the newest"
    )
    search.add_argument("query", nargs="*", metavar="WORD")
    search.add_argument("--branch", default="", help="only this branch")
    search.add_argument("--limit", type=int, default=20, metavar="N", help="at most N findings (default: 20)")
    search.add_argument("--json", action="store_true", help="print one JSON document")
    search.set_defaults(action=_search)


def _add(options: Namespace) -> int:
    project = find_project(Path.cwd(), os.environ)
    project.prepare()
    text = sys.stdin.read() if options.text == "-" else options.text
    with Store.open(project.state, settings_of(project.state)) as store:
        found = Hive(store.findings).share(
            text, branch=options.branch or current_branch(project, os.environ),
            task=options.task or os.environ.get(TASK, ""), batch=os.environ.get(BATCH, ""),
            author=options.caller or os.environ.get("HYPERVISOR_CALLER", ""),
        )  # fmt: skip
    if options.json:
        print_json(hive.shared(found))
    else:
        print(f"shared finding {found.id} on branch {shown(found.branch)}")
    return EXIT_DONE


def _search(options: Namespace) -> int:
    project = find_project(Path.cwd(), os.environ)
    settings, found, branches = settings_of(project.state), list[Finding](), dict[str, int]()
    # No store yet: nothing was shared.
    with contextlib.suppress(FileNotFoundError), Store.open(project.state, settings, create=False) as store:
        known = Hive(store.findings)
        found = known.search(" ".join(options.query), branch=options.branch, limit=options.limit)
        branches = known.branches() if not found else {}
    if options.json:
        print_json(hive.found(found, branches))
    for one in found if not options.json else ():
        print(f"{shown(one.branch)}  {shown(one.task or '-')}: {shown(one.text, 2000)}")
    if not found and not options.json:
        there = ", ".join(f"{shown(name)} ({count})" for name, count in branches.items())
        print(f"no findings match; branches with findings: {there or 'none'}", file=sys.stderr)
    return EXIT_DONE if found else EXIT_NOTHING
