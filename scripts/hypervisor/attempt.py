"""One task in the hands of one agent: from the claim to the verdict.

The agent works in a folder of its own; what it leaves there is gathered, looked at, verified and
merged by us. Nothing that it says decides anything.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .batches import Batch
from .checkout import Snapshot, changed
from .claiming import Hold
from .commission import GENERATION, REPORT, TASK, read_report
from .desk import Desk
from .endings import Ending
from .errors import ClaimLost, HypervisorError, Refused, Taken
from .events import read
from .evidence import Facts, Failed, Passed, Reported, Verdict, judge
from .git import Git, locked
from .globs import matches_any
from .keys import item_key
from .machine import WORKER_MARK
from .merging import Conflict, Integration, Unverified
from .model import Outcome, Task, TaskHead, TaskStatus
from .orders import Orders
from .paths import Project
from .runners.agent import Agent, AgentEnd, Assignment, How
from .runners.claude import child_environment
from .worktrees import Tree, Worktrees, in_scope

#: Marks everything that the agent of one task has started.
RUN_MARK = "HYPERVISOR_RUN"
#: What `durable.replace` calls a file that is to take another's place.
_DRAFT = re.compile(r"\.(.+)\.[0-9a-f]{16}\.tmp")
_PROMPT = Path(__file__).resolve().parent.parent.parent / "prompts/worker.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What the coordinator has to know of an attempt that is over."""

    #: An `Outcome`, ``again`` (no attempt lost), ``retry`` (one lost), ``held`` or ``gone``.
    how: str
    text: str
    cost_usd: float | None = None
    #: Until when nothing is to be begun, in seconds since the epoch.
    pause_until: float | None = None
    #: Whether the service said "too many".
    crowded: bool = False
    #: Why the whole batch has to stop; "" if it has not.
    stop_batch: str = ""


@dataclass(slots=True)
class Shop:
    """What all attempts of a run share."""

    batch: Batch
    desk: Desk
    agent: Agent
    orders: Orders
    #: The holder's id: its lock file tells that it lives.
    worker: str
    inherit: tuple[int, ...]
    trees: Worktrees | None
    integration: Integration | None
    #: Claims and edits, one at a time: the store signs one intent at a time.
    lock: threading.RLock = field(default_factory=threading.RLock)
    #: Paths of the tasks whose work was merged.
    merged: set[str] = field(default_factory=set)
    #: Tasks that run now.
    running: set[str] = field(default_factory=set)

    def is_ours(self, path: str) -> bool:
        """Tell whether a path below the root is a task file, or the state of a tool, and no work."""
        folder, _, name = path.rpartition("/")
        if draft := _DRAFT.fullmatch(name):  # of an edit of ours that is under way
            path = f"{folder}/{draft[1]}" if folder else draft[1]
        top = path.split("/", 1)[0]
        return top in (".hypervisor", ".claude") or matches_any(path, self.desk.settings["tasks"]["globs"])


