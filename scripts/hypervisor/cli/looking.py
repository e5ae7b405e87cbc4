"""``--stats`` and ``--dry-run``: where a queue stands, and what would be done; nothing is claimed."""

from __future__ import annotations

import os
import shlex
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ..core.model import UNDECIDED, Outcome
from ..queue.batch import Batch
from ..queue.summary import entries, stats
from ..runners.base import ItemWork, QueueRunner
from .console import EXIT_DONE, EXIT_NOTHING, EXIT_REFUSED, print_json, shown

#: What a dry run says of a result.
_VERBS = {Outcome.SUCCESS: "set", Outcome.BLOCKED: "block", Outcome.FAILED: "fail", Outcome.SKIPPED: "skip"}
#: The reasons that a dry run names, those of the most items first.
_REASONS = 12


def print_stats(batch: Batch, *, as_json: bool) -> int:
    """Print where each item of the queue stands."""
    data = stats(batch)
    if as_json:
        print_json(data)
    else:
        for name, value in data.items():
            if name not in ("closes", "held_by_lock"):
                print(f"{name:12} {value}")
        held = data["held_by_lock"]
        if held:
            print(f"{len(held)} held by a lock directory: {', '.join(map(shown, held[:5]))}")
    return EXIT_DONE if data["closes"] else EXIT_REFUSED


def assignees_line(settings: Mapping[str, Any]) -> str:
    """Return to whom triage assigns tasks by these settings, and how to change it."""
    names = {key: settings["triage"][key] or "nobody" for key in ("person", "agent")}
    return (
        f"triage assigns work for a person to {names['person']!r}, work for an agent to {names['agent']!r}; "
        "change the names with `hypervisor config set triage.person NAME` (triage.agent; '' for nobody)"
    )


def undecided_line(undecided: int, of: int) -> str:
    """Return how many of the tasks triage left as they are."""
    return f"{undecided} of {of} {UNDECIDED}"


def dry_run(
    options: Namespace, batch: Batch, runner: QueueRunner, settings_for: Callable[[str], Mapping[str, Any]]
) -> int:
    """Show what would be done; nothing is claimed or written."""
    rows: list[dict[str, Any]] = []
    for item, path in _would(options, batch):
        work = ItemWork(item=item, path=path, base=batch.options.base, log=os.devnull)
        rows.append({"item": item, **runner.preview(work)})
    if options.json:
        print_json(rows)
    else:
        if rows and options.exec is None:
            print(assignees_line(settings_for(str(Path(batch.options.base) / "-"))))
        for line in _lines(rows):
            print(line)
    return EXIT_DONE if rows else EXIT_NOTHING


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return what would be done as a person reads it: a line for each item, the totals, the reasons."""
    lines = []
    counts: Counter[str] = Counter()
    why: Counter[str] = Counter()
    undecided = 0
    for row in rows:
        if "command" in row:
            verb, text = "run", shlex.join(row["command"])
        else:
            verb, text = _VERBS[Outcome(row["status"])], row["outcome"]
            made = [one for one in row["decisions"] if one["value"] is not None]
            if text.endswith(UNDECIDED) and not made:
                verb = "leave"
            why.update(f"{one['field']} {shown(str(one['value']))}: {shown(one['reason'])}" for one in made)
        counts[verb] += 1
        lines.append(f"would {verb} {shown(row['item'])}: {shown(text, 500)}")
        lines += [f"    {shown(line, 500)}" for line in row.get("diff", [])]
        undecided += text.endswith(UNDECIDED)
    told = ", ".join(
        f"{counts[verb]} to {verb}"
        for verb in ("run", "set", "leave", "block", "fail", "skip")
        if counts[verb]
    )
    lines += [f"in all: {told}"] if rows else []
    lines += [undecided_line(undecided, len(rows))] if undecided else []
    return lines + [f"why: {number} x {reason}" for reason, number in why.most_common(_REASONS)]


def _would(options: Namespace, batch: Batch) -> list[tuple[str, str]]:
    waiting = islice(entries(batch, ("waiting",)), options.batch)
    return [(entry.ref.item, entry.ref.path) for entry in waiting]
