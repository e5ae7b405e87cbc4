"""Cutting into chunks: the same input gives the same chunks, none is changed later, nothing is left out."""

from __future__ import annotations

import csv
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import HYPERVISOR, Shell, eventually, shell, write_task
from hypervisor.core.errors import Refused, UsageError
from hypervisor.notes import Note, Notes
from hypervisor.review.chunked import ChunkedBatch
from hypervisor.review.chunks import NONE, Chunk, Cut, Item, cut
from hypervisor.review.moments import label_of, moment_of, zone_named

MONTHS = Cut.of("month:date")


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        yield made


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


def labels(chunks: list[Chunk]) -> dict[str, int]:
    return {chunk.label: len(chunk.items) for chunk in chunks}


# ------------------------------------------------------------------------ dates


@pytest.mark.parametrize(
    ("value", "utc", "own", "vienna"),
    [
        ("Fri, 31 Oct 2025 23:30:00 -0800", "2025-11", "2025-10", "2025-11"),
        ("Fri, 31 Oct 2025 23:30:00 -0000", "2025-10", "2025-10", "2025-11"),
        ("Fri, 31 Oct 2025 23:30:00", "2025-10", "2025-10", "2025-10"),
        ("31 Oct 2025 23:30 EST", "2025-11", "2025-10", "2025-11"),
        ("Sat, 01 Nov 2025 00:30:00 +0100 (CET)", "2025-10", "2025-11", "2025-11"),
        ("2025-11-01T00:30:00+01:00", "2025-10", "2025-11", "2025-11"),
        ("2025-10-31T23:30:00Z", "2025-10", "2025-10", "2025-11"),
        ("2025-11-01", "2025-11", "2025-11", "2025-11"),
        ("20251101", "2025-11", "2025-11", "2025-11"),
        ("20251031233000", "2025-10", "2025-10", "2025-10"),
        ("2025-11", "2025-11", "2025-11", "2025-11"),
        ("2025-10-31 23:30:01,123", "2025-10", "2025-10", "2025-10"),
        ("[31/Oct/2025:23:30:01 +0000]", "2025-10", "2025-10", "2025-11"),
        (1761953400, "2025-10", "2025-10", "2025-11"),
        ("1761953400", "2025-10", "2025-10", "2025-11"),
        (1761953400000, "2025-10", "2025-10", "2025-11"),
        (1761953400000000, "2025-10", "2025-10", "2025-11"),
    ],
)
def test_a_date_belongs_to_the_month_that_the_zone_says(
    value: object, utc: str, own: str, vienna: str
) -> None:
    for zone, expected in (("UTC", utc), ("own", own), ("Europe/Vienna", vienna)):
        moment = moment_of(value, zone_named(zone))
        assert moment is not None
        assert label_of(moment, "month") == expected, zone


@pytest.mark.parametrize(
    "value",
    ["", "soon", "Nov 3 12:00:01", True, None, [], "0001-01-01T00:00:00+14:00", "9" * 20 + "e9", 1e300],
)
def test_what_is_no_date_is_none(value: object) -> None:
    assert moment_of(value, zone_named("UTC")) is None


def test_weeks_are_iso_weeks_and_days_follow_the_clock_change() -> None:
    zone = zone_named("Europe/Vienna")
    told = [moment_of(text, zone) for text in ("2024-12-30", "2025-03-29T23:30:00Z", "2025-03-30T21:59:00Z")]
    assert all(told)
    assert label_of(told[0], "week") == "2025-W01"  # type: ignore[arg-type]
    assert {label_of(one, "day") for one in told[1:] if one} == {"2025-03-30"}


def test_a_zone_that_does_not_exist_is_one_line() -> None:
    for name in ("Mars/Base", "../etc/passwd", ""):
        with pytest.raises(UsageError, match="no such time zone"):
            zone_named(name or "/")


# ---------------------------------------------------------------------- cutting

