"""The races of the protocol, each by its number in docs/claims.md, and what none of them may do.

Two processes are two stores. Where one of them runs as a whole between two calls of the other, it
runs inside the other's call (`Steps.at`): the same interleaving, with no thread and no chance in it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from choreography import (
    DISK_ERRORS,
    PATIENCE,
    Died,
    Gate,
    Ledger,
    Running,
    Steps,
    World,
    abandon,
    after_reboot,
    taken,
)
from hypervisor.claims import judge as judging
from hypervisor.claims.directory import DirectoryStore
from hypervisor.claims.port import Busy, Claim, Done
from hypervisor.claims.records import End
from hypervisor.core import clock
from hypervisor.core.errors import ClaimLost
from hypervisor.core.keys import canonical, item_key
from hypervisor.core.machine import this_process

OK: Mapping[str, Any] = {"item": "item", "status": "success"}


def names(world: World, folder: str) -> list[str]:
    return sorted(os.listdir(os.path.join(world.root, folder)))


def lost(act: Callable[[], object]) -> str:
    with pytest.raises(ClaimLost) as caught:
        act()
    return caught.value.loss.reason


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Callable[[], World]]:
    """Makes a fresh world for each interleaving of a test."""
    made: list[World] = []

    def fresh() -> World:
        made.append(World(str(tmp_path / str(len(made)))))
        return made[-1]

    yield fresh
    for world in made:
        world.__exit__(None, None, None)


# ------------------------------------------------------------------ R1 two reapers


def test_r01_two_reapers_revoke_once(world: World) -> None:
    dying = world.open("victim")
    taken(dying)
    abandon(dying)
    files = Steps()
    one, two = world.open("one", files=files), world.open("two")
    gate = files.stop("symlink", "/end")
    first = Running(lambda: one.claim("k", "item"))
    gate.wait()
    assert taken(two).generation == 2
    gate.open()
    assert isinstance(first.result(), Busy)
    assert [a.generation for a in two.attempts("k")] == [1]
    assert "two" in two.attempts("k")[0].detail


def test_r01_a_reaper_that_comes_late_does_not_touch_the_successor(world: World) -> None:
    dying = world.open()
    taken(dying)
    abandon(dying)
    files = Steps()
    late, quick = world.open(files=files), world.open()
    gate = files.stop("symlink", "/end")
    reaping = Running(lambda: late.reap(["k"]))
    gate.wait()
    claim = taken(quick)
    gate.open()
    reaping.result()
    quick.beat(claim)
    assert quick.complete(claim, OK)["token"] == claim.token


def test_r01_of_many_who_take_over_one_wins(world: World) -> None:
    dying = world.open()
    taken(dying)
    abandon(dying)
    takers = [world.open() for _ in range(6)]
    answers = [call.result() for call in [Running(lambda s=s: s.claim("k", "item")) for s in takers]]  # type: ignore[misc]
    assert sum(isinstance(answer, Claim) for answer in answers) == 1


# --------------------------------------------- R2 a slow owner comes back and publishes


def test_r02_a_reaped_worker_cannot_complete(world: World) -> None:
    files = Steps()
    slow = world.agent(lease_seconds=0.0, files=files)
    claim = taken(slow)
    gate = files.stop("link", "/end")  # its result is written, and about to be decided
    completing = Running(lambda: slow.complete(claim, OK))
    gate.wait()
    quick = world.open()
    successor = taken(quick)
    gate.open()
    assert lost(completing.result) == "revoked"
    assert quick.result("k") is None
    assert quick.complete(successor, OK)["generation"] == 2


def test_r02_a_worker_that_decided_first_wins_over_its_reaper(world: World) -> None:
    files = Steps()
    slow, reaper_files = world.agent(lease_seconds=0.0), files
    claim = taken(slow)
    reaper = world.open(files=reaper_files)
    gate = files.stop("symlink", "/end")  # judged, and about to be revoked
    taking = Running(lambda: reaper.claim("k", "item"))
    gate.wait()
    result = slow.complete(claim, OK)
    gate.open()
    assert taking.result() == Done(key="k")
    assert reaper.result("k") == result


def test_r02_a_reaped_worker_whose_successor_finished_cannot_complete(world: World) -> None:
    slow = world.agent(lease_seconds=0.0)
    claim = taken(slow)
    quick = world.open()
    result = quick.complete(taken(quick), OK)
    assert lost(lambda: slow.complete(claim, {**OK, "late": True})) == "finished"
    assert quick.result("k") == result


# ------------------------------------- R3 a slow owner releases its successor's claim


@pytest.mark.parametrize("act", ["release", "fail"])
def test_r03_a_slow_owner_cannot_release_its_successors_claim(world: World, act: str) -> None:
    slow = world.agent(lease_seconds=0.0)
    claim = taken(slow)
    quick = world.open()
    successor = taken(quick)
    assert lost(lambda: getattr(slow, act)(claim, "done with it")) == "revoked"
    # Not even where it errs on the generation: its token is not the owner's.
    astray = replace(claim, generation=successor.generation)
    assert lost(lambda: getattr(slow, act)(astray, "done with it")) == "taken"
    quick.beat(successor)
    assert quick.complete(successor, OK)


def test_r03_a_release_that_was_under_way_when_it_was_revoked_is_refused(world: World) -> None:
    files = Steps()
    slow = world.agent(lease_seconds=0.0, files=files)
    claim = taken(slow)
    gate = files.stop("symlink", "/end")
    releasing = Running(lambda: slow.release(claim, "x"))
    gate.wait()
    quick = world.open()
    successor = taken(quick)
    gate.open()
    assert lost(releasing.result) == "revoked"
    quick.beat(successor)


# --------------------------------------------------- R4 death between mkdir and owner


def test_r04_a_worker_that_died_while_claiming_frees_the_item_at_once(world: World) -> None:
    files = Steps()
    dying = world.open(files=files)
    files.die("symlink", "/owner")
    with pytest.raises(Died):
        dying.claim("k", "item")
    abandon(dying)
    assert names(world, "locks/k") == []
    assert taken(world.open()).generation == 2


def test_r04_a_worker_between_mkdir_and_owner_is_left_alone_while_it_lives(world: World) -> None:
    files = Steps()
    slow = world.open(files=files)
    gate = files.stop("symlink", "/owner")
    claiming = Running(lambda: slow.claim("k", "item"))
    gate.wait()
    # A lease of nothing: only the lock on its file says that it lives.
    assert isinstance(world.open(lease_seconds=0.0).claim("k", "item"), Busy)
    gate.open()
    assert isinstance(claiming.result(), Claim)


def test_r04_a_claim_of_a_maker_unknown_is_free_only_after_the_lease(world: World) -> None:
    store = world.open()
    os.mkdir(store.layout.claim_path("k", 1))
    now = 0.0
    store._judge.monotonic = lambda: now
    assert isinstance(store.claim("k", "item"), Busy)
    now = 899.0
    assert isinstance(store.claim("k", "item"), Busy)
    now = 901.0
    assert taken(store).generation == 2


def test_r04_a_maker_that_signs_after_its_newborn_was_revoked_does_not_hold_it(world: World) -> None:
    files = Steps()
    slow = world.agent(files=files)
    gate = files.stop("symlink", "/owner")
    claiming = Running(lambda: slow.claim("k", "item"))
    gate.wait()
    store = world.open()
    assert store.revoke("k", "cancelled")
    successor = taken(store)
    gate.open()
    answer = claiming.result()
    if isinstance(answer, Claim):  # a claim in hand proves nothing; completing does
        assert lost(lambda: slow.complete(answer, OK)) == "revoked"
    assert store.complete(successor, OK)


@pytest.mark.parametrize("first", [True, False], ids=["loser listed first", "loser listed last"])
def test_r04_who_lost_the_race_for_a_claim_does_not_stand_for_its_dead_maker(
    world: World, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """Both noted the intent; the one that made the directory died, the other lives and waits."""
    files = Steps()
    loser, maker_files = world.open("loser", files=files), Steps()
    maker = world.open("maker", files=maker_files)
    gate = files.stop("mkdir")
    losing = Running(lambda: loser.claim("k", "item"))
    gate.wait()
    maker_files.die("symlink", "/owner")
    with pytest.raises(Died):
        maker.claim("k", "item")
    abandon(maker)
    gate.open()
    assert isinstance(losing.result(), Busy)
    listed = os.listdir
    # "loser" comes before "maker", or after it.
    monkeypatch.setattr(os, "listdir", lambda path=".": sorted(listed(path), reverse=not first))
    assert taken(loser).generation == 2


def test_r04_a_dead_worker_that_lost_the_race_does_not_speak_for_a_living_maker(world: World) -> None:
    """The slow maker lives; another noted the same intent, lost, and died."""
    files = Steps()
    slow = world.open("slow", files=files)
    gate = files.stop("symlink", "/owner")
    claiming = Running(lambda: slow.claim("k", "item"))
    gate.wait()
    others = [world.open(f"dead{n}") for n in range(6)]  # some of them listed before the maker
    for other in others:
        assert other._worker is not None
        other._worker.intend("k")
        abandon(other)
    answer = world.open().claim("k", "item")
    gate.open()
    assert isinstance(claiming.result(), Claim)
    assert isinstance(answer, Busy)


def test_r04_a_newborn_that_could_not_be_signed_nor_taken_back_frees_itself(world: World) -> None:
    files = Steps()
    store = world.open(files=files, lease_seconds=0.0)
    files.fail("symlink", "/owner", code=errno.EIO)
    files.fail("rmdir", code=errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        store.claim("k", "item")
    # Its maker lives and will not sign it: it must not wait for itself for ever.
    assert taken(store).generation == 2


# --------------------------------------------------------------------- R5 clocks


class FakeTime:
    """A monotonic clock in the test's hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_r05_a_patient_reaper_counts_on_its_own_monotonic_clock(world: World) -> None:
    agent = world.agent(lease_seconds=100.0)
    claim = taken(agent)
    reaper, time_ = world.open(), FakeTime()
    reaper._judge.monotonic = time_
    assert isinstance(reaper.claim("k", "item"), Busy)  # begins to watch
    time_.now += 99.0
    assert isinstance(reaper.claim("k", "item"), Busy)
    agent.beat(claim)
    time_.now += 99.0
    assert isinstance(reaper.claim("k", "item"), Busy)
    time_.now += 100.0
    assert taken(reaper).generation == 2


