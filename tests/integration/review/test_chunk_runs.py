"""Runs of chunks as commands: killed, stopped, waited for, asked at a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chunk_place import CLASSIFY, mails
from commands import HYPERVISOR, Gate, Shell, eventually, script

#: Some start twenty processes, one after another.
pytestmark = pytest.mark.timeout(300)

CLASSIFY_COMMAND = f"{sys.executable} classify.py {{}}"


def cut(user: Shell, months: int = 4) -> Path:
    """Cut a few mails into chunks by month; return the batch's folder."""
    mails(user.cwd / "mail.jsonl", months)
    (user.cwd / "classify.py").write_text(CLASSIFY, "utf-8")
    user.here("chunk", "--records", "mail.jsonl", "--by", "month:date", "--dir", "work").passed()
    return user.cwd / "work"


def run(user: Shell, *words: str, code: int = 1) -> dict[str, Any]:
    done = user.here("chunk", "run", "--dir", "work", "--json", *words)
    assert done.code == code, (done.code, done.out, done.err)
    found: dict[str, Any] = done.json
    return found


def done_chunks(found: dict[str, Any]) -> int:
    return int(found["census"]["success"])


@pytest.mark.slow
def test_waves_wait_for_a_decision_are_done_again_and_stop(user: Shell) -> None:
    folder = cut(user)
    first = run(user, "-j", "2", "--criteria", "drop", "--exec", CLASSIFY_COMMAND)
    assert first["standing"] == "open"
    assert done_chunks(first) == 2
    assert [row["id"] for row in first["checkpoint"]["chunks"]] == ["chunk-01", "chunk-02"]
    assert {name: one["count"] for name, one in first["checkpoint"]["categories"].items()} == {
        "drop": 4,
        "keep": 4,
    }
    sample = first["checkpoint"]["categories"]["drop"]["samples"][0]
    assert sample == {"item": "m-00", "about": "2025-01-03 | about 0", "rationale": "as told"}
    assert done_chunks(run(user)) == 2, "nothing started"
    user.here("chunk", "run", "--dir", "work", "--criteria", "other").refused(2, "checkpoint revise")

    # again, with other criteria
    user.here("checkpoint", "revise", "--dir", "work").refused(2, "--criteria")
    user.here("checkpoint", "revise", "--dir", "work", "--criteria", "trash").passed()
    user.here("checkpoint", "approve", "--dir", "work").refused(1, "has decided already")
    second = run(user)
    assert {name: one["count"] for name, one in second["checkpoint"]["categories"].items()} == {
        "keep": 4,
        "trash": 4,
    }
    summary = json.loads((folder / "chunk-01-summary.json").read_text("utf-8"))
    assert (summary["categories"], summary["revision"]) == ({"trash": 4}, 2)
    assert "**trash**" in (folder / "chunk-01-details.md").read_text("utf-8")

    # stop, go on
    user.here("checkpoint", "stop", "--dir", "work", "--by", "Ada").passed()
    stopped = user.here("chunk", "run", "--dir", "work")
    assert (stopped.code, "stopped by Ada" in stopped.out) == (1, True)
    user.here("checkpoint", "approve", "--dir", "work").passed()
    third = run(user, "-j", "1")
    assert [row["id"] for row in third["checkpoint"]["chunks"]] == ["chunk-03"]
    user.here("checkpoint", "approve", "--dir", "work").passed()
    last = run(user, "--checkpoint", "none", code=0)
    assert (last["standing"], done_chunks(last)) == ("finished", 4)
    user.here("receipts", "verify", "--dir", "work").passed()


def test_a_chunk_that_failed_is_shown_and_retried_where_it_was(user: Shell) -> None:
    cut(user, 1)
    note = " ".join([*HYPERVISOR, "chunk", "note", "chunk-01", "--category", "keep"])
    half = script(
        user.cwd, "half", f"{note} m-00; test -e mended && {note} m-01 && {note} m-02 && {note} m-03; true"
    )
    first = run(user, "--exec", half)
    assert first["checkpoint"]["chunks"][0]["status"] == "failed"
    assert "noted 1 of 4 items" in first["checkpoint"]["chunks"][0]["outcome"]
    (user.cwd / "mended").touch()
    user.here("retry", "--dir", "work").passed()
    second = run(user)
    assert (second["standing"], second["checkpoint"]["noted"]) == ("open", 4)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_run_that_is_killed_goes_on_where_it_was(user: Shell, jobs: str) -> None:
    cut(user, 3)
    gate = Gate(user.cwd, "gate")
    try:
        note = " ".join([*HYPERVISOR, "chunk", "note", "$HYPERVISOR_CHUNK", "--category", "keep"])
        items = " ".join([*HYPERVISOR, "chunk", "items", "--left"])
        command = script(
            user.cwd, "work.sh",
            f'{items} | while read -r item; do {note} "$item" >> notes; '
            f"[ -e free ] || {{ {gate.words}; }}; done",
        )  # fmt: skip
        running = user.start_hypervisor("chunk", "run", "--dir", "work", "-j", jobs, "--exec", command)
        gate.wait(int(jobs))
        running.kill()
        (user.cwd / "free").touch()
        found = run(user)
        assert found["standing"] == "open"
        assert done_chunks(found) == int(jobs)
        assert found["checkpoint"]["noted"] == 4 * int(jobs)
        assert (user.cwd / "notes").read_text().count("noted") == 4 * int(jobs), "no item was noted twice"
    finally:
        gate.close()


