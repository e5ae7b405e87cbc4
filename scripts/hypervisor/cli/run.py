"""`hypervisor run`, `merge`: agents on tasks, headless."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core.errors import NothingToDo, UsageError
from ..core.model import Outcome
from ..core.project import Project, find_project
from ..core.settings import settings_of
from ..git.merging import Integration
from ..git.repository import Repository
from ..learning.hive import checked_name
from ..orchestrator.best_of import MOST
from ..orchestrator.checks import Checks
from ..orchestrator.collect import collect
from ..orchestrator.containment import containment_of, refusal
from ..orchestrator.options import (
    ISOLATION,
    SANDBOX,
    STRATEGIES,
    RunOptions,
    change_options,
    keep_options,
    options_of,
)
from ..orchestrator.router import AGENTS, AUTO, permissions_of, require_runnable
from ..orchestrator.run import (
    OPEN,
    bring_home,
    brought_up_to_date,
    deliver,
    going_on,
    on_finish,
    run_agents,
    starting_point,
)
from ..orchestrator.run_context import opened_run
from ..orchestrator.supervisor import check_settings
from ..orchestrator.workspace_pool import prepares_merged
from ..queue.batch import Batch
from ..queue.batches import create_of_tasks, open_named
from ..queue.retention import compress_if_over
from ..queue.stop import Stop
from ..queue.summary import finding_lines, write_summary
from ..report.pace import duration
from ..store.liveness import forget_dead
from ..store.sessions import BackgroundRun
from ..store.shared import store_url
from ..tasks.actor import Actor
from ..tasks.catalog import TaskCatalog
from ..tasks.service import TaskService
from .console import (
    EXIT_DONE,
    EXIT_NOTHING,
    EXIT_REFUSED,
    Teller,
    answer_stop,
    counted,
    print_json,
    shown,
    time_span,
)
from .trust import require_trust

#: Entries of a list that a notification has.
_NEEDS = 100
#: What may be raised for a run that is resumed.
_BUDGETS = ("budget_usd", "budget_tokens", "budget_minutes", "budget_attempts")


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``run`` and ``merge`` what they take."""
    run = commands["run"]
    run.add_argument("ids", nargs="*", metavar="ID", help="the tasks")
    run.add_argument("--all", action="store_true", help="all ready tasks of the project")
    run.add_argument("--parent", metavar="ID", help="all tasks below this one")
    run.add_argument(
        "--has", action="append", default=[], metavar="NEED", help="a need of tasks that the agents satisfy, "
        "such as mcp:outlook; may be repeated"
    )  # fmt: skip
    run.add_argument("--batch", metavar="BATCH", help="a batch that `preflight --batch` created")
    run.add_argument(
        "--resume", metavar="BATCH", help="continue a run that was stopped or killed; new --budget-... apply"
    )
    run.add_argument("--agent", default="claude", metavar="AGENT",
                     help=f"{', '.join(AGENTS)}, or a name in [runners] of the settings (default: claude); "
                     "auto: by the rules in [[agents.rules]]")  # fmt: skip
    run.add_argument(
        "--exec",
        metavar="CMD",
        dest="command",
        help="for --agent exec; {} is the task's file; for acp: the agent",
    )
    run.add_argument("--model", default="", help="model for claude or gemini (default: the client's own)")
    run.add_argument(
        "-j",
        "--workers",
        dest="jobs",
        type=int,
        default=4,
        metavar="N",
        help="agents in parallel (default: 4)",
    )
    run.add_argument("--strategy", choices=STRATEGIES, default="parallel",
                     help="auto, adaptive: per task type, the concurrency that was fastest in earlier "
                     "batches; adaptive also explores")  # fmt: skip
    run.add_argument("--branch", default="", help="hive branch of the agents (default: the git branch)")
    run.add_argument("--isolation", choices=ISOLATION, default="clone",
                     help="where each agent works: a private clone; a git worktree, which shares your "
                     "branches and settings; none: your checkout")  # fmt: skip
    run.add_argument("--merge", choices=["ff", "branch", "none"], default="ff",
                     help="ff: fast-forward the current branch to the verified work if nothing is in the "
                     "way; branch: leave it on the batch's branch; none: on each task's own")  # fmt: skip
    run.add_argument("--commit-tasks", action="store_true", help="commit the changed task files at the end")
    run.add_argument(
        "--push", action="store_true", help="push the merged work; agents themselves cannot push"
    )
    run.add_argument("--canary", type=int, default=0, metavar="N", help="run N tasks first")
    run.add_argument("--halt", default="", metavar="fail=P%", help="stop starting at this share of failures")
    run.add_argument("--timeout", type=time_span, metavar="TIME", help="time limit of an agent: 30m, 1h")
    run.add_argument("--retries", type=int, default=0, metavar="N",
                     help="further attempts at a task whose agent failed (default: 0)")  # fmt: skip
    run.add_argument("--best-of", type=int, default=1, metavar="N",
                     help="N agents on each task at once, of which the best is merged; a task may say "
                     "`attempts: N` itself")  # fmt: skip
    run.add_argument("--budget-usd", type=float, metavar="N", help="stop at N US dollars")
    run.add_argument("--budget-tokens", type=int, metavar="N", help="stop at N tokens")
    run.add_argument("--budget-minutes", type=float, metavar="N", help="stop after N minutes of running")
    run.add_argument("--budget-attempts", type=int, metavar="N", help="start at most N agents")
    run.add_argument("--allow", action="append", default=[], metavar="RULE",
                     help="further permission, in the client's syntax; may be repeated")  # fmt: skip
    run.add_argument("--skip-permissions", action="store_true", help="agent permissions: unrestricted")
    run.add_argument("--sandbox", choices=SANDBOX, default="",
                     help="run agents and `verify` in a sandbox of the kernel's; auto, the default: where "
                     "it works (run.sandbox in the settings)")  # fmt: skip
    run.add_argument("--trust", action="store_true",
                     help="trust the commands that came with the repository: `trust`")  # fmt: skip
    run.add_argument("--on-finish", default="", metavar="CMD", help="run at the end with the batch's folder")
    run.add_argument("--no-scope-gate", action="store_true", help="run tasks with overlapping files too")
    run.add_argument("--json", action="store_true", help="print one JSON document")
    run.set_defaults(action=_run)
    merge = commands["merge"]
    merge.add_argument("batch", nargs="?", default="", metavar="BATCH", help="batch id (default: the newest)")
    merge.add_argument("--merge", choices=["ff", "branch"], default="ff", help="as in `run`")
    merge.add_argument("--push", action="store_true", help="as in `run`")
    merge.add_argument("--trust", action="store_true", help="as in `run`")
    merge.add_argument("--json", action="store_true", help="print one JSON document")
    merge.set_defaults(action=_merge)


