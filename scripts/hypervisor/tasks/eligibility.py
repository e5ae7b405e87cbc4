"""May this task be claimed, by whom, and why not; what would run of many. Pure: data in, decision out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ..core.model import Complexity, TaskHead, TaskStatus

#: Kinds of task that are passed over where an agent asks for "the next one".
UNFIT = frozenset({Complexity.BLOCKED_HUMAN, Complexity.REQUIRES_JUDGMENT, Complexity.NEEDS_DECOMPOSITION})
#: How many tasks of equal urgency racers spread over. The first of them is always tried first, so
#: that a single worker goes in order.
SPREAD = 32
#: Reasons that `nothing_ready` names.
_REASONS = 4
_WAITS = "waits for "


class Dependencies(Protocol):
    """What is known of the tasks that others wait for."""

    def unmet(self, task: TaskHead) -> list[str]:
        """Return what *task* waits for, each with its name and what is wrong with it."""

    def waits_for(self, task: TaskHead) -> list[str]:
        """Return the ids of what *task* waits for, as it spells them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Eligibility:
    """Which tasks of a project an actor may claim, as of one moment."""

    #: Who asks.
    name: str
    settings: Mapping[str, Any]
    dependencies: Dependencies
    #: Returns a task's key in the store.
    key: Callable[[TaskHead], str]
    #: Who holds what, by the tasks' keys.
    holders: Mapping[str, str] = field(default_factory=dict)
    #: Why a task's bulk action waits, by the ids (case-folded) of the tasks.
    gated: Mapping[str, str] = field(default_factory=dict)
    #: What holds a task besides the store, by the names of lock directories.
    locks: Mapping[str, str] = field(default_factory=dict)
    #: Returns how a task ended on another machine whose file here is older than that; None where one
    #: machine has the store.
    finished: Callable[[TaskHead], str | None] | None = None

    def __call__(self, task: TaskHead) -> str | None:
        """Return why a task may not be claimed now, None if it may."""
        return self._refusal(task, self.dependencies.unmet(task))

    def waits_for(self, task: TaskHead) -> list[str]:
        """Return the ids of the tasks whose end is all that a task waits for; empty if there is more."""
        names = self.dependencies.waits_for(task)
        return names if names and self._refusal(task, ()) is None else []

    def of_file(self, task: TaskHead, unmet: Sequence[str]) -> str | None:
        """Return why a task may not be claimed by what its file says and what it waits for alone."""
        return claim_refusal(task, self.name, self.settings, unmet=unmet)

    def held(self, task: TaskHead) -> str | None:
        """Return who else holds a task, or what keeps it, None for nobody and nothing."""
        if self.holders and (holder := self.holders.get(self.key(task))):
            return f"held by {holder}"
        if self.locks and (lock := self.locks.get(lock_name(task, self.key(task)))):
            return lock
        if self.finished is not None and (ended := self.finished(task)):
            return ended
        return self.gated.get(task.id.casefold()) if self.gated else None

    def _refusal(self, task: TaskHead, unmet: Sequence[str]) -> str | None:
        # Who holds it says more than "in progress".
        holder = self.holders.get(self.key(task)) if self.holders else None
        return f"held by {holder}" if holder else self.of_file(task, unmet) or self.held(task)


def lock_name(task: TaskHead, key: str) -> str:
    """Return the name of a task's lock directory: its id, or its key where that cannot be a folder's name."""
    name = task.id
    fit = name.isprintable() and "/" not in name and not name.startswith(".") and len(name.encode()) <= 200
    return name if fit else key


def is_agent(name: str, settings: Mapping[str, Any]) -> bool:
    """Return whether *name* is an agent's; every name that is not is a person's."""
    bare = name.strip().lstrip("@").casefold()
    return bare.endswith("-agent") or bare in {str(known).casefold() for known in settings["agents"]["names"]}


def claim_refusal(
    task: TaskHead, name: str, settings: Mapping[str, Any], *, unmet: Sequence[str] = ()
) -> str | None:
    """Return why *name* may not claim *task* by what its file says, None if it may.

    Args:
        task: The task as its file says now.
        name: Who asks.
        settings: The project's.
        unmet: Ids that it depends on and that are not done, unknown ones too.
    """
    if task.status is TaskStatus.DONE:
        return "already complete"
    if task.status is TaskStatus.CANCELLED:
        return "cancelled"
    if task.status is None:
        word = f"its status {task.status_word!r} is not known" if task.status_word else "it has no status"
        return f"{word}; add the word to [status.words]" if task.status_word else word
    if task.status in (TaskStatus.BLOCKED, TaskStatus.REVIEW):
        return f"its status is {task.status}; set it to active to run it"
    if task.status is TaskStatus.IN_PROGRESS:
        return f"in progress by {', '.join(task.assignee) or 'somebody'}, outside of our claims"
    people = [one for one in task.assignee if not is_agent(one, settings)]
    if people and name.casefold() not in {one.casefold() for one in people}:
        return f"assigned to {', '.join(people)}, a person"
    if unmet:
        return f"{_WAITS}{', '.join(unmet)}"
    return None


