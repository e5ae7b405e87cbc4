"""`hypervisor receipts verify`: does what is written down of the work agree?"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ..core.config import settings_of
from ..core.errors import NothingToDo, Refused, UsageError
from ..core.paths import find_project
from ..queue.batches import open_named
from ..review.chunked import ChunkedBatch
from ..review.trail import Audit, audit_batch, audit_chunks, audit_task
from ..tasks.desk import Desk
from ..tasks.tasklist import Caller
from ..tasks.tasks import mend_receipts
from .console import EXIT_DONE, EXIT_NOTHING, EXIT_REFUSED, Parser, print_json, shown

#: How many mismatches are shown to a person.
_SHOWN = 50


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``receipts`` what it takes."""
    verbs = commands["receipts"].add_subparsers(
        dest="verb", metavar="VERB", required=True, parser_class=Parser
    )
    text = "name what does not agree: receipts, ledger, results, events; of chunks notes and summaries too"
    verify: ArgumentParser = verbs.add_parser("verify", help=text, description=text, allow_abbrev=False)
    verify.add_argument("name", nargs="?", metavar="BATCH|TASK", help="without it: the newest batch")
    verify.add_argument("--dir", metavar="D", help="the folder of a batch that is cut into chunks")
    verify.add_argument("--mend", action="store_true", help="first put missing receipts of a task back in")
    verify.add_argument("--json", action="store_true", help="print one JSON document")
    verify.set_defaults(action=_verify)
    text = (
        "before what cannot be undone: may this item be done now? Exit 0 go, 3 it has its receipt, 1 in doubt"
    )
    begin: ArgumentParser = verbs.add_parser("begin", help=text, description=text, allow_abbrev=False)
    begin.add_argument("task", metavar="TASK")
    begin.add_argument("item", metavar="ITEM", help="what `task receipt --item` will name")
    begin.add_argument(
        "--again", action="store_true", help="it was begun, and is known not to have been done"
    )
    begin.add_argument("--json", action="store_true", help="print one JSON document")
    begin.set_defaults(action=_begin)


def _desk() -> Desk:
    project = find_project(Path.cwd(), os.environ)
    return Desk(project, settings_of(project.state), Caller(name=""))


def _begin(options: Namespace) -> int:
    if not options.item.strip():
        raise UsageError("the item is empty; name what the receipt will be for")
    answer = _desk().begin_receipt(options.task, options.item, again=options.again)
    if options.json:
        print_json({"item": options.item, "answer": answer})
    if answer == "in doubt":
        raise Refused(
            f"{options.item}: was begun before and has no receipt; look whether it was done: if so, "
            f"write its receipt, else begin it with --again"
        )
    if answer == "done":
        raise NothingToDo(f"{options.item}: has its receipt already")
    return EXIT_DONE


def _verify(options: Namespace) -> int:
    desk = _desk()
    project = desk.project
    audit = Audit()
    if options.dir and options.name:
        raise UsageError(f"{options.name} and --dir {options.dir} name two things; leave one away")
    folder = Path(options.dir) if options.dir else project.batches / options.name if options.name else None
    if folder is None or options.dir or folder.is_dir():
        _verify_batch(audit, desk, folder, options)
    else:
        task = desk.find(options.name)
        if options.mend:
            mend_receipts(Path(task.path))
        audit_task(audit, project, task)
    return _tell(options, audit)


def _verify_batch(audit: Audit, desk: Desk, folder: Path | None, options: Namespace) -> None:
    if options.mend:
        raise UsageError("--mend works on one task; name it")
    named = Path(open_named(desk.project, "").folder) if folder is None else folder
    made = ChunkedBatch(named.resolve())
    if not made.exists():
        if options.dir:
            raise UsageError(f"{options.dir}: not cut into chunks; name a batch of the project, or a task")
        audit_batch(audit, open_named(desk.project, named.name), desk)
        return
    audit_chunks(audit, made, made.open())
    task = made.plan().task
    if task:
        audit_task(audit, desk.project, desk.find(task))


def _tell(options: Namespace, audit: Audit) -> int:
    found = audit.mismatches
    if options.json:
        print_json({
            "receipts": audit.receipts, "notes": audit.notes, "looked_at": audit.places,
            "mismatches": [{"where": one.where, "kind": one.kind, "text": one.text} for one in found],
        })  # fmt: skip
    else:
        for one in found[:_SHOWN]:
            print(f"{one.kind:14} {shown(one.where)}: {shown(one.text, 300)}")
        if len(found) > _SHOWN:
            print(f"{len(found) - _SHOWN} more; --json names them")
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(one.kind for one in found).items())
        told = f"{audit.receipts} receipts" + (f", {audit.notes} notes" if audit.notes else "")
        print(f"{told}: {kinds or 'all agree'}")
    if found:
        return EXIT_REFUSED
    return EXIT_DONE if audit.receipts or audit.notes else EXIT_NOTHING
