"""The heartbeat of an agent inside a client: what each tool call of each worker comes to.

Imports little, as a hook may be a process of its own for each call. `Sessions.beat` does the same with all
that is known of a claim.
"""

from __future__ import annotations

from typing import Any

from . import statements
from .base import Engine, Transaction
from .columns import plain

SQL = statements.load("heartbeat")
#: The longest name of a session or agent; `Actor.worker` cuts alike.
LONGEST = 200


def who(session: str, agent: str = "") -> dict[str, Any]:
    """Return the parameters that name an agent of a session."""
    return {"session": plain(session, LONGEST), "agent": plain(agent, LONGEST)}


def renew(tx: Transaction, parameters: dict[str, Any]) -> None:
    """Renew, within a transaction, the leases of what an agent holds, and its place."""
    for statement in (SQL.renew, SQL.keep_slot, SQL.heard):
        tx.run(statement, parameters)


def beat(engine: Engine, session: str, agent: str, lease_ms: int) -> bool:
    """*Atomically* renew the leases of what an agent holds, and its place.

    Returns:
        Whether that was all: no claim was taken from it, and none leaves receipts.
    """
    parameters = {**who(session, agent), "lease": lease_ms}

    def body(tx: Transaction) -> bool:
        renew(tx, parameters)
        return not tx.run(SQL.more_to_do, parameters)

    return engine.write(body)
