"""`hypervisor trust`: the commands that came with a repository, and the user's word that they may be run."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..core.errors import Refused
from ..core.model import CLOSED, TaskHead
from ..core.project import Project
from ..core.settings import settings_of
from ..core.trust import TrustRecord
from ..orchestrator.commands import WantedCommand, refusal_of, repository_commands, untrusted
from ..tasks.view import Asked
from .caller import add_caller, catalog_of
from .console import EXIT_DONE, EXIT_NOTHING, EXIT_REFUSED, counted, print_json

#: Tasks and files that are named beside a command.
_NAMED = 5


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``trust`` what it takes."""
    command = commands["trust"]
    command.add_argument("--yes", action="store_true", help="trust them all, without a question")
    command.add_argument("--forget", action="store_true", help="trust nothing of the project any more")
    add_caller(command, _trust)


def _trust(options: Namespace) -> int:
    with catalog_of(options) as catalog, catalog.view() as view:
        project = catalog.project
        tasks = [task for task in view.listed(Asked())[0] if task.status not in CLOSED]
    record = TrustRecord.of(project.root, os.environ)
    if options.forget:
        had = record.forget()
        if options.json:
            print_json({"root": str(project.root), "forgotten": had})
        else:
            print(f"{project.root}: {'nothing is trusted any more' if had else 'nothing was trusted'}")
        return EXIT_DONE if had else EXIT_NOTHING
    settings = settings_of(project.state)
    new = untrusted(project, settings, repository_commands(project, settings, tasks), record)
    agreed = bool(new) and (options.yes or (not options.json and _is_asked(project, new)))
    if agreed:
        record.add(one.key for one in new)
    if options.json:
        print_json({
            "root": str(project.root), "trusted": agreed or not new,
            "commands": [to_json(one, project) for one in new],
        })  # fmt: skip
    elif not new:
        print(f"{project.root}: no command came with the repository that is not trusted")
    elif agreed:
        if options.yes:
            print_commands(new, project)
        print(f"trusted: {counted(len(new), 'command')}; `hypervisor trust --forget` takes that back")
    elif not _on_terminal():
        print_commands(new, project)
        print("`hypervisor trust --yes` trusts them; that is the user's to decide", file=sys.stderr)
    if not new:
        return EXIT_NOTHING
    return EXIT_DONE if agreed else EXIT_REFUSED


def require_trust(
    project: Project, settings: Mapping[str, Any], tasks: Iterable[TaskHead], options: Namespace
) -> None:
    """Return if the commands that came with the repository may be run; ask on a terminal.

    Args:
        project: The project.
        settings: Its.
        tasks: The tasks that are to be run, or verified.
        options: What was typed: ``trust`` says yes to all of them.

    Raises:
        Refused: They were not trusted.
    """
    wanted = [one for one in repository_commands(project, settings, tasks) if one.kind != "spawn"]
    record = TrustRecord.of(project.root, os.environ)
    new = untrusted(project, settings, wanted, record)
    if not new:
        return
    if getattr(options, "trust", False) or (not options.json and _is_asked(project, new)):
        record.add(one.key for one in new)
        return
    raise Refused("not trusted; nothing was run" if _on_terminal() and not options.json else refusal_of(new))


def _on_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _is_asked(project: Project, new: Sequence[WantedCommand]) -> bool:
    """Return whether the user says yes; where nobody can be asked, nobody does."""
    if not _on_terminal():
        return False
    print(f"{project.root}: this repository wants to run, and you have not trusted it yet:", file=sys.stderr)
    print_commands(new, project, sys.stderr)
    print("Trust these? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def print_commands(commands: Sequence[WantedCommand], project: Project, to: Any = None) -> None:
    """Print commands, each whole: who trusts it has seen all of it."""
    for one in commands:
        first, *more = one.text.splitlines() or [""]
        where = _where(one, project)
        print(f"  {one.kind:8} {first}{f'   ({where})' if where else ''}", file=to)
        for line in more:
            print(f"           {line}", file=to)


def _where(one: WantedCommand, project: Project) -> str:
    named = one.tasks or tuple(os.path.relpath(path, project.root) for path in one.files)
    many = f"{counted(len(named), 'task')}: " if one.tasks else ""
    return f"{many}{', '.join(named[:_NAMED])}{' ...' if len(named) > _NAMED else ''}" if named else ""


def to_json(one: WantedCommand, project: Project) -> dict[str, Any]:
    """Return a command as plain data."""
    files = [os.path.relpath(path, project.root) for path in one.files]
    return {"kind": one.kind, "command": one.text, "files": files, "tasks": list(one.tasks)}
