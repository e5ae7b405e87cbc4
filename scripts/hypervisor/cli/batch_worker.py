"""`batch_worker.py` and `hypervisor batch`: drain a queue with one runner, from any number of terminals."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from ..core.model import Outcome
from ..core.project import find_project, state_above
from ..core.settings import settings_of
from ..queue.batch import Batch
from ..queue.batches import open_folder
from ..queue.block import LARGEST
from ..queue.counts import RunCounts
from ..queue.pool import PoolMember, WorkerPool
from ..queue.retention import compress_if_over
from ..queue.stop import Stop
from ..queue.summary import take_census, write_summary
from ..queue.worker import QueueWorker, WorkerOptions
from ..runners.base import QueueRunner
from ..runners.registry import RUNNERS, RunnerOptions
from .console import (
    EXIT_DONE,
    EXIT_NOTHING,
    EXIT_REFUSED,
    Parser,
    Teller,
    answer_stop,
    print_json,
    run,
    shown,
    time_span,
)
from .looking import assignees_line, dry_run, print_stats, undecided_line
from .opening import claim_settings, open_batch

#: Above this, the whole queue is not counted at the end of each invocation.
_COUNTED_AT_END = 50_000

EXAMPLES = """examples:
  mkdir -p work && find ~/notes -name '*.md' > work/queue.txt
  batch_worker.py --dir work --batch 50             triage 50 of them; run it in several terminals
  batch_worker.py --dir work --stats                where each item of the queue stands
  batch_worker.py --tasks 'tasks/**/*.md' --all --workers 4
  batch_worker.py --dir work --all --exec 'gzip -k {}'
  find . -name '*.log' -print0 | batch_worker.py --dir work --queue - -0 --all --exec 'gzip {}'

exit codes: 0 done, 1 refused or some item failed, 2 wrong usage, 3 nothing to do
"""


def parser() -> Parser:
    """Return the parser of the script."""
    made = Parser(prog="batch_worker.py", allow_abbrev=False)
    _add_arguments(made, "batch_worker.py")
    return made


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``batch`` what it takes: all that the script takes."""
    _add_arguments(commands["batch"], "hypervisor batch")
    commands["batch"].set_defaults(action=_process)


def _add_arguments(made: ArgumentParser, typed: str) -> None:
    """Add what the command takes; *typed* is what a user types for it."""
    made.description = "Work through a queue: each item once, by as many workers as you start."
    made.epilog = EXAMPLES.replace("batch_worker.py", typed)
    made.formatter_class = RawDescriptionHelpFormatter
    where = made.add_argument_group("the queue")
    where.add_argument("--dir", metavar="D", help="folder with queue.txt, and of the batch's state")
    where.add_argument("--tasks", metavar="GLOB", help="task files of this project that match GLOB")
    where.add_argument("--queue", metavar="FILE", help="another queue file; - adds standard input to it")
    where.add_argument("-0", dest="nul", action="store_true", help="items end with NUL instead of a newline")
    what = made.add_argument_group("what to do")
    amount = what.add_mutually_exclusive_group()
    amount.add_argument("--batch", metavar="N", type=int, help="process up to N items")
    amount.add_argument("--all", action="store_true", help="process until every item has a result")
    amount.add_argument("--stats", action="store_true", help="count items by state")
    what.add_argument("--exec", metavar="'CMD {}'", help="command per item; {} is the item (default: triage)")
    what.add_argument("--dry-run", action="store_true", help="show what would be done; change nothing")
    how = made.add_argument_group("how")
    how.add_argument(
        "-j", "--workers", metavar="N", type=int, default=1, help="worker processes (default: 1)"
    )
    how.add_argument("--timeout", metavar="TIME", type=time_span, help="time limit of a command: 30s, 5m")
    how.add_argument(
        "--retries", metavar="N", type=int, help="retry failed commands up to N times (default: never; "
        "crashes and exit code 75 are retried twice)"
    )  # fmt: skip
    how.add_argument(
        "--lease", metavar="TIME", type=time_span, help="reclaim after this long a silence (15m)"
    )
    how.add_argument("--json", action="store_true", help="print one JSON document")


