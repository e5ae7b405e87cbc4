"""Chunk by chunk: nothing starts while a checkpoint is open, whoever asks, whatever was killed."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chunk_place import Chunks
from commands import eventually, script
from hypervisor.core.errors import Refused, UsageError
from hypervisor.review.approvals import begin_dry_run
from hypervisor.review.checkpoint import in_lines, review
from hypervisor.review.notes import add_notes
from hypervisor.review.plan import ChunkedBatch, ChunkPlan
from hypervisor.review.waves import decide
from hypervisor.store.review_records import Note


def results(chunks: Chunks) -> dict[str, str]:
    return {name: str(one["status"]) for name, one in chunks.made.review.results(chunks.made.number).items()}


def note_all(made: ChunkedBatch, chunk: str, category: str = "keep") -> None:
    begun = made.review.begun(made.number)[chunk]
    add_notes(made, chunk, begun.revision, [Note(item=item, category=category) for item in begun.items])


# ------------------------------------------------------------------------ waves


def test_a_wave_waits_for_the_decision_of_the_one_before(chunks: Chunks) -> None:
    chunks.cut()
    assert chunks.run(jobs=2).what == "open"
    assert results(chunks) == {"chunk-01": "success", "chunk-02": "success"}
    assert chunks.run(jobs=2).what == "open"
    assert len(results(chunks)) == 2, "nothing started"
    decide(chunks.made, "approve", "Ada")
    assert chunks.run(jobs=2).what == "open"
    decide(chunks.made, "approve", "Ada")
    assert chunks.run().what == "finished"
    assert len(results(chunks)) == 4


def test_with_first_only_the_first_wave_waits_and_with_none_no_wave(chunks: Chunks) -> None:
    chunks.cut()
    assert chunks.run(jobs=2, mode="first").what == "open"
    decide(chunks.made, "approve", "Ada")
    assert chunks.run(jobs=2, mode="first").what == "finished"


def test_a_second_decision_is_refused_by_the_name_of_who_was_first(chunks: Chunks) -> None:
    chunks.cut()
    with pytest.raises(Refused, match="nothing has run"):
        decide(chunks.made, "approve", "Ada")
    chunks.run()
    with pytest.raises(UsageError, match="--criteria"):
        decide(chunks.made, "revise", "Ada")
    decide(chunks.made, "approve", "Ada")
    for verdict in ("approve", "stop", "revise"):
        with pytest.raises(Refused, match=r"Ada has decided already \(approve"):
            decide(chunks.made, verdict, "Bob", criteria="x")


def test_what_is_done_again_is_another_wave_with_the_new_criteria(chunks: Chunks) -> None:
    chunks.cut(2)
    chunks.run(jobs=2, criteria="old")
    note_all(chunks.made, "chunk-01")
    decide(chunks.made, "revise", "Ada", criteria="new", chunks=["chunk-01"])
    with pytest.raises(Refused, match=r"checkpoint 1: Ada has decided already \(revise"):
        decide(chunks.made, "approve", "Bob")
    at = chunks.advance()
    assert (at.what, at.chunks) == ("run", ("chunk-01",))
    script_ = script(chunks.folder.parent, "says", "echo $HYPERVISOR_CRITERIA $HYPERVISOR_CHUNK_REVISION; "
                     "cat $HYPERVISOR_CRITERIA_FILE >> read")  # fmt: skip
    assert chunks.run(script_, criteria="old").what == "open"
    assert (chunks.folder.parent / "read").read_text() == "new"
    found = chunks.made.review.results(chunks.made.number)
    assert found["chunk-01"]["outcome"] == "new 2"
    assert chunks.made.review.notes(chunks.made.number, "chunk-01") == {}


def test_chunks_that_are_named_are_done_again_after_an_approval_too(chunks: Chunks) -> None:
    chunks.cut(2)
    chunks.run(jobs=2)
    decide(chunks.made, "approve", "Ada")
    decide(chunks.made, "revise", "Ada", criteria="new", chunks=["chunk-02"])
    assert chunks.state.chunks == ("chunk-02",)


def test_stopping_in_the_middle_of_a_wave_begins_no_more_of_it(
    chunks: Chunks, reopened: Callable[[], Chunks]
) -> None:
    chunks.cut(3)
    folder = chunks.folder.parent
    command = script(folder, "wait", "touch begun; while [ ! -e go ]; do sleep 0.01; done")
    thread = threading.Thread(target=chunks.run, args=(command,), kwargs={"mode": "none"})
    thread.start()
    try:
        eventually((folder / "begun").exists, "the first chunk")
        other = reopened().made
        with pytest.raises(Refused, match="not open yet"):
            decide(other, "approve", "Ada")
        with pytest.raises(Refused, match="no result yet"):
            decide(other, "revise", "Ada", criteria="x")
        decide(other, "stop", "Ada")
    finally:
        (folder / "go").touch()
        thread.join()
    assert list(results(chunks).values()) == ["success"]
    assert chunks.run(mode="none").what == "stopped"
    decide(chunks.made, "approve", "Ada")
    assert chunks.run(mode="none").what == "finished"
    assert len(results(chunks)) == 3


def test_late_chunks_are_run_and_what_was_done_is_not_run_again(chunks: Chunks) -> None:
    plan = chunks.cut(2)
    command = script(chunks.folder.parent, "count", "echo x >> $HYPERVISOR_CHUNK_ID.runs")
    assert chunks.run(command, mode="none").what == "finished"
    late = json.loads(plan.to_file())
    late["chunks"].append({"id": "late", "label": "", "items": [late["chunks"][1]["items"].pop()]})
    (chunks.folder / "chunks.json").write_text(json.dumps(late), "utf-8")
    with pytest.raises(Refused, match="chunk-02 has begun with 4 items"):
        chunks.run(command)
    late["chunks"][1]["items"].append(late["chunks"].pop()["items"][0])
    (chunks.folder / "chunks.json").write_text(json.dumps(late), "utf-8")
    assert chunks.run(command).what == "finished"
    assert {path.name for path in chunks.folder.parent.glob("*.runs")} == {"chunk-01.runs", "chunk-02.runs"}
    assert (chunks.folder.parent / "chunk-01.runs").read_text() == "x\n"


def test_a_plan_is_edited_until_its_chunks_begin(chunks: Chunks) -> None:
    plan = json.loads(chunks.cut(3).to_file())
    plan["chunks"][1]["items"] += plan["chunks"].pop()["items"]
    plan["chunks"][0]["id"] = "january"
    (chunks.folder / "chunks.json").write_text(json.dumps(plan), "utf-8")
    assert chunks.run(mode="none").what == "finished"
    assert results(chunks) == {"january": "success", "chunk-02": "success"}
    assert chunks.made.batch.store.batches.census(chunks.made.number)["queued"] == 2
    assert len((chunks.folder / "chunks/chunk-02.jsonl").read_text().splitlines()) == 8


def test_a_plan_whose_file_is_gone_is_written_again_and_an_older_one_is_an_edit(chunks: Chunks) -> None:
    path, plan = chunks.folder / "chunks.json", chunks.cut(2)
    whole = path.read_bytes()
    path.unlink()
    assert chunks.made.plan() == plan
    assert path.read_bytes() == whole
    other = json.loads(whole)
    other["left_out"] = [other["chunks"][1]["items"].pop()]
    path.write_text(json.dumps(other), "utf-8")
    chunks.made.keep(chunks.made.take_in())
    path.write_bytes(whole)
    assert chunks.made.plan().left_out == (), "its owner put it back: that is an edit"


def test_a_crash_between_plan_and_file_is_no_edit(chunks: Chunks, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = chunks.cut(2)
    more = json.loads(plan.to_file())
    with monkeypatch.context() as patched:
        patched.setattr("hypervisor.review.plan.replace_file", _dies)
        with pytest.raises(KeyboardInterrupt):
            chunks.made.keep(_without_last(plan))
    assert json.loads((chunks.folder / "chunks.json").read_bytes()) == more
    assert len(chunks.made.plan().chunks) == 1
    assert len(json.loads((chunks.folder / "chunks.json").read_bytes())["chunks"]) == 1


def _dies(*_: object) -> None:
    raise KeyboardInterrupt


def _without_last(plan: ChunkPlan) -> ChunkPlan:
    return replace(plan, chunks=plan.chunks[:-1], left_out=plan.chunks[-1].items)


# -------------------------------------------------------------------- outcomes


def test_a_command_that_notes_some_items_and_not_the_others_has_failed(chunks: Chunks) -> None:
    chunks.cut(1)
    at = chunks.advance()
    assert at.wave is not None
    add_notes(chunks.made, "chunk-01", 1, [Note(item="m-00", category="keep")])
    assert chunks.run().what == "open"
    result = chunks.made.review.results(chunks.made.number)["chunk-01"]
    assert (result["status"], result["evidence"]["noted"]) == ("failed", 1)
    assert "noted 1 of 4 items" in result["outcome"]
    assert "  FAILED chunk-01: noted 1 of 4" in "\n".join(in_lines(review(chunks.made, at.wave)))


@pytest.mark.parametrize(
    ("words", "retries", "status", "runs"),
    [("exit 1", None, "failed", 1), ("exit 1", 2, "failed", 3), ("exit 78", 2, "blocked", 1)],
)
def test_exit_codes_mean_what_they_mean_for_a_queue(
    chunks: Chunks, words: str, retries: int | None, status: str, runs: int
) -> None:
    chunks.cut(1)
    command = script(chunks.folder.parent, "fails", f"echo x >> runs; {words}")
    assert chunks.run(command, retries=retries).what == "open"
    assert results(chunks) == {"chunk-01": status}
    assert (chunks.folder.parent / "runs").read_text().count("x") == runs


def test_a_command_that_lasts_too_long_is_ended(chunks: Chunks) -> None:
    chunks.cut(1)
    chunks.run("sh -c 'exec sleep 100'", timeout=0.2)
    assert chunks.made.review.results(chunks.made.number)["chunk-01"]["outcome"] == "timed out after 0.2 s"


def test_who_stops_twice_gives_the_chunks_in_hand_back(chunks: Chunks) -> None:
    chunks.cut(2)
    folder = chunks.folder.parent
    command = script(folder, "waits", "touch begun; exec sleep 100")
    thread = threading.Thread(target=chunks.run, args=(command,), kwargs={"jobs": 2})
    thread.start()
    eventually((folder / "begun").exists, "a chunk")
    chunks.stop.soon.set()
    chunks.stop.now.set()
    thread.join()
    assert results(chunks) == {}
    assert chunks.made.batch.store.batches.census(chunks.made.number)["ready"] == 2
    assert {one.kind for one in chunks.events} <= {"again"}


def test_a_checkpoint_shows_counts_samples_and_what_is_missing(chunks: Chunks) -> None:
    chunks.cut(1, 5)
    at = chunks.advance(criteria="c")
    assert at.wave is not None
    for item, category in (("m-00", "drop"), ("m-01", "keep"), ("m-02", "drop"), ("m-03", "drop")):
        add_notes(chunks.made, "chunk-01", 1, [Note(item=item, category=category, rationale="r")])
    report = review(chunks.made, at.wave)
    assert {name: one["count"] for name, one in report["categories"].items()} == {"drop": 3, "keep": 1}
    assert report["categories"]["drop"]["samples"][0] == {
        "item": "m-00", "about": "2025-01-03 | about 0", "rationale": "r"
    }  # fmt: skip
    lines = in_lines(report)
    assert lines[0] == "checkpoint 1: chunk-01; 5 items, 4 noted"
    assert lines[-1] == "  1 item(s) have no note"


def test_a_dry_run_shows_all_and_does_nothing(chunks: Chunks) -> None:
    plan = chunks.cut(2, bulk=("mcp__mail__archive",))
    begin_dry_run(chunks.made, plan)
    assert chunks.run().what == "open"
    assert results(chunks) == {}
    wave = chunks.made.review.waves(chunks.made.number)[0]
    assert in_lines(review(chunks.made, wave))[0].endswith("chunk-01, chunk-02; 8 items, nothing done yet")
    with pytest.raises(UsageError, match="nothing was done yet"):
        decide(chunks.made, "revise", "Ada", criteria="x")
    decide(chunks.made, "approve", "Ada")
    assert chunks.run(mode="none").what == "finished"


def test_a_result_folder_and_its_result_files_are_kept_where_the_user_makes_one(chunks: Chunks) -> None:
    chunks.cut(1)
    os.mkdir(chunks.folder / "results")
    chunks.run()
    found = [json.loads(path.read_text()) for path in Path(chunks.folder, "results").iterdir()]
    assert [(one["item"], one["status"]) for one in found] == [("chunk-01", "success")]


def test_a_chunk_that_another_program_holds_by_its_lock_directory_is_left_to_it(chunks: Chunks) -> None:
    chunks.cut(2)
    key = chunks.made.batch.ref("chunk-01").key
    os.makedirs(chunks.folder / "locks" / key)
    thread = threading.Thread(target=chunks.run, kwargs={"mode": "none"})
    thread.start()
    eventually(lambda: chunks.events and len(results(chunks)) == 1, "the other chunk")
    chunks.stop.soon.set()
    thread.join()
    assert results(chunks) == {"chunk-02": "success"}
    assert "held by a lock directory" in chunks.events[0].text
    assert os.listdir(chunks.folder / "locks") == [key]
