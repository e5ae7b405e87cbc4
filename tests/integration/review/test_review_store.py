"""The review of chunks in the store: each guard holds in the statement itself, on both engines."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from hypervisor.store.records import Item
from hypervisor.store.review import Review
from hypervisor.store.review_records import ApprovalGate, ChunkItem, Note, Wave, WaveDecision
from hypervisor.store.store import Store
from stores import Database, a_worker, done

CHUNKS = {"a": ("i1", "i2"), "b": ("i3",)}


@pytest.fixture
def store(db: Database) -> Store:
    return db.open()


@pytest.fixture
def batch(store: Store) -> int:
    """Return a batch of two chunks, planned."""
    made = store.batches.create("work", ".", {})
    keep(store, made.id, 0, *CHUNKS)
    return made.id


def keep(store: Store, batch: int, version: int, *names: str, plan: str = "p") -> bool:
    chunks = [Item(key=f"k-{name}", text=name) for name in names]
    items = [ChunkItem(id=item, digest="d", fields={"n": item}) for name in CHUNKS for item in CHUNKS[name]]
    return store.review.keep_plan(batch, {"plan": plan}, version, chunks=chunks, items=items)


def begin(store: Store, batch: int, *names: str, number: int = 1) -> Wave:
    chunks = {name: CHUNKS[name] for name in names or CHUNKS}
    assert store.review.begin_wave(batch, number, chunks, "old", checkpoint=True)
    return store.review.waves(batch)[-1]


def finish(store: Store, batch: int, *names: str) -> None:
    worker = a_worker()
    for name in names or CHUNKS:
        claim = store.claims.claim(worker, f"k-{name}", name, batch=batch)
        store.claims.complete_one(done(claim))  # type: ignore[arg-type]


# ------------------------------------------------------------------------ plans


def test_of_two_who_change_a_plan_one_has_changed_it(store: Store, batch: int) -> None:
    assert keep(store, batch, 1, "a", "b", plan="mine")
    assert not keep(store, batch, 1, "a", "b", plan="theirs")
    assert not keep(store, batch, 0, "a", "b", plan="a first one")
    kept = store.review.plan(batch)
    assert kept is not None
    assert (kept.plan, kept.version) == ({"plan": "mine"}, 2)


def test_a_chunk_that_leaves_the_plan_leaves_the_census_unless_it_has_begun(store: Store, batch: int) -> None:
    assert store.batches.census(batch)["queued"] == 2
    begin(store, batch, "a")
    assert keep(store, batch, 1, "c", plan="other")
    texts = [one.work.text for one in store.batches.items(batch)]
    assert texts == ["a", "c"]


def test_items_keep_their_fields_and_their_order_whatever_their_names(store: Store, batch: int) -> None:
    strange = ["\udcff", "a\0b", "z" * 5000, "\x01"]
    items = [ChunkItem(id=one, digest="d", fields={"v": one, "n": None}) for one in strange]
    assert store.review.keep_plan(batch, {}, 1, chunks=[], items=items)
    found = store.review.items(batch)
    assert list(found) == ["i1", "i2", "i3", *strange]
    assert found["\udcff"].fields == {"v": "\udcff", "n": None}


# ------------------------------------------------------------------------ waves


def test_a_wave_begins_once_with_its_chunks(store: Store, batch: int) -> None:
    begin(store, batch, "a")
    assert not store.review.begin_wave(batch, 1, {"b": CHUNKS["b"]}, "x", checkpoint=True)
    begun = store.review.begun(batch)
    assert {name: (one.items, one.revision) for name, one in begun.items()} == {"a": (("i1", "i2"), 1)}


def test_what_has_begun_never_changes(store: Store, batch: int) -> None:
    begin(store, batch, "a")
    store.review.begin_chunks(batch, {"a": ("other",), "b": CHUNKS["b"]})
    assert store.review.begun(batch)["a"].items == CHUNKS["a"]
    assert store.review.begun(batch)["b"].items == CHUNKS["b"]


def test_a_revision_opens_its_chunks_again_in_the_same_transaction(store: Store, batch: int) -> None:
    wave = begin(store, batch)
    finish(store, batch)
    store.review.add_notes(batch, "a", 1, [Note(item="i1", category="keep")])
    revise = WaveDecision(verdict="revise", by="Ada", criteria="new", chunks=("a",))
    assert store.review.decide(batch, wave, revise)
    waves = store.review.waves(batch)
    assert [(one.number, one.chunks, one.criteria) for one in waves] == [
        (1, ("a", "b"), "old"),
        (2, ("a",), "new"),
    ]
    assert store.review.results(batch).keys() == {"b"}
    assert store.review.notes(batch, "a") == {}
    assert store.batches.census(batch)["ready"] == 1
    latest = store.claims.latest("k-a")
    assert latest is not None
    assert latest.cycle == 2


def test_a_second_decision_of_a_wave_is_refused(store: Store, batch: int) -> None:
    wave = begin(store, batch)
    finish(store, batch)
    assert store.review.decide(batch, wave, WaveDecision(verdict="approve", by="Ada"))
    assert not store.review.decide(batch, wave, WaveDecision(verdict="stop", by="Bob"))
    assert [one.by for one in store.review.waves(batch)[0].decisions] == ["Ada"]


def test_a_wave_that_another_one_follows_is_decided_no_more(store: Store, batch: int) -> None:
    first = begin(store, batch, "a")
    begin(store, batch, "b", number=2)
    assert not store.review.decide(batch, first, WaveDecision(verdict="approve", by="Ada"))


def test_of_many_who_decide_at_once_one_has_decided(db: Database, batch: int) -> None:
    first = db.open()
    wave = begin(first, batch)
    finish(first, batch)
    barrier, answers = threading.Barrier(4), []

    def decide(store: Store, decision: WaveDecision) -> None:
        barrier.wait()
        answers.append(store.review.decide(batch, wave, decision))

    wanted = [
        WaveDecision(verdict="approve", by="a"), WaveDecision(verdict="stop", by="b"),
        WaveDecision(verdict="revise", by="c", criteria="x", chunks=("a",)),
        WaveDecision(verdict="approve", by="d"),
    ]  # fmt: skip
    threads = [threading.Thread(target=decide, args=(db.open(), one)) for one in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False, False, False, True]
    assert len(first.review.waves(batch)[0].decisions) == 1


def test_a_wave_that_is_done_is_told_of_once(store: Store, batch: int) -> None:
    wave = begin(store, batch)
    for _ in range(2):
        store.review.set_opened(batch, wave)
    store.review.decide(batch, wave, WaveDecision(verdict="approve", by="Ada"))
    told = [(one.kind, one.data.get("verdict")) for one in store.events.since(0, batch=batch)]
    assert told == [("checkpoint", None), ("decided", "approve")]


# ------------------------------------------------------------------------ notes


def test_a_note_is_one_however_often_it_is_made(store: Store, batch: int) -> None:
    begin(store, batch, "a")
    add = store.review.add_notes
    assert add(batch, "a", 1, [Note(item="i2", category="keep", rationale="x")]) == 1
    assert add(batch, "a", 1, [Note(item="i2", category="keep", rationale="x")]) == 0
    assert add(batch, "a", 1, [Note(item="i1", category="keep"), Note(item="i2", category="drop")]) == 2
    notes = store.review.notes(batch, "a")
    assert [(one.item, one.category, one.rationale) for one in notes.values()] == [
        ("i2", "drop", ""),
        ("i1", "keep", ""),
    ]


def test_a_worker_of_an_earlier_revision_can_note_no_more(store: Store, batch: int) -> None:
    wave = begin(store, batch)
    finish(store, batch)
    store.review.decide(batch, wave, WaveDecision(verdict="revise", by="x", criteria="y", chunks=("a",)))
    assert store.review.add_notes(batch, "a", 1, [Note(item="i1", category="old")]) is None
    assert store.review.add_notes(batch, "a", 2, [Note(item="i1", category="new")]) == 1
    assert store.review.add_notes(batch, "none", 1, [Note(item="i1", category="new")]) is None
    assert [note.category for note in store.review.notes(batch, "a").values()] == ["new"]


# -------------------------------------------------------------------- approvals


@pytest.fixture
def gate(store: Store, batch: int, tmp_path: Path) -> ApprovalGate:
    """Return the gate of a batch in this store, whose dry run is begun."""
    (tmp_path / "work").mkdir()
    made = ApprovalGate(folder=str(tmp_path / "work"), task="t-10", patterns=("mcp__mail__*",))
    store.review.add_gate(made)
    store.review.add_gate(made)
    store.review.begin_wave(batch, 1, {}, "", checkpoint=True)
    return made


def test_a_gate_is_shut_until_its_dry_run_is_approved_and_after_a_stop(
    store: Store, batch: int, gate: ApprovalGate
) -> None:
    review = store.review
    assert review.gates() == [gate]
    assert "nobody has approved it yet" in (review.shut_for_task("T-10") or "")
    assert review.shut_for_task("t-1") is None
    decide(review, batch, "stop")
    assert review.why_shut(gate) == "Ada has said stop"
    decide(review, batch, "approve")
    assert review.why_shut(gate) == ""
    begin(store, batch, number=2)
    assert review.why_shut(gate) == ""
    decide(review, batch, "stop")
    assert review.why_shut(gate) == "Ada has said stop"
    review.remove_gate(gate.folder)
    assert review.gates() == []


def test_a_gate_whose_folder_is_gone_keeps_nobody(store: Store, gate: ApprovalGate) -> None:
    Path(gate.folder).rmdir()
    assert store.review.shut_for_task("t-10") is None


def decide(review: Review, batch: int, verdict: str) -> None:
    wave = review.waves(batch)[-1]
    assert review.decide(batch, wave, WaveDecision(verdict=verdict, by="Ada"))  # type: ignore[arg-type]


# --------------------------------------------------------------------- receipts


def test_an_item_has_one_receipt_however_often_it_is_told(store: Store) -> None:
    receipts = store.receipts
    for _ in range(2):
        receipts.enter("t", "t.md", "m-1", "- Archived: a")
        receipts.enter("t", "t.md", "m-2", "- Archived: a")
    assert not receipts.enter("t", "t.md", "m-1", "- something else")
    assert receipts.enter("other", "o.md", "m-1", "- Archived: a")
    assert [(one.item, one.line) for one in receipts.of("t")] == [
        ("m-1", "- Archived: a"),
        ("m-2", "- Archived: a"),
    ]


def test_what_was_begun_is_in_doubt_until_it_has_its_receipt(store: Store) -> None:
    receipts = store.receipts
    assert receipts.begin("t", "m-1") == "go"
    assert receipts.begin("t", "m-1") == "in doubt"
    assert receipts.in_doubt("t") == ["m-1"]
    assert receipts.begin("t", "m-1", again=True) == "go"
    for _ in range(2):
        receipts.enter("t", "t.md", "m-1", "- the server said no", failed=True)
    assert receipts.begin("t", "m-1") == "go"
    receipts.enter("t", "t.md", "m-1", "- archived")
    assert receipts.begin("t", "m-1") == receipts.begin("t", "m-1", again=True) == "done"
    assert not receipts.enter("t", "t.md", "m-1", "- too late", failed=True)
    assert receipts.in_doubt("t") == []
    assert [one.line for one in receipts.of("t")] == ["- the server said no", "- archived"]


def test_of_many_who_begin_an_item_one_may_do_it(db: Database) -> None:
    barrier, answers = threading.Barrier(6), []

    def act(store: Store) -> None:
        barrier.wait()
        answers.append(store.receipts.begin("t", "m-1"))

    threads = [threading.Thread(target=act, args=(db.open(),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == ["go", *["in doubt"] * 5]


def test_what_is_not_in_the_body_is_known_until_it_is(store: Store) -> None:
    store.receipts.enter("t", "tasks/\udcff.md", "i", "- x")
    store.receipts.enter("t", "tasks/\udcff.md", "j", "- y")
    assert store.receipts.unwritten() == [("t", "tasks/\udcff.md")]
    store.receipts.set_written([one.id for one in store.receipts.of("t")])
    assert store.receipts.unwritten() == []
    assert all(one.written for one in store.receipts.of("t"))
