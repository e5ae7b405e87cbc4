"""What all commands share: exit codes, one-line errors, progress, JSON output."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from ..core.errors import HypervisorError, NothingToDo, UsageError, advice_for
from ..core.settings import hide_store_url
from ..core.text import safe_text
from ..queue.counts import ItemEvent
from ..queue.stop import Stop

EXIT_DONE = 0
EXIT_REFUSED = 1  #: refused, or some item failed
EXIT_USAGE = 2
EXIT_NOTHING = 3  #: nothing to do


#: Seconds of the units in which options take a time.
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def time_span(text: str) -> float:
    """Return the seconds that an option's time stands for: ``30s``, ``5m``, ``12h``, ``30d``; or seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{shown(text)}: must be a time like 30s, 5m or 12h")
    return float(found[1]) * _UNITS[found[2]]


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that begins with the command that was typed.

    The parsed options have the words of that command, such as ``hypervisor task show``, as ``typed``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.set_defaults(typed=self.prog)

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and exit 2."""
        then = "" if message.endswith("?") else f"; see `{self.prog} --help`"
        self.exit(EXIT_USAGE, f"{self.prog}: {message}{then}\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse *args*; what is left over is an error of this command, and not of the one above it."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            name = rest[0].partition("=")[0]
            if name.startswith("-"):
                self.error(f"unknown option {shown(name)}{did_you_mean(name, self._option_string_actions)}")
            self.error(f"unexpected argument {shown(rest[0])!r}")
        return found, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        near = did_you_mean(str(value), action.choices)
        if isinstance(action, argparse._SubParsersAction):
            self.error(f"unknown command {shown(str(value))!r}{near}")
        words = ", ".join(map(str, action.choices))
        raise argparse.ArgumentError(action, f"{shown(str(value))!r} is not one of {words}{near}")


def did_you_mean(word: str, known: Iterable[Any]) -> str:
    """Return a question about the known word that is nearest to a mistyped one, "" where none is near."""
    import difflib  # noqa: PLC0415, needed after a typing error only

    near = difflib.get_close_matches(word, list(map(str, known)), 1)
    return f"; did you mean `{near[0]}`?" if near else ""


def run(command: Callable[[Sequence[str]], int], arguments: Sequence[str], name: str = "hypervisor") -> int:
    """Run a command; turn everything that can go wrong into one line and an exit code.

    Args:
        command: Takes the arguments, and returns an exit code.
        arguments: What was typed after the command's name.
        name: What the line begins with: the command that was typed.
    """
    hide_store_url()
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_safe, streams)
    try:
        return _run(command, arguments, name)
    finally:
        sys.stdout, sys.stderr = streams


class SafeStream:
    """A text stream to which no control character of a stranger comes: they are spelt out.

    What moves a cursor by intent, as a progress bar does, writes to `raw`.
    """

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        """Write text, spelt out."""
        return int(self.raw.write(safe_text(text)))

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts, spelt out."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def _safe(stream: Any) -> Any:
    return stream if stream is None or isinstance(stream, SafeStream) else SafeStream(stream)


def terminal() -> Any:
    """Return standard output for what moves the cursor."""
    return getattr(sys.stdout, "raw", sys.stdout)


def _run(command: Callable[[Sequence[str]], int], arguments: Sequence[str], name: str) -> int:
    try:
        try:
            return command(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # now, while a closed pipe can still be handled
    except NothingToDo as error:
        return _say(name, str(error), EXIT_NOTHING)
    except UsageError as error:
        return _say(name, str(error), EXIT_USAGE)
    except HypervisorError as error:
        return _say(name, str(error), EXIT_REFUSED)
    except BrokenPipeError:
        # The reader of our output has exited (`| head`): not an error.
        _drop_output()
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return _say(name, "interrupted", EXIT_REFUSED)
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        where = f"{error.filename}: " if error.filename else ""
        return _say(name, f"{where}{error.strerror or error}; {advice_for(error)}", EXIT_REFUSED)


def _drop_output() -> None:
    # Python retries the write at exit, and would report it a second time.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(name: str, text: str, code: int) -> int:
    print(f"{name}: {text}", file=sys.stderr)
    return code


def print_json(data: Any) -> None:
    """Print *data* as one JSON document."""
    print(json.dumps(data, indent=1, ensure_ascii=False).encode("utf-8", "replace").decode())


def counted(number: int, what: str) -> str:
    """Return a number of things, such as ``1 task`` or ``3 tasks``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def shown(item: str, length: int = 200) -> str:
    """Return *item* as one printable line."""
    text = item.encode("utf-8", "backslashreplace").decode()
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def answer_stop(stop: Stop, running: Callable[[], str]) -> None:
    """Let each Ctrl-C be answered at once, on standard error.

    Args:
        stop: What Ctrl-C asks.
        running: Returns what runs at the moment, such as ``3 tasks``; "" for nothing.
    """

    def answer(now: bool) -> None:
        what = running()
        text = f"stopping {what}" if now else f"finishing {what}; Ctrl-C again stops them"
        print(f"hypervisor: {text if what else 'stopping'}", file=sys.stderr, flush=True)

    stop.told = answer


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
        told = f" ({shown(event.text)})" if event.kind == "started" else f": {shown(event.text)}"
        line = f"{event.kind:8} {shown(event.item)}{told if event.text else ''}"
        if not self._terminal:
            sys.stdout.write(f"{line}\n")  # in one piece, as several threads tell
            sys.stdout.flush()
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
            from rich.console import Console  # noqa: PLC0415 - for a bar only
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn  # noqa: PLC0415

            self._progress = Progress(
                "processing", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), transient=True,
                console=Console(file=terminal()), redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._bar = self._progress.add_task("", total=self._total)
            self._progress.start()
        self._progress.update(self._bar, completed=self._done)

    def _print(self, line: str) -> None:
        if self._progress is None:
            print(line)
        else:
            self._progress.console.print(line, markup=False, highlight=False)
