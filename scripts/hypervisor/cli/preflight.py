"""`hypervisor preflight`: what would run, and what is skipped and why."""

from __future__ import annotations

import contextlib
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import Unreadable, UsageError
from ..core.model import TaskHead
from ..orchestrator.options import ISOLATION, SANDBOX, RunOptions
from ..report.plan import plan_answer
from ..tasks.catalog import TaskCatalog
from ..tasks.conflicts import Independence, Part, examine, paths_in, to_json
from ..tasks.eligibility import Plan
from ..tasks.files import read_task
from .caller import add_caller, catalog_of
from .console import EXIT_DONE, EXIT_NOTHING, print_json, shown

if TYPE_CHECKING:
    from .commands import CommandList

#: How many conflicts are shown to a person.
_SHOWN = 40


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``preflight`` what it takes."""
    command = commands["preflight"]
    command.add_argument("ids", nargs="*", metavar="ID")
    command.add_argument("--all", action="store_true", help="all tasks of the project")
    command.add_argument("--parent", metavar="ID", help="all tasks below this one")
    command.add_argument(
        "--has", action="append", default=[], metavar="NEED", help="a need of tasks that the agents satisfy, "
        "such as mcp:outlook; may be repeated"
    )  # fmt: skip
    command.add_argument("--batch", action="store_true", help="create a batch of the tasks that would run")
    command.add_argument(
        "--waves",
        action="store_true",
        help="also show which tasks may run in parallel, and why others may not",
    )
    command.add_argument(
        "--agent", default="claude", metavar="AGENT", help="as in `run`: whose command is shown"
    )
    command.add_argument("--exec", metavar="CMD", dest="command", default="", help="as in `run`")
    command.add_argument("--model", default="", help="as in `run`")
    command.add_argument("--isolation", choices=ISOLATION, default="clone", help="as in `run`")
    command.add_argument("--sandbox", choices=SANDBOX, default="", help="as in `run`")
    add_caller(command, _preflight)


def _preflight(options: Namespace) -> int:
    if not (options.ids or options.all or options.parent):
        raise UsageError("say which tasks: IDs, --all or --parent ID")
    if (options.agent in ("exec", "acp")) != bool(options.command):
        raise UsageError("--agent exec (or acp) and --exec CMD belong together")
    with catalog_of(options) as catalog:
        with catalog.view() as view:
            made, tasks = view.plan(
                () if options.all or options.parent else options.ids, options.parent or "", options.has
            )
        answer = plan_answer(catalog, made, tasks, creates=options.batch)
        by_path = {task.path: task for task in tasks}
        runs = [by_path[named.path] for named in made.run]
        commands = _commands(options, catalog, runs) if runs else None
        waves = examine(_parts(made, tasks, catalog)) if options.waves else None
    if options.json:
        more = commands.to_json() if commands else {}
        print_json(answer | more | (dict(to_json(waves)) if waves else {}))
    else:
        _print_plan(made, tasks, catalog.unreadable)
        for line in answer["warnings"]:
            print(f"warning: {shown(line, 400)}")
        if commands:
            commands.print()
        if waves:
            _print_waves(waves)
        if "batch" in answer:
            print(f"batch {answer['batch']}: {len(made.run)} tasks")
    return EXIT_DONE if made.run else EXIT_NOTHING


def _commands(options: Namespace, catalog: TaskCatalog, tasks: Sequence[TaskHead]) -> CommandList:
    from .commands import CommandList  # noqa: PLC0415 - with the agents, which the tool of this name does without

    asked = RunOptions(
        agent=options.agent, command=tuple(shlex.split(options.command)), model=options.model,
        isolation=options.isolation, sandbox=options.sandbox,
    )  # fmt: skip
    return CommandList.of(asked, catalog.settings, catalog.project, tasks)


def _parts(made: Plan, tasks: list[TaskHead], catalog: TaskCatalog) -> list[Part]:
    """Return what is known of the tasks that would run; the text of those without `files` is read for it."""
    asides = catalog.settings["triage"]["aside_headings"]
    by_path = {task.path: task for task in tasks}
    parts = []
    for task in (by_path[named.path] for named in made.run):
        named: tuple[str, ...] = ()
        if not task.files:
            with contextlib.suppress(Unreadable):  # gone, or spoilt, since it was listed
                named = paths_in(task.title, read_task(Path(task.path), catalog.settings).body, asides)
        parts.append(Part(
            id=task.id, files=task.files, named=named, parent=task.parent, depends_on=task.depends_on
        ))  # fmt: skip
    return parts


def _print_waves(found: Independence) -> None:
    for edge in found.edges[:_SHOWN]:
        order = f"{edge.b if edge.first == edge.a else edge.a} after {edge.first}" if edge.first else ""
        print(f"conflict  {order or f'{edge.a}, {edge.b}'}: {shown(edge.reason)}")
    if found.conflicts > _SHOWN:
        print(f"conflict  {found.conflicts - _SHOWN} more; --json names them")
    for number, wave in enumerate(found.waves, 1):
        print(f"wave {number:<4} {', '.join(wave)}")
    if found.silent and len(found.waves) > 0 and found.way != "one":
        print(f"{len(found.silent)} do not say what they touch: nothing shows that they are apart")
    print(found.advice)


def _print_plan(made: Plan, tasks: list[TaskHead], unreadable: Sequence[str]) -> None:
    print(f"{len(made.run)} would run")
    by_path = {task.path: task for task in tasks}
    for task in (by_path[named.path] for named in made.run):
        print(f"  {task.id}: {shown(task.title)} ({task.priority}, {task.complexity or 'no complexity'})")
    for reason, ids in made.by_reason().items():
        print(f"{len(ids)} skipped ({reason}): {', '.join(ids[:10])}{' ...' if len(ids) > 10 else ''}")
    for line in unreadable:
        print(f"cannot be read: {shown(line)}")