class Attempt:
    """One attempt at one task."""

    def __init__(self, shop: Shop, task: TaskHead, stopped: threading.Event, *, may_retry: bool) -> None:
        self.shop = shop
        self.head = task
        self.stopped = stopped
        #: Whether there is another attempt if this one counts as failed.
        self.may_retry = may_retry
        self.claimed: Callable[[str, int], None] = lambda _task, _generation: None

    def run(self) -> Ended:
        """Carry the attempt through; never raises but for faults of ours."""
        try:
            with self.shop.lock:
                task, hold = self.shop.desk.claim(self.shop.desk.relative(self.head))
        except Taken as error:
            return Ended(how="held", text=str(error))
        except HypervisorError as error:
            return Ended(how="gone", text=str(error))
        self.claimed(task.id, hold.generation)
        try:
            return self._work(task, hold)
        except ClaimLost as error:
            return Ended(how="gone", text=str(error))
        except BaseException as error:
            self._give_back(task, hold, f"could not be worked on: {error}", counted=False)
            raise

    # ------------------------------------------------------------------- work

    def _work(self, task: Task, hold: Hold) -> Ended:
        merged = self._merged_before(task)
        if merged is not None:
            return self._finish(task, hold, merged, None, None, time.monotonic())
        begun = time.monotonic()
        shop = self.shop
        base = shop.integration.tip if shop.integration else shop.orders.start_commit
        tree = shop.trees.open(task.id, hold.generation, base) if shop.trees else None
        before = self._snapshot()
        report = self._report_path(task, hold)
        end = shop.agent.run(self._assignment(task, hold, tree, report))
        facts = self._facts(task, tree, end, read_report(report), before)
        verdict = judge(facts)
        if verdict.merge and shop.integration is not None and tree is not None:
            self._must_hold(task)
            verdict = self._merge(task, tree, verdict)
        return self._finish(task, hold, verdict, end, tree, begun)

    def _must_hold(self, task: Task) -> None:
        """Hold that the task is still ours: what was cancelled meanwhile is not merged any more."""
        store, claim = self.shop.desk.open_store, self.shop.desk.open_claims.get(task.id)
        if store is not None and claim is not None:
            store.beat(claim)

    def _merged_before(self, task: Task) -> Verdict | None:
        """Return the verdict of an attempt that died between its merge and its result."""
        integration = self.shop.integration
        git = Git(self.shop.desk.project.root)
        if integration is None or not git.exists(integration.branch):
            return None
        span = f"{self.shop.orders.start_commit}..{integration.branch}"
        found = git.run("log", "--format=%H", "--fixed-strings", f"--grep={_trailer(task)}", span).split()
        told = [
            commit
            for commit in found
            if _trailer(task) in git.run("log", "-1", "--format=%B", commit).splitlines()
        ]
        if not told:
            return None
        commit = told[0]
        return Verdict(
            outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text="merged by an attempt that died after that",
            evidence={"commit": commit, "merged": True}, merge=False, keep=False,
        )  # fmt: skip

    def _snapshot(self) -> Snapshot | None:
        if not self.shop.trees:
            return None
        with checkout_lock(self.shop.desk.project):
            return Snapshot.take(self.shop.desk.project.root, self.shop.is_ours)

    def _main_changed(self, before: Snapshot) -> list[str]:
        """Return what changed in the user's checkout, but for work that a coordinator brought there."""
        after = self._snapshot()
        assert after is not None  # noqa: S101 - there was one before
        if after.head != before.head:
            moved = {
                event.get("head") for event in read(self.shop.desk.project) if event["event"] == "moved on"
            }
            if after.head in moved:
                after = replace(after, head=before.head)
        return changed(before, after)

    def _facts(
        self,
        task: Task,
        tree: Tree | None,
        end: AgentEnd,
        report: Mapping[str, Any] | None,
        before: Snapshot | None,
    ) -> Facts:
        shop = self.shop
        common: dict[str, Any] = {
            "end": end,
            "reported": _reported(report),
            "names_files": bool(task.files),
            "worktree": tree is not None,
            "accept_reports": bool(shop.desk.settings["run"]["accept_reports"]),
        }
        if tree is None or shop.trees is None or before is None:
            checked = None
            if end.how is How.ENDED:
                checked = verify(task, Path(shop.desk.project.root), shop.desk.settings)
            return Facts(**common, verify=checked)
        gathered = shop.trees.gather(
            tree, f"{task.title}\n\nLeft uncommitted by its agent.", lambda path: self._in_scope(task, path)
        )
        checked = None
        if end.how is How.ENDED and not gathered.begun:
            checked = verify(task, shop.trees.place(tree), shop.desk.settings)
        lines = self._main_changed(before)
        return Facts(
            **common,
            commits=gathered.commits,
            files=gathered.files,
            outside=tuple(path for path in gathered.files if not self._in_scope(task, path)),
            uncommitted_outside=(*gathered.outside, *gathered.left),
            astray=gathered.astray,
            conflicts=gathered.conflicts or ((gathered.begun,) if gathered.begun else ()),
            main_changed=tuple(lines),
            suspects=tuple(sorted(shop.running - {task.id})),
            verify=checked,
        )

    def _in_scope(self, task: Task, path: str) -> bool:
        return in_scope(path, task.files, self.shop.is_ours)

    # -------------------------------------------------------------- the agent

    def _report_path(self, task: Task, hold: Hold) -> str:
        folder = os.path.join(self.shop.batch.folder, "reports")
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f"{item_key(task.id)}~{hold.generation}.json")
        if os.path.lexists(path):
            os.unlink(path)
        return path

    def _assignment(self, task: Task, hold: Hold, tree: Tree | None, report: str) -> Assignment:
        shop = self.shop
        root = str(shop.desk.project.root)
        extra = {
            TASK: task.id,
            GENERATION: str(hold.generation),
            REPORT: report,
            "HYPERVISOR_ITEM": shop.desk.relative(task),
            "HYPERVISOR_TASK_FILE": task.path,
            "HYPERVISOR_BATCH": shop.batch.id,
            "HYPERVISOR_ROOT": root,
            "HYPERVISOR_HOME": str(shop.desk.project.state),
            WORKER_MARK: shop.worker,
        }
        logs = shop.batch.logs
        os.makedirs(logs, exist_ok=True)
        verify = [f"Bash({task.verify})"] if task.verify else []
        return Assignment(
            task_id=task.id,
            prompt=prompt_for(task, tree),
            cwd=str(shop.trees.place(tree)) if tree and shop.trees else root,
            log=os.path.join(logs, f"{item_key(task.id)}~{hold.generation}"),
            environment=child_environment(os.environ, extra),
            inherit=shop.inherit,
            mark=(RUN_MARK, f"{shop.batch.id}/{task.id}~{hold.generation}"),
            timeout=shop.orders.timeout,
            allowed=(*shop.orders.allowed, *verify),
            stopped=self.stopped,
        )

    # -------------------------------------------------------------------- end

    def _merge(self, task: Task, tree: Tree, verdict: Verdict) -> Verdict:
        assert self.shop.integration is not None  # noqa: S101 - asked before
        message = f"{task.title}\n\n{_trailer(task)}"

        def verified(folder: Path) -> str | None:
            result = verify(task, folder, self.shop.desk.settings)
            return f"{result.command}: {result.line}" if isinstance(result, Failed) else None

        merged = self.shop.integration.merge(tree.branch, message, verified)
        if isinstance(merged, Conflict):
            text = f"conflicts with other work in {', '.join(merged.files[:5])}; kept on {tree.branch}"
        elif isinstance(merged, Unverified):
            text = f"does not verify beside other work ({merged.text}); kept on {tree.branch}"
        else:
            self.shop.merged.add(task.path)
            return replace(verdict, evidence={**verdict.evidence, "merged": merged.commit})
        return replace(
            verdict, outcome=Outcome.BLOCKED, status=TaskStatus.REVIEW, text=text, merge=False, keep=True
        )

    def _finish(
        self,
        task: Task,
        hold: Hold,
        verdict: Verdict,
        end: AgentEnd | None,
        tree: Tree | None,
        begun: float,
    ) -> Ended:
        cost = end.cost_usd if end else None
        crowded = end is not None and end.how in (How.RATE_LIMIT, How.OVERLOAD)
        if verdict.again == "no attempt" or (verdict.again == "retry" and self.may_retry):
            counted = verdict.again == "retry"
            self._give_back(task, hold, verdict.text, counted=counted)
            self._tidy(tree)
            return Ended(
                how="retry" if counted else "again", text=verdict.text, cost_usd=cost,
                pause_until=verdict.pause_until, crowded=crowded, stop_batch=verdict.stop_batch,
            )  # fmt: skip
        details: dict[str, Any] = {
            "batch": self.shop.batch.id,
            "evidence": dict(verdict.evidence),
            "seconds": round(time.monotonic() - begun, 3),
        }
        if end is not None:
            details |= {
                "tokens": end.tokens,
                "cost_usd": end.cost_usd,
                "turns": end.turns,
                "how": end.how.value,
            }
        if tree is not None and verdict.keep:
            details["branch"] = tree.branch
        commit = str(verdict.evidence.get("commit", ""))
        ending = Ending(
            outcome=verdict.outcome, status=verdict.status or TaskStatus.BLOCKED, text=verdict.text,
            commit=commit, evidence=_in_words(verdict.evidence), details=details,
        )  # fmt: skip
        with self.shop.lock:
            self.shop.desk.finish(self.shop.desk.relative(task), ending, hold.generation)
        self._tidy(tree)
        return Ended(how=verdict.outcome.value, text=verdict.text, cost_usd=cost)

    def _give_back(self, task: Task, hold: Hold, why: str, *, counted: bool) -> None:
        with self.shop.lock:
            try:
                name = self.shop.desk.relative(task)
                self.shop.desk.give_back(name, why, hold.generation, counted=counted)
            except ClaimLost:
                pass  # it was taken from us, which is as good

    def _tidy(self, tree: Tree | None) -> None:
        """Take the worktree away; what holds work that is nowhere else stays."""
        if tree is None or self.shop.trees is None:
            return
        # Refused where it holds work that is nowhere else; `hypervisor clean` says what.
        with contextlib.suppress(Refused):
            self.shop.trees.remove(tree, merged_into=self._merged_into())

    def _merged_into(self) -> str | None:
        integration = self.shop.integration
        known = integration is not None and Git(self.shop.desk.project.root).exists(integration.branch)
        return integration.branch if integration is not None and known else None


