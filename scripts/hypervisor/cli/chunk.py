"""`hypervisor chunk`: cuts work into chunks, and keeps what workers say of their items."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import NothingToDo, UsageError
from ..core.project import find_project
from ..core.settings import settings_of
from ..core.text import now_text
from ..review.approvals import begin_dry_run, require_approved, require_shown
from ..review.notes import add_notes, read_noted, write_note_files
from ..review.plan import PLAN, ChunkedBatch, ChunkPlan, chunks_data, make_chunked
from ..review.records import RecordReading, items_of, read_queue, read_records, read_tasks
from ..review.split import Chunk, Cut, cut, unplaced
from ..store.review_records import ApprovalGate, ChunkItem, Note
from ..store.store import Store
from . import checkpoint, chunk_run
from .chunk_batch import chunked_of, on_chunked, task_folder
from .console import EXIT_DONE, EXIT_NOTHING, Parser, print_json, shown

#: How often the files that people read are written while notes come in.
_FILES_SECONDS = 0.5


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``chunk`` and ``checkpoint`` what they take."""
    command = commands["chunk"]
    what = command.add_mutually_exclusive_group()
    what.add_argument(
        "--records",
        metavar="FILE",
        help="a .jsonl, .csv or .tsv file; - reads JSON lines from standard input",
    )
    what.add_argument("--queue", metavar="FILE", help="a file with one item per line")
    what.add_argument("--tasks", metavar="GLOB", help="task files")
    what.add_argument("--noted", metavar="D", help="items that the workers of the batch in D noted")
    command.add_argument("--as", dest="noted_as", action="append", default=[], metavar="CATEGORY",
                         help="with --noted: only this category; may be repeated")  # fmt: skip
    command.add_argument("--bulk", action="append", default=[], metavar="TOOL",
                         help="tool of a bulk action, denied until its dry run is approved: a name with *, "
                         "or 'Bash(COMMAND *)'; may be repeated")  # fmt: skip
    command.add_argument("-0", dest="nul", action="store_true", help="items of --queue end with NUL")
    command.add_argument("--by", metavar="BY", help="day:FIELD, week:FIELD, month:FIELD, FIELD or size:N; "
                         "without it: equal parts of at most 50")  # fmt: skip
    command.add_argument("--max", type=int, metavar="N", help="split larger groups into equal parts")
    command.add_argument("--zone", metavar="ZONE", help="time zone of days (default: UTC); `own`: as written")
    command.add_argument("--id", dest="id_field", metavar="FIELD", help="field that identifies a record")
    command.add_argument("--dir", metavar="D", help="save the plan in this folder; created if missing")
    command.add_argument("--task", metavar="ID", help="save it in the folder of the batch of this task")
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.set_defaults(action=_chunk)
    verbs = command.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    chunk_run.add_run(verbs)
    items = _verb(verbs, "items", "the ids of a chunk's items, a line each", _items)
    items.add_argument("chunk", nargs="?", metavar="CHUNK", help="default: the worker's own")
    items.add_argument("--left", action="store_true", help="only items without a note")
    items.add_argument("-0", dest="nul", action="store_true", help="end each with NUL")
    note = _verb(verbs, "note", "record the decision on an item", _note)
    note.add_argument("chunk", metavar="CHUNK")
    note.add_argument(
        "item", metavar="ITEM", help="item id; - reads JSON lines with item, category, rationale"
    )
    note.add_argument("--category", metavar="C")
    note.add_argument("--rationale", default="", metavar="R")
    checkpoint.add_checkpoint(commands["checkpoint"])


def _verb(verbs: Any, name: str, text: str, action: Any) -> ArgumentParser:
    made: ArgumentParser = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
    # Suppressed, or they would overwrite what stands before the verb.
    made.add_argument("--dir", metavar="D", default=SUPPRESS, help="folder of a batch")
    made.add_argument("--task", metavar="ID", default=SUPPRESS, help="the batch of this task")
    made.add_argument("--json", action="store_true", default=SUPPRESS, help="print one JSON document")
    made.set_defaults(action=on_chunked(action))
    return made


# -------------------------------------------------------------------------- cut


