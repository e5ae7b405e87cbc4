"""docs/benchmarks.md from the figures of a run, and from nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from bench.drain import LONG
from bench.measure import three
from bench.peers import CONTENDERS
from bench.verdicts import Row, label, of, verdicts

_FATES = {
    "again": "executed again by the next consumer, {after_s} s after that began",
    "stranded": "stranded: still there, and not taken {patience}",
    "lost": "lost: gone from the queue",
}


def render(kept: dict[str, Any]) -> str:
    """Return the page."""
    parts = [_HEAD, _machine(kept), *verdicts(kept["sections"])]
    for name, (title, text, body) in _SECTIONS.items():
        if name in kept["sections"]:
            told = kept["sections"][name]
            parts += [f"## {title}\n", text.strip() + "\n", _runs(told), "\n".join(body(told["rows"])) + "\n"]
    return "\n".join(parts).rstrip() + "\n"


_HEAD = """# Benchmarks

Rendered by `bench/benchmarks.py` from the figures in [benchmarks.json](benchmarks.json); none is written by
hand. Absolute figures are those of one machine; the ratios are between neighbours of the same round, and
hold better. A cell is the median, with minimum and maximum in brackets. CPU is user and system time of all
processes that take part, from the word to begin until each has ended; the start of the processes is left
out, except where whole commands are measured, which is said there.

    uv run bench/benchmarks.py --render                       # all of this, on the machine where it is typed
    uv run bench/benchmarks.py --only durable --render        # one part of it; the others stay as they are
"""


def _machine(kept: dict[str, Any]) -> str:
    lines = [f"| {name} | {value} |" for name, value in kept["machine"].items()]
    text = "\n".join(["| machine and versions | |", "|---|---|", *lines]) + "\n"
    if kept.get("skipped"):
        text += f"\nNot installed, so not measured: {', '.join(kept['skipped'])}.\n"
    return text


def _runs(told: dict[str, Any]) -> str:
    small = ", with `--quick`: these show that it works, not how fast" if told["quick"] else ""
    word = "run" if told["runs"] == 1 else "runs"
    return f"{told['runs']} {word} of each row, {told['seconds']} seconds in all{small}.\n"


# ------------------------------------------------------------------------ cells


def _cell(values: Sequence[float], digits: int = 1) -> str:
    middle, low, high = three(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"**{low} to {high}**"


def _table(rows: Iterable[Row]) -> Iterator[str]:
    yield "| who | workers | CPU us an item | ratio | wall s | ratio | twice | never |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        cells = [
            label(row), str(row["workers"]),
            _cell(of(row, "cpu_us")), _cell(of(row, "cpu_ratio"), 2),
            _cell(of(row, "wall_s"), 2), _cell(of(row, "wall_ratio"), 2),
            _span(of(row, "duplicates")), _span(of(row, "losses")),
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


# --------------------------------------------------------------------- sections


def _drain(rows: list[Row]) -> Iterator[str]:
    for whole, title in ((False, "claim only"), (True, "whole life")):
        for count in sorted({row["items"] for row in rows}):
            # The yardstick stands in both.
            found = [r for r in rows if r["items"] == count and (r["whole"] == whole or r["name"] == "mkdir")]
            if all(row["name"] == "mkdir" for row in found):
                continue
            yield from ("", f"### {count:,} items, {title}", "")
            yield from _table(found)
    if all(row["items"] >= LONG for row in rows):
        return  # it is told above
    yield from (
        "",
        "### What one claim, and one life, is",
        "",
        "| who | claim only | whole life |",
        "|---|---|---|",
    )
    for name in dict.fromkeys(row["name"] for row in rows):
        one = CONTENDERS[name]
        yield f"| {one.label} | {one.claims} | {one.lives or '-'} |"


def _durable(rows: list[Row]) -> Iterator[str]:
    yield from _table(rows)
    yield ""
    for name in dict.fromkeys(row["name"] for row in rows):
        yield f"- {CONTENDERS[name].label}: {CONTENDERS[name].lives}"


def _triage(rows: list[Row]) -> Iterator[str]:
    yield f"{rows[0]['items']:,} files. *Never* counts files that were not changed, or are not whole."
    yield ""
    yield from _table(
        {**row, "name": "read, parse, write (yardstick)"} if row["name"] == "floor" else row for row in rows
    )


def _commands(rows: list[Row]) -> Iterator[str]:
    yield f"{rows[0]['items']:,} items."
    yield ""
    yield from _table(rows)


def _killed(rows: list[Row]) -> Iterator[str]:
    yield "| who | the item of a killed consumer | of one that lives, when another one starts |"
    yield "|---|---|---|"
    for row in rows:
        patience = f"after {row['patience_s']:g} s"
        fate = _FATES[row["fate"]].format(after_s=row["after_s"], patience=patience)
        if row.get("first_goes_on"):
            fate += ", while the first attempt still ran"
        if row["others_never"]:
            fate += f"; {row['others_never']} others were never executed"
        yield f"| {label(row)} | {fate} | {row['beside']} |"


def _startup(rows: list[Row]) -> Iterator[str]:
    yield "| command | CPU ms | wall ms | memory MB |"
    yield "|---|---|---|---|"
    for row in rows:
        name = row["name"] + (f", {row['items']:,} items" if "items" in row else "")
        cells = [_cell(of(row, "cpu_ms")), _cell(of(row, "wall_ms")), _cell(of(row, "memory_mb"))]
        yield f"| {name} | {' | '.join(cells)} |"


_SECTIONS: dict[str, tuple[str, str, Callable[[list[Row]], Iterator[str]]]] = {
    "drain": (
        "Draining a queue of no-op items",
        """
Ratios are to the run of `mkdir` right before. Nothing here waits for the disk: our fsyncs are left out of the
whole life, and SQLite runs in WAL mode with `synchronous=NORMAL`. *Twice* counts items that were executed
more than once, *never* those that were not executed.
""",
        _drain,
    ),
    "long": ("A hundred thousand items", "As above, with each number of workers, and whole lives.", _drain),
    "million": ("A million items", "As above, claims only.", _drain),
    "commands": (
        "A command for each item",
        """
Commands measured whole, start and all; each starts a shell that appends one byte to a file. Our claims and
results are durable here; GNU parallel keeps a job log, `xargs` keeps nothing.
""",
        _commands,
    ),
    "killed": (
        "A consumer that is killed",
        """
SIGKILL in the middle of an item; then another consumer is started. For commands the
time is from the second one's start, interpreter and all.
""",
        _killed,
    ),
    "durable": ("Claim and complete, durably", "What is told as done survives a power loss.", _durable),
    "triage": (
        "Triage of task files",
        """
Commands measured whole. The yardstick reads each file, parses its YAML and replaces it durably (two fsyncs),
in as many processes, each with its share. Ours also claims, decides by rule, locks the file, and keeps a
durable result with what undoes it (four fsyncs). The naive worker: a `mkdir` lock by the file's stem,
`frontmatter.load` and a dump in place; it syncs nothing, keeps no result, and reformats the YAML.
""",
        _triage,
    ),
    "startup": (
        "Start-up and memory",
        "Whole commands, caches warm. Memory is the largest resident size of one process.",
        _startup,
    ),
}
