"""Queue lines get into the store once each, whoever takes them in and whatever is done to the file."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import PATIENCE, ROOT
from hypervisor.core.errors import Refused
from hypervisor.queue import batch as batch_module
from hypervisor.queue.batch import Batch
from hypervisor.queue.batches import open_folder
from hypervisor.queue.source import TakenIn
from hypervisor.queue.summary import take_census


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    made.mkdir()
    return made


@pytest.fixture
def batch(folder: Path) -> Iterator[Batch]:
    (folder / "queue.txt").write_text("a\nb\n")
    with open_folder(folder, cwd=str(folder)) as made:
        yield made


def items(batch: Batch) -> list[str]:
    return [one.work.text for one in batch.store.batches.items(batch.number)]


def append(batch: Batch, data: bytes) -> None:
    with open(batch.source.path, "ab") as file:
        file.write(data)


def test_appended_lines_are_taken_in_as_they_come(batch: Batch) -> None:
    batch.take_in()
    assert items(batch) == ["a", "b"]
    append(batch, b"c\n./a\nd\n")
    batch.take_in()
    assert items(batch) == ["a", "b", "c", "d"]
    assert take_census(batch).duplicates == 1
    assert batch.take_in_some() is TakenIn.NOTHING


def test_a_block_at_a_time_is_taken_in_where_that_is_enough(batch: Batch) -> None:
    assert batch.take_in(limit=1) is TakenIn.SOME
    assert items(batch) == ["a"]
    assert batch.take_in(limit=1) is TakenIn.SOME
    assert batch.take_in(limit=1) is TakenIn.NOTHING
    assert items(batch) == ["a", "b"]


def test_a_last_line_without_an_end_is_one_item_with_or_without_what_follows(batch: Batch) -> None:
    append(batch, b"c")
    batch.take_in()
    assert items(batch) == ["a", "b", "c"]
    append(batch, b"\nd")
    batch.take_in()
    assert items(batch) == ["a", "b", "c", "d"]
    append(batch, b"dd\n")  # it was torn all the same
    batch.take_in()
    assert items(batch) == ["a", "b", "c", "d", "ddd"]
    assert take_census(batch).duplicates == 0


@pytest.mark.parametrize("data", [b"c\n", b"b\nc\nd\n", b"x\n" * 50], ids=["shorter", "replaced", "another"])
def test_a_queue_that_was_replaced_is_told_and_read_from_its_start(
    batch: Batch, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    batch.take_in()
    Path(batch.source.path).write_bytes(data)
    batch.take_in()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1, told
    assert "queue.txt was replaced or shortened" in told[0]
    known = ["a", "b"]
    assert items(batch) == known + [one for one in dict.fromkeys(data.decode().split()) if one not in known]
    batch.take_in()
    assert capsys.readouterr().err == "", "it is told once"


def test_while_another_takes_in_the_rest_goes_on_with_what_is_there(batch: Batch) -> None:
    with open(batch.source.path, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert batch.take_in_some() is TakenIn.BUSY
        assert items(batch) == []
    assert batch.take_in_some() is TakenIn.SOME


_TAKE = """
import sys
from hypervisor.queue.batches import open_folder
from hypervisor.queue.source import TakenIn
batch = open_folder(sys.argv[1], cwd="/")
print("ready", flush=True)
sys.stdin.readline()
while batch.take_in(limit=37) is not TakenIn.NOTHING:
    pass
