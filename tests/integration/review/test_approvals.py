"""What acts on many items at once: nobody begins it, nor uses its tools, before a dry run is approved."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunk_place import Chunks
from commands import write_task
from hypervisor.core.errors import Refused
from hypervisor.core.project import Project
from hypervisor.core.settings import settings_of
from hypervisor.review.approvals import begin_dry_run, require_approved, require_shown, shut_for_tool
from hypervisor.review.waves import decide
from hypervisor.store.review_records import ApprovalGate
from hypervisor.tasks.actor import Actor
from hypervisor.tasks.eligibility import Wanted
from hypervisor.tasks.service import TaskService

ARCHIVE = "mcp__mail__archive"
TOOLS = (ARCHIVE, "Bash(archive *)")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[TaskService]:
    project = Project(tmp_path, tmp_path / ".hypervisor")
    project.prepare()
    write_task(tmp_path / "tasks" / "t-10.md")
    with TaskService(project, settings_of(project.state), Actor(name="claude")) as made:
        yield made


@pytest.fixture(params=["own", "project"])
def action(request: pytest.FixtureRequest, service: TaskService, tmp_path: Path) -> Iterator[Chunks]:
    """Return the batch of a bulk action, in a store of its own and in the project's."""
    folder = tmp_path / "act" if request.param == "own" else service.project.batches / "x-batch-t-10"
    made = Chunks(folder)
    service.store.review.add_gate(ApprovalGate(folder=str(folder), task="t-10", patterns=TOOLS))
    plan = made.cut(2, bulk=TOOLS)
    begin_dry_run(made.made, plan)
    yield made
    made.close()


def denied(service: TaskService, tool: str = ARCHIVE, *, main: bool = True, command: str = "") -> str:
    return shut_for_tool(service.store.review, tool, {"command": command}, main=main) or ""


def test_nothing_is_done_before_the_dry_run_is_approved(service: TaskService, action: Chunks) -> None:
    # The agent's tool, the action's task, its chunks: whoever tries, whichever way.
    for tool, command in ((ARCHIVE, ""), ("Bash", "archive m-1")):
        text = denied(service, tool, command=command)
        assert f"is a bulk action of {action.folder.name}, and nobody has approved it yet" in text
        assert f"hypervisor checkpoint approve --dir {action.folder}" in text
    assert not denied(service, "mcp__mail__read")
    with pytest.raises(Refused, match="nobody has approved it yet"):
        service.claim("t-10")
    assert "nobody has approved it yet" in str(service.claim_next(Wanted()))
    with pytest.raises(Refused, match="nobody has approved it yet"):
        require_approved(action.made, action.made.plan())
    assert action.run("touch ran", mode="none").what == "open"
    decide(action.made, "stop", "Ada")
    assert "Ada has said stop" in denied(service)
    decide(action.made, "approve", "Ada")
    assert not denied(service)
    require_approved(action.made, action.made.plan())
    service.claim("t-10")
    assert action.run(mode="none").what == "finished"


def test_what_was_not_in_the_dry_run_is_not_done(action: Chunks) -> None:
    path = action.folder / "chunks.json"
    plan = json.loads(path.read_text("utf-8"))
    plan["left_out"] = plan["chunks"].pop()["items"]
    path.write_text(json.dumps(plan), "utf-8")
    decide(action.made, "approve", "Ada")
    plan["chunks"].append({"id": "chunk-02", "label": "", "items": plan["left_out"]})
    path.write_text(json.dumps({**plan, "left_out": []}), "utf-8")
    with pytest.raises(Refused, match="chunk-02: was not in the dry run"):
        action.run(mode="none")
    with pytest.raises(Refused, match="was not in the dry run"):
        require_shown(action.made, action.made.plan(), ["chunk-02"])
    plan["chunks"][:] = [{**plan["chunks"][0], "items": plan["chunks"][0]["items"] + plan["left_out"]}]
    path.write_text(json.dumps({**plan, "left_out": []}), "utf-8")
    with pytest.raises(Refused, match="chunk-01 has begun with 4 items"):
        action.run(mode="none")


def test_a_worker_cannot_approve(service: TaskService, action: Chunks) -> None:
    approve = f"cd / && hypervisor checkpoint approve --dir {action.folder}"
    assert "the user's decision" in denied(service, "Bash", main=False, command=approve)
    assert not denied(service, "Bash", main=True, command=approve)
    assert not denied(service, "Bash", main=False, command="hypervisor checkpoint --task t-10")


def test_a_gate_whose_batch_is_gone_or_damaged_keeps_no_tool_from_anybody(
    service: TaskService, action: Chunks
) -> None:
    action.close()
    own = action.folder / "hypervisor.db"
    if own.exists():
        os.truncate(own, 0)
        own.write_bytes(b"no database" * 1000)
        assert not denied(service)
    shutil.rmtree(action.folder)
    assert not denied(service)
    service.claim("t-10")
