"""Receipts of a task: each is kept in the store first, then a line at the end of its body's ``## Receipts``.

A crash between the two leaves the line unwritten; `write_left` appends it with the next command.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import Refused, Unreadable
from ..core.text import printable_line
from ..documents import markdown
from ..store.receipts import Receipt
from ..store.store import Store

HEADING = "Receipts"


# ------------------------------------------------------------------------- keep


def append_receipt(  # noqa: PLR0913 - the task by its three names
    store: Store, key: str, root: Path, path: Path, line: str, item: str = "", *, failed: bool = False
) -> None:
    """Append one line to the receipts of a task; it is in the store, durable, and in the body on return.

    An item that has a receipt which says it was done gets no second one.

    Args:
        store: The project's store.
        key: The task's key in it.
        root: The project's root.
        path: The task's file.
        line: The line.
        item: What it is for; "" for the line itself.
        failed: Whether it says that the item was not done, so that another may follow.

    Raises:
        Unreadable: The file cannot be read; the receipt is kept all the same.
        Refused: Another process keeps the file locked; likewise.
    """
    receipt = as_receipt(line)
    relative = os.path.relpath(os.path.realpath(path), os.path.realpath(root))
    store.receipts.enter(key, relative, item or receipt, receipt, failed=failed)
    write_receipts(store, key, path)


def as_receipt(line: str) -> str:
    """Return *line* as it stands in a body: one line that begins with ``- ``."""
    folded = printable_line(line, 100_000)
    return folded if folded.startswith("- ") else f"- {folded}"


def receipt_lines(body: str) -> list[str]:
    """Return the receipts in a text for a body: the lines of a plain list; none for other text."""
    lines = [line for line in body.splitlines() if line.strip()]
    return lines if all(line.startswith("- ") for line in lines) else []


def write_receipts(store: Store, key: str, path: Path, *, removed: bool = False) -> None:
    """Write those lines of a task's receipts into its body that are not written yet.

    Args:
        store: The project's store.
        key: The task's key in it.
        path: The task's file.
        removed: Whether lines that were written, and are gone from the body, are written again.

    Raises:
        Unreadable: The file cannot be read.
        Refused: Another process keeps the file locked.
    """
    from .files import change_text  # noqa: PLC0415 - the YAML loader, which not every command needs

    handled: list[int] = []

    def add(text: str, start: int) -> str:
        kept = store.receipts.of(key)
        handled[:] = [one.id for one in kept if not one.written]
        for one in missing(kept, receipts_in(text, start)):
            if removed or not one.written:
                text = with_receipt(text, start, one.line)
        return text

    change_text(path, add)
    store.receipts.set_written(handled)


def write_left(store: Store, root: Path) -> int:
    """Write the lines that crashed processes left out of bodies; return of how many tasks.

    A file that is gone, locked or cannot be read is passed over: `receipts verify` names it.
    """
    left = store.receipts.unwritten()
    for key, relative in left:
        with contextlib.suppress(Unreadable, Refused):
            write_receipts(store, key, root / relative)
    return len(left)


def missing(kept: Sequence[Receipt], there: Sequence[str]) -> list[Receipt]:
    """Return the receipts that are not among the lines *there* of a body, the oldest first. Pure.

    Of several with one line the latest are taken for the missing ones.
    """
    left = Counter(there)
    found: list[Receipt] = []
    for one in kept:
        if left[one.line] > 0:
            left[one.line] -= 1
        else:
            found.append(one)
    return found


# ------------------------------------------------------------------------- text


def with_receipt(text: str, offset: int, receipt: str) -> str:
    """Return *text* with the line *receipt* at the end of its receipts, which are made if missing.

    Args:
        text: The whole file.
        offset: Where its body begins.
        receipt: The line, without its end.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    body = text[offset:]
    found = list(markdown.headings(body))
    mine = [index for index, heading in enumerate(found) if heading.title == HEADING and heading.level == 2]
    endless = next((span for span in markdown.spans(body) if not span.closed), None)
    if not mine and endless and f"## {HEADING}" in body[endless.start :].splitlines():
        # It stands in a code fence that never ends, as does everything below it.
        return f"{text}{'' if text.endswith(newline) else newline}{receipt}{newline}"
    if not mine:
        gap = "" if not body.strip() else newline if body.endswith("\n") else newline * 2
        return f"{text}{gap}## {HEADING}{newline}{newline}{receipt}{newline}"
    following = next((h.start for h in found[mine[-1] + 1 :] if h.level <= 2), len(body))
    section = body[found[mine[-1]].end : following]
    kept = section.rstrip()
    # The blank lines that end the section stay behind the new line.
    at = offset + found[mine[-1]].end + len(kept)
    lead = newline if kept else ("" if body[: found[mine[-1]].end].endswith("\n") else newline) + newline
    tail = text[at:] if text[at:].startswith(("\n", "\r\n")) else newline + text[at:]
    return text[:at] + lead + receipt + tail


def receipts_in(text: str, offset: int) -> list[str]:
    """Return the lines that stand in the receipts of *text*, each without its end.

    Args:
        text: The whole file.
        offset: Where its body begins.
    """
    body = text[offset:]
    found = list(markdown.headings(body))
    lines: list[str] = []
    for index, heading in enumerate(found):
        if heading.title == HEADING and heading.level == 2:
            end = next((h.start for h in found[index + 1 :] if h.level <= 2), len(body))
            lines += [line.rstrip("\r\n") for line in markdown.lines(body[heading.end : end])]
    endless = next((span for span in markdown.spans(body) if not span.closed), None)
    if endless is not None:  # what `with_receipt` appends where a fence hides all that follows
        hidden = body[endless.start :].splitlines()
        lines += hidden[hidden.index(f"## {HEADING}") + 1 :] if f"## {HEADING}" in hidden else []
    return [line for line in lines if line.startswith("- ")]
