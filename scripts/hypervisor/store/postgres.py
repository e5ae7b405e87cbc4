"""The PostgreSQL engine (14 or later), through psycopg 3: one schema a project, for many machines.

The rules:

* Transactions are READ COMMITTED; what serialises two of them is the guard that every statement repeats
  in its own ``WHERE``. ``FOR UPDATE SKIP LOCKED`` only spares the wait.
* Rows are locked in one order: attempt, work, batch_item. A deadlock (40P01) or a serialization failure
  (40001) is tried again here and nowhere else.
* Only the server's clock counts.
* A server that is down is waited for, up to the patience of the engine; what was not committed is begun
  again. Where a commit was under way its outcome is not known: that is raised, and the caller decides.
* Within a transaction only what a caller reads is waited for: other statements, and the commit, travel with
  the next one that is (libpq's pipeline mode). A claim takes four round trips instead of eight.
* NOTIFY, LISTEN and advisory locks would be hints (a pooler in transaction mode breaks them): rows decide.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from ..core.errors import StoreNewer, StoreUnusable
from .base import NO_PARAMETERS, Engine, Parameters, Row, Transaction
from .sqlite import SCHEMA
from .statements import render, schema_script

T = TypeVar("T")

_OLDEST_SERVER = 140000
#: How often a transaction that the server broke off is begun again.
_TRIES = 10
#: Where the URL sets no ``connect_timeout``.
_CONNECT_SECONDS = 10
#: So that a connection whose other end is gone without a word is given up in seconds, not in hours.
_LIVELY = {
    "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000,
}  # fmt: skip
#: The same at the server: what a host that is cut off, or stands still, has locked is free after seconds. A
#: transaction here takes milliseconds.
_SERVER_LIVELY = """
SET idle_in_transaction_session_timeout = '5s'; SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2;
SET tcp_keepalives_count = 3; SET tcp_user_timeout = '10s'
"""
# What a pipeline drops after an error is no news to a user: the error itself is raised.
logging.getLogger("psycopg").addHandler(logging.NullHandler())
#: libpq before version 14 has no pipelines; then each statement is waited for.
_PIPELINES = psycopg.Pipeline.is_supported()
#: Between two attempts to reach a server, in seconds.
_PAUSE = 0.5
#: Two creators of one schema at a moment wait for each other by this number.
_CREATION_LOCK = 7_406_226_071
_IS_THERE = """
SELECT 1 FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = 'meta'
"""


class PostgresEngine(Engine):
    """A schema in a PostgreSQL database.

    Args:
        url: A libpq connection string. It never appears in a message.
        schema: The schema that holds the project's tables.
        create: Whether to make them where there are none.
        patience: Seconds for which a server that cannot be reached is tried again.

    Raises:
        OSError: The server cannot be reached (ECONNREFUSED).
        StoreUnusable: The server is too old, or refuses the user; the tables are missing.
    """

    dialect = "postgres"

    def __init__(
        self, url: str, schema: str = "hypervisor", *, create: bool = True, patience: float = 0.0
    ) -> None:
        self._url, self.name, self._patience = url, schema, patience
        #: When the server was first found down, None while it is up: the patience of all threads is one.
        self._down_since: float | None = None
        #: How messages call the server.
        self.where = _place(url)
        #: Whether this engine made the tables.
        self.made = False
        #: The id that the tables were given when they were made: no two projects have one.
        self.project = ""
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._connection = self._connect()
        try:
            self.schema = self._make_schema(create=create)
        except BaseException:
            self._connection.close()
            raise

    def read(self, statement: str, parameters: Parameters = NO_PARAMETERS) -> list[Row]:
        """See `Engine.read`."""
        with self._lock, self._as_os_errors():
            return self._patiently(
                lambda: _fetch(self._live().execute(_rendered(statement, parameters), parameters))
            )

    def write(self, body: Callable[[Transaction], T], *, durable: bool = False) -> T:
        """See `Engine.write`."""
        if self.schema > SCHEMA:
            raise StoreNewer(
                f"the database has schema {self.schema}, this version knows {SCHEMA}; it can be read, not "
                "changed: update hypervisor"
            )
        with self._lock, self._as_os_errors():
            for _ in range(_TRIES):
                try:
                    return self._patiently(lambda: self._once(body, durable=durable))
                except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
                    continue
            return self._patiently(lambda: self._once(body, durable=durable))

    def version(self) -> int:
        """See `Engine.version`."""
        # The transactions that are over and those that are open: it changes with each that writes.
        rows = self.read("SELECT hashtextextended(CAST(pg_current_snapshot() AS text), 0)")
        return int(rows[0][0])

    def close(self) -> None:
        """See `Engine.close`."""
        if os.getpid() == self._pid:
            with self._lock:
                self._connection.close()

    # ---------------------------------------------------------------- details

    def _once(self, body: Callable[[Transaction], T], *, durable: bool) -> T:
        connection = self._live()
        committing = False
        try:
            with connection.pipeline() if _PIPELINES else contextlib.nullcontext() as pipeline:
                connection.execute("BEGIN")
                if not durable:
                    connection.execute("SET LOCAL synchronous_commit = off")
                transaction = _PostgresTransaction(connection)
                answer = body(transaction)
                if pipeline is not None and not transaction.heard:
                    # Else a connection that broke long ago would be noticed by the commit only, whose outcome
                    # would then count as unknown.
                    pipeline.sync()
                committing = True
                connection.execute("COMMIT")
            return answer
        except BaseException as error:
            if committing and connection.closed and isinstance(error, psycopg.OperationalError):
                raise OSError(
                    errno.EIO, "the connection broke during a commit: its outcome is not known"
                ) from error
            with contextlib.suppress(psycopg.Error):
                if not connection.closed:
                    connection.rollback()
            raise

    def _patiently(self, call: Callable[[], T]) -> T:
        """Return what *call* returns; again where the connection breaks, until the patience is used up."""
        while True:
            try:
                answer = call()
                self._down_since = None
                return answer
            except (psycopg.OperationalError, ConnectionError) as error:
                if isinstance(error, psycopg.OperationalError) and not self._connection.closed:
                    raise  # of another kind than a broken connection
                now = time.monotonic()
                self._down_since = self._down_since or now
                if now - self._down_since >= self._patience:
                    raise
            time.sleep(_PAUSE)

    def _connect(self) -> psycopg.Connection[Row]:
        with self._as_os_errors():
            words: dict[str, Any] = {"connect_timeout": _CONNECT_SECONDS, **_LIVELY, **_words_of(self._url)}
            connection = psycopg.connect(autocommit=True, **words)
        if connection.info.server_version < _OLDEST_SERVER:
            found = connection.info.server_version // 10000
            connection.close()
            raise StoreUnusable(f"the server is PostgreSQL {found}; version 14 or later is needed")
        connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(self.name)))
        connection.execute(_SERVER_LIVELY)
        return connection

    def _live(self) -> psycopg.Connection[Row]:
        if os.getpid() != self._pid:
            raise RuntimeError("a database connection was used after a fork; open the store anew")
        if self._connection.closed:
            self._connection = self._connect()
        return self._connection

    def _make_schema(self, *, create: bool) -> int:
        """Make the tables where there are none, whoever of many comes first; return the schema's version."""
        run = self._connection.execute
        with self._as_os_errors():
            # First, so that a user who may only use the tables needs no right to make any.
            if found := self._schema_found():
                return found
            if not create:
                raise StoreUnusable(
                    f"{self.where} has no schema {self.name} of ours; run `hypervisor store init`"
                )
            with self._connection.transaction():
                run("SELECT pg_advisory_xact_lock(%s)", (_CREATION_LOCK,))
                if not self._schema_found():  # again: another may have been faster
                    run(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self.name)))
                    for statement in schema_script("postgres"):
                        run(statement)
                    run("INSERT INTO meta (name, value) VALUES ('schema', %s)", (str(SCHEMA),))
                    run("INSERT INTO meta (name, value) VALUES ('project', %s)", (secrets.token_hex(16),))
                    self.made = True
            return self._schema_found()

    def _schema_found(self) -> int:
        # Asked of the catalog itself: within a transaction that has waited for the creation lock, a name may
        # still be looked up in a cache of before, which says that there is no such table.
        if not self._connection.execute(_IS_THERE, (self.name,)).fetchone():
            return 0
        found: dict[str, str] = dict(self._connection.execute("SELECT name, value FROM meta").fetchall())
        self.project = str(found.get("project", ""))
        return int(found.get("schema", 0))

    @contextlib.contextmanager
    def _as_os_errors(self) -> Iterator[None]:
        try:
            yield
        except (psycopg.errors.DiskFull, psycopg.errors.OutOfMemory) as error:
            raise OSError(errno.ENOSPC, f"{self.where} has no room left") from error
        except psycopg.errors.ReadOnlySqlTransaction as error:
            raise StoreUnusable(
                f"{self.where} accepts no changes: it is a standby, or read-only; name the primary server"
            ) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise StoreUnusable(
                f"{self.where} refuses this user: {error.diag.message_primary}; docs/scale-out.md lists the "
                "rights that are needed"
            ) from error
        except psycopg.OperationalError as error:
            # What libpq says may repeat parts of the URL, so only what is looked for in it is told.
            for words, what in _REFUSALS.items():
                if words in str(error):
                    raise StoreUnusable(f"{self.where} {what}") from error
            told = [what for words, what in _TROUBLES.items() if words in str(error)]
            reason = told[0] if told else type(error).__name__
            raise OSError(errno.ECONNREFUSED, f"{self.where} cannot be reached: {reason}") from error


