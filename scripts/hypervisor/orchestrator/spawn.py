"""Turns free text into tasks and a batch, and starts a coordinator that outlives the caller.

The task files lie in `.hypervisor/tasks/<batch-id>/`, to which the batch's own `tasks` leads: one folder
that holds nothing else is quickly searched. They are listed, claimed and run like any other.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..core import assignment
from ..core.errors import Refused, UsageError
from ..core.files import sync_directory, write_new
from ..core.model import Priority
from ..core.process import WORKER_MARK
from ..core.project import Project
from ..core.settings import settings_of, with_store_url
from ..learning.hive import checked_name
from ..learning.stats import INDEPENDENT, MAP_REDUCE, PIPELINE, arranged
from ..queue.batch import Batch
from ..queue.batches import create, new_batch_name, spawned_folder, task_options
from ..store.events import RunEvent
from ..tasks.creation import NewTask, text_of
from .commands import repository_commands, require_trusted
from .options import KEY, STRATEGIES, RunOptions
from .router import require_runnable
from .run import starting_point

PATTERNS = (INDEPENDENT, PIPELINE, MAP_REDUCE)
#: What a call's one word may be: how many run at once, or how the tasks depend on each other.
WORDS = (*STRATEGIES, PIPELINE, MAP_REDUCE)
LOG = "coordinator.log"
_MOST, _LONGEST, _TITLE = 500, 50_000, 100
_KEYS = ("description", "type", "priority", "files", "verify")
_TYPE = re.compile(r"\w[\w .:/+-]{0,59}")
_SCRIPT = Path(__file__).resolve().parents[2] / "hypervisor_cli.py"
#: How long the caller waits for a coordinator's first event, in seconds; it goes on in any case.
_BEGIN_SECONDS = 10.0
#: What marks the agent of a task, and must not mark a coordinator.
_OF_AN_AGENT = (
    assignment.TASK, assignment.ATTEMPT, assignment.REPORT, assignment.BATCH, assignment.BRANCH,
    WORKER_MARK, "HYPERVISOR_RUN", "HYPERVISOR_ITEM", "HYPERVISOR_TASK_FILE",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnRequest:
    """One task that somebody asks for."""

    description: str
    type: str = ""
    priority: Priority = Priority.MEDIUM
    files: tuple[str, ...] = ()
    #: A command that shows that it is done.
    verify: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawned:
    """A batch that was made of requests."""

    batch: Batch
    #: Ids of its tasks.
    tasks: tuple[str, ...]
    options: RunOptions
    #: How they depend on each other: one of `PATTERNS`.
    pattern: str

    def answer(self, pid: int) -> dict[str, Any]:
        """Return what whoever asked for them is told, once their coordinator has begun."""
        return {
            "batch_id": self.batch.id, "tasks": list(self.tasks), "branch_id": self.options.branch,
            "strategy": self.options.strategy, "pattern": self.pattern, "at_once": self.options.limit,
            "isolation": self.options.isolation, "coordinator_pid": pid,
            "next": "go on; look with get_task_stats, batch_status, and at the end batch_summary",
        }  # fmt: skip


def read_requests(given: Sequence[Any]) -> list[SpawnRequest]:
    """Return the tasks that are asked for: texts, or tables with `description` and what else is known.

    Raises:
        UsageError: One cannot be understood; the text says which, and what it takes.
    """
    if not given:
        raise UsageError("tasks is empty; give a list of {description, type, priority}")
    if len(given) > _MOST:
        raise UsageError(
            f"{len(given)} tasks are more than {_MOST} at once; use `hypervisor chunk` for so many items"
        )
    return [_request(f"tasks[{at}]", one) for at, one in enumerate(given)]


def arrange_words(strategy: str) -> tuple[str, str]:
    """Return what a call's one word says: the strategy, and the pattern.

    Raises:
        UsageError: There is no such word.
    """
    word = strategy.strip().lower().replace("_", "-") or "auto"
    if word not in (*WORDS, INDEPENDENT):
        raise UsageError(f"strategy {strategy[:60]!r}: must be one of {', '.join(WORDS)}")
    return ("auto", word) if word in PATTERNS else (word, INDEPENDENT)


def options_for(project: Project, settings: Mapping[str, Any], strategy: str, branch: str) -> RunOptions:
    """Return the options for spawned tasks, by the settings `[spawn]`.

    Raises:
        UsageError: The settings do not fit together.
        Refused: They hold commands that came with the repository, and that nobody has trusted.
    """
    given = settings["spawn"]
    command = tuple(shlex.split(given["command"]))
    if (given["agent"] == "exec") != bool(command):
        raise UsageError('[spawn] agent = "exec" and a command belong together; see docs/settings.md')
    options = RunOptions(
        agent=given["agent"], command=command, model=given["model"], limit=max(1, int(given["jobs"])),
        merge=given["merge"], retries=int(given["retries"]), timeout=float(given["timeout_seconds"]) or None,
        allowed=tuple(given["allow"]), strategy=strategy, branch=checked_name("branch_id", branch),
    )  # fmt: skip
    require_runnable(options, settings)
    brought = repository_commands(project, settings_of(project.state), ())
    command = given["command"]  # of the settings, unless another one was typed
    require_trusted(project, settings, [one for one in brought if one.kind != "spawn" or one.text == command])
    return starting_point_or_none(project, options)


def starting_point_or_none(project: Project, options: RunOptions) -> RunOptions:
    """Return *options* for worktrees where there can be some, and for one folder otherwise."""
    try:
        return starting_point(project, options)
    except UsageError:
        with suppress(UsageError):  # no branch is checked out
            return starting_point(project, replace(options, merge="branch"))
        return starting_point(project, replace(options, isolation="none"))


def make(project: Project, requests: Sequence[SpawnRequest], pattern: str, options: RunOptions) -> Spawned:
    """Make the task files and their batch; durable on return.

    Killed on the way, it leaves tasks that are listed like any other, or nothing.
    """
    waits = arranged([request.type for request in requests], pattern)
    project.prepare()
    name = new_batch_name()
    ids = [f"{_slug(options.branch) or 'task'}-{name[-6:]}-{at + 1:02}" for at in range(len(requests))]
    folder, place = project.batches / name, spawned_folder(project, name)
    draft = folder / "draft"
    os.makedirs(draft)
    os.makedirs(place.parent, exist_ok=True)
    for request, task, others in zip(requests, ids, waits, strict=True):
        text = _file(request, task, [ids[at] for at in others], options.branch)
        write_new(draft / f"{task}.md", text.encode())
    sync_directory(draft)
    os.symlink(os.path.relpath(place, folder), folder / "tasks")
    os.rename(draft, place)  # from here on they are tasks of the project
    sync_directory(place.parent)
    items = [os.path.relpath(place / f"{task}.md", project.root) for task in ids]
    batch = create(project, items, task_options(project), name, **{KEY: asdict(options)})
    return Spawned(batch=batch, tasks=tuple(ids), options=options, pattern=pattern)


def start(project: Project, batch: Batch, environ: Mapping[str, str]) -> int:
    """Start a coordinator for *batch*, in a session of its own; return its pid once it has begun.

    Raises:
        Refused: It could not be started, or ended at once; the batch is there, and can be gone on with.
    """
    inherited = {key: value for key, value in environ.items() if key not in _OF_AN_AGENT}
    try:
        with open(os.path.join(batch.folder, LOG), "ab") as log:
            process = subprocess.Popen(
                [sys.executable, str(_SCRIPT), "run", "--json", "--resume", batch.id],
                cwd=project.root,
                env={**with_store_url(inherited), "HYPERVISOR_HOME": str(project.state)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a signal to the caller's group is not for us
            )
    except OSError as error:
        raise Refused(f"{error.strerror}; {_go_on(batch)}") from error
    threading.Thread(target=process.wait, daemon=True, name="coordinator").start()
    deadline = time.monotonic() + _BEGIN_SECONDS
    while time.monotonic() < deadline and not _begun(batch):
        if process.returncode not in (None, 0):
            raise Refused(f"the coordinator ended at once: {_last_line(batch)}; {_go_on(batch)}")
        time.sleep(0.02)
    return process.pid


# ---------------------------------------------------------------------- details


def _request(where: str, given: Any) -> SpawnRequest:
    if isinstance(given, str):
        given = {"description": given}
    if not isinstance(given, dict):
        raise UsageError(f"{where} must be a text, or {{description, type, priority}}")
    unknown = [str(key) for key in given if key not in _KEYS]
    if unknown:
        raise UsageError(f"{where}: no such key {unknown[0][:60]!r}; there are {', '.join(_KEYS)}")
    text = given.get("description")
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"{where}: description is missing; say what is to be done")
    if len(text) > _LONGEST or "\0" in text:
        raise UsageError(f"{where}: description must be a text of at most {_LONGEST:,} characters")
    kind, priority = given.get("type") or "", given.get("priority") or Priority.MEDIUM.value
    if not isinstance(kind, str) or (kind and not _TYPE.fullmatch(kind)):
        raise UsageError(f"{where}: type must be a word of at most 60 characters, such as audit")
    if str(priority).lower() not in list(Priority):
        raise UsageError(f"{where}: priority must be one of {', '.join(Priority)}")
    files, verify = given.get("files") or [], given.get("verify") or ""
    files = [files] if isinstance(files, str) else files
    if not isinstance(files, list) or not all(isinstance(one, str) and one.isprintable() for one in files):
        raise UsageError(f"{where}: files must be a list of paths")
    if not isinstance(verify, str) or not verify.isprintable():
        raise UsageError(f"{where}: verify must be a command in one line")
    return SpawnRequest(
        description=text.encode("utf-8", "replace").decode().strip(), type=kind,
        priority=Priority(str(priority).lower()), files=tuple(files), verify=verify,
    )  # fmt: skip


def _file(request: SpawnRequest, task: str, waits: Sequence[str], branch: str) -> str:
    """Return the text of a task's file."""
    first = next(line for line in request.description.splitlines() if line.strip())
    title = "".join(c for c in first.strip().lstrip("#").strip() if c.isprintable())[:_TITLE] or task
    new = NewTask(
        title=title, priority=request.priority, type=request.type, depends_on=waits, files=request.files,
        verify=request.verify, branch=branch, body=request.description,
        # What such a task leaves is its report: there is nothing else that could be looked at.
        accept_reports=not request.files and not request.verify,
    )  # fmt: skip
    return text_of(new, task, title)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:24].strip("-")


def _begun(batch: Batch) -> bool:
    return any(event.kind == RunEvent.STARTED for event in batch.store.events.since(0, batch=batch.number))


def _last_line(batch: Batch) -> str:
    with suppress(OSError):
        lines = Path(batch.folder, LOG).read_text("utf-8", "replace").strip().splitlines()
        if lines:
            return lines[-1][:300]
    return "with no output"


def _go_on(batch: Batch) -> str:
    return f"the batch {batch.id} is made; fix that, then `hypervisor run --resume {batch.id}`"
