"""The tasks that trackers are measured on, and docs/scale.md from the figures of a run."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
_STATUSES = ["To Do"] * 6 + ["Done"] * 3 + ["In Progress"]
_CONFIG = """project_name: "demo"
default_status: "To Do"
statuses: ["To Do", "In Progress", "Done"]
labels: []
date_format: yyyy-mm-dd
auto_open_browser: false
remote_operations: false
auto_commit: false
filesystem_only: true
check_active_branches: false
task_prefix: "task"
"""
#: Milliseconds that a tool's p99, and a command's median with 10,000 tasks, should stay below.
TOOL_GOAL, COMMAND_GOAL = 20, 150


def _tasks(size: int) -> Iterator[tuple[int, str, str, list[int]]]:
    """Yield number, status, priority, and what it waits for: with a third, one to three earlier ones."""
    rolled = random.Random(1)
    for number in range(1, size + 1):
        waits = rolled.sample(range(1, number), min(number - 1, rolled.choice([0, 0, 0, 0, 1, 3])))
        yield number, rolled.choice(_STATUSES), rolled.choice(["high", "medium", "low"]), waits


def lay_out(folder: Path, size: int) -> None:
    """Make a project of *size* tasks, a file each, as Backlog.md keeps them; we read the same."""
    tasks = folder / "backlog/tasks"
    tasks.mkdir(parents=True)
    (folder / ".hypervisor").mkdir(mode=0o700)
    (folder / "backlog/config.yml").write_text(_CONFIG, "utf-8")
    for number, status, priority, waits in _tasks(size):
        (tasks / f"task-{number} - Task-{number}.md").write_text(
            f"---\nid: task-{number}\ntitle: Task {number}\nstatus: {status}\nassignee: []\n"
            f"created_date: '2026-01-01 12:00'\nlabels: [l-{number % 7}]\nproject: p-{number % 20}\n"
            f"priority: {priority}\ndependencies: [{', '.join(f'task-{other}' for other in waits)}]\n---\n\n"
            f"## Description\n\nWhat has to be done for number {number}, in a sentence or two.\n",
            "utf-8",
        )


def lay_out_json(folder: Path, size: int) -> None:
    """Make the same project as Task Master keeps it: one file."""
    words = {"To Do": "pending", "Done": "done", "In Progress": "in-progress"}
    tasks = [
        {
            "id": number, "title": f"Task {number}", "status": words[status], "dependencies": waits,
            "description": f"What has to be done for number {number}, in a sentence or two.",
            "priority": priority, "details": "", "testStrategy": "", "subtasks": [],
        }
        for number, status, priority, waits in _tasks(size)
    ]  # fmt: skip
    (folder / ".taskmaster/tasks").mkdir(parents=True)
    kept = {"master": {"tasks": tasks, "metadata": {"created": "2026-01-01T12:00:00Z", "description": ""}}}
    (folder / ".taskmaster/tasks/tasks.json").write_text(json.dumps(kept), "utf-8")


# ------------------------------------------------------------------------- page

_HEAD = """# Tools and commands at scale

Rendered by `bench/trackers.py` from the figures in [scale.json](scale.json); none is written by hand.

    uv run bench/trackers.py --render

A cell is p50 / p99 in milliseconds, and in brackets the median of the CPU time that the server, or the
command, has used: other load on the machine lengthens the first two much, and the third somewhat. Of fewer
than a hundred calls p99 is the slowest. The first look at all files is told in CPU time alone.