#: What a server says that it will say again, and what is told of it.
_REFUSALS = {
    "password authentication failed": "refuses the user or the password: check the URL, or ~/.pgpass",
    "no password supplied": "asks for a password: put it into the URL or ~/.pgpass",
    "no pg_hba.conf entry": "lets this user or this machine not in: add a line to its pg_hba.conf",
    'role "': "has no such user: create it, or check the URL",
    'database "': "has no such database: create it, or check the URL",
    "server does not support SSL": "has no TLS, which the URL asks for: enable it, or change sslmode",
    "certificate verify failed": "has a certificate that is not trusted: name its root in sslrootcert",
    "root certificate file": "cannot be checked: there is no root certificate; name one in sslrootcert",
}
#: What may pass.
_TROUBLES = {
    "Connection refused": "nothing listens there",
    "timeout expired": "no answer in time",
    "timed out": "no answer in time",
    "could not translate host name": "there is no such host",
    "Name or service not known": "there is no such host",
    "No route to host": "there is no way to it",
    "starting up": "it is starting up",
    "shutting down": "it is shutting down",
    "administrator command": "it was shut down",
    "too many": "all its connections are in use",
    "remaining connection slots": "all its connections are in use",
    "server closed the connection": "it closed the connection",
}


def _words_of(url: str) -> dict[str, Any]:
    # After an unescaped "/" in the password libpq would take the rest for the database, and what is before it
    # for host and port.
    _, scheme, rest = url.partition("://")
    after_host = rest.partition("/")[2] if scheme else ""
    try:
        words = dict(conninfo_to_dict(url))
        if "@" not in after_host and str(words.get("port") or "0").replace(",", "").isdecimal():
            return words
        raise psycopg.ProgrammingError
    except psycopg.Error:
        # The message would repeat what may be a part of the password.
        raise StoreUnusable(
            "the URL of the store cannot be read; it must be like postgresql://user:password@host/database, "
            "with special characters as %40 (@), %2F (/), %3A (:)"
        ) from None


