"""The ends of logs that lie elsewhere: on another machine, or as the transcript of a worker in a client.

Kept as each agent or command ends. An attempt whose machine died has none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from . import statements
from .base import Engine, Transaction

SQL = statements.load("tails")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTail:
    """The end of what one attempt has printed."""

    #: `Claim.attempt`.
    attempt: int
    #: Where the whole log lies on its host, without the ending.
    path: str
    #: The ends of standard output and standard error.
    out: bytes
    err: bytes
    #: Whether there is more before them.
    cut: bool


class LogTails:
    """The ends of logs in a store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def keep(self, tails: Iterable[LogTail]) -> None:
        """*Atomically* keep tails, each in place of what was kept of its attempt before."""
        rows = [
            {"attempt": one.attempt, "path": _text(one.path.encode("utf-8", "surrogateescape")),
             "out": _text(one.out), "err": _text(one.err), "cut": int(one.cut)}
            for one in tails
        ]  # fmt: skip

        def body(tx: Transaction) -> None:
            tx.each(SQL.keep, rows)

        if rows:
            self._engine.write(body)

    def of(self, attempts: Iterable[int]) -> dict[int, LogTail]:
        """Return the tails of those of *attempts* that have one."""
        ids = list(attempts)
        rows = self._engine.read(SQL.of, {"ids": json.dumps(ids)}) if ids else []
        return {
            attempt: LogTail(attempt=attempt, path=path, out=out.encode(), err=err.encode(), cut=bool(cut))
            for attempt, path, out, err, cut in rows
        }

    def host_of(self, worker: str) -> str:
        """Return the machine of a worker (`Worker.id`), "" where that is not known."""
        rows = self._engine.read(SQL.host, {"worker": worker})
        return str(rows[0][0]) if rows else ""

    def forget(self, seconds: float) -> int:
        """Delete the tails of attempts that ended so long ago; return how many."""
        return len(self._engine.write(lambda tx: tx.run(SQL.forget, {"age": round(seconds * 1000)})))


def _text(data: bytes) -> str:
    # PostgreSQL keeps no NUL in a text.
    return data.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
