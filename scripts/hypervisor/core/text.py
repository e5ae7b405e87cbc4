"""Text for people: what strangers have said, made safe to look at, and times. Pure.

A log may hold colours, cursor moves, half of a character, a line of a megabyte, or letters that turn
the direction of what follows. What is shown is plain: such marks are taken out or spelt out.
"""

from __future__ import annotations

import json
import math
import re
import signal
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

#: Depth and number of values to which data is shown.
_DEPTH, _MANY = 6, 100
#: ECMA-48: control sequences, strings for the terminal (titles, links) up to their end, other escapes.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\|$)|\x1b[ -/]*[0-~]|\x9b[0-?]*[ -/]*[@-~]"
)
#: What JSON leaves as it is.
_JSON = {"\x7f": "\\u007f"}
#: Takes out what is no letter and yet is printed.
_LAYOUT = str.maketrans("", "", "\n\t")
_BLANKS = re.compile(r"\s+")


def signal_name(number: int) -> str:
    """Return a signal's number with its name, where it has one."""
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)


def printable_line(text: object, length: int = 200) -> str:
    """Return *text* as one printable line of at most *length* characters."""
    # Cut first: of a megabyte only the beginning is ever shown.
    raw = _ESCAPES.sub("", str(text)[: 8 * length + 64])
    made = _spelt(_BLANKS.sub(" ", raw).strip())
    return made if len(made) <= length else f"{made[: length - 1]}…"


def printable_lines(data: bytes, lines: int, width: int = 2000) -> str:
    """Return the last *lines* lines of *data* as printable text.

    Of a line that was written over with carriage returns (a progress bar) the last state is shown.

    Args:
        data: Bytes of a log; what is not UTF-8 is spelt out.
        lines: How many lines at most.
        width: Characters after which a line is cut.
    """
    text = _ESCAPES.sub("", data.decode("utf-8", "backslashreplace"))
    rows = text.replace("\r\n", "\n").rstrip("\n").split("\n")[-lines:]
    return "\n".join(_cut(_row(row), width) for row in rows)


def safe_text(text: str) -> str:
    """Return text of several lines in which what is no printable character is spelt out, as JSON spells it.

    Line ends and tabs stay. So does the meaning of a JSON document.
    """
    if text.translate(_LAYOUT).isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else _JSON.get(c) or json.dumps(c)[1:-1] for c in text)


def last_line(text: str) -> str:
    """Return the last line of *text* that says something, 500 characters of it at most; "" if none does."""
    full = [line.strip() for line in text.splitlines() if line.strip()]
    return full[-1][:500] if full else ""


def printable_data(value: object, length: int) -> Any:
    """Return JSON-able data with every text in it printable; of what is long the beginning of its text.

    Args:
        value: What somebody has told; anything that JSON has no word for is spelt out.
        length: Characters of it as JSON.
    """
    made = _plain(value, _DEPTH)
    text = json.dumps(made)
    return made if len(text) <= length else f"{text[:length]}…"


def _plain(value: object, depth: int) -> Any:
    if isinstance(value, Mapping) and depth:
        some = list(value.items())[:_MANY]
        return {printable_line(key, 100): _plain(one, depth - 1) for key, one in some}
    if isinstance(value, list | tuple) and depth:
        return [_plain(one, depth - 1) for one in value[:_MANY]]
    if value is None or isinstance(value, bool):
        return value
    is_number = isinstance(value, int | float) and math.isfinite(value) and abs(value) < 1e15
    return value if is_number else printable_line(value, 1000)


def _row(row: str) -> str:
    return "\t".join(map(_spelt, row.rstrip("\r").rpartition("\r")[2].split("\t")))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _spelt(text: str) -> str:
    """Spell out what is no printable character: controls, changes of direction, halves of characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _name(c) for c in text)


def _name(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


# ------------------------------------------------------------------------ time


def now_text() -> str:
    """Return the time of day in UTC, as in ``2026-03-01T12:00:00.123Z``."""
    return time_text(time.time())


def time_text(seconds: float) -> str:
    """Return a time, in seconds since the epoch, as `now_text` does."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_of_text(text: str) -> float:
    """Return what `now_text` said as seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def seconds_between(start: str, end: str) -> float:
    """Return the seconds from one `now_text` to another, 0 if they lie the other way round."""
    span = datetime.fromisoformat(end) - datetime.fromisoformat(start)
    return round(max(0.0, span.total_seconds()), 3)
