"""`hypervisor watch`: a batch on one screen for as long as one looks; `drain`: begin nothing more."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import sys
import termios
import textwrap
import threading
import time
import tty
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import drain
from ..core import printable
from ..core.errors import HypervisorError, UsageError
from ..queue import operations
from ..queue.batch import Batch
from ..report.answers import batch_status
from ..report.here import Here
from ..report.report import Reporter
from ..report.screen import frame, one_line, text_of
from .cli_naming import batch_of, names_batch
from .console import EXIT_DONE, EXIT_NOTHING, advice_for, print_json, shown

#: How often a screen is drawn, in seconds; and a line is printed where there is none.
_DRAW_SECONDS, _LINE_SECONDS = 0.5, 5.0
#: A look takes a tenth of the time at most, whatever the batch.
_REST = 9.0
_STYLES = {
    "success": "green", "failed": "red", "blocked": "yellow", "skipped": "bright_black", "running": "cyan",
    "waiting": "", "damaged": "magenta", "dim": "dim", "bold": "bold", "bad": "bold red", "": "",
}  # fmt: skip
#: How many waiting tasks `status` names, with what they wait for.
_NOT_READY = 4
_KEYS = "d drain   c cancel   q quit"


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``watch`` and ``drain`` what they take."""
    watch = commands["watch"]
    names_batch(watch)
    watch.add_argument("--every", type=float, metavar="S", help="seconds between two looks")
    watch.add_argument("--json", action="store_true", help="print a JSON document a line, until all is done")
    watch.set_defaults(action=_watch)
    made = commands["drain"]
    names_batch(made)
    made.add_argument("--json", action="store_true", help="print one JSON document")
    made.set_defaults(action=_drain)


def _drain(options: Namespace) -> int:
    batch = batch_of(options)
    reporter = Reporter.of(batch)
    reporter.look()
    head = reporter.head()
    drain.ask(batch.folder)
    working = [one["name"] for one in head["at_work"]]
    if options.json:
        print_json({"batch_id": batch.id, "at_work": working, "waiting": head["census"]["waiting"]})
    elif not working and not head["idle"]:
        print("nobody is at work: nothing to drain")
    else:
        print(f"{len(working)} in hand are finished, {head['census']['waiting']} wait; to go on: "
              f"{head['batch']['go_on']}")  # fmt: skip
    return EXIT_DONE if working or head["idle"] else EXIT_NOTHING


def _watch(options: Namespace) -> int:
    if options.every is not None and not options.every > 0:
        raise UsageError(f"--every {options.every:g}: must be more than 0 seconds")
    reporter = Reporter.of(batch_of(options))
    reporter.here = Here.of(reporter.batch)
    if options.json or not sys.stdout.isatty():
        return _lines(reporter, options)
    return _Screen(reporter, options.every or _DRAW_SECONDS).run()


def _lines(reporter: Reporter, options: Namespace) -> int:
    """Print a line now and then, until every item has its result."""
    while True:
        begun = time.monotonic()
        reporter.look()
        head = reporter.head()
        print(json.dumps(head) if options.json else one_line(head), flush=True)
        if head["finished"]:
            return EXIT_DONE
        time.sleep(max(options.every or _LINE_SECONDS, _REST * (time.monotonic() - begun)))