@pytest.mark.parametrize("years", [-30, 30])
def test_r05_a_patient_reaper_does_not_read_the_files_time(world: World, years: int) -> None:
    claim = taken(world.agent(lease_seconds=100.0))
    path = world.open().layout.claim_path(claim.key, 1)
    os.utime(path, (time.time() + years * 31_557_600,) * 2)
    assert isinstance(world.open().claim("k", "item"), Busy)


@pytest.mark.parametrize(("silent", "gone"), [(90, False), (110, True), (-5_000, False)])
def test_r05_a_one_shot_reaper_compares_with_a_file_of_the_same_file_system(
    world: World, silent: float, gone: bool
) -> None:
    taken(world.agent(lease_seconds=100.0))
    reaper = world.open(patient=False)
    now = reaper._judge._store_time_ns()
    stamp = now - int(silent * 1e9)
    os.utime(reaper.layout.claim_path("k", 1), ns=(stamp, stamp))
    assert isinstance(reaper.claim("k", "item"), Claim if gone else Busy)
    assert names(world, "trash") == []


@pytest.mark.parametrize("patient", [True, False])
def test_r05_the_wall_clock_is_never_asked(
    world: World, monkeypatch: pytest.MonkeyPatch, patient: bool
) -> None:
    def wrong(*_: object) -> float:
        raise AssertionError("the wall clock was asked")

    taken(world.agent(lease_seconds=100.0))
    reaper = world.open(patient=patient)
    monkeypatch.setattr(time, "time", wrong)
    monkeypatch.setattr(time, "time_ns", wrong)
    assert isinstance(reaper.claim("k", "item"), Busy)
    assert reaper.held("k") is not None


