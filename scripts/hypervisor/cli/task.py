"""`hypervisor task ...`: the same verbs as the tools of an agent.

What acts on a task is loaded by those who act: a list takes a part of it only.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import NothingToDo, Refused, UsageError
from ..core.model import Complexity, Outcome, Task, TaskStatus
from ..report.listing import asked_of, task_rows
from . import task_new
from .caller import add_caller, catalog_of, service_of
from .console import EXIT_DONE, EXIT_NOTHING, Parser, print_json, shown

if TYPE_CHECKING:
    from ..tasks.completion import TaskCompletion
    from ..tasks.eligibility import Wanted
    from ..tasks.service import Hold, TaskService

#: Statuses that `task update` may set by a move of its own.
_MOVABLE = (TaskStatus.INBOX, TaskStatus.ACTIVE, TaskStatus.REVIEW)
#: How an attempt that gave no result ended.
_OUTCOMES = {"again": "given back", "revoked": "taken away"}
_EDITABLE = ("assignee", "priority", "complexity", "project", "type", "title")


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``task`` what it takes."""
    verbs = commands["task"].add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    _task_verbs(verbs)


def _task_verbs(verbs: Any) -> None:
    listing = _verb(verbs, "list", "list tasks", _list, with_id=False)
    listing.add_argument("--status", choices=list(TaskStatus))
    listing.add_argument("--project")
    listing.add_argument("--assignee")
    listing.add_argument("--complexity", choices=list(Complexity))
    listing.add_argument("--tag", action="append", default=[])
    listing.add_argument("--parent", metavar="ID")
    listing.add_argument("--ready", action="store_true", help="only tasks that an agent may claim now")
    listing.add_argument("--limit", type=int)
    _verb(verbs, "show", "show a task, its holder and its attempts", _show)
    text = "write a task file"
    task_new.add_arguments(verbs.add_parser("new", help=text, description=text, allow_abbrev=False))
    claim = _verb(verbs, "claim", "claim a task; its status becomes in_progress", _claim, with_id=False)
    claim.add_argument("id", nargs="?", metavar="ID", help="id or path of a task; or --next")
    claim.add_argument("--next", action="store_true", help="the most urgent ready task")
    claim.add_argument("--project")
    claim.add_argument("--complexity", choices=list(Complexity))
    claim.add_argument("--batch", metavar="BATCH", help="only a task of this batch")
    claim.add_argument(
        "--has",
        action="append",
        default=[],
        metavar="NEED",
        help="a need of tasks that you satisfy, such as mcp:outlook; may be repeated",
    )
    update = _verb(verbs, "update", "change keys or the status, or append to the body", _update)
    for key in _EDITABLE:
        update.add_argument(f"--{key}")
    update.add_argument("--status", choices=list(TaskStatus))
    update.add_argument("--body", default="", help="text to append")
    complete = _verb(verbs, "complete", "complete a claimed task", _complete, ends=True)
    complete.add_argument("--outcome", default="", help="one line: what was done")
    complete.add_argument("--commit", default="")
    complete.add_argument("--evidence", default="", help="what you observed")
    block = _verb(verbs, "block", "block a claimed task", _block, ends=True)
    block.add_argument("--reason", required=True)
    block.add_argument("--next", default="", help="what would unblock it")
    block.add_argument("--evidence", default="")
    release = _verb(verbs, "release", "release a claim; the task file is restored", _release, ends=True)
    release.add_argument("--reason", default="no reason was given")
    ask = _verb(verbs, "ask", "ask a person; the task waits for the answer", _ask, ends=True)
    ask.add_argument("question", metavar="QUESTION")
    ask.add_argument("--choice", action="append", default=[], metavar="TEXT", help="an answer to choose from")
    receipt = _verb(verbs, "receipt", "record an irreversible action in a task; needs no claim", _receipt)
    receipt.add_argument("line", metavar="LINE", help="what was done, in one line")
    receipt.add_argument(
        "--item", default="", help="the item it is for (default: the line); each gets one receipt"
    )
    receipt.add_argument("--failed", action="store_true", help="the action failed; the line says why")


def _verb(
    verbs: Any, name: str, text: str, action: Any, *, with_id: bool = True, ends: bool = False
) -> ArgumentParser:
    made: ArgumentParser = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
    if with_id:
        made.add_argument("id", metavar="ID", help="id of a task, or its path below the project root")
    if ends:
        made.add_argument(
            "--attempt", type=int, metavar="N", help="number of the attempt, if the claim is not yours"
        )
    add_caller(made, action)
    return made


