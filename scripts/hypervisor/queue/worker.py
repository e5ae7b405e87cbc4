"""One worker: claims items of a batch, has them processed, and has their results accepted.

It claims several at once where they take little time, one where they take long. It needs to know nothing of
the queue: what is ready is a query, and more lines of the queue file are taken in when nothing is.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ..core.errors import ClaimLost, Loss, Refused
from ..core.model import Outcome, Report
from ..core.process import this_process
from ..core.text import now_text
from ..runners.base import ItemWork, Runner
from ..store.directories import ResultFiles
from ..store.liveness import WorkerLock, new_worker_id
from ..store.records import Claim, Completion, Worker, WorkerKind
from ..store.records import Work as WorkRow
from .batch import Batch, ItemRef
from .block import LARGEST, LONG_SECONDS, ClaimBlock, Ended
from .counts import ItemEvent, RunCounts
from .heartbeat import Heartbeat
from .locks import BatchLocks
from .source import TakenIn
from .stop import Stop
from .workitem import keep_ends, printed, result_of, work_of

T = TypeVar("T")

#: How often the claims of dead workers are looked for.
_RESCUE_SECONDS = 0.5
#: How long an item that somebody else's lock directory holds is left alone.
_FOREIGN_SECONDS = 2.0
#: How long a full disk is waited for before the worker gives up, in seconds.
_DISK_PATIENCE = 600.0
#: And once the worker was asked to end.
_DISK_GRACE = 2.0
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What the user asked of a worker."""

    #: Whether to wait for items that others hold, so that the queue is finished at the end.
    wait: bool = True
    #: Asked how many of so many items may be begun; 0 ends the work. For ``--batch N`` over several workers.
    may_begin: Callable[[int], int] = lambda count: count
    #: The most items that are claimed at once.
    block: int = LARGEST
    beat_seconds: float = 30.0
    #: How often items that others hold are looked at again, where the store does not tell of a change.
    poll_seconds: float = 0.2


