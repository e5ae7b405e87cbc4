"""Chunk by chunk: nothing starts while a checkpoint is open, whoever asks, whatever was killed."""

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

from commands import HYPERVISOR, Gate, Shell, eventually, script, shell
from hypervisor.checkpoints import Decision, Wave, standing
from hypervisor.core.model import Outcome, Report
from hypervisor.review.chunkrun import judged

#: Some type twenty commands, one after another.
pytestmark = pytest.mark.timeout(400)

#: Notes each item of its chunk: "keep" or what the criteria say of even ones.
_CLASSIFY = f"""
import json, os, subprocess, sys
hypervisor = {list(HYPERVISOR)!r}
words = [*hypervisor, "chunk", "items", "--left"]
left = subprocess.run(words, capture_output=True, text=True).stdout.split()
with open(os.environ["HYPERVISOR_CHUNK_ID"] + ".seen", "a") as seen:
    seen.write(" ".join(left) + "\\n")
items = [json.loads(line)["id"] for line in open(sys.argv[1])]
assert set(left) <= set(items)
category = lambda item: os.environ["HYPERVISOR_CRITERIA"].strip() if int(item[2:]) % 2 == 0 else "keep"
lines = [json.dumps({{"item": item, "category": category(item), "rationale": "as told"}}) for item in left]
note = [*hypervisor, "chunk", "note", os.environ["HYPERVISOR_CHUNK_ID"], "-"]
sys.exit(subprocess.run(note, input="\\n".join(lines), text=True).returncode)
"""


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        yield made


