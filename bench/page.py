"""docs/performance.md from the figures of a run, and from nothing else."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.contenders import CONTENDERS
from bench.measure import Row

_LABELS = {
    "xargs": "`xargs -P`", "batch-worker": "**Hypervisor**, `batch_worker.py`", "parallel": "GNU parallel",
    "naive": "naive worker", "floor": "read, parse, write durably",
}  # fmt: skip
_OURS = "**"  # begins the labels of our own rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One table of the page."""

    title: str
    #: What is measured, against what.
    text: str
    #: ``cpu_us`` or ``wall_us``: of what the ratio is; "" where nothing is compared.
    figure: str = ""
    #: The most that the ratio of our rows may be; None where no goal is set. By row name for exceptions.
    goal: float | None = None
    goals: tuple[tuple[str, float], ...] = ()
    #: Goals of any other figure: a pattern of row names, the figure, and its most.
    limits: tuple[tuple[str, str, float], ...] = ()
    #: What profiles say of what is missed.
    why: str = ""


SECTIONS: dict[str, Section] = {
    "P1": Section(
        title="Claim and complete, without fsync",
        text="No-op items. The yardstick is a plain SQLite queue; *twice* counts items that were executed "
        "more than once, *never* those that were not. Nothing here waits for the disk.",
        figure="cpu_us",
        goal=2.0,
    ),
    "P2": Section(
        title="One claim by a fresh process",
        text="Opening the store and claiming one item, in queues of which half is done. The yardstick is "
        "the shortest queue. Starting the interpreter is left out.",
        figure="cpu_us",
        goal=1.2,
    ),
    "P3": Section(
        title="Claim and complete, durably",
        text="What is reported as accepted survives a power loss. The yardstick commits one row at a time "
        "with `synchronous=FULL`.",
        figure="wall_us",
        goal=1.0,
        goals=(("hypervisor-together", 0.4),),
    ),
    "P4": Section(
        title="Tools and commands at scale",
        text="*Tools* are calls of real servers, timed by a client at their pipes; with 16 servers, all of "
        "them and their clients share the cores and one project. *Commands* are whole processes, as a shell "
        "starts `hypervisor`. Each works as agents do: it looks, claims, notes, completes. A tenth of the "
        "tasks is in progress, three tenths are done, a third waits for others.",
        limits=(
            (r"tool, .* 1 servers: [a-z]+_", "p99 ms", 20),
            (r"tool, .* 16 servers: [a-z]+_", "p99 ms", 150),
            (r"command, 10,000 .*: (task list|status|preflight)", "CPU ms", 150),
            (r"command, 10,000 .*: task (show|claim|complete)", "CPU ms", 110),
        ),
        why="Of a command's CPU time four fifths are imports: the building of dataclasses takes a quarter, "
        "of regular expressions a fifth, YAML a sixth where a file is read. A list, a claim of the next task "
        "and `preflight` also ask for the time of each file: 10,000 calls of `stat`, 50 ms on a busy "
        "machine. `show` and a claim by id ask for those of the task and of what it waits for.",
    ),
    "P5": Section(
        title="Tool calls of a session",
        text="Forty writes in one session of the real client, less a session without writes. CPU is that of "
        "the client and all that it starts. *More* is beside the session without the plugin of the same "
        "round.",
        limits=((r"unused|worker", "more CPU ms a call", 2), (r"unused|worker", "more processes a call", 0)),
    ),
    "start": Section(
        title="Start of a session",
        text="From the client's start to its first request; CPU is that of the whole session.",
    ),
    "P6": Section(
        title="A command for each item",
        text="Commands measured whole, start included; each starts a shell that appends one byte to a "
        "file. Our claims and results are durable here; GNU parallel keeps a job log, `xargs` keeps "
        "nothing.",
        figure="wall_us",
        goal=2.0,
    ),
    "P7": Section(
        title="A task of a run that does nothing, without isolation",
        text="Per task, two at once, durable, without a sandbox.",
        limits=((r"run", "wall ms", 12),),
        why="A profile by CPU time, of 100 tasks in memory: two fifths of a task are its claim, a third its "
        "completion, a sixth the agent's process. Across these, a quarter is the two edits of its file (each "
        "under a lock, each tried out before it is made), a tenth is YAML, which is read for each text that "
        "the file has meanwhile, a tenth is finding real paths, a fourteenth looking through `/proc` for "
        "processes that the agent has left, and a twentieth SQLite.",
    ),
    "P8": Section(
        title="Triage of task files",
        text="Commands measured whole. The yardstick is a naive worker: a `mkdir` lock by the file's stem, "
        "`frontmatter.load` and a dump in place; it syncs nothing, keeps no result, and reformats the "
        "YAML. Ours claims, decides by rule, locks the file, replaces it durably and keeps a durable "
        "result. *Never* counts files that were not changed, or are not whole.",
        figure="wall_us",
        goal=1.3,
    ),
    "P10": Section(
        title="A task of a run that commits, isolated",
        text="Per task, two at once, no sandbox. The yardstick is a shell script: worktree add, commit, "
        "merge, remove.",
        limits=((r"run", "ratio", 1.5),),
        why="In a clone a task has 13 git processes that are started by us or by the agent (its `add` and "
        "`commit`): three `status`, `read-tree`, `log`, a pack and its unpacking, `merge-tree`, "
        "`commit-tree` and two `update-ref`. The rest is what a task without isolation takes.",
    ),
    "git": Section(
        title="Git processes for one task",
        text="As strace counts them: those that git itself starts are among them.",
        limits=((r"clone|worktree", "processes a task", 15),),
    ),
    "P11": Section(
        title="A server's start to its tools",
        text="From the start of the process to the answer to `tools/list`.",
        limits=((r"Hypervisor", "ratio", 1.3),),
    ),
    "P12": Section(title="The tests", text="`tests/run`, once.", limits=((r"tests", "wall s", 180),)),
    "queued": Section(
        title="A long queue of tasks",
        text="`hypervisor run` with so many tasks queued, while two agents are at work.",
    ),
    "killed": Section(
        title="A consumer that is killed",
        text="SIGKILL in the middle of an item; then another consumer drains the queue, for up to three "
        "seconds.",
    ),
    "startup": Section(
        title="Start-up and memory",
        text="Whole commands, caches warm. Memory is the largest resident size of one process.",
    ),
}

