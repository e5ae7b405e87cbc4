"""The ``hypervisor`` command: groups of subcommands, each in a module that is imported when it is typed."""

from __future__ import annotations

import sys
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module

from .. import __version__
from .completion import SHELLS, PrintCompletion
from .console import EXIT_USAGE, Parser, run

#: What ``hypervisor --help`` lists: headings, commands and what each one does.
GROUPS: Mapping[str, Mapping[str, str]] = {
    "Run": {
        "preflight": "list what would run, and what is skipped and why",
        "trust": "show the commands that came with a repository, and trust them",
        "batch": "process a queue: triage, or a command for each item",
        "run": "run agents on tasks, each in a clone of its own",
        "spawn": "turn texts into tasks and run an agent on each, in the background",
        "accept": "merge the kept branch of a task after a look, and complete the task",
        "merge": "merge and verify what workers of a session have committed",
        "answer": "answer the question of an agent; its task goes on",
        "drain": "let the workers of a batch finish what is running, and start nothing more",
    },
    "Look": {
        "status": "show the batches, claims and tasks of the project, or one batch",
        "watch": "follow a batch in the terminal; keys drain or cancel it",
        "questions": "list what agents have asked; their tasks wait",
        "diff": "show what the kept branch of a task changed",
        "log": "print what an attempt at an item has printed; -f follows it",
        "summary": "show the result of each item, and the items that need attention",
        "report": "write a batch as one HTML page that works offline",
        "serve": "serve the same page live, to browsers on this machine",
        "events": "print what happened, one event per line; --follow continues",
        "wait": "wait until an item, a task or a whole batch has ended",
        "stats": "show running and queued agents, and the zone of the machine",
    },
    "Recover": {
        "retry": "reopen failed or blocked items",
        "reap": "reclaim at once what dead and silent workers hold",
        "cancel": "give items without a result the result `skipped`",
        "undo": "restore the task files that a batch changed",
        "clean": "remove leftovers of runs, and compress old outputs",
        "doctor": "check machine, programs and project, with a fix for each finding",
    },
    "Tasks and settings": {
        "task": "list, show, create, claim, update, complete, block or release tasks",
        "config": "print or change a setting of the project",
        "store": "use a PostgreSQL server for many machines, and check it",
        "machines": "list the machines that use the store, and what each works on",
    },
    "Review": {
        "chunk": "split tasks, files or records into chunks, and process them in waves",
        "checkpoint": "inspect a wave of chunks; approve it, revise it or stop",
        "receipts": "check the records of irreversible actions",
    },
    "Learn": {
        "hive": "share findings between agents, and search them",
        "learn": "show or record how much each type of task gains from parallelism",
    },
}
#: The module of a command, where it is not called like the command.
MODULES: Mapping[str, str] = {
    "batch": "batch_worker",
    **dict.fromkeys(("reap", "retry", "cancel", "undo"), "operations"),
    "merge": "run",
    "accept": "diff",
    "answer": "questions",
    "stats": "spawn",
    "drain": "watch",
    "serve": "report",
    "checkpoint": "chunk",
    "machines": "store",
}

#: What only people decide, and no agent of a run.
_PEOPLE = frozenset({
    "accept", "cancel", "checkpoint", "clean", "config", "drain", "merge", "reap", "retry", "trust",
    "undo",
})  # fmt: skip

_DESCRIPTION = "Process a queue with many coding agents in parallel, and inspect and recover batches."
_EPILOG = """examples:
  hypervisor batch --dir work --all --workers 4
  hypervisor preflight --all
  hypervisor run --all -j 4 --budget-usd 20
  hypervisor watch
  hypervisor summary --dir work
  hypervisor task claim t-12 --caller claude
  hypervisor task complete t-12 --outcome "added the field" --commit 3f2c1ab --caller claude

exit codes: 0 done, 1 refused or some item failed, 2 usage, 3 nothing to do
`hypervisor COMMAND --help` describes a command; every command takes --json.
"""


def parser(only: str | None = None) -> ArgumentParser:
    """Return the parser of the command and of its subcommands.

    Importing the modules of all commands takes longer than most commands run.

    Args:
        only: The command that was typed; only its module is imported. For any other word no module is, and
            the parser knows the names of the commands only.
    """
    made = Parser(
        prog="hypervisor",
        usage="hypervisor COMMAND [OPTIONS]",
        description=f"{_DESCRIPTION}\n\n{_listed()}",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--completion", action=PrintCompletion, whole=parser, choices=SHELLS, metavar="SHELL",
                      help=f"print the completion script for {', '.join(SHELLS)}")  # fmt: skip
    made.add_argument("--version", action="version", version=f"hypervisor {__version__}")
    below = made.add_subparsers(
        dest="command",
        metavar="COMMAND",
        required=True,
        parser_class=Parser,
        prog="hypervisor",
        help=SUPPRESS,
    )
    known = any(only in commands for commands in GROUPS.values())
    for module, commands in _by_module().items():
        if known and only not in commands:
            continue
        added = {
            name: below.add_parser(
                name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False
            )
            for name, text in commands.items()
        }
        if known or only is None:
            import_module(f".{module}", __package__).add_commands(added)
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command that *arguments* name; return its exit code."""
    if not arguments:
        parser("").print_help(sys.stderr)
        return EXIT_USAGE
    options = parser(arguments[0]).parse_args(arguments)

    def act(_: Sequence[str]) -> int:
        if options.command in _PEOPLE:
            from .caller import require_person  # noqa: PLC0415 - for these only

            require_person()
        return int(options.action(options))

    return run(act, arguments, name=options.typed)


def _by_module() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for commands in GROUPS.values():
        for name, text in commands.items():
            found.setdefault(MODULES.get(name, name), {})[name] = text
    return found


def _listed() -> str:
    def lines() -> Iterator[str]:
        for heading, commands in GROUPS.items():
            yield f"{heading}:"
            yield from (f"  {name:11} {text}" for name, text in commands.items())
            yield ""

    return "\n".join(lines()).rstrip()
