"""docs/scale.md is what the kept figures say, and says it when a goal is missed."""

from __future__ import annotations

import json
import sys

from commands import ROOT

sys.path.append(str(ROOT))

from bench import scale

KEPT = json.loads((ROOT / "docs/scale.json").read_text("utf-8"))


def test_the_page_is_what_the_kept_figures_say() -> None:
    assert (ROOT / "docs/scale.md").read_text("utf-8") == scale.render(KEPT)


def test_the_kept_figures_name_no_folder() -> None:
    assert not [text for text in json.dumps(KEPT).split('"') if text.startswith("/")]


def test_a_goal_that_is_missed_is_told() -> None:
    def row(kind: str, name: str, p50: float, p99: float, size: int = 10_000) -> scale.Row:
        of = {"kind": kind, "name": name, "size": size, "processes": 1}
        return {**of, "calls": 9, "p50_ms": p50, "p99_ms": p99, "cpu_ms": 1.5}

    told = scale.render({
        "machine": {}, "quick": False,
        "rows": [
            row("tool", "list_tasks", 4, 19.9), row("tool", "get_task", 4, 20.1),
            row("tool", "start-up", 900, 900),
            row("command", "status", 149, 999), row("command", "task list", 151, 151),
            row("command", "(an empty script)", 200, 200), row("command", "status", 400, 400, size=100_000),
        ],
    })  # fmt: skip
    assert "| list_tasks | 4.0 / 19.9 (1.5) |" in told
    assert "| get_task | **4.0 / 20.1** (1.5) |" in told
    assert "a tool's p99 below 20 ms. Reached in 1 of 2 cells" in told
    assert "| status | 149.0 / 999.0 (1.5) | 400.0 / 400.0 (1.5) |" in told
    assert "| task list | **151.0 / 151.0** (1.5) |" in told
    assert "with 10,000 tasks and one process. Reached in 1 of 2 cells" in told
