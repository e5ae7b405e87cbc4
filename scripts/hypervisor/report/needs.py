"""What of a batch needs a person: failures and questions by their reason, with what to type next. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from ..core import printable
from ..core.model import Outcome

#: What differs from one failure to the next of a kind: figures, ids, hashes.
_VARIES = re.compile(r"0x[0-9a-f]+|\b(?=[a-f]*\d)[0-9a-f]{7,}\b|\d+")
#: Characters of a reason by which it is told from others.
_ALIKE = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One item that failed, or is blocked."""

    #: Its row.
    number: int
    name: str
    #: As the queue spells it.
    item: str
    state: str
    reason: str
    #: What somebody has to do, as the summary says it.
    next: str
    #: Whether it is a task whose file was changed, so that its status has to be put back.
    task: bool


@dataclass(slots=True, kw_only=True)
class Need:
    """Items that need the same."""

    state: str
    reason: str
    next: str
    #: A command to type, "" where there is none.
    type: str
    #: Rows of the items.
    items: list[int] = field(default_factory=list)


def needs_of(cases: Iterable[Case], batch: str) -> list[Need]:
    """Return what is needed, the most common first; questions before failures.

    Reasons that differ only in figures are one need.

    Args:
        cases: Every item that failed, or is blocked.
        batch: How a command names the batch: its id, or ``--dir D``.
    """
    groups: dict[tuple[str, str, bool], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.state, _alike(case.reason), case.task), []).append(case)
    found = [_need(group, batch) for group in groups.values()]
    return sorted(found, key=lambda need: (need.state != Outcome.BLOCKED, -len(need.items)))


@lru_cache(maxsize=8192)  # the same are asked for again and again while a batch is watched
def _alike(reason: str) -> str:
    return _VARIES.sub("#", printable.line(reason, _ALIKE))


def _need(group: list[Case], batch: str) -> Need:
    first = group[0]
    reason = printable.line(first.reason, 300) or "no reason was given"
    if len(group) > 1 and len({case.reason for case in group}) > 1:
        reason += " (or the like)"
    return Need(
        state=first.state, reason=reason, next=printable.line(first.next, 300), type=_command(group, batch),
        items=[case.number for case in group],
    )  # fmt: skip


def _command(group: list[Case], batch: str) -> str:
    first = group[0]
    if first.task:
        names = [case.name for case in group if printable.line(case.name) == case.name]
        return f"hypervisor task update {shlex.quote(names[0])} --status active" if names else ""
    flag = "--blocked" if first.state == Outcome.BLOCKED else "--failed"
    # A name that cannot be typed is not offered for typing.
    if len(group) == 1 and printable.line(first.item, 120) == first.item:
        return f"hypervisor retry {batch} --item {shlex.quote(first.item)}"
    return f"hypervisor retry {batch} {flag}"
