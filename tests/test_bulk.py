"""What acts on many items at once: nobody begins it, nor uses its tools, before a dry run is approved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import HYPERVISOR, Shell, shell, write_task
from hypervisor import gates
from hypervisor.gates import Gate, matches, shut_for_tool
from hypervisor.hooks import pulse

#: Some type twenty commands, one after another.
pytestmark = pytest.mark.timeout(400)

ARCHIVE = "mcp__mail__archive"


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        yield made


@pytest.fixture
def phase(user: Shell) -> Path:
    """Return the batch of a bulk action on what was noted as "archive", for the task t-10."""
    write_task(user.cwd / "tasks" / "t-10.md")
    (user.cwd / ".hypervisor").mkdir()
    (user.cwd / "r.jsonl").write_text("".join(f'{{"id": "m-{n}", "subject": "s {n}"}}\n' for n in range(6)))
    user.hypervisor("chunk", "--records", "r.jsonl", "--dir", "sorted").passed()
    lines = [
        {"item": f"m-{n}", "category": "archive" if n % 2 else "keep", "rationale": "r"} for n in range(6)
    ]
    note = [*HYPERVISOR, "chunk", "note", "chunk-01", "-", "--dir", "sorted"]
    told = "\n".join(map(json.dumps, lines)).encode()
    subprocess.run(note, input=told, cwd=user.cwd, env=user.environment, check=True, capture_output=True)
    words = ("--noted", "sorted", "--as", "archive", "--bulk", ARCHIVE, "--bulk", "Bash(archive *)")
    user.hypervisor("chunk", *words, "--by", "size:2", "--dir", "act", "--task", "t-10").refused(
        2, "two folders"
    )
    user.hypervisor("chunk", *words, "--by", "size:2").refused(2, "--bulk needs a batch that is kept")
    user.hypervisor("chunk", *words, "--by", "size:2", "--task", "t-10").passed()
    return next((user.cwd / ".hypervisor/batches").iterdir())


def denied(user: Shell, tool: str = ARCHIVE, *, main: bool = True, **given: Any) -> str:
    return shut_for_tool(user.cwd / ".hypervisor", tool, given, main=main) or ""


@pytest.mark.parametrize(
    ("pattern", "tool", "command", "meant"),
    [
        (ARCHIVE, ARCHIVE, "", True),
        ("mcp__mail__*", ARCHIVE, "", True),
        ("mcp__mail__*", "mcp__mails__archive", "", False),
        ("Bash", "Bash", "ls", True),
        ("Bash(archive *)", "Bash", "archive m-1", True),
        ("Bash(archive *)", "Bash", "cd x && archive   m-1", True),
        ("Bash(archive *)", "Bash", "for i in 1 2; do\n echo $(archive m-$i); done", True),
        ("Bash(archive *)", "Bash", "git archive HEAD", False),
        ("Bash(archive *)", "Write", "archive m-1", False),
        ("Bash(archive *)", "Bash", None, False),
    ],
)
def test_a_pattern_means_a_tool_or_a_command(
    pattern: str, tool: str, command: object, *, meant: bool
) -> None:
    assert matches([pattern], tool, {"command": command}) == (pattern if meant else "")


def test_nothing_is_done_before_the_dry_run_is_approved(user: Shell, phase: Path) -> None:
    assert json.loads((phase / "manifest.json").read_text("utf-8"))["bulk"] == [ARCHIVE, "Bash(archive *)"]
    shown = user.hypervisor("checkpoint", "--task", "t-10").passed().lines
    assert shown[0].endswith("chunk-01, chunk-02; 3 items, nothing done yet")
    assert shown[1:3] == ["  archive: 3", "    m-1 s 1: r"]
    # The agent's tool, the phase's task, its chunks: whoever tries, whichever way.
    for given in ((ARCHIVE, ""), ("Bash", "archive m-1")):
        text = denied(user, given[0], command=given[1])
        assert f"is a bulk action of {phase.name}, and nobody has approved it yet" in text
        assert f"hypervisor checkpoint approve --dir {phase}" in text
    assert not denied(user, "mcp__mail__read")
    for words in (("t-10",), ("--next",)):
        refused = user.hypervisor("task", "claim", *words, "--caller", "claude")
        assert refused.code in (1, 3)
        assert "nobody has approved it yet" in refused.err
    run = user.hypervisor(
        "chunk", "run", "--task", "t-10", "--exec", "touch ran", "--checkpoint", "none", "--json"
    )
    assert (run.code, run.json["standing"], run.json["census"]["waiting"]) == (1, "open", 2)
    user.hypervisor("chunk", "note", "chunk-01", "m-1", "--category", "x", "--task", "t-10").refused(
        1, "approved"
    )
    user.hypervisor("checkpoint", "revise", "--criteria", "x", "--task", "t-10").refused(
        2, "nothing was done yet"
    )
    assert not (user.cwd / "ran").exists()

    user.hypervisor("checkpoint", "stop", "--by", "Ada", "--task", "t-10").passed()
    assert "Ada has said stop" in denied(user)
    user.hypervisor("checkpoint", "approve", "--task", "t-10").passed()
    assert not denied(user)
    user.hypervisor("task", "claim", "t-10", "--caller", "claude").passed()
    done = user.hypervisor(
        "chunk", "run", "--task", "t-10", "--exec", "touch ran", "--checkpoint", "none", "--json"
    )
    assert (done.passed().json["standing"], (user.cwd / "ran").exists()) == ("finished", True)
    assert not list((user.cwd / ".hypervisor/bulk").iterdir()), "a gate stands no longer than its batch"


def test_what_was_not_in_the_dry_run_is_not_done(user: Shell, phase: Path) -> None:
    plan = json.loads((phase / "chunks.json").read_text("utf-8"))
    assert [chunk["items"] for chunk in plan["chunks"]] == [["m-1", "m-3"], ["m-5"]]
    plan["left_out"] = plan["chunks"].pop()["items"]
    (phase / "chunks.json").write_text(json.dumps(plan), "utf-8")
    user.hypervisor("checkpoint", "approve", "--task", "t-10").passed()
    plan["chunks"].append({"id": "chunk-02", "label": "", "items": plan["left_out"]})
    (phase / "chunks.json").write_text(json.dumps({**plan, "left_out": []}), "utf-8")
    words = ("chunk", "run", "--task", "t-10", "--exec", "true", "--checkpoint", "none")
    user.hypervisor(*words).refused(1, "chunk-02", "was not in the dry run")
    plan["chunks"][:] = [{**plan["chunks"][0], "items": ["m-1", "m-3", "m-5"]}]
    (phase / "chunks.json").write_text(json.dumps(plan | {"left_out": []}), "utf-8")
    user.hypervisor(*words).refused(1, "chunk-01 has begun with 2 items")


def test_a_worker_cannot_approve(user: Shell, phase: Path) -> None:
    approve = f"hypervisor checkpoint approve --dir {phase}"
    assert "the user's word" in denied(user, "Bash", main=False, command=f"cd / && {approve}")
    assert not denied(user, "Bash", main=True, command=approve)
    assert not denied(user, "Bash", main=False, command="hypervisor checkpoint --task t-10")


def test_a_heartbeat_is_not_all_where_something_waits(tmp_path: Path) -> None:
    call = {"agent_id": "a1", "session_id": "s1", "tool_name": "Bash", "hook_event_name": "PreToolUse"}
    data = json.dumps(call).encode()
    assert pulse.is_all(data, str(tmp_path))
    gates.put(tmp_path, Gate(folder=str(tmp_path)))
    assert not pulse.is_all(data, str(tmp_path))
    after = json.dumps({**call, "hook_event_name": "PostToolUse"}).encode()
    assert pulse.is_all(after, str(tmp_path)), "what is done needs no leave"
    gates.remove(tmp_path, str(tmp_path))
    assert pulse.is_all(data, str(tmp_path))


def test_nothing_is_cut_for_a_bulk_action_while_a_checkpoint_is_open(user: Shell) -> None:
    (user.cwd / "r.jsonl").write_text('{"id": "a"}\n{"id": "b"}\n')
    user.hypervisor("chunk", "--records", "r.jsonl", "--by", "size:1", "--dir", "sorted").passed()
    user.hypervisor("chunk", "run", "--dir", "sorted", "--exec", "true")
    words = ("chunk", "--noted", "sorted", "--bulk", ARCHIVE, "--dir", "act")
    user.hypervisor(*words).refused(1, "its own checkpoints are not done (open)")
    user.hypervisor("checkpoint", "approve", "--dir", "sorted").passed()
    user.hypervisor("chunk", "run", "--dir", "sorted", "--checkpoint", "none").passed()
    user.hypervisor(*words, "--as", "archive").refused(2, "nothing is noted as archive", "none")
    assert not (user.cwd / "act").exists()


@pytest.mark.parametrize("at", ["put", "keep", "open", "begin_dry_run"])
def test_killed_while_it_is_made_it_is_shut_and_made_by_doing_it_again(user: Shell, at: str) -> None:
    (user.cwd / "r.jsonl").write_text('{"id": "a"}\n')
    words = ["chunk", "--records", "r.jsonl", "--bulk", ARCHIVE, "--dir", "act"]
    code = f"""