_VALUES = st.one_of(st.none(), st.text(max_size=5), st.dates().map(str), st.integers(0, 2**33))
_HOWS = st.sampled_from(["month:d", "week:d", "day:d", "d", "", "size:7"])


@given(st.lists(_VALUES, max_size=80), _HOWS, st.integers(0, 30), st.randoms())
@settings(max_examples=120, deadline=None)
def test_every_item_is_in_one_chunk_and_none_is_too_large(
    values: list[Any], by: str, most: int, chance: random.Random
) -> None:
    how = Cut.of(by, most)
    items = [Item(id=f"i{n}", value=value) for n, value in enumerate(values)]
    first = items[: len(items) // 2]
    chunks = cut(first, how)
    later = cut(items, how, chunks)
    both = [*chunks, *later]
    assert sorted(item for chunk in both for item in chunk.items) == sorted(item.id for item in items)
    assert len({chunk.id for chunk in both}) == len(both)
    assert len({chunk.label for chunk in both}) == len(both) or by == "d"
    limit = most or (50 if not by else 7 if by == "size:7" else 10**9)
    assert all(0 < len(chunk.items) <= limit for chunk in both)
    assert cut(items, how, both) == []
    if by not in ("", "size:7"):
        mixed = items[:]
        chance.shuffle(mixed)
        assert cut(mixed, how) == cut(items, how)


def test_a_month_that_is_too_big_is_cut_into_equal_parts() -> None:
    items = [Item(id=f"{n:03}", value="2025-11-03") for n in range(101)] + [Item(id="x", value="2025-12-01")]
    made = cut(items, Cut.of("month:date", 50))
    assert labels(made) == {"2025-11 1/3": 34, "2025-11 2/3": 34, "2025-11 3/3": 33, "2025-12": 1}


def test_what_comes_later_gets_chunks_of_its_own() -> None:
    first = cut([Item(id="a", value="2025-11-01")], MONTHS)
    items = [Item(id=name, value=f"2025-{month}-01") for name, month in (("b", 11), ("a", 11), ("c", 12))]
    second = cut(items, MONTHS, first)
    assert [(chunk.id, chunk.label) for chunk in second] == [
        ("chunk-02", "2025-11 later"),
        ("chunk-03", "2025-12"),
    ]
    third = cut([*items, Item(id="d", value="2025-11-02")], MONTHS, [*first, *second])
    assert [(chunk.id, chunk.label) for chunk in third] == [("chunk-04", "2025-11 later 2")]


def test_without_a_word_chunks_are_of_a_size_that_one_person_reviews() -> None:
    for count in (1, 19, 50, 51, 99, 120, 1001):
        sizes = [len(chunk.items) for chunk in cut([Item(id=str(n)) for n in range(count)], Cut.of(""))]
        assert sum(sizes) == count
        assert max(sizes) <= 50
        assert min(sizes) >= min(count, 25)
        assert max(sizes) - min(sizes) <= 1


def test_one_sender_is_one_category_however_it_is_written() -> None:
    values = ["Ann <ANN@a.example>", "ann@a.example", '"A. N." <ann@A.example>', "", None]
    made = cut([Item(id=str(n), value=value) for n, value in enumerate(values)], Cut.of("from"))
    assert labels(made) == {"ann@a.example": 3, NONE: 2}


@pytest.mark.parametrize("by", ["month:", "month", "size", "size:0", "size:x", "week:"])
def test_words_that_mean_no_cut_are_refused(by: str) -> None:
    with pytest.raises(UsageError, match="--by"):
        Cut.of(by)


# --------------------------------------------------------------------- commands


def test_records_are_cut_and_nothing_is_written(user: Shell) -> None:
    mails(user.cwd / "mail.jsonl")
    for by, count in (("month:date", 3), ("from", 2), ("size:25", 3), ("headers", 0)):
        done = user.hypervisor("chunk", "--records", "mail.jsonl", "--by", by, "--json")
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
            user.hypervisor("chunk", "--records", one, "--by", "month:DATE", "--json").passed().json
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
    user.hypervisor("chunk", "--records", name, "--by", "month:date").refused(2, *words)


def test_records_with_one_id_are_told_apart_and_keep_their_ids(user: Shell) -> None:
    rows = [{"id": "x", "n": 1}, {"id": "x", "n": 2}, {"id": "x", "n": 1}, {"n": 3}]
    (user.cwd / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    done = user.hypervisor("chunk", "--records", "r.jsonl", "--dir", "d", "--json").passed()
    items = done.json["chunks"][0]["items"]
    assert len(items) == 3
    assert items[0] == "x"
    assert items[1].startswith("x#")
    for word in ("1 record(s) stand there twice", "1 record(s) have no 'id'", "1 record(s) share an id"):
        assert word in done.err
    (user.cwd / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)), "utf-8")
    again = user.hypervisor("chunk", "--records", "r.jsonl", "--dir", "d", "--json")
    assert (again.code, again.json) == (3, {"chunks": []})