# -------------------------------------------------------------------------- run


def _run(options: Namespace) -> int:
    project = find_project(Path.cwd(), os.environ)
    check_settings(settings_of(project.state))
    session = os.environ.get("CLAUDE_CODE_SESSION_ID", "")  # of a client in whose shell this is typed
    batch, asked = _resumed(project, options) if options.resume else _begun(project, options)
    with batch, batch.store.sessions.background_run(session, batch.number) as run:
        return _carried_out(project, batch, asked, options, run)


def _carried_out(
    project: Project, batch: Batch, asked: RunOptions, options: Namespace, background: BackgroundRun
) -> int:
    stop = Stop()
    stop.listen(signal.SIGINT, signal.SIGTERM)
    teller = Teller(None, quiet=options.json)
    with opened_run(project, batch, asked) as run:
        within = "in a sandbox" if run.containment else "WITHOUT a sandbox"
        print(f"batch {batch.id}: {permissions_of(run.router)}; {within}", file=sys.stderr)
        if why := refusal(asked, run.service.settings):
            print(
                f"hypervisor: WARNING: no sandbox: {why}; agents can write wherever you can", file=sys.stderr
            )
        answer_stop(stop, lambda: counted(len(run.running), "task") if run.running else "")
        notifier = run.notifier
        try:
            _, halted = run_agents(run, teller.tell, stop)
        except BaseException as error:
            notifier.close(f"the run ended with a fault: {error or type(error).__name__}")
            raise
        finally:
            teller.close()
        said = deliver(run, stop.now) + run.notes
    forget_dead(batch.store.workers)
    summary, census = write_summary(batch)
    background.came_to = census.line()
    if halted and census.of("waiting") + census.of("running"):
        said.append(f"ended early: {halted}; resume with `hypervisor run --resume {batch.id}`")
    waits = [line for line in said if line.startswith("ended early")]
    text = "; ".join([census.line(), *waits])
    notifier.close(text, census=census.to_json(), needs_attention=summary["needs_attention"][:_NEEDS])
    if asked.on_finish:
        said.append(on_finish(asked.on_finish, batch.folder))
    if options.json:
        print_json(summary | {"notes": said})
    else:
        print(census.line())
        for name, used in summary["by_agent"].items() if len(summary["by_agent"]) > 1 else ():
            print(f"{name}: {used['attempts']} attempts, {used['tokens'] or 'unknown'} tokens")
        for need in summary["needs_attention"]:
            what = f"{shown(need['reason'])}; {shown(need['next'])}"
            print(f"needs attention: {shown(str(need['task_id']))}: {what}")
        for line in [*_kept_lines(summary), *finding_lines(summary), *said, _spent_line(batch, summary)]:
            print(line)
    if told := compress_if_over(batch, census, settings_of(project.state)):
        print(told, file=sys.stderr)
    bad = census.of("failed") + census.of("blocked") + census.of("waiting") + census.of("running")
    bad += sum(bool(row.get("unchecked")) for row in summary["workers"])
    return EXIT_DONE if census.closes and not bad and not halted else EXIT_REFUSED


