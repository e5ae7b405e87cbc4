"""`hypervisor wait`: until something ends, of a batch, of a client's session, or of the project."""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import NothingToDo, UsageError
from ..core.project import Project, find_project
from ..core.settings import settings_of
from ..hooks.delivery import deliver, wait_answer
from ..queue.batch import Batch
from ..queue.batches import open_record
from ..queue.summary import Census, take_census
from ..report.ends import EventReader, end_line, ends_answer
from ..store.records import BatchRecord
from ..store.store import Store
from ..store.waiting import TICK_SECONDS, wait_until
from ..tasks.actor import Actor
from ..tasks.catalog import TaskCatalog
from .console import EXIT_DONE, EXIT_NOTHING, print_json, shown, time_span
from .naming import batch_of, names_batch


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``wait`` what it takes."""
    wait = commands["wait"]
    names_batch(wait)
    what = wait.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--any", action="store_true", help="return at the next end; in a session, one it was not notified of"
    )
    what.add_argument("--all", action="store_true", help="return when everything has ended")
    what.add_argument("--task", metavar="ID", help="return when this task has ended")
    wait.add_argument(
        "--timeout",
        type=time_span,
        metavar="TIME",
        help="give up after this time (30s, 5m), with exit code 3",
    )
    wait.add_argument(
        "--since", type=int, default=-1, metavar="CURSOR",
        help="with --any: begin after this event of the project, the cursor of an earlier answer",
    )  # fmt: skip
    wait.add_argument("--json", action="store_true", help="print one JSON document")
    wait.set_defaults(action=_wait)


def _wait(options: Namespace) -> int:
    project = find_project(Path.cwd(), os.environ)
    deadline = None if options.timeout is None else time.monotonic() + options.timeout
    if options.since >= 0 and (options.batch or options.dir or not options.any):
        raise UsageError("--since is for `wait --any` without a batch")
    if options.task:
        if named := options.batch or options.dir:
            raise UsageError(f"wait {named} --task: a task is the project's; leave the batch out")
        return _for_task(project, options, deadline)
    session = os.environ.get("CLAUDE_CODE_SESSION_ID", "")
    if options.batch or options.dir:
        with batch_of(options) as batch:
            return _for_batch(batch, options, deadline)
    store = _store_of(project)
    if store is None and options.any:
        store = _wait_for_store(project, deadline)
        if store is None:
            return EXIT_NOTHING
    if store is None:  # nobody has begun anything
        return _print(options, [])
    with store:
        if options.since >= 0:
            return _for_project(project, store, options, deadline)
        if session and store.sessions.is_known(session):
            return _for_session(store, session, options, deadline)
        if (records := store.batches.all()) and (options.all or _left_in(store, records[-1])):
            return _for_batch(open_record(store, records[-1], project), options, deadline)
        return _for_project(project, store, options, deadline)


def _store_of(project: Project) -> Store | None:
    """Open the project's store; None where nobody has begun anything."""
    try:
        return Store.open(project.state, settings_of(project.state), create=False)
    except FileNotFoundError:
        return None


def _wait_for_store(project: Project, deadline: float | None) -> Store | None:
    """Open the project's store once there is one; None if there is none at the deadline."""
    while (store := _store_of(project)) is None:
        if deadline is not None and time.monotonic() >= deadline:
            return None
        time.sleep(TICK_SECONDS)
    return store


def _left_in(store: Store, batch: BatchRecord) -> int:
    census = store.batches.census(batch.id)
    return census["running"] + census["ready"]


# ------------------------------------------------------------------------ tasks


def _for_task(project: Project, options: Namespace, deadline: float | None) -> int:
    settings = settings_of(project.state)
    store = _store_of(project)
    if store is None:
        TaskCatalog(project, settings, Actor(name="")).find(options.task)
        return _print(options, [])
    with store:
        catalog, reader = TaskCatalog(project, settings, Actor(name=""), store), EventReader(store, project)
        task = catalog.find(options.task)

        def look() -> list[dict[str, Any]] | None:
            ended = [row for row in reader.ends() if str(row["task"]).lower() == task.id.lower()]
            if ended:
                return ended[-1:]
            return [] if catalog.held(task) is None else None

        ended = wait_until(store, look, deadline)
        return EXIT_NOTHING if ended is None else _print(options, ended, reader.place)


# ---------------------------------------------------------------------- project


def _for_project(project: Project, store: Store, options: Namespace, deadline: float | None) -> int:
    reader = EventReader(store, project, options.since)
    ended: list[dict[str, Any]] = []

    def look() -> list[dict[str, Any]] | None:
        ended.extend(reader.ends())
        if options.any:
            return ended or None
        return None if store.progress.held() else ended

    found = wait_until(store, look, deadline)
    return EXIT_NOTHING if found is None else _print(options, found, reader.place)


def _print(options: Namespace, ended: list[dict[str, Any]], place: int = 0) -> int:
    if options.json:
        print_json(ends_answer(ended, place))
    for event in () if options.json else ended:
        print(shown(end_line(event)))
    return EXIT_DONE


# ---------------------------------------------------------------------- session


def _for_session(store: Store, session: str, options: Namespace, deadline: float | None) -> int:
    """Wait for what this session was not told; what is printed counts as handed over."""
    queue = store.notices(session)

    def look() -> bool | None:
        if options.any and queue.pending():
            return True
        return None if store.sessions.under_way(session) else bool(queue.pending())

    found = wait_until(store, look, deadline)
    if found is None:
        return EXIT_NOTHING
    if not found:
        raise NothingToDo("nothing of this session is under way, and it was told of all that has ended")
    text, notices = deliver(queue, "wait", store.sessions.workers(session))
    if not notices:  # told by a hook in this very moment
        raise NothingToDo("this session was told of all that has ended")
    print_json(wait_answer(text, notices, store.events.last())) if options.json else print(text)
    return EXIT_DONE


# ------------------------------------------------------------------------ batch


def _for_batch(batch: Batch, options: Namespace, deadline: float | None) -> int:
    first = take_census(batch)

    def look() -> Census | None:
        census = take_census(batch)  # a line that was appended is waited for as well
        over = _left(census) == 0 or (options.any and _results(census) > _results(first))
        return census if over else None

    census = wait_until(batch.store, look, deadline)
    if census is None:
        return EXIT_NOTHING
    print_json(census.to_json()) if options.json else print(census.line())
    return EXIT_DONE


def _left(census: Census) -> int:
    return census.of("running") + census.of("waiting")


def _results(census: Census) -> int:
    return census.queued - _left(census)