# ------------------------------------------------------------------------ verbs


def _list(options: Namespace) -> int:
    with catalog_of(options) as catalog, catalog.view() as view:
        asked = asked_of(vars(options) | {"tags": options.tag})
        limit = -1 if options.limit is None else max(options.limit, 0)
        found, total = view.listed(asked, limit, ready=options.ready)
    if options.json:
        print_json(task_rows(catalog, found, total))
    elif found:
        _print_table([
            ("ID", "STATUS", "PRIORITY", "ASSIGNEE", "TITLE"),
            *(
                (
                    shown(task.id), str(task.status or task.status_word or "no status"), str(task.priority),
                    shown(", ".join(task.assignee)) or "-", shown(task.title),
                )
                for task in found
            ),
        ])  # fmt: skip
    return EXIT_DONE if found else EXIT_NOTHING


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows with their columns below each other, the first row as the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _show(options: Namespace) -> int:
    from ..report.answers import task_details  # noqa: PLC0415

    with service_of(options, acts=False) as service:
        row = task_details(service, service.find(options.id))
    if options.json:
        print_json(row)
        return EXIT_DONE
    for key, value in row.items():
        if key in ("body", "claim", "history", "ready"):
            continue
        print(f"{key:10} {', '.join(value) if isinstance(value, list | tuple) else value or '-'}")
    if "claim" in row:
        print(f"{'held by':10} {row['claim']['holder']}, attempt {row['claim']['attempt']}")
    for attempt in row["history"]:
        print(_attempt_line(attempt))
    print(f"\n{row['body'].strip()}")
    return EXIT_DONE


def _attempt_line(attempt: Mapping[str, Any]) -> str:
    why = f": {shown(attempt['why'])}" if attempt.get("why") else ""
    how = f" {_OUTCOMES.get(attempt['outcome'], attempt['outcome'])}{why}" if attempt.get("outcome") else ""
    span = (
        f"{attempt['claimed'][:19]} to {attempt['ended'][:19]}" if how else f"since {attempt['claimed'][:19]}"
    )
    return f"attempt {attempt['attempt']} by {attempt['by']}, {span}{how}"


def _claim(options: Namespace) -> int:
    from ..core.assignment import AssignedTask  # noqa: PLC0415
    from ..report.answers import claim_answer  # noqa: PLC0415

    if bool(options.id) == options.next:
        raise UsageError("say which task: its ID, or --next")
    assigned = AssignedTask.of(os.environ)
    wanted, batch = _wanted(options) if options.next and not assigned else (None, None)
    with service_of(options, batch) as service:
        taken: tuple[Task, Hold] | str
        if assigned:
            assigned.require(options.id or assigned.task)
            taken = service.assigned(assigned)
        elif wanted is not None:
            taken = service.claim_next(wanted)
        else:
            taken = service.claim(options.id)
        if isinstance(taken, str):
            if options.json:
                print_json({"task": None, "reason": taken})
                return EXIT_NOTHING
            raise NothingToDo(taken)
        task, hold = taken
        if options.json:
            print_json(claim_answer(service, task, hold, os.environ))
        else:
            until = f"for {hold.expires_in:g} s of silence at most"
            print(f"{task.id} is yours: attempt {hold.attempt}, {until}")
    return EXIT_DONE


def _wanted(options: Namespace) -> tuple[Wanted, int | None]:
    """Return which task is asked for, and the batch that it is to be of."""
    from ..tasks.eligibility import Wanted  # noqa: PLC0415

    number = among = None
    if options.batch:
        from ..core.project import find_project  # noqa: PLC0415
        from ..queue.batches import tasks_of  # noqa: PLC0415

        number, among = tasks_of(find_project(Path.cwd(), os.environ), options.batch)
    complexity = options.complexity and Complexity(options.complexity)
    wanted = Wanted(
        project=options.project or "", complexity=complexity, among=among, has=frozenset(options.has)
    )
    return wanted, number


