"""Items of a batch that need a person: grouped by their reason, each with the command to type next. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from ..core.model import Outcome
from ..core.text import printable_line
from ..queue.summary import answer_step
from ..store.questions import Question

#: What differs from one failure to the next of a kind: figures, ids, hashes.
_VARIES = re.compile(r"0x[0-9a-f]+|\b(?=[a-f]*\d)[0-9a-f]{7,}\b|\d+")
#: Characters of a reason that are compared.
_ALIKE = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class TroubledItem:
    """One item that failed or is blocked."""

    #: Its number in the list of all items.
    number: int
    name: str
    #: As the queue spells it.
    item: str
    state: str
    reason: str
    #: What a person has to do, as the summary says it.
    next: str
    #: Whether it is a task whose file was changed, so that its status has to be set back.
    task: bool
    #: Whether its work was kept on a branch.
    kept: bool = False


@dataclass(slots=True, kw_only=True)
class Attention:
    """Items that need the same from a person."""

    state: str
    reason: str
    next: str
    #: A command to type, "" where there is none.
    type: str
    #: Numbers of the items.
    items: list[int] = field(default_factory=list)


def attention_to(question: Question, items: list[int]) -> Attention:
    """Return what a person does about an open question; *items* are the numbers of its task."""
    offered = f" ({' / '.join(question.choices)})" if question.choices else ""
    return Attention(
        state="waiting", reason=printable_line(f"{question.task} asks: {question.text}{offered}", 1000),
        next="answer it; a run that is alive then goes on with the task", type=answer_step(question.id),
        items=items,
    )  # fmt: skip


def group_by_reason(troubled: Iterable[TroubledItem], batch: str) -> list[Attention]:
    """Return the items grouped by reason, questions before failures and the largest group first.

    Reasons that differ only in figures are one group.

    Args:
        troubled: Every item that failed or is blocked.
        batch: How a command names the batch: its id, or ``--dir D``.
    """
    groups: dict[tuple[str, str, bool], list[TroubledItem]] = {}
    for item in troubled:
        groups.setdefault((item.state, _alike(item.reason), item.task), []).append(item)
    found = [_attention(group, batch) for group in groups.values()]
    return sorted(found, key=lambda one: (one.state != Outcome.BLOCKED, -len(one.items)))


@lru_cache(maxsize=8192)  # the same reasons come again with every look at a batch
def _alike(reason: str) -> str:
    return _VARIES.sub("#", printable_line(reason, _ALIKE))


def _attention(group: list[TroubledItem], batch: str) -> Attention:
    first = group[0]
    reason = printable_line(first.reason, 300) or "no reason was given"
    if len({item.reason for item in group}) > 1:
        reason += " (or similar)"
    return Attention(
        state=first.state, reason=reason, next=printable_line(first.next, 300), type=_command(group, batch),
        items=[item.number for item in group],
    )  # fmt: skip


def _command(group: list[TroubledItem], batch: str) -> str:
    first = group[0]
    if first.task and len(group) == 1 and first.state == Outcome.BLOCKED:
        name = first.name if printable_line(first.name) == first.name else ""
        if name and first.kept:
            return f"hypervisor accept {shlex.quote(name)}"
        return f"hypervisor task update {shlex.quote(name)} --status active" if name else ""
    flag = "--blocked" if first.state == Outcome.BLOCKED else "--failed"
    # A name that cannot be typed is not offered for typing.
    if len(group) == 1 and printable_line(first.item, 120) == first.item:
        return f"hypervisor retry {batch} --item {shlex.quote(first.item)}"
    return f"hypervisor retry {batch} {flag}"
