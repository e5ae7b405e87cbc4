"""`hypervisor receipts verify`: does what is written down of the work agree?"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ..core.errors import NothingToDo, Refused, UsageError
from ..core.project import find_project
from ..core.settings import settings_of
from ..queue.batch import Batch
from ..queue.batches import open_named
from ..review.plan import ChunkedBatch, open_chunked
from ..review.receipt_audit import Audit, audit_chunks, audit_task
from ..tasks.actor import Actor
from ..tasks.service import TaskService
from .console import EXIT_DONE, EXIT_NOTHING, EXIT_REFUSED, Parser, print_json, shown

#: How many mismatches are shown to a person.
_SHOWN = 50


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``receipts`` what it takes."""
    verbs = commands["receipts"].add_subparsers(
        dest="verb", metavar="VERB", required=True, parser_class=Parser
    )
    text = "name what does not agree: receipts, bodies and results; of chunks notes and summaries too"
    verify: ArgumentParser = verbs.add_parser("verify", help=text, description=text, allow_abbrev=False)
    verify.add_argument("name", nargs="?", metavar="BATCH|TASK", help="default: the newest batch")
    verify.add_argument("--dir", metavar="D", help="the folder of a batch that is cut into chunks")
    verify.add_argument("--mend", action="store_true", help="restore receipts that were removed from a task")
    verify.add_argument("--json", action="store_true", help="print one JSON document")
    verify.set_defaults(action=_verify)
    text = "ask before an irreversible action on an item: exit 0 do it, 3 already done, 1 unknown"
    begin: ArgumentParser = verbs.add_parser("begin", help=text, description=text, allow_abbrev=False)
    begin.add_argument("task", metavar="TASK")
    begin.add_argument("item", metavar="ITEM", help="as in `task receipt --item`")
    begin.add_argument("--again", action="store_true", help="an earlier begin did not lead to the action")
    begin.add_argument("--json", action="store_true", help="print one JSON document")
    begin.set_defaults(action=_begin)


def _service() -> TaskService:
    project = find_project(Path.cwd(), os.environ)
    return TaskService(project, settings_of(project.state), Actor(name=""))


def _begin(options: Namespace) -> int:
    if not options.item.strip():
        raise UsageError("the item is empty; name what the receipt will be for")
    with _service() as service:
        answer = service.begin_receipt(options.task, options.item, again=options.again)
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
    if options.dir and options.name:
        raise UsageError(f"{options.name} and --dir {options.dir} name two things; omit one")
    audit = Audit()
    with _service() as service:
        if options.dir:
            made = open_chunked(Path(options.dir))
            with made.batch:
                _verify_chunked(audit, service, made, options)
        elif options.name and service.store.batches.find(options.name) is None:
            task = service.find(options.name)
            audit_task(audit, service.store, service.key(task), task, service.result(task), mend=options.mend)
        else:
            with open_named(service.project, options.name or "") as batch:
                _verify_batch(audit, service, batch, options)
    return _report(options, audit)


def _verify_batch(audit: Audit, service: TaskService, batch: Batch, options: Namespace) -> None:
    made = ChunkedBatch(batch)
    if made.exists():
        _verify_chunked(audit, service, made, options)
        return
    _refuse_mend(options)
    for item in batch.store.batches.items(batch.number):
        ref = batch.ref_of(item.work)
        if not ref.task:
            continue
        try:
            task = service.find(ref.item)
        except UsageError as error:
            audit.add(ref.item, "unreadable", str(error))
            continue
        audit_task(audit, service.store, ref.key, task, item.work.result)


def _verify_chunked(audit: Audit, service: TaskService, made: ChunkedBatch, options: Namespace) -> None:
    _refuse_mend(options)
    audit_chunks(audit, made)
    if made.plan().task:
        task = service.find(made.plan().task)
        audit_task(audit, service.store, service.key(task), task, service.result(task))


def _refuse_mend(options: Namespace) -> None:
    if options.mend:
        raise UsageError("--mend works on one task; name it")


def _report(options: Namespace, audit: Audit) -> int:
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