def _update(options: Namespace) -> int:
    from ..core.assignment import AssignedTask  # noqa: PLC0415
    from ..report.answers import changed, check_values  # noqa: PLC0415

    values = {key: getattr(options, key) for key in _EDITABLE if getattr(options, key) is not None}
    check_values(values)
    if not values and not options.status and not options.body:
        raise UsageError("say what to change: --status, --body or a key; see `hypervisor task update --help`")
    if options.status and AssignedTask.of(os.environ):
        raise Refused(
            "your task's status is set when you have ended; report it with complete, block or release"
        )
    with service_of(options) as service:
        notes = service.update(options.id, values, options.body) if values or options.body else []
        status = options.status and TaskStatus(options.status)
        claimed = _move(service, options.id, status, options.body) if status else {}
        answer = changed(service, options.id, not_changed=notes) | claimed
        for conflict in notes if not options.json else ():
            print(f"not changed: {conflict}")
        return _report(options, answer, "updated")


def _move(service: TaskService, name: str, status: TaskStatus, reason: str) -> dict[str, Any]:
    """Move a task; return what is known of a claim that this made."""
    from ..report.answers import claim_answer  # noqa: PLC0415

    if status is TaskStatus.CANCELLED:
        service.cancel(name, reason)
    elif status is TaskStatus.IN_PROGRESS:
        return claim_answer(service, *service.claim(name), os.environ)
    elif status in _MOVABLE:
        service.move(name, status)
    else:
        verb = "complete" if status is TaskStatus.DONE else "block"
        raise UsageError(f"--status {status}: use `hypervisor task {verb} {name}`, which says why as well")
    return {}


def _complete(options: Namespace) -> int:
    from ..tasks.completion import NO_OUTCOME, TaskCompletion  # noqa: PLC0415

    completion = TaskCompletion(
        outcome=Outcome.SUCCESS,
        status=TaskStatus.DONE,
        text=options.outcome or NO_OUTCOME,
        commit=options.commit,
        evidence=options.evidence,
    )
    return _end(options, completion, "done")


def _end(options: Namespace, completion: TaskCompletion, word: str) -> int:
    from ..core.assignment import AssignedTask  # noqa: PLC0415
    from ..report.answers import changed, reported  # noqa: PLC0415

    with service_of(options) as service:
        if assigned := AssignedTask.of(os.environ):
            assigned.require(options.id)
            return _report(options, reported(service, assigned, completion), f"reported as {word}")
        task = service.find(options.id)
        done = completion.status is TaskStatus.DONE is not task.status
        unclaimed = done and service.held(task) is None
        result = service.finish(options.id, completion, options.attempt)
        if unclaimed and task.verify:
            text = f"{task.id} was not claimed, and its verify was not run: `{shown(task.verify)}`"
            print(f"hypervisor: {text}", file=sys.stderr)
        return _report(options, changed(service, options.id, result["status"]), word)


def _block(options: Namespace) -> int:
    from ..tasks.completion import TaskCompletion  # noqa: PLC0415

    completion = TaskCompletion(
        outcome=Outcome.BLOCKED,
        status=TaskStatus.BLOCKED,
        text=options.reason,
        evidence=options.evidence,
        next_step=options.next,
    )
    return _end(options, completion, "blocked")


def _release(options: Namespace) -> int:
    from ..core.assignment import AssignedTask  # noqa: PLC0415
    from ..report.answers import changed, reported  # noqa: PLC0415

    with service_of(options) as service:
        if assigned := AssignedTask.of(os.environ):
            assigned.require(options.id)
            return _report(options, reported(service, assigned, options.reason), "reported as released")
        service.release(options.id, options.reason, options.attempt)
        return _report(options, changed(service, options.id), "released")


def _ask(options: Namespace) -> int:
    from ..core.assignment import AssignedTask  # noqa: PLC0415
    from ..report.answers import asked  # noqa: PLC0415

    with service_of(options) as service:
        assigned = AssignedTask.of(os.environ)
        answer = asked(service, assigned, options.id, options.question, options.choice, options.attempt)
    if options.json:
        print_json(answer)
    else:
        number = f"question {answer['question']}: " if "question" in answer else ""
        print(f"{number}{answer['result']}")
    return EXIT_DONE


def _receipt(options: Namespace) -> int:
    from ..report.answers import changed  # noqa: PLC0415

    if not options.line.strip():
        raise UsageError("the receipt is empty; say in one line what was done")
    with service_of(options) as service:
        service.receipt(options.id, options.line, options.item, failed=options.failed)
        return _report(options, changed(service, options.id), "receipt kept in")


def _report(options: Namespace, answer: Mapping[str, Any], word: str) -> int:
    if options.json:
        print_json(answer)
    else:
        task = answer["task"]
        print(f"{word}: {task['id']} ({task['path']}) is {task.get('status') or 'without a status'}")
    return EXIT_DONE
