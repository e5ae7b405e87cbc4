"""`hypervisor log`: what an attempt at an item has printed, also while it runs."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.process import host_name
from ..core.text import printable_lines
from .console import EXIT_DONE, EXIT_NOTHING, print_json, shown
from .naming import batch_of

if TYPE_CHECKING:
    from ..report.attempt_output import AttemptOutput
    from ..store.store import Store
    from ..store.tails import LogTail

#: How often is looked for more, in seconds.
_POLL_SECONDS = 0.2
#: Runners whose output is a stream of events.
_AGENTS = ("claude", "gemini")
#: Characters of a line that a terminal is given.
_LONGEST = 1 << 20


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``log`` what it takes."""
    log = commands["log"]
    log.add_argument("item", metavar="ITEM", help="id or path of a task, or a line of a queue")
    log.add_argument("-f", "--follow", action="store_true", help="go on until the attempt has ended")
    log.add_argument("--attempt", type=int, metavar="N", help="default: the latest with output")
    log.add_argument("--raw", action="store_true", help="agents' events as they were printed")
    log.add_argument("--batch", metavar="BATCH", help="batch id (default: the newest)")
    log.add_argument("--dir", metavar="D", help="folder of a batch")
    log.add_argument("--json", action="store_true", help="print one JSON document")
    log.set_defaults(action=_log)


