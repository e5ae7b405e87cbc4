"""`hypervisor status`: the project's batches, claims and tasks, or one batch on one screen."""

from __future__ import annotations

import os
import shlex
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.project import Project, find_project
from ..core.settings import settings_of
from ..report.listing import dependency_faults, index_stats
from ..store.store import Store
from ..tasks.actor import Actor
from ..tasks.catalog import TaskCatalog
from .console import EXIT_DONE, EXIT_REFUSED, print_json, shown
from .naming import batch_of, folders_here

if TYPE_CHECKING:
    from ..queue.batch import Batch
    from ..store.questions import Question

#: How many waiting tasks are named, with what they wait for.
_NOT_READY = 4
_FAULTS, _BATCHES, _CLAIMS = 5, 6, 8


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``status`` what it takes."""
    status = commands["status"]
    status.add_argument("batch", nargs="?", metavar="BATCH", help="batch id: show its progress and workers")
    status.add_argument("--dir", metavar="D", help="folder of a batch")
    status.add_argument("--json", action="store_true", help="print one JSON document")
    status.set_defaults(action=_status)


def _status(options: Namespace) -> int:
    if options.batch or options.dir:
        return _one_batch(options)
    project = find_project(Path.cwd(), os.environ)
    settings = settings_of(project.state)
    try:
        store = Store.open(project.state, settings, create=False)
    except FileNotFoundError:
        return _print(options, project, _tasks(project, settings, None), [], [])
    with store:
        store.rescuer.rescue_now_and_then()
        batches, claims, asked = _batches(project, store), _claims(store), store.questions.open()
        return _print(options, project, _tasks(project, settings, store), batches, claims, asked)


def _tasks(project: Project, settings: Mapping[str, Any], store: Store | None) -> dict[str, Any]:
    return index_stats(TaskCatalog(project, settings, Actor(name="hypervisor"), store), projects=True)


def _batches(project: Project, store: Store) -> list[dict[str, Any]]:
    from ..queue.batches import all_of  # noqa: PLC0415 - not in a project without a store
    from ..queue.summary import take_census  # noqa: PLC0415

    found = []
    for batch in all_of(project, store):
        row: dict[str, Any] = {"batch_id": batch.id, "census": take_census(batch).to_json()}
        if row["census"]["waiting"] and "run" in batch.record.options:
            from ..report.activity import killed_run, timeline_of  # noqa: PLC0415 - as below

            if worker := killed_run(store, timeline_of(batch)):
                row["killed_run"] = worker
        found.append(row)
    return found


def _claims(store: Store) -> list[dict[str, Any]]:
    now = store.progress.now()
    return [
        {
            "item": one.text, "holder": one.name or one.worker, "worker": one.worker, "attempt": one.number,
            "seconds": round(max(0.0, now - one.claimed_at / 1000), 1),
            **({"host": one.host} if one.host else {}),
        }
        for one in store.progress.held()
    ]  # fmt: skip


def _print(
    options: Namespace,
    project: Project,
    tasks: dict[str, Any],
    batches: list[dict[str, Any]],
    claims: list[dict[str, Any]],
    asked: Sequence[Question] = (),
) -> int:
    from ..queue.summary import question_line, question_row  # noqa: PLC0415 - as above

    if options.json:
        questions = {"questions": [question_row(one) for one in asked]} if asked else {}
        print_json({"batches": batches, "claims": claims, **questions, **tasks})
        return EXIT_DONE
    print(f"project  {project.root}")
    counts = ", ".join(f"{n} {word}" for word, n in tasks["by_status"].items())
    print(f"tasks    {counts or 'none'}" + (f"; {tasks['ready']} ready" if counts else ""))
    faults = [f"         cannot be read: {line}" for line in tasks["unreadable"]]
    faults += [f"         {line}" for line in dependency_faults(tasks)]
    _print_some(faults, _FAULTS, "more; --json names them")
    lines = list(map(_batch_line, batches))
    _print_some(lines[::-1], _BATCHES, "before those; --json names them")
    lines = [
        f"claim    {shown(one['item'])}: {shown(one['holder'])}, attempt {one['attempt']}, "
        f"for {one['seconds']:.0f} s"
        for one in claims
    ]
    _print_some(lines, _CLAIMS, "more; --json names them")
    lines = [f"question {question_line(one)}" for one in asked]
    _print_some(lines, _CLAIMS, "more: `hypervisor questions`")
    if not batches:
        for name in folders_here():
            print(f"queue    {shown(name)}: hypervisor status --dir {shlex.quote(name)}")
    return EXIT_DONE


def _batch_line(row: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{n} {word}" for word, n in row["census"].items() if n)
    line = f"batch    {row['batch_id']}: {counts}"
    if killed := row.get("killed_run"):
        resume = f"hypervisor run --resume {row['batch_id']}"
        line += f"\n         its run {killed} was killed; to continue: {resume}"
    return line


def _print_some(lines: list[str], most: int, rest: str) -> None:
    """Print at most *most* lines, and how many there are besides: the whole fits one screen."""
    for line in lines[:most]:
        print(line)
    if len(lines) > most:
        print(f"         and {len(lines) - most} {rest}")


def _one_batch(options: Namespace) -> int:
    with batch_of(options) as batch:
        if options.json:
            from ..report.activity import batch_status  # noqa: PLC0415 - not for every form of the command

            found = batch_status(batch)
            print_json(found)
            return EXIT_DONE if found["closes"] else EXIT_REFUSED
        lines, closes = _screen(batch)
        print("\n".join(lines))
        return EXIT_DONE if closes else EXIT_REFUSED


def _screen(batch: Batch) -> tuple[list[str], bool]:
    """Return a batch on one screen, as plain lines, and whether its census closes."""
    from ..report.activity import batch_status  # noqa: PLC0415 - not for every form of the command
    from ..report.report import ReportBuilder  # noqa: PLC0415
    from ..report.screen import frame, next_steps, text_of  # noqa: PLC0415

    builder = ReportBuilder(batch, with_items=False)
    builder.look()
    head = builder.head()
    size = shutil.get_terminal_size()
    below = []
    if head["census"]["waiting"] and batch.options.tasks:
        waits = batch_status(batch).get("not_ready", {})
        not_ready = [(name, why) for name, why in waits.items() if "hypervisor answer" not in why]
        below = [f"waits: {shown(name)}: {shown(why)}" for name, why in not_ready[:_NOT_READY]]
        if len(not_ready) > _NOT_READY:
            below.append(f"waits: and {len(not_ready) - _NOT_READY} or more, likewise")
    below += next_steps(head)
    lines = frame(head, builder.failures(8), size.columns, size.lines - 1 - len(below))
    return [*map(text_of, lines), *below], bool(head["closes"])
