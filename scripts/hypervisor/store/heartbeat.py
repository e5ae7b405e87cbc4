"""The heartbeat of an agent inside a client: what a tool call of a worker comes to now and then."""

from __future__ import annotations

from typing import Any

from . import statements
from .base import Transaction
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
