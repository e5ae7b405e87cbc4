"""Events: each transition once and in order, whatever text it carries; a reader misses none."""

from __future__ import annotations

import threading

import pytest

from hypervisor.store.events import RunEvent, TaskEvent
from hypervisor.store.store import Store
from stores import Database, a_worker, done, fill, kinds, take


@pytest.fixture
def store(db: Database) -> Store:
    return db.open()


def test_a_life_of_an_item_is_told_in_order(store: Store) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    store.claims.fail(take(store, worker, batch), "later")
    claim = take(store, worker, batch)
    store.claims.complete_one(done(claim, "blocked", "which account?"))
    events = list(store.events.since(0))
    assert kinds(events) == ["claimed", "released", "claimed", "completed"]
    assert [one.number for one in events] == [1, 1, 2, 2]
    assert (events[1].detail, events[1].outcome) == ("later", "later")
    assert (events[3].detail, events[3].outcome) == ("blocked", "which account?")
    assert {(one.key, one.text, one.worker) for one in events} == {("a", "path/a", "w")}


@pytest.mark.parametrize("text", ['{"at": 1}', "{", "{half", "[1]", "null", "a\nb\u2028c\u00e9", "\ud800\0"])
def test_what_people_say_is_text_whatever_it_looks_like(store: Store, text: str) -> None:
    batch, worker = fill(store, "a"), a_worker()
    store.claims.add_worker(worker)
    store.claims.release(take(store, worker, batch), text)
    *_, released = store.events.since(0)
    assert released.data == {}
    assert released.detail


def test_a_reader_goes_on_where_it_was_and_sees_each_event_once(store: Store) -> None:
    for number in range(3):
        store.events.add(RunEvent.READING, {"n": number})
    place = store.events.last()
    assert list(store.events.since(place)) == []
    store.events.add(RunEvent.HALTED, {"why": "x"})
    (halted,) = store.events.since(place)
    assert (halted.kind, halted.data) == ("halted", {"why": "x"})
    assert [one.id for one in store.events.since(0)] == sorted({one.id for one in store.events.since(0)})


def test_events_about_a_batch_are_those_of_its_runs_and_of_its_items(store: Store) -> None:
    one, two, worker = fill(store, "a"), fill(store, "b", name="two"), a_worker()
    store.claims.add_worker(worker)
    store.events.add(RunEvent.STARTED, {"limit": 2}, batch=one)
    take(store, worker, two)
    take(store, worker, one)
    store.events.add(RunEvent.STARTED, batch=two)
    assert [(event.kind, event.key) for event in store.events.about(one, 0)] == [
        ("started", ""),
        ("claimed", "a"),
    ]
    assert [(event.kind, event.key) for event in store.events.since(0, batch=one)] == [("started", "")]
    assert next(iter(store.events.about(one, 0))).batch_name == "b"


def test_the_kinds_of_items_and_of_runs_are_never_the_same() -> None:
    assert not set(map(str, TaskEvent)) & set(map(str, RunEvent))


def test_events_of_many_writers_are_whole_and_none_is_lost(db: Database) -> None:
    each, writers = 40, [db.open() for _ in range(4)]
    barrier = threading.Barrier(len(writers))

    def write(number: int) -> None:
        barrier.wait()
        for turn in range(each):
            # Of every length up to more than a page takes in one piece.
            writers[number].events.add("note", {"by": number, "turn": turn, "why": "x" * (turn * 217 % 9000)})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(len(writers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [event.data for event in db.open().events.since(0)]
    assert len(found) == each * len(writers)
    for number in range(len(writers)):
        mine = [one for one in found if one["by"] == number]
        assert [one["turn"] for one in mine] == list(range(each))
        assert all(one["why"] == "x" * (one["turn"] * 217 % 9000) for one in mine)
