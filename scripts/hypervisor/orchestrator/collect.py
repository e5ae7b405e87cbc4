"""`hypervisor merge`: merges what workers inside a session have committed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.files import matches_any
from ..core.model import Outcome, Task
from ..core.project import Project
from ..git.git import Git
from ..git.merging import Conflict, Integration, Unverified
from ..git.trailers import merge_message
from ..git.work import in_scope
from ..queue.batch import Batch
from ..tasks.files import read_task
from .checks import Checks
from .verdict import Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """Whether one task's commits were merged."""

    task: str
    merged: bool
    #: The merge commit, or why there is none.
    text: str
    #: Where the work is, if it was not merged.
    branch: str = ""


def collect(project: Project, batch: Batch, integration: Integration, checks: Checks) -> Iterator[Collected]:
    """Merge the commits of every success of *batch*, each inspected and verified; yield how that ended.

    Those that are delivered by git are passed over: they are merged on the remote, with their tasks' files.
    """
    git = Git(project.root)
    settings = batch.store.settings
    for item in batch.store.batches.items(batch.number, [Outcome.SUCCESS.value]):
        result = item.work.result or {}
        if not result.get("commit") or result.get("deliver"):
            continue
        task = read_task(Path(str(result["task_file"])), settings)
        yield _collect_one(git, integration, task, result, settings, checks)


def _collect_one(
    git: Git,
    integration: Integration,
    task: Task,
    result: Mapping[str, Any],
    settings: Mapping[str, Any],
    checks: Checks,
) -> Collected:
    commit = str(result["commit"])
    if not git.ok("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"):
        return Collected(task=task.id, merged=False, text=f"commit {commit} is not in this repository")
    if git.ok("merge-base", "--is-ancestor", commit, "HEAD"):
        return Collected(task=task.id, merged=True, text="merged already")
    branches = git.run("branch", "--contains", commit, "--format=%(refname:short)").split()
    branch = next((name for name in branches if name != integration.branch), commit)
    base = git.run("merge-base", commit, integration.tip).strip()
    files = [path for path in git.lines("diff", "--name-only", "-z", base, commit) if path]
    globs = settings["tasks"]["globs"]
    outside = [path for path in files if not in_scope(path, task.files, lambda one: matches_any(one, globs))]
    if outside:
        text = f"changes {', '.join(outside[:5])}, which its task does not name"
        return Collected(task=task.id, merged=False, text=text, branch=branch)

    def verified(folder: Path) -> str | None:
        checked = checks.verify(task, folder)
        return f"{checked.command}: {checked.line}" if isinstance(checked, Failed) else None

    check = verified if task.verify else None
    merged = integration.merge(commit, merge_message(task.id, task.title), check)
    if isinstance(merged, Conflict):
        text = f"conflicts in {', '.join(merged.files[:5])}"
        return Collected(task=task.id, merged=False, text=text, branch=branch)
    if isinstance(merged, Unverified):
        return Collected(task=task.id, merged=False, text=f"does not verify: {merged.text}", branch=branch)
    return Collected(task=task.id, merged=True, text=merged.commit)