def _chunk(options: Namespace) -> int:
    if not (options.records or options.queue or options.tasks or options.noted):
        raise UsageError("say what to cut: --records FILE, --queue FILE, --tasks GLOB or --noted D")
    if options.noted_as and not options.noted:
        raise UsageError("--as names a category of --noted D; give both")
    folder = _destination(options)
    if options.bulk and folder is None:
        raise UsageError("--bulk needs a batch that is kept: --dir D, or --task ID")
    if folder is None:
        plan, fresh, reading = _planned(options, None, {})
    else:
        plan, fresh, reading = _kept(options, folder)
    for line in reading.notes:
        print(f"hypervisor: {shown(line)}", file=sys.stderr)
    if options.json:
        print_json({"chunks": chunks_data(fresh)})
    else:
        for chunk in fresh:
            print(f"{chunk.id}  {shown(chunk.label):24} {len(chunk.items):6}")
        count = sum(len(chunk.items) for chunk in fresh)
        print(f"{len(fresh)} {'new ' if folder else ''}chunk(s) of {count} items, by {plan.cut.text}"
              + (f"; the plan is {folder / PLAN}" if folder else ""))  # fmt: skip
    return EXIT_DONE if fresh else EXIT_NOTHING


def _kept(options: Namespace, folder: Path) -> tuple[ChunkPlan, list[Chunk], RecordReading]:
    """Keep what is new in a plan; return the plan, the chunks that are new in it, and what was read."""
    # Before the folder is made: what cannot be cut leaves nothing behind.
    first = None if folder.exists() else _planned(options, None, {})
    gate = ApprovalGate(folder=str(folder), task=options.task or "", patterns=tuple(options.bulk))
    if first and gate.patterns:
        _add_gate(gate)
    made = make_chunked(folder, options.bulk)
    with made.batch:
        before = made.plan() if made.exists() else None
        known = made.review.items(made.number)
        plan, fresh, reading = first if first and before is None else _planned(options, before, known)
        if before is not None and plan.bulk and fresh:
            raise UsageError(
                f"{folder}: acts in bulk, and takes in nothing more; cut what is new in another folder"
            )
        if plan.bulk:
            _add_gate(ApprovalGate(folder=str(folder), task=plan.task, patterns=plan.bulk))
        if fresh or before is None:
            plan = made.keep(plan, [record for record in reading.records if record.id not in known])
        begin_dry_run(made, plan)
        return plan, fresh, reading


def _add_gate(gate: ApprovalGate) -> None:
    """Shut the gate of a bulk action before its batch is made, so that a crash leaves none open."""
    project = find_project(Path.cwd(), os.environ)
    project.prepare()
    with Store.open(project.state, settings_of(project.state)) as store:
        store.review.add_gate(gate)


def _planned(
    options: Namespace, before: ChunkPlan | None, known: Mapping[str, ChunkItem]
) -> tuple[ChunkPlan, list[Chunk], RecordReading]:
    """Return the plan, the chunks that are new in it, and what was read."""
    how = _how(options, before)
    cwd = str(Path.cwd())
    id_field = options.id_field if options.id_field is not None or before is None else before.id_field
    if options.records:
        digests = {name: item.digest for name, item in known.items()}
        reading = read_records(options.records, id_field, digests)
    elif options.queue:
        reading = read_queue(options.queue, nul=options.nul, cwd=cwd)
    elif options.noted:
        noted = chunked_of(Namespace(dir=options.noted))
        with noted.batch:
            reading = read_noted(noted, options.noted_as)
    else:
        reading = read_tasks(find_project(Path.cwd(), os.environ), options.tasks)
    if not reading.records and before is None:
        raise NothingToDo("there is nothing to cut")
    by = how.field if how.kind in ("span", "category") else ""
    items = items_of(reading.records, by)
    left_out = before.left_out if before else ()
    existing = [*(before.chunks if before else ())]
    aside = Chunk(id="chunk-0", label="", items=left_out)  # in no chunk, and it stays so
    fresh = cut(items, how, [*existing, aside] if left_out else existing)
    lost = unplaced([item for item in items if item.id not in known], how)
    if lost:
        what = "date" if how.kind == "span" else "value"
        if len(lost) == len(items):
            raise UsageError(f"no item has a usable {what} in {how.field!r}, like {items[0].value!r}")
        reading.notes.append(f"{len(lost)} item(s) have no usable {what} in {how.field!r}, like {lost[0]!r}; "
                             f"they are in the last chunk")  # fmt: skip
    plan = ChunkPlan(
        by=before.by if before else options.by or "", zone=how.zone, most=how.most,
        id_field=reading.id_field if options.records else (before.id_field if before else ""),
        base=before.base if before else cwd, task=(before.task if before else options.task) or "",
        chunks=(*existing, *fresh), left_out=left_out, bulk=before.bulk if before else tuple(options.bulk),
        version=before.version if before else 0,
    )  # fmt: skip
    return plan, fresh, reading