def test_a_second_run_beside_the_first_takes_nothing_twice(user: Shell) -> None:
    cut(user, 4)
    command = script(user.cwd, "count", "echo x >> $HYPERVISOR_CHUNK_ID.runs; sleep 0.05")
    words = ("chunk", "run", "--dir", "work", "-j", "2", "--checkpoint", "none", "--exec", command)
    first = user.start_hypervisor(*words)
    eventually(lambda: list(user.cwd.glob("*.runs")), "the first chunk")
    second = user.start_hypervisor(*words)
    assert [one.end(60).code for one in (first, second)] == [0, 0]
    assert [path.read_text() for path in sorted(user.cwd.glob("*.runs"))] == ["x\n"] * 4


def test_without_a_terminal_it_waits_if_it_is_told_to(user: Shell) -> None:
    cut(user, 2)
    running = user.start_hypervisor("chunk", "run", "--dir", "work", "--wait", "--exec", "true")
    running.line("waiting for a decision: `hypervisor checkpoint")
    user.here("checkpoint", "approve", "--dir", "work").passed()

    def second_wave_is_open() -> bool:
        said = user.here("checkpoint", "--dir", "work", "--json").json
        return bool(said["standing"] == "open" and said["checkpoint"] == 2)

    eventually(second_wave_is_open, "the second wave")
    user.here("checkpoint", "approve", "--dir", "work").passed()
    assert running.end().code == 0


@pytest.mark.parametrize("at", ["_add_gate", "make_chunked", "ChunkedBatch.keep", "begin_dry_run"])
def test_killed_while_it_is_made_it_is_shut_and_made_by_doing_it_again(user: Shell, at: str) -> None:
    (user.cwd / "r.jsonl").write_text('{"id": "a"}\n')
    words = ["chunk", "--records", "r.jsonl", "--bulk", "mcp__mail__archive", "--dir", "act"]
    code = f"""
import os
from hypervisor.cli import chunk
def dies(act):
    def wrapped(*a, **k):
        act(*a, **k); os._exit(9)
    return wrapped
where, name = chunk, {at!r}
if "." in name:
    where, name = chunk.ChunkedBatch, name.split(".")[1]
setattr(where, name, dies(getattr(where, name)))
from hypervisor.cli.cli import main
main({words!r})
"""
    killed = subprocess.run(
        [sys.executable, "-c", code], cwd=user.cwd, capture_output=True, check=False,
        env={**user.environment, "PYTHONPATH": str(Path(HYPERVISOR[1]).parent)},
    )  # fmt: skip
    assert killed.returncode == 9, killed.stderr
    run = user.here("chunk", "run", "--dir", "act", "--exec", "touch ran")
    assert run.code != 0
    assert user.here(*words).code in (0, 3)
    assert (
        user.here("chunk", "run", "--dir", "act", "--exec", "touch ran", "--json").json["standing"] == "open"
    )
    assert not (user.cwd / "ran").exists()


# --------------------------------------------------------------------- terminal


class Terminal:
    """A command at a terminal of its own."""

    def __init__(self, user: Shell, *words: str) -> None:
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            os.chdir(user.cwd)
            os.execve(HYPERVISOR[0], [*HYPERVISOR, *words], {**user.environment, "TERM": "dumb"})
        self.said = ""

    def expect(self, text: str) -> None:
        """Wait until it says *text*, after what was waited for before."""

        def look() -> bool:
            if select.select([self._descriptor], [], [], 0.05)[0]:
                self.said += os.read(self._descriptor, 65536).decode()
            return text in self.said

        eventually(look, text, seconds=60)
        self.said = self.said.partition(text)[2]

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self._descriptor, text.encode() + b"\n")

    def end(self) -> int:
        """Wait for its end; return its exit code."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if select.select([self._descriptor], [], [], 0.05)[0]:
                try:
                    self.said += os.read(self._descriptor, 65536).decode()
                except OSError:
                    break
        os.close(self._descriptor)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal(user: Shell) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def start(*words: str) -> Terminal:
        made.append(Terminal(user, *words))
        return made[-1]

    yield start
    for one in made:
        try:
            os.kill(one.pid, signal.SIGKILL)
            os.waitpid(one.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            continue


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_at_a_terminal_it_asks(user: Shell, terminal: Callable[..., Terminal]) -> None:
    cut(user, 3)
    one = terminal("chunk", "run", "--dir", "work", "--criteria", "drop", "--exec", CLASSIFY_COMMAND)
    one.expect("checkpoint 1: chunk-01; 4 items, 4 noted")
    one.expect("[s]top?")
    one.type("what")
    one.expect("g, r or s")
    one.expect("[s]top?")
    one.type("r")
    one.expect("new criteria")
    one.type("trash")
    one.expect("checkpoint 2: chunk-01")
    one.expect("[s]top?")
    one.type("g")
    one.expect("checkpoint 3: chunk-02")
    one.expect("[s]top?")
    one.type("s")
    assert one.end() == 1
    assert "stopped by" in one.said

    two = terminal("chunk", "run", "--dir", "work")
    two.expect("stopped by")
    two.expect("[s]top?")
    two.type("g")
    two.expect("checkpoint 4: chunk-03")
    two.expect("[s]top?")
    os.kill(two.pid, signal.SIGINT)
    assert two.end() == 1
    assert user.here("checkpoint", "--dir", "work", "--json").json["standing"] == "open"
    user.here("checkpoint", "approve", "--dir", "work").passed()
    assert run(user, code=0)["census"]["success"] == 3
