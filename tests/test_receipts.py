"""Receipts of what cannot be undone: one for each item, all there after a kill, compared with the ledger."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Shell, eventually, shell, write_task
from hypervisor.ledger import Entry, in_doubt
from hypervisor.review.trail import compare
from hypervisor.tasks.receipts import receipts_in, with_receipt
from hypervisor.tasks.tasks import append_receipt, begin_receipt, mend_receipts

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        yield made


@pytest.fixture
def task(user: Shell) -> Path:
    (user.cwd / ".hypervisor").mkdir()
    return write_task(user.cwd / "tasks" / "t-1.md")


def lines(path: Path) -> list[str]:
    return receipts_in(path.read_text("utf-8"), 0)


# ------------------------------------------------------------------------ ledger


def test_an_item_has_one_receipt_however_often_it_is_told(task: Path) -> None:
    for _ in range(2):
        append_receipt(task, "Archived: a | b", "m-1")
        append_receipt(task, "Archived: a | b", "m-2")  # another mail that looks the same
        append_receipt(task, "- Sent the summary")
    append_receipt(task, "Archived: something else", "m-1")
    assert lines(task) == ["- Archived: a | b", "- Archived: a | b", "- Sent the summary"]


def test_what_was_begun_is_in_doubt_until_it_has_its_receipt(task: Path) -> None:
    assert begin_receipt(task, "m-1") == "go"
    assert begin_receipt(task, "m-1") == "in doubt"
    assert begin_receipt(task, "m-1", again=True) == "go"
    append_receipt(task, "the server said no", "m-1", failed=True)
    assert begin_receipt(task, "m-1") == "go"
    append_receipt(task, "archived", "m-1")
    assert begin_receipt(task, "m-1") == begin_receipt(task, "m-1", again=True) == "done"
    assert lines(task) == ["- the server said no", "- archived"]


def test_a_file_of_no_project_keeps_the_same_line_once(tmp_path: Path) -> None:
    path = write_task(tmp_path / "t.md")
    for _ in range(2):
        append_receipt(path, "sent")
    assert lines(path) == ["- sent"]
    assert [one.name for one in tmp_path.iterdir() if one.name != "home"] == ["t.md"]


def test_a_receipt_that_did_not_come_into_the_body_is_put_there_by_the_next_one(
    task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_receipt(task, "one", "m-1")
    before = task.read_bytes()
    append_receipt(task, "two", "m-2")
    task.write_bytes(before)  # as if its writer had died after the ledger
    append_receipt(task, "three", "m-3")
    assert lines(task) == ["- one", "- two", "- three"]
    task.write_bytes(before)
    mend_receipts(task)
    assert lines(task) == ["- one", "- two", "- three"]


_L = [Entry(item=f"m-{n}", phase="done", line=f"- Archived: 2025-11-0{n} | x | y") for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("body", "ledger", "expected"),
    [
        ([one.line for one in _L], _L, []),
        ([_L[2].line, _L[0].line, _L[1].line], _L, []),
        ([_L[0].line, _L[1].line], _L, ["missing"]),
        ([one.line for one in [*_L, _L[0]]], _L, ["double"]),
        ([_L[0].line, _L[1].line, "- Archived: 2025-12-03 | x | y"], _L, ["changed"]),
        ([one.line for one in _L] + ["- paid the bill"], _L, ["foreign"]),
        ([one.line for one in _L], [*_L, Entry(item="m-4", phase="begun")], ["in doubt"]),
        ([], [Entry(item="m-4", phase="begun"), Entry(item="m-4", phase="failed", line="- no")], ["missing"]),
        ([_L[0].line] * 2, [_L[0], Entry(item="z", phase="done", line=_L[0].line)], []),
    ],
)
def test_what_does_not_agree_is_named(body: list[str], ledger: list[Entry], expected: list[str]) -> None:
    assert [kind for kind, _ in compare(body, ledger)] == expected


def test_receipts_are_read_back_wherever_they_were_put() -> None:
    for text in (
        "",
        "x",
        "```\nopen",
        "## Receipts\n\n- a",
        "## Receipts\n- a\n\n## Next\n",
        "## Receipts\r\n- a\r\n",
    ):
        more = with_receipt(with_receipt(text, 0, "- b"), 0, "- c")
        assert receipts_in(more, 0) == [*(["- a"] if "- a" in text else []), "- b", "- c"], text


# ---------------------------------------------------------------------- commands


def test_verify_names_a_tampered_body(user: Shell, task: Path) -> None:
    user.hypervisor("receipts", "begin", "t-1", "m-1").passed()
    user.hypervisor("receipts", "begin", "t-1", "m-1").refused(1, "m-1", "begun before", "--again")
    user.hypervisor("task", "receipt", "t-1", "Archived: 2025-11-03 | a | b", "--item", "m-1").passed()
    assert user.hypervisor("receipts", "begin", "t-1", "m-1").code == 3
    user.hypervisor("task", "receipt", "t-1", "Archived: 2025-11-04 | c | d", "--item", "m-2").passed()
    assert user.hypervisor("receipts", "verify", "t-1").passed().lines == ["2 receipts: all agree"]
    whole = task.read_text("utf-8")
    task.write_text(whole.replace("2025-11-03", "2025-11-13"), "utf-8")
    told = user.hypervisor("receipts", "verify", "t-1", "--json")
    assert told.code == 1
    assert [(one["where"], one["kind"]) for one in told.json["mismatches"]] == [("t-1", "changed")]
    assert "m-1" in told.json["mismatches"][0]["text"]
    task.write_text(whole.replace("- Archived: 2025-11-04 | c | d\n", ""), "utf-8")
    assert user.hypervisor("receipts", "verify", "t-1").lines[-1] == "1 receipts: 1 missing"
    assert user.hypervisor("receipts", "verify", "t-1", "--mend").passed().lines == ["2 receipts: all agree"]
    assert task.read_text("utf-8") == whole


def test_a_task_that_ended_in_doubt_or_without_the_receipts_it_asks_for_is_named(
    user: Shell, task: Path
) -> None:
    write_task(user.cwd / "tasks" / "t-2.md", receipts="[mcp__mail__*]")
    user.hypervisor("receipts", "begin", "t-1", "m-9").passed()
    for name in ("t-1", "t-2"):
        user.hypervisor("task", "claim", name, "--caller", "claude").passed()
        user.hypervisor("task", "complete", name, "--outcome", "all done", "--caller", "claude").passed()
    assert "ended in doubt" in user.hypervisor("receipts", "verify", "t-1").out
    assert "no receipts" in user.hypervisor("receipts", "verify", "t-2").out


def test_notes_and_summaries_of_chunks_are_compared(user: Shell, task: Path) -> None:
    (user.cwd / "r.jsonl").write_text("".join(f'{{"id": "m-{n}"}}\n' for n in range(3)), "utf-8")
    user.hypervisor("chunk", "--records", "r.jsonl", "--task", "t-1").passed()
    for number in range(3):
        user.hypervisor(
            "chunk", "note", "chunk-01", f"m-{number}", "--category", "keep", "--task", "t-1"
        ).passed()
    folder = next((user.cwd / ".hypervisor/batches").iterdir())
    assert (
        user.hypervisor("receipts", "verify", folder.name).passed().out == "0 receipts, 3 notes: all agree\n"
    )
    summary = folder / "chunks/chunk-01-summary.json"
    summary.write_text(summary.read_text("utf-8").replace("keep", "drop"), "utf-8")
    details = folder / "chunks/chunk-01-details.md"
    details.write_text(details.read_text("utf-8") + "- more\n", "utf-8")
    told = user.hypervisor("receipts", "verify", "--json").json
    assert [one["kind"] for one in told["mismatches"]] == ["summary", "details"]


# ------------------------------------------------------------------------- kills

#: Does something that cannot be undone (a line in a file, synced) for each item, with begin and receipt.
ACTOR = """
import os, sys
from pathlib import Path
from hypervisor.tasks.tasks import append_receipt, begin_receipt
task, done, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
acted = set(open(done).read().split()) if os.path.exists(done) else set()  # the tool itself knows
with open(done, "a") as file:
    print("ready", flush=True)
    for number in range(count):
        item = f"m-{number:03d}"
        leave = begin_receipt(task, item)
        if leave == "done":
            continue
        if leave == "in doubt":
            leave = "acted" if item in acted else begin_receipt(task, item, again=True)
        if leave == "go":
            file.write(item + "\\n"); file.flush(); os.fsync(file.fileno())
        append_receipt(task, f"Archived: 2025-11-03 | a{number}@b.example | Invoice {number}", item)
