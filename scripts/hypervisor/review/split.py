"""Cutting items into chunks: by date, by category, by size. Pure: items in, chunks out.

The same items give the same chunks. A chunk that exists is never changed: what comes later goes into
new ones.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from ..core.errors import UsageError
from .dates import OWN, Span, label_of, moment_of, zone_named

#: The most items of a chunk where nobody has said how many: what one person reviews in one go.
USUAL = 50
#: The label of the chunk of what has no usable value.
NONE = "none"
#: Fields whose value is a mail address, with a name perhaps.
_ADDRESSES = frozenset({"from", "sender", "to", "reply-to", "reply_to", "from_address"})
_SPANS: Mapping[str, Span] = {"day": "day", "week": "week", "month": "month"}
_LATE = re.compile(r" later(?: \d+)?$")
_PART = re.compile(r" \d+/\d+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitItem:
    """What is cut: an id, and the value that decides where it goes."""

    id: str
    #: Of the field that is cut by; None where there is none.
    value: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One worker's work."""

    #: ``chunk-01``; unique, and never given twice.
    id: str
    label: str
    #: Ids of its items, in order.
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How items are cut."""

    kind: Literal["span", "category", "size", "even"]
    field: str = ""
    span: Span = "month"
    #: Items of a chunk, for ``size``.
    size: int = USUAL
    #: The most items of a chunk; 0 for any number.
    most: int = 0
    #: Which day an instant belongs to; see `dates`.
    zone: str = "UTC"

    @classmethod
    def of(cls, by: str, most: int = 0, zone: str = "UTC") -> Cut:
        """Return what ``--by``, ``--max`` and ``--zone`` mean.

        Raises:
            UsageError: They mean nothing.
        """
        if most < 0:
            raise UsageError(f"--max {most}: must be 1 or more")
        zone_named(zone)
        head, mark, tail = by.partition(":")
        if not by:
            return cls(kind="even", most=most, zone=zone)
        if mark and head in _SPANS:
            if not tail:
                raise UsageError(f"--by {by}: name the field with the date, as in {head}:date")
            return cls(kind="span", span=_SPANS[head], field=tail, most=most, zone=zone)
        if mark and head == "size":
            if not tail.isdecimal() or int(tail) < 1:
                raise UsageError(f"--by {by}: must be like size:40")
            return cls(kind="size", size=int(tail), most=most, zone=zone)
        if by in _SPANS or by == "size":
            raise UsageError(f"--by {by}: needs more, as in {'size:40' if by == 'size' else by + ':date'}")
        return cls(kind="category", field=by, most=most, zone=zone)

    @property
    def text(self) -> str:
        """What people call it."""
        if self.kind == "span":
            return f"{self.span}:{self.field} in {'the zone as written' if self.zone == OWN else self.zone}"
        return self.field or (
            f"size:{self.size}" if self.kind == "size" else f"equal parts of at most {USUAL}"
        )


def cut(items: Sequence[SplitItem], how: Cut, existing: Sequence[Chunk] = ()) -> list[Chunk]:
    """Return the chunks of those *items* that are in none of the *existing* ones.

    Args:
        items: All items, in their order; each id once.
        how: How to cut.
        existing: Chunks that stay as they are.
    """
    taken = {item for chunk in existing for item in chunk.items}
    fresh = [item for item in items if item.id not in taken]
    groups = _grouped(fresh, how)
    labels = {chunk.label for chunk in existing}
    known = {_bare(label) for label in labels}
    number = max([0, *(_number(chunk.id) for chunk in existing)])
    count = len(taken)
    made: list[Chunk] = []
    for label, ids in groups:
        name = _later(label, labels) if label in known else label
        parts = _parts(ids, how)
        for at, part in enumerate(parts, 1):
            number, count = number + 1, count + len(part)
            told = f"{name} {at}/{len(parts)}" if len(parts) > 1 else name
            if not label:  # by size: which ones, counted from the first there ever was
                told = f"{count - len(part) + 1}-{count}"
            made.append(Chunk(id=f"chunk-{number:02d}", label=told, items=tuple(part)))
    return made


def unplaced(items: Iterable[SplitItem], how: Cut) -> list[str]:
    """Return the ids of those items whose value decides nothing."""
    if how.kind in ("size", "even"):
        return []
    return [item.id for item in items if _key(item.value, how) is None]


def _grouped(items: Sequence[SplitItem], how: Cut) -> list[tuple[str, list[str]]]:
    """Return groups in their order, each with its label and its ids in their order."""
    if how.kind in ("size", "even"):
        return [("", [item.id for item in items])] if items else []
    groups: dict[str, list[tuple[datetime, str]]] = {}
    without: list[str] = []
    for item in items:
        key = _key(item.value, how)
        if key is None:
            without.append(item.id)
        else:
            groups.setdefault(key[0], []).append((key[1], item.id))
    order = sorted(groups, key=lambda label: (label.casefold(), label))
    found = [(label, [name for _, name in sorted(groups[label])]) for label in order]
    return [*found, (NONE, sorted(without))] if without else found


#: A category's items have no time to go by: their ids order them.
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def _key(value: object, how: Cut) -> tuple[str, datetime] | None:
    """Return the label of the group that *value* puts an item into, and its place there."""
    if how.kind == "span":
        moment = moment_of(value, zone_named(how.zone))
        return (label_of(moment, how.span), moment.astimezone(UTC)) if moment else None
    if value is None or isinstance(value, Mapping):
        return None
    if isinstance(value, list | tuple):  # tags and the like: the first one decides
        value = next((one for one in value if one not in (None, "")), "")
    text = " ".join(str(value).split())
    if how.field.rpartition(".")[2].casefold() in _ADDRESSES:
        address = email.utils.parseaddr(text)[1]
        text = address.casefold() if "@" in address else text
    return (text, _NEVER) if text else None


def _parts(ids: list[str], how: Cut) -> list[list[str]]:
    if how.kind == "size":
        size = min(how.size, how.most or how.size)
        return [ids[at : at + size] for at in range(0, len(ids), size)]
    most = min(USUAL, how.most or USUAL) if how.kind == "even" else how.most
    if not most or len(ids) <= most:
        return [ids]
    count = -(-len(ids) // most)
    # Equal to within one: a last part of a single item would be nobody's day's work.
    small, more = divmod(len(ids), count)
    sizes = [small + 1] * more + [small] * (count - more)
    starts = [sum(sizes[:at]) for at in range(count)]
    return [ids[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def _bare(label: str) -> str:
    return _LATE.sub("", _PART.sub("", label))


def _later(label: str, labels: set[str]) -> str:
    """Return the name of a group that comes after chunks with its label."""
    bare = {_PART.sub("", one) for one in labels}
    name, number = f"{label} later", 1
    while name in bare:
        number += 1
        name = f"{label} later {number}"
    return name


def _number(name: str) -> int:
    found = re.search(r"(\d{1,9})$", name)
    return int(found[1]) if found else 0