def test_tasks_and_files_are_cut_too(user: Shell) -> None:
    for number in range(4):
        write_task(user.cwd / "tasks" / f"t-{number}.md", due=f"2025-0{number % 2 + 1}-01")
    write_task(user.cwd / "tasks" / "also.md", id="t-1")
    (user.cwd / "tasks" / "bad.md").write_text("no frontmatter", "utf-8")
    done = user.hypervisor("chunk", "--tasks", "tasks/*.md", "--by", "month:due", "--json").passed()
    assert {chunk["label"]: chunk["items"] for chunk in done.json["chunks"]} == {
        "2025-01": ["t-0", "t-2"], "2025-02": ["t-3", "tasks/t-1.md"], "none": ["tasks/also.md"],
    }  # fmt: skip
    assert "bad.md" in done.err
    (user.cwd / "q").write_bytes(b"tasks/t-0.md\0tasks/bad.md\0a\nb\0")
    done = user.hypervisor("chunk", "--queue", "q", "-0", "--by", "suffix", "--json").passed()
    assert {chunk["label"]: len(chunk["items"]) for chunk in done.json["chunks"]} == {".md": 2, "none": 1}
    assert not (user.cwd / ".hypervisor").exists()


def test_a_plan_is_kept_edited_and_added_to(user: Shell) -> None:
    mails(user.cwd / "mail.jsonl")
    user.hypervisor("chunk", "--records", "mail.jsonl", "--by", "month:date", "--dir", "work").passed()
    path = user.cwd / "work" / "chunks.json"
    plan = json.loads(path.read_text("utf-8"))
    moved = plan["chunks"][0]["items"].pop()
    plan["chunks"][1]["items"].append(moved)
    plan["left_out"] = [plan["chunks"][2]["items"].pop()]
    path.write_text(json.dumps(plan), "utf-8")
    mails(user.cwd / "mail.jsonl", 63)
    done = user.hypervisor("chunk", "--records", "mail.jsonl", "--dir", "work", "--json").passed()
    assert [(chunk["label"], chunk["items"]) for chunk in done.json["chunks"]] == [
        ("2025-01 later", ["m-60"]), ("2025-02 later", ["m-61"]), ("2025-03 later", ["m-62"]),
    ]  # fmt: skip
    now = json.loads(path.read_text("utf-8"))
    assert now["chunks"][:3] == plan["chunks"]
    assert now["left_out"] == plan["left_out"]
    user.hypervisor("chunk", "--records", "mail.jsonl", "--by", "from", "--dir", "work").refused(
        2, "made with month:date"
    )
    (user.cwd / "other").mkdir()
    (user.cwd / "other" / "queue.txt").write_text("x\n", "utf-8")
    user.hypervisor("chunk", "--records", "mail.jsonl", "--dir", "other").refused(2, "not cut into chunks")


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
    user.hypervisor("chunk", "--records", "mail.jsonl", "--by", "month:date", "--dir", "work").passed()
    path = user.cwd / "work" / "chunks.json"
    plan = json.loads(path.read_text("utf-8"))
    spoil(plan)
    path.write_text(json.dumps(plan), "utf-8")
    done = user.hypervisor("chunk", "run", "--dir", "work", "--exec", "true")
    done.refused(done.code, "chunks.json", *words)
    assert done.code in (1, 2)
    assert not (user.cwd / "work" / "waves").exists()


