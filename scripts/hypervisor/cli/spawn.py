"""`hypervisor spawn`, `stats`: tasks of free text with agents on them, and what runs now."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.assignment import AssignedTask
from ..core.errors import Refused, UsageError
from ..core.model import Priority
from ..core.project import find_project
from ..core.settings import settings_of
from ..orchestrator.options import STRATEGIES
from ..orchestrator.spawn import PATTERNS, make, options_for, read_requests, start
from ..report.workload import current_branch, workload
from .console import EXIT_DONE, print_json, shown


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``spawn`` and ``stats`` what they take."""
    spawn, stats = commands["spawn"], commands["stats"]
    spawn.add_argument("text", nargs="*", metavar="TEXT", help="description of a task; one task per TEXT")
    spawn.add_argument("--file", metavar="FILE",
                       help="a JSON list of {description, type, priority, files, verify}; - reads it from "
                       "standard input")  # fmt: skip
    spawn.add_argument("--type", default="", metavar="WORD", help="type of these tasks")
    spawn.add_argument(
        "--priority", choices=list(Priority), default=Priority.MEDIUM, help="priority of these tasks"
    )
    spawn.add_argument("--verify", default="", metavar="CMD", help="verify command of these tasks")
    spawn.add_argument("--branch", default="", help="hive branch that they share (default: the git branch)")
    spawn.add_argument("--strategy", choices=STRATEGIES, default="auto", help="as in `run`")
    spawn.add_argument("--pattern", choices=PATTERNS, default=PATTERNS[0],
                       help="pipeline: each task depends on the one before; map-reduce: tasks of type "
                       "`reduce`, or else the last, depend on all others")  # fmt: skip
    spawn.add_argument("--agent", default="", metavar="NAME", help="agent (default: the setting spawn.agent)")
    spawn.add_argument("--exec", metavar="CMD", dest="command", default="", help="with --agent exec")
    spawn.add_argument("--model", default="")
    spawn.add_argument(
        "-j", "--workers", dest="jobs", type=int, default=0, metavar="N", help="most agents in parallel"
    )
    spawn.add_argument("--json", action="store_true", help="print one JSON document")
    spawn.set_defaults(action=_spawn)
    stats.add_argument("--json", action="store_true", help="print one JSON document")
    stats.set_defaults(action=_stats)


def _spawn(options: Namespace) -> int:
    if assigned := AssignedTask.of(os.environ):
        raise Refused(
            f"you were started for {assigned.task} alone, and start no others; block it and say why"
        )
    given: list[Any] = [
        {"description": text, "type": options.type, "priority": options.priority, "verify": options.verify}
        for text in options.text
    ]
    if options.file:
        given += _listed(options.file)
    if options.jobs < 0:
        raise UsageError(f"-j {options.jobs}: at least 1")
    project = find_project(Path.cwd(), os.environ)
    settings = settings_of(project.state)
    asked = {"agent": options.agent, "command": options.command, "model": options.model, "jobs": options.jobs}
    # Another agent than that of the settings has no use for their command.
    own = {"command": ""} if options.agent not in ("", "exec") else {}
    settings = {**settings, "spawn": {**settings["spawn"], **own, **{k: v for k, v in asked.items() if v}}}
    requests = read_requests(given)
    branch = options.branch or current_branch(project, os.environ)
    run = options_for(project, settings, options.strategy, branch)
    spawned = make(project, requests, options.pattern, run)
    with spawned.batch:
        pid = start(project, spawned.batch, os.environ)
    if options.json:
        print_json(spawned.answer(pid))
        return EXIT_DONE
    batch, many = spawned.batch.id, len(spawned.tasks)
    print(f"batch {batch}: {many} tasks, up to {run.limit} at once, hive branch {shown(run.branch)}")
    print(f"look with `hypervisor status {batch}`, wait with `hypervisor wait {batch} --all`")
    return EXIT_DONE


def _listed(path: str) -> list[Any]:
    try:
        data = json.loads(sys.stdin.read() if path == "-" else Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: no JSON ({error}); write a list of {{description, type, priority}}"
        ) from None
    if not isinstance(data, list):
        raise UsageError(f"{path}: must be a list of {{description, type, priority}}")
    return data


def _stats(options: Namespace) -> int:
    project = find_project(Path.cwd(), os.environ)
    found = workload(project, settings_of(project.state), os.environ)
    if options.json:
        print_json(found)
        return EXIT_DONE
    machine = found["resources"]
    figures = ", ".join(
        f"{key} {value:g}" for key, value in machine.items() if isinstance(value, int | float)
    )
    print(f"{found['running']} running, {found['queued']} queued, hive branch {shown(found['branch_id'])}")
    print(
        f"machine  {machine['zone']}" + (f" ({machine['why']})" if "why" in machine else "") + f": {figures}"
    )
    for one in found["batches"]:
        held = f"; {shown(one['held_up'])}" if "held_up" in one else ""
        print(f"batch    {one['batch_id']}: {one['running']} running, {one['queued']} queued{held}")
    for one in found["tasks"]:
        print(
            f"running  {shown(one['task_id'])}" + (f" for {one['seconds']:.0f} s" if "seconds" in one else "")
        )
    return EXIT_DONE
