"""Commands that recover batches: `reap`, `retry`, `cancel`, `undo`."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path

from ..core.errors import UsageError
from ..core.project import find_project
from ..core.settings import settings_of
from .console import EXIT_DONE, EXIT_NOTHING, EXIT_REFUSED, print_json, shown
from .naming import batch_of, names_batch

#: Merge commits that `undo` names.
_MERGES = 8


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``reap``, ``retry``, ``cancel`` and ``undo`` what they take."""
    for name, action in _ACTIONS.items():
        commands[name].set_defaults(action=action)
        commands[name].add_argument("--json", action="store_true", help="print one JSON document")
    for name in ("retry", "cancel", "undo"):
        names_batch(commands[name])
    reap, retry, cancel = (commands[name] for name in ("reap", "retry", "cancel"))
    reap.add_argument("--dir", metavar="D", help="folder of a batch (default: this project)")
    retry.add_argument("--item", action="append", default=[], help="only this item; may be repeated")
    retry.add_argument("--failed", action="store_true", help="failed items (the default)")
    retry.add_argument("--blocked", action="store_true", help="blocked items")
    cancel.add_argument("--item", action="append", default=[], help="this item; may be repeated")
    cancel.add_argument("--all", action="store_true", help="every item without a result")


def _reap(options: Namespace) -> int:
    if options.dir:
        from ..queue import operations  # noqa: PLC0415 - for this command only
        from ..queue.batches import open_folder  # noqa: PLC0415

        with open_folder(options.dir, cwd=str(Path.cwd()), write=False) as batch:
            freed = operations.settle(batch)
    else:
        from ..tasks.actor import Actor  # noqa: PLC0415 - for this command only
        from ..tasks.service import TaskService  # noqa: PLC0415

        project = find_project(Path.cwd(), os.environ)
        with TaskService(project, settings_of(project.state), Actor(name="hypervisor")) as service:
            freed = service.rescue()
    return _tell(options, "freed", freed, "nothing to reclaim: every claim has a live holder")


def _retry(options: Namespace) -> int:
    from ..queue import operations  # noqa: PLC0415 - for this command only

    states = {"blocked"} if options.blocked and not options.failed else {"failed"}
    if options.blocked and options.failed:
        states = {"failed", "blocked"}
    if options.item and not (options.failed or options.blocked):
        states = {"failed", "blocked", "skipped", "success"}
    with batch_of(options) as batch:
        opened = operations.retry(batch, options.item, states)
    return _tell(
        options, "waiting again", opened, f"nothing to reopen: no item is {' or '.join(sorted(states))}"
    )


def _cancel(options: Namespace) -> int:
    from ..queue import operations  # noqa: PLC0415 - for this command only

    if not options.item and not options.all:
        raise UsageError("say which: --item ITEM, or --all for every item that has no result yet")
    with batch_of(options, write=True) as batch:
        cancelled = operations.cancel(batch, options.item)
    return _tell(options, "cancelled", cancelled, "nothing to cancel: every item has its result")


def _undo(options: Namespace) -> int:
    from ..queue import operations  # noqa: PLC0415 - for this command only

    with batch_of(options) as batch:
        put_back, left = operations.undo(batch)
        merges = operations.merges_of(batch)
    if options.json:
        print_json({"put_back": put_back, "left": left, "merges": merges})
    else:
        nothing = "nothing left to undo: no file has a change of this batch"
        print(f"restored: {len(put_back)} file(s)" if put_back or left else nothing)
        if merges and (put_back or left):
            some = " ".join(commit[:12] for commit in merges[:_MERGES])
            more = f" ... ({len(merges)} in all)" if len(merges) > _MERGES else ""
            print(f"merged commits stay; `git revert -m 1 {some}`{more} takes them back")
        for line in left:
            print(f"not restored: {line}")
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


_ACTIONS = {"reap": _reap, "retry": _retry, "cancel": _cancel, "undo": _undo}