def cut(user: Shell, months: int = 4, each: int = 4) -> Path:
    """Cut a few mails into chunks by month; return the batch's folder."""
    lines = [
        {"id": f"m-{number:02d}", "date": f"2025-{number % months + 1:02d}-03", "subject": f"about {number}"}
        for number in range(months * each)
    ]
    (user.cwd / "mail.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    user.hypervisor("chunk", "--records", "mail.jsonl", "--by", "month:date", "--dir", "work").passed()
    (user.cwd / "classify.py").write_text(_CLASSIFY, "utf-8")
    return user.cwd / "work"


CLASSIFY = f"{sys.executable} classify.py {{}}"


def run(user: Shell, *words: str, code: int = 1) -> dict[str, Any]:
    done = user.hypervisor("chunk", "run", "--dir", "work", "--json", *words, timeout=120)
    assert done.code == code, (done.code, done.out, done.err)
    found: dict[str, Any] = done.json
    return found


def done_chunks(found: dict[str, Any]) -> int:
    return int(found["census"]["success"])


# ------------------------------------------------------------------------- pure


def _wave(*decisions: str, checkpoint: bool = True, midway: bool = False) -> Wave:
    told = [
        Decision(verdict=verdict, by="x", at="", chunks=("a",), midway=midway and verdict == "stop")  # type: ignore[arg-type]
        for verdict in decisions
    ]
    return Wave(number=1, chunks=("a", "b"), criteria="", checkpoint=checkpoint, decisions=tuple(told))


@pytest.mark.parametrize(
    ("waves", "done", "expected"),
    [
        ([], "", ("next", "abc")),
        ([_wave()], "", ("run", "ab")),
        ([_wave()], "a", ("run", "b")),
        ([_wave()], "ab", ("open", "")),
        ([_wave(checkpoint=False)], "ab", ("next", "c")),
        ([_wave("approve")], "ab", ("next", "c")),
        ([_wave("approve")], "abc", ("finished", "")),
        ([_wave("stop")], "ab", ("stopped", "")),
        ([_wave("stop")], "a", ("stopped", "b")),
        ([_wave("stop", "approve")], "ab", ("next", "c")),
        ([_wave("stop", "approve", midway=True)], "a", ("run", "b")),
        ([_wave("stop", "approve", midway=True)], "ab", ("open", "")),
        ([_wave("revise")], "ab", ("redo", "a")),
        ([_wave("stop", "revise")], "ab", ("redo", "a")),
        ([_wave("approve")], "ac", ("next", "b")),
    ],
)
def test_what_may_start_follows_from_waves_and_decisions_alone(
    waves: list[Wave], done: str, expected: tuple[str, str]
) -> None:
    at = standing(waves, tuple("abc"), lambda chunk: chunk in done)
    assert (at.what, "".join(at.chunks)) == expected


@pytest.mark.parametrize(
    ("status", "noted", "expected"),
    [
        (Outcome.SUCCESS, 5, Outcome.SUCCESS),
        (Outcome.SUCCESS, 0, Outcome.SUCCESS),
        (Outcome.SUCCESS, 4, Outcome.FAILED),
        (Outcome.BLOCKED, 4, Outcome.BLOCKED),
    ],
)
def test_a_command_that_passes_over_items_has_failed(status: Outcome, noted: int, expected: Outcome) -> None:
    report = judged(Report(status=status, outcome="exit 0"), noted, 5)
    assert report.status is expected
    assert report.evidence == {"items": 5, "noted": noted}


# ------------------------------------------------------------------------- runs


@pytest.mark.acceptance
def test_waves_wait_for_a_decision_are_done_again_and_stop(user: Shell) -> None:
    folder = cut(user)
    first = run(user, "-j", "2", "--criteria", "drop", "--exec", CLASSIFY)
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
    user.hypervisor("chunk", "run", "--dir", "work", "--criteria", "other").refused(2, "checkpoint revise")
    user.worker("--dir", "work", "--all", "--exec", "true").refused(2, "hypervisor chunk run")

    # again, with other criteria
    user.hypervisor("checkpoint", "revise", "--dir", "work").refused(2, "--criteria")
    user.hypervisor("checkpoint", "revise", "--dir", "work", "--criteria", "trash").passed()
    user.hypervisor("checkpoint", "approve", "--dir", "work").refused(1, "has decided already")
    second = run(user)
    assert {name: one["count"] for name, one in second["checkpoint"]["categories"].items()} == {
        "keep": 4,
        "trash": 4,
    }
    for revision, category in (("", "trash"), (".r1", "drop")):
        summary = json.loads((folder / f"chunks/chunk-01{revision}-summary.json").read_text("utf-8"))
        assert summary["categories"] == {category: 4}
        assert f"**{category}**" in (folder / f"chunks/chunk-01{revision}-details.md").read_text("utf-8")

    # stop, go on
    user.hypervisor("checkpoint", "stop", "--dir", "work", "--by", "Ada").passed()
    stopped = user.hypervisor("chunk", "run", "--dir", "work")
    assert (stopped.code, "stopped by Ada" in stopped.out) == (1, True)
    user.hypervisor("checkpoint", "approve", "--dir", "work").passed()
    third = run(user, "-j", "1")
    assert [row["id"] for row in third["checkpoint"]["chunks"]] == ["chunk-03"]
    assert (
        third["checkpoint"]["categories"]["trash"]["count"] == 4 or third["checkpoint"]["categories"]["keep"]
    )
    user.hypervisor("checkpoint", "approve", "--dir", "work").passed()
    last = run(user, "--checkpoint", "none", code=0)
    assert (last["standing"], done_chunks(last)) == ("finished", 4)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text("utf-8").splitlines()]
    told = [event.get("verdict", "opened") for event in events]
    assert told == ["opened", "revise", "opened", "stop", "approve", "opened", "approve"]
    user.hypervisor("receipts", "verify", "--dir", "work").passed()


