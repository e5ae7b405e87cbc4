"""`hypervisor chunk run` and `hypervisor checkpoint`: waves of chunks, and what a person says of each."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from .batches import Batch
from .checkpoints import Mode, Standing, Wave, Waves
from .chunked import ChunkedBatch
from .chunkrun import Orders, advance, decide, drain, run_wave, tell_opened
from .cli_chunk_batch import chunked_of
from .console import EXIT_DONE, EXIT_NOTHING, EXIT_REFUSED, Parser, Teller, print_json, shown
from .crew import Membership
from .errors import Refused, UsageError
from .heart import Stop
from .review import in_lines, review, where_it_stands
from .summary import take_census, write_summary

#: How often `--wait` looks for a decision.
_LOOK_SECONDS = 0.5


def add_run(verbs: Any) -> None:
    """Add ``run`` to the verbs of ``chunk``."""
    text = "have a command do the chunks, a wave at a time"
    run: ArgumentParser = verbs.add_parser("run", help=text, description=text, allow_abbrev=False)
    _names_batch(run)
    run.add_argument(
        "--exec", metavar="'CMD {}'", help="run CMD for each chunk; {} is the file with its items"
    )
    run.add_argument("-j", "--jobs", type=int, metavar="N", help="how many chunks at once (default 1)")
    run.add_argument(
        "--checkpoint", choices=list(Mode), help="after each wave (the default), the first, none"
    )
    run.add_argument("--criteria", metavar="TEXT", help="what workers go by; @FILE reads it")
    run.add_argument("--timeout", type=float, metavar="S", help="end a command after S seconds")
    run.add_argument("--retries", type=int, metavar="N", help="try failed commands again, up to N times")
    run.add_argument("--wait", action="store_true", help="without a terminal: wait at a checkpoint")
    run.add_argument("--wave", type=int, help=SUPPRESS)  # a worker of a crew
    run.add_argument("--json", action="store_true", default=SUPPRESS, help="print one JSON document")
    run.set_defaults(action=_run)


def add_checkpoint(below: Any) -> None:
    """Add ``checkpoint`` to the commands."""
    text = "look at what a wave of chunks came to, and say whether it goes on"
    command: ArgumentParser = below.add_parser("checkpoint", help=text, description=text, allow_abbrev=False)
    command.add_argument("--dir", metavar="D", help="the batch's folder")
    command.add_argument("--task", metavar="ID", help="the batch for this task")
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.set_defaults(action=_show)
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
        _names_batch(verb)
        verb.add_argument("--json", action="store_true", default=SUPPRESS, help="print one JSON document")
        verb.set_defaults(action=action)
        if name != "show":
            verb.add_argument("--by", metavar="NAME", help="who decides (default: you)")
        if name == "revise":
            verb.add_argument("--criteria", default="", metavar="TEXT", help="the new ones; @FILE reads them")
            verb.add_argument(
                "--chunk", action="append", default=[], metavar="CHUNK", help="only this one; may be repeated"
            )


def _names_batch(command: ArgumentParser) -> None:
    command.add_argument("batch", nargs="?", metavar="BATCH", help="a batch's id; without it: the newest")
    # Suppressed, or they would overwrite what stands before the verb.
    command.add_argument("--dir", metavar="D", default=SUPPRESS, help="the batch's folder")
    command.add_argument("--task", metavar="ID", default=SUPPRESS, help="the batch for this task")


# -------------------------------------------------------------------------- run


def _run(options: Namespace) -> int:
    stop = Stop()
    crew = Membership.of_this_process(stop)
    made = chunked_of(options)
    batch = made.open()
    orders = _orders(options, made)
    stop.listen(signal.SIGINT, signal.SIGTERM)
    if crew is not None:
        crew.attend()
        crew.report(drain(made, batch, orders, options.wave, crew.tell, stop).tally)
        return EXIT_DONE
    plan = made.plan()
    if not os.path.isdir(plan.base):
        raise UsageError(
            f"{plan.base}: the folder in which the plan was made is gone; make it, or mend `base`"
        )
    for line in made.check(plan):
        print(f"hypervisor: {shown(line)}", file=sys.stderr)
    orders.keep(made.folder)
    return _waves(options, made, batch, orders, stop)


def _orders(options: Namespace, made: ChunkedBatch) -> Orders:
    kept = Orders.of(made.folder)
    if kept is None and not options.exec:
        raise UsageError("say what does the work: --exec 'CMD {}'")
    criteria = _criteria(options.criteria) if options.criteria is not None else None
    begun = bool(Waves(made.folder).all())
    if kept and begun and criteria not in (None, kept.criteria):
        raise UsageError(
            "the batch was begun with other criteria; `hypervisor checkpoint revise` changes them"
        )
    before = kept or Orders(command=options.exec)
    orders = Orders(
        command=options.exec or before.command,
        jobs=before.jobs if options.jobs is None else options.jobs,
        mode=options.checkpoint or before.mode,
        criteria=before.criteria if criteria is None else criteria,
        timeout=before.timeout if options.timeout is None else options.timeout,
        retries=before.retries if options.retries is None else options.retries,
    )
    if orders.jobs < 1:
        raise UsageError(f"-j {orders.jobs}: must be 1 or more")
    if orders.timeout is not None and not orders.timeout > 0:
        raise UsageError(f"--timeout {orders.timeout:g}: must be more than 0 seconds")
    if orders.retries is not None and orders.retries < 0:
        raise UsageError(f"--retries {orders.retries}: must be 0 or more")
    _check_command(orders.command, made)
    return orders


def _check_command(text: str, made: ChunkedBatch) -> None:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--exec {text!r}: {error}; quote it as for a shell") from error
    if not words:
        raise UsageError("--exec is empty; name a command, for example --exec './classify.py {}'")
    base = made.plan().base
    program = words[0] if "/" not in words[0] else os.path.join(base, words[0])
    if shutil.which(program) is None:
        raise UsageError(f"{words[0]}: no such program (commands run in {base})")


def _criteria(text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--criteria {text}: cannot be read ({error})") from None


def _waves(options: Namespace, made: ChunkedBatch, batch: Batch, orders: Orders, stop: Stop) -> int:
    """Run wave after wave until somebody has to decide, or nothing is left."""
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and not options.json
    while True:
        at = advance(made, batch, orders)
        if at.what == "run" and at.wave is not None:
            teller = Teller(len(at.chunks), quiet=options.json)
            try:
                deaths = run_wave(made, batch, orders, at.wave.number, teller.tell, stop)
            finally:
                teller.close()
            if deaths:
                print(f"hypervisor: {deaths} worker(s) died; what they held is free again", file=sys.stderr)
            after = where_it_stands(made, batch, made.plan())
            if after.what == "open" and after.wave is not None:
                tell_opened(made, after.wave)
            # Without progress another round would come to nothing either.
            if deaths or stop.soon.is_set() or after == at:
                return _close(options, made, batch, after)
            continue
        if at.what in ("open", "stopped") and at.wave is not None:
            if terminal and _ask(made, batch, at.wave, midway=bool(at.chunks)):
                continue
            if not terminal and options.wait and not stop.soon.is_set():
                _wait(options, made, batch, at, stop)
                continue
        return _close(options, made, batch, where_it_stands(made, batch, made.plan()))


def _wait(options: Namespace, made: ChunkedBatch, batch: Batch, at: Standing, stop: Stop) -> None:
    if not options.json:
        _print_review(made, batch, at)
        sys.stdout.flush()  # whoever reads along may be the one who decides
    while not stop.soon.wait(_LOOK_SECONDS):
        now = where_it_stands(made, batch, made.plan())
        if (now.what, now.wave) != (at.what, at.wave):
            return


def _ask(made: ChunkedBatch, batch: Batch, wave: Wave, *, midway: bool) -> bool:
    """Show a wave to the person at the terminal, and do what he says; False if he says nothing."""
    for line in in_lines(review(made, batch, wave)):
        print(shown(line, 400))
    if wave.decided is not None:
        print(f"stopped by {wave.decided.by}")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        while True:
            answer = input("[g]o on, [r]edo with new criteria, [s]top? ").strip().lower()[:1]
            if answer in ("g", "s"):
                if answer == "s" and wave.decided is not None:
                    return False
                decide(made, batch, "approve" if answer == "g" else "stop", getpass.getuser())
                return answer == "g"
            if answer == "r" and not midway:
                criteria = _criteria(input("new criteria (@FILE reads them): "))
                if criteria.strip():
                    decide(made, batch, "revise", getpass.getuser(), criteria=criteria)
                    return True
            print("g, r or s" + ("; what still waits cannot be done again" if midway else ""))
    except (EOFError, KeyboardInterrupt):
        print()
        return False
    except (Refused, UsageError) as error:  # somebody else was first, or there is no such file
        print(f"hypervisor: {error}")
        return True
    finally:
        signal.signal(signal.SIGINT, before)


def _close(options: Namespace, made: ChunkedBatch, batch: Batch, at: Standing) -> int:
    """Say where the batch stands."""
    census = write_summary(batch)[1]
    if options.json:
        data: dict[str, Any] = {"standing": at.what, "census": census.to_json()}
        if at.wave is not None:
            data["checkpoint"] = review(made, batch, at.wave)
        print_json(data)
    else:
        _print_review(made, batch, at)
        print(census.line())
    bad = census.of("failed") + census.of("blocked") + census.of("waiting") + census.of("running")
    return EXIT_REFUSED if bad or at.what in ("open", "stopped") else EXIT_DONE


def _print_review(made: ChunkedBatch, batch: Batch, at: Standing) -> None:
    if at.wave is None or at.what not in ("open", "stopped"):
        return
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if not terminal or at.what == "stopped":
        for line in in_lines(review(made, batch, at.wave)):
            print(shown(line, 400))
    if at.what == "stopped":
        by = at.wave.decided.by if at.wave.decided else ""
        print(f"stopped by {by}; `hypervisor checkpoint approve --dir {made.folder}` lifts that")
    else:
        print(
            f"open: `hypervisor checkpoint approve|revise|stop --dir {made.folder}`, "
            f"then `hypervisor chunk run`"
        )


# ------------------------------------------------------------------- checkpoint


def _show(options: Namespace) -> int:
    made, batch = _opened(options)
    at = where_it_stands(made, batch, made.plan())
    begun = tuple(chunk.id for chunk in made.plan().chunks if made.path(chunk.id).exists())
    # Workers of a session have no waves: then all is shown that was begun.
    wave = at.wave or Wave(number=0, chunks=begun, criteria="", checkpoint=False)
    report = review(made, batch, wave)
    decided = wave.decided
    if options.json:
        told = decided and {"verdict": decided.verdict, "by": decided.by, "at": decided.at}
        print_json({"standing": at.what, "decided": told, **report})
    else:
        for line in in_lines(report):
            print(shown(line, 400))
        how = f"{decided.verdict} by {decided.by}" if decided else at.what
        print(f"{how}; {take_census(batch).line()}")
    return EXIT_DONE if wave.chunks else EXIT_NOTHING


def _decide(options: Namespace) -> int:
    made, batch = _opened(options)
    revise = options.verb == "revise"
    wave = decide(
        made, batch, options.verb, options.by or getpass.getuser(),
        criteria=_criteria(options.criteria) if revise else "", chunks=options.chunk if revise else (),
    )  # fmt: skip
    at = where_it_stands(made, batch, made.plan())
    if options.json:
        print_json({"checkpoint": wave.number, "verdict": options.verb, "standing": at.what})
    else:
        then = {"approve": "go on", "revise": "do it again", "stop": "begins nothing more"}[options.verb]
        word = "" if options.verb == "stop" else f"; `hypervisor chunk run --dir {made.folder}` goes on"
        print(f"checkpoint {wave.number}: {then}{word}")
    return EXIT_DONE


def _opened(options: Namespace) -> tuple[ChunkedBatch, Batch]:
    made = chunked_of(options)
    return made, made.open()
