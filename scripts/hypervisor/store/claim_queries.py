"""Questions about claims, and the notes of what is written to files: nothing here begins or ends a claim."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..core.errors import Loss
from .base import Engine
from .claim_rows import SQL, attempt_of, held_of, loss_of, work_of
from .columns import from_column
from .records import Abandoned, Attempt, Held, Result, Work


class ClaimQueries:
    """The reading half of `Claims`.

    Args:
        engine: The database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # ----------------------------------------------------------- task files

    def unpublished(self, limit: int = 1000, after: int = 0) -> list[tuple[Work, Result]]:
        """Return decided work of which something is left to be written to a file, the oldest first."""
        rows = self._engine.read(SQL.unpublished, {"limit": limit, "after": after})
        found = []
        for id_, key, cycle, text, result in rows:
            record = json.loads(result)
            work = Work(
                id=id_, key=key, cycle=cycle, text=from_column(text), state=str(record.get("status", "")),
                attempts=0, last_number=0, result=record, published=False,
            )  # fmt: skip
            found.append((work, record))
        return found

    def set_published(self, works: Iterable[int]) -> None:
        """Note that all that these results imply is written to files."""
        ids = json.dumps(list(works))
        if ids != "[]":
            self._engine.write(lambda tx: tx.run(SQL.published, {"ids": ids}))

    def unrestored(self, work: int) -> list[tuple[int, Mapping[str, Any]]]:
        """Return the ended attempts whose change of the task file is not restored yet, oldest first."""
        return [(row[0], json.loads(row[1])) for row in self._engine.read(SQL.unrestored, {"work": work})]

    def abandoned(self) -> list[Abandoned]:
        """Return what ended attempts without a result left in task files that nobody has claimed since."""
        return [
            Abandoned(attempt=id_, work=work, key=key, text=from_column(text), revert=json.loads(revert))
            for id_, work, key, text, revert in self._engine.read(SQL.abandoned)
        ]

    def set_restored(self, attempts: Iterable[int]) -> None:
        """Note that the task file is as it was before these attempts."""
        ids = json.dumps(list(attempts))
        if ids != "[]":
            self._engine.write(lambda tx: tx.run(SQL.restored, {"ids": ids}))

    # ------------------------------------------------------ lock directories

    def recorded_locks(self, names: Iterable[str]) -> set[str]:
        """Return those of *names* whose lock directory an attempt has made, or was about to make."""
        rows = self._engine.read(SQL.recorded_locks, {"names": json.dumps(list(names))})
        return {row[0] for row in rows}

    def locks_of_work(self, work: int) -> dict[int, str]:
        """Return the names of the lock directories that attempts at *work* have recorded, by attempt."""
        return dict(self._engine.read(SQL.locks_of_work, {"work": work}))

    def forget_locks(self, attempts: Iterable[int]) -> None:
        """Note that the lock directories of these attempts are removed: of that name is another's now."""
        ids = json.dumps(list(attempts))
        if ids != "[]":
            self._engine.write(lambda tx: tx.run(SQL.forget_locks, {"ids": ids}))

    # ------------------------------------------------------------------- look

    def latest(self, key: str) -> Work | None:
        """Return the latest cycle of an item; None if the store does not know it."""
        rows = self._engine.read(SQL.latest, {"key": key})
        return work_of(rows[0]) if rows else None

    def successes(self, keys: Iterable[str]) -> dict[str, Result]:
        """Return the results of those of *keys* whose latest cycle is a success."""
        rows = self._engine.read(SQL.successes, {"names": json.dumps(list(keys))})
        return {key: json.loads(result) for key, result in rows}

    def work(self, work: int) -> Work:
        """Return one cycle by its id."""
        return work_of(self._engine.read(SQL.work, {"work": work})[0])

    def held(self, key: str) -> Held | None:
        """Return who holds an item; that worker may be dead."""
        latest = self.latest(key)
        rows = self._engine.read(SQL.holder, {"work": latest.id}) if latest else []
        return held_of(rows[0]) if rows else None

    def held_all(self) -> list[Held]:
        """Return all open attempts, the oldest first; some of their workers may be dead."""
        return [held_of(row) for row in self._engine.read(SQL.held_all)]

    def held_in_session(self, session: str, agent: str | None = None) -> list[Held]:
        """Return the open attempts of a client's session, or of one agent in it, the oldest first."""
        parameters = {"session": session, "agent": agent or "", "all_agents": int(agent is None)}
        return [held_of(row) for row in self._engine.read(SQL.held_in_session, parameters)]

    def cycles(self, key: str) -> list[tuple[Work, int | None]]:
        """Return all cycles of an item, the oldest first, each with the time of its result."""
        return [(work_of(row[:-1]), row[-1]) for row in self._engine.read(SQL.cycles, {"key": key})]

    def attempts(self, key: str) -> list[Attempt]:
        """Return all attempts at an item, over all its cycles, the oldest first."""
        return [attempt_of(row) for row in self._engine.read(SQL.attempts, {"key": key})]

    def loss(self, attempt: int) -> Loss | None:
        """Return how an attempt was lost; None if it is open, or ended by its own worker."""
        rows = self._engine.read(SQL.fate, {"attempt": attempt})
        return loss_of(rows[0]) if rows and rows[0][1] == "revoked" else None
