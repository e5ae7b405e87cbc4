"""Receipts of what cannot be undone: one for each item, all there after a kill, compared with the store."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import hypervisor
from commands import eventually, write_task
from hypervisor.core.errors import Unreadable
from hypervisor.core.model import Outcome, TaskStatus
from hypervisor.core.project import Project
from hypervisor.core.settings import settings_of
from hypervisor.review.receipt_audit import Audit, Mismatch, audit_task
from hypervisor.store.store import Store
from hypervisor.tasks.actor import Actor
from hypervisor.tasks.completion import TaskCompletion
from hypervisor.tasks.receipts import append_receipt, receipts_in, write_left, write_receipts
from hypervisor.tasks.service import TaskService

SCRIPTS = Path(hypervisor.__file__).resolve().parent.parent
KEY = "t-1"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path, tmp_path / ".hypervisor")
    made.prepare()
    return made


@pytest.fixture
def service(project: Project) -> Iterator[TaskService]:
    with TaskService(project, settings_of(project.state), Actor(name="claude")) as made:
        yield made


@pytest.fixture
def store(service: TaskService) -> Store:
    return service.store


@pytest.fixture
def task(project: Project) -> Path:
    return write_task(project.root / "tasks" / "t-1.md")


def lines(path: Path) -> list[str]:
    return receipts_in(path.read_text("utf-8"), 0)


def verified(service: TaskService, name: str = "t-1", *, mend: bool = False) -> tuple[int, list[Mismatch]]:
    audit, head = Audit(), service.find(name)
    audit_task(audit, service.store, service.key(head), head, service.result(head), mend=mend)
    return audit.receipts, audit.mismatches


# ------------------------------------------------------------------------- body


def test_receipts_are_in_the_body_in_the_order_in_which_they_were_kept(
    service: TaskService, task: Path
) -> None:
    for _ in range(2):
        service.receipt("t-1", "Archived: a | b", "m-1")
        service.receipt("t-1", "Archived: a | b", "m-2")  # another mail that looks the same
        service.receipt("t-1", "- Sent the\n summary")
    service.receipt("t-1", "Archived: something else", "m-1")
    assert lines(task) == ["- Archived: a | b", "- Archived: a | b", "- Sent the summary"]
    assert verified(service) == (3, [])


def test_a_body_changes_by_the_receipt_alone(service: TaskService, task: Path) -> None:
    text = task.read_text("utf-8").replace("\n", "\r\n")
    task.write_bytes(text.encode())
    service.receipt("t-1", "sent")
    assert task.read_bytes().decode() == f"{text}\r\n## Receipts\r\n\r\n- sent\r\n"


def test_what_a_crash_left_out_of_the_body_is_written_by_the_next_command(
    service: TaskService, store: Store, project: Project, task: Path
) -> None:
    service.receipt("t-1", "one", "m-1")
    key = service.key(service.find("t-1"))
    store.receipts.enter(key, "tasks/t-1.md", "m-2", "- two")  # as if its writer had died then
    assert lines(task) == ["- one"]
    assert write_left(store, project.root) == 1
    assert lines(task) == ["- one", "- two"]
    store.receipts.enter(key, "tasks/t-1.md", "m-3", "- three")
    service.receipt("t-1", "four", "m-4")
    assert lines(task) == ["- one", "- two", "- three", "- four"]
    store.receipts.enter(key, "tasks/t-1.md", "m-5", "- five")
    service.claim("t-1")
    assert lines(task)[-1] == "- five"
    assert store.receipts.unwritten() == []


def test_a_line_that_was_written_before_a_crash_is_not_written_twice(
    service: TaskService, store: Store, task: Path
) -> None:
    service.receipt("t-1", "one", "m-1")
    key = service.key(service.find("t-1"))
    store.receipts.enter(key, "tasks/t-1.md", "m-2", "- one")
    task.write_text(task.read_text("utf-8") + "- one\n", "utf-8")  # and then its writer died
    write_receipts(store, key, task)
    assert lines(task) == ["- one", "- one"]


def test_a_receipt_is_kept_though_its_task_cannot_be_written(
    service: TaskService, store: Store, project: Project, task: Path
) -> None:
    whole, key = task.read_bytes(), service.key(service.find("t-1"))
    task.write_bytes(b"\xff" + whole)
    with pytest.raises(Unreadable):
        append_receipt(store, key, project.root, task, "sent", "m-1")
    assert store.receipts.begin(key, "m-1") == "done"
    write_left(store, project.root)
    task.write_bytes(whole)
    write_left(store, project.root)
    assert lines(task) == ["- sent"]


# ----------------------------------------------------------------------- verify


def test_verify_names_what_was_removed_or_changed_and_writes_it_again_if_asked(
    service: TaskService, task: Path
) -> None:
    service.receipt("t-1", "Archived: 2025-11-03 | a | b", "m-1")
    service.receipt("t-1", "Archived: 2025-11-04 | c | d", "m-2")
    whole = task.read_text("utf-8")
    task.write_text(whole.replace("2025-11-03", "2025-11-13"), "utf-8")
    count, found = verified(service)
    assert count == 1
    assert [(one.where, one.kind) for one in found] == [("t-1", "foreign"), ("t-1", "missing")]
    assert "m-1" in found[1].text
    task.write_text(whole.replace("- Archived: 2025-11-04 | c | d\n", ""), "utf-8")
    assert [one.kind for one in verified(service)[1]] == ["missing"]
    assert lines(task) == ["- Archived: 2025-11-03 | a | b"], "what its owner has removed is not put back"
    assert verified(service, mend=True) == (2, [])
    assert task.read_text("utf-8") == whole


def test_a_task_that_ended_in_doubt_or_without_the_receipts_it_asks_for_is_named(
    service: TaskService, project: Project, task: Path
) -> None:
    write_task(project.root / "tasks" / "t-2.md", receipts="[mcp__mail__*]")
    assert service.begin_receipt("t-1", "m-9") == "go"
    assert [one.kind for one in verified(service)[1]] == ["in doubt"]
    for name in ("t-1", "t-2"):
        service.claim(name)
        service.finish(name, TaskCompletion(outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text="all done"))
    assert [one.kind for one in verified(service)[1]] == ["in doubt", "ended in doubt"]
    assert [one.kind for one in verified(service, "t-2")[1]] == ["no receipts"]


# ------------------------------------------------------------------------ kills

#: Does something that cannot be undone (a line in a file, synced) for each item, with begin and receipt.
ACTOR = """
import os, sys
from pathlib import Path
from hypervisor.core.settings import settings_of
from hypervisor.store.store import Store
from hypervisor.tasks.receipts import append_receipt
root, done, count, key = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
store = Store.open(root / ".hypervisor", settings_of(None))
task = root / "tasks" / "t-1.md"
acted = set(open(done).read().split()) if os.path.exists(done) else set()  # the tool itself knows
with open(done, "a") as file:
    print("ready", flush=True)
    for number in range(count):
        item = f"m-{number:03d}"
        leave = store.receipts.begin(key, item)
        if leave == "done":
            continue
        if leave == "in doubt":
            leave = "acted" if item in acted else store.receipts.begin(key, item, again=True)
        if leave == "go":
            file.write(item + "\\n"); file.flush(); os.fsync(file.fileno())
        line = f"Archived: 2025-11-03 | a{number}@b.example | Invoice {number}"
        append_receipt(store, key, root, task, line, item)
        print(item, flush=True)
