"""Lock directories and result files: the seeds' own flow, to the letter, and other programs beside us."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Gate, Shell, eventually, script, write_task
from hypervisor.core.process import this_process
from hypervisor.queue import batch as batch_module
from hypervisor.queue.batches import open_folder
from hypervisor.store.liveness import WorkerLock, new_worker_id
from hypervisor.store.records import Completion, Worker, WorkerKind
from hypervisor.store.store import Store
from inprocess import in_process


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with in_process(tmp_path) as made:
        yield made


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path, "gate")
    yield made
    made.close()


def flow(user: Shell, *items: str) -> Path:
    """Do as the card says: ``mkdir -p work/locks work/results``, and a queue."""
    folder = user.cwd / "work"
    (folder / "locks").mkdir(parents=True)
    (folder / "results").mkdir()
    (folder / "queue.txt").write_text("".join(f"{item}\n" for item in items))
    return folder


def key(folder: Path, item: str) -> str:
    with open_folder(folder, cwd=str(folder), write=False) as batch:
        return batch.ref(item).key


def written(folder: Path) -> dict[str, str]:
    """Return the status in each result file, by its item."""
    found = [json.loads(path.read_bytes()) for path in (folder / "results").glob("*.json")]
    return {result["item"]: result["status"] for result in found}


def dead_worker(store: Store) -> Worker:
    worker = Worker(id=new_worker_id("dead", 1), kind=WorkerKind.PROCESS, name="dead", process=this_process())
    store.claims.add_worker(worker)
    return worker


# --------------------------------------------------------------------- the flow


def test_the_cards_flow_leaves_a_result_file_an_item_and_no_lock(user: Shell) -> None:
    notes = user.cwd / "notes"
    for number in range(60):
        write_task(notes / f"t-{number}.md", title="Fix typo in the README")
    folder = flow(user, *(str(path) for path in sorted(notes.iterdir())))
    running = [user.start("--batch", "50", cwd=folder) for _ in range(2)]
    for one in running:
        one.end().passed()
    assert user.worker("--stats", "--json", cwd=folder).passed().json["success"] == 60
    assert written(folder) == {str(path): "success" for path in notes.iterdir()}
    assert os.listdir(folder / "locks") == []


def test_a_claim_is_a_directory_while_it_lasts(user: Shell, gate: Gate) -> None:
    folder = flow(user, "a", "b")
    running = user.start("--dir", "work", "--all", "--exec", script(user.cwd, "wait", gate.words))
    gate.wait()
    assert os.listdir(folder / "locks") == [key(folder, "a")]
    gate.open()
    gate.wait()
    assert os.listdir(folder / "locks") == [key(folder, "b")]
    assert written(folder) == {"a": "success"}
    gate.open()
    running.end().passed()
    assert os.listdir(folder / "locks") == []


def test_who_makes_neither_folder_gets_neither(user: Shell) -> None:
    folder = user.cwd / "work"
    folder.mkdir()
    (folder / "queue.txt").write_text("a\n")
    user.worker("--dir", "work", "--all", "--exec", "true").passed()
    assert not (folder / "locks").exists()
    assert not (folder / "results").exists()


def test_a_retried_item_gets_its_new_result_and_a_cancelled_one_gets_one(user: Shell) -> None:
    folder = flow(user, "a", "b")
    user.worker("--dir", "work", "--batch", "1", "--exec", "false")
    user.hypervisor("retry", "--dir", "work").passed()
    user.hypervisor("cancel", "--dir", "work", "--item", "b").passed()
    user.worker("--dir", "work", "--all", "--exec", "true").passed()
    assert written(folder) == {"a": "success", "b": "skipped"}


# -------------------------------------------------------------- other programs


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["directory", "file"])
def test_an_item_that_another_program_holds_is_left_alone_and_named(user: Shell, kind: str) -> None:
    folder = flow(user, "a", "b")
    foreign = folder / "locks" / key(folder, "a")
    foreign.mkdir() if kind == "directory" else foreign.with_name(foreign.name + ".lock").touch()
    stats = user.worker("--dir", "work", "--stats").passed().lines
    assert "1 held by a lock directory: a" in stats
    ended = user.worker("--dir", "work", "--all", "--exec", "true").passed()
    assert "success  b" in ended.out
    assert f"held by a lock {kind}: {foreign}" in ended.err
    assert "held by others: a" in ended.err
    assert written(folder) == {"b": "success"}
    foreign.rmdir() if kind == "directory" else foreign.with_name(foreign.name + ".lock").unlink()
    eventually(lambda: user.worker("--dir", "work", "--all", "--exec", "true").code == 0, "the item")
    assert written(folder) == {"a": "success", "b": "success"}
    with open_folder(folder, cwd="/") as batch:
        (attempt,) = batch.store.claims.attempts(batch.ref("a").key)
        assert attempt.number == 1, "what it did not get was no attempt"


def test_a_directory_that_a_crash_left_is_ours(user: Shell) -> None:
    folder = flow(user, "a")
    with open_folder(folder, cwd="/") as batch:
        batch.take_in()
        worker = dead_worker(batch.store)
        lock = WorkerLock(batch.store.workers, worker.id)
        (claim,) = batch.store.claims.claim_next(worker, batch.number, 1, locks=True)
        (folder / "locks" / claim.lock).mkdir()
        os.close(lock.descriptor)  # as if it had died
    ended = user.worker("--dir", "work", "--all", "--exec", "true").passed()
    assert ended.err == ""
    assert os.listdir(folder / "locks") == []
    assert written(folder) == {"a": "success"}


def test_a_result_file_that_a_crash_left_out_is_written_by_the_next_command(user: Shell) -> None:
    folder = flow(user, "a")
    with open_folder(folder, cwd="/") as batch:
        batch.take_in()
        worker = dead_worker(batch.store)
        (claim,) = batch.store.claims.claim_next(worker, batch.number, 1)
        result = {"item": "a", "status": "success", "outcome": "x"}
        completion = Completion(attempt=claim.attempt, status="success", result=result, published=False)
        batch.store.claims.complete_one(completion)  # and dies before it writes the file
    assert written(folder) == {}
    assert user.worker("--dir", "work", "--all", "--exec", "true").code == 3
    assert written(folder) == {"a": "success"}


# ---------------------------------------------------------------------- tasks


def project(user: Shell) -> Path:
    for number in (1, 2):
        write_task(user.cwd / f"tasks/file-{number}.md", id=f"t-{number}", title="Fix typo in the README")
    (user.cwd / ".hypervisor").mkdir()
    batch_module._project_above.cache_clear()
    return flow(user, "tasks/file-1.md", "tasks/file-2.md")


def test_a_tasks_lock_is_called_by_its_id(user: Shell, gate: Gate) -> None:
    folder = project(user)
    running = user.start("--dir", "work", "--batch", "1", "--exec", script(user.cwd, "wait", gate.words))
    gate.wait()
    assert os.listdir(folder / "locks") == ["t-1"]
    gate.open()
    running.end().passed()
    assert os.listdir(folder / "locks") == []
    (folder / "locks/t-2").mkdir()
    ended = user.worker("--dir", "work", "--all").passed()
    assert f"held by a lock directory: {folder}/locks/t-2" in ended.err
    assert written(folder) == {"tasks/file-1.md": "success"}


def test_the_projects_own_lock_directories_hold_for_a_batch_too(user: Shell) -> None:
    project(user)
    (user.cwd / ".hypervisor/locks").mkdir()
    (user.cwd / ".hypervisor/locks/t-2").mkdir()
    ended = user.worker("--tasks", "tasks/*.md", "--all").passed()
    assert "1 tasks, 1 skipped (held by a lock directory)" in ended.err
    user.worker("--dir", "work", "--all").passed()
    assert sorted(os.listdir(user.cwd / ".hypervisor/locks")) == ["t-2"]


def test_a_task_that_a_command_has_processed_is_run_again_only_where_it_is_named(user: Shell) -> None:
    for number in range(3):
        write_task(user.cwd / f"tasks/t-{number}.md")
    user.worker("--tasks", "tasks/*.md", "--all", "--exec", "true").passed()
    ended = user.hypervisor("preflight", "--all")
    assert (ended.code, "3 skipped (done by batch" in ended.out) == (3, True), ended.out
    assert "name it to run it again" in ended.out
    assert user.hypervisor("preflight", "t-1").passed().out.startswith("1 would run")
