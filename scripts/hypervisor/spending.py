"""What is spent in a project: one small file for each run, replaced as it goes on.

A run knows its own figures and adds those of others, so that budgets of a session and a project hold over
runs that go on at once, and over runs that an agent starts within a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .core import durable
from .monitor.budget import Spend

#: In a project's state folder.
FOLDER = "spending"
#: Files that nobody wrote to for so many seconds are forgotten.
_OLD_SECONDS = 40 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who spends."""

    batch: str
    #: The id of the run's coordinator: a batch that is gone on with has one account for each run.
    run: str
    #: The session that it was started from; "" for none.
    session: str = ""
    #: Batches within whose agents this one runs.
    within: tuple[str, ...] = ()


#: A run that goes on tells of itself at least so often, in seconds.
_FRESH_SECONDS = 10.0


class Spending:
    """The accounts of a project, seen from one run.

    Args:
        state: The project's state folder.
        account: Who this run is.
        project_seconds: How far back the project's spending counts.
    """

    def __init__(self, state: Path, account: Account, project_seconds: float) -> None:
        self._folder, self._account, self._project_seconds = state / FOLDER, account, project_seconds
        self._own = f"{account.batch}~{account.run}.json"
        self._told: tuple[Spend, int] | None = None
        #: By file name: when it was written, and what it says.
        self._read: dict[str, tuple[int, Mapping[str, Any]]] = {}

    def tell(self, spend: Spend, at_work: int) -> None:
        """Note what this run has spent so far, and how many agents it has at work.

        A disk that is full costs the note, and no agent's work.
        """
        if (spend, at_work) == self._told:
            return
        account = self._account
        record = {
            "batch": account.batch, "session": account.session, "within": list(account.within),
            "at_work": at_work, **asdict(spend),
        }  # fmt: skip
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.replace(self._folder / self._own, json.dumps(record).encode())
            self._told = (spend, at_work)

    def others(self) -> dict[str, Spend]:
        """Return by scope what other runs have spent."""
        account, now = self._account, time.time()
        found = {"batch": Spend(), "session": Spend(), "project": Spend()}
        for written, record in self._records(now):
            spend = _spend_of(record)
            within = record.get("within")
            batches = [record.get("batch"), *(within if isinstance(within, list) else ())]
            if account.batch in batches:
                found["batch"] += spend
            if account.session and record.get("session") == account.session:
                found["session"] += spend
            if now - written < self._project_seconds:
                found["project"] += spend
        return found

    def at_work_of_session(self) -> int:
        """Return how many agents other runs of this run's session have at work."""
        now, session = time.time(), self._account.session
        if not session:
            return 0
        return sum(
            int(_number(record, "at_work"))
            for written, record in self._records(now)
            if record.get("session") == session and now - written < _FRESH_SECONDS
        )

    # ---------------------------------------------------------------- details

    def _records(self, now: float) -> Iterator[tuple[float, Mapping[str, Any]]]:
        try:
            entries = list(os.scandir(self._folder))
        except OSError:
            return
        for entry in entries:
            if entry.name == self._own or entry.name.startswith("."):
                continue
            with contextlib.suppress(OSError, ValueError):
                written = entry.stat().st_mtime_ns
                if now - written / 1e9 > _OLD_SECONDS:
                    os.unlink(entry.path)
                    continue
                known = self._read.get(entry.name)
                if known is None or known[0] != written:
                    record = json.loads(Path(entry.path).read_bytes())
                    known = (written, record if isinstance(record, dict) else {})
                    self._read[entry.name] = known
                yield written / 1e9, known[1]


def _number(record: Mapping[str, Any], key: str) -> float:
    value = record.get(key)
    return value if isinstance(value, int | float) and value > 0 else 0.0


def _spend_of(record: Mapping[str, Any]) -> Spend:
    return Spend(
        tokens=int(_number(record, "tokens")), usd=_number(record, "usd"),
        seconds=_number(record, "seconds"), attempts=int(_number(record, "attempts")),
    )  # fmt: skip