def _how(options: Namespace, before: ChunkPlan | None) -> Cut:
    if before is None:
        return Cut.of(options.by or "", options.max if options.max is not None else 0, options.zone or "UTC")
    for name, said, was in (
        ("--by", options.by, before.by),
        ("--max", options.max, before.most),
        ("--zone", options.zone, before.zone),
    ):
        if said is not None and said != was:
            raise UsageError(f"{name} {said}: this plan was made with {was or 'none'}; leave {name} away, "
                             f"or name another folder")  # fmt: skip
    if options.bulk and tuple(options.bulk) != before.bulk:
        raise UsageError("--bulk: this plan was made with other tools, or none; name another folder")
    return before.cut


def _destination(options: Namespace) -> Path | None:
    if options.dir and options.task:
        raise UsageError("--dir and --task name two folders; omit one")
    if options.dir:
        return Path(options.dir).resolve()
    if not options.task:
        return None
    found = task_folder(options.task)
    if found is None:
        project = find_project(Path.cwd(), os.environ)
        project.prepare()
        stamp = now_text()[:19].replace("-", "").replace(":", "")
        found = project.batches / f"{stamp}-{os.urandom(3).hex()}-batch-{options.task}"
    return found.resolve()


# ---------------------------------------------------------------------- a chunk


def _items(options: Namespace, made: ChunkedBatch) -> int:
    name = _chunk_id(options.chunk or os.environ.get("HYPERVISOR_CHUNK_ID", ""))
    if not name:
        raise UsageError("say which chunk, like chunk-01")
    begun = made.review.begun(made.number).get(name)
    items = list(begun.items if begun else made.plan().chunk(name).items)
    if options.left:
        noted = made.review.notes(made.number, name)
        items = [item for item in items if item not in noted]
    if options.json:
        print_json({"chunk": name, "items": items})
    else:
        end = b"\0" if options.nul else b"\n"
        sys.stdout.flush()
        sys.stdout.buffer.write(b"".join(os.fsencode(item) + end for item in items))
    return EXIT_DONE if items else EXIT_NOTHING


def _note(options: Namespace, made: ChunkedBatch) -> int:
    name = _chunk_id(options.chunk)
    begun = made.review.begun(made.number)
    if name not in begun:  # a worker of a session, which no `chunk run` has started
        plan = made.take_in()
        require_approved(made, plan)
        require_shown(made, plan, [name])
        made.review.begin_chunks(made.number, plan.items_of([name]))
        made.write_chunk(name)
        begun = made.review.begun(made.number)
    given = os.environ.get("HYPERVISOR_CHUNK_REVISION", "")
    mine = given.isdecimal() and os.environ.get("HYPERVISOR_CHUNK_ID") == name
    revision = int(given) if mine else begun[name].revision
    if options.item == "-":
        new = _notes_from_stdin(made, name, revision, frozenset(begun[name].items))
    elif options.category:
        note = Note(item=options.item, category=options.category, rationale=options.rationale)
        new = add_notes(made, name, revision, [note])
    else:
        raise UsageError(f"say what became of {options.item}: --category C --rationale R")
    write_note_files(made, name)
    done, total = len(made.review.notes(made.number, name)), len(begun[name].items)
    if options.json:
        print_json({"chunk": name, "new": new, "processed": done, "items": total})
    else:
        print(f"{name}: {done} of {total} noted" + ("" if new else "; nothing new"))
    return EXIT_DONE


def _notes_from_stdin(made: ChunkedBatch, chunk: str, revision: int, items: Collection[str]) -> int:
    """Keep each note as soon as it is read: a crash of its writer loses what it has not written."""
    new, written = 0, time.monotonic()
    try:
        for number, note in _read_notes():
            try:
                new += add_notes(made, chunk, revision, [note], items)
            except UsageError as error:
                raise UsageError(f"line {number}: {error}") from None
            if time.monotonic() > written + _FILES_SECONDS:
                write_note_files(made, chunk)
                written = time.monotonic()
    except BaseException:
        write_note_files(made, chunk)
        raise
    return new


def _read_notes() -> Iterator[tuple[int, Note]]:
    number = 0
    while line := sys.stdin.buffer.readline():
        number += 1
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            note = Note(item=str(data["item"]), category=str(data["category"]),
                        rationale=str(data.get("rationale") or ""))  # fmt: skip
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(
                f'line {number}: not like {{"item": "m-1", "category": "keep", "rationale": "..."}} ({error})'
            ) from None
        yield number, note


def _chunk_id(name: str) -> str:
    """Return a chunk's id: a worker may as well name its file."""
    return Path(name).stem if "/" in name else name
