"""Running a batch chunk by chunk: the workers of a wave claim its chunks, and nothing starts undecided."""

from __future__ import annotations

import os
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..core import clock
from ..core.errors import ClaimLost, Refused
from ..core.keys import attempt_name
from ..core.machine import WORKER_MARK, this_process
from ..core.model import Outcome, Report
from ..queue.counts import ItemEvent
from ..queue.heartbeat import Heartbeat
from ..queue.stop import Stop
from ..runners.exec import ExecRunner
from ..runners.port import Work
from ..store.liveness import WorkerLock, new_worker_id
from ..store.records import Claim, Completion, Decided, Worker, WorkerKind
from ..store.review_records import Wave
from .approvals import begin_dry_run, require_shown
from .notes import write_note_files
from .plan import ChunkedBatch
from .waves import Mode, WaveState, criteria_of, state_of

#: The `hypervisor` command, for workers that note with it and do not have it on their PATH.
_BIN = Path(__file__).resolve().parents[3] / "bin"
#: How often chunks that another process holds are looked at again.
_POLL_SECONDS = 0.2
#: How often a chunk is claimed again that another program's lock directory holds.
_FOREIGN_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRunOptions:
    """What the user asked of `chunk run`; kept, so that the next one does the same."""

    #: As at a shell.
    command: str
    jobs: int = 1
    mode: str = Mode.EACH.value
    #: Those of the first wave; see `criteria_of`.
    criteria: str = ""
    timeout: float | None = None
    retries: int | None = None

    def keep(self, made: ChunkedBatch) -> None:
        """Store them."""
        made.review.set_run(made.number, asdict(self))

    @classmethod
    def of(cls, made: ChunkedBatch) -> ChunkRunOptions | None:
        """Return those that were stored; None if there are none."""
        kept = made.review.plan(made.number)
        return cls(**kept.run) if kept is not None and kept.run is not None else None


def judged(report: Report, noted: int, items: int) -> Report:
    """Return what a chunk came to. Pure.

    A command that notes some items and passes over others has not done its work, whatever it says.
    """
    evidence = {**report.evidence, "items": items, "noted": noted}
    if report.status is Outcome.SUCCESS and 0 < noted < items:
        outcome = f"noted {noted} of {items} items, and says: {report.outcome}"
        return replace(report, status=Outcome.FAILED, outcome=outcome, evidence=evidence)
    return replace(report, evidence=evidence)


def advance(made: ChunkedBatch, options: ChunkRunOptions) -> WaveState:
    """Begin the next wave if one may begin.

    Returns:
        What may happen then: never ``next``.

    Raises:
        Refused: The plan was edited into what cannot run, or another began the wave this moment.
    """
    plan = made.take_in()
    begin_dry_run(made, plan)
    at = state_of(made, plan)
    if at.what != "next":
        return at
    waves = made.review.waves(made.number)
    first = not any(wave.chunks for wave in waves)
    few = options.mode == Mode.EACH or (options.mode == Mode.FIRST and first)
    chunks = at.chunks[: options.jobs] if few else at.chunks
    require_shown(made, plan, chunks)
    begun = made.review.begin_wave(
        made.number,
        len(waves) + 1,
        plan.items_of(chunks),
        criteria_of(waves, options.criteria),
        checkpoint=few,
    )
    if not begun:
        raise Refused(f"wave {len(waves) + 1} was begun by another this moment; start again")
    return state_of(made, plan)