"""


@pytest.mark.slow
def test_eight_processes_take_each_line_in_once(folder: Path) -> None:
    lines = [f"item {number}" for number in range(2_000)]
    (folder / "queue.txt").write_text("".join(f"{line}\n" for line in lines))
    takers = [
        subprocess.Popen(
            [sys.executable, "-c", _TAKE, str(folder)],
            env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for _ in range(8)
    ]  # fmt: skip
    for taker in takers:
        assert taker.stdout is not None
        assert taker.stdout.readline() == b"ready\n"
    for taker in takers:
        taker.communicate(b"go\n", timeout=PATIENCE)
    assert [taker.returncode for taker in takers] == [0] * 8
    with open_folder(folder, cwd="/") as batch:
        assert items(batch) == lines
        assert batch.refresh().duplicates == 0


def test_a_crash_between_two_blocks_loses_nothing_and_takes_nothing_in_twice(folder: Path) -> None:
    (folder / "queue.txt").write_text("".join(f"{number}\n" for number in range(100)))
    with open_folder(folder, cwd="/") as batch:
        batch.take_in(limit=40)
    with open_folder(folder, cwd="/") as batch:
        batch.take_in()
        assert items(batch) == [str(number) for number in range(100)]
        assert batch.refresh().duplicates == 0


def test_any_bytes_of_a_line_come_back_as_they_were(folder: Path) -> None:
    records = [b"\xff\xfe", b"a\0b", "n\u00e4her \U0001f600".encode(), b"%41", b"\x01x", b"\xed\xa0\x80"]
    (folder / "queue.txt").write_bytes(b"\n".join(records) + b"\n")
    with open_folder(folder, cwd=str(folder)) as batch:
        batch.take_in()
        assert [os.fsencode(item) for item in items(batch)] == records
        assert len({one.work.key for one in batch.store.batches.items(batch.number)}) == len(records)


# ---------------------------------------------------------------- whose store


def project(root: Path) -> Path:
    """Make a project with two tasks."""
    for name in ("t-1", "t-2"):
        path = root / f"tasks/{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"---\nid: {name}\nstatus: active\n---\n# {name}\n")
    (root / ".hypervisor").mkdir(mode=0o700)
    batch_module._project_above.cache_clear()
    return root


def test_a_folder_without_tasks_has_a_store_of_its_own(folder: Path) -> None:
    (folder / "queue.txt").write_text("a\n")
    with open_folder(folder, cwd="/") as batch:
        assert (batch.project, batch.store.folder) == (None, str(folder))
    assert (folder / "hypervisor.db").exists()


def test_tasks_are_claimed_in_their_projects_store(folder: Path, tmp_path: Path) -> None:
    root = project(tmp_path / "project")
    (folder / "queue.txt").write_text(f"no task\n{root}/tasks/t-1.md\n{root}/tasks/../tasks/t-2.md\n")
    with open_folder(folder, cwd="/") as batch:
        batch.take_in()
        assert batch.store.folder == str(root / ".hypervisor")
        assert items(batch) == ["no task", "tasks/t-1.md", "tasks/t-2.md"]
        number = batch.number
    assert not (folder / "hypervisor.db").exists()
    with open_folder(folder, cwd="/", write=False) as again:
        assert (again.number, again.folder) == (number, str(folder))


def test_what_is_no_task_belongs_to_one_batch_of_the_project(tmp_path: Path) -> None:
    root = project(tmp_path / "project")
    found = []
    for name in ("one", "two"):
        (root / name).mkdir()
        (root / name / "queue.txt").write_text("tasks/t-1.md\nplain\n")
        with open_folder(root / name, cwd=str(root)) as batch:
            batch.take_in()
            found.append([one.work.id for one in batch.store.batches.items(batch.number)])
    assert found[0][0] == found[1][0], "a task is one item for all"
    assert found[0][1] != found[1][1]


def test_folders_of_one_name_are_two_batches(tmp_path: Path) -> None:
    root = project(tmp_path / "project")
    names = set()
    for parent in ("a", "b"):
        (root / parent / "work").mkdir(parents=True)
        (root / parent / "work/queue.txt").write_text(f"{root}/tasks/t-1.md\n")
        for _ in range(2):
            with open_folder(root / parent / "work", cwd="/") as batch:
                names.add((batch.id, batch.folder))
    assert len(names) == 2


def test_a_queue_of_two_projects_is_refused_with_the_line(folder: Path, tmp_path: Path) -> None:
    one, two = project(tmp_path / "one"), project(tmp_path / "two")
    (folder / "queue.txt").write_text(f"{one}/tasks/t-1.md\n{two}/tasks/t-1.md\n")
    with (
        open_folder(folder, cwd="/") as batch,
        pytest.raises(Refused, match=r"two/tasks/t-1.md is a task of the project .*two.* a queue for each"),
    ):
        batch.take_in()


def test_tasks_that_are_appended_to_a_queue_without_any_are_refused(batch: Batch, tmp_path: Path) -> None:
    batch.take_in()
    root = project(tmp_path / "project")
    append(batch, f"{root}/tasks/t-1.md\n".encode())
    with pytest.raises(Refused, match=r"put tasks into a queue of their own"):
        batch.take_in()


def test_a_project_may_be_moved_with_its_batches(tmp_path: Path) -> None:
    root = project(tmp_path / "project")
    (root / "work").mkdir()
    (root / "work/queue.txt").write_text("tasks/t-1.md\n")
    with open_folder(root / "work", cwd=str(root)) as batch:
        batch.take_in()
    moved = root.rename(tmp_path / "moved")
    batch_module._project_above.cache_clear()
    with open_folder(moved / "work", cwd=str(moved), write=False) as batch:
        append(batch, b"tasks/t-2.md\n")
        batch.take_in()
        assert items(batch) == ["tasks/t-1.md", "tasks/t-2.md"]
        assert batch.folder == str(moved / "work")


def test_what_nobody_has_begun_is_looked_at_without_a_trace(folder: Path) -> None:
    (folder / "queue.txt").write_text("a\nb\n")
    with open_folder(folder, cwd="/", write=False) as batch:
        assert take_census(batch).of("waiting") == 2
    assert os.listdir(folder) == ["queue.txt"]
