"""`status`, `report`, `drain` and `serve`: looks at a batch that leave it as it was."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Gate, Shell, eventually, script, shell, tree
from handwork import Hands, batch_in
from hypervisor.store.sqlite import FILE


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        yield made


def queue_in(user: Shell, *items: str) -> Path:
    """Write a queue that nobody has begun."""
    folder = user.cwd / "b"
    folder.mkdir()
    (folder / "queue.txt").write_text("".join(f"{item}\n" for item in items), "utf-8")
    return folder


def test_a_report_needs_a_place_that_is_there(user: Shell) -> None:
    queue_in(user, "a")
    user.here("report", "--dir", "b").refused(2, "--html FILE")
    user.here("report", "--dir", "b", "--html", "none/r.html").refused(2, "none/r.html", "a folder")
    user.here("report", "--dir", "b", "--html", "b").refused(2, "name a file")
    user.here("report", "--dir", "none", "--html", "r.html").refused(2, "none")


def test_a_look_at_a_queue_that_nobody_has_begun_makes_nothing(user: Shell) -> None:
    folder = queue_in(user, "a", "b")
    before = tree(folder)
    assert "<html" in user.here("report", "--dir", "b", "--html", "-").passed().out
    assert user.here("report", "--dir", "b", "--json").passed().json["census"]["waiting"] == 2
    assert user.here("status", "--dir", "b").passed().lines
    assert user.here("status", "--dir", "b", "--json").passed().json["waiting"] == ["a", "b"]
    assert user.here("drain", "--dir", "b").code == 3
    assert tree(folder) == before


def test_a_look_leaves_a_batch_as_it_was(user: Shell) -> None:
    with batch_in(user.cwd / "b", "a", "b") as batch:
        Hands(batch).do("a", "failed")
        last = batch.store.events.last()
        names = set(os.listdir(batch.folder))
        for words in (["report", "--html", "-"], ["report", "--json"], ["status"], ["status", "--json"]):
            user.here(words[0], "--dir", "b", *words[1:]).passed()
        assert batch.store.events.last() == last
        assert set(os.listdir(batch.folder)) == names


def test_the_page_is_a_file_that_says_how_large_it_is(user: Shell) -> None:
    with batch_in(user.cwd / "b", "a", "b") as batch:
        Hands(batch).do("a")
    ended = user.here("report", "--dir", "b", "--html", "r.html").passed()
    assert ended.err == f"r.html: 2 items, {(user.cwd / 'r.html').stat().st_size / 2**20:.1f} MiB\n"


def test_status_is_one_screen(user: Shell) -> None:
    with batch_in(user.cwd / "b", *(f"item-{n}" for n in range(300))) as batch:
        hands = Hands(batch)
        for n in range(60):
            hands.do(f"item-{n}", "failed", outcome="no\nsuch " + "file " * 100)
    lines = user.here("status", "--dir", "b").passed().lines
    assert len(lines) <= 24
    assert max(map(len, lines[:-2])) <= 80
    assert "60 of 300 (20 %)" in lines[1]
    assert lines[-2] == f"60 need attention: hypervisor summary --dir {batch.folder}"
    words = f"batch_worker.py --dir {batch.folder} --all"
    assert lines[-1] == f"to continue: {words}, with its --exec if it had one"


def test_status_of_a_batch_says_who_does_what(user: Shell) -> None:
    with batch_in(user.cwd / "b", "a", "b", "c") as batch:
        hands = Hands(batch)
        hands.do("a")
        hands.begin("b", "logs/b-1")
        found = user.here("status", "--dir", "b", "--json").passed().json
        assert found["census"]["success"] == 1
        assert (found["closes"], found["finished"]) == (True, False)
        (running,) = found["running"]
        assert (running["item"], running["attempt"], running["attempts_before"], running["log"]) == (
            "b", 1, 0, "logs/b-1",
        )  # fmt: skip
        assert found["waiting"] == ["c"]


def test_status_of_a_project_that_has_nothing_makes_nothing(user: Shell) -> None:
    found = user.here("status", "--json").passed().json
    assert (found["batches"], found["claims"], found["total"]) == ([], [], 0)
    assert os.listdir(user.cwd) == []


def test_a_port_that_is_taken_is_said_in_one_line(user: Shell) -> None:
    queue_in(user, "a")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        user.here("serve", "--dir", "b", "--port", port).refused(2, port, "a free one")
    user.here("serve", "--dir", "b", "--port", "70000").refused(2, "70000")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_ends_when_it_is_told_to(user: Shell, number: signal.Signals) -> None:
    queue_in(user, "a")
    running = user.start_hypervisor("serve", "--dir", "b")
    address = running.line("http://").strip()
    port = int(address.split(":")[2].split("/")[0])
    socket.create_connection(("127.0.0.1", port)).close()
    running.send(number)
    ended = running.end()
    assert (ended.code, ended.err) == (0, "")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.acceptance
def test_a_drain_finishes_what_is_in_hand_and_a_later_worker_goes_on(user: Shell) -> None:
    gate = Gate(user.home, "gate")
    queue_in(user, "a", "b", "c")
    command = script(user.home, "command", gate.words)
    running = user.start("--dir", "b", "--all", "--exec", f"{command} {{}}")
    gate.wait()
    drained = user.here("drain", "--dir", "b", "--json").passed().json
    assert drained["at_work"] == ["a"]
    gate.open(3)
    running.end().passed()
    census = user.worker("--dir", "b", "--stats", "--json").json
    assert (census["success"], census["waiting"]) == (1, 2)
    assert user.here("drain", "--dir", "b").code == 3  # nobody is at work
    user.worker("--dir", "b", "--all", "--exec", f"{command} {{}}").passed()
    assert user.worker("--dir", "b", "--stats", "--json").json["success"] == 3
    gate.close()


@pytest.mark.acceptance
def test_a_worker_between_two_items_is_seen(user: Shell) -> None:
    gate = Gate(user.home, "gate")
    folder = queue_in(user, "a")
    command = script(user.home, "command", gate.words)
    running = user.start("--dir", "b", "--all", "--exec", f"{command} {{}}")
    (pid,) = gate.wait()
    assert (folder / FILE).exists()
    (one,) = user.here("report", "--dir", "b", "--json").passed().json["at_work"]
    assert (one["name"], one["attempt"]) == ("a", 1)
    assert pid
    gate.open()
    running.end().passed()
    eventually(lambda: user.here("status", "--dir", "b", "--json").json["finished"], "its end")
    gate.close()
