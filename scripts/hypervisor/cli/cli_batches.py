"""`hypervisor summary`, and what recovers batches: `reap`, `retry`, `cancel`, `undo`."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..core import config
from ..core.errors import UsageError
from ..core.paths import find_project
from ..tasks.tasklist import Caller
from .cli_naming import batch_of, names_batch
from .console import EXIT_DONE, EXIT_NOTHING, EXIT_REFUSED, print_json, shown

if TYPE_CHECKING:
    from ..tasks.desk import Desk


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``summary``, ``reap``, ``retry``, ``cancel`` and ``undo`` what they take."""
    for name, action in _ACTIONS.items():
        commands[name].set_defaults(action=action)
        commands[name].add_argument("--json", action="store_true", help="print one JSON document")
    for name in ("summary", "retry", "cancel", "undo"):
        names_batch(commands[name])
    reap, retry, cancel = (commands[name] for name in ("reap", "retry", "cancel"))
    reap.add_argument("--dir", metavar="D", help="the folder of a batch; without it: this project")
    retry.add_argument("--item", action="append", default=[], help="only this item; may be repeated")
    retry.add_argument("--failed", action="store_true", help="those that failed (the default)")
    retry.add_argument("--blocked", action="store_true", help="those that are blocked")
    cancel.add_argument("--item", action="append", default=[], help="this item; may be repeated")
    cancel.add_argument("--all", action="store_true", help="every item that has no result yet")


def _desk() -> Desk:
    from ..tasks.desk import Desk  # noqa: PLC0415 - not for every command

    project = find_project(Path.cwd(), os.environ)
    return Desk(project, config.settings_of(project.state), Caller(name="hypervisor"))


def _summary(options: Namespace) -> int:
    from ..queue.summary import finding_lines, summarise  # noqa: PLC0415 - not for every command

    batch = batch_of(options)
    data, census = summarise(batch)
    if options.json:
        print_json(data)
        return EXIT_DONE if census.closes else EXIT_REFUSED
    print(f"batch {batch.id}")
    for row in data["workers"]:
        took = f" ({row['seconds']:g} s)" if row.get("seconds") is not None else ""
        text = row.get("outcome") or row.get("reason") or ""
        print(f"  {row['status']:8} {shown(str(row['task_id']))}: {shown(text)}{took}")
    print(census.line())
    for need in data["needs_you"]:
        print(f"needs you: {shown(str(need['task_id']))}: {shown(need['reason'])}; {need['next']}")
    for line in finding_lines(data):
        print(line)
    if not census.closes:
        print(f"the census does not close; damaged: {', '.join(census.damaged[:3])}")
    return EXIT_DONE if census.closes else EXIT_REFUSED


def _reap(options: Namespace) -> int:
    from ..queue import operations  # noqa: PLC0415 - for this command only
    from ..queue.batches import open_folder  # noqa: PLC0415

    if options.dir:
        batch = open_folder(options.dir, cwd=str(Path.cwd()), write=False)
        with operations.stores("reap") as opened:
            freed = opened.of(batch.folder).reap()
    else:
        freed = _desk().reap()
    return _tell(options, "freed", freed, "nothing to free: no claim of the dead or the silent")


def _retry(options: Namespace) -> int:
    from ..queue import operations  # noqa: PLC0415 - for this command only

    states = {"blocked"} if options.blocked and not options.failed else {"failed"}
    if options.blocked and options.failed:
        states = {"failed", "blocked"}
    if options.item and not (options.failed or options.blocked):
        states = {"failed", "blocked", "skipped", "success"}
    opened = operations.retry(batch_of(options), options.item, states)
    return _tell(
        options, "waiting again", opened, f"nothing to open again: no item is {' or '.join(sorted(states))}"
    )


def _cancel(options: Namespace) -> int:
    from ..queue import operations  # noqa: PLC0415 - for this command only

    if not options.item and not options.all:
        raise UsageError("say which: --item ITEM, or --all for every item that has no result yet")
    cancelled = operations.cancel(batch_of(options), options.item)
    return _tell(options, "cancelled", cancelled, "nothing to cancel: every item has its result")


def _undo(options: Namespace) -> int:
    from ..queue import operations  # noqa: PLC0415 - for this command only

    put_back, left = operations.undo(batch_of(options))
    if options.json:
        print_json({"put_back": put_back, "left": left})
    else:
        print(f"put back: {len(put_back)} file(s)")
        for line in left:
            print(f"left, as it was changed since: {line}")
    if left:
        return EXIT_REFUSED
    return EXIT_DONE if put_back else EXIT_NOTHING


def _tell(options: Namespace, word: str, items: list[str], nothing: str) -> int:
    if options.json:
        print_json({word.replace(" ", "_"): items})
    elif items:
        for item in items:
            print(f"{word}: {shown(item)}")
    else:
        print(nothing)
    return EXIT_DONE if items else EXIT_NOTHING


_ACTIONS = {
    "summary": _summary, "reap": _reap, "retry": _retry, "cancel": _cancel, "undo": _undo,
}  # fmt: skip