_HEAD = """# Performance

Rendered by `bench/benchmarks.py` from [performance.json](performance.json). Absolute figures are those of one
machine; a ratio is to the yardstick of the same round, and holds better. A cell is the median of all rounds,
with minimum and maximum in brackets. CPU is user and system time of all processes that take part; other load
on the machine lengthens wall times much, and CPU times somewhat.

    uv run bench/benchmarks.py --render                  # all of this, on the machine where it is typed
    uv run bench/benchmarks.py --only P3 --render        # one part of it; the others stay as they are

Sections that a run of the command has not measured on this machine are left out.
"""


def render(kept: dict[str, Any]) -> str:
    """Return the page."""
    parts = [_HEAD, _machine(kept), *_goals(kept["rows"])]
    for name, section in SECTIONS.items():
        if rows := _of(kept["rows"], name):
            other = _figures if "figures" in rows[0] else _table
            body = {"killed": _killed, "startup": _startup}.get(name, other)(rows)
            parts += [f"## {section.title}\n", section.text + "\n", "\n".join(body) + "\n"]
            parts += [section.why + "\n"] if section.why else []
    return "\n".join(parts).rstrip() + "\n"


def label(name: str) -> str:
    """Return how a row is called on the page."""
    return CONTENDERS[name].label if name in CONTENDERS else _LABELS.get(name, name)


def misses(rows: Iterable[Row]) -> list[str]:
    """Return each of our rows that executed an item twice or never."""
    return [
        f"{row['section']} {row['name']}: twice {row['twice']}, never {row['never']}"
        for row in rows
        if label(row["name"]).startswith(_OURS) and any([*row.get("twice", ()), *row.get("never", ())])
    ]


# ---------------------------------------------------------------------- details


def _machine(kept: dict[str, Any]) -> str:
    lines = [f"| {name} | {value} |" for name, value in kept["machine"].items()]
    text = "\n".join(["| machine and versions | |", "|---|---|", *lines]) + "\n"
    if kept.get("skipped"):
        text += f"\nNot installed, so not measured: {', '.join(kept['skipped'])}.\n"
    if kept.get("quick"):
        text += "\nMeasured with `--quick`: this shows that it works, not how fast it is.\n"
    return text


def _goals(rows: Sequence[Row]) -> Iterator[str]:
    """Compare our rows with the goals, and name the peers that are ahead."""
    lines: list[str] = []
    for name, section in SECTIONS.items():
        found = _of(rows, name)
        lines += _limits(name, section, found)
        if section.goal is None:
            continue
        for ours in dict.fromkeys(row["name"] for row in found if label(row["name"]).startswith(_OURS)):
            goal = dict(section.goals).get(ours, section.goal)
            ratios = [statistics.median(row["ratio"]) for row in found if row["name"] == ours]
            met = sum(ratio <= goal for ratio in ratios)
            verdict = "reached" if met == len(ratios) else f"reached in {met} of {len(ratios)} rows"
            cells = [f"{name} {section.title}", label(ours), f"{goal:g}", _range(ratios), f"**{verdict}**"]
            lines.append(f"| {' | '.join(cells)} | {_ahead(found, ours, section.figure)} |")
    if lines:
        yield "## Goals\n"
        head = ["| | of | at most | is | | ahead of us |", "|---|---|---|---|---|---|"]
        yield "\n".join([*head, *lines]) + "\n"


