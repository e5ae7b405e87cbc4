"""Delivery by git: finished work of many machines becomes one history on the remote's branch.

An attempt pushes its branch, as a new one, and completes with the hash of its commit. After that the machine
that holds the lease of the remote's branch fetches, merges what waits (each with its task's file as the
result says), verifies, pushes as a fast-forward, and notes the results as published. Only accepted results
are merged, by their hash: an attempt that lost its claim can push its branch, and nobody looks at it.

Each step may be repeated. A holder that dies after its push leaves results that are on the branch already;
the next one finds them there. A holder that sleeps past its lease and wakes pushes what the next one would,
or is refused by the remote, which takes fast-forwards only.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..core.errors import HypervisorError, Unreadable
from ..core.files import matches_any
from ..core.model import CLOSED, Outcome, Task, TaskStatus
from ..core.project import Project
from ..git.git import Git, GitError
from ..git.merging import Conflict, FastForward, Integration, merged_tree, read_blob, tree_with
from ..git.oversight import checkout_lock
from ..git.remote import PushRefused, Remote, RemoteUnreachable
from ..git.trailers import merge_message
from ..store.merges import Delivered, Lease, Undelivered
from ..store.records import Worker
from ..store.store import Store
from ..tasks.completion import CompletedBy, TaskCompletion, result_of
from ..tasks.files import parse_task
from ..tasks.publication import delivered_file
from .checks import Checks
from .options import RunOptions
from .verdict import Failed

#: How often one round begins anew as others have pushed to the branch.
_PUSHES = 8
#: How many results one push brings: the first of them waits for the last one's verification.
_AT_ONCE = 10
#: Between two looks whether a result is merged, or the remote is back, in seconds.
_LOOK_SECONDS = 0.2
_BACK_OFF = (0.5, 10.0)


@dataclass(slots=True)
class _Chain:
    """Merges that were made and not pushed yet, one on the other."""

    base: str
    tip: str
    done: list[Delivered] = field(default_factory=list)
    #: Branches of tasks that are merged with it, each with its commit.
    branches: list[tuple[str, str]] = field(default_factory=list)
    #: Whether results were followed by others, which wait in their turn.
    overruled: bool = False


@dataclass(slots=True)
class GitDelivery:
    """Brings the results of a store to one branch of a remote. Thread-safe."""

    store: Store
    project: Project
    #: Where merges are verified.
    integration: Integration
    remote: Remote
    worker: Worker
    #: Runs `verify`.
    checks: Checks
    #: Tells a person one line.
    say: Callable[[str], object] = print
    _turn: threading.Lock = field(default_factory=threading.Lock)
    #: What was said last of a remote that is down, "" while it is up.
    _down: str = ""

    @property
    def branch(self) -> str:
        """The remote's branch."""
        return self.remote.branch

    @property
    def _git(self) -> Git:
        return self.integration.repository.git()

    # ---------------------------------------------------------------- attempts

    def base(self) -> str:
        """Return the newest commit of the branch: what is merged, of all machines.

        Raises:
            RemoteUnreachable: The remote does not answer.
        """
        with self._told():
            return self.remote.fetch() or self.integration.start_commit

    def offer(self, commit: str, branch: str, stopped: threading.Event) -> str:
        """Push an attempt's branch; return why that could not be done, "" if it was.

        A remote that is down is tried again until the run ends, or for ``git.patience_seconds``.
        """
        why = "stopped by the user"
        for _ in self._tries(stopped):
            try:
                with self._told():
                    self.remote.push_new(commit, branch)
                return ""
            except RemoteUnreachable as error:
                why = str(error)
            except PushRefused as error:
                return str(error)
        return why

    def settle(self, work: int, stopped: threading.Event) -> bool:
        """Wait until a result is published, by any machine; return False if that takes too long."""
        for _ in self._tries(stopped):
            while not stopped.is_set():
                if self.store.claims.work(work).published:
                    return True
                try:
                    if not self._turn.acquire(timeout=_LOOK_SECONDS):
                        continue
                    try:
                        busy = self._round() is None
                    finally:
                        self._turn.release()
                except (RemoteUnreachable, PushRefused):
                    break  # told; wait longer
                if busy:
                    stopped.wait(_LOOK_SECONDS)
        return self.store.claims.work(work).published

    def finish(self, stopped: threading.Event) -> int:
        """Deliver all that waits, of whatever machine; return how many results are left."""
        for _ in self._tries(stopped):
            left = len(self.store.merges.undelivered(self.branch))
            if not left:
                break
            with contextlib.suppress(RemoteUnreachable, PushRefused), self._turn:
                self._round()
        return len(self.store.merges.undelivered(self.branch))

    def fast_forward(self, is_task_file: Callable[[str], bool]) -> FastForward:
        """Bring the user's checkout to what is merged, under the rules of a merge on one machine."""
        return self.integration.fast_forward(is_task_file, self.base())

    def bring_checkout(self, where: str) -> list[str]:
        """Do so, and return what was done, in words; empty for nothing.

        Args:
            where: The branch that is to be moved.

        Raises:
            RemoteUnreachable: The remote does not answer.
        """
        globs = self.store.settings["tasks"]["globs"]
        with checkout_lock(self.project):
            moved = self.fast_forward(lambda path: matches_any(path, globs))
        if not moved.done:
            return [f"branch {where} not moved: {moved.why}; `git pull` brings the work"]
        if moved.before == moved.after:
            return []
        return [f"{where} fast-forwarded {moved.before[:7]}..{moved.after[:7]}"]

    def drop_local(self, branch: str, commit: str) -> None:
        """Delete an attempt's branch here, which is merged."""
        for ref in (f"refs/heads/{branch}", f"refs/remotes/{self.remote.name}/{branch}"):
            self._git.answer("update-ref", "-d", ref, commit)

    # ------------------------------------------------------------------ rounds

    def _round(self) -> int | None:
        """Deliver what waits; return how many results that were, None where another machine is at it.

        Raises:
            RemoteUnreachable: The remote does not answer.
            PushRefused: It does not take the merge.
        """
        lease = self._take()
        if lease is None:
            return None
        delivered = 0
        try:
            with self._told(), self._renewed(lease):
                for _ in range(_PUSHES):
                    waiting = self.store.merges.undelivered(self.branch)[:_AT_ONCE]
                    if not waiting:
                        break
                    chain = self._chain(lease, waiting)
                    if chain.tip != chain.base and not self.remote.push(chain.tip):
                        continue  # others have pushed: from the beginning
                    if not self.store.merges.deliver(lease, chain.done):
                        break  # another holds the lease by now, and finds all this merged
                    delivered += len(chain.done)
                    self.remote.drop(chain.branches)
        finally:
            self.store.merges.give_lease(lease)
        return delivered

    def _chain(self, lease: Lease, waiting: list[Undelivered]) -> _Chain:
        batches = {str((one.work.result or {}).get("batch") or "") for one in waiting} - {""}
        base = self.remote.fetch(sorted(batches))
        chain = _Chain(base=base, tip=base or self.integration.start_commit)
        for one in waiting:
            result = one.work.result or {}
            branch, commit = str(result.get("branch") or ""), str(result.get("commit") or "")
            merges = one.work.state == Outcome.SUCCESS and bool(branch)
            why = self._append(chain, one, commit if merges else "")
            if why:
                chain.overruled |= self._overrule(lease, chain.tip, one, why)
            elif merges:
                chain.branches.append((branch, commit))
        return chain

    def _append(self, chain: _Chain, one: Undelivered, commit: str) -> str:
        """Merge one result onto the chain; return why that cannot be done, "" if it was."""
        git, tip = self._git, chain.tip
        path = self.integration.repository.prefix + one.work.text
        task = self._task_at(tip, path)
        tree = git.run("rev-parse", f"{tip}^{{tree}}")
        if commit and not git.exists(commit):
            return f"its commit {commit[:12]} is not on {self.remote.name}"
        merges = bool(commit) and not git.contains(tip, commit)
        if merges:
            merged = merged_tree(git, tip, commit)
            if isinstance(merged, Conflict):
                return merged.why("other work")
            tree = merged
        edited = self._with_file(tree, path, one)
        if not merges and edited == tree:
            chain.done.append(one.on(tip))  # merged by a holder that died after its push
            return ""
        title = task.title if task else one.work.text
        name = task.id if task else one.work.text
        message = merge_message(name, title if merges else f"{name}: {one.work.state}")
        parents = ("-p", tip, *(("-p", commit) if merges else ()))
        made = git.run("commit-tree", edited, *parents, input=message)
        if merges and task and task.verify:
            why = self.integration.why_not(made, partial(self._verified, task))
            if why is not None:
                return f"does not verify beside other work ({why})"
        chain.tip = made
        chain.done.append(one.on(made))
        return ""

    def _verified(self, task: Task, folder: Path) -> str | None:
        checked = self.checks.verify(task, folder)
        return f"{checked.command}: {checked.line}" if isinstance(checked, Failed) else None

    def _with_file(self, tree: str, path: str, one: Undelivered) -> str:
        """Return the tree with the task's file as the result says; what does not fit is left, and told."""
        git = self._git
        data = read_blob(git, tree, path)
        if data is None:
            self.say(
                f"{one.work.text}: not on {self.remote.name}/{self.branch}; its status is in the store only"
            )
            return tree
        try:
            changed, left = delivered_file(data, one.work, path, self.store.settings)
        except Unreadable as error:
            changed, left = data, [str(error)]
        for why in left:
            self.say(f"{one.work.text}: not changed: {why}")
        self.integration.folder.mkdir(parents=True, exist_ok=True)
        return tree if changed == data else tree_with(git, tree, path, changed, self.integration.folder)

    def _overrule(self, lease: Lease, tip: str, one: Undelivered, why: str) -> bool:
        """Follow a success that cannot be merged by a result that says so, and keeps its branch."""
        old = dict(one.work.result or {})
        text = f"{why}; kept on {old.get('branch')}"
        completion = TaskCompletion(
            outcome=Outcome.BLOCKED, status=TaskStatus.REVIEW, text=text, commit=str(old.get("commit") or ""),
            details={key: old[key] for key in ("batch", "branch", "evidence", "runner") if key in old},
        )  # fmt: skip
        path = self.integration.repository.prefix + one.work.text
        result: dict[str, Any] = {**old, "status": "blocked", "outcome": text, "edit": None}
        data = read_blob(self._git, tip, path)
        if data is not None:
            with contextlib.suppress(HypervisorError):
                task, document = parse_task(Path(path), data, self.store.settings)
                if task.status not in CLOSED:
                    by = CompletedBy(
                        name=str(old.get("worker") or self.worker.name), attempt=one.work.last_number
                    )
                    task = replace(task, status=TaskStatus.IN_PROGRESS)
                    result = result_of(task, document, one.work.text, completion, by, self.store.settings)
        return self.store.merges.overrule(
            lease, one, self.worker, "blocked", {**result, "deliver": self.branch}
        )

    def _task_at(self, commit: str, path: str) -> Task | None:
        data = read_blob(self._git, commit, path)
        if data is None:
            return None
        try:
            return parse_task(Path(path), data, self.store.settings)[0]
        except Unreadable:
            return None

    # ------------------------------------------------------------------- lease

    def _take(self) -> Lease | None:
        name, seconds = f"merge {self.branch}", self.store.settings["git"]["lease_seconds"]
        lease = self.store.merges.take_lease(name, self.worker, seconds)
        holder = self.store.merges.lease_holder(name) if lease is None else None
        if holder is not None and self.store.rescuer.checker.death(holder):
            lease = self.store.merges.take_lease(name, self.worker, seconds, dead=holder.id)
        return lease

    @contextlib.contextmanager
    def _renewed(self, lease: Lease) -> Iterator[None]:
        """Renew the lease from a thread while a round goes on."""
        seconds, over = self.store.settings["git"]["lease_seconds"], threading.Event()

        def renew() -> None:
            while not over.wait(seconds / 3):
                with contextlib.suppress(OSError):  # the next one may succeed; the token decides
                    if not self.store.merges.renew_lease(lease, seconds):
                        return

        thread = threading.Thread(target=renew, daemon=True, name="merge lease")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    # ---------------------------------------------------------------- patience

    def _tries(self, stopped: threading.Event) -> Iterator[None]:
        """Yield again and again, with growing pauses, until stopped or out of patience."""
        wait, most = _BACK_OFF
        end = time.monotonic() + self.store.settings["git"]["patience_seconds"]
        yield
        while time.monotonic() < end and not stopped.wait(wait):
            yield
            wait = min(2 * wait, most)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Tell once that the remote is down or refuses, and once that it is back."""
        try:
            yield
        except (RemoteUnreachable, PushRefused) as error:
            if self._down != str(error):
                self._down = str(error)
                self.say(f"{error}; finished work is kept and tried again")
            raise
        except GitError:
            raise
        else:
            if self._down:
                self._down = ""
                self.say(f"{self.remote.name} answers again")


def delivery_of(
    project: Project,
    store: Store,
    integration: Integration,
    options: RunOptions,
    worker: Worker,
    checks: Checks,
) -> GitDelivery:
    """Return the delivery of a run's work.

    Raises:
        UsageError: There is no remote.
    """
    seconds = store.settings["git"]["remote_seconds"]
    remote = Remote.of(integration.repository, options.start_branch, seconds)
    if options.merge == "branch":
        remote = replace(remote, branch=integration.branch)
    return GitDelivery(
        store=store, project=project, integration=integration, remote=remote, worker=worker, checks=checks
    )
