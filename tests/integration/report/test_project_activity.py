"""A batch of tasks, named by their ids, with what each waits for; and all that runs in a project."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import write_task
from hypervisor.core.model import Outcome, TaskStatus
from hypervisor.core.process import this_process
from hypervisor.core.project import Project
from hypervisor.core.settings import settings_of
from hypervisor.queue.batch import Batch
from hypervisor.queue.batches import create_of_tasks
from hypervisor.report.activity import batch_status
from hypervisor.report.answers import task_details
from hypervisor.report.report import ReportBuilder
from hypervisor.report.workload import workload
from hypervisor.store.events import RunEvent
from hypervisor.store.liveness import WorkerLock, new_worker_id
from hypervisor.tasks.actor import Actor
from hypervisor.tasks.completion import TaskCompletion
from hypervisor.tasks.service import TaskService

BLOCKED = TaskCompletion(outcome=Outcome.BLOCKED, status=TaskStatus.BLOCKED, text="which account?")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path, tmp_path / ".hypervisor")
    made.prepare()
    write_task(tmp_path / "tasks/t-1.md")
    write_task(tmp_path / "tasks/t-2.md", type="docs")
    write_task(tmp_path / "tasks/t-3.md", depends_on="[t-2]")
    return made


@pytest.fixture
def batch(project: Project) -> Iterator[Batch]:
    with create_of_tasks(project, [f"tasks/t-{n}.md" for n in (1, 2, 3)], [("tasks/t-9.md", "done")]) as made:
        yield made


@pytest.fixture
def service(project: Project, batch: Batch) -> TaskService:
    actor = Actor(name="claude", client=this_process())
    return TaskService(project, settings_of(project.state), actor, batch.store, batch=batch.number)


def test_status_of_a_batch_names_tasks_and_what_they_wait_for(batch: Batch, service: TaskService) -> None:
    service.claim("t-2")
    found = batch_status(batch)
    assert found["census"]["skipped"] == 1
    assert [(one["item"], one["holder"], one["attempt"]) for one in found["running"]] == [
        ("t-2", "claude", 1)
    ]
    assert found["waiting"] == ["t-1"]
    assert found["cost_usd"] is None  # not known is not 0
    assert "t-2" in found["not_ready"]["t-3"]
    assert not found["finished"]


def test_a_report_shows_tasks_by_id_and_title_with_the_command_that_sets_them_back(
    batch: Batch, service: TaskService
) -> None:
    service.claim("t-1")
    service.finish("t-1", BLOCKED)
    service.claim("t-2")
    builder = ReportBuilder(batch)
    builder.look()
    report = builder.report()
    rows = [dict(zip(report["columns"], row[1:], strict=True)) for row in report["rows"]]
    assert [(row["name"], row["title"], row["state"]) for row in rows] == [
        ("t-1", "Task t-1", "blocked"), ("t-2", "Task t-2", "running"), ("t-3", "Task t-3", "waiting"),
    ]  # fmt: skip
    assert [one["name"] for one in report["at_work"]] == ["t-2"]
    (need,) = report["needs_attention"]
    assert (need["reason"], need["type"]) == ("which account?", "hypervisor task update t-1 --status active")
    assert report["left_out"] == [["tasks/t-9.md", "done"]]
    assert report["batch"]["called"] == batch.id
    assert builder.failures(3) == [("blocked", "t-1", "which account?")]


def test_a_task_tells_of_its_claim_and_of_its_attempts(service: TaskService) -> None:
    assert task_details(service, service.find("t-1"))["history"] == []
    service.claim("t-1")
    service.release("t-1", "not now")
    service.claim("t-1")
    found = task_details(service, service.find("t-1"))
    assert (found["claim"]["attempt"], found["claim"]["holder"]) == (2, "claude")
    assert [(one["attempt"], one["by"], one.get("outcome"), one.get("why")) for one in found["history"]] == [
        (1, "claude", "again", "not now"), (2, "claude", None, None),
    ]  # fmt: skip


def test_all_that_runs_in_a_project_is_told_in_a_batch_or_outside(
    project: Project, batch: Batch, service: TaskService
) -> None:
    settings = settings_of(project.state)
    assert workload(project, settings, {})["batches"] == []
    service.claim("t-2")
    outside = TaskService(project, settings, Actor(name="nic"), batch.store)
    outside.claim("t-1")
    found = workload(project, settings, {"HYPERVISOR_BRANCH": "feature"})
    assert (found["running"], found["queued"], found["branch_id"]) == (2, 1, "feature")
    rows = [{key: one[key] for key in one if key != "seconds"} for one in found["tasks"]]
    assert rows == [{"task_id": "t-2", "type": "docs", "batch_id": batch.id}, {"task_id": "t-1"}]
    (row,) = found["batches"]
    assert (row["batch_id"], row["running"], row["coordinator"]) == (batch.id, 1, False)
    assert found["resources"]["zone"]


def test_a_batch_that_is_run_is_told_while_its_coordinator_lives(project: Project, batch: Batch) -> None:
    settings, worker = settings_of(project.state), new_worker_id("run", os.getpid())
    batch.store.events.add(RunEvent.STARTED, {"worker": worker}, batch=batch.number)
    assert workload(project, settings, {})["batches"] == []
    lock = WorkerLock(batch.store.workers, worker)
    (row,) = workload(project, settings, {})["batches"]
    assert (row["batch_id"], row["queued"], row["coordinator"]) == (batch.id, 3, True)
    lock.close()
    assert workload(project, settings, {})["batches"] == []
