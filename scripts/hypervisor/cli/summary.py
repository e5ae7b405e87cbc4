"""`hypervisor summary`: the result of each item of a batch, and items that need attention."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping

from .console import EXIT_DONE, EXIT_REFUSED, print_json, shown
from .naming import batch_of, names_batch


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``summary`` what it takes."""
    summary = commands["summary"]
    names_batch(summary)
    summary.add_argument("--json", action="store_true", help="print one JSON document")
    summary.set_defaults(action=_summary)


def _summary(options: Namespace) -> int:
    from ..queue.summary import finding_lines, summarise  # noqa: PLC0415 - not for the help text

    with batch_of(options) as batch:
        data, census = summarise(batch)
    if options.json:
        print_json(data)
        return EXIT_DONE if census.closes else EXIT_REFUSED
    print(f"batch {batch.id}")
    for row in data["workers"]:
        took = f" ({row['seconds']:g} s)" if row.get("seconds") is not None else ""
        text = row.get("outcome") or row.get("reason") or ""
        print(f"  {row['status']:8} {shown(str(row['task_id']))}: {shown(text)}{took}")
    print(census.line())
    for need in data["needs_attention"]:
        print(f"needs attention: {shown(str(need['task_id']))}: {shown(need['reason'])}; {need['next']}")
    for line in finding_lines(data):
        print(line)
    if not census.closes:
        print("the census does not close")
    return EXIT_DONE if census.closes else EXIT_REFUSED