def main(arguments: Sequence[str]) -> int:
    """Run the script; return its exit code."""
    return _process(parser().parse_args(arguments))


def _process(options: Namespace) -> int:
    _check(options)
    looks = options.stats or options.dry_run
    if options.workers == 1 or looks:
        return _open_and_process(options, None)
    _import_for_workers(options)

    def work(member: PoolMember, folder: str) -> int:
        return run(lambda _: _work_as_member(options, member, folder), ())

    with WorkerPool(options.workers, work) as pool:
        return _open_and_process(options, pool)


def _open_and_process(options: Namespace, pool: WorkerPool | None) -> int:
    project = find_project(Path.cwd(), os.environ)
    with open_batch(options, project) as batch:
        if options.stats:
            return print_stats(batch, as_json=options.json)
        if options.dry_run:
            return dry_run(options, batch, _runner(options, batch), _settings_for(batch))
        if batch.store.review.plan(batch.number) is not None:
            raise UsageError(
                f"{batch.folder}: cut into chunks, which start as they are approved; "
                f"use `hypervisor chunk run --dir {batch.folder}`"
            )
        stop = Stop()
        stop.listen(signal.SIGINT, signal.SIGTERM)
        answer_stop(stop, lambda: "the running items")
        if options.exec is None and not options.json:
            _introduce(batch)
        return _work_through(options, batch, stop, pool)


def _introduce(batch: Batch) -> None:
    """Say, before the first item of a batch has a result, to whom triage assigns tasks."""
    if next(iter(batch.store.batches.items(batch.number, list(Outcome))), None) is None:
        print(assignees_line(_settings_for(batch)(str(Path(batch.options.base) / "-"))), file=sys.stderr)


def _import_for_workers(options: Namespace) -> None:
    """Import, before workers are forked, what each of them would import for itself."""
    for name in ("store.sqlite", "store.claims", "store.batches", "store.directories", "store.liveness"):
        import_module(f"hypervisor.{name}")
    if options.exec is None:
        for name in ("runners.triage", "tasks.publication", "documents.yaml_edit"):
            import_module(f"hypervisor.{name}")
        import_module("filelock")