"""


def act(project: Project, done: Path, count: int, key: str) -> subprocess.Popen[bytes]:
    """Start the worker that acts."""
    return subprocess.Popen(
        [sys.executable, "-c", ACTOR, str(project.root), str(done), str(count), key],
        cwd=SCRIPTS, stdout=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_killed_anywhere_no_receipt_that_was_told_is_lost_and_at_most_one_act_is_named(
    service: TaskService, project: Project, task: Path
) -> None:
    done, count, chance = project.root / "done.txt", 40, random.Random(1)
    key, head = service.key(service.find("t-1")), task.read_text("utf-8")
    for kill in range(4):
        worker = act(project, done, count, key)
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        start = len(done.read_text().split()) if done.exists() else 0
        wanted = min(start + chance.randrange(1, 12), count - 1)
        eventually(lambda: len(done.read_text().split()) >= wanted, "some actions", seconds=60)  # noqa: B023
        worker.kill()
        told = set(worker.communicate()[0].decode().split())
        acted = Counter(done.read_text().split())
        assert set(acted.values()) == {1}, "never done twice"
        text = task.read_text("utf-8")
        assert text.startswith(head)
        in_body = Counter(f"m-{int(line.rsplit(' ', 1)[1]):03d}" for line in lines(task))
        assert set(in_body.values()) <= {1}
        assert told <= set(in_body) <= set(acted), f"after kill {kill}"
        _, found = verified(service)
        assert {one.kind for one in found} <= {"in doubt"}
        named = {one.text.split(":")[0] for one in found}
        assert len(named) <= 1
        written = {f"m-{int(line.rsplit(' ', 1)[1]):03d}" for line in lines(task)}
        assert set(acted) - written <= named
    act(project, done, count, key).communicate()
    assert Counter(done.read_text().split()) == Counter(f"m-{n:03d}" for n in range(count))
    assert verified(service) == (count, [])
    drafts = [name for name in os.listdir(task.parent) if name != task.name]
    assert len(drafts) <= 4, "one for each kill at most"


def test_of_many_writers_no_receipt_is_lost(service: TaskService, project: Project, task: Path) -> None:
    key = service.key(service.find("t-1"))
    code = ACTOR.replace("m-{number:03d}", "{os.getpid()}-{number}").replace("Invoice {number}", "{item}")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(project.root), str(project.root / f"done-{n}"), "10", key],
            cwd=SCRIPTS, stdout=subprocess.DEVNULL,
        )
        for n in range(3)
    ]  # fmt: skip
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(set(lines(task))) == 30
    assert verified(service) == (30, [])


def test_a_list_that_an_agent_appends_to_the_body_is_receipts(service: TaskService, task: Path) -> None:
    text = task.read_text("utf-8")
    for _ in range(2):
        service.update("t-1", {}, "- Archived: a\n- Archived: b\n")
    assert task.read_text("utf-8") == f"{text}\n## Receipts\n\n- Archived: a\n- Archived: b\n"
    service.update("t-1", {"assignee": "Ada"}, "Two lines\nof text.")
    assert task.read_text("utf-8").endswith("- Archived: b\nTwo lines\nof text.\n")
    assert verified(service) == (2, [])