*Tools* are calls of real servers (`scripts/mcp_server.py`), timed by a client at their pipes; where there are
16, all of them and their clients share the machine's cores and one project. *Commands* are whole processes,
as a shell starts `hypervisor`; beside them an empty script by `uv run`. Each process works as agents do: it
looks, claims, notes, completes. A tenth of the tasks is in progress, three tenths are done, a third waits for
others. A goal that is missed is bold.
"""


def render(kept: Row) -> str:
    """Return the page."""
    rows: list[Row] = kept["rows"]
    parts = [_HEAD, _machine(kept)]
    for kind, title, goal in (("tool", "Tools", _tool_goal), ("command", "Commands", _command_goal)):
        mine = [row for row in rows if row["kind"] == kind]
        if mine:
            parts += [f"## {title}\n", _table(mine, goal), *_missed(mine, goal)]
    mine = [row for row in rows if row["kind"] == "peer"]
    if mine:
        parts += ["## Other trackers, on the same tasks\n", _PEERS, _peers(mine)]
    return "\n".join(parts).rstrip() + "\n"


_WHY_TOOLS = """
What takes or ends a claim waits for the disk several times, and for whoever else writes to it; with more
servers and clients than cores they wait for each other."""
_WHY_COMMANDS = """
Most of a command's time is Python's start and loading, which does not grow with the tasks; what lists or
claims also asks for the time of each file, which does."""

_PEERS = """Whole commands, one at a time, in a run of their own; the median of three with 1,000 tasks, once
with more. Backlog.md reads the files that we read, told to leave git alone (`filesystem_only`), which is
its quickest way. Neither has a claim: of several that begin the same task, all do.
"""


def _machine(kept: Row) -> str:
    small = "\nWith `--quick`: these show that it works, not how fast.\n" if kept["quick"] else ""
    skipped = ("litequeue", "huey", "persist-queue", "python-frontmatter", "GNU parallel")
    lines = [f"| {name} | {value} |" for name, value in kept["machine"].items() if name not in skipped]
    return "\n".join(["| machine and versions | |", "|---|---|", *lines]) + "\n" + small


def _tool_goal(row: Row) -> bool | None:
    """Tell whether a row is in its goal, None for one that has none."""
    plain = "p99_ms" in row and "first" not in row["name"] and "start" not in row["name"]
    return row["p99_ms"] < TOOL_GOAL if plain else None


def _command_goal(row: Row) -> bool | None:
    plain = row["size"] == 10_000 and row["processes"] == 1 and row["name"][:5] not in ("first", "(an e")
    return row["p50_ms"] < COMMAND_GOAL if plain else None


def _table(rows: Sequence[Row], goal: Callable[[Row], bool | None]) -> str:
    columns = sorted({(row["size"], row["processes"]) for row in rows})
    heads = [f"{size:,} tasks, {n} process{'es' if n > 1 else ''}" for size, n in columns]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(columns) + 1) + "|"]
    for name in dict.fromkeys(row["name"] for row in rows):
        cells = []
        for size, processes in columns:
            found = [r for r in rows if (r["name"], r["size"], r["processes"]) == (name, size, processes)]
            cells.append(_cell(found[0], goal) if found else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: Row, goal: Callable[[Row], bool | None]) -> str:
    if "mib" in row:
        return f"{row['mib']} MiB"
    if row["name"] == "first look at all files" and "cpu_ms" in row:  # once for each size
        return f"({row['cpu_ms']:,.0f})"
    text = f"{row['p50_ms']:.1f} / {row['p99_ms']:.1f}"
    text = f"**{text}**" if goal(row) is False else text
    return f"{text} ({row['cpu_ms']:.1f})" if "cpu_ms" in row else text


def _missed(rows: Sequence[Row], goal: Callable[[Row], bool | None]) -> list[str]:
    judged = [goal(row) for row in rows if goal(row) is not None]
    tools = rows[0]["kind"] == "tool"
    what = (
        f"a tool's p99 below {TOOL_GOAL} ms"
        if tools
        else f"a command's median below {COMMAND_GOAL} ms with 10,000 tasks and one process"
    )
    text = f"Goal: {what}. Reached in {sum(map(bool, judged))} of {len(judged)} cells; the others are bold."
    return [f"{text}{_WHY_TOOLS if tools else _WHY_COMMANDS}\n" if not all(judged) else f"{text}\n"]


def _peers(rows: Sequence[Row]) -> str:
    sizes = sorted({row["size"] for row in rows})
    lines = [f"| | {' | '.join(f'{size:,} tasks' for size in sizes)} |", "|---" * (len(sizes) + 1) + "|"]
    for who, name in dict.fromkeys((row["who"], row["name"]) for row in rows):
        cells = []
        for size in sizes:
            found = [row for row in rows if (row["who"], row["name"], row["size"]) == (who, name, size)]
            over = "more than " if found and found[0]["ended"] else ""
            cells.append(f"{over}{found[0]['p50_ms']:,.0f}" if found else "")
        lines.append(f"| {who}: {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