def _work_as_member(options: Namespace, member: PoolMember, folder: str) -> int:
    """Work on the batch in *folder* as one of a pool; return the exit code."""
    # The pool's allowance holds for all; one worker claims at most its half of an equal share at once.
    share = max(1, (options.batch or 0) // (2 * options.workers))
    stop = Stop()
    with open_folder(folder, cwd=str(Path.cwd()), claims=claim_settings(options)) as batch:
        stop.listen(signal.SIGINT, signal.SIGTERM)
        member.attend(stop)
        own = Namespace(**{**vars(options), "batch": share if options.batch else None})
        member.report(_worker(own, batch, stop, member.tell, member.may_begin).run())
    return EXIT_DONE


def _check(options: Namespace) -> None:
    if not (options.batch is not None or options.all or options.stats or options.dry_run):
        raise UsageError(f"say how much: --batch N, --all or --stats; see `{options.typed} --help`")
    if options.dir and options.tasks:
        raise UsageError("--dir and --tasks name two different queues; omit one")
    for look in ("stats", "dry_run"):
        if options.queue == "-" and getattr(options, look):
            option = "--" + look.replace("_", "-")
            raise UsageError(f"--queue - adds items to the queue and {option} changes nothing; omit one")
    if options.queue == "-" and not options.dir:
        raise UsageError("--queue - needs --dir D: the items are kept in D/queue.txt")
    for name in ("batch", "workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: must be 1 or more")
    for name in ("timeout", "lease"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise UsageError(f"--{name} {value:g}: must be more than 0 seconds")
    if options.retries is not None and options.retries < 0:
        raise UsageError(f"--retries {options.retries}: must be 0 or more")
    if options.exec is not None:
        _command(options.exec)


def _command(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--exec {text!r}: {error}; quote it as for a shell") from error
    if not words:
        raise UsageError("--exec is empty; name a command, for example --exec 'wc -l {}'")
    return words


# --------------------------------------------------------------------- the work


def _settings_for(batch: Batch) -> Any:
    def settings_for(path: str) -> Mapping[str, Any]:
        if batch.project is not None and path.startswith(f"{batch.project.root}/"):
            return settings_of(batch.project.state)
        return settings_of(state_above(Path(path).parent))

    return settings_for


def _runner(options: Namespace, batch: Batch) -> QueueRunner:
    make = RUNNERS["triage" if options.exec is None else "exec"].queue_runner
    assert make is not None  # noqa: S101 - both take queue items
    return make(
        RunnerOptions(
            command=() if options.exec is None else _command(options.exec),
            timeout=options.timeout,
            retry_failures=bool(options.retries),
            settings_for=_settings_for(batch),
        )
    )


def _worker(options: Namespace, batch: Batch, stop: Stop, tell: Any, may_begin: Any) -> QueueWorker:
    claims = batch.store.settings["claims"]
    lease = claims["lease_seconds"]
    worker_options = WorkerOptions(
        wait=options.all,
        may_begin=may_begin,
        block=min(options.batch or LARGEST, LARGEST),
        beat_seconds=min(claims["beat_seconds"], lease / 4),
        poll_seconds=min(0.2, lease / 10),
    )
    return QueueWorker(batch, _runner(options, batch), options=worker_options, tell=tell, stop=stop)


def _work_through(options: Namespace, batch: Batch, stop: Stop, pool: WorkerPool | None) -> int:
    small = batch.source.size() < _COUNTED_AT_END * 100
    counts = small and sys.stdout.isatty() and not options.json  # for the bar
    teller = Teller(
        options.batch or (take_census(batch).of("waiting") if counts else None), quiet=options.json
    )
    try:
        if pool is not None:
            deaths = pool.run(batch.folder, allowance=options.batch, stop=stop, tell=teller.tell)
            done = pool.counts
        else:
            done, deaths = _worker(options, batch, stop, teller.tell, _allowance(options.batch)).run(), 0
    finally:
        teller.close()
    return _close(options, batch, done, deaths, count=small)


def _allowance(count: int | None) -> Callable[[int], int]:
    """Return what grants *count* items, all without one."""
    left = count

    def may_begin(wanted: int) -> int:
        nonlocal left
        if left is None:
            return wanted
        granted = min(left, wanted)
        left -= granted
        return granted

    return may_begin


def _close(options: Namespace, batch: Batch, done: RunCounts, deaths: int, *, count: bool) -> int:
    """Say what was done, and where the queue stands."""
    results = {kind.value: done.results[kind.value] for kind in Outcome if kind.value in done.results}
    told = ", ".join(f"{number} {kind}" for kind, number in results.items()) or "nothing"
    report: dict[str, Any] = {"processed": done.processed, "results": results, "again": done.again}
    if options.exec is None:
        report["undecided"] = done.undecided
    closes = True
    if count:
        summary, census = write_summary(batch)
        closes = census.closes
        report.update(summary=summary)
        if packed := compress_if_over(batch, census, batch.store.settings):
            print(packed, file=sys.stderr)
    if options.json:
        print_json(report)
    else:
        print(f"this run: {told}")
        if done.undecided:
            print(undecided_line(done.undecided, done.processed))
        if count:
            print(f"the queue: {census.line()}")
    left = _still_held(batch, done.left)
    for item in left[:5]:
        print(f"held by others: {shown(item)}", file=sys.stderr)
    if deaths:
        print(f"hypervisor: {deaths} worker(s) died; what they held is free again", file=sys.stderr)
    if not closes:
        print("hypervisor: the census does not close", file=sys.stderr)
    failed = done.results.get("failed", 0)
    if failed or deaths or not closes:
        return EXIT_REFUSED
    return EXIT_DONE if done.processed or done.again or left else EXIT_NOTHING


def _still_held(batch: Batch, left: list[str]) -> list[str]:
    """Return those of the items that a worker left to others that have no result by now."""
    if not left:
        return []
    open_ = {item.work.text for item in batch.store.batches.items(batch.number, ["running", "ready"])}
    return [item for item in left if item in open_]