@dataclass(slots=True)
class _Screen:
    """The live screen, and what its keys do."""

    reporter: Reporter
    every: float
    #: What stands in the last line, "" for the keys.
    said: str = ""
    #: Whether "cancel?" was asked and not answered.
    asks: bool = False
    _cancelling: threading.Thread | None = None
    _head: dict[str, Any] = field(default_factory=dict)

    def run(self) -> int:
        from rich.console import Console  # noqa: PLC0415 - only where somebody looks
        from rich.live import Live  # noqa: PLC0415

        console = Console(highlight=False)
        live = Live(console=console, screen=True, auto_refresh=False)
        with _keys() as keys, live, contextlib.suppress(KeyboardInterrupt):
            self._loop(console, live, keys)
        print(one_line(self._head) if self._head else "")
        if self._cancelling is not None:
            self._cancelling.join()  # what was begun is carried through
            print(self.said)
        return EXIT_DONE

    def _loop(self, console: Any, live: Any, keys: int | None) -> None:
        look_at = 0.0
        while True:
            begun = time.monotonic()
            if begun >= look_at:
                self.reporter.look()
                self._head = self.reporter.head()
                look_at = begun + max(self.every, _REST * (time.monotonic() - begun))
            live.update(self._drawn(console.size.width, console.size.height), refresh=True)
            if keys is None:
                time.sleep(self.every)
                continue
            # A resize interrupts the wait, and the next frame has the new size.
            patience = min(_DRAW_SECONDS, max(0.05, look_at - time.monotonic()))
            if select.select([keys], [], [], patience)[0]:
                pressed = os.read(keys, 64).decode("utf-8", "replace")
                if not pressed or any(self._heed(key) for key in pressed):
                    return

    def _heed(self, key: str) -> bool:
        """Do what a key asks for; tell whether that is to end."""
        if self.asks:
            self.asks, self.said = False, "not cancelled"
            if key in "yY":
                self.said = "cancelling ..."
                self._cancelling = threading.Thread(target=self._cancel, args=(self.reporter.batch,))
                self._cancelling.start()
        elif key in "qQ\x1b":
            return True
        elif key in "dD":
            drain.ask(self.reporter.batch.folder)
            self.said = f"draining: what is in hand is finished; to go on: {self._head['batch']['go_on']}"
        elif key in "cC":
            census = self._head["census"]
            left = census["running"] + census["waiting"]
            self.asks = left > 0
            running = f", {census['running']} of them in work" if census["running"] else ""
            self.said = f"cancel {left} item(s){running}? y/n" if left else "nothing to cancel"
        return False

    def _cancel(self, batch: Batch) -> None:
        try:
            self.said = f"{len(operations.cancel(batch, []))} cancelled"
        except HypervisorError as error:
            self.said = str(error)
        except OSError as error:
            self.said = f"{error}; {advice_for(error)}"

    def _drawn(self, width: int, height: int) -> Any:
        from rich.text import Text  # noqa: PLC0415

        style = "bold" if self.asks else "blocked" if self.said else "dim"
        # What is said may name a folder, and a command to type is no use cut off.
        said = textwrap.wrap(printable.line(self.said, 500), max(8, width), break_on_hyphens=False)
        foot = said[: max(1, height // 4)] or [_KEYS]
        room = max(0, height - 1 - len(foot))
        lines = frame(self._head, self.reporter.failures(height), width, room)
        lines += [[] for _ in range(room + 1 - len(lines))]
        lines += [[(text, style)] for text in foot]
        made = Text(no_wrap=True, overflow="crop", end="")
        for number, line in enumerate(lines[-height:]):
            made.append("\n" if number else "")
            for text, word in line:
                made.append(text, _STYLES[word])
        return made


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """Give the descriptor that single keys can be read from, None where nobody can press any."""
    if not sys.stdin.isatty():
        yield None
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def ended(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt  # so that the terminal is left as it was

    handler = signal.signal(signal.SIGTERM, ended)
    try:
        tty.setcbreak(descriptor)
        yield descriptor
    finally:
        signal.signal(signal.SIGTERM, handler)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def status_of(batch: Batch) -> tuple[list[str], bool]:
    """Return a batch on one screen, as plain lines, and whether its census closes."""
    reporter = Reporter.of(batch)
    reporter.look()
    head = reporter.head()
    size = shutil.get_terminal_size()
    below = []
    if head["census"]["waiting"] and batch.manifest.tasks:
        not_ready = list(batch_status(batch).get("not_ready", {}).items())
        below = [f"waits: {shown(name)}: {shown(why)}" for name, why in not_ready[:_NOT_READY]]
        if len(not_ready) > _NOT_READY:
            below.append(f"waits: and {len(not_ready) - _NOT_READY} or more, likewise")
    needs = head["census"]["failed"] + head["census"]["blocked"]
    if needs:
        below.append(f"{needs} need you: hypervisor summary {head['batch']['called']}")
    lines = frame(head, reporter.failures(8), size.columns, size.lines - 1 - len(below))
    return [*map(text_of, lines), *below], bool(head["closes"])
