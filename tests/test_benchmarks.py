"""The page of figures is what was measured, and the command that measures works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

from bench import page  # noqa: E402

KEPT = json.loads((ROOT / "docs/benchmarks.json").read_text("utf-8"))


def test_the_page_is_what_the_kept_figures_say() -> None:
    assert (ROOT / "docs/benchmarks.md").read_text("utf-8") == page.render(KEPT)


def test_the_kept_figures_name_no_folder() -> None:
    assert not [text for text in json.dumps(KEPT).split('"') if text.startswith("/")]


def test_who_is_ahead_is_told() -> None:
    def row(name: str, cpu: float, duplicates: int) -> dict[str, object]:
        run = {
            "cpu_us": cpu,
            "wall_s": 1.0,
            "duplicates": duplicates,
            "losses": 0,
            "cpu_ratio": 1,
            "wall_ratio": 1,
        }
        return {"name": name, "whole": False, "items": 10, "workers": 1, "runs": [run]}

    rows = [row("mkdir", 1.0, 0), row("hypervisor", 4.0, 0), row("sqlite", 1.0, 0), row("huey", 2.0, 3)]
    told = page.render({
        "machine": {}, "sections": {"drain": {"rows": rows, "runs": 1, "quick": True, "seconds": 1}}
    })  # fmt: skip
    assert "Ahead of us in CPU, claims only: SQLite, BEGIN IMMEDIATE (0.25 of ours)" in told
    assert "huey (SqliteHuey) (0.50 of ours; executes up to 3 items twice)" in told


@pytest.mark.acceptance
def test_a_quick_drain_executes_each_of_our_items_once(tmp_path: Path) -> None:
    words = ["--quick", "--only", "drain", "--only", "durable", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench/benchmarks.py"), *words, "--json", str(tmp_path / "found.json")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sections = json.loads((tmp_path / "found.json").read_text("utf-8"))["sections"]
    rows = [*sections["drain"]["rows"], *sections["durable"]["rows"]]
    ours = [row for row in rows if row["name"].startswith("hypervisor")]
    assert {(row["name"], row["whole"]) for row in ours} == {
        ("hypervisor", False), ("hypervisor", True), ("hypervisor-durable", True)
    }  # fmt: skip
    for row in ours:
        assert [(run["duplicates"], run["losses"]) for run in row["runs"]] == [(0, 0), (0, 0)], row
