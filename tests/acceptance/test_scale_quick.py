"""The command that measures tools and commands at scale works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from commands import ROOT


@pytest.mark.acceptance
@pytest.mark.timeout(600)  # some thirty processes, one after the other
def test_a_quick_run_measures_each_tool_and_command(tmp_path: Path) -> None:
    words = [
        "--quick",
        "--no-peers",
        "--sizes",
        "60",
        "--processes",
        "1,2",
        "--calls",
        "8",
        "--commands",
        "1",
    ]
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "bench/trackers.py"), *words,
            "--folder", str(tmp_path), "--json", str(tmp_path / "found.json"),
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "found.json").read_text("utf-8"))["rows"]
    for kind, names in (
        ("tool", {"list_tasks", "claim_next_task", "complete_task", "get_index_stats"}),
        ("command", {"task list --limit 50", "task claim --next", "task complete", "status"}),
    ):
        assert names <= {row["name"] for row in rows if row["kind"] == kind}
