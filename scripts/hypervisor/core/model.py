"""The words of the product as data: statuses, results, tasks, edits. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class TaskStatus(StrEnum):
    """Where a task stands, whatever word its file uses for it."""

    INBOX = "inbox"  #: noted, not looked at yet
    ACTIVE = "active"  #: may be worked on
    IN_PROGRESS = "in_progress"  #: somebody works on it
    BLOCKED = "blocked"  #: cannot go on without something from outside
    REVIEW = "review"  #: the work is there, somebody has to look at it
    DONE = "done"  #: finished
    CANCELLED = "cancelled"  #: will not be done


#: Statuses that end a task.
CLOSED = frozenset({TaskStatus.DONE, TaskStatus.CANCELLED})

_S = TaskStatus

#: Which status may follow which. Any open task may be cancelled; a closed one is reopened by
#: its owner only, so that no program ever moves a task out of ``done``.
MOVES: Mapping[TaskStatus, frozenset[TaskStatus]] = {
    _S.INBOX: frozenset({_S.ACTIVE, _S.IN_PROGRESS, _S.BLOCKED, _S.DONE, _S.CANCELLED}),
    _S.ACTIVE: frozenset({_S.INBOX, _S.IN_PROGRESS, _S.BLOCKED, _S.REVIEW, _S.DONE, _S.CANCELLED}),
    _S.IN_PROGRESS: frozenset({_S.INBOX, _S.ACTIVE, _S.BLOCKED, _S.REVIEW, _S.DONE, _S.CANCELLED}),
    _S.BLOCKED: frozenset({_S.ACTIVE, _S.DONE, _S.CANCELLED}),
    _S.REVIEW: frozenset({_S.ACTIVE, _S.DONE, _S.CANCELLED}),
    _S.DONE: frozenset(),
    _S.CANCELLED: frozenset(),
}


class Outcome(StrEnum):
    """How an item ended in a batch."""

    SUCCESS = "success"
    BLOCKED = "blocked"
    FAILED = "failed"
    SKIPPED = "skipped"


class Complexity(StrEnum):
    """What kind of worker a task needs."""

    MECHANICAL = "mechanical"  #: one step that needs no thought
    MULTI_STEP = "multi-step"  #: several steps, each of them clear
    REQUIRES_JUDGMENT = "requires-judgment"  #: a person has to decide something
    NEEDS_DECOMPOSITION = "needs-decomposition"  #: too large for one worker
    BLOCKED_HUMAN = "blocked-human"  #: waits for something that only a person can do


class Priority(StrEnum):
    """How soon a task is wanted; the files may also say 0 to 3."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 for the most urgent, 3 for the least."""
        return list(Priority).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEdit:
    """One frontmatter key given another value, as source text.

    An edit is applied only where the file still says `old`; where it says `new` already,
    it is done. So it can be applied twice, and undone to the byte.
    """

    key: str
    #: The source text of the value (what stands between the colon and the entry's end,
    #: without comment), or None where the key was absent.
    old: str | None
    #: The source text that takes its place, or None to take the entry away.
    new: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LineEdit:
    """Lines put into the body."""

    #: The exact text that goes in, with the file's own line ends.
    text: str
    #: The exact line (without its end) after which the text goes in, "" for the start of
    #: the body, or None for its end.
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEdit:
    """All that one result changes in one task file."""

    #: Absolute path of the file.
    path: str
    keys: tuple[KeyEdit, ...] = ()
    lines: tuple[LineEdit, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.keys or self.lines)

    def to_json(self) -> dict[str, Any]:
        """Return the edit as plain data."""
        return {
            "path": self.path,
            "keys": [{"key": e.key, "old": e.old, "new": e.new} for e in self.keys],
            "lines": [{"text": e.text, "after": e.after} for e in self.lines],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FileEdit:
        """Read back what `to_json` wrote."""
        return cls(
            path=data["path"],
            keys=tuple(KeyEdit(key=e["key"], old=e["old"], new=e["new"]) for e in data.get("keys", ())),
            lines=tuple(LineEdit(text=e["text"], after=e["after"]) for e in data.get("lines", ())),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One thing that a rule decided, and why."""

    #: What it is about: ``status``, ``complexity``, ``assignee``, ``link``.
    field: str
    #: The value decided on, or None where the rule leaves it as it is.
    value: str | None
    #: Which rule, on what evidence (the words, and where they stand).
    reason: str


#: The outcome and the reason where triage found no strong evidence for any kind of task.
UNDECIDED = "undecided: no strong evidence"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a runner says of one item; the store adds who and when and makes it a result."""

    status: Outcome
    #: One line for people: what was done, or why not.
    outcome: str
    #: What the result changes in the task's file, applied before the result is published.
    edit: FileEdit | None = None
    decisions: tuple[Decision, ...] = ()
    #: Facts that support the status (exit code, commit, files ...).
    evidence: Mapping[str, Any] = field(default_factory=dict)
    #: Whether another attempt could end otherwise (exit 75, a fault of the machine).
    retry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskHead:
    """What the frontmatter of a task says. Words are mapped; the file's own are kept."""

    #: Absolute path.
    path: str
    #: The file's own id, else its stem. Unique only within an index.
    id: str
    title: str
    #: None where the file has no status, or one that no vocabulary knows.
    status: TaskStatus | None
    #: The status as the file spells it ("" where it has none).
    status_word: str
    #: Names, without a leading "@"; empty where nobody is named.
    assignee: tuple[str, ...]
    priority: Priority
    project: str
    type: str
    complexity: Complexity | None
    parent: str
    depends_on: tuple[str, ...]
    #: Paths that the task may touch.
    files: tuple[str, ...]
    needs: tuple[str, ...]
    tags: tuple[str, ...]
    #: Tools whose use leaves a receipt.
    receipts: tuple[str, ...]
    receipts_to: str
    #: A command that verifies the work.
    verify: str
    #: Whether a report with evidence completes the task; None where the file does not say so.
    accept_reports: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(TaskHead):
    """A markdown file with frontmatter, as read."""

    #: All frontmatter keys, lower-cased and as read.
    front: Mapping[str, Any]
    #: Everything after the frontmatter.
    body: str