"""


def act(user: Shell, task: Path, done: Path, count: int) -> subprocess.Popen[bytes]:
    """Start the worker that acts."""
    return subprocess.Popen(
        [sys.executable, "-c", ACTOR, str(task), str(done), str(count)],
        cwd=SCRIPTS, env={**user.environment}, stdout=subprocess.PIPE,
    )  # fmt: skip


def test_killed_anywhere_the_receipts_are_the_actions_but_for_one_that_is_named(
    user: Shell, task: Path
) -> None:
    done, count, chance = user.cwd / "done.txt", 40, random.Random(1)
    head = task.read_text("utf-8")
    for kill in range(4):
        worker = act(user, task, done, count)
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        start = len(done.read_text().split()) if done.exists() else 0
        wanted = min(start + chance.randrange(1, 12), count - 1)
        eventually(lambda: len(done.read_text().split()) >= wanted, "some actions", seconds=60)  # noqa: B023
        worker.kill()
        worker.communicate()
        acted = Counter(done.read_text().split())
        assert set(acted.values()) == {1}, "never done twice"
        text = task.read_text("utf-8")
        assert text.startswith(head)
        told = Counter(f"m-{int(line.rsplit(' ', 1)[1]):03d}" for line in lines(task))
        assert set(told.values()) <= {1}
        assert set(told) <= set(acted), f"a receipt of what was not done, after kill {kill}"
        verified = user.hypervisor("receipts", "verify", "t-1", "--json")
        named = {one["text"].split(":")[0] for one in verified.json["mismatches"]}
        kinds = {one["kind"] for one in verified.json["mismatches"]}
        assert kinds <= {"in doubt", "missing"}
        assert set(acted) - set(told) <= named
        assert len(named) <= 1
    act(user, task, done, count).communicate()
    assert Counter(done.read_text().split()) == Counter(f"m-{n:03d}" for n in range(count))
    assert user.hypervisor("receipts", "verify", "t-1").passed().lines == [f"{count} receipts: all agree"]
    # Who dies between writing the new text and giving it the name leaves a draft; `clean` knows it.
    drafts = [path for path in task.parent.iterdir() if path != task]
    assert len(drafts) <= 4, "one for each kill at most"
    for draft in drafts:
        os.utime(draft, (0, 0))
    assert user.hypervisor("clean").code == (0 if drafts else 3)
    assert os.listdir(task.parent) == [task.name]


def test_in_doubt_goes_by_the_last_word_on_an_item() -> None:
    told = [("a", "begun"), ("b", "begun"), ("b", "failed"), ("c", "begun"), ("c", "done"), ("c", "begun")]
    entries = [Entry(item=item, phase=phase) for item, phase in told]  # type: ignore[arg-type]
    assert in_doubt(entries) == ["a"]
    assert json.loads(json.dumps(in_doubt([]))) == []
