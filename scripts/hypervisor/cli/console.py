"""How commands end and speak: exit codes, one-line errors, lines, a progress bar, JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ..core.errors import HypervisorError, NothingToDo, UsageError, advice_for
from ..queue.counts import ItemEvent

EXIT_DONE = 0
EXIT_REFUSED = 1  #: refused, or some item failed
EXIT_USAGE = 2
EXIT_NOTHING = 3  #: nothing to do

class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where the words stand, and exit 2."""
        self.exit(EXIT_USAGE, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def run(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run a command; turn everything that can go wrong into one line and an exit code."""
    try:
        try:
            return command(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # now, while it can be told that nobody takes it
    except NothingToDo as error:
        return _say(str(error), EXIT_NOTHING)
    except UsageError as error:
        return _say(str(error), EXIT_USAGE)
    except HypervisorError as error:
        return _say(str(error), EXIT_REFUSED)
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`): not an error, and nothing more to say.
        _drop_output()
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return _say("interrupted", EXIT_REFUSED)
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"{where}{error.strerror or error}; {advice_for(error)}", EXIT_REFUSED)


def _drop_output() -> None:
    # What could not be written is tried again when Python ends, and would be told a second time.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(text: str, code: int) -> int:
    print(f"hypervisor: {text}", file=sys.stderr)
    return code


def print_json(data: Any) -> None:
    """Print *data* as one JSON document."""
    print(json.dumps(data, indent=1, ensure_ascii=False).encode("utf-8", "replace").decode())


def shown(item: str, length: int = 200) -> str:
    """Return *item* as one printable line."""
    text = item.encode("utf-8", "backslashreplace").decode()
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


class Teller:
    """Tells of items as they end: lines in a pipe, a bar on a terminal, nothing for JSON.

    Args:
        total: Items there are, or None if nobody has counted.
        quiet: Whether the output is a JSON document at the end.
    """

    #: A bar is shown for whatever takes longer than this.
    _BAR_AFTER_SECONDS = 1.0

    def __init__(self, total: int | None, *, quiet: bool) -> None:
        self._total = total
        self._quiet = quiet
        self._begun = time.monotonic()
        self._done = 0
        self._progress: Any = None
        self._bar: Any = None
        self._terminal = sys.stdout.isatty() and not quiet

    def tell(self, event: ItemEvent) -> None:
        """Tell of one event."""
        if event.kind in ("trouble", "paced"):
            print(f"hypervisor: {event.text}", file=sys.stderr)
            return
        self._done += event.kind not in ("again", "lost", "started")
        if self._quiet:
            return
        line = f"{event.kind:8} {shown(event.item)}" + (f": {shown(event.text)}" if event.text else "")
        if not self._terminal:
            print(line, flush=True)
            return
        self._advance()
        if event.kind not in ("success", "skipped"):
            self._print(line)

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()

    def _advance(self) -> None:
        if self._progress is None:
            if time.monotonic() - self._begun < self._BAR_AFTER_SECONDS:
                return
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn  # noqa: PLC0415

            self._progress = Progress(
                "processing", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), transient=True
            )
            self._bar = self._progress.add_task("", total=self._total)
            self._progress.start()
        self._progress.update(self._bar, completed=self._done)

    def _print(self, line: str) -> None:
        if self._progress is None:
            print(line)
        else:
            self._progress.console.print(line, markup=False, highlight=False)
