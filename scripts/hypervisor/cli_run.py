"""`hypervisor run`, `merge`, `wait`: agents on tasks, headless."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import orders as kept
from .batches import Batch, create_of_tasks, open_named, settings_of
from .claims.workers import forget_dead
from .collecting import collect
from .console import EXIT_DONE, EXIT_NOTHING, EXIT_REFUSED, Teller, print_json, shown
from .desk import Desk
from .errors import NothingToDo, UsageError
from .events import read
from .heart import Stop
from .merging import Integration
from .model import TaskHead
from .orders import Orders
from .paths import Project, find_project
from .preflight import Plan, plan
from .running import (
    agent_of,
    carry_out,
    hand_over,
    keep_orders,
    move_on,
    on_finish,
    shop_of,
    starting_point,
    tidy_up,
)
from .summary import take_census, write_summary
from .tasklist import Caller

#: How often `wait` looks.
_LOOK_SECONDS = 0.2


def add_commands(below: Any) -> None:
    """Add ``run`` and ``wait`` to the commands."""
    run: ArgumentParser = below.add_parser("run", help="run agents on tasks, each in a worktree of its own")
    run.add_argument("ids", nargs="*", metavar="ID")
    run.add_argument("--all", action="store_true", help="every task of the project that is ready")
    run.add_argument("--parent", metavar="ID", help="the tasks below this one")
    run.add_argument("--batch", metavar="BATCH", help="a batch that `preflight --batch` has made")
    run.add_argument("--resume", metavar="BATCH", help="go on with a run that was ended or killed")
    run.add_argument("--agent", choices=["claude", "exec"], default="claude")
    run.add_argument("--exec", metavar="CMD", dest="command", help="with --agent exec; {} is the task's file")
    run.add_argument("--model", default="", help="for --agent claude")
    run.add_argument("-j", "--jobs", type=int, default=4, metavar="N", help="how many at once (default: 4)")
    run.add_argument("--strategy", choices=["parallel", "sequential"], default="parallel")
    run.add_argument("--isolation", choices=["worktree", "none"], default="worktree")
    run.add_argument("--merge", choices=["ff", "branch", "none"], default="ff",
                     help="ff: move the current branch on to what is verified, if nothing is in the way; "
                     "branch: leave it on the batch's branch; none: on each task's own")  # fmt: skip
    run.add_argument("--commit-tasks", action="store_true", help="commit the changed task files at the end")
    run.add_argument("--canary", type=int, default=0, metavar="N", help="try N tasks first")
    run.add_argument("--halt", default="", metavar="fail=P%", help="begin no more at this share of failures")
    run.add_argument("--timeout", type=float, metavar="S", help="seconds after which an agent is ended")
    run.add_argument("--retries", type=int, default=0, metavar="N")
    run.add_argument("--budget-usd", type=float, metavar="X", help="begin nothing more once this is spent")
    run.add_argument("--allow", action="append", default=[], metavar="RULE",
                     help="what else agents may do, in the agent's own words; may be repeated")  # fmt: skip
    run.add_argument("--skip-permissions", action="store_true", help="agents may do everything, unasked")
    run.add_argument("--on-finish", default="", metavar="CMD", help="run at the end, with the batch's folder")
    run.add_argument("--no-scope-gate", action="store_true", help="run tasks at once whose files overlap")
    run.add_argument("--json", action="store_true", help="print one JSON document")
    run.set_defaults(action=_run)
    merge: ArgumentParser = below.add_parser("merge", help="merge what workers in a session have committed")
    merge.add_argument("batch", nargs="?", default="", metavar="BATCH", help="without it: the newest")
    merge.add_argument("--merge", choices=["ff", "branch"], default="ff", help="as for `run`")
    merge.add_argument("--json", action="store_true", help="print one JSON document")
    merge.set_defaults(action=_merge)
    clean: ArgumentParser = below.add_parser(
        "clean", help="remove worktrees in which nothing is left to merge"
    )
    clean.add_argument("--dry-run", action="store_true", help="say what is in them; remove nothing")
    clean.add_argument("--json", action="store_true", help="print one JSON document")
    clean.set_defaults(action=_clean)
    wait: ArgumentParser = below.add_parser("wait", help="wait until something of a batch has ended")
    wait.add_argument("batch", nargs="?", default="", metavar="BATCH")
    what = wait.add_mutually_exclusive_group(required=True)
    what.add_argument("--any", action="store_true", help="the next result")
    what.add_argument("--all", action="store_true", help="every result")
    what.add_argument("--task", metavar="ID", help="the result of this task")
    wait.add_argument("--timeout", type=float, metavar="S", help="seconds; then exit 3")
    wait.add_argument("--json", action="store_true", help="print one JSON document")
    wait.set_defaults(action=_wait)


# -------------------------------------------------------------------------- run


def _run(options: Namespace) -> int:
    project = find_project(Path.cwd(), os.environ)
    batch, orders = _resumed(project, options) if options.resume else _begun(project, options)
    stop = Stop()
    stop.listen(signal.SIGINT, signal.SIGTERM)
    teller = Teller(None, quiet=options.json)
    print(f"batch {batch.id}: {agent_of(orders).permissions}", file=sys.stderr)
    with shop_of(project, batch, orders) as shop:
        try:
            _, halted = carry_out(shop, teller.tell, stop)
        finally:
            teller.close()
        said = hand_over(shop)
    forget_dead(str(project.state / "workers"))
    summary, census = write_summary(batch)
    if halted:
        said.append(f"ended early: {halted}; `hypervisor run --resume {batch.id}` goes on")
    if orders.on_finish:
        said.append(on_finish(orders.on_finish, batch.folder))
    if options.json:
        print_json(summary | {"notes": said})
    else:
        print(census.line())
        for need in summary["needs_you"]:
            print(f"needs you: {shown(str(need['task_id']))}: {shown(need['reason'])}; {shown(need['next'])}")
        for line in said:
            print(line)
    bad = census.of("failed") + census.of("blocked") + census.of("waiting") + census.of("running")
    return EXIT_DONE if census.closes and not bad and not halted else EXIT_REFUSED


def _begun(project: Project, options: Namespace) -> tuple[Batch, Orders]:
    if not (options.ids or options.all or options.parent or options.batch):
        raise UsageError("say which tasks: IDs, --all, --parent ID, --batch BATCH, or --resume BATCH")
    orders = starting_point(project, _orders(options))
    batch = open_named(project, options.batch) if options.batch else _planned(project, options)
    keep_orders(batch, orders)
    return batch, orders


def _planned(project: Project, options: Namespace) -> Batch:
    desk = Desk(project, settings_of(project.state), Caller(name="claude"))
    with desk.indexed() as index:
        # Read task by task: a hundred thousand of them need not be in memory at one time.
        parent = desk.find(options.parent) if options.parent else None
        wanted: Iterable[TaskHead] = index.heads() if index else ()
        if not options.all:
            wanted = [desk.find(name) for name in options.ids]
        if parent and index:
            wanted = (task for task in index.heads() if task.parent.lower() == parent.id.lower())
        refusals = desk.refusals(index.heads() if index else ())
        made: Plan = plan(wanted, refusals, refusals.waits_for)
    told = ", ".join(f"{len(ids)} skipped ({why})" for why, ids in made.by_reason().items())
    if not made.run:
        raise NothingToDo(f"nothing to run: {told}" if told else f"{project.root} has no such task")
    skipped = [(desk.relative(task), why) for task, why in made.skipped]
    batch = create_of_tasks(project, [desk.relative(task) for task in made.run], skipped)
    print(f"batch {batch.id}: {len(made.run)} tasks" + (f", {told}" if told else ""), file=sys.stderr)
    return batch


def _orders(options: Namespace) -> Orders:
    if (options.agent == "exec") != bool(options.command):
        raise UsageError("--agent exec and --exec CMD belong together")
    if options.jobs < 1:
        raise UsageError(f"-j {options.jobs}: at least 1")
    program = shlex.split(options.command)[0] if options.command else "claude"
    if shutil.which(program) is None:
        raise UsageError(f"{program}: no such program; install it, or put its folder on PATH")
    return Orders(
        agent=options.agent,
        command=tuple(shlex.split(options.command or "")),
        model=options.model,
        limit=1 if options.strategy == "sequential" else options.jobs,
        isolation=options.isolation,
        merge=options.merge,
        commit_tasks=options.commit_tasks,
        skip_permissions=options.skip_permissions,
        allowed=tuple(options.allow),
        canary=options.canary,
        halt_percent=_percent(options.halt),
        timeout=options.timeout,
        retries=options.retries,
        budget_usd=options.budget_usd,
        strategy=options.strategy,
        on_finish=options.on_finish,
        scope_gate=not options.no_scope_gate,
    )


def _percent(text: str) -> float:
    if not text:
        return 0.0
    number = text.removeprefix("fail=").removesuffix("%")
    try:
        percent = float(number)
    except ValueError:
        percent = -1.0
    if not (text.startswith("fail=") and text.endswith("%") and 0 < percent <= 100):
        raise UsageError(f"--halt {text}: must be like fail=20%")
    return percent


def _resumed(project: Project, options: Namespace) -> tuple[Batch, Orders]:
    if options.ids or options.all or options.parent or options.batch:
        raise UsageError("--resume goes on with that batch's own tasks; name no others")
    batch = open_named(project, options.resume)
    return batch, kept.read(batch.folder)


# ------------------------------------------------------------------------ merge


def _merge(options: Namespace) -> int:
    project = find_project(Path.cwd(), os.environ)
    batch = open_named(project, options.batch)
    orders = starting_point(project, Orders(agent="claude", merge=options.merge))
    folder = project.state / "worktrees" / batch.id
    integration = Integration(project.root, folder, batch.id, orders.start_branch, orders.start_commit)
    found = list(collect(project, batch, integration))
    said = move_on(project, integration, orders, settings_of(project.state)["tasks"]["globs"])
    if options.json:
        print_json({"merged": [asdict(one) for one in found], "notes": said})
    else:
        for one in found:
            kept_on = f"; kept on {one.branch}" if one.branch else ""
            print(f"{'merged' if one.merged else 'LEFT  '} {one.task}: {shown(one.text)}{kept_on}")
        for line in said:
            print(line)
    if not found:
        return EXIT_NOTHING
    return EXIT_DONE if all(one.merged for one in found) else EXIT_REFUSED


# ------------------------------------------------------------------------ clean


def _clean(options: Namespace) -> int:
    project = find_project(Path.cwd(), os.environ)
    found = tidy_up(project, dry_run=options.dry_run)
    if options.json:
        print_json(found)
    for one in found if not options.json else ():
        print(f"{one['what']:8} {one['worktree']}" + (f": {shown(one['why'])}" if one["why"] else ""))
    if not found:
        print("nothing to clean: no worktree of a run is left", file=sys.stderr)
    return EXIT_DONE if any(one["what"] == "removed" for one in found) else EXIT_NOTHING


# ------------------------------------------------------------------------- wait


def _wait(options: Namespace) -> int:
    project = find_project(Path.cwd(), os.environ)
    deadline = None if options.timeout is None else time.monotonic() + options.timeout
    if options.task:
        desk = Desk(project, settings_of(project.state), Caller(name=""))
        task = desk.find(options.task)
        before = _ends(project, task.id)

        def over() -> bool:
            return _ends(project, task.id) > before or desk.held(task) is None

    else:
        batch = open_named(project, options.batch)
        first = _results(batch)

        def over() -> bool:
            census = take_census(batch)
            left = census.of("running") + census.of("waiting")
            return left == 0 or (options.any and _results(batch) > first)

    while not over():
        if deadline is not None and time.monotonic() > deadline:
            return EXIT_NOTHING
        time.sleep(_LOOK_SECONDS)
    if not options.task:
        census = take_census(batch)
        print_json(census.to_json()) if options.json else print(census.line())
    return EXIT_DONE


_ENDS = ("completed", "blocked", "cancelled", "released", "reaped")


def _ends(project: Project, task: str) -> int:
    return sum(event["event"] in _ENDS for event in read(project, task))


def _results(batch: Batch) -> int:
    census = take_census(batch)
    return census.queued - census.of("running") - census.of("waiting")