def _place(url: str) -> str:
    """Return how messages call a server: by its host, never by what may hold a password."""
    words = _words_of(url)
    host = str(words.get("host") or words.get("hostaddr") or "")
    if "@" in host:  # of a password with a character that should have been escaped
        host = "..."
    port = f":{words['port']}" if words.get("port") else ""
    return f"the database server {host}{port}" if host else "the database server"


class _PostgresTransaction(Transaction):
    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection
        #: Whether the server has answered within this transaction.
        self.heard = False

    def run(self, statement: str, parameters: Parameters = NO_PARAMETERS) -> list[Row]:
        """See `Transaction.run`."""
        text = _rendered(statement, parameters)
        cursor = self._connection.execute(text, parameters)
        if not _answers(text):
            return []
        self.heard = True
        return cursor.fetchall()

    def each(self, statement: str, parameters: Iterable[Parameters]) -> list[Row]:
        """See `Transaction.each`."""
        rows: list[Row] = []
        text = render(statement, "postgres")
        with self._connection.cursor() as cursor:
            cursor.executemany(text, list(parameters), returning=_answers(text))
            if not _answers(text):
                return rows
            self.heard = True
            while True:
                if cursor.description is not None:
                    rows += cursor.fetchall()
                if not cursor.nextset():
                    return rows


def _rendered(statement: str, parameters: Parameters) -> str:
    ids = parameters.get("ids", ",")
    return render(statement, "postgres", one_id="," not in ids and ids != "[]")


_COMMENT = re.compile(r"--.*")


@cache
def _answers(statement: str) -> bool:
    """Return whether a statement returns rows."""
    words = _COMMENT.sub("", statement).upper()
    return "RETURNING" in words or words.lstrip().startswith(("SELECT", "WITH", "SHOW"))


def _fetch(cursor: psycopg.Cursor[Row]) -> list[Row]:
    return cursor.fetchall() if cursor.description is not None else []
