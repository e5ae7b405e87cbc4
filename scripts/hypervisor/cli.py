"""`hypervisor`: what a person types to look at batches and tasks, and to put things right."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import cli_run, cli_tasks, doctor, operations
from .answers import batch_status, dependency_faults, index_stats
from .batches import Batch, newest, open_folder, open_named, settings_of
from .claims.directory import DirectoryStore, Policy
from .console import EXIT_DONE, EXIT_NOTHING, EXIT_REFUSED, Parser, print_json, shown
from .desk import Desk
from .errors import UsageError
from .paths import find_project
from .summary import summarise, take_census
from .tasklist import Caller

EXAMPLES = """examples:
  hypervisor preflight --all              what would run, and what is skipped and why
  hypervisor task list --ready            the tasks that an agent may claim now
  hypervisor task claim t-12 --caller claude
  hypervisor task complete t-12 --outcome "added the field" --commit 3f2c1ab --caller claude
  hypervisor status                       batches, claims and tasks of this project
  hypervisor summary --dir work           what each item came to, and what needs you
  hypervisor retry --dir work --failed    open what failed again
  hypervisor undo 20260301T120000-a1b2c3  put back what that batch changed in task files

exit codes: 0 done, 1 refused or some item failed, 2 wrong usage, 3 nothing to do
"""


def parser() -> ArgumentParser:
    """Return the parser of the command and all that stands below it."""
    made = Parser(
        prog="hypervisor",
        description="Look at queues of work and put things right. `batch_worker.py` does the work.",
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    below = made.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    _batch_commands(below)
    cli_tasks.add_commands(below)
    cli_run.add_commands(below)
    _add(below, "doctor", "find what is missing or wrong here, and say what to type", _doctor)
    return made


def _add(below: Any, name: str, help_text: str, action: Any) -> ArgumentParser:
    made: ArgumentParser = below.add_parser(name, help=help_text, description=help_text, allow_abbrev=False)
    made.set_defaults(action=action)
    made.add_argument("--json", action="store_true", help="print one JSON document")
    return made


def _batch_commands(below: Any) -> None:
    status = _add(below, "status", "show the project's batches, claims and tasks; or one batch", _status)
    status.add_argument("batch", nargs="?", metavar="BATCH", help="a batch's id: who runs what, what waits")
    summary = _add(below, "summary", "show what each item of a batch came to, and what needs you", _summary)
    _names_batch(summary)
    reap = _add(below, "reap", "free at once what the dead and the silent hold", _reap)
    reap.add_argument("--dir", metavar="D", help="the folder of a batch; without it: this project")
    retry = _add(below, "retry", "open finished items again", _retry)
    _names_batch(retry)
    retry.add_argument("--item", action="append", default=[], help="only this item; may be repeated")
    retry.add_argument("--failed", action="store_true", help="those that failed (the default)")
    retry.add_argument("--blocked", action="store_true", help="those that are blocked")
    cancel = _add(below, "cancel", "give items that have no result yet the result `skipped`", _cancel)
    _names_batch(cancel)
    cancel.add_argument("--item", action="append", default=[], help="this item; may be repeated")
    cancel.add_argument("--all", action="store_true", help="every item that has no result yet")
    undo = _add(below, "undo", "put back what a batch changed in task files", _undo)
    _names_batch(undo)


def _names_batch(command: ArgumentParser) -> None:
    command.add_argument("batch", nargs="?", metavar="BATCH", help="a batch's id; without it: the newest")
    command.add_argument("--dir", metavar="D", help="the folder of a batch")


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args(arguments)
    code: int = options.action(options)
    return code


def batch_of(options: Namespace) -> Batch:
    """Return the batch that a command names, or means.

    Raises:
        UsageError: There is none.
    """
    cwd = str(Path.cwd())
    project = find_project(Path.cwd(), os.environ)
    if options.dir and options.batch:
        raise UsageError(f"{options.batch} and --dir {options.dir} name two batches; leave one away")
    if options.dir:
        return open_folder(options.dir, cwd=cwd, write=False)
    if not options.batch and os.path.isfile("queue.txt"):
        return open_folder(cwd, cwd=cwd, write=False)
    if not options.batch and newest(project) is None:
        raise UsageError(f"{project.root} has no batch; name a folder with --dir")
    return open_named(project, options.batch or "")


def _desk() -> Desk:
    project = find_project(Path.cwd(), os.environ)
    return Desk(project, settings_of(project.state), Caller(name="hypervisor"))


# --------------------------------------------------------------------- commands


def _status(options: Namespace) -> int:
    if options.batch:
        return _one_batch(options)
    desk = _desk()
    state = desk.project.state
    batches: list[dict[str, Any]] = []
    names = sorted(os.listdir(desk.project.batches)) if desk.project.batches.is_dir() else []
    for name in names:
        if (desk.project.batches / name / "manifest.json").is_file():
            batch = open_folder(str(desk.project.batches / name), cwd=str(state), write=False)
            batches.append({"batch_id": name, "census": take_census(batch).to_json()})
    claims = _claims(str(state)) if state.is_dir() else []
    tasks = index_stats(desk, projects=True)
    if options.json:
        print_json({"batches": batches, "claims": claims, **tasks})
        return EXIT_DONE
    print(f"project  {desk.project.root}")
    counts = ", ".join(f"{n} {word}" for word, n in tasks["by_status"].items())
    print(f"tasks    {counts or 'none'}" + (f"; {tasks['ready']} ready" if counts else ""))
    for line in desk.unreadable:
        print(f"         cannot be read: {line}")
    for line in dependency_faults(tasks):
        print(f"         {line}")
    for one in batches:
        counts = ", ".join(f"{n} {word}" for word, n in one["census"].items() if n)
        print(f"batch    {one['batch_id']}: {counts}")
    for claim in claims:
        print(f"claim    {claim['item']}: {claim['holder']}, generation {claim['generation']}, "
              f"last sign {claim['silent_seconds']:.0f} s ago")  # fmt: skip
    return EXIT_DONE


def _one_batch(options: Namespace) -> int:
    found = batch_status(open_named(find_project(Path.cwd(), os.environ), options.batch))
    if options.json:
        print_json(found)
    else:
        print(
            f"batch {found['batch_id']}: "
            + ", ".join(f"{n} {word}" for word, n in found["census"].items() if n)
        )
        for one in found["running"]:
            since = ""
            if "seconds" in one:
                since = f" for {one['seconds']:.0f} s, last output {one['output_seconds_ago']:.0f} s ago"
            print(f"running  {shown(one['item'])}: {one.get('holder', '-')}{since}")
        for item in found["waiting"]:
            print(f"waiting  {shown(item)}")
        for item, why in found.get("not_ready", {}).items():
            print(f"waiting  {shown(item)}: {shown(why)}")
        if "held_up" in found:
            print(shown(found["held_up"]))
        if found.get("cost_usd"):
            print(f"{found['cost_usd']:.4f} USD spent so far")
    return EXIT_DONE if found["closes"] else EXIT_REFUSED


def _claims(root: str) -> list[dict[str, Any]]:
    store = DirectoryStore(root, policy=Policy(patient=False))
    if not os.path.isdir(store.layout.locks):
        return []
    found = []
    for key in store.layout.unfinished():
        held = store.held(key) if store.is_held(key) else None
        if held is not None:
            found.append({
                "item": key, "holder": held.holder.name, "worker": held.holder.id,
                "generation": held.generation, "silent_seconds": round(held.silent_seconds, 1),
            })  # fmt: skip
    return found


def _summary(options: Namespace) -> int:
    batch = batch_of(options)
    data, census = summarise(batch)
    if options.json:
        print_json(data)
        return EXIT_DONE if census.closes else EXIT_REFUSED
    print(f"batch {batch.id}")
    for row in data["workers"]:
        took = f" ({row['seconds']:g} s)" if row.get("seconds") is not None else ""
        text = row.get("outcome") or row.get("reason") or ""
        print(f"  {row['status']:8} {shown(str(row['task_id']))}: {shown(text)}{took}")
    print(census.line())
    for need in data["needs_you"]:
        print(f"needs you: {shown(str(need['task_id']))}: {shown(need['reason'])}; {need['next']}")
    if not census.closes:
        print(f"the census does not close; damaged: {', '.join(census.damaged[:3])}")
    return EXIT_DONE if census.closes else EXIT_REFUSED


def _reap(options: Namespace) -> int:
    if options.dir:
        batch = open_folder(options.dir, cwd=str(Path.cwd()), write=False)
        with operations.stores("reap") as opened:
            freed = opened.of(batch.folder).reap()
    else:
        freed = _desk().reap()
    return _tell(options, "freed", freed, "nothing to free: no claim of the dead or the silent")


def _retry(options: Namespace) -> int:
    states = {"blocked"} if options.blocked and not options.failed else {"failed"}
    if options.blocked and options.failed:
        states = {"failed", "blocked"}
    if options.item and not (options.failed or options.blocked):
        states = {"failed", "blocked", "skipped", "success"}
    opened = operations.retry(batch_of(options), options.item, states)
    return _tell(
        options, "waiting again", opened, f"nothing to open again: no item is {' or '.join(sorted(states))}"
    )


def _cancel(options: Namespace) -> int:
    if not options.item and not options.all:
        raise UsageError("say which: --item ITEM, or --all for every item that has no result yet")
    cancelled = operations.cancel(batch_of(options), options.item)
    return _tell(options, "cancelled", cancelled, "nothing to cancel: every item has its result")


def _undo(options: Namespace) -> int:
    put_back, left = operations.undo(batch_of(options))
    if options.json:
        print_json({"put_back": put_back, "left": left})
    else:
        print(f"put back: {len(put_back)} file(s)")
        for line in left:
            print(f"left, as it was changed since: {line}")
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


def _doctor(options: Namespace) -> int:
    project = find_project(Path.cwd(), os.environ)
    findings = doctor.examine(project, os.environ)
    if options.json:
        print_json([{"check": f.check, "ok": f.ok, "text": f.text, "do": f.do} for f in findings])
    else:
        for finding in findings:
            print(f"{'ok     ' if finding.ok else 'MISSING'} {finding.check}: {finding.text}")
            if not finding.ok and finding.do:
                print(f"        do: {finding.do}")
    return EXIT_DONE if all(f.ok or f.optional for f in findings) else EXIT_REFUSED
