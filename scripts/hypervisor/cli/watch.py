"""`hypervisor watch`: a batch live on one screen; `drain`: start nothing more."""

from __future__ import annotations

import contextlib
import json
import os
import select
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

from ..core.errors import HypervisorError, UsageError, advice_for
from ..core.text import printable_line
from ..queue import operations
from ..queue.batch import Batch
from ..queue.batches import open_folder
from ..report.activity import MachineLook
from ..report.report import ReportBuilder
from ..report.screen import frame, next_steps, one_line
from .console import EXIT_DONE, EXIT_NOTHING, print_json, terminal, time_span
from .naming import batch_of, names_batch

#: How often a screen is drawn, in seconds; and a line is printed where there is none.
_DRAW_SECONDS, _LINE_SECONDS = 0.5, 5.0
#: A look takes a tenth of the time at most, whatever the batch.
_REST = 9.0
_STYLES = {
    "success": "green", "failed": "red", "blocked": "yellow", "skipped": "bright_black", "running": "cyan",
    "waiting": "", "dim": "dim", "bold": "bold", "bad": "bold red", "": "",
}  # fmt: skip
_KEYS = "d drain   c cancel   q quit"


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``watch`` and ``drain`` what they take."""
    watch = commands["watch"]
    names_batch(watch)
    watch.add_argument("--every", type=time_span, metavar="TIME", help="refresh interval: 2s, 1m")
    watch.add_argument(
        "--json", action="store_true", help="print one JSON document per line until the batch ends"
    )
    watch.set_defaults(action=_watch)
    made = commands["drain"]
    names_batch(made)
    made.add_argument("--json", action="store_true", help="print one JSON document")
    made.set_defaults(action=_drain)


def _drain(options: Namespace) -> int:
    with batch_of(options) as batch:
        builder = ReportBuilder(batch, with_items=False)
        builder.look()
        head = builder.head()
        working = [one["name"] for one in head["at_work"]]
        if batch.temporary is None:
            batch.store.batches.drain(batch.number)
    if options.json:
        print_json({"batch_id": batch.id, "at_work": working, "waiting": head["census"]["waiting"]})
    elif not working and not head["idle"]:
        print("nobody is at work: nothing to drain")
    else:
        print(f"{len(working)} running item(s) will be finished, {head['census']['waiting']} wait; "
              f"to continue: {head['batch']['go_on']}")  # fmt: skip
    return EXIT_DONE if working or head["idle"] else EXIT_NOTHING


def _watch(options: Namespace) -> int:
    if options.every is not None and not options.every > 0:
        raise UsageError(f"--every {options.every:g}: must be more than 0 seconds")
    with ReportBuilder(batch_of(options), with_items=False) as builder:
        builder.machine = MachineLook.of(builder.batch)
        if options.json or not sys.stdout.isatty():
            return _lines(builder, options)
        return _Screen(builder, options.every or _DRAW_SECONDS).run()


def _lines(builder: ReportBuilder, options: Namespace) -> int:
    """Print a line now and then, until every item has its result."""
    while True:
        begun = time.monotonic()
        builder.look()
        head = builder.head()
        print(json.dumps(head) if options.json else one_line(head), flush=True)
        if head["finished"]:
            return EXIT_DONE
        time.sleep(max(options.every or _LINE_SECONDS, _REST * (time.monotonic() - begun)))


@dataclass(slots=True)
class _Screen:
    """The live screen, and what its keys do."""

    builder: ReportBuilder
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

        console = Console(file=terminal(), highlight=False)
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
                self.builder.look()
                self._head = self.builder.head()
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
                self._cancelling = threading.Thread(target=self._cancel, args=(self.builder.batch,))
                self._cancelling.start()
        elif key in "qQ\x1b":
            return True
        elif key in "dD":
            batch = self.builder.batch
            batch.store.batches.drain(batch.number)
            self.said = f"draining: running items are finished; to continue: {self._head['batch']['go_on']}"
        elif key in "cC":
            census = self._head["census"]
            left = census["running"] + census["waiting"]
            self.asks = left > 0
            running = f", {census['running']} of them running" if census["running"] else ""
            self.said = f"cancel {left} item(s){running}? y/n" if left else "nothing to cancel"
        return False

    def _cancel(self, batch: Batch) -> None:
        try:
            with contextlib.ExitStack() as stack:
                if batch.temporary is not None:  # nobody has begun it: a result needs a store that stays
                    batch = open_folder(batch.folder, cwd=batch.options.base, queue=batch.source.path)
                    stack.enter_context(batch)
                self.said = f"{len(operations.cancel(batch, []))} cancelled"
        except HypervisorError as error:
            self.said = str(error)
        except OSError as error:
            self.said = f"{error}; {advice_for(error)}"

    def _drawn(self, width: int, height: int) -> Any:
        from rich.text import Text  # noqa: PLC0415

        style = "bold" if self.asks else "blocked" if self.said else "dim"
        # What is said may name a folder, and a command to type is no use cut off.
        told = [self.said] if self.said else [*next_steps(self._head), _KEYS]
        foot = [
            row
            for text in told
            for row in textwrap.wrap(printable_line(text, 500), max(8, width), break_on_hyphens=False)
        ]
        most = max(1, height // 4)
        foot = foot[:most] if self.said else foot[-most:]
        room = max(0, height - 1 - len(foot))
        lines = frame(self._head, self.builder.failures(height), width, room, self.builder.latest)
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
