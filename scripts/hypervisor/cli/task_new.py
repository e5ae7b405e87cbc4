"""`hypervisor task new`: writes a task file."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from ..core.model import Priority, TaskStatus
from ..report.listing import task_row
from .caller import add_caller, catalog_of
from .console import EXIT_DONE, print_json


def add_arguments(new: ArgumentParser) -> None:
    """Add what the verb takes."""
    new.add_argument("title", metavar="TITLE", help="what is to be done, in one line")
    new.add_argument("--id", default="", help="default: made of the title; also the name of the file")
    new.add_argument("--status", choices=list(TaskStatus), default=TaskStatus.ACTIVE, help="default: active")
    new.add_argument("--priority", choices=list(Priority))
    new.add_argument("--files", nargs="+", action="extend", default=[], metavar="PATH",
                     help="what the work may change; tasks that overlap never run at once")  # fmt: skip
    new.add_argument("--verify", default="", metavar="CMD", help="a command that passes once it is done")
    new.add_argument(
        "--body", default="", metavar="TEXT", help="what to do, in detail; - reads standard input"
    )
    add_caller(new, _new)


def _new(options: Namespace) -> int:
    from ..tasks.creation import NewTask, create_task  # noqa: PLC0415 - not for the help text

    new = NewTask(
        title=options.title, id=options.id, status=TaskStatus(options.status),
        priority=Priority(options.priority) if options.priority else None, files=options.files,
        verify=options.verify, body=sys.stdin.read() if options.body == "-" else options.body,
    )  # fmt: skip
    with catalog_of(options) as catalog:
        taken = {task.id.lower() for task in catalog.tasks()}
        path = create_task(catalog.project, new, catalog.settings, taken)
        task = catalog.find(str(path))
        if options.json:
            print_json(task_row(catalog, task))
        else:
            then = f"; `hypervisor run {task.id}` runs it" if task.status is TaskStatus.ACTIVE else ""
            print(f"created: {task.id} ({catalog.relative(task)}){then}")
    return EXIT_DONE
