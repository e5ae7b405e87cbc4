"""`hypervisor events`: what happened, a line each; with ``--follow`` as it happens."""

from __future__ import annotations

import contextlib
import json
import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from ..core.project import Project, find_project
from ..core.settings import settings_of
from ..queue.batches import begun_since
from ..report.ends import EventReader, event_line
from ..store.store import Store
from ..store.waiting import TICK_SECONDS, wait_until
from .console import EXIT_DONE, EXIT_NOTHING, shown
from .naming import batch_of


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``events`` what it takes."""
    events = commands["events"]
    events.add_argument("batch", nargs="?", metavar="BATCH", help="only events of this batch")
    events.add_argument("--dir", metavar="D", help="folder of a batch")
    events.add_argument("--task", metavar="ID", help="only events of this task or item")
    events.add_argument("--since", type=int, metavar="N", help="only events after the one with id N")
    events.add_argument("--follow", action="store_true", help="continue with new events until interrupted")
    events.add_argument("--json", action="store_true", help="print one JSON document per line")
    events.set_defaults(action=_events)


def _events(options: Namespace) -> int:
    if options.since is not None and options.since < 0:
        raise UsageError(f"--since {options.since}: must be 0 or more")
    with contextlib.ExitStack() as stack:
        found = _opened(options, stack)
        if found is None:
            return EXIT_NOTHING
        store, project, batch = found
        reader = EventReader(store, project, place=options.since or 0, batch=batch)
        count = _print(options, reader.new())
        with contextlib.suppress(KeyboardInterrupt):
            while options.follow:
                _print(options, wait_until(store, lambda: reader.new() or None, None) or [])
        return EXIT_DONE if count or options.follow else EXIT_NOTHING


def _opened(
    options: Namespace, stack: contextlib.ExitStack
) -> tuple[Store, Project | None, int | None] | None:
    """Return the store, its project, and the batch asked for; None where nobody has begun anything."""
    if options.batch or options.dir:
        batch = batch_of(options)
        while options.follow and batch.temporary is not None:  # nobody has begun it
            begun = begun_since(batch)
            if begun is not None:
                batch.close()
                batch = begun
            time.sleep(TICK_SECONDS)
        stack.enter_context(batch)
        return batch.store, batch.project, batch.number
    project = find_project(Path.cwd(), os.environ)
    while True:
        with contextlib.suppress(FileNotFoundError):
            store = Store.open(project.state, settings_of(project.state), create=False)
            return stack.enter_context(store), project, None
        if not options.follow:
            return None
        time.sleep(TICK_SECONDS)


def _print(options: Namespace, rows: list[dict[str, Any]]) -> int:
    count = 0
    for row in _wanted(options, rows):
        print(json.dumps(row) if options.json else shown(event_line(row), 1000), flush=True)
        count += 1
    return count


def _wanted(options: Namespace, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        if not options.task or str(row.get("task", "")).lower() == options.task.lower():
            yield row
