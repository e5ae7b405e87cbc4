"""The end of what an item's command or agent has printed. Reads; changes nothing."""

from __future__ import annotations

import gzip
import os
import stat
from dataclasses import dataclass

from ..core.text import printable_lines

#: The most that is shown of one log.
LINES = 60
BYTES = 8192
#: Of a packed log everything before its end has to be unpacked; beyond this it is not looked for.
_UNPACKED = 128 * 2**20
_CHUNK = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """The end of one log."""

    #: Name of the file.
    name: str
    text: str
    #: Whether there is more before it.
    cut: bool


def tails(stem: str, most: int = BYTES) -> list[Tail]:
    """Return the ends of the logs of one attempt: standard error, then standard output.

    Args:
        stem: Path without its ending. ``.err`` and ``.out`` are looked at, of a long one its last
            part (``.out.3``), packed ones (``.gz``) too. What is absent or cannot be read is left out.
        most: Bytes of all of them together.
    """
    folder, name = os.path.split(stem)
    found = [one for one in (_last_part(folder, f"{name}{end}") for end in (".err", ".out")) if one]
    made = (_tail(os.path.join(folder, one), most // max(1, len(found))) for one in found)
    return [tail for tail in made if tail is not None]


def _last_part(folder: str, name: str) -> str:
    """Return the name of the last part of a log, "" if there is none."""
    found, number = "", 0
    while True:
        part = f"{name}.{number}" if number else name
        there = next((n for n in (part, f"{part}.gz") if os.path.lexists(os.path.join(folder, n))), "")
        if not there:
            return found
        found, number = there, number + 1


def _tail(path: str, most: int) -> Tail | None:
    try:
        # A link would lead anywhere, and to open a FIFO would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            return None
        if path.endswith(".gz"):
            data, cut = _unpacked(descriptor, most)
        else:
            start = max(0, state.st_size - most)
            data, cut = os.pread(descriptor, most, start), start > 0
    except (OSError, EOFError, ValueError):
        return None
    finally:
        os.close(descriptor)
    text = printable_lines(data, LINES)
    return Tail(name=os.path.basename(path), text=text, cut=cut or data.rstrip(b"\n").count(b"\n") >= LINES)


def _unpacked(descriptor: int, most: int) -> tuple[bytes, bool]:
    data, seen = b"", 0
    with os.fdopen(os.dup(descriptor), "rb") as packed, gzip.GzipFile(fileobj=packed) as file:
        while seen < _UNPACKED and (chunk := file.read(_CHUNK)):
            seen += len(chunk)
            data = (data + chunk)[-most:]
    return data, seen > most
