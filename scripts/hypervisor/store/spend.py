"""What runs have spent: a row for each run of a coordinator, replaced as it goes on.

A run knows its own figures and adds those of the others, so that the budgets of a batch, a session and a
project hold over all runs: those that go on at once, those that were killed, and those that an agent
starts within a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import statements
from .base import Engine, Row, Transaction

SQL = statements.load("spend")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """What has been spent."""

    tokens: int = 0
    usd: float = 0.0
    #: Of all its runs together.
    seconds: float = 0.0
    #: Agents that were started.
    attempts: int = 0

    def __add__(self, other: Spend) -> Spend:
        return Spend(
            tokens=self.tokens + other.tokens, usd=self.usd + other.usd,
            seconds=self.seconds + other.seconds, attempts=self.attempts + other.attempts,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who spends, and against which budgets it counts."""

    #: `Worker.id` of the run's coordinator: a batch that is resumed has one account for each run.
    run: str
    #: The batch's name.
    batch: str
    #: The client's session that the run was started from; "" for none.
    session: str = ""
    #: Names of the batches within whose agents this run was started.
    within: tuple[str, ...] = ()
    #: The machine's name (`core.process.host_name`); "" where nobody asks for it.
    host: str = ""


class Spending:
    """The accounts of a store, as one run sees them.

    Args:
        engine: The database.
        account: Who this run is.
        project_seconds: How far back the project's spending counts.
        zone: Returns the machine's zone in a word, "" where it was not looked at yet.
    """

    def __init__(
        self, engine: Engine, account: Account, project_seconds: float, zone: Callable[[], str] = str
    ) -> None:
        self._engine, self._account, self._zone = engine, account, zone
        self._age = round(project_seconds * 1000)
        #: Whether the batches are noted that the run counts against; they never change.
        self._noted = False

    def put(self, spend: Spend) -> None:
        """*Atomically* replace what this run has spent so far, in all. Its machine counts as heard."""
        account = self._account
        row = {
            "run": account.run, "host": account.host, "zone": self._zone(), "session": account.session,
            "tokens": spend.tokens, "usd": spend.usd,
            "seconds": spend.seconds, "attempts": spend.attempts,
        }  # fmt: skip
        batches = () if self._noted else dict.fromkeys((account.batch, *account.within))

        def body(tx: Transaction) -> None:
            tx.run(SQL.put, row)
            if batches:
                tx.each(SQL.put_batch, [{"batch": batch, "run": account.run} for batch in batches])

        self._engine.write(body)
        self._noted = True

    def others(self) -> dict[str, Spend]:
        """Return by scope (``batch``, ``session``, ``project``) what all other runs have spent."""
        account = self._account
        parameters = {
            "run": account.run, "batch": account.batch, "session": account.session, "age": self._age,
        }  # fmt: skip
        return {
            scope: _spend_of(self._engine.read(statement, parameters)[0])
            for scope, statement in (
                ("batch", SQL.of_batch), ("session", SQL.of_session), ("project", SQL.of_project),
            )
        }  # fmt: skip

    def at_work_of_session(self) -> int:
        """Return how many attempts other runs of this run's session have open."""
        account = self._account
        rows = self._engine.read(SQL.at_work, {"run": account.run, "session": account.session})
        return int(rows[0][0])


def _spend_of(row: Row) -> Spend:
    tokens, usd, seconds, attempts = row
    return Spend(
        tokens=int(tokens or 0),
        usd=float(usd or 0.0),
        seconds=float(seconds or 0.0),
        attempts=int(attempts or 0),
    )
