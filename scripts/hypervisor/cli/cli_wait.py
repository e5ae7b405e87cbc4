"""`hypervisor wait`: until something ends, of a batch, of a client's session, or of the project."""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..claims.directory import DirectoryStore, Policy
from ..core.config import settings_of
from ..core.errors import NothingToDo, UsageError
from ..core.paths import Project, find_project
from ..events import ENDS, FILE, Happening, log_of
from ..hooks.notices import Notice
from ..hooks.telling import hand_over
from ..inbox import Inbox
from ..queue.batch import Batch
from ..queue.batches import newest, open_named
from ..queue.summary import Census, take_census
from ..tasks.desk import Desk
from ..tasks.tasklist import Caller
from ..underway import crowd_of, under_way
from ..waiting import wait_until
from .console import EXIT_DONE, EXIT_NOTHING, print_json, shown

#: The events that end something.
_ENDS = (*ENDS, Happening.RUN_OVER)


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``wait`` what it takes."""
    wait = commands["wait"]
    wait.add_argument("batch", nargs="?", default="", metavar="BATCH")
    what = wait.add_mutually_exclusive_group(required=True)
    what.add_argument("--any", action="store_true", help="the next end; in a session, one it was not told of")
    what.add_argument("--all", action="store_true", help="every end")
    what.add_argument("--task", metavar="ID", help="the end of this task")
    wait.add_argument("--timeout", type=float, metavar="S", help="seconds; then exit 3")
    wait.add_argument("--json", action="store_true", help="print one JSON document")
    wait.set_defaults(action=_wait)


def _wait(options: Namespace) -> int:
    if options.timeout is not None and not options.timeout >= 0:
        raise UsageError(f"--timeout {options.timeout}: must be 0 or more seconds")
    project = find_project(Path.cwd(), os.environ)
    deadline = None if options.timeout is None else time.monotonic() + options.timeout
    if options.task:
        if options.batch:
            raise UsageError(f"wait {options.batch} --task: a task is the project's; leave the batch away")
        return _for_task(project, options, deadline)
    session = os.environ.get("CLAUDE_CODE_SESSION_ID", "")
    if options.batch:
        return _for_batch(open_named(project, options.batch), options, deadline)
    if session and Inbox(project.state, session).is_there():
        return _for_session(project, session, options, deadline)
    if newest(project) is not None:
        batch = open_named(project, "")
        if options.all or _left(take_census(batch)):
            return _for_batch(batch, options, deadline)
    return _for_project(project, options, deadline)


# ------------------------------------------------------------------------ tasks


def _for_task(project: Project, options: Namespace, deadline: float | None) -> int:
    desk = Desk(project, settings_of(project.state), Caller(name=""))
    task = desk.find(options.task)
    seen = _Ends(project)

    def look(truth: bool) -> list[Mapping[str, Any]] | None:
        ended = [event for event in seen.new() if str(event["task"]).lower() == task.id.lower()]
        if ended:
            return ended[-1:]
        return [] if truth and desk.held(task) is None else None

    ended = wait_until(look, [seen.path], deadline)
    if ended is None:
        return EXIT_NOTHING
    return _say(options, [dict(event) for event in ended])


class _Ends:
    """The ends that a project's log tells of from now on."""

    def __init__(self, project: Project) -> None:
        self.path = str(project.state / FILE)
        self._log = log_of(project.state)
        self._place = self._log.size()

    def new(self) -> list[Mapping[str, Any]]:
        """Return those since the last time."""
        found: list[Mapping[str, Any]] = []
        for place, event in self._log.since(self._place):
            self._place = place
            if event.get("event") in _ENDS:
                found.append(event)
        return found


# ---------------------------------------------------------------------- project


def _for_project(project: Project, options: Namespace, deadline: float | None) -> int:
    seen = _Ends(project)
    store = DirectoryStore(str(project.state), policy=Policy(patient=False))
    ended: list[Mapping[str, Any]] = []

    def look(truth: bool) -> list[Mapping[str, Any]] | None:
        ended.extend(seen.new())
        if options.any:
            return ended or None
        held = truth and os.path.isdir(store.layout.locks)
        free = truth and not (held and any(store.is_held(key) for key in store.layout.unfinished()))
        return ended if free else None

    paths = [seen.path, store.layout.locks]
    if wait_until(lambda truth: look(truth or options.all), paths, deadline) is None:
        return EXIT_NOTHING
    return _say(options, [dict(event) for event in ended])


def _say(options: Namespace, ended: list[dict[str, Any]]) -> int:
    if options.json:
        print_json({"ended": ended})
    for event in () if options.json else ended:
        why = f": {event['why']}" if event.get("why") else ""
        print(shown(f"{event['task']} {event['event']}{why}"))
    return EXIT_DONE


# ---------------------------------------------------------------------- session


def _for_session(project: Project, session: str, options: Namespace, deadline: float | None) -> int:
    """Wait for what this session has not been told; what is printed counts as handed over."""
    inbox = Inbox(project.state, session)
    desk = Desk(project, settings_of(project.state), Caller(name="", session=session))
    crowd = crowd_of(project, session)

    def look(truth: bool) -> bool | None:
        if truth:
            desk.mend(session)
        if options.any and inbox.pending():
            return True
        return None if under_way(project, session) else bool(inbox.pending())

    paths = [str(project.state / FILE), str(inbox.folder / ".running"), str(inbox.folder / ".asked")]
    found = wait_until(look, paths, deadline)
    if found is None:
        return EXIT_NOTHING
    if not found:
        raise NothingToDo("nothing of this session is under way, and it was told of all that has ended")
    text, notices = hand_over(inbox, "wait", crowd.running())
    if not notices:  # told by a hook in this very moment
        raise NothingToDo("this session was told of all that has ended")
    print_json({"ended": _rows(notices), "said": text}) if options.json else print(text)
    return EXIT_DONE


def _rows(notices: list[Notice]) -> list[dict[str, str]]:
    return [{"task": one.task, "event": one.event, "why": one.why} for one in notices]


# ------------------------------------------------------------------------ batch


def _for_batch(batch: Batch, options: Namespace, deadline: float | None) -> int:
    first = take_census(batch)

    def look(_: bool) -> Census | None:
        census = take_census(batch)
        over = _left(census) == 0 or (options.any and _results(census) > _results(first))
        return census if over else None

    results = os.path.join(batch.folder, "results")
    paths = [results, os.path.join(batch.folder, FILE), os.path.join(batch.folder, "queue.txt")]
    if batch.project is not None:
        paths.append(os.path.join(str(batch.project.state), "results"))
    census = wait_until(look, paths, deadline)
    if census is None:
        return EXIT_NOTHING
    print_json(census.to_json()) if options.json else print(census.line())
    return EXIT_DONE


def _left(census: Census) -> int:
    return census.of("running") + census.of("waiting")


def _results(census: Census) -> int:
    return census.queued - _left(census)
