"""What is gathered of a batch for people: complete, the same as the census, and safe to show."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from handwork import Hands, batch_in, cancel, retry
from hypervisor.queue.batch import Batch
from hypervisor.queue.batches import open_folder
from hypervisor.report.report import ReportBuilder
from hypervisor.store.events import RunEvent


def report_of(batch: Batch) -> dict[str, Any]:
    builder = ReportBuilder(batch)
    builder.look()
    return builder.report()


def row_of(report: dict[str, Any], name: str) -> dict[str, Any]:
    rows = [dict(zip(report["columns"], row[1:], strict=True)) for row in report["rows"]]
    return next(row for row in rows if row["name"] == name)


def test_what_is_not_known_is_null_and_never_zero(tmp_path: Path) -> None:
    with batch_in(tmp_path / "b", "a", "b") as batch:
        before = report_of(batch)
        assert before["spent"]["tokens"] is None
        assert before["pace"]["per_minute"] is None
        assert (before["readings"], before["zone"]["word"], before["spending"]) == ([], "", [])
        Hands(batch).do("a")
        report = report_of(batch)
        row = row_of(report, "a")
        assert (row["tokens"], row["cost_usd"], row["commit"], row["evidence"]) == (None, None, None, None)
        assert report["spent"] == {
            "tokens": None, "cost_usd": None, "of": 1, "tokens_known": 0, "cost_known": 0,
        }  # fmt: skip
        waiting = row_of(report, "b")
        assert (waiting["seconds"], waiting["attempts"], waiting["worker"]) == (None, None, None)


def test_attempts_spending_and_the_machine_are_in_the_report(tmp_path: Path) -> None:
    with batch_in(tmp_path / "b", "a") as batch:
        store, hands = batch.store, Hands(batch, "claude")
        store.events.add(RunEvent.STARTED, {"limit": 4, "worker": "run-1"}, batch=batch.number)
        store.claims.fail(hands.begin("a", "logs/a-1"), "killed", tokens=100)
        claim = hands.begin("a", "logs/a-2")
        store.events.add(
            RunEvent.LEVEL,
            {"level": "constrained", "room": 2, "why": "CPU", "cpu_percent": 90.5, "ram_percent": 40},
            batch=batch.number,
        )
        store.events.add(RunEvent.PAUSED, {"until": "3am", "why": "limit"}, batch=batch.number)
        hands.end(claim, "failed", tokens=50, cost_usd=0.5, log="logs/a-2", evidence={"exit": 1})
        Path(batch.logs).mkdir()
        Path(batch.folder, "logs/a-2.out").write_text("the last words\n", "utf-8")
        report = report_of(batch)
        row = row_of(report, "a")
        assert (row["attempts"], row["tokens"], row["cost_usd"]) == (2, 150, 0.5)
        assert row["evidence"] == {"exit": 1}
        assert report["workers"] == [hands.worker.id]
        assert report["spent"] == {
            "tokens": 150, "cost_usd": 0.5, "of": 2, "tokens_known": 2, "cost_known": 1,
        }  # fmt: skip
        assert [one[1:] for one in report["spending"]][-1] == (150, 0.5)
        assert [(number, attempt, how) for number, attempt, *_, how in report["tries"]] == [
            (0, 1, "given back: killed")
        ]
        assert [one[1:] for one in report["readings"]] == [[90.5, 40, None, "constrained"]]
        assert report["zone"]["word"] == "constrained"
        assert report["held_up"] == "paused until 3am: limit"
        assert report["marks"][-1][1:] == ("paused", "until 3am: limit")
        assert report["logs"]["0"][0]["text"] == "the last words"


def test_those_at_work_are_named_with_what_they_do_and_since_when(tmp_path: Path) -> None:
    with batch_in(tmp_path / "b", "a", "b") as batch:
        hands = Hands(batch)
        Path(batch.logs).mkdir()
        claim = hands.begin("a", "logs/a-1")
        Path(batch.folder, "logs/a-1.out").write_text("said something\n", "utf-8")
        (one,) = report_of(batch)["at_work"]
        assert (one["name"], one["who"], one["attempt"]) == ("a", hands.worker.id, claim.number)
        assert abs(one["since"] - report_of(batch)["at"]) < 60
        assert one["output_ago"] < 60
        assert report_of(batch)["logs"]["0"][0]["text"] == "said something"


def test_nobody_at_work_leaves_no_estimate(tmp_path: Path) -> None:
    with batch_in(tmp_path / "b", "a", "b", "c") as batch:
        hands = Hands(batch)
        hands.do("a")
        assert report_of(batch)["pace"]["eta"] is None
        hands.begin("b")
        assert report_of(batch)["pace"]["eta"] is not None


def test_a_log_is_looked_for_below_the_batch_only(tmp_path: Path) -> None:
    with batch_in(tmp_path / "b", "a") as batch:
        (tmp_path / "secret.out").write_text("secret\n", "utf-8")
        hands = Hands(batch)
        for named in ("../secret", str(tmp_path / "secret")):
            claim = hands.begin("a", named)
            builder = ReportBuilder(batch)
            builder.look()
            assert builder.logs(0) == []
            batch.store.claims.release(claim, "again")


def test_every_failure_keeps_the_end_of_its_log_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hypervisor.report.report.LOG_BUDGET", 8000)
    with batch_in(tmp_path / "b", *(f"i{n}" for n in range(40))) as batch:
        hands = Hands(batch)
        Path(batch.logs).mkdir()
        for n in range(40):
            claim = hands.begin(f"i{n}", f"logs/{n}")
            Path(batch.logs, f"{n}.err").write_text("e" * 5000 + f"\nlast words of {n}\n", "utf-8")
            hands.end(claim, "failed", log=f"logs/{n}")
        report = report_of(batch)
        assert len(report["logs"]) == 40
        for n in range(40):
            (log,) = report["logs"][str(n)]
            assert log["text"].endswith(f"last words of {n}")
            assert len(log["text"]) <= 512


def test_items_that_need_attention_are_grouped_with_what_to_type(tmp_path: Path) -> None:
    with batch_in(tmp_path / "b", "a", "b", "c") as batch:
        hands = Hands(batch)
        hands.do("a", "failed", outcome="exit 1")
        hands.do("b", "failed", outcome="exit 2")
        hands.do("c", "blocked", outcome="which account?")
        question, failures = report_of(batch)["needs_attention"]
        assert (question["reason"], question["items"]) == ("which account?", [2])
        assert (failures["reason"], failures["items"]) == ("exit 1 (or similar)", [0, 1])
        assert failures["type"] == f"hypervisor retry --dir {batch.folder} --failed"


def test_an_item_that_was_cancelled_is_nobodys_work(tmp_path: Path) -> None:
    with batch_in(tmp_path / "b", "a", "b") as batch:
        Hands(batch).begin("a")
        cancel(batch, "a")
        cancel(batch, "b")
        report = report_of(batch)
        for name in ("a", "b"):
            row = row_of(report, name)
            assert (row["state"], row["worker"], row["started"], row["finished"]) == (
                "skipped",
                None,
                None,
                None,
            )
        assert [(one[0], one[1]) for one in report["tries"]] == [(0, 1)]
        assert report["finished"]


def test_a_retry_keeps_what_was_spent_and_tried_before(tmp_path: Path) -> None:
    with batch_in(tmp_path / "b", "a") as batch:
        hands = Hands(batch)
        hands.do("a", "failed", tokens=10)
        retry(batch, "a")
        hands.do("a", tokens=5)
        report = report_of(batch)
        row = row_of(report, "a")
        assert (row["state"], row["attempts"], row["tokens"]) == ("success", 2, 15)
        assert report["tries"][0][1] == 1


def test_a_queue_that_is_looked_at_before_anybody_begins_is_followed_once_somebody_does(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "queue.txt").write_text("a\nb\n", "utf-8")
    with ReportBuilder(open_folder(str(folder), cwd=str(folder), write=False)) as builder:
        builder.look()
        before = builder.head()
        assert before["census"]["waiting"] == 2
        assert sorted(path.name for path in folder.iterdir()) == ["queue.txt"]
        with batch_in(folder, "a", "b") as begun:
            Hands(begun).do("a")
            builder.look()
            head = builder.head()
            assert (head["census"]["success"], head["census"]["waiting"]) == (1, 1)
            assert head["instance"] != before["instance"]  # a browser asks for all rows again
            assert [row[4] for row in builder.body()["rows"]] == ["success", "waiting"]


def test_the_newest_failures_are_told_first(tmp_path: Path) -> None:
    with batch_in(tmp_path / "b", "a", "b", "c") as batch:
        hands = Hands(batch)
        hands.do("b", "failed", outcome="exit 1")
        decided = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 == decided:  # the store counts milliseconds
            pass
        hands.do("a", "blocked", outcome="which?")
        builder = ReportBuilder(batch, with_items=False)
        builder.look()
        assert builder.failures(5) == [("blocked", "a", "which?"), ("failed", "b", "exit 1")]
        assert builder.failures(1) == [("blocked", "a", "which?")]
        assert builder.latest(0) == []
