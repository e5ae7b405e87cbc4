"""The store of a project, or of a batch folder of its own: every noun over one engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .claims import Claims
from .shared import connect, store_url
from .sqlite import FILE, SqliteEngine

# The others are imported by the property that needs them: a command uses few of them.
if TYPE_CHECKING:
    from .base import Engine
    from .batches import Batches
    from .directories import LockDirectories, ResultFiles
    from .events import Events
    from .hive import Findings
    from .lessons import LessonTable
    from .liveness import Rescuer
    from .merges import Merges
    from .notices import NoticeQueue
    from .progress import BatchProgress
    from .questions import Questions
    from .receipts import Receipts
    from .records import Claim, Work
    from .review import Review
    from .sessions import Sessions
    from .spend import Account, Spending
    from .tails import LogTails


class Store:
    """All state of one project.

    Args:
        engine: The database.
        folder: The state folder (``.hypervisor``), or the folder of a batch of its own.
        settings: The settings; those of ``claims`` are used.
    """

    def __init__(self, engine: Engine, folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.engine = engine
        self.folder = os.path.abspath(folder)
        self.settings = settings

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str], settings: Mapping[str, Any], *, create: bool = True
    ) -> Store:
        """Open the store of the project whose state folder is *folder*: on a server if it has joined one.

        Raises:
            FileNotFoundError: There is none, and *create* is False.
            StoreUnusable: It cannot be used here.
            OSError: The disk, or the server, said no.
        """
        if url := store_url(folder, settings):
            return cls(connect(folder, settings, url), folder, settings)
        return cls.local(folder, settings, create=create)

    @classmethod
    def local(
        cls, folder: str | os.PathLike[str], settings: Mapping[str, Any], *, create: bool = True
    ) -> Store:
        """Open the SQLite store in *folder*, not a project's: a queue's own, or one to throw away."""
        return cls(SqliteEngine(Path(folder, FILE), create=create), folder, settings)

    @property
    def shared(self) -> bool:
        """Whether other machines may use the store too."""
        return self.engine.dialect != "sqlite"

    @property
    def workers(self) -> str:
        """The folder of the locks of worker processes."""
        return os.path.join(self.folder, "workers")

    @cached_property
    def claims(self) -> Claims:
        """Claims, attempts and results."""
        claims = self.settings["claims"]
        return Claims(self.engine, attempts=claims["attempts"], lease_seconds=claims["lease_seconds"])

    @cached_property
    def batches(self) -> Batches:
        """Batches and their items."""
        from .batches import Batches

        return Batches(self.engine)

    @cached_property
    def events(self) -> Events:
        """What happened."""
        from .events import Events

        return Events(self.engine)

    @cached_property
    def progress(self) -> BatchProgress:
        """How far batches are, item by item."""
        from .progress import BatchProgress

        return BatchProgress(self.engine)

    @cached_property
    def merges(self) -> Merges:
        """Which commits runs put on branches."""
        from .merges import Merges

        return Merges(self.engine)

    @cached_property
    def questions(self) -> Questions:
        """Questions of agents to people, and their answers."""
        from .questions import Questions

        return Questions(self.engine, self.claims)

    def spending(self, account: Account, project_seconds: float, zone: Callable[[], str] = str) -> Spending:
        """Return what is spent, as the run of *account* sees it; *zone* names its machine's zone."""
        from .spend import Spending

        return Spending(self.engine, account, project_seconds, zone)

    @cached_property
    def findings(self) -> Findings:
        """What agents share, by branch."""
        from .hive import Findings

        return Findings(self.engine)

    @cached_property
    def lessons(self) -> LessonTable:
        """What is said and measured of task types."""
        from .lessons import LessonTable

        return LessonTable(self.engine)

    @cached_property
    def tails(self) -> LogTails:
        """The ends of logs, for other machines."""
        from .tails import LogTails

        return LogTails(self.engine)

    @cached_property
    def review(self) -> Review:
        """Chunked batches: plans, waves, decisions, notes; and bulk actions that wait for an approval."""
        from .review import Review

        return Review(self.engine)

    @cached_property
    def receipts(self) -> Receipts:
        """The receipts of tasks."""
        from .receipts import Receipts

        return Receipts(self.engine)

    @cached_property
    def sessions(self) -> Sessions:
        """Sessions of clients, and their agents."""
        from .sessions import Sessions

        return Sessions(self.engine, self.claims, self.settings["claims"]["lease_seconds"])

    def notices(self, session: str) -> NoticeQueue:
        """Return what a session was told, and what not yet."""
        from .notices import NoticeQueue

        return NoticeQueue(self.engine, session)

    @cached_property
    def rescuer(self) -> Rescuer:
        """Takes over what dead and silent workers held."""
        from ..core.process import this_process
        from .liveness import LivenessChecker, Rescuer

        checker = LivenessChecker(self.workers, this_process(), not self.shared)
        return Rescuer(self.claims, checker)

    @cached_property
    def locks(self) -> LockDirectories:
        """Lock directories, where the folder has them."""
        from .directories import LockDirectories

        return LockDirectories(self.folder)

    @cached_property
    def result_files(self) -> ResultFiles:
        """Result files, where the folder has them."""
        from .directories import ResultFiles

        return ResultFiles(self.folder)

    def write_result_files(self, works: Iterable[Work]) -> None:
        """Write results to the folders ``results`` that there are: the store's, and of the items' batches."""
        from .directories import ResultFiles

        results = {work.id: work for work in works if work.result is not None}
        if not results:
            return
        targets = {self.folder: set(results)}
        for folder, ids in self.batches.folders_of(results).items():
            if folder:  # else it is the store's own
                targets[os.path.normpath(os.path.join(os.path.dirname(self.folder), folder))] = ids
        for folder, ids in targets.items():
            files = ResultFiles(folder)
            if files.used:
                files.write({results[one].key: results[one].result or {} for one in ids})

    def take_lock(self, claim: Claim) -> str:
        """Make the lock directory of a claim that names one; return who holds it instead, "" for nobody."""
        if not claim.lock:
            return ""
        earlier = self.claims.locks_of_work(claim.work)
        return self.locks.take(claim.lock, {name for id_, name in earlier.items() if id_ != claim.attempt})

    def drop_lock(self, work: int, attempt: int, name: str) -> None:
        """Remove the lock directory of an attempt that has ended, unless a later one has taken it over."""
        if not name:
            return
        recorded = [id_ for id_, one in self.claims.locks_of_work(work).items() if one == name]
        if recorded and max(recorded) == attempt:
            self.locks.drop(name)
            # Only now: whatever bears the name from here on is another's.
            self.claims.forget_locks(recorded)

    def violations(self) -> list[str]:
        """Return what contradicts the invariants of claims; empty for a sound store. Reads everything."""
        from .check import violations

        return violations(self.engine)

    def close(self) -> None:
        """Close the database."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
