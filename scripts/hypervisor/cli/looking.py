"""``--stats`` and ``--dry-run``: where a queue stands, and what would be done; nothing is claimed."""

from __future__ import annotations

import os
import shlex
from argparse import Namespace
from itertools import islice
from typing import Any

from ..queue.batch import Batch
from ..queue.summary import entries, stats
from ..runners.base import ItemWork, QueueRunner
from .console import EXIT_DONE, EXIT_NOTHING, EXIT_REFUSED, print_json, shown


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


def dry_run(options: Namespace, batch: Batch, runner: QueueRunner) -> int:
    """Show what would be done; nothing is claimed or written."""
    rows: list[dict[str, Any]] = []
    for item, path in _would(options, batch):
        work = ItemWork(item=item, path=path, base=batch.options.base, log=os.devnull)
        rows.append({"item": item, **runner.preview(work)})
    if options.json:
        print_json(rows)
    else:
        for row in rows:
            text = shlex.join(row["command"]) if "command" in row else f"{row['status']}: {row['outcome']}"
            print(f"would {shown(row['item'])}: {shown(text, 500)}")
    return EXIT_DONE if rows else EXIT_NOTHING


def _would(options: Namespace, batch: Batch) -> list[tuple[str, str]]:
    waiting = islice(entries(batch, ("waiting",)), options.batch)
    return [(entry.ref.item, entry.ref.path) for entry in waiting]
