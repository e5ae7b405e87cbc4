"""`hypervisor clean`: what runs have left, and is needed no more."""

from __future__ import annotations

import os
import re
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import UsageError, advice_for
from ..core.project import Project, find_project
from ..core.settings import settings_of
from ..orchestrator.run import remove_folders
from ..queue import leftovers, retention
from ..queue.batches import open_folder, store_of
from ..queue.retention import Kept, RetentionRule, in_words_of_size
from ..runners import outputs
from ..store.store import Store
from ..tasks.discovery import find_task_files
from .console import EXIT_DONE, EXIT_NOTHING, EXIT_REFUSED, print_json, shown, time_span

#: After which a worker that never worked on anything is forgotten.
_WORKER_SECONDS = 30 * 86400.0
_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
#: What is told of one thing: ``what`` is removed, compressed, would (be), kept or failed.
Row = dict[str, Any]


def age(text: str) -> float:
    """Return the seconds that an age such as ``30d`` stands for."""
    if text[-1:].isdigit():  # days, or seconds? what is removed is gone
        raise ArgumentTypeError(f"{text}: must have a unit, like 12h, 30d or 4w")
    return time_span(text)


def size(text: str) -> int:
    """Return the bytes that a size such as ``2G`` stands for."""
    if not (found := re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", text, re.IGNORECASE)):
        raise ArgumentTypeError(f"{text}: must be like 500M or 2G")
    return int(float(found[1]) * _BYTES[found[2].upper()])


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``clean`` what it takes."""
    clean = commands["clean"]
    clean.add_argument("--dry-run", action="store_true", help="show what would be removed; change nothing")
    clean.add_argument("--outputs", action="store_true",
                       help="only outputs of commands and agents; without a rule below, by the settings' "
                       "[retention]")  # fmt: skip
    clean.add_argument("--older-than", type=age, metavar="AGE",
                       help="remove outputs of batches that wrote none for this long: 12h, 30d")  # fmt: skip
    clean.add_argument("--larger-than", type=size, metavar="SIZE",
                       help="remove outputs of the oldest batches down to this size: 500M, 2G")  # fmt: skip
    clean.add_argument("--dir", metavar="D", help="outputs of the batch in this folder")
    clean.add_argument("--json", action="store_true", help="print one JSON document")
    clean.set_defaults(action=_clean)


def _clean(options: Namespace) -> int:
    rule = RetentionRule(older_than=options.older_than, larger_than=options.larger_than)
    if rule.removes and not (options.outputs or options.dir):
        raise UsageError("--older-than and --larger-than are rules for outputs; add --outputs")
    if options.dir:
        with open_folder(options.dir, cwd=str(Path.cwd()), write=False) as batch:
            settings = batch.store.settings
            rows: list[Row] = []
            if batch.project is None and not options.outputs:
                rows += _leftovers(batch.store, Path(batch.folder), (), dry_run=options.dry_run)
        found = retention.survey([(batch.id, batch.folder)])
        rows += _outputs(found, rule, settings, dry_run=options.dry_run)
    else:
        project = find_project(Path.cwd(), os.environ)
        settings = settings_of(project.state)
        if not rule.removes:
            rule = retention.rule_of(settings)
        rows = [] if options.outputs else list(_remains(project, settings, dry_run=options.dry_run))
        found = retention.survey(retention.batches_of(project))
        rows += _outputs(found, rule, settings, dry_run=options.dry_run)
        if rule.older_than is not None and not options.dry_run:
            rows += _tails(project, rule.older_than)
    return _tell(options, rows, rule)


def _remains(project: Project, settings: Mapping[str, Any], *, dry_run: bool) -> Iterator[Row]:
    """Remove agents' folders with nothing in them, and what the dead have left; yield what was done."""
    for one in remove_folders(project, dry_run=dry_run):
        held = _bytes_below(project.root / one["folder"]) if dry_run else 0
        yield {"kind": one["kind"], "name": one["folder"], "what": one["what"], "why": one["why"],
               "bytes": held}  # fmt: skip
    folders = {str(path.parent) for path in find_task_files(project.root, settings)}
    with store_of(project) as store:
        yield from _leftovers(store, project.state, folders, dry_run=dry_run, shown_from=project.root)


def _leftovers(
    store: Store | None,
    state: Path,
    task_folders: Collection[str],
    *,
    dry_run: bool,
    shown_from: Path | None = None,
) -> Iterator[Row]:
    """Remove drafts and locks of the dead; yield what was done."""
    if store is not None and not dry_run:
        store.rescuer.rescue()  # a dead worker's lock file says which of its claims cost an attempt
        store.claims.forget_workers(_WORKER_SECONDS)
    for path in leftovers.find(state, task_folders):
        row: Row = {"kind": "leftover", "name": os.path.relpath(path, shown_from or state), "what": "would",
                    "why": "nobody has written to it for long", "bytes": _bytes_below(path)}  # fmt: skip
        if not dry_run:
            try:
                leftovers.remove(path)
                row["what"] = "removed"
            except OSError as error:
                row |= {"what": "failed", "why": error.strerror or str(error)}
        yield row


def _outputs(
    found: list[Kept], rule: RetentionRule, settings: Mapping[str, Any], *, dry_run: bool
) -> Iterator[Row]:
    """Remove what the rule says, then compress what is left and may be; yield what was done."""
    known: dict[str, str] = {}

    def unfinished(kept: Kept) -> str:
        if kept.folder not in known:
            known[kept.folder] = retention.unfinished(kept.folder)
        return known[kept.folder]

    gone = set()
    for one in retention.choose(found, rule, time.time(), unfinished):
        row: Row = {"kind": "outputs", "name": one.kept.batch, "what": "kept", "why": one.stays or one.why,
                    "bytes": one.kept.size.bytes}  # fmt: skip
        if not one.stays:
            gone.add(one.kept.batch)
            row["what"] = "would"
            if not dry_run:
                row |= _removed(one.kept, one.why)
        yield row
    for kept in found:
        plain = outputs.compress(kept.logs, dry_run=True)
        if kept.batch in gone or not plain.files or not settings["retention"]["compress"]:
            continue
        if not unfinished(kept):
            yield {"kind": "outputs", "name": kept.batch, "what": "would", "bytes": plain.before,
                   "why": "can be compressed"} if dry_run else _compressed(kept)  # fmt: skip


def _tails(project: Project, older_than: float) -> Iterator[Row]:
    """Remove the ends of old outputs from a store of many machines; yield what was done."""
    with store_of(project) as store:
        count = store.tails.forget(older_than) if store is not None and store.shared else 0
    if count:
        age = retention.in_words_of_time(older_than)
        yield {"kind": "outputs", "name": "in the store", "what": "removed", "bytes": 0,
               "why": f"the ends of {count} outputs, older than {age}"}  # fmt: skip


def _removed(kept: Kept, why: str) -> Row:
    try:
        freed = outputs.remove(kept.logs, kept.size.newest)
    except OSError as error:
        return {"what": "failed", "why": f"{error.strerror}; {advice_for(error)}"}
    if freed.files < kept.size.files:
        why = f"{why}; {kept.size.files - freed.files} file(s) are in use, and stay"
    return {"what": "removed", "why": why, "bytes": freed.bytes}


def _compressed(kept: Kept) -> Row:
    row: Row = {"kind": "outputs", "name": kept.batch, "what": "failed", "bytes": 0}
    try:
        packed = outputs.compress(kept.logs)
    except OSError as error:
        return {**row, "why": f"{error.strerror}; {advice_for(error)}"}
    left = "".join(f"; {shown(name)}: {why}" for name, why in list(packed.left.items())[:3])
    what = "compressed" if packed.files else "kept"
    why = f"{retention.in_words(packed)}{left}"
    return {**row, "what": what, "bytes": packed.before - packed.after, "why": why}


def _bytes_below(path: Path) -> int:
    """Return how many bytes of files lie at or below *path*."""
    if not path.is_dir():
        return path.lstat().st_size if path.exists() else 0
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _tell(options: Namespace, rows: list[Row], rule: RetentionRule) -> int:
    changed = ("would",) if options.dry_run else ("removed", "compressed")
    freed = sum(row["bytes"] for row in rows if row["what"] in changed)
    if options.json:
        print_json({"dry_run": options.dry_run, "bytes": freed, "rows": rows})
    for row in rows if not options.json else ():
        about = f" ({in_words_of_size(row['bytes'])})" if row["bytes"] else ""
        print(f"{row['what']:10} {row['kind']} {shown(row['name'])}{about}"
              + (f": {shown(row['why'])}" if row["why"] else ""))  # fmt: skip
    if rows and not options.json:
        word = "would be freed, or become smaller" if options.dry_run else "freed"
        print(f"{in_words_of_size(freed)} {word}")
    if options.outputs and not rule.removes:
        print("no output is removed without a rule: add --older-than 30d or --larger-than 2G, or set "
              "[retention] in .hypervisor/config.toml", file=sys.stderr)  # fmt: skip
    elif not rows:
        print("nothing to clean", file=sys.stderr)
    if any(row["what"] == "failed" for row in rows):
        return EXIT_REFUSED
    return EXIT_DONE if any(row["what"] in changed for row in rows) else EXIT_NOTHING
