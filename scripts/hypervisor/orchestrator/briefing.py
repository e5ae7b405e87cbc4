"""What an agent is told of its task, and what it answers: the prompt, the environment, and the report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..core.commission import BATCH, GENERATION, REPORT, TASK, read_report
from ..core.keys import item_key
from ..core.machine import WORKER_MARK
from ..core.model import Task
from ..git.work import Tree
from ..queue.batch import Batch
from ..tasks.desk import Desk
from .evidence import Reported

#: Marks everything that the agent of one task has started.
RUN_MARK = "HYPERVISOR_RUN"
_PROMPTS = Path(__file__).resolve().parents[3] / "prompts"


def prompt_for(
    task: Task, tree: Tree | None, handed: str = "", briefing: Sequence[str] = ("worker.md",)
) -> str:
    """Return what an agent is told of its task, and behind it what others have *handed* over.

    *briefing* names the files in ``prompts/`` that say it, one after another.
    """
    files = ", ".join(task.files)
    holes = {
        "{id}": task.id,
        "{title}": task.title,
        "{place}": f", a git worktree on the branch {tree.branch}" if tree else "",
        "{scope}": f"Change only: {files}." if files else "Change only what the task is about.",
        "{verify}": f"It counts as done when this passes: `{task.verify}`."
        if task.verify
        else "Verify what you did before you report it.",
    }
    text = "".join((_PROMPTS / name).read_text("utf-8") for name in briefing)
    for hole, value in holes.items():
        text = text.replace(hole, value)
    return text.replace("{body}", task.body.strip() + handed)  # last: a hole in a body is text


def variables(
    task: Task, generation: int, report: str, desk: Desk, batch: Batch, worker: str
) -> dict[str, str]:
    """Return what an agent's environment says of its task; *worker* is the id of the claim's holder."""
    return {
        TASK: task.id,
        GENERATION: str(generation),
        REPORT: report,
        "HYPERVISOR_ITEM": desk.relative(task),
        "HYPERVISOR_TASK_FILE": task.path,
        BATCH: batch.id,
        "HYPERVISOR_ROOT": str(desk.project.root),
        "HYPERVISOR_HOME": str(desk.project.state),
        WORKER_MARK: worker,
    }


def report_path(folder: str, task: str, generation: int) -> str:
    """Return where an agent's report goes, in the *folder* of its batch; nothing is there yet."""
    folder = os.path.join(folder, "reports")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{item_key(task)}~{generation}.json")
    if os.path.lexists(path):
        os.unlink(path)
    return path


def read_reported(path: str) -> Reported | None:
    """Return what an agent has reported, None if nothing that can be read."""
    report = read_report(path)
    if report is None:
        return None
    said = {key: str(report.get(key, "")) for key in ("text", "evidence", "next_step", "commit")}
    return Reported(word=report["kind"], **said)
