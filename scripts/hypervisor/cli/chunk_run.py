"""`hypervisor chunk run`: waves of chunks, until somebody has to decide, or nothing is left."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from ..core.project import find_project
from ..core.settings import settings_of
from ..queue.stop import Stop
from ..queue.summary import write_summary
from ..review.checkpoint import review
from ..review.plan import ChunkedBatch, open_chunked
from ..review.run import ChunkRunOptions, advance, run_wave
from ..review.waves import CheckpointMode, WaveState, state_of
from ..store.store import Store
from .checkpoint import ask, criteria_of, names_chunked, print_review
from .chunk_batch import on_chunked
from .console import EXIT_DONE, EXIT_REFUSED, Teller, answer_stop, print_json, shown, time_span

#: How often `--wait` looks for a decision.
_LOOK_SECONDS = 0.5


def add_run(verbs: Any) -> None:
    """Add ``run`` to the verbs of ``chunk``."""
    text = "run a command on each chunk, in waves"
    run: ArgumentParser = verbs.add_parser("run", help=text, description=text, allow_abbrev=False)
    names_chunked(run)
    run.add_argument(
        "--exec", metavar="'CMD {}'", help="command for each chunk; {} is the file with its items"
    )
    run.add_argument(
        "-j", "--workers", dest="jobs", type=int, metavar="N", help="chunks in parallel (default: 1)"
    )
    run.add_argument(
        "--checkpoint",
        choices=list(CheckpointMode),
        help="stop after each wave (the default), after the first, or never",
    )
    run.add_argument(
        "--criteria", metavar="TEXT", help="criteria for the workers; @FILE reads them from a file"
    )
    run.add_argument("--timeout", type=time_span, metavar="TIME", help="time limit of a command: 30s, 5m")
    run.add_argument("--retries", type=int, metavar="N", help="retry failed commands up to N times")
    run.add_argument(
        "--wait", action="store_true", help="without a terminal: wait at a checkpoint for a decision"
    )
    run.add_argument("--json", action="store_true", default=SUPPRESS, help="print one JSON document")
    run.set_defaults(action=on_chunked(_run))


# -------------------------------------------------------------------------- run


def _run(options: Namespace, made: ChunkedBatch) -> int:
    stop = Stop()
    wanted = _options(options, made)
    stop.listen(signal.SIGINT, signal.SIGTERM)
    answer_stop(stop, lambda: "the running items")
    plan = made.plan()
    if not os.path.isdir(plan.base):
        raise UsageError(
            f"{plan.base}: the folder in which the plan was made is gone; make it, or mend `base`"
        )
    for line in made.check(plan):
        print(f"hypervisor: {shown(line)}", file=sys.stderr)
    wanted.keep(made)
    if wanted.retries is None:
        return _waves(options, made, wanted, stop)
    again = open_chunked(made.folder, {"attempts": wanted.retries + 1})
    with again.batch:
        return _waves(options, again, wanted, stop)


def _options(options: Namespace, made: ChunkedBatch) -> ChunkRunOptions:
    kept = ChunkRunOptions.of(made)
    if kept is None and not options.exec:
        raise UsageError("say what does the work: --exec 'CMD {}'")
    criteria = criteria_of(options.criteria) if options.criteria is not None else None
    begun = any(not wave.is_dry_run for wave in made.review.waves(made.number))
    if kept and begun and criteria not in (None, kept.criteria):
        raise UsageError(
            "the batch was begun with other criteria; `hypervisor checkpoint revise` changes them"
        )
    before = kept or ChunkRunOptions(command=options.exec)
    orders = ChunkRunOptions(
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


def _waves(options: Namespace, made: ChunkedBatch, wanted: ChunkRunOptions, stop: Stop) -> int:
    """Run wave after wave until somebody has to decide, or nothing is left."""
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and not options.json
    while True:
        at = advance(made, wanted)
        if at.what == "run" and at.wave is not None:
            teller = Teller(len(at.chunks), quiet=options.json)
            try:
                run_wave(made, at.wave, wanted, teller.tell, stop)
            finally:
                teller.close()
            after = state_of(made, made.plan())
            if after.what == "open" and after.wave is not None:
                made.review.set_opened(made.number, after.wave)
            # Without progress another round would come to nothing either.
            if stop.soon.is_set() or after == at:
                return _close(options, made, after)
            continue
        if at.what in ("open", "stopped") and at.wave is not None:
            if terminal and ask(made, at.wave, again=not at.chunks and not at.wave.is_dry_run):
                continue
            if not terminal and options.wait and not stop.soon.is_set():
                _wait(options, made, at, stop)
                continue
            at = state_of(made, made.plan())  # as it was decided at the terminal
        return _close(options, made, at)


def _wait(options: Namespace, made: ChunkedBatch, at: WaveState, stop: Stop) -> None:
    """Wait for a decision."""
    if not options.json:
        print_review(made, at)
        sys.stdout.flush()  # whoever reads along may be the one who decides
    while not stop.soon.wait(_LOOK_SECONDS):
        now = state_of(made, made.plan())
        if (now.what, now.wave) != (at.what, at.wave):
            return


def _close(options: Namespace, made: ChunkedBatch, at: WaveState) -> int:
    """Say where the batch stands."""
    if at.what == "finished" and made.plan().bulk:
        project = find_project(Path.cwd(), os.environ)
        with Store.open(project.state, settings_of(project.state)) as store:
            store.review.remove_gate(str(made.folder))
    census = write_summary(made.batch)[1]
    if options.json:
        data: dict[str, Any] = {"standing": at.what, "census": census.to_json()}
        if at.wave is not None:
            data["checkpoint"] = review(made, at.wave)
        print_json(data)
    else:
        print_review(made, at)
        print(census.line())
    bad = census.of("failed") + census.of("blocked") + census.of("waiting") + census.of("running")
    return EXIT_REFUSED if bad or at.what in ("open", "stopped") else EXIT_DONE