@pytest.mark.acceptance
def test_late_items_are_run_and_what_was_done_is_not_run_again(user: Shell) -> None:
    folder = cut(user, 2)
    run(user, "--checkpoint", "none", "--criteria", "drop", "--exec", CLASSIFY, code=0)
    with (user.cwd / "mail.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "m-90", "date": "2025-01-09", "subject": "late"}\n')
    user.hypervisor("chunk", "--records", "mail.jsonl", "--dir", "work").passed()
    assert done_chunks(run(user, code=0)) == 3
    seen = {path.stem: path.read_text("utf-8").count("\n") for path in user.cwd.glob("*.seen")}
    assert seen == {"chunk-01": 1, "chunk-02": 1, "chunk-03": 1}
    plan = json.loads((folder / "chunks.json").read_text("utf-8"))
    plan["chunks"][0]["items"].pop()
    (folder / "chunks.json").write_text(json.dumps(plan), "utf-8")
    user.hypervisor("chunk", "run", "--dir", "work").refused(1, "chunk-01 has begun with 4 items")


@pytest.mark.acceptance
def test_with_first_only_the_first_wave_waits(user: Shell) -> None:
    cut(user)
    first = run(user, "-j", "2", "--checkpoint", "first", "--exec", "true")
    assert (first["standing"], done_chunks(first), first["checkpoint"]["noted"]) == ("open", 2, 0)
    user.hypervisor("checkpoint", "approve", "--dir", "work").passed()
    assert done_chunks(run(user, code=0)) == 4


@pytest.mark.acceptance
def test_a_chunk_that_failed_is_shown_and_retried_where_it_was(user: Shell) -> None:
    folder = cut(user, 1)
    note = " ".join([*HYPERVISOR, "chunk", "note", "chunk-01", "--category", "keep"])
    half = script(
        user.cwd, "half", f"{note} m-00; test -e mended && {note} m-01 && {note} m-02 && {note} m-03; true"
    )
    first = run(user, "--exec", half)
    assert first["checkpoint"]["chunks"][0]["status"] == "failed"
    assert "noted 1 of 4 items" in first["checkpoint"]["chunks"][0]["outcome"]
    (user.cwd / "mended").touch()
    user.hypervisor("retry", "--dir", "work").passed()
    second = run(user)
    assert (second["standing"], second["checkpoint"]["noted"]) == ("open", 4)
    assert not list((folder / "chunks").glob("*.r1-*")), "a retry goes on with the notes that there are"


@pytest.mark.acceptance
def test_a_worker_of_before_can_note_no_more(user: Shell) -> None:
    cut(user, 1)
    run(user, "--exec", "true")
    user.hypervisor("checkpoint", "revise", "--dir", "work", "--criteria", "other").passed()
    user.extra.update(
        HYPERVISOR_CHUNK=str(user.cwd / "work/chunks/chunk-01.jsonl"), HYPERVISOR_CHUNK_ID="chunk-01",
        HYPERVISOR_CHUNK_REVISION="1",
    )  # fmt: skip
    words = ("chunk", "note", "chunk-01", "m-00", "--category", "keep")
    refused = user.hypervisor(*words)
    user.extra["HYPERVISOR_CHUNK_REVISION"] = "2"
    user.hypervisor(*words).passed()
    user.extra["HYPERVISOR_CHUNK_REVISION"] = "1"
    user.hypervisor(*words[:3], "m-01", *words[4:]).refused(1, "opened again")
    assert refused.code == 1, "also before the new worker has begun"


@pytest.mark.acceptance
def test_stopping_in_the_middle_of_a_wave_begins_no_more_of_it(user: Shell) -> None:
    cut(user, 3)
    gate = Gate(user.cwd, "gate")
    try:
        running = user.start_hypervisor(
            "chunk", "run", "--dir", "work", "--checkpoint", "none",
            "--exec", script(user.cwd, "wait", gate.words),
        )  # fmt: skip
        gate.wait()
        user.hypervisor("checkpoint", "approve", "--dir", "work").refused(1, "not open yet")
        user.hypervisor("checkpoint", "revise", "--dir", "work", "--criteria", "x").refused(
            1, "no result yet"
        )
        user.hypervisor("checkpoint", "stop", "--dir", "work").passed()
        gate.open()
        ended = running.end()
        assert ended.code == 1
        assert "1 success" in ended.out
        assert "2 waiting" in ended.out
        user.hypervisor("checkpoint", "approve", "--dir", "work").passed()
        gate.open(2)
        assert done_chunks(run(user, code=0)) == 3
    finally:
        gate.close()


@pytest.mark.acceptance
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_run_that_is_killed_goes_on_where_it_was(user: Shell, jobs: str) -> None:
    folder = cut(user, 3)
    gate = Gate(user.cwd, "gate")
    try:
        note = " ".join([*HYPERVISOR, "chunk", "note", "$HYPERVISOR_CHUNK", "--category", "keep"])
        items = " ".join([*HYPERVISOR, "chunk", "items", "--left"])
        command = script(
            user.cwd, "work.sh",
            f'{items} | while read -r item; do {note} "$item"; [ -e free ] || {{ {gate.words}; }}; done',
        )  # fmt: skip
        running = user.start_hypervisor("chunk", "run", "--dir", "work", "-j", jobs, "--exec", command)
        gate.wait(int(jobs))
        running.kill()
        (user.cwd / "free").touch()
        gate.open(int(jobs) * 4)
        found = run(user)
        assert found["standing"] == "open"
        assert done_chunks(found) == int(jobs)
        assert found["checkpoint"]["noted"] == 4 * int(jobs)
        for chunk in found["checkpoint"]["chunks"]:
            lines = (folder / "chunks" / f"{chunk['id']}-notes.jsonl").read_text("utf-8").splitlines()
            assert len(lines) == 4, "no item was noted twice"
    finally:
        gate.close()


_CUTS = ("decided", "reopened", "queued", "begun")


@pytest.mark.acceptance
@pytest.mark.parametrize("at", _CUTS)
def test_a_kill_between_any_two_steps_of_doing_it_again_changes_nothing(user: Shell, at: str) -> None:
    folder = cut(user, 2)
    run(user, "-j", "2", "--criteria", "drop", "--exec", CLASSIFY)
    user.hypervisor(
        "checkpoint", "revise", "--dir", "work", "--criteria", "trash", "--chunk", "chunk-02"
    ).passed()
    code = f"""
import os, sys
from hypervisor.review import chunkrun
from hypervisor import checkpoints
from hypervisor.core import durable
at = {at!r}
def dies(*_, **__): os._exit(9)
def then_dies(act):
    def wrapped(*a, **k):
        act(*a, **k); os._exit(9)
    return wrapped
if at == "decided": chunkrun.retry = dies
if at == "reopened": chunkrun.retry = then_dies(chunkrun.retry)
if at == "queued": checkpoints.durable.write_once = dies
if at == "begun": checkpoints.Waves.begin = then_dies(checkpoints.Waves.begin)
from hypervisor.cli.cli import main
main(["chunk", "run", "--dir", "work"])
"""
    killed = subprocess.run(
        [sys.executable, "-c", code], cwd=user.cwd, capture_output=True, check=False,
        env={**user.environment, "PYTHONPATH": str(Path(HYPERVISOR[1]).parent)},
    )  # fmt: skip
    assert killed.returncode == 9, killed.stderr
    found = run(user)
    assert [row["id"] for row in found["checkpoint"]["chunks"]] == ["chunk-02"]
    assert found["checkpoint"]["categories"].keys() == {"keep", "trash"} or found["checkpoint"]["noted"] == 4
    assert len(list((folder / "waves").glob("????.json"))) == 2
    assert (user.cwd / "chunk-02.seen").read_text("utf-8").count("\n") == 2
    assert (user.cwd / "chunk-01.seen").read_text("utf-8").count("\n") == 1


@pytest.mark.acceptance
def test_of_two_who_decide_at_once_one_has_decided(user: Shell) -> None:
    cut(user, 2)
    run(user, "--exec", "true")
    words = [
        ["approve"], ["stop"], ["revise", "--criteria", "x"], ["approve"],
    ]  # fmt: skip
    running = [user.start_hypervisor("checkpoint", *one, "--dir", "work") for one in words]
    ended = [one.end() for one in running]
    decided = [one for one in ended if one.code == 0]
    # After a stop another may follow.
    assert 1 <= len(decided) <= 2, [(one.code, one.err) for one in ended]
    assert len(list((user.cwd / "work/waves").glob("*.decision-*"))) == len(decided)


@pytest.mark.acceptance
def test_without_a_terminal_it_waits_if_it_is_told_to(user: Shell) -> None:
    cut(user, 2)
    running = user.start_hypervisor("chunk", "run", "--dir", "work", "--wait", "--exec", "true")
    running.line("open: `hypervisor checkpoint")
    user.hypervisor("checkpoint", "approve", "--dir", "work").passed()
    eventually((user.cwd / "work/waves/0002.json").exists, "the second wave")
    eventually(
        lambda: '"standing": "open"' in user.hypervisor("checkpoint", "--dir", "work", "--json").out,
        "its end",
    )
    user.hypervisor("checkpoint", "approve", "--dir", "work").passed()
    assert running.end().code == 0


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


@pytest.mark.acceptance
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_at_a_terminal_it_asks(user: Shell, terminal: Callable[..., Terminal]) -> None:
    cut(user, 3)
    one = terminal("chunk", "run", "--dir", "work", "--criteria", "drop", "--exec", CLASSIFY)
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
    assert user.hypervisor("checkpoint", "--dir", "work", "--json").json["standing"] == "open"
    user.hypervisor("checkpoint", "approve", "--dir", "work").passed()
    assert run(user, code=0)["census"]["success"] == 3
