"""`hypervisor chunk`: what is cut, kept, edited and added to; and notes of what became of the items."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chunk_place import Chunks
from commands import HYPERVISOR, Shell, eventually, write_task


def mails(path: Path, count: int = 60, months: int = 3) -> Path:
    """Write headers whose dates take turns in months and in the way they are written."""
    lines = []
    for number in range(count):
        month = number % months + 1
        date = [
            f"2025-{month:02d}-15T12:00:00Z",
            f"15 {('Jan', 'Feb', 'Mar', 'Apr')[month - 1]} 2025 12:00:00 +0000",
        ]
        sender = f"Ann <ANN{number % 2}@a.example>"
        lines.append(
            {"id": f"m-{number:02d}", "date": date[number % 2], "from": sender, "subject": f"s {number}"}
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def noted(folder: Path, chunk: str = "chunk-01") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{chunk}-summary.json").read_text("utf-8"))
    return found


# -------------------------------------------------------------------------- cut


def test_records_are_cut_and_nothing_is_written(user: Shell) -> None:
    mails(user.cwd / "mail.jsonl")
    for by, count in (("month:date", 3), ("from", 2), ("size:25", 3), ("headers", 0)):
        done = user.here("chunk", "--records", "mail.jsonl", "--by", by, "--json")
        if not count:
            done.refused(2, "no record has the field 'headers'", "date, from, id, subject")
            continue
        chunks = done.passed().json["chunks"]
        assert [set(chunk) for chunk in chunks] == [{"id", "label", "items"}] * count
        assert sorted(item for chunk in chunks for item in chunk["items"]) == [
            f"m-{n:02d}" for n in range(60)
        ]
    assert [path.name for path in user.cwd.iterdir()] == ["mail.jsonl"]


def test_a_table_is_cut_like_json_lines(user: Shell) -> None:
    lines = [json.loads(line) for line in mails(user.cwd / "mail.jsonl").read_text("utf-8").splitlines()]
    for name, mark in (("mail.csv", ";"), ("mail.tsv", "\t")):
        with (user.cwd / name).open("w", encoding="utf-8-sig", newline="") as file:
            table = csv.DictWriter(file, list(lines[0]), delimiter=mark)
            table.writeheader()
            table.writerows([{**line, "subject": 'a "b"\nc'} for line in lines])
        mine, theirs = (
            user.here("chunk", "--records", one, "--by", "month:DATE", "--json").passed().json
            for one in (name, "mail.jsonl")
        )
        assert mine == theirs


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("r.jsonl", b'{"id": 1}\nnot json\n{"id": 2}\n', ["r.jsonl:2", "not JSON"]),
        ("r.jsonl", b'{"id": 1}\n[1]\n', ["r.jsonl:2", "not a JSON object"]),
        ("r.csv", b"id,date\n1,2\n3\n", ["r.csv:3", "1 fields", "header names 2"]),
        ("r.csv", b"id,id\n1,2\n", ["r.csv:1", "two columns"]),
        ("r.csv", b"id,date\n\xff,2\n", ["r.csv:2", "not UTF-8"]),
        ("r.csv", b'id,date\n"1,2\n', ["r.csv:", "mend the row"]),
        ("r.txt", b"x\n", ["must be a .jsonl"]),
        ("gone.jsonl", None, ["no such file"]),
    ],
)
def test_a_line_that_is_no_record_is_named(
    user: Shell, name: str, content: bytes | None, words: list[str]
) -> None:
    if content is not None:
        (user.cwd / name).write_bytes(content)
    user.here("chunk", "--records", name, "--by", "month:date").refused(2, *words)


def test_records_with_one_id_are_told_apart_and_keep_their_ids(user: Shell) -> None:
    rows = [{"id": "x", "n": 1}, {"id": "x", "n": 2}, {"id": "x", "n": 1}, {"n": 3}]
    (user.cwd / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    done = user.here("chunk", "--records", "r.jsonl", "--dir", "d", "--json").passed()
    items = done.json["chunks"][0]["items"]
    assert len(items) == 3
    assert items[0] == "x"
    assert items[1].startswith("x#")
    for word in ("1 record(s) stand there twice", "1 record(s) have no 'id'", "1 record(s) share an id"):
        assert word in done.err
    (user.cwd / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)), "utf-8")
    again = user.here("chunk", "--records", "r.jsonl", "--dir", "d", "--json")
    assert (again.code, again.json) == (3, {"chunks": []})


def test_tasks_and_files_are_cut_too(user: Shell) -> None:
    for number in range(4):
        write_task(user.cwd / "tasks" / f"t-{number}.md", due=f"2025-0{number % 2 + 1}-01")
    write_task(user.cwd / "tasks" / "also.md", id="t-1")
    (user.cwd / "tasks" / "bad.md").write_text("no frontmatter", "utf-8")
    done = user.here("chunk", "--tasks", "tasks/*.md", "--by", "month:due", "--json").passed()
    assert {chunk["label"]: chunk["items"] for chunk in done.json["chunks"]} == {
        "2025-01": ["t-0", "t-2"], "2025-02": ["t-3", "tasks/t-1.md"], "none": ["tasks/also.md"],
    }  # fmt: skip
    assert "bad.md" in done.err
    (user.cwd / "q").write_bytes(b"tasks/t-0.md\0tasks/bad.md\0a\nb\0")
    done = user.here("chunk", "--queue", "q", "-0", "--by", "suffix", "--json").passed()
    assert {chunk["label"]: len(chunk["items"]) for chunk in done.json["chunks"]} == {".md": 2, "none": 1}
    assert not (user.cwd / ".hypervisor").exists()


def test_a_plan_is_kept_edited_and_added_to(user: Shell) -> None:
    mails(user.cwd / "mail.jsonl")
    user.here("chunk", "--records", "mail.jsonl", "--by", "month:date", "--dir", "work").passed()
    path = user.cwd / "work" / "chunks.json"
    plan = json.loads(path.read_text("utf-8"))
    moved = plan["chunks"][0]["items"].pop()
    plan["chunks"][1]["items"].append(moved)
    plan["left_out"] = [plan["chunks"][2]["items"].pop()]
    path.write_text(json.dumps(plan), "utf-8")
    mails(user.cwd / "mail.jsonl", 63)
    done = user.here("chunk", "--records", "mail.jsonl", "--dir", "work", "--json").passed()
    assert [(chunk["label"], chunk["items"]) for chunk in done.json["chunks"]] == [
        ("2025-01 later", ["m-60"]), ("2025-02 later", ["m-61"]), ("2025-03 later", ["m-62"]),
    ]  # fmt: skip
    now = json.loads(path.read_text("utf-8"))
    assert now["chunks"][:3] == plan["chunks"]
    assert now["left_out"] == plan["left_out"]
    user.here("chunk", "--records", "mail.jsonl", "--by", "from", "--dir", "work").refused(
        2, "made with month:date"
    )
    (user.cwd / "other").mkdir()
    (user.cwd / "other" / "queue.txt").write_text("x\n", "utf-8")
    user.here("chunk", "--records", "mail.jsonl", "--dir", "other").refused(2, "not cut into chunks")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda plan: plan["chunks"][0]["items"].append("m-99"), ["chunk-01", "'m-99'", "no item"]),
        (
            lambda plan: plan["chunks"][0]["items"].append(plan["chunks"][1]["items"][0]),
            ["take it out of one"],
        ),
        (lambda plan: plan["chunks"][0]["items"].clear(), ["chunk-01", "has no items"]),
        (lambda plan: plan["chunks"][0].update(id="a/b"), ["letters, digits"]),
        (lambda plan: plan["chunks"][1].update(id="chunk-01"), ["stands there twice"]),
        (lambda plan: plan.pop("chunks"), ["not a plan of chunks"]),
        (lambda plan: plan.update(zone="Mars"), ["no such time zone"]),
    ],
)
def test_an_edited_plan_that_cannot_run_is_told_where(user: Shell, spoil: Any, words: list[str]) -> None:
    mails(user.cwd / "mail.jsonl")
    user.here("chunk", "--records", "mail.jsonl", "--by", "month:date", "--dir", "work").passed()
    path = user.cwd / "work" / "chunks.json"
    plan = json.loads(path.read_text("utf-8"))
    spoil(plan)
    path.write_text(json.dumps(plan), "utf-8")
    done = user.here("chunk", "run", "--dir", "work", "--exec", "true")
    done.refused(done.code, "chunks.json", *words)
    assert done.code in (1, 2)
    assert not list((user.cwd / "work" / "waves").glob("*"))


def test_the_batch_of_a_task_lies_in_the_scratchpad_where_there_is_one(user: Shell) -> None:
    mails(user.cwd / "mail.jsonl")
    words = ("chunk", "--records", "mail.jsonl", "--by", "month:date", "--task", "t-9")
    user.here(*words).passed()
    assert len(list((user.cwd / ".hypervisor/batches").glob("*-batch-t-9/chunks.json"))) == 1
    assert user.here(*words).code == 3, "the same folder is found again"
    user.extra["SCRATCHPAD"] = str(user.home / "scratch")
    user.here(*words).passed()
    user.here("chunk", "note", "chunk-01", "m-00", "--category", "keep", "--task", "t-9").passed()
    summary = json.loads((user.home / "scratch/batch-t-9/chunk-01-summary.json").read_text("utf-8"))
    assert (summary["processed"], summary["categories"]) == (1, {"keep": 1})


# ------------------------------------------------------------------------ notes


def test_two_thousand_records_are_split_noted_from_a_stream_and_counted(user: Shell) -> None:
    lines = [{"id": f"m-{n:04}", "date": f"2025-{n % 10 + 1:02}-01"} for n in range(2000)]
    (user.cwd / "r.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    cut = user.here("chunk", "--records", "r.jsonl", "--by", "month:date", "--dir", "work").passed()
    assert cut.lines[-1].startswith("10 new chunk(s) of 2000 items")
    notes = "".join(
        json.dumps({"item": line["id"], "category": f"c{n % 3}"}) + "\n" for n, line in enumerate(lines[::10])
    )
    done = user.here("chunk", "note", "chunk-01", "-", "--dir", "work", stdin=notes.encode()).passed()
    assert done.out == "chunk-01: 200 of 200 noted\n"
    assert noted(user.cwd / "work")["categories"] == {"c0": 67, "c1": 67, "c2": 66}
    assert user.here("chunk", "items", "chunk-01", "--left", "--dir", "work").code == 3


def test_a_note_is_one_however_often_it_is_made(user: Shell) -> None:
    (user.cwd / "r.jsonl").write_text('{"id": "a"}\n{"id": "b  c"}\n', "utf-8")
    user.here("chunk", "--records", "r.jsonl", "--dir", "work").passed()
    folder = user.cwd / "work"

    def note(item: str, category: str, rationale: str = "") -> Any:
        words = ("chunk", "note", "chunk-01", item, "--category", category, "--rationale", rationale)
        return user.here(*words, "--dir", "work", "--json")

    assert [note("a", "keep", "x").passed().json["new"] for _ in range(2)] == [1, 0]
    note("b c", "drop", "y\n\n# z").passed()
    assert noted(folder)["categories"] == {"drop": 1, "keep": 1}
    note("a", "drop").passed()
    assert noted(folder) == {
        "processed": 2, "categories": {"drop": 2}, "chunk": "chunk-01", "items": 2, "revision": 1
    }  # fmt: skip
    text = (folder / "chunk-01-details.md").read_text("utf-8")
    assert text == "# chunk-01\n\n- a: **drop**\n- b c: **drop** - y # z\n"
    for item, category in (("none", "keep"), ("a", " "), ("a", "x\ny"), ("a", "x" * 101)):
        note(item, category).refused(2, item)


@pytest.mark.parametrize("name", ["details.md", "summary.json"])
def test_a_file_of_notes_that_is_torn_or_gone_is_written_by_the_next_note(chunks: Chunks, name: str) -> None:
    chunks.cut(1)
    chunks.advance()
    user = Shell(chunks.folder.parent, chunks.folder.parent)
    user.here("chunk", "note", "chunk-01", "m-00", "--category", "keep", "--dir", "work").passed()
    path = chunks.folder / f"chunk-01-{name}"
    whole = path.read_bytes()
    for spoil in (lambda: path.write_bytes(whole[:-5]), path.unlink):
        spoil()
        user.here("chunk", "note", "chunk-01", "m-00", "--category", "keep", "--dir", "work").passed()
        assert path.read_bytes() == whole


def test_a_worker_of_before_can_note_no_more(user: Shell) -> None:
    mails(user.cwd / "mail.jsonl", 4, 1)
    user.here("chunk", "--records", "mail.jsonl", "--dir", "work").passed()
    user.here("chunk", "run", "--dir", "work", "--exec", "true")
    user.here("checkpoint", "revise", "--dir", "work", "--criteria", "other").passed()
    user.extra.update(
        HYPERVISOR_CHUNK=str(user.cwd / "work/chunks/chunk-01.jsonl"), HYPERVISOR_CHUNK_ID="chunk-01",
        HYPERVISOR_CHUNK_REVISION="1",
    )  # fmt: skip
    words = ("chunk", "note", "chunk-01", "m-00", "--category", "keep")
    user.here(*words).refused(1, "opened again")  # also before the new worker has begun
    user.extra["HYPERVISOR_CHUNK_REVISION"] = "2"
    user.here(*words).passed()
    user.extra["HYPERVISOR_CHUNK_REVISION"] = "1"
    user.here(*words).refused(1, "opened again")


@pytest.mark.slow
def test_of_many_writers_no_note_is_lost_also_when_one_is_killed(user: Shell) -> None:
    mails(user.cwd / "mail.jsonl", 40, 1)
    user.here("chunk", "--records", "mail.jsonl", "--dir", "work").passed()
    user.here("chunk", "note", "chunk-01", "m-00", "--category", "first", "--dir", "work").passed()
    code = (
        "import sys\nfrom pathlib import Path\nfrom hypervisor.review.notes import add_notes\n"
        "from hypervisor.review.plan import open_chunked\nfrom hypervisor.store.review_records import Note\n"
        "made = open_chunked(Path(sys.argv[1]))\n"
        "for n in range(int(sys.argv[2]), 40, 4):\n"
        "    add_notes(made, 'chunk-01', 1, [Note(item=f'm-{n:02d}', category=f'c{n % 2}')])\n"
        "    print(n, flush=True)\n"
    )
    scripts = Path(HYPERVISOR[1]).parent
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(user.cwd / "work"), str(n)], cwd=scripts, stdout=subprocess.PIPE
        )
        for n in range(4)
    ]
    assert writers[0].stdout is not None
    told = [writers[0].stdout.readline() for _ in range(3)]
    writers[0].kill()
    told += writers[0].communicate()[0].splitlines()
    for writer in writers[1:]:
        writer.communicate()
        assert writer.returncode == 0
    left = user.here("chunk", "items", "chunk-01", "--left", "--dir", "work").lines
    expected = {f"m-{n:02d}" for n in range(40) if n % 4} | {f"m-{int(line):02d}" for line in told}
    found = {f"m-{n:02d}" for n in range(40)} - set(left)
    assert expected <= found
    assert len(found) <= len(expected) + 1, "at most the note in hand was not told of"
    user.here("chunk", "note", "chunk-01", left[0], "--category", "x", "--dir", "work").passed()
    assert noted(user.cwd / "work")["processed"] == len(found) + 1


def test_a_stream_of_notes_is_kept_line_by_line(user: Shell) -> None:
    mails(user.cwd / "mail.jsonl", 5, 1)
    user.here("chunk", "--records", "mail.jsonl", "--dir", "work").passed()
    process = subprocess.Popen(
        [*HYPERVISOR, "chunk", "note", "chunk-01", "-", "--dir", "work"],
        cwd=user.cwd, env=user.environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(b'{"item": "m-03", "category": "keep", "rationale": "r"}\n')
    process.stdin.flush()
    left = ("chunk", "items", "chunk-01", "--left", "--dir", "work")
    eventually(lambda: "m-03" not in user.here(*left).lines, "the first note")
    _, err = process.communicate(b'{"item": "m-04"}\n', timeout=60)
    assert process.returncode == 2
    assert b"line 2" in err
    assert noted(user.cwd / "work")["processed"] == 1


def test_files_of_notes_that_differ_from_the_notes_are_named_by_verify(user: Shell) -> None:
    (user.cwd / ".hypervisor").mkdir()
    write_task(user.cwd / "tasks" / "t-1.md")
    (user.cwd / "r.jsonl").write_text("".join(f'{{"id": "m-{n}"}}\n' for n in range(3)), "utf-8")
    user.here("chunk", "--records", "r.jsonl", "--task", "t-1").passed()
    for number in range(3):
        words = ("chunk", "note", "chunk-01", f"m-{number}", "--category", "keep", "--task", "t-1")
        user.here(*words).passed()
    folder = next((user.cwd / ".hypervisor/batches").iterdir())
    assert user.here("receipts", "verify", folder.name).passed().out == "0 receipts, 3 notes: all agree\n"
    summary = folder / "chunk-01-summary.json"
    summary.write_text(summary.read_text("utf-8").replace("keep", "drop"), "utf-8")
    details = folder / "chunk-01-details.md"
    details.write_text(details.read_text("utf-8") + "- more\n", "utf-8")
    told = user.here("receipts", "verify", "--json").json
    assert sorted(one["kind"] for one in told["mismatches"]) == ["details", "summary"]


def test_nothing_is_cut_for_a_bulk_action_while_a_checkpoint_is_open(user: Shell) -> None:
    (user.cwd / "r.jsonl").write_text('{"id": "a"}\n{"id": "b"}\n')
    user.here("chunk", "--records", "r.jsonl", "--by", "size:1", "--dir", "sorted").passed()
    user.here("chunk", "run", "--dir", "sorted", "--exec", "true")
    words = ("chunk", "--noted", "sorted", "--bulk", "mcp__mail__archive", "--dir", "act")
    user.here(*words).refused(1, "its own checkpoints are not done (open)")
    user.here("checkpoint", "approve", "--dir", "sorted").passed()
    user.here("chunk", "run", "--dir", "sorted", "--checkpoint", "none").passed()
    user.here(*words, "--as", "archive").refused(2, "nothing is noted as archive", "none")
    assert not (user.cwd / "act").exists()


def test_what_was_noted_is_acted_on_after_its_dry_run_alone(user: Shell) -> None:
    (user.cwd / ".hypervisor").mkdir()
    write_task(user.cwd / "tasks" / "t-10.md")
    (user.cwd / "r.jsonl").write_text("".join(f'{{"id": "m-{n}", "subject": "s {n}"}}\n' for n in range(6)))
    user.here("chunk", "--records", "r.jsonl", "--dir", "sorted").passed()
    notes = "".join(
        json.dumps({"item": f"m-{n}", "category": "archive" if n % 2 else "keep", "rationale": "r"}) + "\n"
        for n in range(6)
    )
    user.here("chunk", "note", "chunk-01", "-", "--dir", "sorted", stdin=notes.encode()).passed()
    words = ("chunk", "--noted", "sorted", "--as", "archive", "--bulk", "Bash(archive *)", "--by", "size:2")
    user.here(*words, "--dir", "act", "--task", "t-10").refused(2, "two folders")
    user.here(*words).refused(2, "--bulk needs a batch that is kept")
    user.here(*words, "--task", "t-10").passed()
    lines = user.here("checkpoint", "--task", "t-10").passed().lines
    assert lines[0].endswith("chunk-01, chunk-02; 3 items, nothing done yet")
    assert lines[1:3] == ["  archive: 3", "    m-1 s 1: r"]
    note = ("chunk", "note", "chunk-01", "m-1", "--category", "x", "--task", "t-10")
    user.here(*note).refused(1, "approved")
    user.here("task", "claim", "t-10", "--caller", "claude").refused(1, "nobody has approved it yet")
    run = ("chunk", "run", "--task", "t-10", "--exec", "touch ran", "--checkpoint", "none", "--json")
    waits = user.here(*run)
    assert (waits.code, waits.json["standing"], waits.json["census"]["waiting"]) == (1, "open", 2)
    assert not (user.cwd / "ran").exists()
    user.here("checkpoint", "approve", "--task", "t-10").passed()
    user.here("task", "claim", "t-10", "--caller", "claude").passed()
    done = user.here(*run)
    assert (done.json["standing"], (user.cwd / "ran").exists()) == ("finished", True)
