"""What a person looks at at a checkpoint: counts by category, samples of each, what failed. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.model import Outcome
from ..store.review_records import Note, Wave
from .notes import counts_of
from .plan import ChunkedBatch

#: Samples of a category.
_SAMPLES = 3
#: Fields that say what an item is, and as much of them as is shown.
_TELLING = ("date", "from", "subject", "title", "message", "name", "path")
_SHOWN = 120


def review(made: ChunkedBatch, wave: Wave) -> dict[str, Any]:
    """Return what a wave came to.

    Returns:
        ``chunks`` (each with its status, outcome, items, noted), ``items``, ``noted``, ``categories``
        (each with its ``count`` and ``samples``). Of a dry run, ``dry_run`` names the tools, and the rest is
        what would be done.
    """
    if wave.is_dry_run and made.plan().bulk:
        return _dry_run(made, wave)
    rows: list[dict[str, Any]] = []
    notes: list[tuple[Note, Mapping[str, Any]]] = []
    labels = {chunk.id: chunk.label for chunk in made.plan().chunks}
    known, begun = made.review.items(made.number), made.review.begun(made.number)
    results = made.review.results(made.number)
    for name in wave.chunks:
        noted = made.review.notes(made.number, name)
        result = results.get(name, {})
        rows.append({
            "id": name, "label": labels.get(name, ""), "status": str(result.get("status", "waiting")),
            "outcome": str(result.get("outcome", "")),
            "items": len(begun[name].items) if name in begun else 0, "noted": len(noted),
        })  # fmt: skip
        notes += [(note, known[note.item].fields) for note in noted.values()]
    by_category: dict[str, list[tuple[Note, Mapping[str, Any]]]] = {}
    for note, fields in notes:
        by_category.setdefault(note.category, []).append((note, fields))
    return {
        "checkpoint": wave.number,
        "chunks": rows,
        "items": sum(row["items"] for row in rows),
        "noted": len(notes),
        "criteria": wave.criteria,
        "categories": {
            name: {"count": count, "samples": _samples(by_category[name])}
            for name, count in counts_of([note for note, _ in notes]).items()
        },
    }


def _dry_run(made: ChunkedBatch, wave: Wave) -> dict[str, Any]:
    """Return what a batch would do that has not begun, by what was noted before, else by chunk."""
    plan, known = made.plan(), made.review.items(made.number)
    by_category: dict[str, list[tuple[Note, Mapping[str, Any]]]] = {}
    for chunk in plan.chunks:
        for item in chunk.items:
            fields = known[item].fields if item in known else {}
            category = str(fields.get("category") or chunk.label)
            note = Note(item=item, category=category, rationale=str(fields.get("rationale") or ""))
            by_category.setdefault(category, []).append((note, fields))
    order = sorted(by_category, key=lambda name: (-len(by_category[name]), name))
    return {
        "checkpoint": wave.number,
        "dry_run": list(plan.bulk),
        "chunks": [
            {"id": chunk.id, "label": chunk.label, "status": "waiting", "outcome": "",
             "items": len(chunk.items), "noted": 0}
            for chunk in plan.chunks
        ],
        "items": sum(len(chunk.items) for chunk in plan.chunks),
        "noted": 0,
        "criteria": wave.criteria,
        "categories": {
            name: {"count": len(by_category[name]), "samples": _samples(by_category[name])} for name in order
        },
    }  # fmt: skip


def _samples(notes: Sequence[tuple[Note, Mapping[str, Any]]]) -> list[dict[str, str]]:
    # The first, the middle, the last: what lies apart is more likely to differ.
    places = sorted({at * (len(notes) - 1) // (_SAMPLES - 1) for at in range(_SAMPLES)})
    return [
        {"item": note.item, "about": _about(fields), "rationale": note.rationale}
        for note, fields in (notes[place] for place in places)
    ]


def _about(fields: Mapping[str, Any]) -> str:
    known = {key.casefold(): value for key, value in fields.items()}
    told = [" ".join(str(known[key]).split()) for key in _TELLING if known.get(key)]
    return " | ".join(told)[:_SHOWN]


def in_lines(report: Mapping[str, Any]) -> list[str]:
    """Return a review as a person reads it."""
    rows = report["chunks"]
    names = ", ".join(row["id"] for row in rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
    if tools := report.get("dry_run"):
        told = f"dry run of {', '.join(tools)}: {names}; {report['items']} items, nothing done yet"
    else:
        told = f"{names}; {report['items']} items, {report['noted']} noted"
    lines = [f"checkpoint {report['checkpoint']}: {told}"]
    for name, found in report["categories"].items():
        lines.append(f"  {name}: {found['count']}")
        lines += [_sample_line(sample) for sample in found["samples"]]
    if "dry_run" in report:
        return lines
    lines += [
        f"  {row['status'].upper()} {row['id']}: {row['outcome'] or 'no result yet'}"
        for row in rows
        if row["status"] != Outcome.SUCCESS
    ]
    if report["noted"] < report["items"]:
        lines.append(f"  {report['items'] - report['noted']} item(s) have no note")
    return lines


def _sample_line(sample: Mapping[str, str]) -> str:
    about = f" {sample['about']}" if sample["about"] else ""
    return f"    {sample['item']}{about}" + (f": {sample['rationale']}" if sample["rationale"] else "")
