"""May this task be claimed, by whom, and why not. Pure: data in, decision out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..core.model import Complexity, TaskHead, TaskStatus

#: Kinds of task that are passed over where an agent asks for "the next one".
UNFIT = frozenset({Complexity.BLOCKED_HUMAN, Complexity.REQUIRES_JUDGMENT, Complexity.NEEDS_DECOMPOSITION})


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
        refusal: Says why one may not be claimed, None if it may.
        waits_for: Names the tasks whose end is all that another waits for.
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


def is_agent(name: str, settings: Mapping[str, Any]) -> bool:
    """Tell whether *name* is an agent's; every name that is not is a person's."""
    bare = name.strip().lstrip("@").casefold()
    return bare.endswith("-agent") or bare in {str(known).casefold() for known in settings["agents"]["names"]}


def claim_refusal(
    task: TaskHead,
    caller: str,
    settings: Mapping[str, Any],
    *,
    unmet: Sequence[str] = (),
    ours: bool = False,
) -> str | None:
    """Return why *caller* may not claim *task*, None if it may.

    Args:
        task: The task as its file says now.
        caller: Who asks.
        settings: The project's.
        unmet: Ids that it depends on and that are not done, unknown ones too.
        ours: Whether it is the project's own claims that made it ``in_progress``; who holds it is
            not asked here.
    """
    if task.status is TaskStatus.DONE:
        return "already complete"
    if task.status is TaskStatus.CANCELLED:
        return "cancelled"
    if task.status is None:
        word = f"its status {task.status_word!r} is not known" if task.status_word else "it has no status"
        return f"{word}; add the word to [status.words]" if task.status_word else word
    if task.status in (TaskStatus.BLOCKED, TaskStatus.REVIEW):
        return f"its status is {task.status}; its owner sets it to active when it can go on"
    people = [name for name in task.assignee if not is_agent(name, settings)]
    theirs = bool(people) and caller.casefold() not in {name.casefold() for name in people}
    if task.status is TaskStatus.IN_PROGRESS and not ours:
        return f"in progress by {', '.join(task.assignee) or 'somebody'}, outside of our claims"
    if theirs and not ours:
        return f"assigned to {', '.join(people)}, a person"
    if unmet:
        return f"waits for {', '.join(unmet)}"
    return None


def unfit_for_next(task: TaskHead) -> str | None:
    """Return why an agent that asks for any task is not given this one, None if it is."""
    return f"it is {task.complexity}" if task.complexity in UNFIT else None
