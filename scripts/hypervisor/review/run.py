"""Running a batch chunk by chunk: the workers of a wave claim its chunks, and nothing starts undecided."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..core.errors import Refused
from ..core.model import Outcome, Report
from ..queue.batch import Batch
from ..queue.counts import ItemEvent
from ..queue.stop import Stop
from ..queue.worker import QueueWorker, WorkerOptions
from ..runners.base import ItemWork
from ..runners.exec import ExecRunner
from ..store.records import Claim, Decided
from ..store.review_records import Wave
from .approvals import begin_dry_run, require_shown
from .notes import write_note_files
from .plan import ChunkedBatch, ChunkPlan
from .waves import CheckpointMode, WaveState, criteria_of, state_of

#: The `hypervisor` command, for workers that note with it and do not have it on their PATH.
_BIN = Path(__file__).resolve().parents[3] / "bin"
#: How soon a run's workers are told that it is to end.
_STOP_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRunOptions:
    """What the user asked of `chunk run`; kept, so that the next one does the same."""

    #: As at a shell.
    command: str
    jobs: int = 1
    mode: str = CheckpointMode.EACH.value
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
    few = options.mode == CheckpointMode.EACH or (options.mode == CheckpointMode.FIRST and first)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRunner:
    """Runs the command for a chunk, and looks at whether what it noted is whole."""

    made: ChunkedBatch
    plan: ChunkPlan
    wave: Wave
    command: ExecRunner
    name: str = "chunk"

    def run(self, work: ItemWork) -> Report:
        """Run the command for one chunk."""
        made, chunk = self.made, self.plan.chunk(work.item)
        made.write_chunk(chunk.id)
        write_note_files(made, chunk.id)
        begun, path = made.review.begun(made.number)[chunk.id], str(made.path(chunk.id))
        environment = {
            **work.environment,
            "HYPERVISOR_ROOT": self.plan.base,
            "HYPERVISOR_CHUNK": path,
            "HYPERVISOR_CHUNK_ID": chunk.id,
            "HYPERVISOR_CHUNK_LABEL": chunk.label,
            "HYPERVISOR_CHUNK_REVISION": str(begun.revision),
            "HYPERVISOR_CRITERIA": self.wave.criteria,
            "HYPERVISOR_CRITERIA_FILE": str(made.write_criteria(self.wave)),
            "PATH": f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{_BIN}",
        }
        if self.plan.task:
            environment["HYPERVISOR_TASK_ID"] = self.plan.task
        report = self.command.run(
            replace(work, item=path, path=path, base=self.plan.base, environment=environment)
        )
        write_note_files(made, chunk.id)
        return judged(report, len(made.review.notes(made.number, chunk.id)), len(begun.items))


class WaveWorker(QueueWorker):
    """Works on what a wave has left: claims its chunks by name, one at a time, and takes no others."""

    def __init__(
        self,
        batch: Batch,
        wave: Wave,
        runner: ChunkRunner,
        *,
        options: WorkerOptions,
        tell: Callable[[ItemEvent], None],
        stop: Stop,
    ) -> None:
        super().__init__(batch, runner, options=options, tell=tell, stop=stop, name="chunk-worker")
        self._left = list(wave.chunks)

    def _claim(self) -> list[Claim]:
        if not self._options.may_begin(1):
            self._stop.soon.set()
            return []
        for name in list(self._left):
            key = self._batch.ref(name).key
            lock = key if self._locks.used() else ""
            answer = self._claims.claim(self.worker, key, name, batch=self._batch.number, lock=lock)
            if isinstance(answer, Decided):
                self._left.remove(name)
            elif isinstance(answer, Claim):
                taken, foreign = self._locks.take([answer])
                if taken:
                    return taken
                self._claims.unclaim([answer])
                if self._locks.news(answer, foreign[0][1]):
                    self._say(name, "trouble", f"{name}: {foreign[0][1]}")
        return []

    def _more(self) -> bool:
        if self._left and not self._ended():
            self._wait()
        return bool(self._left) and not self._ended()


def run_wave(
    made: ChunkedBatch, wave: Wave, options: ChunkRunOptions, tell: Callable[[ItemEvent], None], stop: Stop
) -> None:
    """Run the command for each chunk that a wave has left, with several workers at once.

    Args:
        made: The batch.
        wave: The wave, the last one.
        options: See `ChunkRunOptions`.
        tell: Called with each event, by one thread at a time.
        stop: How to end it.
    """
    runner = ChunkRunner(
        made=made, plan=made.plan(), wave=wave,
        command=ExecRunner(
            command=shlex.split(options.command), timeout=options.timeout,
            retry_failures=bool(options.retries)
        ),
    )  # fmt: skip
    telling = threading.Lock()

    def tell_one(event: ItemEvent) -> None:
        with telling:
            tell(event)

    worker_options = WorkerOptions(
        may_begin=lambda count: count if _goes_on(made, wave) else 0,
        beat_seconds=made.batch.store.settings["claims"]["beat_seconds"],
    )
    left = [name for name in wave.chunks if name not in made.review.results(made.number)]
    stops = [Stop() for _ in range(min(options.jobs, len(left)))]
    errors: list[BaseException] = []

    def work(own: Stop) -> None:
        try:
            WaveWorker(made.batch, wave, runner, options=worker_options, tell=tell_one, stop=own).run()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            errors.append(error)
            stop.soon.set()

    threads = [threading.Thread(target=work, args=(own,), name="chunk-worker") for own in stops]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(_STOP_SECONDS / len(threads))
        for own in stops:
            _pass_on(stop, own)
    if errors:
        raise errors[0]


def _pass_on(stop: Stop, own: Stop) -> None:
    """Tell one worker what the whole run was told."""
    if stop.soon.is_set():
        own.soon.set()
    if stop.now.is_set():
        own.now.set()
        own.in_hand.set()


def _goes_on(made: ChunkedBatch, wave: Wave) -> bool:
    """Return whether more of a wave may begin: nobody has stopped it, and no other follows it."""
    last = made.review.waves(made.number)[-1]
    return last.number == wave.number and (last.decided is None or last.decided.verdict != "stop")
