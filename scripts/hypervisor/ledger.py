"""The ledger of a task's receipts: what was begun and done with which item, beside the lines in its body.

A line is written here and synced before it goes into the body, so that the body can be compared with it,
and no item is given two. Whoever writes holds the task file's lock. A file of no project has no ledger:
there the body alone tells what stands in it.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .core import clock, durable
from .core.paths import Project, state_above
from .lives import task_key
from .tasks.receipts import receipts_in, with_receipt

FOLDER = "receipts"
Phase = Literal["begun", "done", "failed"]
Leave = Literal["go", "done", "in doubt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of the ledger."""

    #: What the receipt is for.
    item: str
    #: ``begun``: about to be done; ``done``: it has its receipt; ``failed``: it has one that says so.
    phase: Phase
    #: The line in the body; "" where it was only begun.
    line: str = ""
    at: str = ""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The ledger of one task file."""

    #: None for a file of no project.
    path: Path | None

    @classmethod
    def of(cls, task_file: Path) -> Ledger:
        """Return the ledger of a task file: in the state folder of the project that it lies in."""
        real = os.path.realpath(task_file)
        state = state_above(Path(os.path.dirname(real)))
        if state is None:
            return cls(None)
        return cls(state / FOLDER / f"{task_key(Project(state.parent, state), real)}.jsonl")

    def entries(self) -> Iterator[Entry]:
        """Yield what stands there, the oldest first; torn lines are passed over."""
        if self.path is None:
            return
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        for line in data.split(b"\n"):
            try:
                entry = Entry(**json.loads(line))
            except (ValueError, TypeError):
                continue
            yield entry

    def begin(self, item: str, *, again: bool = False) -> Leave:
        """Note that an item is about to be done; durable on return.

        Args:
            item: Which.
            again: Whether it was found out that it was not done, though it was begun.

        Returns:
            ``go``; ``done``: it has its receipt; ``in doubt``: somebody has begun and left no receipt.
        """
        last = _last(self.entries(), item)
        if last == "done":
            return "done"
        if last == "begun" and not again:
            return "in doubt"
        self._add(Entry(item=item, phase="begun"))
        return "go"

    def enter(self, text: str, offset: int, entry: Entry) -> str:
        """Return the file's *text* with a receipt; it is in the ledger, durable, on return.

        An item that has its receipt gets no second one; where that one never came into the body, or was
        taken out of it, it is put in.

        Args:
            text: The whole file.
            offset: Where its body begins.
            entry: ``done`` or ``failed``.
        """
        entries = list(self.entries())
        there = receipts_in(text, offset)
        if self.path is None:
            return text if entry.line in there else with_receipt(text, offset, entry.line)
        # Whoever wrote the last one may have died before it came into the body.
        lines = [one for one in entries if one.line]
        if lines and missing_lines(lines, there)[lines[-1].line]:
            text = with_receipt(text, offset, lines[-1].line)
        had = next((one for one in lines if one.item == entry.item and one.phase == "done"), None)
        if had is not None:
            lost = missing_lines(lines, receipts_in(text, offset))[had.line]
            return with_receipt(text, offset, had.line) if lost else text
        if (
            entry.phase == "failed"
            and lines
            and lines[-1].item == entry.item
            and lines[-1].line == entry.line
        ):
            return text  # told twice
        self._add(entry)
        return with_receipt(text, offset, entry.line)

    def mend(self, text: str, offset: int) -> str:
        """Return the file's *text* with all lines that the ledger has and the body has not."""
        lines = [one for one in self.entries() if one.line]
        for line, count in missing_lines(lines, receipts_in(text, offset)).items():
            for _ in range(count):
                text = with_receipt(text, offset, line)
        return text

    def _add(self, entry: Entry) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        record = {"item": entry.item, "phase": entry.phase, "line": entry.line, "at": clock.now_text()}
        durable.append_lines(self.path, json.dumps(record).encode() + b"\n")


def missing_lines(entries: list[Entry], there: list[str]) -> Counter[str]:
    """Return which lines of the ledger are not in the body, and how often."""
    return Counter(one.line for one in entries) - Counter(there)


def in_doubt(entries: list[Entry]) -> list[str]:
    """Return the items that were begun and have no receipt."""
    last: dict[str, Phase] = {}
    for one in entries:
        if last.get(one.item) != "done":
            last[one.item] = one.phase
    return [item for item, phase in last.items() if phase == "begun"]


def _last(entries: Iterator[Entry], item: str) -> Phase | None:
    last: Phase | None = None
    for entry in entries:
        if entry.item == item and last != "done":  # nothing that comes later takes a receipt back
            last = entry.phase
    return last
