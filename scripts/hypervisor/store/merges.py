"""Merges: which commits runs put on branches.

A row is written *before* git moves the branch. So it says whose a commit is even where the run dies in
between; whether the branch has the commit is git's to say.
"""

from __future__ import annotations

from . import statements
from .base import Engine
from .records import Claim

SQL = statements.load("merges")


class Merges:
    """The merges of a store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, batch: int, commit: str, claim: Claim | None = None) -> None:
        """Note a commit that is about to be put on a branch. Durable on return.

        Args:
            batch: `BatchRecord.id`.
            commit: Its full hash.
            claim: Whose work it merges into the batch's branch; None: the user's branch is moved to it.
        """
        row = {
            "batch": batch, "commit_id": commit, "work": claim and claim.work,
            "attempt": claim and claim.attempt,
        }  # fmt: skip
        self._engine.write(lambda tx: tx.run(SQL.add, row), durable=True)

    def of_work(self, batch: int, work: int) -> list[str]:
        """Return the commits that were to merge this cycle of an item, the newest first."""
        return [row[0] for row in self._engine.read(SQL.of_work, {"batch": batch, "work": work})]

    def moved(self, commit: str) -> bool:
        """Tell whether a run was to move the user's branch to *commit*."""
        return bool(self._engine.read(SQL.moved, {"commit_id": commit}))