class QueueWorker:
    """Works on one batch.

    Args:
        batch: The batch.
        runner: How items are processed.
        name: What people call the worker.
        options: See `WorkerOptions`.
        tell: Called with each event, by one thread at a time.
        stop: How to end it.
    """

    def __init__(
        self,
        batch: Batch,
        runner: Runner,
        *,
        options: WorkerOptions,
        tell: Callable[[ItemEvent], None],
        stop: Stop,
        name: str = "batch-worker",
    ) -> None:
        self.worker = Worker(
            id=new_worker_id("worker", os.getpid()),
            kind=WorkerKind.PROCESS,
            name=name,
            process=this_process(),
        )
        self.counts = RunCounts()
        self._batch, self._runner, self._options, self._stop = batch, runner, options, stop
        self._store, self._claims = batch.store, batch.store.claims
        self._tell_user = tell
        self._telling = threading.Lock()
        self._block = ClaimBlock(self._give_back, self._accept)
        idle = (lambda: self._claims.add_worker(self.worker)) if self._store.shared else None
        self._heart = Heartbeat(self._claims, options.beat_seconds, self._block.tick, idle=idle)
        self._locks = BatchLocks(batch)
        self._results = [ResultFiles(folder) for folder in {batch.folder, self._store.folder}]
        #: Set for each claim when it is lost.
        self._lost: dict[int, threading.Event] = {}
        #: Items that may be begun and are not claimed yet.
        self._credit = 0
        self._size = 1
        #: Seconds an item, lately; None before the first has ended.
        self._pace: float | None = None
        self._drained_before: int | None = None
        self._rescue_at = 0.0

    def run(self) -> RunCounts:
        """Work until nothing is left to do; return what was done."""
        self._lock = self._patiently(lambda: WorkerLock(self._store.workers, self.worker.id))
        try:
            self._patiently(lambda: self._lock.note(0))
            self._patiently(lambda: self._claims.add_worker(self.worker))
            self._drained_before = self._batch.refresh().drain_at
            self._patiently(self._settle)
            while not self._ended():
                self._rescue()
                claims = self._patiently(self._claim)
                if claims:
                    self._work(claims)
                elif not self._more():
                    break
            self._patiently(self._settle)
        finally:
            self._heart.close()
            self._lock.close()
        return self.counts

    # ------------------------------------------------------------------ claim

    def _claim(self) -> list[Claim]:
        wanted = self._wanted()
        if self._credit < wanted:
            self._credit += self._options.may_begin(wanted - self._credit)
        if not self._credit:
            self._stop.soon.set()
            return []
        asked = min(wanted, self._credit)
        claims = self._claims.claim_next(self.worker, self._batch.number, asked, locks=self._locks.used())
        self._size = max(1, len(claims))
        taken, foreign = self._locks.take(claims)
        if foreign:
            self._claims.unclaim([claim for claim, _ in foreign], delay=_FOREIGN_SECONDS)
            for claim, held in foreign:
                if self._locks.news(claim, held):
                    self._say(self._batch.ref_by(claim.key, claim.text).item, "trouble", held)
        self._credit -= len(taken)
        return taken

    def _wanted(self) -> int:
        """Return how many items to claim: few enough that none waits long, or could go to an idle worker."""
        if self._pace is None or self._pace > LONG_SECONDS:
            return 1
        wanted = min(2 * self._size, self._options.block, int(LONG_SECONDS / max(self._pace, 1e-4)))
        if wanted < 2:
            return 1
        for _ in range(2):
            ready, workers = self._store.batches.room(self._batch.number, 16 * wanted)
            if ready >= 16 * wanted:
                return wanted
            if self._batch.take_in(limit=16 * wanted) is TakenIn.NOTHING:
                break
        return max(1, min(wanted, ready // (max(workers, 1) + 1)))

    def _more(self) -> bool:
        """Return whether there may be more to claim, after waiting for it if that may take a while."""
        done = self._patiently(self._batch.take_in_some)
        if done is not TakenIn.NOTHING:
            if done is TakenIn.BUSY:
                self._stop.soon.wait(0.01)
            return not self._ended()
        if self._ended():
            return False
        batches, batch, foreign = self._store.batches, self._batch.number, self._locks.foreign
        if batches.ready_in(batch) == 0.0:  # another took lines in, or gave items back, since we asked
            return True
        ready, _ = batches.room(batch, len(foreign) + 1)
        if self._options.wait and (ready > len(foreign) or batches.any_running(batch)):
            self._wait()
            return True
        running = [one.text for one in batches.running(batch)]
        self.counts.left = sorted({*running, *foreign.values()})
        return False

    def _wait(self) -> None:
        """Wait until the store has changed, or for a moment."""
        before, until = self._store.engine.version(), time.monotonic() + self._options.poll_seconds
        while time.monotonic() < until and not self._stop.soon.wait(0.01):
            if self._store.engine.version() != before:
                break

    # ------------------------------------------------------------------- work

    def _work(self, claims: Sequence[Claim]) -> None:
        """Process claims, one after the other; what is not begun when the worker is to end is given back."""
        lost = {claim.attempt: threading.Event() for claim in claims}
        self._lost |= lost
        self._block.fill(claims)
        self._heart.hold(lost)
        try:
            while not self._ended() and (claim := self._block.next()) is not None:
                self._process(claim, lost[claim.attempt])
                if self._block.fault is not None:
                    raise self._block.fault
        finally:
            self._block.empty()
            self._block.flush()
            self._lock.note(0)

    def _process(self, claim: Claim, lost: threading.Event) -> None:
        ref = self._batch.ref_by(claim.key, claim.text)
        if lost.is_set():
            self._drop(claim)
            self._say(ref.item, "lost", f"{claim.text}: taken by another worker before it was begun")
            return
        self._lock.note(claim.attempt)
        begun, started = time.monotonic(), now_text()
        work = work_of(self._batch, ref, claim, (self._lock.descriptor,), lost)
        self._stop.in_hand = lost
        if ref.task and claim.number > 1:
            self._restore(claim)
        report = self._patiently(lambda: self._run(work))
        seconds = time.monotonic() - begun
        self._pace = seconds if self._pace is None else 0.7 * self._pace + 0.3 * seconds
        try:
            if self._stop.now.is_set():
                self._claims.release(claim, "stopped by the user")
                self._after(claim)
                self._say(ref.item, "again", "stopped by the user", seconds)
            elif report.retry:
                self._fail(claim, ref, report, seconds)
            else:
                self._block.add(self._ended_as(claim, ref, work, report, started, seconds))
        except ClaimLost as error:
            self._after(claim)
            self._say(ref.item, "lost", str(error), seconds)

    def _run(self, work: ItemWork) -> Report:
        try:
            return self._runner.run(work)
        except OSError as error:
            if error.errno in _DISK_ERRORS:
                raise
            return Report(status=Outcome.FAILED, outcome=f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - one item's fault must not end the worker
            return Report(
                status=Outcome.FAILED, outcome=f"{self._runner.name}: {type(error).__name__}: {error}"
            )

    # -------------------------------------------------------------------- end

    def _ended_as(
        self, claim: Claim, ref: ItemRef, work: ItemWork, report: Report, started: str, seconds: float
    ) -> Ended:
        result = {
            **result_of(ref, report),
            "runner": self._runner.name, "batch": self._batch.id, "worker": self.worker.id,
            "attempt": claim.number, "started": started, "finished": now_text(),
            "seconds": round(seconds, 3),
        }  # fmt: skip
        published = not report.edit and not any(folder.used for folder in self._results)
        completion = Completion(
            attempt=claim.attempt, status=report.status.value, result=result, published=published,
            log=printed(self._batch, work),
        )  # fmt: skip
        return Ended(claim=claim, ref=ref, completion=completion, text=report.outcome, seconds=seconds)

    def _accept(self, ended: Sequence[Ended]) -> None:
        """Have results accepted and published, all together."""
        keep_ends(self._batch, [one.claim for one in ended])
        answers = self._patiently(lambda: self._claims.complete([one.completion for one in ended]))
        unpublished = [
            _row(one.claim, one.completion)
            for one, answer in zip(ended, answers, strict=True)
            if not isinstance(answer, Loss) and not one.completion.published
        ]
        self._publish(unpublished)
        self._after(*[one.claim for one in ended])
        for one, answer in zip(ended, answers, strict=True):
            if isinstance(answer, Loss):
                self._say(one.ref.item, "lost", str(ClaimLost(answer)), one.seconds)
            else:
                self._say(one.ref.item, one.completion.status, one.text, one.seconds)

    def _fail(self, claim: Claim, ref: ItemRef, report: Report, seconds: float) -> None:
        keep_ends(self._batch, [claim])
        gave_up = self._patiently(lambda: self._claims.fail(claim, report.outcome))
        self._after(claim)
        if gave_up is None:
            self._say(ref.item, "again", report.outcome, seconds)
            return
        self._publish([replace(self._claims.work(claim.work), published=False)])
        self._say(ref.item, "failed", str(gave_up.result["outcome"]), seconds)

    def _publish(self, works: Sequence[WorkRow]) -> None:
        if not works:
            return
        from ..tasks.publication import publish  # noqa: PLC0415 - only where a file is to be written

        try:
            self._patiently(lambda: publish(self._store, works))
        except Refused as error:  # another process keeps the file locked: whoever comes next writes it
            self._say("", "trouble", str(error))

    def _give_back(self, claims: Sequence[Claim]) -> None:
        """Give back what was not begun, at no cost."""
        self._locks.drop(claims)
        self._patiently(lambda: self._claims.unclaim(claims))
        self._credit += len(claims)
        self._drop(*claims)

    def _after(self, *claims: Claim) -> None:
        """Remove what shows that the items are claimed."""
        self._locks.drop(claims)
        self._drop(*claims)

    def _drop(self, *claims: Claim) -> None:
        self._heart.drop([claim.attempt for claim in claims])
        for claim in claims:
            self._lost.pop(claim.attempt, None)

    # ----------------------------------------------------------------- rescue

    def _rescue(self) -> None:
        """Take over what dead and silent workers hold, about twice a second."""
        begun = time.monotonic()
        if begun >= self._rescue_at:
            self._patiently(self._settle)
            # The more there is to look at, the less often: it costs a twentieth of the time.
            took = time.monotonic() - begun
            self._rescue_at = begun + max(_RESCUE_SECONDS, 20 * took)

    def _settle(self) -> None:
        revoked = self._store.rescuer.rescue()
        self._locks.drop_revoked(revoked)
        if revoked or self._batch.project is not None or any(folder.used for folder in self._results):
            from ..tasks.publication import settle  # noqa: PLC0415 - only where a file may be written

            try:
                settle(self._store)
            except Refused as error:
                self._say("", "trouble", str(error))
        for one in revoked:
            if one.gave_up and self._store.batches.holds(self._batch.number, one.work):
                outcome = (self._claims.work(one.work).result or {}).get("outcome", one.why)
                self._say(one.text, "failed", str(outcome))

    def _restore(self, claim: Claim) -> None:
        """Take back what an agent's claim wrote into the task file, which ended without a result."""
        if self._claims.unrestored(claim.work):
            from ..tasks.publication import restore_held  # noqa: PLC0415 - the YAML loader

            self._patiently(lambda: restore_held(self._store, claim))

    # ---------------------------------------------------------------- details

    def _ended(self) -> bool:
        # Asked each time: after `hypervisor drain` has answered, nothing more may begin.
        if self._store.batches.get(self._batch.number).drain_at != self._drained_before:
            self._stop.soon.set()
        return self._stop.soon.is_set()

    def _say(self, item: str, kind: str, text: str, seconds: float = 0.0) -> None:
        event = ItemEvent(item=item, kind=kind, text=text, seconds=seconds)
        with self._telling:
            self.counts.count(event)
            self._tell_user(event)

    def _patiently(self, act: Callable[[], T]) -> T:
        """Do *act*; where the disk is full, wait for room, as nothing is lost by waiting.

        A worker that is asked to end does not wait any more: what it cannot write down is done again.
        """
        deadline = time.monotonic() + _DISK_PATIENCE
        told = asked = False
        while True:
            try:
                return act()
            except OSError as error:
                full = error.errno in _DISK_ERRORS
                if full and self._stop.soon.is_set() and not asked:
                    asked, deadline = True, min(deadline, time.monotonic() + _DISK_GRACE)
                if not full or time.monotonic() > deadline or self._stop.now.is_set():
                    raise
                if not told:
                    told = True
                    self._say("", "trouble", f"{error}; waiting for room")
                self._stop.now.wait(0.2)


def _row(claim: Claim, completion: Completion) -> WorkRow:
    return WorkRow(
        id=claim.work, key=claim.key, cycle=claim.cycle, text=claim.text, state=completion.status, attempts=0,
        last_number=claim.number, result=completion.result, published=False,
    )  # fmt: skip
