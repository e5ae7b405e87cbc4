"""The command that measures works, and our store executes each item once under it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from commands import ROOT

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]  # some thirty processes, one after the other


def test_a_quick_run_executes_each_of_our_items_once(tmp_path: Path) -> None:
    words = [
        "--quick",
        "--runs",
        "1",
        "--only",
        "P1",
        "--only",
        "P3",
        "--only",
        "killed",
        "--only",
        "P4",
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench/benchmarks.py"), *words, "--json", str(tmp_path / "found.json")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "found.json").read_text("utf-8"))["rows"]
    ours = [row for row in rows if row["name"].startswith("hypervisor")]
    assert {row["section"] for row in ours} == {"P1", "P3", "killed"}
    for row in ours:
        if row["section"] == "killed":
            assert (row["again"], row["others_wrong"]) == (1, 0)
        else:
            assert (row["twice"], row["never"]) == ([0], [0]), row
    scale = {row["name"].partition(": ")[2] for row in rows if row["section"] == "P4"}
    assert {"list_tasks", "claim_next_task", "complete_task", "get_index_stats"} <= scale
    assert {"task list --limit 50", "task claim --next", "task complete", "status"} <= scale
