"""Merging verified work; what does not merge is given to an agent once, and then to a person.

The agent works in a folder in which the merge is in progress, with the texts of all tasks that take part. It
may change what they have changed, all their `verify` commands must pass, and its commit must have both sides
as parents. What it says makes no merge.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.errors import ConfigError, HypervisorError, Refused
from ..core.model import Outcome, Task, TaskStatus
from ..git.git import Git, GitError, from_top
from ..git.half_merge import marked_files
from ..git.merging import Conflict, Integration, Merged, Unverified
from ..git.trailers import TASK_TRAILER, merge_message
from ..git.work import Gathered, Tree, in_scope
from ..runners.base import Agent, Assignment, How, Usage
from ..runners.registry import RUNNERS, RunnerOptions
from ..store.events import RunEvent
from ..tasks.files import read_task
from ..tasks.terms import TaskTerms
from .attempt_work import AttemptWork
from .prompt import cut, report_path
from .reviewing import add_cost
from .run_context import RunContext, require_held
from .turns import AgentTurns
from .verdict import Failed, Verdict, not_now
from .workspace_pool import SetupFailed

_PROMPT = Path(__file__).resolve().parents[3] / "prompts/conflict.md"
#: Ends the names of the folder, the branch and the log of an agent that merges.
_NAME = "merge"
#: Characters of all other tasks' texts, and tasks whose texts are told.
_TEXTS, _OTHERS = 60_000, 20

#: Returns what an agent is started with whose task's text is followed by the text.
Assign = Callable[[AttemptWork, str], Assignment]


@dataclass(slots=True)
class Merging:
    """The merge of the verified work of one attempt."""

    run: RunContext
    turns: AgentTurns
    work: AttemptWork
    #: The folder and branch of the work, and its verdict.
    tree: Tree
    verdict: Verdict
    #: Set to end the agent.
    stopped: threading.Event

    def carry_out(self, assign: Assign) -> tuple[AttemptWork, Verdict]:
        """Merge the work; return the attempt and its verdict after that."""
        fault = self._merge_alone()
        if isinstance(fault, Merged):
            return self._done(fault)
        others = others_beside(self.run, self._commit, fault)
        agent = resolver_of(self.run, self.work.agent, fault)
        ids, name = [one.id for one in others], agent.name if agent else ""
        what = fault.why(_named(others))
        self.run.tell(RunEvent.CONFLICTED, self.work.task.id, text=what, others=ids, agent=name)
        if agent is None:
            return self._held(what)
        while not self.run.resolving.acquire(timeout=1.0):
            if self.stopped.is_set():
                return self.work, not_now("stopped before its conflict was resolved")
        try:
            fault = self._merge_alone()  # another conflict may have been resolved meanwhile
            if isinstance(fault, Merged):
                return self._done(fault)
            others = others_beside(self.run, self._commit, fault)
            return self._resolve(fault, others, agent, assign)
        finally:
            self.run.resolving.release()

    # ---------------------------------------------------------------- details

    @property
    def _commit(self) -> str:
        return str(self.verdict.evidence["commit"])

    @property
    def _integration(self) -> Integration:
        assert self.run.integration is not None  # noqa: S101 - asked before
        return self.run.integration

    def _merge_alone(self) -> Merged | Conflict | Unverified:
        return self._merge(self._commit, self.work.task, self.tree)

    def _merge(self, commit: str, task: Task, tree: Tree) -> Merged | Conflict | Unverified:
        require_held(self.run, self.work.claim)

        def verified(folder: Path) -> str | None:
            result = self.run.checks.verify(task, folder, self.work.log)
            return f"{result.command}: {result.line}" if isinstance(result, Failed) else None

        return self._integration.merge(
            commit, merge_message(task.id, task.title), verified if task.verify else None, self.work.claim,
            tree.branch if tree.kind == "clone" else "",
        )  # fmt: skip

    def _done(self, merged: Merged) -> tuple[AttemptWork, Verdict]:
        self.run.merged[self.work.task.path] = self.work.task.verify
        evidence = {**self.verdict.evidence, "merged": merged.commit}
        return replace(self.work, merged=True), replace(self.verdict, evidence=evidence)

    def _held(self, what: str, tried: str = "") -> tuple[AttemptWork, Verdict]:
        """Leave the work to a person; *what* says with what it conflicts, *tried* why no agent merged it."""
        text = "; ".join(filter(None, (what, f"kept on {self.tree.branch}", tried)))
        return self.work, replace(
            self.verdict, outcome=Outcome.BLOCKED, status=TaskStatus.REVIEW, text=text, merge=False, keep=True
        )

    def _resolve(
        self, fault: Conflict | Unverified, others: Sequence[Task], agent: Agent, assign: Assign
    ) -> tuple[AttemptWork, Verdict]:
        """Let an agent merge the work with that of *others*, and merge what it made."""
        run, what, end = self.run, fault.why(_named(others)), None
        try:
            begun = self._begin(self._integration.tip)
            resolved, judged = self._let_agent_merge(begun, fault, others, agent, assign)
        except (SetupFailed, Refused, GitError, OSError, ConfigError) as error:
            why = f"no agent could try to merge it: {error}"
        else:
            end = resolved.end
            self.work = replace(self.work, end=add_cost(self.work.end, end))
            if end is not None and end.how is How.STOPPED and self.stopped.is_set():
                return self.work, not_now(f"stopped while its conflict was resolved: {end.text}")
            said = judged.text.partition("; its branch is kept")[0]  # its branch is none to look for
            why = f"{agent.name} could not merge it: {said}"
            if judged.merge:
                run.tell(RunEvent.RESOLVED, self.work.task.id, word="merged", text=what)
                told = f"{what}: merged by {agent.name}"
                self.verdict = replace(judged, text=f"{told}; {judged.text}", evidence={
                    **self.verdict.evidence, **judged.evidence, "conflict": told,
                })  # fmt: skip
                return self._done(Merged(commit=str(judged.evidence["merged"])))
        run.tell(RunEvent.RESOLVED, self.work.task.id, word="held", text=why)
        evidence = {**self.verdict.evidence, "conflict": f"{what}; {why}"}
        self.verdict = replace(self.verdict, evidence=evidence)
        return self._held(what, why)

    def _begin(self, tip: str) -> AttemptWork:
        """Open a folder at *tip* in which the merge of the work is in progress."""
        run, number = self.run, f"{self.work.number}.{_NAME}"
        assert run.pool is not None and run.trees is not None  # noqa: S101, PT018 - else nothing is merged
        workspace = run.pool.open(self.work.task.id, number, tip, self.stopped)
        assert workspace.tree is not None  # noqa: S101 - it is open
        try:
            workspace.tree = run.trees.begin_merge(workspace.tree, self._commit)
        except (GitError, OSError):
            run.pool.close(workspace, Gathered(place=workspace.tree.path), merged=False)
            raise
        return replace(
            self.work, workspace=workspace, gathered=None, end=None, reported=None,
            log=f"{self.work.log}.{_NAME}",
            report=report_path(run.batch.folder, self.work.claim.key, number),
        )  # fmt: skip

    def _let_agent_merge(
        self,
        work: AttemptWork,
        fault: Conflict | Unverified,
        others: Sequence[Task],
        agent: Agent,
        assign: Assign,
    ) -> tuple[AttemptWork, Verdict]:
        """Run the agent; return what it left, and the verdict, which says `merge` if that is merged now."""
        run, mine, tree = self.run, self.work.task, work.tree
        assert run.pool is not None and tree is not None  # noqa: S101, PT018 - see `_begin`
        git, prefix = self._integration.repository.git(), self._integration.repository.prefix
        both = together(mine, others, changed_files(git, prefix, self._commit, tree.base, fault, others))
        work = replace(work, task=both, filed=mine, agent=agent)
        given = assign(work, conflict_text(fault, others))
        given = replace(given, mark=(given.mark[0], f"{given.mark[1]}.{_NAME}"), usage=Usage())
        before = run.watch.look() if run.watch else None
        work, judged = self.turns.carry_out(work, given, before)
        if judged.merge:
            judged = self._merged(judged, tree, both)
        if work.workspace is not None and work.gathered is not None:
            run.pool.close(work.workspace, work.gathered, merged=judged.merge, spare=not judged.merge)
        return work, judged

    def _merged(self, judged: Verdict, tree: Tree, both: Task) -> Verdict:
        """Merge what the agent made of the merge, if it is one; return its verdict after that."""
        git, commit = self._integration.repository.git(), str(judged.evidence["commit"])
        if not (git.contains(commit, self._commit) and git.contains(commit, tree.base)):
            return replace(judged, merge=False, text="its commit does not have both sides as parents")
        if marked := marked_files(git, commit, (self._commit, tree.base)):
            names = [from_top(path, self._integration.repository.prefix) for path in marked[:5]]
            return replace(judged, merge=False, text=f"conflict markers are left in {', '.join(names)}")
        merged = self._merge(commit, both, tree)
        if not isinstance(merged, Merged):
            return replace(judged, merge=False, text=merged.why("work merged meanwhile"))
        if self.tree.kind == "clone":  # all of it is in the merge
            git.run("update-ref", "-d", self.tree.ref, self._commit, check=False)
        return replace(judged, evidence={**judged.evidence, "merged": merged.commit})


def resolver_of(run: RunContext, worker: Agent, fault: Conflict | Unverified) -> Agent | None:
    """Return the agent that tries to merge what conflicts, None where a person is to decide at once."""
    told = run.service.settings["merge"]
    no_files = isinstance(fault, Conflict) and not fault.files  # it is no conflict of contents
    if told["conflicts"] != "agent" or no_files or run.supervisor.used_up():
        return None
    if worker.name != "exec":
        return worker
    kind, command = RUNNERS["exec"], tuple(told["command"].split())
    return kind.agent(RunnerOptions(command=command)) if command and kind.agent else None


def others_beside(run: RunContext, commit: str, fault: Conflict | Unverified) -> list[Task]:
    """Return the tasks whose merged work *commit* lacks, as they are judged; of a conflict, those in it."""
    assert run.integration is not None  # noqa: S101 - asked before
    git, prefix, tip = (
        run.integration.repository.git(),
        run.integration.repository.prefix,
        run.integration.tip,
    )
    found: dict[str, Task] = {}
    form = f"--format=%H%x09%(trailers:key={TASK_TRAILER},valueonly,separator=%x09)"
    for line in git.lines("log", "--first-parent", "--merges", form, f"{commit}..{tip}", nul=False):
        merge, *names = line.split("\t")
        if isinstance(fault, Conflict) and not set(_files(git, prefix, f"{merge}^1", merge)) & set(
            fault.files
        ):
            continue
        for name in names[-1:]:
            with contextlib.suppress(HypervisorError, OSError):  # its file is gone
                found.setdefault(name, _as_judged(run, name))
    return list(found.values())


def changed_files(
    git: Git, prefix: str, commit: str, tip: str, fault: Conflict | Unverified, others: Sequence[Task]
) -> set[str]:
    """Return the files that both sides of a merge have changed, as far as the merge is about them."""
    base = git.run("merge-base", commit, tip, check=False)
    mine, theirs = _files(git, prefix, base, commit), _files(git, prefix, base, tip)
    files = [path for one in others for path in one.files]
    if all(one.files for one in others):
        theirs = [path for path in theirs if in_scope(path, files)] if files else []
    return {*mine, *theirs, *(fault.files if isinstance(fault, Conflict) else ())}


def together(task: Task, others: Sequence[Task], files: set[str]) -> Task:
    """Return *task* as one that holds only together with *others*: its files, and what must pass."""
    commands = list(dict.fromkeys(one.verify for one in (task, *others) if one.verify))
    verify = commands[0] if len(commands) == 1 else " && ".join(f"( {one}\n)" for one in commands)
    return replace(task, files=tuple(sorted(files)), verify=verify)


def conflict_text(fault: Conflict | Unverified, others: Sequence[Task]) -> str:
    """Return what an agent is told that merges, to be put behind the text of its task."""
    most = _TEXTS // max(1, len(others))
    parts = [
        f"### {one.id}: {one.title}\n\n{cut(one.body.strip(), most, f'`hypervisor task show {one.id}`')}"
        for one in others[:_OTHERS]
    ]
    text = _PROMPT.read_text("utf-8").rstrip().replace("{conflict}", fault.why(_named(others)))
    return text.replace("{others}", "\n\n".join(parts) or "(The merged work is of no task: see `git log`.)")


def _as_judged(run: RunContext, name: str) -> Task:
    head = run.service.find(name)
    task = read_task(Path(head.path), run.service.settings)
    work = run.store.claims.latest(run.service.key(head))
    kept = run.store.batches.terms_of(run.batch.record.id, work.id) if work else None
    return TaskTerms.from_json(kept).apply_to(task) if kept else task


def _files(git: Git, prefix: str, before: str, after: str) -> list[str]:
    words = ("diff", "--name-only", "--no-renames", "--no-ext-diff", "-z", before, after)
    return [from_top(path, prefix) for path in git.lines(*words)] if before else []


def _named(others: Sequence[Task]) -> str:
    names = ", ".join(one.id for one in others[:5])
    return f"the work of {names}" if names else "other work"