def skip_reason(task: TaskHead, holder: str) -> str | None:
    """Return why a batch that only looks at tasks leaves this one out, None if it does not.

    Args:
        task: The task as its file says now.
        holder: Who holds it, "" for nobody.
    """
    if task.status is TaskStatus.DONE:
        return "already complete"
    if task.status is TaskStatus.CANCELLED:
        return "cancelled"
    return f"held by {holder}" if holder else None


# --------------------------------------------------------------------- one of many


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What an agent asks for."""

    project: str = ""
    complexity: Complexity | None = None
    #: Paths of tasks, None for all: those of a batch.
    among: frozenset[str] | None = None
    #: What the agent has that a task may need (``mcp:outlook``).
    has: frozenset[str] = field(default_factory=frozenset)

    def asks_for(self, task: TaskHead) -> bool:
        """Return whether *task* is of the kind that is asked for."""
        return (
            (not self.project or task.project.casefold() == self.project.casefold())
            and (self.complexity is None or task.complexity is self.complexity)
            and (self.among is None or task.path in self.among)
        )

    def refusal(self, task: TaskHead) -> str | None:
        """Return why a task of that kind is passed over, None if it is not."""
        if self.complexity is None and task.complexity in UNFIT:
            return f"it is {task.complexity}, which is given only to those who ask for it"
        missing = [need for need in task.needs if need not in self.has]
        return f"needs {', '.join(missing)}" if missing else None


def in_turn(ready: Sequence[TaskHead]) -> Iterator[TaskHead]:
    """Yield *ready* tasks, the most urgent first.

    Many who ask at once would all try the same task, and the next, and the next: whoever loses the
    first goes on at a random one of equal urgency.
    """
    import random  # noqa: PLC0415 - commands that only look need no dice

    left = sorted(ready, key=lambda task: task.priority.rank)
    while left:
        yield left[0]
        rank = left[0].priority.rank
        window = [task for task in left[1 : 1 + SPREAD] if task.priority.rank == rank]
        random.shuffle(window)
        left[: 1 + len(window)] = window


def nothing_ready(reasons: Mapping[str, int]) -> str:
    """Return in one line why no task could be given out, from the reasons and how many have each."""
    if not reasons:
        return "there is no task of this kind; see list_tasks or `hypervisor task list`"
    waits = [reason for reason in reasons if reason.startswith(_WAITS)]
    kept = Counter(reasons)
    if len(reasons) > _REASONS and len(waits) > 1:
        kept[f"{_WAITS}other tasks"] = sum(kept.pop(reason) for reason in waits)
    counts = kept.most_common()
    told = [f"{count} {reason}" for reason, count in counts[:_REASONS]]
    more = sum(count for _, count in counts[_REASONS:])
    return f"nothing is ready: {'; '.join(told)}{f'; {more} for other reasons' if more else ''}"


# ------------------------------------------------------------------------- plan


class Named(NamedTuple):
    """A task by its names alone: a plan may be of a hundred thousand."""

    id: str
    #: Absolute path.
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would run, and what is skipped."""

    run: tuple[Named, ...]
    skipped: tuple[tuple[Named, str], ...]

    def by_reason(self) -> dict[str, list[str]]:
        """Return the ids of the skipped tasks by reason, the most frequent reason first."""
        found: dict[str, list[str]] = {}
        for task, reason in self.skipped:
            found.setdefault(reason, []).append(task.id)
        return dict(sorted(found.items(), key=lambda pair: -len(pair[1])))


def plan(
    tasks: Iterable[TaskHead],
    refusal: Callable[[TaskHead], str | None],
    waits_for: Callable[[TaskHead], Sequence[str]] = lambda _: (),
) -> Plan:
    """Sort *tasks* into those that would run and those that are skipped.

    The most urgent come first; behind them those that wait for no others than these, each behind
    what it waits for.

    Args:
        tasks: The tasks.
        refusal: Returns why one may not be claimed, None if it may.
        waits_for: Returns the tasks whose end is all that another waits for.
    """
    ranks: dict[int, list[Named]] = {}
    skipped: list[tuple[Named, str]] = []
    later: dict[Named, tuple[set[str], str]] = {}
    for task in tasks:
        reason, named = refusal(task), Named(task.id, task.path)
        if reason is None:
            ranks.setdefault(task.priority.rank, []).append(named)
        elif names := waits_for(task):
            later[named] = {name.lower() for name in names}, reason
        else:
            skipped.append((named, reason))
    run = [named for rank in sorted(ranks) for named in ranks[rank]]
    after: dict[str, list[Named]] = {}
    for named, (waited, _) in later.items():
        for name in waited:
            after.setdefault(name, []).append(named)
    for done in run:  # it grows on the way
        for named in after.get(done.id.lower(), ()):
            waited, _ = later[named]
            waited.discard(done.id.lower())
            if not waited:
                run.append(named)
                del later[named]
    skipped += [(named, reason) for named, (_, reason) in later.items()]
    return Plan(run=tuple(run), skipped=tuple(skipped))
