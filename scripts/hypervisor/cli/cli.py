"""`hypervisor`: what a person types to look at batches and tasks, and to put things right."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from importlib import import_module

from .console import Parser

EXAMPLES = """examples:
  hypervisor preflight --all              what would run, and what is skipped and why
  hypervisor task list --ready            the tasks that an agent may claim now
  hypervisor task claim t-12 --caller claude
  hypervisor task complete t-12 --outcome "added the field" --commit 3f2c1ab --caller claude
  hypervisor status                       batches, claims and tasks of this project
  hypervisor watch                        the newest batch, live; keys drain or cancel it
  hypervisor report --html batch.html     the same as one page that works offline; `serve`: live
  hypervisor summary --dir work           per-item results, and items that need attention
  hypervisor retry --dir work --failed    open what failed again
  hypervisor undo 20260301T120000-a1b2c3  put back what that batch changed in task files

exit codes: 0 done, 1 refused or some item failed, 2 wrong usage, 3 nothing to do
"""


#: The modules that have commands, and what each command is for: a command loads its own module only,
#: as loading all of them takes longer than most commands.
GROUPS: Mapping[str, Mapping[str, str]] = {
    "status": {"status": "show the project's batches, claims and tasks; or one batch"},
    "events": {"events": "print what happened, a line each; with --follow as it happens"},
    "summary": {"summary": "show the result of each item of a batch, and items that need attention"},
    "operations": {
        "reap": "free at once what dead and silent workers hold",
        "retry": "reopen finished items",
        "cancel": "give items that have no result yet the result `skipped`",
        "undo": "put back what a batch changed in task files",
    },
    "task": {"task": "list, show, claim, update, complete, block, release, receipt"},
    "preflight": {"preflight": "show what would run; what is skipped, and why"},
    "run": {
        "run": "run agents on tasks, each in a worktree of its own",
        "merge": "merge what workers in a session have committed",
    },
    "wait": {
        "wait": "wait until something has ended: of a batch; without one, of this session or project",
    },
    "watch": {
        "watch": "show a batch live: workers, pace, tokens, last failures; keys drain or cancel it",
        "drain": "let the workers of a batch finish their running items, and start nothing more",
    },
    "report": {
        "report": "write a batch as one page that works offline: items that need attention, curves, items, failures",
        "serve": "show the same page live, in browsers on this machine",
    },
    "chunk": {
        "chunk": "cut tasks, files or records into chunks: one worker's work, one person's review",
        "checkpoint": "look at what a wave of chunks came to, and say whether it goes on",
    },
    "receipts": {"receipts": "compare receipts with what else is known of the work"},
    "clean": {"clean": "remove what runs have left, and compress the outputs of batches that are over"},
    "doctor": {"doctor": "check the machine, the programs and the project; name what is wrong and the fix"},
    "spawn": {
        "spawn": "make tasks of free text and run an agent on each, in the background",
        "stats": "show what runs, what is queued, and the machine's zone",
    },
    "hive": {"hive": "share findings between agents, and search them"},
    "learn": {"learn": "show or add what is known of running tasks of each type in parallel"},
}


def parser(only: str | None = None) -> ArgumentParser:
    """Return the parser of the command and all that stands below it.

    Args:
        only: A command: the parser need not know the others. Another word: no command takes anything yet,
            which is enough to name them.
    """
    made = Parser(
        prog="hypervisor",
        description="Look at queues of work and put things right. `batch_worker.py` does the work.",
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    below = made.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    known = any(only in commands for commands in GROUPS.values())
    for module, commands in GROUPS.items():
        if known and only not in commands:
            continue
        added = {
            name: below.add_parser(name, help=text, description=text, allow_abbrev=False)
            for name, text in commands.items()
        }
        if known or only is None:
            import_module(f".{module}", __package__).add_commands(added)
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parser(arguments[0] if arguments else "").parse_args(arguments)
    code: int = options.action(options)
    return code
