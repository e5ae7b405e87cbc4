"""docs/performance.md is what the kept figures say, and says it when a goal is missed or a peer is ahead."""

from __future__ import annotations

import json
import sys
from typing import Any

from commands import ROOT

sys.path.append(str(ROOT))

from bench import page

KEPT = json.loads((ROOT / "docs/performance.json").read_text("utf-8"))


def row(section: str, name: str, ratio: float, **more: Any) -> dict[str, Any]:
    figures = {
        "cpu_us": [100 * ratio],
        "wall_us": [100 * ratio],
        "ratio": [ratio],
        "twice": [0],
        "never": [0],
    }
    return {"section": section, "name": name, "items": 10, "workers": 1, **figures, **more}


def test_the_page_is_what_the_kept_figures_say() -> None:
    assert (ROOT / "docs/performance.md").read_text("utf-8") == page.render(KEPT)


def test_the_kept_figures_name_no_folder_and_are_short() -> None:
    assert not [text for text in json.dumps(KEPT).split('"') if text.startswith("/")]
    assert len((ROOT / "docs/performance.json").read_text("utf-8").splitlines()) < 1500


def test_goals_are_compared_and_peers_that_are_ahead_are_named() -> None:
    rows = [
        row("P1", "sqlite", 1.0), row("P1", "hypervisor", 1.9), row("P1", "huey", 2.5),
        row("P1", "persist-queue", 0.95, twice=[3]),
        row("P3", "sqlite-full", 1.0), row("P3", "hypervisor-durable", 1.1),
        row("P3", "hypervisor-together", 0.4),
    ]  # fmt: skip
    shown = page.render({"machine": {}, "rows": rows}).splitlines()
    first, durable, together = [line for line in shown if line.startswith("| P")]
    assert "| **Hypervisor** | 2 | 1.90 | **reached** |" in first
    assert "persist-queue (SQLiteAckQueue) (0.50 of ours, executes up to 3 items twice)" in first
    assert "huey" not in first
    assert "| 1 | 1.10 | **reached in 0 of 1 rows** | nobody |" in durable
    assert "| 0.4 | 0.40 | **reached** |" in together


def test_only_our_own_rows_count_as_faults() -> None:
    rows = [row("P1", "huey", 1.0, twice=[2]), row("P1", "hypervisor", 1.0, never=[0, 1])]
    assert page.misses(rows) == ["P1 hypervisor: twice [0], never [0, 1]"]


def test_figures_without_a_yardstick_are_compared_with_their_own_goals() -> None:
    def told(name: str, **figures: list[float]) -> dict[str, Any]:
        named = {key.replace("_", " "): values for key, values in figures.items()}
        return {"section": "P4", "name": name, "figures": named}

    rows = [
        told("tool, 10,000 tasks, 1 servers: list_tasks", p99_ms=[19.0, 19.9, 40.0]),
        told("tool, 10,000 tasks, 1 servers: get_task", p99_ms=[20.1]),
        told("command, 10,000 tasks: task show ID", CPU_ms=[109.0], p50_ms=[400.0]),
        told("command, 10,000 tasks: --help", CPU_ms=[900.0]),
    ]
    shown = page.render({"machine": {}, "rows": rows})
    assert "p99 ms | 20 | 19.90 to 20.10 | **reached in 1 of 2 rows**" in shown
    assert "CPU ms | 110 | 109.00 | **reached**" in shown
    assert "| tool, 10,000 tasks, 1 servers: get_task | 20.1 |  |  |" in shown