class WaveRun:
    """Runs the command for each chunk that a wave has left, with several workers at once.

    Args:
        made: The batch.
        wave: The wave, the last one.
        options: See `ChunkRunOptions`.
        tell: Called with each event, from any thread.
        stop: How to end it.
    """

    def __init__(
        self,
        made: ChunkedBatch,
        wave: Wave,
        options: ChunkRunOptions,
        tell: Callable[[ItemEvent], None],
        stop: Stop,
    ) -> None:
        self._made, self._wave, self._options = made, wave, options
        self._tell, self._stop = tell, stop
        self._plan = made.plan()
        self._store = made.batch.store
        self._runner = ExecRunner(
            command=shlex.split(options.command),
            timeout=options.timeout,
            retry_failures=bool(options.retries),
        )
        self._drain_at = made.batch.refresh().drain_at
        self._lock = threading.Lock()
        self._left = list(wave.chunks)
        #: The chunks that this run's workers have in hand, and how to end their commands.
        self._in_hand: dict[str, threading.Event] = {}
        #: Chunks that another program's lock directory holds, and when they are looked at again.
        self._foreign: dict[str, float] = {}
        beat_seconds = self._store.settings["claims"]["beat_seconds"]
        self._heartbeat = Heartbeat(self._store.claims, beat_seconds, self._end_now)
        self._errors: list[BaseException] = []

    def run(self) -> None:
        """Run until each chunk of the wave has a result, or somebody stops it."""
        workers = [
            threading.Thread(target=self._work, daemon=True, name=f"chunk-worker-{number}")
            for number in range(min(self._options.jobs, len(self._left)))
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self._heartbeat.close()
        if self._errors:
            raise self._errors[0]

    # ---------------------------------------------------------------- threads

    def _work(self) -> None:
        """Be one worker."""
        worker = Worker(
            id=new_worker_id("chunk-worker", os.getpid()), kind=WorkerKind.PROCESS, name="chunk-worker",
            process=this_process(),
        )  # fmt: skip
        try:
            lock = WorkerLock(self._store.workers, worker.id)
            try:
                while (claim := self._next(worker)) is not None:
                    self._process(claim, worker, lock.descriptor)
            finally:
                lock.close()
        except BaseException as error:  # noqa: BLE001 - raised again by `run`
            self._errors.append(error)
            self._stop.soon.set()

    def _end_now(self) -> float:
        """End the commands in hand if they must end now."""
        if self._stop.now.is_set():
            with self._lock:
                for stopped in self._in_hand.values():
                    stopped.set()
        return _POLL_SECONDS

    # ----------------------------------------------------------------- chunks

    def _next(self, worker: Worker) -> Claim | None:
        """Claim a chunk of the wave that has no result; None once there is none left, or the run ends."""
        while not self._ended():
            self._store.rescuer.rescue_now_and_then()
            with self._lock:
                for name in [name for name in self._left if name not in self._in_hand]:
                    if time.monotonic() < self._foreign.get(name, 0.0):
                        continue
                    key = self._made.batch.ref(name).key
                    lock = key if self._store.locks.used else ""
                    answer = self._store.claims.claim(worker, key, name, batch=self._made.number, lock=lock)
                    if isinstance(answer, Decided):
                        self._left.remove(name)
                    elif isinstance(answer, Claim) and self._is_mine(answer):
                        return answer
                if not self._left:
                    return None
            self._stop.soon.wait(_POLL_SECONDS)
        return None

    def _is_mine(self, claim: Claim) -> bool:
        """Take a claim in hand; give it back if another program's lock directory holds the chunk."""
        if holder := self._store.take_lock(claim):
            if claim.text not in self._foreign:
                self._say(claim, "again", holder, 0.0)
            self._foreign[claim.text] = time.monotonic() + _FOREIGN_SECONDS
            self._store.claims.release(claim, holder)
            return False
        self._in_hand[claim.text] = threading.Event()
        self._heartbeat.hold({claim.attempt: self._in_hand[claim.text]})
        return True

    def _ended(self) -> bool:
        """Return whether nothing more may begin: asked before each chunk."""
        if self._stop.soon.is_set():
            return True
        last = self._made.review.waves(self._made.number)[-1]
        stopped = last.decided is not None and last.decided.verdict == "stop"
        return (
            stopped
            or last.number != self._wave.number
            or self._made.batch.refresh().drain_at != self._drain_at
        )

    def _process(self, claim: Claim, worker: Worker, descriptor: int) -> None:
        begun, started = time.monotonic(), clock.now_text()
        stopped = self._in_hand[claim.text]
        claims = self._store.claims
        report: Report | None = None
        try:
            report = self._run(claim, worker, descriptor, stopped)
            seconds = round(time.monotonic() - begun, 3)
            if self._stop.now.is_set():
                claims.release(claim, "stopped by the user")
                self._say(claim, "again", "stopped by the user", seconds)
            elif report.retry:
                limit = None if self._options.retries is None else self._options.retries + 1
                gave_up = claims.fail(claim, report.outcome, limit=limit)
                kind, text = (
                    ("failed", str(gave_up.result["outcome"])) if gave_up else ("again", report.outcome)
                )
                self._say(claim, kind, text, seconds)
            else:
                result = {
                    "item": claim.text, "status": report.status.value, "outcome": report.outcome,
                    "evidence": dict(report.evidence), "runner": "chunk", "batch": self._made.batch.id,
                    "worker": worker.id, "attempt": claim.number, "started": started,
                    "finished": clock.now_text(), "seconds": seconds,
                }  # fmt: skip
                self._complete(claim, result)
                self._say(claim, report.status.value, report.outcome, seconds)
        except ClaimLost as lost:
            self._say(claim, "lost", str(lost), time.monotonic() - begun)
        finally:
            self._heartbeat.drop([claim.attempt])
            self._store.drop_lock(claim.attempt, claim.lock)
            with self._lock:
                del self._in_hand[claim.text]

    def _complete(self, claim: Claim, result: dict[str, Any]) -> None:
        files = self._store.result_files
        self._store.claims.complete_one(
            Completion(
                attempt=claim.attempt, status=result["status"], result=result, published=not files.used,
                log=self._log(claim),
            )
        )  # fmt: skip
        if files.used:
            files.write({claim.key: result})
            self._store.claims.set_published([claim.work])

    def _run(self, claim: Claim, worker: Worker, descriptor: int, stopped: threading.Event) -> Report:
        """Run the command for one chunk, and look at whether what it noted is whole."""
        made, chunk = self._made, self._plan.chunk(claim.text)
        made.write_chunk(chunk.id)
        write_note_files(made, chunk.id)
        criteria = made.write_criteria(self._wave)
        begun = made.review.begun(made.number)[chunk.id]
        environment = {
            WORKER_MARK: worker.id,
            "HYPERVISOR_ITEM": chunk.id,
            "HYPERVISOR_BATCH": made.batch.id,
            "HYPERVISOR_ATTEMPT": str(claim.number),
            "HYPERVISOR_ROOT": self._plan.base,
            "HYPERVISOR_CHUNK": str(made.path(chunk.id)),
            "HYPERVISOR_CHUNK_ID": chunk.id,
            "HYPERVISOR_CHUNK_LABEL": chunk.label,
            "HYPERVISOR_CHUNK_REVISION": str(begun.revision),
            "HYPERVISOR_CRITERIA": self._wave.criteria,
            "HYPERVISOR_CRITERIA_FILE": str(criteria),
            "PATH": f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{_BIN}",
        }
        if self._plan.task:
            environment["HYPERVISOR_TASK_ID"] = self._plan.task
        os.makedirs(made.batch.logs, exist_ok=True)
        work = Work(
            item=str(made.path(chunk.id)), path=str(made.path(chunk.id)), base=self._plan.base,
            log=self._log(claim), environment=environment, inherit=(descriptor,), stopped=stopped,
        )  # fmt: skip
        try:
            report = self._runner.run(work)
        except Exception as error:  # noqa: BLE001 - one chunk's fault must not end the worker
            report = Report(status=Outcome.FAILED, outcome=f"{type(error).__name__}: {error}")
        write_note_files(made, chunk.id)
        return judged(report, len(made.review.notes(made.number, chunk.id)), len(begun.items))

    def _log(self, claim: Claim) -> str:
        return os.path.join(self._made.batch.logs, attempt_name(claim.key, claim.number))

    def _say(self, claim: Claim, kind: str, text: str, seconds: float) -> None:
        self._tell(ItemEvent(item=claim.text, kind=kind, text=text, seconds=seconds))