def verify(task: Task, folder: Path, settings: Mapping[str, Any]) -> Passed | Failed | None:
    """Run a task's `verify` command in *folder*; None if it names none."""
    return run_check(task.verify, folder, settings["run"]["verify_seconds"]) if task.verify else None


def run_check(command: str, folder: Path, seconds: float) -> Passed | Failed:
    """Run a command that says whether work is good."""
    begun = time.monotonic()
    try:
        # The owner's own command line, read from the file of record before the agent began.
        done = subprocess.run(
            ["sh", "-c", command], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Failed(command=command, code=None, line=f"did not end within {seconds:g} s")
    if done.returncode == 0:
        return Passed(command=command, seconds=round(time.monotonic() - begun, 3))
    lines = (done.stdout + done.stderr).decode("utf-8", "replace").strip().splitlines()
    return Failed(command=command, code=done.returncode, line=lines[-1][:300] if lines else "")


@contextlib.contextmanager
def checkout_lock(project: Project) -> Iterator[None]:
    """Hold that nobody looks at the user's checkout while a coordinator moves it on."""
    with locked(project.state / "checkout.lock"):
        yield


def _reported(report: Mapping[str, Any] | None) -> Reported | None:
    if report is None:
        return None
    said = {key: str(report.get(key, "")) for key in ("text", "evidence", "next_step", "commit")}
    return Reported(word=report["kind"], **said)


def prompt_for(task: Task, tree: Tree | None) -> str:
    """Return what an agent is told of its task."""
    files = ", ".join(task.files)
    holes = {
        "{id}": task.id,
        "{title}": task.title,
        "{place}": f", a git worktree on the branch {tree.branch}" if tree else "",
        "{scope}": f"Change only: {files}." if files else "Change only what the task is about.",
        "{verify}": f"It counts as done when this passes: `{task.verify}`."
        if task.verify
        else "Verify what you did before you commit.",
    }
    text = _PROMPT.read_text("utf-8")
    for hole, value in holes.items():
        text = text.replace(hole, value)
    return text.replace("{body}", task.body.strip())  # last: a hole in a body is text


def _trailer(task: Task) -> str:
    return f"Hypervisor-Task: {task.id}"


def _in_words(evidence: Mapping[str, Any]) -> str:
    return "; ".join(f"{key} {shlex.quote(str(value))}" for key, value in evidence.items() if value)[:500]
