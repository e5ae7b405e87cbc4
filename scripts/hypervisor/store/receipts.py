"""Receipts: what was begun and done with which item of a task. The table is the truth.

A line is stored, durable, before it is written into the task's body (`tasks.receipts`): a crash between the
two leaves ``written`` unset, and the next command writes the line. No item gets two receipts that say
it was done.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from . import statements
from .base import Engine, Transaction
from .columns import from_column, to_column

SQL = statements.load("receipts")

#: The answer of `Receipts.begin`: do it; it has its receipt; somebody began it and left no receipt.
Leave = Literal["go", "done", "in doubt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One line of a task's receipts."""

    id: int
    #: What it is for; the line itself where no item was named.
    item: str
    #: As it stands in the body, from its ``- ``.
    line: str
    #: Milliseconds since the epoch.
    at: int
    #: Whether it was put into the body; its owner may have removed it since.
    written: bool


class Receipts:
    """The receipts of a store's tasks. A task is named by its key (`Claim.key`)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, task: str, item: str, *, again: bool = False) -> Leave:
        """*Atomically* note that an item is about to be done; durable on return.

        Args:
            task: The task's key.
            item: What the receipt will be for.
            again: Whether it is known that it was not done, though it was begun.

        Returns:
            ``go``; ``done``: it has its receipt; ``in doubt``: it was begun before and has no receipt.
        """
        parameters = {"task": task, "item": to_column(item), "again": int(again)}

        def body(tx: Transaction) -> Leave:
            if tx.run(SQL.begin, parameters):
                return "go"
            return "done" if tx.run(SQL.state, parameters)[0][0] == "done" else "in doubt"

        return self._engine.write(body, durable=True)

    def enter(self, task: str, path: str, item: str, line: str, *, failed: bool = False) -> bool:
        """*Atomically* keep a receipt, unless the item has one that says it was done; durable on return.

        Args:
            task: The task's key.
            path: Its path below the project root.
            item: What the receipt is for.
            line: The line.
            failed: Whether it says that the item was not done, so that another may follow.

        Returns:
            Whether the line is new.
        """
        parameters = {
            "task": task, "path": to_column(path), "item": to_column(item), "line": to_column(line),
            "state": "failed" if failed else "done",
        }  # fmt: skip

        def body(tx: Transaction) -> bool:
            if not tx.run(SQL.enter, parameters):
                return False
            tx.run(SQL.add_line, parameters)
            return True

        return self._engine.write(body, durable=True)

    def of(self, task: str) -> list[Receipt]:
        """Return the receipts of a task, the oldest first."""
        return [
            Receipt(id=id_, item=from_column(item), line=from_column(line), at=at, written=bool(written))
            for id_, item, line, at, written in self._engine.read(SQL.lines, {"task": task})
        ]

    def in_doubt(self, task: str) -> list[str]:
        """Return the items that were begun and have no receipt."""
        return [from_column(row[0]) for row in self._engine.read(SQL.in_doubt, {"task": task})]

    def unwritten(self) -> list[tuple[str, str]]:
        """Return the tasks of which a receipt is not in the body yet: key, and path below the root."""
        return [(task, from_column(path)) for task, path in self._engine.read(SQL.unwritten)]

    def set_written(self, receipts: Iterable[int]) -> None:
        """Note that these lines are in the body."""
        ids = json.dumps(list(receipts))
        if ids != "[]":
            self._engine.write(lambda tx: tx.run(SQL.written, {"ids": ids}))