def _kept_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return the branches that were kept, each with the commands to look at it and to merge it."""
    kept = [row for row in summary["workers"] if row.get("branch") and row["status"] != Outcome.SUCCESS]
    return [
        f"kept: {row['branch']}: look `hypervisor diff {row['task_id']}`, "
        f"merge `hypervisor accept {row['task_id']}`"
        for row in kept
    ]


def _spent_line(batch: Batch, summary: Mapping[str, Any]) -> str:
    """Return what the batch took so far, and where the outputs of its agents are."""
    tokens, cost, seconds = (summary[key] for key in ("total_tokens", "total_cost_usd", "runtime_seconds"))
    told = [
        duration(seconds) if seconds is not None else "no time",
        "tokens not known" if tokens is None else f"{tokens:,.0f} tokens",
        "cost not known" if cost is None else f"{cost:,.2f} USD",
    ]
    return f"took {', '.join(told)}; logs in {shown(os.path.relpath(batch.logs))}"


def _begun(project: Project, options: Namespace) -> tuple[Batch, RunOptions]:
    if not (options.ids or options.all or options.parent or options.batch):
        raise UsageError("say which tasks: IDs, --all, --parent ID, --batch BATCH, or --resume BATCH")
    asked, settings = starting_point(project, _options(options)), settings_of(project.state)
    require_runnable(asked, settings)
    if store_url(project.state, settings):
        asked = brought_up_to_date(project, asked, settings)
    if options.batch:
        batch = open_named(project, options.batch)
        _require_trust_of(project, batch, options)
    else:
        batch = _planned(project, options)
    keep_options(batch, asked)
    return batch, asked


def _planned(project: Project, options: Namespace) -> Batch:
    with TaskService(project, settings_of(project.state), Actor(name="claude")) as service:
        with service.catalog.view() as view:
            # With `auto` the rules say which agent has what.
            has = None if options.agent == AUTO else options.has
            made, tasks = view.plan([] if options.all else options.ids, options.parent or "", has)
        told = ", ".join(f"{len(ids)} skipped ({why})" for why, ids in made.by_reason().items())
        if not made.run:
            raise NothingToDo(f"nothing to run: {told}" if told else f"{project.root} has no such task")
        named = {task.path for task in made.run}
        require_trust(project, service.settings, (task for task in tasks if task.path in named), options)
        skipped = [(service.catalog.relative(task), why) for task, why in made.skipped]
        batch = create_of_tasks(project, [service.catalog.relative(task) for task in made.run], skipped)
    print(f"batch {batch.id}: {len(made.run)} tasks" + (f", {told}" if told else ""), file=sys.stderr)
    return batch


def _options(options: Namespace) -> RunOptions:
    if (options.agent in ("exec", "acp")) != bool(options.command):
        raise UsageError("--agent exec (or acp) and --exec CMD belong together")
    if options.jobs < 1:
        raise UsageError(f"-j {options.jobs}: at least 1")
    if not 1 <= options.best_of <= MOST:
        raise UsageError(f"--best-of {options.best_of}: from 1 to {MOST}")
    if options.best_of > 1 and options.isolation == "none":
        raise UsageError("--best-of: each candidate needs a folder of its own; leave out --isolation none")
    _check_budgets(options, options.agent)
    return RunOptions(
        agent=options.agent,
        command=tuple(shlex.split(options.command or "")),
        model=options.model,
        limit=1 if options.strategy == "sequential" else options.jobs,
        isolation=options.isolation,
        merge=options.merge,
        commit_tasks=options.commit_tasks,
        push=options.push,
        skip_permissions=options.skip_permissions,
        sandbox=options.sandbox,
        allowed=tuple(options.allow),
        canary=options.canary,
        halt_percent=_percent(options.halt),
        timeout=options.timeout,
        retries=options.retries,
        best_of=options.best_of,
        budget_usd=options.budget_usd,
        budget_tokens=options.budget_tokens,
        budget_minutes=options.budget_minutes,
        budget_attempts=options.budget_attempts,
        strategy=options.strategy,
        branch=checked_name("--branch", options.branch),
        on_finish=options.on_finish,
        scope_gate=not options.no_scope_gate,
    )


def _check_budgets(options: Namespace, agent: str) -> None:
    for name in _BUDGETS:
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise UsageError(f"--{name.replace('_', '-')} {value:g}: must be more than 0")
    if agent == "exec" and (options.budget_tokens or options.budget_usd):
        raise UsageError("--agent exec reports no cost; use --budget-minutes or --budget-attempts")


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


def _resumed(project: Project, options: Namespace) -> tuple[Batch, RunOptions]:
    if options.ids or options.all or options.parent or options.batch:
        raise UsageError("--resume goes on with that batch's own tasks; name no others")
    batch = open_named(project, options.resume)
    kept = options_of(batch)
    _check_budgets(options, kept.agent)
    if batch.store.shared:
        here = starting_point(project, kept)
        kept = brought_up_to_date(project, here, batch.store.settings)
    else:
        kept = going_on(project, batch, kept)
    _require_trust_of(project, batch, options)
    asked = {name: value for name in _BUDGETS if (value := getattr(options, name)) is not None}
    return batch, change_options(batch, kept, asked) if asked else kept


def _require_trust_of(
    project: Project, batch: Batch, options: Namespace, states: Sequence[str] = OPEN
) -> None:
    """Return if the commands of a batch's tasks may be run; see `require_trust`."""
    settings = batch.store.settings
    with TaskCatalog(project, settings, Actor(name="claude")) as catalog, catalog.indexed() as index:
        items = batch.store.batches.items(batch.record.id, states)
        found = [index.at(item.work.text) for item in items] if index is not None else []
    require_trust(project, settings, [task for task in found if task is not None], options)


# ------------------------------------------------------------------------ merge


def _merge(options: Namespace) -> int:
    project = find_project(Path.cwd(), os.environ)
    with open_named(project, options.batch) as batch:
        if batch.store.shared and not options.push:
            raise UsageError(
                "machines that share a store get work through the remote: add --push; what "
                f"`hypervisor run` left is merged there by `hypervisor run --resume {batch.id}`"
            )
        _require_trust_of(project, batch, options, [Outcome.SUCCESS.value])
        asked = starting_point(project, RunOptions(agent="claude", merge=options.merge, push=options.push))
        folder = project.state / "worktrees" / batch.id
        repository = Repository.read(project.root)
        merges = batch.store.merges.of_batch(batch.record.id)
        integration = Integration(
            repository, folder, batch.id, asked.start_branch, asked.start_commit, merges
        )
        settings = batch.store.settings
        containment = containment_of(asked, settings, project, repository, batch.folder)
        integration.prepare = prepares_merged(batch, repository, folder, containment)
        checks = Checks.of(settings, containment)
        found = list(collect(project, batch, integration, checks))
        said = bring_home(project, batch, integration, asked, sum(one.merged for one in found), checks)
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
