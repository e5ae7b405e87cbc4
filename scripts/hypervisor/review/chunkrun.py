"""Running a batch chunk by chunk: a wave is its workers' queue, and nothing starts unapproved."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..checkpoints import Mode, Standing, Told, Wave, Waves
from ..claims.directory import Policy, plain_failure
from ..claims.port import Attempt, Holder, HolderKind, Payload
from ..claims.workers import new_worker_id
from ..core import durable
from ..core.config import settings_of
from ..core.errors import UsageError
from ..core.model import Outcome, Report
from ..events import log_of
from ..queue.batch import Batch
from ..queue.crew import Crew
from ..queue.heart import Stop
from ..queue.operations import retry
from ..queue.queue import Queue
from ..queue.tally import Event
from ..queue.worker import Orders as WorkerOrders
from ..queue.worker import Worker
from ..runners.exec import ExecRunner
from ..runners.port import Work
from .bulk import begin_dry_run, must_be_shown
from .chunked import ChunkedBatch, Plan
from .review import notes_of, where_it_stands

FILE = "chunk-run.json"
#: The `hypervisor` command, for workers that note with it and do not have it on their PATH.
_BIN = Path(__file__).resolve().parents[3] / "bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What the user asked for; kept, so that the next `chunk run` asks for the same."""

    #: As at a shell.
    command: str
    jobs: int = 1
    mode: str = Mode.EACH.value
    #: Those that the first wave has; `Waves.criteria` says what holds later.
    criteria: str = ""
    timeout: float | None = None
    retries: int | None = None

    def keep(self, folder: Path) -> None:
        """Write them into the batch's folder."""
        durable.replace(folder / FILE, json.dumps(asdict(self), indent=1).encode() + b"\n")

    @classmethod
    def of(cls, folder: Path) -> Orders | None:
        """Read those that were kept; None if there are none.

        Raises:
            UsageError: The file is damaged.
        """
        try:
            return cls(**json.loads((folder / FILE).read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise UsageError(f"{folder / FILE}: damaged ({error}); remove it and give --exec again") from None


@dataclass(slots=True)
class WaveBatch(Batch):
    """A chunked batch whose queue is one wave: the same claims and results, and nothing else to take."""

    wave_queue: str = ""

    @property
    def queue(self) -> Queue:
        """The wave's queue."""
        return Queue(self.wave_queue, self.wave_queue.removesuffix(".txt") + ".cursor")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRunner:
    """Runs the command for a chunk, and looks at whether what it noted is whole."""

    made: ChunkedBatch
    plan: Plan
    wave: Wave
    command: ExecRunner
    name: str = "chunk"

    def run(self, work: Work) -> Report:
        """Run the command for one chunk."""
        chunk = self.plan.chunk(work.item)
        items = self.made.begun(chunk.id)
        notes = notes_of(self.made, chunk.id)
        notes.begin(len(items))
        told = {
            "HYPERVISOR_CHUNK": str(self.made.path(chunk.id)),
            "HYPERVISOR_CHUNK_ID": chunk.id,
            "HYPERVISOR_CHUNK_LABEL": chunk.label,
            "HYPERVISOR_CHUNK_REVISION": str(notes.revision),
            "HYPERVISOR_CRITERIA": self.wave.criteria,
            "HYPERVISOR_CRITERIA_FILE": str(Waves(self.made.folder).criteria_file(self.wave.number)),
            "HYPERVISOR_ROOT": self.plan.base,
            "PATH": f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{_BIN}",
        }
        if self.plan.task:
            told["HYPERVISOR_TASK_ID"] = self.plan.task
        report = self.command.run(
            replace(
                work, item=told["HYPERVISOR_CHUNK"], base=self.plan.base,
                environment={**work.environment, **told},
            )
        )  # fmt: skip
        return judged(report, len(notes.all()), len(items))


def judged(report: Report, noted: int, items: int) -> Report:
    """Return what a chunk came to. Pure.

    A command that notes some items and passes over others has not done its work, whatever it says.
    """
    evidence = {**report.evidence, "items": items, "noted": noted}
    if report.status is Outcome.SUCCESS and 0 < noted < items:
        outcome = f"noted {noted} of {items} items, and says: {report.outcome}"
        return replace(report, status=Outcome.FAILED, outcome=outcome, evidence=evidence)
    return replace(report, evidence=evidence)


# ------------------------------------------------------------------------ steps


def advance(made: ChunkedBatch, batch: Batch, orders: Orders) -> Standing:
    """Open again what was decided to be done again, begin the next wave if one may begin.

    Returns:
        Where the batch stands then: never ``next`` or ``redo``.

    Raises:
        Refused: The plan was edited into what cannot run.
    """
    with made.changing():
        plan, waves = made.plan(), Waves(made.folder)
        made.check(plan)
        begin_dry_run(made, plan)
        at = where_it_stands(made, batch, plan)
        if at.what == "redo":
            # Each step is harmless when it is done again, so that a kill between them is, too.
            retry(batch, list(at.chunks), {outcome.value for outcome in Outcome})
            waves.begin(at.chunks, waves.criteria(orders.criteria), checkpoint=True)
        elif at.what == "next":
            first = not any(wave.chunks for wave in waves.all())
            few = orders.mode == Mode.EACH or (orders.mode == Mode.FIRST and first)
            chunks = at.chunks[: orders.jobs] if few else at.chunks
            must_be_shown(made, plan, chunks)
            made.begin(plan, chunks)
            waves.begin(chunks, waves.criteria(orders.criteria), checkpoint=few)
        else:
            return at
        return where_it_stands(made, batch, plan)


def stopped(made: ChunkedBatch, number: int) -> bool:
    """Tell whether somebody has said that nothing more of a wave may begin."""
    waves = Waves(made.folder).all()
    decided = waves[number - 1].decided if number <= len(waves) else None
    return decided is not None and decided.verdict == "stop"


def run_wave(
    made: ChunkedBatch, batch: Batch, orders: Orders, number: int, tell: Callable[[Event], None], stop: Stop
) -> int:
    """Run what a wave has left; return how many of its workers died.

    Args:
        made: The batch's folder.
        batch: The batch.
        orders: See `Orders`.
        number: The wave's.
        tell: Called with each event.
        stop: How to end it.
    """
    left = where_it_stands(made, batch, made.plan()).chunks
    with _of_wave(made, batch, number).queue.reopening():
        pass  # a chunk may have been opened again (`retry`) behind the mark of those that have a result
    if orders.jobs > 1 and len(left) > 1:
        words = [
            sys.executable,
            sys.argv[0],
            "chunk",
            "run",
            "--dir",
            str(made.folder),
            "--wave",
            str(number),
        ]
        return Crew(words, min(orders.jobs, len(left)), None, stop, tell).run()
    drain(made, batch, orders, number, tell, stop)
    return 0


def drain(
    made: ChunkedBatch, batch: Batch, orders: Orders, number: int, tell: Callable[[Event], None], stop: Stop
) -> Worker:
    """Be one worker of a wave until each of its chunks has a result; return it."""
    waves = Waves(made.folder)
    wave = waves.all()[number - 1]
    claims = settings_of(batch.project.state if batch.project else None)["claims"]
    holder = Holder(
        id=new_worker_id("worker", os.getpid()), kind=HolderKind.PROCESS, name="chunk-worker",
        lease_seconds=claims["lease_seconds"],
    )  # fmt: skip

    def give_up(item: str, tries: list[Attempt]) -> Payload:
        return {**plain_failure(item, tries), "batch": batch.id, "worker": holder.id}

    retries = orders.retries
    runner = ChunkRunner(
        made=made, plan=made.plan(), wave=wave,
        command=ExecRunner(
            command=shlex.split(orders.command), timeout=orders.timeout, retry_failures=bool(retries)
        ),
    )  # fmt: skip
    worker = Worker(
        _of_wave(made, batch, number), runner, holder,
        policy=Policy(
            attempts=claims["attempts"] if retries is None else retries + 1,
            lease_seconds=claims["lease_seconds"], give_up=give_up,
        ),
        orders=WorkerOrders(
            may_begin=lambda: not stopped(made, number), beat_seconds=claims["beat_seconds"]
        ),
        tell=tell, stop=stop,
    )  # fmt: skip
    worker.run()
    return worker


def _of_wave(made: ChunkedBatch, batch: Batch, number: int) -> WaveBatch:
    queue = str(Waves(made.folder).queue(number))
    return WaveBatch(batch.folder, batch.manifest, batch.project, wave_queue=queue)


def tell_opened(made: ChunkedBatch, wave: Wave) -> None:
    """Add to the batch's log that a wave waits for a decision."""
    log_of(made.folder).tell(Told.OPENED, str(wave.number), chunks=", ".join(wave.chunks))
