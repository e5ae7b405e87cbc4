"""The port: what a database engine promises to the modules beside this one.

Two engines keep the promises: `sqlite.SqliteEngine` and `postgres.PostgresEngine`. The statements are
the same; `statements` fills in the few words in which the dialects differ. One contract suite runs over
both (`tests/integration/store`).

Nobody outside `store/` writes SQL, opens the database file, or knows a table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

T = TypeVar("T")

Dialect = Literal["sqlite", "postgres"]
Row = tuple[Any, ...]
Parameters = Mapping[str, Any]
NO_PARAMETERS: Parameters = {}


class Transaction(ABC):
    """An open write transaction. Valid only inside the body that `Engine.write` calls."""

    @abstractmethod
    def run(self, statement: str, parameters: Parameters = NO_PARAMETERS) -> list[Row]:
        """Execute *statement* and return all its rows (empty for a statement without `RETURNING`)."""

    @abstractmethod
    def each(self, statement: str, parameters: Iterable[Parameters]) -> list[Row]:
        """Execute *statement* once for each of *parameters*; return all rows in that order."""


class Engine(ABC):
    """A database that holds the state of one project. Any number of processes may use it at once.

    Every statement may use the parameters ``:now`` (wall-clock time, milliseconds since the epoch, for
    people) and ``:lease_now`` (the clock of leases, milliseconds): the engine supplies both. Leases are
    never compared with another clock. On SQLite, which serves one machine, that clock is
    ``CLOCK_MONOTONIC``: it does not run while the machine sleeps and nobody can set it. On PostgreSQL it is
    the server's clock.
    """

    dialect: Dialect

    @abstractmethod
    def read(self, statement: str, parameters: Parameters = NO_PARAMETERS) -> list[Row]:
        """Return all rows of a query as of one moment. Leaves no cursor open.

        Raises:
            OSError: The database could not be read.
        """

    @abstractmethod
    def write(self, body: Callable[[Transaction], T], *, durable: bool = False) -> T:
        """*Atomically* carry out all that *body* does, or nothing of it, and return what it returned.

        Write transactions are serialised on SQLite and READ COMMITTED on PostgreSQL, so every statement
        that depends on what an earlier one read repeats that condition in its own ``WHERE``.

        Args:
            body: Only database work: no I/O, no subprocess, no waiting. It may be called again after a
                deadlock or a serialization failure, so it changes nothing outside.
            durable: Whether the commit must survive a power loss before this returns. Without it the
                commit survives the death of any process, but the last moments before a power loss may be
                undone, whole transactions at a time and the latest first.

        Raises:
            OSError: Nothing was changed: the disk is full (ENOSPC), read-only (EROFS) or failing (EIO).
            StoreNewer: A newer version of the program changed the schema; nothing was changed.
        """

    @abstractmethod
    def version(self) -> int:
        """Return a number that differs after another process has changed the database.

        Cheap (microseconds on SQLite) and only a hint: poll it to know when to query again. Take a
        baseline before the first query.
        """

    def state(self) -> tuple[int, int]:
        """Return what differs after anybody, this process too, has changed the database. Cheap."""
        return self.version(), 0

    @abstractmethod
    def close(self) -> None:
        """Close the connection. Calling it twice does no harm."""
