"""`hypervisor events`: a line for each event, of the project, a batch or a task; followed as they happen."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Shell, shell
from handwork import Hands, batch_in, cancel
from hypervisor.queue.batch import Batch
from hypervisor.store.events import RunEvent


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        yield made


@pytest.fixture
def batch(user: Shell) -> Iterator[Batch]:
    with batch_in(user.cwd / "b", "a", "c") as made:
        yield made


def rows_of(out: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.splitlines()]


def test_each_event_is_a_line_that_says_what_happened_to_what(user: Shell, batch: Batch) -> None:
    hands = Hands(batch)
    batch.store.events.add(RunEvent.HALTED, {"why": "canary failed"}, batch=batch.number)
    hands.do("a", "blocked", outcome="which\naccount?")
    cancel(batch, "c")
    rows = rows_of(user.here("events", "--dir", "b", "--json").passed().out)
    assert [(row["event"], row.get("task"), row.get("attempt"), row.get("why")) for row in rows] == [
        ("halted", None, None, "canary failed"), ("claimed", "a", 1, None),
        ("blocked", "a", 1, "which account?"), ("cancelled", "c", None, "cancelled"),
    ]  # fmt: skip
    assert rows[0]["batch"] == batch.id
    assert [row["id"] for row in rows] == sorted({row["id"] for row in rows})  # type: ignore[type-var]
    lines = user.here("events", "--dir", "b").passed().lines
    assert [line.split(" ", 2)[2] for line in lines] == [
        f"halted     {batch.id}: canary failed", "claimed    a (attempt 1) by batch-worker",
        "blocked    a (attempt 1) by batch-worker: which account?", "cancelled  c: cancelled",
    ]  # fmt: skip


def test_a_reader_goes_on_from_an_id_and_chooses_an_item(user: Shell, batch: Batch) -> None:
    hands = Hands(batch)
    hands.do("a")
    first = rows_of(user.here("events", "--dir", "b", "--json").out)[-1]["id"]
    hands.do("c", "failed", outcome="no")
    since = rows_of(user.here("events", "--dir", "b", "--json", "--since", str(first)).out)
    assert [(row["event"], row["task"]) for row in since] == [("claimed", "c"), ("failed", "c")]
    only = rows_of(user.here("events", "--dir", "b", "--json", "--task", "A").out)
    assert [row["event"] for row in only] == ["claimed", "completed"]
    assert user.here("events", "--dir", "b", "--since", "999999").code == 3
    user.here("events", "--dir", "b", "--since", "-1").refused(2, "--since -1")


def test_events_are_followed_as_they_happen(user: Shell, batch: Batch) -> None:
    running = user.start_hypervisor("events", "--dir", "b", "--follow", "--json")
    hands = Hands(batch)
    claim = hands.begin("a")
    running.line('"event": "claimed"')
    hands.end(claim, "failed", outcome="no")
    assert json.loads(running.line('"event": "failed"'))["why"] == "no"
    running.send(signal.SIGINT)
    assert running.end().code in (0, 130)


def test_a_project_without_a_store_has_no_events(user: Shell) -> None:
    assert user.here("events").code == 3
    assert list(user.cwd.iterdir()) == []
