"""The invariants of claims as queries: what a store must satisfy at any moment (docs/store.md).

Reads everything; for ``hypervisor store check``, the doctor, and the tests.
"""

from __future__ import annotations

import json

from . import statements
from .base import Engine

SQL = statements.load("check")

_PAGE = 5000
#: What each query finds a violation of.
INVARIANTS = {
    "ready_flag": "batch_item.ready is 1 exactly while the work is ready",
    "open_attempts": "running work has one open attempt, other work none",
    "accepted": "a cycle has at most one accepted completion, and its state is that one's",
    "counted": "work.attempts is the number of counted attempts",
    "numbers": "an attempt's number is unique over the cycles of an item",
    "cycles": "the cycles of an item have no gap",
    "open_cycles": "a cycle that was followed by another has its published result",
    "foreign_rows": "rows refer to rows that exist",
}


def violations(engine: Engine, limit: int = 20) -> list[str]:
    """Return what contradicts the invariants, each in one line; empty for a sound store."""
    found = []
    for name, invariant in INVARIANTS.items():
        rows = engine.read(getattr(SQL, name))
        found += [f"{invariant}: {row}" for row in rows[:limit]]
    after = 0
    while rows := engine.read(SQL.results, {"after": after, "limit": _PAGE}):
        for work, state, result in rows:
            if json.loads(result).get("status") != state:
                found.append(f"a result says what its work's state says: {work} is {state}, {result[:100]}")
        after = rows[-1][0]
    return found
