"""Where we reach what we want, where not, and who is ahead: from the figures of a run."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from bench.peers import CONTENDERS

Row = dict[str, Any]

#: What we want, as ratios: of claiming to mkdir, of a durable life to SQLite's, of triage to its floor.
CLAIM_GOAL, DURABLE_GOAL, TRIAGE_GOAL = 1.3, 1.0, 1.5

_LABELS = {
    "xargs": "`xargs -P` (yardstick)", "batch-worker": "**Hypervisor**, `batch_worker.py`",
    "parallel": "GNU parallel", "naive": "naive worker",
}  # fmt: skip
_OURS = ("hypervisor", "hypervisor-durable", "batch-worker")
_YARDSTICKS = ("mkdir", "mkdir-race", "cursor", "floor", "xargs")
#: Section, figure, and what it is called for claims only and for whole lives.
_COMPARED = (
    ("drain", "cpu_us", ("CPU, claims only", "CPU, whole lives without fsync")),
    ("durable", "wall_s", ("", "wall time, durable claim and completion")),
    ("commands", "wall_s", ("", "wall time, a command for each item")),
    ("triage", "wall_s", ("", "wall time, triage")),
)


def of(row: Row, key: str) -> list[Any]:
    return [run[key] for run in row["runs"]]


def label(row: Row) -> str:
    name: str = row["name"]
    return CONTENDERS[name].label if name in CONTENDERS else _LABELS.get(name, name)


def verdicts(sections: dict[str, Any]) -> Iterator[str]:
    """Say where we reach what we want, where not, and who is ahead."""
    yield "## In short\n"
    if goals := list(_goals(sections)):
        yield "\n".join(["| ratio of medians | at most | is | |", "|---|---|---|---|", *goals]) + "\n"
    if ahead := list(_ahead(sections)):
        yield "\n".join(ahead) + "\n"


def _goals(sections: dict[str, Any]) -> Iterator[str]:
    rows = _rows(sections, "drain")
    for name, what in (("cursor", "Cursor and `mkdir`"), ("hypervisor", "The whole of our claim")):
        found = {_where(r): of(r, "cpu_ratio") for r in rows if r["name"] == name and not r["whole"]}
        yield from _goal(f"{what}, CPU beside `mkdir`", found, CLAIM_GOAL)
    lives = {_where(r): of(r, "cpu_ratio") for r in rows if r["name"] == "hypervisor" and r["whole"]}
    yield from _goal("Our whole life, CPU beside `mkdir`", lives, None)
    rows = _rows(sections, "durable")
    pairs = [
        (a, b) for a in rows for b in rows if (a["name"], b["name"]) == ("hypervisor-durable", "sqlite-full")
    ]
    for key, what in (("wall_s", "wall time"), ("cpu_us", "CPU")):
        found = {
            _where(a): [x / y for x, y in zip(of(a, key), of(b, key), strict=True)]
            for a, b in pairs
            if a["workers"] == b["workers"]
        }
        goal = DURABLE_GOAL if key == "wall_s" else None
        yield from _goal(
            f"Durable claim and completion, {what} beside SQLite with `synchronous=FULL`", found, goal
        )
    for key, what in (("wall_ratio", "wall time"), ("cpu_ratio", "CPU")):
        found = {_where(r): of(r, key) for r in _rows(sections, "triage") if r["name"] == "batch-worker"}
        yield from _goal(f"Triage, {what} beside read, parse and durable write", found, TRIAGE_GOAL)


def _goal(what: str, found: dict[str, list[float]], goal: float | None) -> Iterator[str]:
    if not found:
        return
    middles = {where: statistics.median(ratios) for where, ratios in found.items()}
    met = sum(middle <= goal for middle in middles.values()) if goal else 0
    verdict = (
        "reached" if met == len(middles) else "missed" if not met else f"reached in {met} of {len(middles)}"
    )
    worst = max(middles, key=lambda where: middles[where])
    text = _range(list(middles.values())) + (f", most with {worst}" if len(middles) > 1 else "")
    yield f"| {what} | {f'{goal:g}' if goal else '-'} | {text} | {f'**{verdict}**' if goal else '-'} |"


def _where(row: Row) -> str:
    return f"{row['items']:,} items, {row['workers']} worker{'s' * (row['workers'] > 1)}"


def _ahead(sections: dict[str, Any]) -> Iterator[str]:
    """Name who takes less than we do, and whether that has a price in duplicates."""
    for section, key, what in _COMPARED:
        rows = _rows(sections, section)
        for ours in dict.fromkeys((r["name"], r["whole"]) for r in rows if r["name"] in _OURS):
            quicker = [text for name in _peers(rows) if (text := _quicker(rows, ours, name, key))]
            if quicker:
                yield f"- Ahead of us in {what[ours[1]]}: {'; '.join(quicker)}."


def _quicker(rows: list[Row], ours: tuple[str, bool], peer: str, key: str) -> str:
    """Return how a peer stands to us if it takes less anywhere, else ""."""
    ratios, twice = [], 0
    for row in (row for row in rows if row["name"] == peer and row["whole"] == ours[1]):
        own = next(r for r in rows if (r["name"], r["whole"]) == ours and _where(r) == _where(row))
        ratios.append(statistics.median(of(row, key)) / statistics.median(of(own, key)))
        twice = max(twice, *of(row, "duplicates"))
    if not ratios or min(ratios) >= 1:
        return ""
    found = f"{label({'name': peer})} ({_range(ratios)} of ours"
    found += f", less in {sum(r < 1 for r in ratios)} of {len(ratios)} rows" if max(ratios) >= 1 else ""
    return found + (f"; executes up to {twice} items twice)" if twice else ")")


def _peers(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["name"] for row in rows if row["name"] not in (*_OURS, *_YARDSTICKS)))


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _rows(sections: dict[str, Any], name: str) -> list[Row]:
    rows: list[Row] = sections.get(name, {"rows": []})["rows"]
    return rows