def _limits(name: str, section: Section, rows: Sequence[Row]) -> Iterator[str]:
    """Compare figures other than ratios to a yardstick with their goals."""
    for pattern, figure, most in section.limits:
        values = [
            statistics.median(row["figures"][figure])
            for row in rows
            if re.search(pattern, row["name"]) and figure in row["figures"]
        ]
        if values:
            met = sum(value <= most for value in values)
            verdict = "reached" if met == len(values) else f"reached in {met} of {len(values)} rows"
            cells = [f"{name} {section.title}", f"`{pattern.replace('|', ' or ')}`, {figure}", f"{most:g}"]
            yield f"| {' | '.join(cells)} | {_range(values)} | **{verdict}** | |"


def _figures(rows: Sequence[Row]) -> Iterator[str]:
    """Render rows of any figures: a column for each."""
    names = list(dict.fromkeys(figure for row in rows for figure in row["figures"]))
    told = ["by subcommand"] if any("told" in row for row in rows) else []
    yield f"| | {' | '.join([*names, *told])} |"
    yield "|---" * (1 + len(names) + len(told)) + "|"
    for row in rows:
        cells = [_cell(row["figures"][figure]) if figure in row["figures"] else "" for figure in names]
        yield f"| {' | '.join([row['name'], *cells, *([row.get('told', '')] if told else [])])} |"


def _ahead(rows: Sequence[Row], ours: str, figure: str) -> str:
    """Name who takes less than we do in some row, and whether that executes items twice."""
    found = []
    for peer in dict.fromkeys(row["name"] for row in rows[1:]):
        if peer == rows[0]["name"] or label(peer).startswith(_OURS):
            continue
        pairs = [
            (a, b) for a in rows for b in rows if (a["name"], b["name"]) == (peer, ours) and _at(a) == _at(b)
        ]
        ratios = [statistics.median(a[figure]) / statistics.median(b[figure]) for a, b in pairs]
        twice = max((max(a["twice"]) for a, _ in pairs), default=0)
        if ratios and min(ratios) < 1:
            note = f", executes up to {twice} items twice" if twice else ""
            found.append(f"{label(peer)} ({_range(ratios)} of ours{note})")
    return "; ".join(found) or "nobody"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| who | items | workers | CPU us an item | wall us an item | ratio | twice | never |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        cells = [
            label(row["name"]), f"{row['items']:,}", str(row.get("workers", 1)), _cell(row["cpu_us"]),
            _cell(row["wall_us"]), _cell(row["ratio"], 2), _span(row["twice"]), _span(row["never"]),
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"
    known = [name for name in dict.fromkeys(row["name"] for row in rows) if name in CONTENDERS]
    if len(known) > 1:
        yield ""
        yield from (f"- {label(name)}: {CONTENDERS[name].life}" for name in known)


def _killed(rows: Sequence[Row]) -> Iterator[str]:
    yield "| who | the item of the killed consumer | other items |"
    yield "|---|---|---|"
    for row in rows:
        fate = "executed again" if row["again"] else "never executed again"
        others = f"{row['others_wrong']} executed twice or never" if row["others_wrong"] else "executed once"
        yield f"| {label(row['name'])} | {fate} | {others} |"


def _startup(rows: Sequence[Row]) -> Iterator[str]:
    yield "| command | CPU ms | wall ms | memory MB |"
    yield "|---|---|---|---|"
    for row in rows:
        name = row["name"] + (f", {row['items']:,} items" if "items" in row else "")
        cells = [_cell(row["cpu_ms"]), _cell(row["wall_ms"]), _cell(row["memory_mb"])]
        yield f"| {name} | {' | '.join(cells)} |"


def _of(rows: Iterable[Row], section: str) -> list[Row]:
    return [row for row in rows if row["section"] == section]


def _at(row: Row) -> tuple[int, int]:
    return row["items"], row.get("workers", 1)


def _cell(values: Sequence[float], digits: int = 1) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high == 0 else f"**{low}**" if low == high else f"**{low} to {high}**"


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"