# ------------------------------------------------------------------ R6 pid reuse


def forged(world: World, kind: str) -> None:
    """Let a worker die whose file is gone, and whose pid now belongs to somebody else."""
    here = this_process()
    strangers = {
        "same": here,
        "other start": replace(here, start="1"),
        "no start": replace(here, start=""),
        "other boot": replace(here, boot="long ago", start="1"),
        "other namespace": replace(here, pid_namespace="4026531836000", start="1"),
        "other host": replace(here, host="elsewhere", boot="there"),
    }
    store = world.open(kind, here=strangers[kind])
    taken(store)
    path = os.path.join(world.root, "workers", store.holder.id if store.holder else "")
    abandon(store)
    os.unlink(path)


@pytest.mark.parametrize("kind", ["other start", "no start", "other boot"])
def test_r06_a_pid_that_is_another_process_now_is_dead(world: World, kind: str) -> None:
    forged(world, kind)
    assert taken(world.open()).generation == 2


@pytest.mark.parametrize("kind", ["other namespace", "other host"])
def test_r06_a_process_that_cannot_be_seen_is_only_judged_by_its_silence(world: World, kind: str) -> None:
    forged(world, kind)
    reaper, time_ = world.open(), FakeTime()
    reaper._judge.monotonic = time_
    assert isinstance(reaper.claim("k", "item"), Busy)
    time_.now += 901.0
    assert taken(reaper).generation == 2


def test_r06_the_lock_on_its_file_is_believed_before_its_pid(world: World) -> None:
    store = world.open()
    taken(store)
    abandon(store)  # the pid in the claim is this very process, which lives
    assert taken(world.open()).generation == 2


def test_r06_a_lock_is_seen_across_pid_namespaces_of_one_kernel(world: World) -> None:
    far = replace(this_process(), pid_namespace="4026531836000")
    store = world.open("in a container", here=far)
    taken(store)
    assert isinstance(world.open(lease_seconds=0.0).claim("k", "item"), Busy)
    abandon(store)
    assert taken(world.open()).generation == 2


# ------------------------------------ R7 a worker dies and what it started lives on

_DRAIN = """
import sys
from hypervisor.queue.batches import open_folder
from hypervisor.claims.directory import Policy
from hypervisor.claims.port import Holder, HolderKind
from hypervisor.claims.workers import new_worker_id
from hypervisor.runners.exec import ExecRunner
from hypervisor.queue.heart import Stop
from hypervisor.queue.worker import Orders, Worker
import os
folder, *command = sys.argv[1:]
name = new_worker_id("drain", os.getpid())
holder = Holder(id=name, kind=HolderKind.PROCESS, name="drain", lease_seconds=900.0)
Worker(
    open_folder(folder, cwd=folder), ExecRunner(command=command), holder, policy=Policy(),
    orders=Orders(), tell=lambda event: None, stop=Stop(),
).run()
"""  # fmt: skip


