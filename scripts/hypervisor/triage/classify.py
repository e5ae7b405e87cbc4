"""What kind of worker a task needs, and whether it is open at all. Pure: data in, data out.

The rules are data (``[triage]`` in the settings, see `rules`) and are weighed against
what the task says of itself (see `facts`). Only the title, tags, lists and how a paragraph
begins count; a word somewhere in the prose never does. Without strong evidence nothing is
decided: a file that says nothing is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.model import CLOSED, UNDECIDED, Complexity, Decision, Task, TaskStatus
from .facts import Facts, Outline, TextBlock, gather, is_named
from .rules import Rule, Rules, compile_rules, shorten

__all__ = ["Rules", "Triage", "compile_rules", "triage"]

_WIKI = re.compile(r"\[\[([^\[\]\r\n]+)\]\]")
_UNLINKABLE = re.compile(r"[\[\]|#^]")
#: What may stand before a close reason's own words: "Closed 2025-03-01 as ...", "Resolution: ...".
_PREAMBLE = re.compile(
    r"(?:(?:closed?|closing|marked|resolution|reason|status|outcome|as|on|because|a)\b|[\W\d_])+",
    re.IGNORECASE,
)
#: Typed by keyboards and word processors; the settings write "'".
_APOSTROPHE = "\N{RIGHT SINGLE QUOTATION MARK}"
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Triage:
    """What was decided about a task."""

    #: One each for status, complexity, assignee and link, in this order.
    decisions: tuple[Decision, ...]
    #: Whether nothing shows what kind of work an open task is.
    undecided: bool = False

    @property
    def changes(self) -> tuple[Decision, ...]:
        """The decisions that change something."""
        return tuple(decision for decision in self.decisions if decision.value is not None)

    def __getitem__(self, field: str) -> Decision:
        """Return the decision on *field*."""
        return next(decision for decision in self.decisions if decision.field == field)

    @property
    def status(self) -> TaskStatus | None:
        """The status decided on, or None where it stands."""
        value = self["status"].value
        return TaskStatus(value) if value else None

    @property
    def complexity(self) -> Complexity | None:
        """The complexity decided on, or None where it stands."""
        value = self["complexity"].value
        return Complexity(value) if value else None

    @property
    def assignee(self) -> str | None:
        """The name decided on, or None where the assignee stands."""
        return self["assignee"].value

    @property
    def link(self) -> str | None:
        """The wiki link to insert, or None."""
        return self["link"].value


def triage(task: Task, rules: Rules | Mapping[str, Any]) -> Triage:
    """Decide on the status, complexity, assignee and link of *task*.

    Args:
        task: The task as read.
        rules: What `compile_rules` made of the settings; the settings themselves will do
            for a single task.
    """
    if not isinstance(rules, Rules):
        rules = compile_rules(rules)
    if task.status in CLOSED:
        return _with_rest(_stands("status", f"the task is {task.status}"), f"the task is {task.status}")
    outline = Outline.of(task.body)
    status = _status(task, rules, outline)
    if status.value:
        return _with_rest(status, f"the task is being closed ({status.value})")
    facts = gather(task, outline, rules.table, rules.patterns)
    if parked := _parked(task, rules, facts):
        return _with_rest(status, parked)
    kind, complexity = _complexity(task, rules, facts)
    assignee = _assignee(task, rules, kind, facts)
    return Triage(
        decisions=(status, complexity, assignee, _link(task, rules, outline)),
        undecided=kind is None and assignee.value is None,
    )


def _stands(field: str, reason: str) -> Decision:
    return Decision(field=field, value=None, reason=reason)


def _with_rest(status: Decision, reason: str) -> Triage:
    return Triage(
        decisions=(status, *(_stands(field, reason) for field in ("complexity", "assignee", "link")))
    )


def _status(task: Task, rules: Rules, outline: Outline) -> Decision:
    word = task.status_word.strip().casefold().replace(_APOSTROPHE, "'").replace("-", " ").replace("_", " ")
    for value, words in ((TaskStatus.CANCELLED, "cancelled_words"), (TaskStatus.DONE, "done_words")):
        # A word that the vocabulary maps is no longer ours to read.
        if task.status is None and word in rules.table[words]:
            return Decision(
                field="status", value=str(value), reason=f'status word "{task.status_word}": {value}'
            )
    signs = _closing_signs(task, rules, outline)
    if not signs:
        return _stands("status", "nothing in the file shows that the task is closed")
    if again := _reopened(task, rules, outline):
        return _stands("status", f"closed once ({signs[0][0]}), but {again}")
    for place, text in signs:
        if _cancels(text, rules):
            return _closed(TaskStatus.CANCELLED, place, text)
    return _closed(TaskStatus.DONE, *signs[0])


def _parked(task: Task, rules: Rules, facts: Facts) -> str | None:
    """Return why the task is left alone for now, or None."""
    if task.status in (TaskStatus.BLOCKED, TaskStatus.REVIEW):
        return f"its status is {shorten(task.status_word)}: left alone"
    said = [("status", task.status_word), ("type", task.type), *(("tag", tag) for tag in task.tags)]
    for place, word in said:
        if (
            word.strip().lstrip("#").casefold().replace("-", " ").replace("_", " ")
            in rules.table["parked_words"]
        ):
            return f"{place} {shorten(word)}: left alone"
    for place, text in facts.texts["lead"]:
        if any(pattern.match(text) for pattern in rules.patterns["parked_leads"]):
            return f'{place} "{shorten(text)}": left alone'
    return None


def _closed(value: TaskStatus, place: str, text: str) -> Decision:
    return Decision(field="status", value=str(value), reason=f'{place} says "{shorten(text)}": {value}')


def _closing_signs(task: Task, rules: Rules, outline: Outline) -> list[tuple[str, str]]:
    """Return where the file says that it is closed, and in what words."""
    signs = []
    for block in outline.blocks:
        if _tells_of_closing(block, outline, rules) and not _is_placeholder(block.text, rules):
            signs.append((f'section "{block.trail[-1]}" (body line {block.line})', block.text))
            break
    for key in rules.table["close_keys"]:
        value = task.front.get(key)
        if value and not _is_placeholder(str(value), rules):
            signs.append((f"frontmatter key `{key}`", str(value)))
    return signs


def _tells_of_closing(block: TextBlock, outline: Outline, rules: Rules) -> bool:
    name = next((h for h in block.trail if is_named(h, rules.table["close_headings"])), None)
    if name is None:
        return False
    # Deeper headings are left out: within another section a "Close reason" is its subject.
    above = [h for h in outline.headings if h.line < block.line and h.title == name]
    return above[-1].level <= 2


def _reopened(task: Task, rules: Rules, outline: Outline) -> str | None:
    for key in rules.table["reopen_keys"]:
        if task.front.get(key):
            return f"frontmatter key `{key}` opens it again"
    closing = 0
    for heading in outline.headings:
        if is_named(heading.title, rules.table["close_headings"]):
            closing = heading.line
        elif closing and is_named(heading.title, rules.table["reopen_headings"]):
            return f'section "{heading.title}" (body line {heading.line}) opens it again'
    return None


def _is_placeholder(text: str, rules: Rules) -> bool:
    bare = text.strip().strip("*_ ")
    return any(pattern.match(bare) for pattern in rules.patterns["placeholders"])


def _cancels(text: str, rules: Rules) -> bool:
    # Only the first sentence: a report of what was done may go on to tell of duplicates.
    lead = _PREAMBLE.match(text)
    bare = (text[lead.end() :] if lead else text).replace(_APOSTROPHE, "'")
    bare = _SENTENCE_END.split(bare, maxsplit=1)[0]
    return any(pattern.search(bare) for pattern in rules.patterns["cancelled_reasons"])


def _complexity(task: Task, rules: Rules, facts: Facts) -> tuple[Complexity | None, Decision]:
    if task.complexity is not None:
        return task.complexity, _stands("complexity", f"the file says {task.complexity}")
    kind, reason = _kind(rules, facts)
    own = task.front.get("complexity")
    if own:
        # A word of the owner's own: not ours to replace. Who gets the task is still decided.
        return kind, _stands("complexity", f"the file says {shorten(str(own))!r}, a word of its own")
    return kind, Decision(field="complexity", value=kind and str(kind), reason=reason)


def _kind(rules: Rules, facts: Facts) -> tuple[Complexity | None, str]:
    for kind, least in rules.thresholds:
        found = [
            (rule, words)
            for rule in rules.rules
            if rule.complexity is kind and (words := rule.evidence(facts))
        ]
        if found and _weight([rule for rule, _ in found]) >= least:
            reason = "; ".join(words for rule, words in found if rule.weight > 0)
            return kind, f"{reason}: {kind}"
    return None, UNDECIDED


def _weight(rules: Sequence[Rule]) -> float:
    # Two readings of the same words are one piece of evidence: of each place the strongest
    # counts. What speaks against adds up.
    best: dict[str, float] = {}
    for rule in rules:
        best[rule.where] = max(best.get(rule.where, 0), rule.weight)
    return sum(best.values()) + sum(rule.weight for rule in rules if rule.weight < 0)


def _assignee(task: Task, rules: Rules, kind: Complexity | None, facts: Facts) -> Decision:
    if task.assignee:
        return _stands("assignee", f"assigned to {', '.join(task.assignee)} already")
    table = rules.table
    tag = next((tag for tag in task.tags if tag.lstrip("#").casefold() in table["agent_tags"]), None)
    if tag:
        name, why = table["agent"], f"tag {tag}"
    elif kind is None:
        return _stands("assignee", UNDECIDED)
    elif kind in table["agent_complexities"]:
        if facts.figures["destructive"][0]:
            return _stands("assignee", f"{facts.figures['destructive'][1]}: no agent")
        name, why = table["agent"], f"{kind} work is for agents"
    elif kind in table["person_complexities"]:
        name, why = table["person"], f"{kind} work is for a person"
    else:
        return _stands("assignee", f"nobody is named for {kind} work")
    if not name:
        return _stands("assignee", f"{why}, for whom the settings name nobody")
    return Decision(field="assignee", value=name, reason=f"{why}: {name}")


def _link(task: Task, rules: Rules, outline: Outline) -> Decision:
    # Some note programs write the property itself as a link: project: "[[Loans]]".
    name = task.project.strip()
    if whole := _WIKI.fullmatch(name):
        name = re.split(r"[|#]", whole[1], maxsplit=1)[0].strip()
    if not name:
        return _stands("link", "the task has no project")
    if _UNLINKABLE.search(name) or not name.isprintable():
        return _stands("link", f"project {shorten(repr(name))} cannot stand in a wiki link")
    known = {name.casefold()} | rules.aliases.get(name.casefold(), frozenset())
    for found in _WIKI.finditer(outline.prose):
        target = re.split(r"\\?[|]|[#^]", found[1], maxsplit=1)[0].strip().casefold()
        # A link may name the page's folder too; its last part is the page.
        if target in known or target.rsplit("/", 1)[-1] in known:
            line = outline.prose.count("\n", 0, found.start()) + 1
            return _stands("link", f"{shorten(found[0])} stands in the body (line {line})")
    return Decision(
        field="link", value=f"[[{name}]]", reason=f"project {name}, and no link to it in the body"
    )
