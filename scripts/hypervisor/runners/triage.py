"""The `triage` runner: sets a task's status, complexity, assignee and link by rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import Unreadable
from ..core.model import (
    CLOSED,
    UNDECIDED,
    Decision,
    FileEdit,
    KeyEdit,
    LineEdit,
    Outcome,
    Report,
    Task,
    TaskStatus,
)
from ..documents import markdown, yaml_edit
from ..tasks.files import edit_key, open_task, status_word
from ..triage.classify import Rules, compile_rules, triage
from .base import ItemWork


@dataclass(slots=True)
class TriageRunner:
    """Decides by the rules of the settings, and reports what is to be written.

    Args:
        settings_for: Gives the settings of the project that a file belongs to.
    """

    settings_for: Callable[[str], Mapping[str, Any]]
    name: str = "triage"
    _rules: dict[int, Rules] = field(default_factory=dict)

    def run(self, work: ItemWork) -> Report:
        """Triage one task file; a file that cannot be read fails with the reason, untouched."""
        settings = self.settings_for(work.path)
        try:
            task, document = open_task(Path(work.path), settings)
            if task.status in CLOSED:
                done = task.status is TaskStatus.DONE
                return Report(status=Outcome.SKIPPED, outcome="already complete" if done else "cancelled")
            decided = triage(task, self._rules_of(settings))
            decisions = decided.decisions
            edit = plan_edit(task, document, decisions, settings)
        except Unreadable as error:
            return Report(status=Outcome.FAILED, outcome=error.why)
        changed = [f"{d.field} {d.value}" for d in decisions if d.value is not None]
        if decided.undecided:
            changed.append(UNDECIDED)
        outcome = ", ".join(changed) if changed else "nothing to change"
        return Report(
            status=Outcome.SUCCESS, outcome=outcome, decisions=decisions, edit=edit if edit else None
        )

    def preview(self, work: ItemWork) -> dict[str, Any]:
        """Return what the rules would decide, and the lines of the file that would change."""
        report = self.run(work)
        diff = _diff(Path(work.path), report.edit) if report.edit else []
        return {
            "diff": diff,
            "status": report.status.value,
            "outcome": report.outcome,
            "decisions": [{"field": d.field, "value": d.value, "reason": d.reason} for d in report.decisions],
        }

    def _rules_of(self, settings: Mapping[str, Any]) -> Rules:
        # By identity: settings are read once per project and live as long as the process.
        if id(settings) not in self._rules:
            self._rules[id(settings)] = compile_rules(settings)
        return self._rules[id(settings)]


def plan_edit(
    task: Task, document: yaml_edit.Document, decisions: tuple[Decision, ...], settings: Mapping[str, Any]
) -> FileEdit:
    """Return what *decisions* change in the file, byte by byte.

    Raises:
        Unreadable: A key that has to change stands in a form that cannot be edited safely.
    """
    keys: list[KeyEdit] = []
    lines: list[LineEdit] = []
    for decision in decisions:
        if decision.value is None:
            continue
        if decision.field == "link":
            lines.append(_link(document, decision.value))
            continue
        value: str = decision.value
        if decision.field == "status":
            value = status_word(task, TaskStatus(value), settings)
        keys.append(edit_key(document, decision.field, value, settings))
        document = document.after(keys[-1])
    return FileEdit(path=task.path, keys=tuple(keys), lines=tuple(lines))


def _diff(path: Path, edit: FileEdit) -> list[str]:
    """Return the lines that *edit* removes and adds, with ``-`` and ``+`` before them."""
    from difflib import unified_diff  # noqa: PLC0415 - for a dry run only

    try:
        before = path.read_bytes()
    except OSError:
        return []
    after, _ = yaml_edit.apply(before, edit)
    old, new = (text.decode("utf-8").splitlines() for text in (before, after))
    return [
        line for line in unified_diff(old, new, n=0, lineterm="") if not line.startswith(("---", "+++", "@@"))
    ]


def _link(document: yaml_edit.Document, link: str) -> LineEdit:
    """Return the link as a paragraph of its own after the first heading, or at the body's start."""
    end = document.newline
    heading = next(markdown.headings(document.body), None)
    if heading is None:
        return LineEdit(text=f"{link}{end}{end}", after="")
    following = document.body[heading.end :]
    blank = not following or following.startswith(("\n", "\r"))
    return LineEdit(text=f"{end}{link}{end}{'' if blank else end}", after=heading.line)