def test_the_batch_of_a_task_lies_in_the_scratchpad_where_there_is_one(user: Shell) -> None:
    mails(user.cwd / "mail.jsonl")
    words = ("chunk", "--records", "mail.jsonl", "--by", "month:date", "--task", "t-9")
    user.hypervisor(*words).passed()
    assert len(list((user.cwd / ".hypervisor/batches").glob("*-batch-t-9/chunks.json"))) == 1
    assert user.hypervisor(*words).code == 3, "the same folder is found again"
    user.extra["SCRATCHPAD"] = str(user.home / "scratch")
    user.hypervisor(*words).passed()
    user.hypervisor("chunk", "note", "chunk-01", "m-00", "--category", "keep", "--task", "t-9").passed()
    summary = json.loads((user.home / "scratch/batch-t-9/chunks/chunk-01-summary.json").read_text("utf-8"))
    assert (summary["processed"], summary["categories"]) == (1, {"keep": 1})


# ------------------------------------------------------------------------ notes


def noted(folder: Path, chunk: str = "chunk-01") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{chunk}-summary.json").read_text("utf-8"))
    return found


def test_a_note_is_one_however_often_it_is_made(tmp_path: Path) -> None:
    items: dict[str, Any] = {"a": {}, "b\nc": {}}
    notes = Notes(tmp_path, "chunk-01")
    assert notes.add([Note(item="a", category="keep", rationale="x")], items) == 1
    assert notes.add([Note(item="a", category="keep", rationale="x")], items) == 0
    assert notes.add([Note(item="b\nc", category="drop", rationale="y\n\n# z")], items) == 1
    assert noted(tmp_path)["categories"] == {"drop": 1, "keep": 1}
    assert Notes(tmp_path, "chunk-01").add([Note(item="a", category="drop")], items) == 1
    assert noted(tmp_path) == {
        "processed": 2, "categories": {"drop": 2}, "chunk": "chunk-01", "items": 2, "revision": 1
    }  # fmt: skip
    text = (tmp_path / "chunk-01-details.md").read_text("utf-8")
    assert text == "# chunk-01\n\n- a: **drop**\n- b\\nc: **drop** - y # z\n"
    for item, category in (("none", "keep"), ("a", " "), ("a", "x\ny"), ("a", "x" * 101)):
        with pytest.raises(UsageError):
            notes.add([Note(item=item, category=category)], items)


@pytest.mark.parametrize("torn", ["notes.jsonl", "details.md", "summary.json"])
def test_what_a_dead_writer_left_half_done_is_mended_by_the_next_note(tmp_path: Path, torn: str) -> None:
    items: dict[str, Any] = {f"i{n}": {} for n in range(3)}
    Notes(tmp_path, "chunk-01").add(
        [Note(item="i0", category="keep"), Note(item="i1", category="keep")], items
    )
    path = tmp_path / f"chunk-01-{torn}"
    if torn == "notes.jsonl":
        with path.open("ab") as file:
            file.write(b'{"item": "i2", "cat')
    elif torn == "details.md":
        path.write_bytes(path.read_bytes()[:-5])
    else:
        path.unlink()
    notes = Notes(tmp_path, "chunk-01")
    assert list(notes.all()) == ["i0", "i1"]
    assert notes.add([Note(item="i2", category="drop")], items) == 1
    assert noted(tmp_path)["processed"] == 3
    assert (tmp_path / "chunk-01-details.md").read_text("utf-8").count("\n- ") == 3


