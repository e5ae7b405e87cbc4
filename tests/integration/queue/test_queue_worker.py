"""One worker: how many items it claims, when their results are accepted, and what its death costs."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from commands import PATIENCE, ROOT, Gate, eventually, script
from hypervisor.core.model import Outcome, Report
from hypervisor.core.process import this_process
from hypervisor.queue.batch import Batch
from hypervisor.queue.batches import open_folder
from hypervisor.queue.counts import ItemEvent, RunCounts
from hypervisor.queue.stop import Stop
from hypervisor.queue.summary import take_census
from hypervisor.queue.worker import QueueWorker, WorkerOptions
from hypervisor.runners.base import ItemWork, Runner
from hypervisor.store.claims import Claims
from hypervisor.store.liveness import WorkerLock, new_worker_id
from hypervisor.store.records import Answer, Claim, Completion, Worker, WorkerKind
from hypervisor.store.store import Store


class Steps:
    """A runner that keeps what it was given, and does what a test wants of an item."""

    name = "steps"

    def __init__(self, act: Callable[[ItemWork], Report | None] = lambda work: None) -> None:
        self.items: list[str] = []
        self._act = act

    def run(self, work: ItemWork) -> Report:
        self.items.append(work.item)
        return self._act(work) or Report(status=Outcome.SUCCESS, outcome="")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    made.mkdir()
    return made


def queue(folder: Path, count: int) -> list[str]:
    lines = [f"item-{number}" for number in range(count)]
    (folder / "queue.txt").write_text("".join(f"{line}\n" for line in lines))
    return lines


def work_on(
    folder: Path,
    runner: Runner,
    tell: Callable[[ItemEvent], None] = lambda event: None,
    stop: Stop | None = None,
    options: WorkerOptions | None = None,
) -> RunCounts:
    """Let a worker do the batch of *folder*."""
    with open_folder(folder, cwd=str(folder)) as batch:
        worker = QueueWorker(
            batch, runner, options=options or WorkerOptions(), tell=tell, stop=stop or Stop()
        )
        return worker.run()


def numbers(batch: Batch) -> list[list[int]]:
    """Return the numbers of the attempts at each item."""
    batch.take_in()
    items = batch.store.batches.items(batch.number)
    return [[one.number for one in batch.store.claims.attempts(item.work.key)] for item in items]


def dead_worker(store: Store) -> tuple[Worker, WorkerLock]:
    """Register a worker that a test lets die: its lock closes, its name stays."""
    worker = Worker(
        id=new_worker_id("dead", os.getpid()), kind=WorkerKind.PROCESS, name="dead", process=this_process()
    )
    store.claims.add_worker(worker)
    return worker, WorkerLock(store.workers, worker.id)


# ------------------------------------------------------------------------ blocks


def test_quick_items_are_claimed_many_at_once_and_in_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = queue(folder, 400)
    sizes: list[int] = []
    claim_next = Claims.claim_next

    def counting(self: Claims, worker: Worker, batch: int, limit: int, *, locks: bool = False) -> list[Claim]:
        found = claim_next(self, worker, batch, limit, locks=locks)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(Claims, "claim_next", counting)
    runner = Steps()
    assert work_on(folder, runner).processed == 400
    assert runner.items == lines
    sizes = [size for size in sizes if size]
    assert sizes[0] == 1, "nobody knows yet how long an item takes"
    assert max(sizes) > 20
    assert len(sizes) < 60
    assert sizes[-1] == 1, "the last ones are left to whoever is idle"


@pytest.mark.parametrize("wait", [True, False])
def test_what_another_took_in_a_moment_ago_is_not_missed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wait: bool
) -> None:
    queue(folder, 5)
    claim_next, once = Claims.claim_next, iter([True])

    def late(self: Claims, worker: Worker, batch: int, limit: int, *, locks: bool = False) -> list[Claim]:
        found = claim_next(self, worker, batch, limit, locks=locks)
        if next(once, False):
            with open_folder(folder, cwd="/") as other:
                other.take_in()
        return found

    monkeypatch.setattr(Claims, "claim_next", late)
    assert work_on(folder, Steps(), options=WorkerOptions(wait=wait)).processed == 5


def test_items_that_wait_behind_a_long_one_go_to_others_and_quick_results_are_told(
    folder: Path,
) -> None:
    lines = queue(folder, 400)
    free, looked = threading.Event(), threading.Event()

    def act(work: ItemWork) -> None:
        if work.item == "item-100":
            looked.set()
            assert free.wait(PATIENCE)

    thread = threading.Thread(target=work_on, args=(folder, Steps(act)))
    thread.start()
    assert looked.wait(PATIENCE)
    with open_folder(folder, cwd="/") as batch:
        eventually(lambda: take_census(batch).of("running") == 1, "the rest of the block to be given back")
        eventually(lambda: take_census(batch).of("success") == 100, "the results of those before")
    others = Steps()
    assert work_on(folder, others, options=WorkerOptions(wait=False)).processed == 299
    free.set()
    thread.join(PATIENCE)
    assert others.items == lines[101:]
    with open_folder(folder, cwd="/") as batch:
        assert numbers(batch) == [[1]] * 400, "what was never begun was no attempt"


def test_a_worker_that_is_stopped_gives_back_what_it_has_not_begun(folder: Path) -> None:
    queue(folder, 200)
    stop = Stop()

    def act(work: ItemWork) -> None:
        if work.item == "item-50":
            stop.ask()

    assert work_on(folder, Steps(act), stop=stop).processed == 51
    with open_folder(folder, cwd="/") as batch:
        census = take_census(batch)
        assert (census.of("success"), census.of("waiting"), census.of("running")) == (51, 149, 0)
    assert work_on(folder, Steps()).processed == 149
    with open_folder(folder, cwd="/") as batch:
        assert numbers(batch) == [[1]] * 200


def test_a_drain_ends_the_work_and_not_that_of_who_begins_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(folder, 300)

    def act(work: ItemWork) -> None:
        if work.item == "item-20":
            with open_folder(folder, cwd="/") as batch:
                batch.store.batches.drain(batch.number)

    runner = Steps(act)
    assert work_on(folder, runner).processed == 21
    assert work_on(folder, Steps()).processed == 279


def test_an_item_that_was_cancelled_before_it_was_begun_is_passed_over(folder: Path) -> None:
    queue(folder, 100)
    told: list[ItemEvent] = []

    def act(work: ItemWork) -> None:
        if work.item == "item-30":
            with open_folder(folder, cwd="/") as batch:
                ref = batch.ref("item-31")
                result = {"status": "skipped", "outcome": "cancelled"}
                assert batch.store.claims.cancel(ref.key, ref.item, result, "a test", reopen=False)

    work_on(folder, runner := Steps(act), tell=told.append)
    with open_folder(folder, cwd="/") as batch:
        census = take_census(batch)
        assert (census.of("success"), census.of("skipped")) == (99, 1)
    lost = [event for event in told if event.kind == "lost"]
    assert [event.item for event in lost] in ([], ["item-31"])
    assert len(runner.items) in (99, 100)


def test_a_retry_waits_for_nobody_and_an_item_is_given_up_with_all_its_reasons(folder: Path) -> None:
    queue(folder, 1)
    told: list[ItemEvent] = []
    again = Steps(lambda work: Report(status=Outcome.FAILED, outcome="no answer", retry=True))
    counts = work_on(folder, again, tell=told.append)
    assert (counts.results, counts.again) == ({"failed": 1}, 2)
    assert [event.kind for event in told] == ["again", "again", "failed"]
    assert told[-1].text.startswith("gave up after 3 attempts: attempt 1: no answer; ")


# ------------------------------------------------------------------------ deaths


def test_what_a_dead_worker_held_is_done_before_the_queue_is_empty(folder: Path) -> None:
    queue(folder, 100)
    with open_folder(folder, cwd="/") as batch:
        batch.take_in()
        worker, lock = dead_worker(batch.store)
        held = batch.store.claims.claim_next(worker, batch.number, 10)
        lock.note(held[3].attempt)
        os.close(lock.descriptor)  # with the claims open: as if its process had died
        runner = Steps()
        assert work_on(folder, runner).processed == 100
        assert runner.items[0] == "item-0"
        found = numbers(batch)
    assert found[3] == [1, 2], "the one in hand costs an attempt"
    assert found[:3] + found[4:] == [[1]] * 99, "those that it had not begun cost none"


def test_a_worker_that_dies_of_an_item_three_times_has_it_given_up_and_no_other(folder: Path) -> None:
    queue(folder, 20)
    with open_folder(folder, cwd="/") as batch:
        batch.take_in()
        for _ in range(3):
            worker, lock = dead_worker(batch.store)
            held = batch.store.claims.claim_next(worker, batch.number, 20)
            poison = next(claim for claim in held if claim.text == "item-7")
            lock.note(poison.attempt)
            os.close(lock.descriptor)
            batch.store.rescuer.rescue()
    told: list[ItemEvent] = []
    runner = Steps()
    assert work_on(folder, runner, tell=told.append).processed == 19
    assert "item-7" not in runner.items
    with open_folder(folder, cwd="/") as batch:
        assert take_census(batch).of("failed") == 1


_WORK = """
import os, sys
from hypervisor.core.model import Outcome, Report
from hypervisor.queue.batches import open_folder
from hypervisor.queue.stop import Stop
from hypervisor.queue.worker import QueueWorker, WorkerOptions

