"""A small storm: real workers, killed and stopped, and every invariant looked at."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent))

from bench.storm import Plan, Storm

pytestmark = pytest.mark.storm


@pytest.mark.parametrize("seed", ["1", secrets.token_hex(4)], ids=["fixed", "random"])
def test_whatever_is_killed_every_item_gets_exactly_one_result(tmp_path: Path, seed: str) -> None:
    print(f"seed {seed}")  # shown when it fails
    plan = Plan(items=400, workers=8, kill_every=0.1, stop_every=0.5, lease=1.0, seed=seed, deadline=50.0)
    storm = Storm(plan, str(tmp_path / "store"), str(tmp_path / "side"))
    storm.run()
    print(storm.table)
    assert storm.broken == []
    assert storm.table["accepted"] == plan.items
    assert storm.table["kills"] > 0


def test_the_storm_sees_what_is_broken(tmp_path: Path) -> None:
    plan = Plan(items=20, workers=1, kill_every=0.0, stop_every=0.0, lease=1.0, deadline=50.0)
    storm = Storm(plan, str(tmp_path / "store"), str(tmp_path / "side"))
    storm.run()
    assert storm.broken == []
    folder = tmp_path / "store"
    changed, torn, lost, *_ = sorted(os.listdir(folder / "results"))
    record = (folder / "results" / changed).read_text("utf-8")
    (folder / "results" / changed).write_text(record.replace('"token":"', '"token":"0'), "utf-8")
    (folder / "results" / torn).write_text(record[:20], "utf-8")
    (folder / "results" / lost).rename(folder / "results" / "no-item.json")
    (folder / "locks" / f"{lost.removesuffix('.json')}~2").mkdir()
    (folder / "workers" / "empty").touch()
    for log in (tmp_path / "side").glob("*.log"):
        log.write_text(log.read_text("utf-8") * 2, "utf-8")
    storm.check()
    said = "\n".join(storm.broken)
    for word in ("torn", "has changed", "no item", "no result", "an empty file", "handed out 2 times"):
        assert word in said
    assert "had won, and the result is another's" in said