def _log(options: Namespace) -> int:
    with _found(options) as (store, found):
        host = _host_of(store, found)
        if options.json:
            return _print_json(found, host)
        attempt = found.attempt
        state = "running" if attempt.ended_at is None else attempt.outcome
        runner = f" by {attempt.runner}" if attempt.runner else ""
        where = f"; {_elsewhere(found, host)}" if host or found.tail is not None else ""
        print(
            f"{shown(options.item)}: attempt {attempt.number}{runner}, {state}{where}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        told = False
        if options.follow or not (host or found.tail):
            told = _copy(store, found, options)
        if not told:  # of a session's worker it is known once that is over
            tail = found.tail or store.tails.of([attempt.id]).get(attempt.id)
            told = _copy_tail(found, tail, options)
        return EXIT_DONE if told else EXIT_NOTHING


@contextlib.contextmanager
def _found(options: Namespace) -> Iterator[tuple[Store, AttemptOutput]]:
    """Yield the attempt that is meant, and the store that it is in."""
    from ..core.project import find_project  # noqa: PLC0415 - not for the help text
    from ..queue.batches import has_batches, store_of  # noqa: PLC0415
    from ..report.attempt_output import find_output, find_output_of_task  # noqa: PLC0415

    project = find_project(Path.cwd(), os.environ)
    if not (options.batch or options.dir or os.path.isfile("queue.txt") or has_batches(project)):
        with store_of(project) as store:
            if store is not None:
                yield store, find_output_of_task(project, store, options.item, options.attempt)
                return
    with batch_of(options) as batch:
        yield batch.store, find_output(batch, options.item, options.attempt)


def _copy(store: Store, found: AttemptOutput, options: Namespace) -> bool:
    """Copy both streams to ours; return whether there was anything."""
    from ..report.attempt_output import STREAMS, StreamReader  # noqa: PLC0415

    told = False
    agent = found.attempt.runner in _AGENTS and not options.raw
    with contextlib.ExitStack() as stack:
        pairs = []
        for ending, target in zip(STREAMS, (sys.stdout, sys.stderr), strict=True):
            reader = stack.enter_context(contextlib.closing(StreamReader(found.stem, ending)))
            pairs.append((reader, _Copier(target, events=agent and ending == "out")))
        over = False
        while not over:
            # Asked first: what was printed before the end is read after the answer.
            over = not options.follow or _ended(store, found)
            for reader, copier in pairs:
                for chunk in reader.read():
                    told = True
                    copier.write(chunk)
            if not over:
                time.sleep(_POLL_SECONDS)
        for _, copier in pairs:
            copier.close()
    return told


def _host_of(store: Store, found: AttemptOutput) -> str:
    """Return the machine that has the log, "" for this one."""
    if found.kept or not store.shared or _is_transcript(found):
        return ""
    host = store.tails.host_of(found.attempt.worker)
    return "" if host == host_name() and found.tail is None else host


def _elsewhere(found: AttemptOutput, host: str) -> str:
    """Return what is said of a log on another machine."""
    if found.tail is None:
        then = "; its end can be read here once it is over" if found.attempt.ended_at is None else ""
        return f"its log is on {shown(host, 80)}{then}"
    if _is_transcript(found):
        end = "the end of its transcript" if found.tail.cut else "its transcript"
        return f"{end}, which the client keeps for a while as {shown(found.tail.path, 300)}"
    what = "this is its end; the whole log" if found.tail.cut else "its log"
    return f"{what} is on {shown(host, 80)}: {shown(found.tail.path, 300)}.out, .err"


def _is_transcript(found: AttemptOutput) -> bool:
    return found.tail is not None and found.tail.path.endswith(".jsonl")


def _copy_tail(found: AttemptOutput, tail: LogTail | None, options: Namespace) -> bool:
    """Print what the store has of an output; return whether there was anything."""
    if tail is None:
        return False
    events = (found.attempt.runner in _AGENTS or tail.path.endswith(".jsonl")) and not options.raw
    for data, target in ((tail.out, sys.stdout), (tail.err, sys.stderr)):
        copier = _Copier(target, events=events and target is sys.stdout)
        copier.write(data)
        copier.close()
    return True


def _ended(store: Store, found: AttemptOutput) -> bool:
    return not any(
        one.id == found.attempt.id and one.ended_at is None for one in store.claims.attempts(found.key)
    )


class _Copier:
    """Writes one stream of an attempt to one of ours.

    To a terminal only printable text goes; to a file or a pipe every byte, unless it is of *events*.
    """

    def __init__(self, target: Any, *, events: bool) -> None:
        self._target, self._events = target, events
        self._whole = not events and not target.isatty()
        self._pending = b""

    def write(self, chunk: bytes) -> None:
        """Write what was read; what is shown by lines waits for the end of its line."""
        if self._whole:
            self._target.buffer.write(chunk)
        else:
            *lines, self._pending = (self._pending + chunk).split(b"\n")
            for line in lines:
                self._line(line)
        self._target.flush()

    def close(self) -> None:
        """Write the line that has no end."""
        if self._pending:
            self._line(self._pending)
            self._target.flush()

    def _line(self, line: bytes) -> None:
        from ..report.attempt_output import event_text  # noqa: PLC0415

        if self._events:
            text = event_text(line)
            if text is None:
                return
            line = text.encode("utf-8", "replace")
        self._target.write(printable_lines(line, line.count(b"\n") + 1, _LONGEST) + "\n")


def _print_json(found: AttemptOutput, host: str) -> int:
    from ..report.attempt_output import STREAMS, StreamReader  # noqa: PLC0415

    texts = {}
    for name, ending in zip(("stdout", "stderr"), STREAMS, strict=True):
        with contextlib.closing(StreamReader(found.stem, ending)) as reader:
            texts[name] = b"".join(reader.read()).decode("utf-8", "replace")
    attempt, log = found.attempt, found.stem if found.kept else ""
    if found.tail is not None:
        log = found.tail.path
        for name, data in (("stdout", found.tail.out), ("stderr", found.tail.err)):
            texts[name] = data.decode("utf-8", "replace")
    elsewhere = {"host": host, "cut": found.tail is None or found.tail.cut} if host else {}
    print_json({"attempt": attempt.number, "runner": attempt.runner, "outcome": attempt.outcome,
                "log": log, **elsewhere, **texts})  # fmt: skip
    return EXIT_DONE if found.kept or found.tail is not None else EXIT_NOTHING