import os
from hypervisor.cli import cli_chunk; from hypervisor import gates
from hypervisor.review.chunked import ChunkedBatch
def dies(act):
    def wrapped(*a, **k):
        act(*a, **k); os._exit(9)
    return wrapped
where = {{"put": gates, "begin_dry_run": cli_chunk}}.get({at!r}, ChunkedBatch)
setattr(where, {at!r}, dies(getattr(where, {at!r})))
from hypervisor.cli.cli import main
main({words!r})
"""
    killed = subprocess.run(
        [sys.executable, "-c", code], cwd=user.cwd, capture_output=True, check=False,
        env={**user.environment, "PYTHONPATH": str(Path(HYPERVISOR[1]).parent)},
    )  # fmt: skip
    assert killed.returncode == 9, killed.stderr
    assert Gate(folder=str(user.cwd / "act")).why_shut()
    if at not in ("put", "keep"):
        assert denied(user)
    run = user.hypervisor("chunk", "run", "--dir", "act", "--exec", "touch ran")
    assert run.code != 0
    assert user.hypervisor(*words).code in (0, 3)
    assert denied(user)
    assert not (user.cwd / "ran").exists()


def test_a_gate_whose_batch_is_gone_or_damaged_keeps_no_tool_from_anybody(user: Shell, phase: Path) -> None:
    (phase / "manifest.json").write_text("{", "utf-8")
    assert not denied(user)
    os.rename(phase, phase.with_name("gone"))
    assert not denied(user)
    user.hypervisor("task", "claim", "t-10", "--caller", "claude").passed()
    (user.cwd / ".hypervisor/bulk/x.json").write_text("{", "utf-8")
    assert not denied(user)
    assert next(gates.gates_of(user.cwd / ".hypervisor")).folder == str(phase)