def drain(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    scripts = Path(__file__).parent.parent / "scripts"
    return subprocess.Popen(
        [sys.executable, "-c", _DRAIN, str(folder), *command],
        env={**os.environ, "PYTHONPATH": str(scripts)},
        stdin=subprocess.DEVNULL,
    )


def until(look: Callable[[], bool], what: str) -> None:
    """Wait for another process; there is no event to wait for but what it leaves behind."""
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline, what
        os.sched_yield()


def runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


#: Says its own pid, and goes on for a minute; `exec` keeps the pid, `setsid` leaves the group.
_ORPHANS = {
    "in the group": 'echo $$ > "$1.tmp"; mv "$1.tmp" "$1"; exec sleep 60',
    "that ignores TERM": 'trap "" TERM; echo $$ > "$1.tmp"; mv "$1.tmp" "$1"; sleep 60; sleep 60',
    "in a session of its own": (
        'setsid sh -c \'echo $$ > "$1.tmp"; mv "$1.tmp" "$1"; exec sleep 60\' sh "$1"; sleep 60'
    ),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("kind", _ORPHANS)
def test_r07_what_a_killed_worker_left_is_ended_before_its_item_is_handed_out(
    tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "batch"
    folder.mkdir()
    note = tmp_path / "pid"
    (folder / "queue.txt").write_text(f"{note}\n")
    worker = drain(folder, "sh", "-c", _ORPHANS[kind], "sh", "{}")
    try:
        until(note.exists, "the command never started")
        orphan = int(note.read_text())
        worker.send_signal(signal.SIGKILL)
        worker.wait(PATIENCE)
        assert runs(orphan), "the command was meant to outlive its worker"
        with World(str(folder)) as world:
            key = item_key(canonical(str(note), os.path.realpath(folder)))
            store = world.open()
            claim = taken(store, key, str(note))
            assert not runs(orphan), "handed out while the orphan runs"
            assert claim.generation == 2
            assert store.complete(claim, OK)
    finally:
        worker.kill()
        worker.wait(PATIENCE)


def test_r07_a_second_worker_finishes_what_a_killed_one_had_in_hand(tmp_path: Path) -> None:
    folder = tmp_path / "batch"
    folder.mkdir()
    note = tmp_path / "pid"
    (folder / "queue.txt").write_text(f"{note}\n{tmp_path / 'two'}\n")
    first = drain(folder, "sh", "-c", _ORPHANS["in the group"], "sh", "{}")
    until(note.exists, "the command never started")
    first.kill()
    first.wait(PATIENCE)
    assert drain(folder, "true").wait(PATIENCE) == 0
    results = [json.loads(path.read_text()) for path in (folder / "results").iterdir()]
    assert sorted((r["item"], r["status"], r["generation"]) for r in results) == [
        (str(note), "success", 2), (str(tmp_path / "two"), "success", 1)
    ]  # fmt: skip
    assert not list((folder / "locks").iterdir())
    assert not list((folder / "trash").iterdir())


# --------------------------------- R8 a result appears between the look and the mkdir


def test_r08_a_result_that_appears_after_the_look_is_found_before_the_claim_is_handed_out(
    world: World,
) -> None:
    files = Steps()
    late, quick = world.open(files=files), world.open()
    gate = files.stop("mkdir")
    claiming = Running(lambda: late.claim("k", "item"))
    gate.wait()
    result = quick.complete(taken(quick), OK)
    gate.open()
    assert claiming.result() == Done(key="k")
    assert late.result("k") == result
    assert names(world, "locks") == []


def test_r08_a_late_claim_beyond_collected_generations_leaves_nothing_behind(world: World) -> None:
    store = world.open()
    store.release(taken(store), "x")
    files = Steps()
    late = world.open(files=files)
    gate = files.stop("mkdir")  # about to make generation 2
    claiming = Running(lambda: late.claim("k", "item"))
    gate.wait()
    store.complete(taken(store), OK)
    gate.open()
    assert claiming.result() == Done(key="k")
    assert names(world, "locks") == []


# ----------------------------------------- R9 death between end=done and the result


@pytest.mark.parametrize("call", ["read", "link", "sync"])
@pytest.mark.parametrize("helper", ["claim", "reap", "complete"])
def test_r09_whoever_finds_a_decided_result_publishes_it(world: World, call: str, helper: str) -> None:
    written: list[object] = []

    def effects(result: Mapping[str, Any], unpublished: Callable[[], bool]) -> None:
        written.append(result["token"])

    files = Steps()
    dying = world.open(files=files)
    claim = taken(dying)
    files.forget()
    # `read` of its own end, before the effects; the second link; the sync after it.
    files.die(call, nth=2 if call == "link" else 1)
    with pytest.raises(Died):
        dying.complete(claim, OK)
    abandon(dying)
    store = world.open(effects=effects)
    if helper == "claim":
        assert store.claim("k", "item") == Done(key="k")
    elif helper == "reap":
        assert store.reap() == ["k"]
    else:
        assert store.complete(claim, {**OK, "other": True})["token"] == claim.token
    assert (store.result("k") or {})["token"] == claim.token
    assert written == ([] if call == "sync" else [claim.token])
    assert store.claim("k", "item") == Done(key="k")
    store.tidy()
    assert names(world, "locks") == []


def test_r09_two_helpers_publish_one_result(world: World) -> None:
    files = Steps()
    dying = world.open(files=files)
    claim = taken(dying)
    files.forget()
    files.die("read")
    with pytest.raises(Died):
        dying.complete(claim, OK)
    abandon(dying)
    helper_files = Steps()
    one, two = world.open(files=helper_files), world.open()
    gate = helper_files.stop("link", "/results/")
    helping = Running(lambda: one.claim("k", "item"))
    gate.wait()
    assert two.claim("k", "item") == Done(key="k")
    gate.open()
    assert helping.result() == Done(key="k")
    assert (one.result("k") or {})["token"] == claim.token


# ---------------------------------------------- R10 judged silent, then a beat arrives


def test_r10_a_beat_after_the_verdict_is_safe_and_the_next_one_says_so(world: World) -> None:
    agent = world.agent(lease_seconds=0.0)
    claim = taken(agent)
    files = Steps()
    reaper = world.open(files=files)
    gate = files.stop("symlink", "/end")
    taking = Running(lambda: reaper.claim("k", "item"))
    gate.wait()
    agent.beat(claim)
    gate.open()
    successor = taking.result()
    assert isinstance(successor, Claim)
    assert lost(lambda: agent.beat(claim)) == "revoked"
    assert lost(lambda: agent.complete(claim, OK)) == "revoked"
    assert reaper.complete(successor, OK)


# ------------------------------------------------------ R11 a new life, an old zombie


def test_r11_a_zombie_of_the_first_life_cannot_touch_the_second(world: World) -> None:
    zombie = world.agent(lease_seconds=0.0)
    old = taken(zombie, "k")
    store = world.open()
    first = store.complete(taken(store, "k"), OK)
    second = taken(store, "k.r2")
    for act in (
        lambda: zombie.complete(old, OK),
        lambda: zombie.release(old, "x"),
        lambda: zombie.beat(old),
    ):
        assert lost(act) == "finished"
    store.beat(second)
    assert store.complete(second, OK)["token"] == second.token
    assert store.result("k") == first


# ------------------------------------------------------------------ R12 network files


def test_r12_a_replayed_mkdir_leaves_an_orphan_that_the_lease_frees(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "on_network", lambda root: True)
    files = Steps()
    store = world.open(files=files)
    files.fail("mkdir", code=errno.EEXIST, after=True)
    time_ = FakeTime()
    store._judge.monotonic = time_
    assert isinstance(store.claim("k", "item"), Busy)
    assert isinstance(store.claim("k", "item"), Busy)
    time_.now += 901.0
    assert taken(store).generation == 2


@pytest.mark.parametrize("network", [True, False])
def test_r12_a_lock_is_trusted_only_where_it_is_seen(
    world: World, monkeypatch: pytest.MonkeyPatch, network: bool
) -> None:
    monkeypatch.setattr(judging, "on_network", lambda root: network)
    store = world.open()
    taken(store)
    abandon(store)  # on a network the free lock says nothing; the process itself lives
    assert isinstance(world.open().claim("k", "item"), Busy if network else Claim)


def test_r12_a_dead_process_is_seen_without_its_lock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "on_network", lambda root: True)
    store = world.open(here=replace(this_process(), start="1"))
    taken(store)
    assert taken(world.open()).generation == 2


# -------------------------------------------------------------------- R13 power loss


class Mains(Steps):
    """A file system that keeps names in memory until their directory is synced.

    What was not synced when the power fails may be there or not, each name by itself. Deletions
    are only noted, so that a cut can take them back.
    """

    def __init__(self, root: str) -> None:
        super().__init__()
        self.root = root
        #: Names made, moved and deleted since their directory was synced: (what, from, to).
        self.pending: list[tuple[str, str, str]] = []

    def mkdir(self, path: str) -> None:
        super().mkdir(path)
        self.pending.append(("made", "", path))

    def rmdir(self, path: str) -> None:
        super().rmdir(path)
        self.pending = [op for op in self.pending if op[2] != path]

    def symlink(self, text: str, path: str) -> None:
        super().symlink(text, path)
        self.pending.append(("made", "", path))

    def link(self, source: str, path: str) -> None:
        super().link(source, path)
        self.pending.append(("made", "", path))

    def write_new(self, path: str, data: bytes) -> None:
        super().write_new(path, data)
        self.pending.append(("made", "", path))

    def rename(self, source: str, target: str) -> None:
        super().rename(source, target)
        self.pending = [
            (what, old, new.replace(source, target, 1) if _in(new, source) else new)
            for what, old, new in self.pending
        ]
        self.pending.append(("moved", source, target))

    def delete_tree(self, directory: str) -> None:
        self._step("delete_tree", directory, lambda: None)
        self.pending += [("deleted", "", os.path.join(directory, name)) for name in os.listdir(directory)]

    def names(self, directory: str) -> list[str]:
        found = super().names(directory)
        return [] if directory.rstrip("/").endswith("/trash") else found  # deleted, as far as seen

    def sync(self, directory: str) -> None:
        super().sync(directory)
        folder = directory.rstrip("/")
        self.pending = [op for op in self.pending if os.path.dirname(op[2]) != folder]

    def cut(self, copy: str, kept: tuple[bool, ...]) -> None:
        """Write to *copy* what is left when the power fails and the pending names are *kept* or not."""
        subprocess.run(["cp", "-a", self.root, copy], check=True)
        for (what, old, new), keep in reversed(list(zip(self.pending, kept, strict=True))):
            there = copy + new.removeprefix(self.root)
            if what == "moved" and not keep:
                os.rename(there, copy + old.removeprefix(self.root))
            elif (what == "made" and not keep) or (what == "deleted" and keep):
                _remove(there)


def _in(path: str, folder: str) -> bool:
    return path.startswith(folder + "/")


def _remove(path: str) -> None:
    if os.path.islink(path) or os.path.isfile(path):
        os.unlink(path)
    elif os.path.isdir(path):
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)


Story = Callable[[World, Steps, Ledger], list[Claim]]


def _plain(world: World, files: Steps, ledger: Ledger) -> list[Claim]:
    store = world.agent(lease_seconds=0.0, files=files)
    claim = taken(store)
    try:
        ledger.complete(store, claim, "first")
        ledger.complete(store, claim, "repeat")
    except Died:
        raise _Cut([claim]) from None
    return [claim]


def _told(world: World, files: Steps, ledger: Ledger, claims: list[Claim], slow: DirectoryStore) -> None:
    """Revoke, take over, complete; then the one who was revoked comes back."""
    quick = world.agent("quick", lease_seconds=0.0, files=files)
    answer = quick.claim("k", "item")
    if isinstance(answer, Claim):
        claims.append(answer)
        ledger.complete(quick, answer, "second")
    ledger.complete(slow, claims[0], "late")


def _revoked(world: World, files: Steps, ledger: Ledger) -> list[Claim]:
    slow = world.agent("slow", lease_seconds=0.0, files=files)
    claims = [taken(slow)]
    try:
        _told(world, files, ledger, claims, slow)
    except Died:
        raise _Cut(claims) from None
    return claims


def _told_early(world: World, files: Steps, ledger: Ledger) -> list[Claim]:
    """As `_revoked`, but the one who was revoked is told so before the revocation is synced."""
    slow = world.agent("slow", lease_seconds=0.0, files=files)
    claims = [taken(slow)]

    def early() -> None:
        ledger.complete(slow, claims[0], "early")
        files.exists(world.root)  # a call at which the power may fail, with the revocation unsynced

    files.at("sync", "/locks/k", act=early)
    try:
        _told(world, files, ledger, claims, slow)
    except Died:
        raise _Cut(claims) from None
    return claims


def _released(world: World, files: Steps, ledger: Ledger) -> list[Claim]:
    store = world.agent(lease_seconds=0.0, files=files)
    first = taken(store)
    store.fail(first, "no luck")
    second = taken(store)
    try:
        ledger.complete(store, second, "second")
    except Died:
        raise _Cut([first, second]) from None
    return [first, second]


class _Cut(BaseException):
    """The power failed while these claims were in somebody's hands."""

    def __init__(self, claims: list[Claim]) -> None:
        super().__init__()
        self.claims = claims


def _until_cut(story: Story, world: World, ledger: Ledger, step: int | None) -> tuple[Mains, list[Claim]]:
    """Tell the story up to its *step*; None for all of it."""
    world.agent().close()  # the folders are there and synced before anything begins
    mains = Mains(world.root)
    if step is not None:
        mains.die("*", nth=step)
    try:
        claims = story(world, mains, ledger)
    except _Cut as cut:
        claims = cut.claims
    except Died:
        claims = []
    return mains, claims


def _choices(count: int, chance: random.Random) -> Iterator[tuple[bool, ...]]:
    """Yield which of *count* pending names are kept: all the ways, or as many as there is time for."""
    if count <= 4:
        yield from itertools.product((True, False), repeat=count)
        return
    yield (True,) * count
    yield (False,) * count
    for lone in range(count):
        yield tuple(n != lone for n in range(count))
    for _ in range(6):
        yield tuple(chance.random() < 0.5 for _ in range(count))


@pytest.mark.parametrize("story", [_plain, _revoked, _told_early, _released])
def test_r13_a_power_loss_at_any_step_loses_nothing_that_was_accepted(
    worlds: Callable[[], World], tmp_path: Path, story: Story
) -> None:
    chance = random.Random(13)
    mains, _ = _until_cut(story, worlds(), Ledger(), None)
    cuts = 0
    for step in range(1, len(mains.calls) + 2):
        world, before = worlds(), Ledger()
        mains, claims = _until_cut(story, world, before, step)
        for kept in _choices(len(mains.pending), chance):
            cuts += 1
            copy = str(tmp_path / f"cut{cuts}")
            mains.cut(copy, kept)
            ledger = Ledger(list(before.accepted), list(before.lost))
            with World(copy) as left:
                # Whoever had a claim on another machine is still there, and tries again.
                for claim in claims:
                    ledger.complete(left.reader(), claim, "after the cut")
                left.finish("k", ledger, here=after_reboot())
                for claim in claims:
                    ledger.complete(left.reader(), claim, "at the very end")
                ledger.check(left.reader().result("k"))
            _forget(copy)
    assert cuts > 50


def _forget(folder: str) -> None:
    subprocess.run(["rm", "-rf", folder], check=True)


def test_r13_a_torn_draft_is_never_a_result(world: World) -> None:
    dying = world.open()
    claim = taken(dying)
    Path(dying.layout.claim_path("k", 1), "r.0123456789abcdef").write_text('{"item": "it')
    abandon(dying)
    ledger = Ledger()
    assert world.finish("k", ledger)["word"] == "fresh"
    assert lost(lambda: world.reader().complete(claim, OK)) in ("revoked", "finished")


def test_r13_a_result_is_synced_before_anybody_is_told_of_it(world: World) -> None:
    files = Steps()
    store = world.open(files=files)
    claim = taken(store)
    results = os.path.join(world.root, "results")

    def synced() -> bool:
        return any(call.name == "sync" and call.path.rstrip("/") == results for call in files.calls)

    files.forget()
    store.complete(claim, OK)
    assert synced()
    files.forget()
    store.complete(claim, OK)  # a result that another call has linked may not be durable yet
    assert synced()


def test_r13_a_revocation_is_synced_before_the_next_generation_is_made(world: World) -> None:
    dying = world.open()
    taken(dying)
    abandon(dying)
    files = Steps()
    taken(world.open(files=files))
    order = [call.name for call in files.calls if call.name in ("symlink", "sync", "mkdir")]
    # Once by whoever revokes, as that is told; once by whoever builds on what he has read.
    assert order == ["symlink", "sync", "sync", "mkdir", "symlink"]


def test_r13_an_end_that_another_made_is_synced_before_the_next_generation_is_made(world: World) -> None:
    giving_up = world.open()
    giving_up.release(taken(giving_up), "enough")
    files = Steps()
    taken(world.open(files=files))
    order = [(call.name, call.path) for call in files.calls if call.name in ("symlink", "sync", "mkdir")]
    assert [name for name, _ in order] == ["sync", "mkdir", "symlink"]
    assert order[0][1] == giving_up.layout.claim_path("k", 1)


# ----------------------------------- R14 an error, or death, at every system call

Act = Callable[[World, DirectoryStore, Ledger], None]


def _claim(world: World, store: DirectoryStore, ledger: Ledger) -> None:
    _steps(store).arm()
    store.claim("k", "item")


def _complete(world: World, store: DirectoryStore, ledger: Ledger) -> None:
    claim = taken(store)
    _steps(store).arm()
    ledger.complete(store, claim)
    ledger.complete(store, claim, "repeat")


def _release(world: World, store: DirectoryStore, ledger: Ledger) -> None:
    claim = taken(store)
    _steps(store).arm()
    store.release(claim, "not now")


def _fail(world: World, store: DirectoryStore, ledger: Ledger) -> None:
    claim = taken(store)
    _steps(store).arm()
    store.fail(claim, "trouble")


def _beat(world: World, store: DirectoryStore, ledger: Ledger) -> None:
    claim = taken(store)
    _steps(store).arm()
    store.annotate(claim, {"a": 1})
    store.beat(claim)


def _reap(world: World, store: DirectoryStore, ledger: Ledger) -> None:
    _leave_dead(world)
    _steps(store).arm()
    store.reap()


def _take_over(world: World, store: DirectoryStore, ledger: Ledger) -> None:
    _leave_dead(world)
    _steps(store).arm()
    claim = store.claim("k", "item")
    if isinstance(claim, Claim):
        ledger.complete(store, claim)


def _help(world: World, store: DirectoryStore, ledger: Ledger) -> None:
    files = Steps()
    dying = world.open("victim", files=files)
    claim = taken(dying)
    files.forget()
    files.die("read")
    with pytest.raises(Died):
        ledger.complete(dying, claim)
    abandon(dying)
    _steps(store).arm()
    store.claim("k", "item")


def _give_up(world: World, store: DirectoryStore, ledger: Ledger) -> None:
    other = world.open()
    for _ in range(3):
        other.fail(taken(other), "trouble")
    _steps(store).arm()
    store.claim("k", "item")


def _leave_dead(world: World) -> None:
    dying = world.open("victim")
    taken(dying)
    abandon(dying)


class Armed(Steps):
    """Rules that are set before an act and begin to count in the midst of it."""

    def __init__(self, set_rules: Callable[[Steps], None]) -> None:
        super().__init__()
        self._set_rules = set_rules

    def arm(self) -> None:
        """Count from here."""
        self.forget()
        self._set_rules(self)


def _steps(store: DirectoryStore) -> Armed:
    files = store._files
    assert isinstance(files, Armed)
    return files


ACTS: dict[str, Act] = {
    "claim": _claim,
    "complete": _complete,
    "release": _release,
    "fail": _fail,
    "beat": _beat,
    "reap": _reap,
    "take over": _take_over,
    "help": _help,
    "give up": _give_up,
}


def _play(
    world: World, act: Act, rules: Callable[[Steps], None], ledger: Ledger
) -> tuple[DirectoryStore, Armed]:
    files = Armed(rules)
    store = world.open(files=files)
    with contextlib.suppress(OSError, ClaimLost, Died):
        act(world, store, ledger)
    return store, files


@pytest.mark.parametrize("name", ACTS)
@pytest.mark.parametrize("code", DISK_ERRORS, ids=lambda code: errno.errorcode[code])
@pytest.mark.parametrize("how", ["not done", "done all the same", "from then on"])
def test_r14_an_error_at_any_call_loses_nothing(
    worlds: Callable[[], World], name: str, code: int, how: str
) -> None:
    act = ACTS[name]
    _, dry = _play(worlds(), act, lambda files: None, Ledger())
    for step in range(1, len(dry.calls) + 1):
        world, ledger = worlds(), Ledger()

        def rules(files: Steps, step: int = step) -> None:
            last = step + 999 if how == "from then on" else step
            files.fail("*", nth=step, last=last, code=code, after=how == "done all the same")

        store, _ = _play(world, act, rules, ledger)
        store._files.forget()  # type: ignore[attr-defined]  # the disk works again
        abandon(store)
        world.finish("k", ledger)


@pytest.mark.parametrize("name", ACTS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_r14_death_at_any_call_loses_nothing(worlds: Callable[[], World], name: str, after: bool) -> None:
    act = ACTS[name]
    _, dry = _play(worlds(), act, lambda files: None, Ledger())
    for step in range(1, len(dry.calls) + 1):
        world, ledger = worlds(), Ledger()

        def rules(files: Steps, step: int = step) -> None:
            files.die("*", nth=step, after=after)

        store, _ = _play(world, act, rules, ledger)
        abandon(store)
        world.finish("k", ledger)
        fresh = world.open()
        fresh.tidy()
        assert names(world, "locks") == []
        assert names(world, "trash") == []


@pytest.mark.parametrize("code", DISK_ERRORS, ids=lambda code: errno.errorcode[code])
def test_r14_a_claim_that_raised_holds_nothing(worlds: Callable[[], World], code: int) -> None:
    dry = Steps()
    store = worlds().open(files=dry)
    dry.forget()
    taken(store)
    for step in range(1, len(dry.calls) + 1):
        world, files = worlds(), Steps()
        store = world.open(files=files)
        files.forget()
        files.fail("*", nth=step, code=code)
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is compared below
            store.claim("k", "item")
        assert caught.value.errno == code
        assert store.held("k") is None
        claim = taken(world.open())  # another may go on at once, while this process lives
        assert not any(attempt.counted for attempt in store.attempts("k"))
        assert claim.generation <= 2


@pytest.mark.parametrize("code", DISK_ERRORS, ids=lambda code: errno.errorcode[code])
def test_r14_a_store_that_is_closed_frees_what_it_could_not_give_back(
    worlds: Callable[[], World], code: int
) -> None:
    """The process lives on, and the disk is broken from some call of its claim on."""
    dry = Steps()
    store = worlds().open(files=dry)
    dry.forget()
    taken(store)
    for step in range(1, len(dry.calls) + 1):
        world, files = worlds(), Steps()
        store = world.open(files=files)
        files.forget()
        files.fail("*", nth=step, last=step + 999, code=code)
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is compared below
            store.claim("k", "item")
        assert caught.value.errno == code
        store.close()
        world.finish("k", Ledger())


# --------------------------------------------------------------- R15 the machine sleeps


def test_r15_time_asleep_is_not_silence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = world.agent(lease_seconds=100.0)
    taken(agent)
    reaper = world.open(patient=False)
    stamp = reaper._judge._store_time_ns() - int(3_700e9)
    os.utime(reaper.layout.claim_path("k", 1), ns=(stamp, stamp))
    asleep = clock.suspended_seconds() + 3_650.0
    with monkeypatch.context() as patch:
        patch.setattr(clock, "suspended_seconds", lambda: asleep)
        assert isinstance(reaper.claim("k", "item"), Busy)  # silent for 50 s awake
    assert taken(reaper).generation == 2  # without the sleep it was 3,700 s


def test_r15_a_patient_reaper_is_asleep_too(world: World) -> None:
    taken(world.agent(lease_seconds=100.0))
    reaper, time_ = world.open(), FakeTime()
    reaper._judge.monotonic = time_  # CLOCK_MONOTONIC stands while the machine sleeps
    assert isinstance(reaper.claim("k", "item"), Busy)
    stamp = reaper._judge._store_time_ns() - int(1e15)
    os.utime(reaper.layout.claim_path("k", 1), ns=(stamp, stamp))
    assert isinstance(reaper.claim("k", "item"), Busy)


@pytest.mark.parametrize("patient", [True, False])
def test_r15_a_living_process_is_never_taken_for_silent(world: World, patient: bool) -> None:
    store = world.open(lease_seconds=0.0)
    claim = taken(store)
    stamp = int(time.time() * 1e9) - int(1e15)
    os.utime(store.layout.claim_path("k", 1), ns=(stamp, stamp))
    reaper, time_ = world.open(patient=patient, lease_seconds=0.0), FakeTime()
    reaper._judge.monotonic = time_
    for _ in range(3):
        assert isinstance(reaper.claim("k", "item"), Busy)
        assert reaper.reap() == []
        time_.now += 1e9
    assert store.complete(claim, OK)


# ------------------------------------------------------- R16 a completion sent twice


def _completion_calls(world: World) -> int:
    files = Steps()
    claim = taken(world.agent())
    store = world.open(files=files)
    files.forget()
    store.complete(claim, OK)
    return len(files.calls)


def test_r16_the_same_completion_twice_at_every_interleaving_is_accepted_twice(
    worlds: Callable[[], World],
) -> None:
    count = _completion_calls(worlds())
    for first, second in itertools.product(range(1, count + 1), repeat=2):
        world = worlds()
        claim = taken(world.agent())
        files, others = Steps(), Steps()
        one, two = world.agent(files=files), world.agent(files=others)
        files.forget()
        others.forget()
        gate, other_gate = files.stop("*", nth=first), others.stop("*", nth=second)
        a = Running(lambda s=one, c=claim: s.complete(c, {**OK, "word": "a"}))  # type: ignore[misc]
        gate.wait()
        b = Running(lambda s=two, c=claim: s.complete(c, {**OK, "word": "b"}))  # type: ignore[misc]
        _reached_or_ended(other_gate, b)
        gate.open()
        result = a.result()
        other_gate.open()
        assert b.result() == result == world.reader().result("k")


def _reached_or_ended(gate: Gate, call: Running[Any]) -> None:
    while not gate._reached.wait(0.001) and call._thread.is_alive():
        pass


def test_r16_a_repeat_after_it_was_published_by_another_is_accepted(world: World) -> None:
    files = Steps()
    store = world.agent(files=files)
    claim = taken(store)
    files.forget()
    files.fail("link", "/results/", code=errno.EIO)  # decided, not published
    with pytest.raises(OSError, match="Input/output"):
        store.complete(claim, OK)
    helper = world.open()
    assert helper.claim("k", "item") == Done(key="k")
    assert store.complete(claim, OK)["token"] == claim.token


# ------------------------------------------------------------- R17 spellings and slugs


def test_r17_two_spellings_are_one_item(world: World, tmp_path: Path) -> None:
    base = os.path.realpath(tmp_path)
    store = world.open()
    one = item_key(canonical("a/b.md", base))
    store.complete(taken(store, one), OK)
    for spelling in ("./a/b.md", "a//b.md", f"{base}/a/b.md", "a/c/../b.md"):
        assert store.claim(item_key(canonical(spelling, base)), spelling) == Done(key=one)


def test_r17_two_items_with_one_slug_are_two(world: World, tmp_path: Path) -> None:
    base = os.path.realpath(tmp_path)
    keys = [item_key(canonical(item, base)) for item in ("a/b c.md", "a/b-c.md")]
    assert keys[0].rpartition("-")[0] == keys[1].rpartition("-")[0]
    store = world.open()
    assert {taken(store, key).key for key in keys} == set(keys)


# ------------------------- every pair of acts, one running whole between two calls of the other

Half = Callable[[DirectoryStore, Claim, Ledger], object]

HALVES: dict[str, Half] = {
    "complete": lambda store, claim, ledger: ledger.complete(store, claim, "owner"),
    "release": lambda store, claim, ledger: store.release(claim, "x"),
    "fail": lambda store, claim, ledger: store.fail(claim, "x"),
    "beat": lambda store, claim, ledger: store.beat(claim),
    "annotate": lambda store, claim, ledger: store.annotate(claim, {"a": 1}),
    "reap": lambda store, claim, ledger: store.reap(),
    "revoke": lambda store, claim, ledger: store.revoke("k", "cancelled"),
    "tidy": lambda store, claim, ledger: store.tidy(),
    "take over and complete": lambda store, claim, ledger: _take_and_complete(store, ledger),
    "take over and fail": lambda store, claim, ledger: _take_and_fail(store),
}


def _take_and_complete(store: DirectoryStore, ledger: Ledger) -> None:
    answer = store.claim("k", "item")
    if isinstance(answer, Claim):
        ledger.complete(store, answer, "taker")


def _take_and_fail(store: DirectoryStore) -> None:
    answer = store.claim("k", "item")
    if isinstance(answer, Claim):
        store.fail(answer, "x")


def _do(half: Half, store: DirectoryStore, claim: Claim, ledger: Ledger) -> None:
    try:
        half(store, claim, ledger)
    except FileExistsError:
        assert half is HALVES["annotate"]  # at most once a claim
    except ClaimLost as error:
        if error.loss.reason != "finished":  # its own completion ends a claim as well
            ledger.lost.append(claim.token)


@pytest.mark.parametrize("outer", HALVES)
@pytest.mark.parametrize("inner", HALVES)
def test_no_interleaving_of_two_acts_accepts_two_results_or_loses_the_item(
    worlds: Callable[[], World], outer: str, inner: str
) -> None:
    """The owner may be judged silent at any moment: its lease is nothing."""
    for step in itertools.count(1):
        world, ledger, files = worlds(), Ledger(), Steps()
        owner = world.agent("owner", lease_seconds=0.0)
        claim = taken(owner)
        one = world.agent("one", lease_seconds=0.0, files=files, attempts=99)
        two = world.agent("two", lease_seconds=0.0, attempts=99)
        reached: list[bool] = []

        def between(two: DirectoryStore = two, claim: Claim = claim, ledger: Ledger = ledger) -> None:
            reached.append(True)  # noqa: B023 - called within this very round
            _do(HALVES[inner], two, claim, ledger)

        files.at("*", act=between, nth=step)
        _do(HALVES[outer], one, claim, ledger)
        ledger.complete(owner, claim, "the owner, late")
        world.finish("k", ledger)
        world.open().tidy()
        assert names(world, "locks") == []
        if not reached:
            break


def test_an_end_is_read_as_it_was_written() -> None:
    for end in (
        End(how="revoked", counted=True, detail="why: by whom"),
        End(how="revoked", counted=False),
        End(how="released", token="t", counted=True, detail="a:b"),
        End(how="released", token="t", counted=False),
    ):
        assert End.from_text(end.to_text()) == end