class Runner:
    name = "marks"
    def run(self, work):
        descriptor = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, work.item.encode() + b"\\n")
        os.close(descriptor)
        return Report(status=Outcome.SUCCESS, outcome="")

with open_folder(sys.argv[1], cwd="/") as batch:
    QueueWorker(batch, Runner(), options=WorkerOptions(), tell=lambda event: None, stop=Stop()).run()
"""


def start(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _WORK, str(folder), str(log)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        stderr=subprocess.PIPE,
    )


def test_workers_that_are_killed_at_any_moment_lose_nothing_and_decide_nothing_twice(
    folder: Path, tmp_path: Path
) -> None:
    lines, log = queue(folder, 3_000), tmp_path / "log"
    log.touch()
    running = [start(folder, log) for _ in range(4)]
    for _ in range(6):  # each by how far the work has come: nothing here goes by the clock
        reached = log.stat().st_size + 2_500
        eventually(lambda reached=reached: log.stat().st_size > reached, "more work")  # type: ignore[misc]
        victim = running.pop(0)
        victim.send_signal(signal.SIGKILL)
        victim.wait(PATIENCE)
        assert victim.stderr is not None
        victim.stderr.close()
        running.append(start(folder, log))
    for one in running:
        _, complaint = one.communicate(timeout=3 * PATIENCE)
        assert (one.returncode, complaint) == (0, b"")
    with open_folder(folder, cwd="/") as batch:
        assert (
            take_census(batch).to_json() | {"success": 3_000, "queued": 3_000} == take_census(batch).to_json()
        )
        assert batch.store.violations() == []
        ends = 0
        for item in batch.store.batches.items(batch.number):
            attempts = batch.store.claims.attempts(item.work.key)
            ends += sum(one.outcome == "success" for one in attempts)
    assert ends == 3_000, "one accepted result an item"
    done = log.read_text().splitlines()
    assert set(done) == set(lines)
    assert len(done) - 3_000 <= 6 * 60, "only what was in hand or not told yet is done again"


def test_two_pools_at_once_do_each_item_once(folder: Path, tmp_path: Path) -> None:
    lines, log = queue(folder, 400), tmp_path / "log"
    command = script(tmp_path, "mark", f'echo "$1" >> {log}')
    words = [sys.executable, str(ROOT / "scripts/batch_worker.py"), "--dir", str(folder), "--all"]
    pools = [
        subprocess.Popen([*words, "--workers", "2", "--exec", command], stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [pool.wait(3 * PATIENCE) for pool in pools] == [0, 0]
    assert sorted(log.read_text().splitlines()) == sorted(lines)


# ------------------------------------------------------------------------- disk


def test_a_full_disk_is_waited_for_and_told_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue(folder, 30)
    told: list[str] = []
    full = [OSError(errno.ENOSPC, "full"), OSError(errno.ENOSPC, "full")]
    complete = Claims.complete

    def completing(self: Claims, completions: Sequence[Completion]) -> list[Answer]:
        if full:
            raise full.pop()
        return complete(self, completions)

    monkeypatch.setattr(Claims, "complete", completing)
    runner = Steps()
    assert work_on(folder, runner, tell=lambda event: told.append(event.kind)).processed == 30
    assert (full, told.count("trouble")) == ([], 1)
    assert len(runner.items) == 30, "no item is done again for it"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_what_was_done_while_the_disk_was_full_is_kept(small_disk: Path, tmp_path: Path) -> None:
    queue(small_disk, 3)
    gate = Gate(tmp_path, "gate")
    command = script(tmp_path, "wait", gate.words)
    words = [sys.executable, str(ROOT / "scripts/batch_worker.py"), "--dir", str(small_disk), "--all"]
    worker = subprocess.Popen([*words, "--exec", command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    gate.wait()
    with contextlib.suppress(OSError), open(small_disk / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 512)
    gate.open(3)
    assert worker.stderr is not None
    assert b"No space left on device" in worker.stderr.readline()
    (small_disk / "filler").unlink()
    _, complaint = worker.communicate(timeout=PATIENCE)
    assert (worker.returncode, complaint) == (0, b"")
    gate.close()
    with open_folder(small_disk, cwd="/") as batch:
        assert take_census(batch).of("success") == 3
        assert numbers(batch) == [[1]] * 3


@pytest.mark.slow
def test_one_signal_ends_a_worker_whose_disk_is_full(small_disk: Path, tmp_path: Path) -> None:
    queue(small_disk, 3)
    gate = Gate(tmp_path, "gate")
    command = script(tmp_path, "wait", gate.words)
    words = [sys.executable, str(ROOT / "scripts/batch_worker.py"), "--dir", str(small_disk), "--all"]
    worker = subprocess.Popen([*words, "--exec", command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    gate.wait()
    with contextlib.suppress(OSError), open(small_disk / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 512)
    gate.open()
    assert worker.stderr is not None
    assert b"No space left on device" in worker.stderr.readline()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 1
    worker.stderr.close()
    gate.close()
    (small_disk / "filler").unlink()
    with open_folder(small_disk, cwd="/") as batch:
        assert work_on(small_disk, Steps()).processed == 3, "what was not written down is done again"
        assert take_census(batch).of("success") == 3


# ------------------------------------------------------------ heartbeat and stop


def test_an_item_whose_claim_is_lost_is_ended(folder: Path) -> None:
    queue(folder, 1)
    told: list[ItemEvent] = []

    def act(work: ItemWork) -> None:
        with open_folder(folder, cwd="/") as batch:
            (held,) = batch.store.claims.held_all()
            batch.store.claims.revoke(held.attempt, "a test")
        assert work.stopped.wait(PATIENCE), "the heartbeat tells the runner"

    runner = Steps(lambda work: act(work) if len(runner.items) == 1 else None)
    options = WorkerOptions(beat_seconds=0.02)
    assert work_on(folder, runner, tell=told.append, options=options).processed == 1
    assert [event.kind for event in told] == ["lost", "success"]
    assert runner.items == ["item-0"] * 2
