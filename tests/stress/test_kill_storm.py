"""A small storm on each engine: real workers, killed and stopped, and every invariant looked at."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import postgres

sys.path.append(str(Path(__file__).resolve().parents[2]))

from bench.storm import Plan, Storm
from bench.storm_worker import BATCH

pytestmark = pytest.mark.storm
MISSING = f"no PostgreSQL here: {postgres.INSTALL}"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a server, "" for SQLite."""
    if request.param == "sqlite":
        yield ""
    elif not postgres.programs():
        pytest.fail(MISSING) if os.environ.get("CI") == "true" else pytest.skip(MISSING)
    else:
        with postgres.start_server() as started:
            yield started


def test_whatever_is_killed_every_item_gets_exactly_one_result(tmp_path: Path, url: str) -> None:
    plan = Plan(
        items=200, workers=6, kill_every=0.3 if url else 0.1, stop_every=0.4, lease=0.6, work=0.01,
        files=not url, seed=secrets.token_hex(4), deadline=100.0,
    )  # fmt: skip
    storm = Storm(plan, str(tmp_path), url)
    storm.run()
    print(plan.seed, storm.table)  # shown when it fails
    assert storm.broken == []
    assert storm.table["accepted"] == plan.items
    assert storm.counts["kills"] > 0


def test_the_storm_sees_what_is_broken(tmp_path: Path) -> None:
    plan = Plan(items=20, workers=1, kill_every=0.0, stop_every=0.0, work=0.0, files=True, deadline=50.0)
    storm = Storm(plan, str(tmp_path))
    storm.run()
    assert storm.broken == []
    (log,) = (tmp_path / "logs").glob("*.log")
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    twice = next(line for line in lines if "accepted" in line)
    with open(log, "a", encoding="utf-8") as file:
        file.write(json.dumps({**twice, "accepted": 10_000}) + "\n")
        file.write(json.dumps({"lost": twice["accepted"]}) + "\n")
    (tmp_path / "files" / "item-0000003").write_text('{"half', "utf-8")
    with storm.place.open() as store:
        store.engine.write(lambda tx: tx.run("UPDATE batch_item SET ready = 1 WHERE seq = 5"))
        lost = "UPDATE work SET state = 'ready', result = NULL, decided_at = NULL WHERE key = 'item-0000007'"
        store.engine.write(lambda tx: tx.run(lost))
        assert store.batches.census(BATCH)["queued"] == 20
        storm.check(store)
    said = "\n".join(storm.broken)
    for word in (
        "torn: item-0000003",
        "accepted twice",
        "no result: item-0000007",
        "told lost, and accepted",
        "ready",
    ):
        assert word in said