def test_notes_of_an_earlier_revision_are_kept_aside_and_their_worker_is_refused(tmp_path: Path) -> None:
    items: dict[str, Any] = {"a": {}, "b": {}}
    old = Notes(tmp_path, "chunk-01")
    old.add([Note(item="a", category="keep")], items)
    new = Notes(tmp_path, "chunk-01", 2)
    assert new.all() == {}
    new.begin(2)
    assert noted(tmp_path)["processed"] == 0
    assert json.loads((tmp_path / "chunk-01.r1-summary.json").read_text("utf-8"))["processed"] == 1
    new.add([Note(item="a", category="drop")], items)
    with pytest.raises(Refused, match="opened again"):
        old.add([Note(item="b", category="keep")], items)
    assert noted(tmp_path)["categories"] == {"drop": 1}


def test_of_many_writers_no_note_is_lost_also_when_one_is_killed(user: Shell) -> None:
    mails(user.cwd / "mail.jsonl", 40, 1)
    user.hypervisor("chunk", "--records", "mail.jsonl", "--dir", "work").passed()
    made = ChunkedBatch(user.cwd / "work")
    plan = made.plan()
    made.begin(plan, ["chunk-01"])
    code = (
        "import sys\nfrom pathlib import Path\nfrom hypervisor.notes import Note, Notes\n"
        "notes = Notes(Path(sys.argv[1]), 'chunk-01')\nitems = {f'm-{n:02d}': 0 for n in range(40)}\n"
        "for n in range(int(sys.argv[2]), 40, 4):\n"
        "    notes.add([Note(item=f'm-{n:02d}', category=f'c{n % 2}', rationale=str(n))], items)\n"
        "    print(n, flush=True)\n"
    )
    scripts = Path(__file__).resolve().parent.parent / "scripts"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(made.chunks), str(n)], cwd=scripts, stdout=subprocess.PIPE
        )
        for n in range(4)
    ]
    assert writers[0].stdout is not None
    told = [writers[0].stdout.readline() for _ in range(3)]
    writers[0].send_signal(signal.SIGKILL)
    told += writers[0].communicate()[0].splitlines()
    for writer in writers[1:]:
        writer.communicate()
        assert writer.returncode == 0
    found = Notes(made.chunks, "chunk-01").all()
    expected = {f"m-{n:02d}" for n in range(40) if n % 4} | {f"m-{int(line):02d}" for line in told}
    assert expected <= set(found)
    assert len(found) <= len(expected) + 1, "at most the note in hand was not told of"
    left = user.hypervisor("chunk", "items", "chunk-01", "--left", "--dir", "work")
    assert set(left.lines) == {f"m-{n:02d}" for n in range(40)} - set(found)
    if left.lines:
        user.hypervisor(
            "chunk", "note", "chunk-01", left.lines[0], "--category", "x", "--dir", "work"
        ).passed()
    assert noted(made.chunks)["processed"] == len(found) + bool(left.lines)


def test_a_stream_of_notes_is_kept_line_by_line(user: Shell) -> None:
    mails(user.cwd / "mail.jsonl", 5, 1)
    user.hypervisor("chunk", "--records", "mail.jsonl", "--dir", "work").passed()
    process = subprocess.Popen(
        [*HYPERVISOR, "chunk", "note", "chunk-01", "-", "--dir", "work"],
        cwd=user.cwd, env=user.environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(b'{"item": "m-03", "category": "keep", "rationale": "r"}\n')
    process.stdin.flush()
    folder = user.cwd / "work" / "chunks"
    eventually(
        lambda: (folder / "chunk-01-summary.json").exists() and noted(folder)["processed"], "the first note"
    )
    _, err = process.communicate(b'{"item": "m-04"}\n', timeout=60)
    assert process.returncode == 2
    assert b"line 2" in err
    assert noted(folder)["processed"] == 1
