"""`hypervisor checkpoint`: what a wave of chunks came to, and what a person says of it."""

from __future__ import annotations

import getpass
import signal
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from pathlib import Path

from ..core.errors import Refused, UsageError
from ..core.text import time_text
from ..queue.summary import take_census
from ..review.checkpoint import in_lines, review
from ..review.plan import ChunkedBatch
from ..review.waves import WaveState, decide, state_of
from ..store.review_records import Wave
from .chunk_batch import on_chunked
from .console import EXIT_DONE, EXIT_NOTHING, Parser, print_json, shown


def add_checkpoint(command: ArgumentParser) -> None:
    """Add to ``checkpoint`` what it takes."""
    command.add_argument("--dir", metavar="D", help="folder of a batch")
    command.add_argument("--task", metavar="ID", help="the batch of this task")
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.set_defaults(action=on_chunked(_show))
    verbs = command.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    for name, help_text, action in (
        ("show", "counts by category, samples of each, what failed", _show),
        ("approve", "go on", _decide),
        ("revise", "do it again with other criteria", _decide),
        ("stop", "begin nothing more", _decide),
    ):
        verb: ArgumentParser = verbs.add_parser(
            name, help=help_text, description=help_text, allow_abbrev=False
        )
        names_chunked(verb)
        verb.add_argument("--json", action="store_true", default=SUPPRESS, help="print one JSON document")
        verb.set_defaults(action=on_chunked(action))
        if name != "show":
            verb.add_argument("--by", metavar="NAME", help="name of who decides (default: you)")
        if name == "revise":
            verb.add_argument(
                "--criteria", default="", metavar="TEXT", help="new criteria; @FILE reads them from a file"
            )
            verb.add_argument(
                "--chunk",
                action="append",
                default=[],
                metavar="CHUNK",
                help="only this chunk; may be repeated",
            )


def names_chunked(command: ArgumentParser) -> None:
    """Let *command* name a batch that is cut into chunks."""
    command.add_argument("batch", nargs="?", metavar="BATCH", help="batch id (default: the newest)")
    # Suppressed, or they would overwrite what stands before the verb.
    command.add_argument("--dir", metavar="D", default=SUPPRESS, help="folder of a batch")
    command.add_argument("--task", metavar="ID", default=SUPPRESS, help="the batch of this task")


def criteria_of(text: str) -> str:
    """Return criteria as they are given: the text itself, or what the file of ``@FILE`` holds.

    Raises:
        UsageError: The file cannot be read.
    """
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--criteria {text}: cannot be read ({error})") from None


# -------------------------------------------------------------------- at a run


def ask(made: ChunkedBatch, wave: Wave, *, again: bool) -> bool:
    """Show a wave to the person at the terminal, and do what they say; False if they say nothing.

    Args:
        made: The batch.
        wave: The wave.
        again: Whether it can be done again.
    """
    for line in in_lines(review(made, wave)):
        print(shown(line, 400))
    if wave.decided is not None:
        print(f"stopped by {wave.decided.by}")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        while True:
            redo = "[r]edo with new criteria, " if again else ""
            answer = input(f"[g]o on, {redo}[s]top? ").strip().lower()[:1]
            if answer in ("g", "s"):
                if answer == "s" and wave.decided is not None:
                    return False
                decide(made, "approve" if answer == "g" else "stop", getpass.getuser())
                return answer == "g"
            if answer == "r" and again:
                criteria = criteria_of(input("new criteria (@FILE reads them): "))
                if criteria.strip():
                    decide(made, "revise", getpass.getuser(), criteria=criteria)
                    return True
            print("g, r or s" if again else "g or s; what was not done cannot be done again")
    except (EOFError, KeyboardInterrupt):
        print()
        return False
    except (Refused, UsageError) as error:  # somebody else was first, or there is no such file
        print(f"hypervisor: {error}")
        return True
    finally:
        signal.signal(signal.SIGINT, before)


def print_review(made: ChunkedBatch, at: WaveState) -> None:
    """Print a checkpoint that waits, and what is to be typed; at a terminal `ask` has shown it already."""
    if at.wave is None or at.what not in ("open", "stopped"):
        return
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if not terminal or at.what == "stopped":
        for line in in_lines(review(made, at.wave)):
            print(shown(line, 400))
    if at.what == "stopped":
        by = at.wave.decided.by if at.wave.decided else ""
        print(f"stopped by {by}; `hypervisor checkpoint approve --dir {made.folder}` lifts that")
    else:
        print(
            f"waiting for a decision: `hypervisor checkpoint approve --dir {made.folder}` (or revise, "
            f"or stop), then `hypervisor chunk run --dir {made.folder}`"
        )


# ------------------------------------------------------------------- checkpoint


def _show(options: Namespace, made: ChunkedBatch) -> int:
    plan = made.plan()
    at = state_of(made, plan)
    begun = made.review.begun(made.number)
    # Workers of a session have no waves: then all is shown that has begun.
    names = tuple(chunk.id for chunk in plan.chunks if chunk.id in begun)
    wave = at.wave or Wave(number=0, chunks=names, criteria="", checkpoint=False)
    report = review(made, wave)
    decided = wave.decided
    if options.json:
        said = decided and {
            "verdict": decided.verdict, "by": decided.by, "at": time_text(decided.at / 1000)
        }  # fmt: skip
        print_json({"standing": at.what, "decided": said, **report})
    else:
        for line in in_lines(report):
            print(shown(line, 400))
        how = f"{decided.verdict} by {decided.by}" if decided else at.what
        print(f"{how}; {take_census(made.batch).line()}")
    return EXIT_DONE if report["chunks"] else EXIT_NOTHING


def _decide(options: Namespace, made: ChunkedBatch) -> int:
    revise = options.verb == "revise"
    wave = decide(
        made, options.verb, options.by or getpass.getuser(),
        criteria=criteria_of(options.criteria) if revise else "", chunks=options.chunk if revise else (),
    )  # fmt: skip
    at = state_of(made, made.plan())
    if options.json:
        print_json({"checkpoint": wave.number, "verdict": options.verb, "standing": at.what})
    else:
        then = {"approve": "go on", "revise": "do it again", "stop": "begins nothing more"}[options.verb]
        word = "" if options.verb == "stop" else f"; `hypervisor chunk run --dir {made.folder}` goes on"
        print(f"checkpoint {wave.number}: {then}{word}")
    return EXIT_DONE
