"""`hypervisor preflight`: what would run, and what is skipped and why."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from .batches import create_of_tasks
from .cli_caller import add_caller, desk_of
from .console import EXIT_DONE, EXIT_NOTHING, print_json, shown
from .desk import Desk
from .errors import UsageError
from .model import TaskHead
from .preflight import Plan, plan


def add_preflight(below: Any) -> None:
    """Add ``preflight`` to the commands."""
    command = below.add_parser("preflight", help="what would run; what is skipped, and why")
    command.add_argument("ids", nargs="*", metavar="ID")
    command.add_argument("--all", action="store_true", help="every task of the project")
    command.add_argument("--parent", metavar="ID", help="the tasks below this one")
    command.add_argument("--batch", action="store_true", help="make a batch of what would run")
    add_caller(command, _preflight)


def _preflight(options: Namespace) -> int:
    desk = desk_of(options)
    tasks = desk.tasks()
    refusals = desk.refusals(tasks)
    made = plan(_wanted(options, desk, tasks), refusals, refusals.waits_for)
    batch = ""
    if options.batch and made.run:
        skipped = [(desk.relative(task), why) for task, why in made.skipped]
        batch = create_of_tasks(desk.project, [desk.relative(task) for task in made.run], skipped).id
    if options.json:
        print_json({
            "run": [task.id for task in made.run],
            "skipped": [{"task_id": task.id, "reason": reason} for task, reason in made.skipped],
            "unreadable": desk.unreadable,
            **({"batch": batch} if batch else {}),
        })  # fmt: skip
    else:
        _print_plan(made, tasks, desk.unreadable)
        if batch:
            print(f"batch {batch}: {len(made.run)} tasks")
    return EXIT_DONE if made.run else EXIT_NOTHING


def _wanted(options: Namespace, desk: Desk, tasks: list[TaskHead]) -> list[TaskHead]:
    if not (options.ids or options.all or options.parent):
        raise UsageError("say which tasks: IDs, --all or --parent ID")
    if options.parent:
        parent = desk.find(options.parent, tasks)
        return [task for task in tasks if task.parent.lower() == parent.id.lower()]
    return tasks if options.all else [desk.find(name, tasks) for name in options.ids]


def _print_plan(made: Plan, tasks: list[TaskHead], unreadable: Sequence[str]) -> None:
    print(f"{len(made.run)} would run")
    by_path = {task.path: task for task in tasks}
    for task in (by_path[named.path] for named in made.run):
        print(f"  {task.id}: {shown(task.title)} ({task.priority}, {task.complexity or 'no complexity'})")
    for reason, ids in made.by_reason().items():
        print(f"{len(ids)} skipped ({reason}): {', '.join(ids[:10])}{' ...' if len(ids) > 10 else ''}")
    for line in unreadable:
        print(f"cannot be read: {shown(line)}")
