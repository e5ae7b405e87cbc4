"""What every claim store promises (docs/claims.md). One suite, run over each implementation."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from choreography import DISK_ERRORS, Steps, World, abandon, taken
from hypervisor.claims.directory import DirectoryStore
from hypervisor.claims.port import Attempt, Busy, Claim, Done, Held, ItemState
from hypervisor.core.errors import ClaimLost

OK: Mapping[str, Any] = {"item": "item", "status": "success", "outcome": "fine"}


@pytest.fixture(params=["directory"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Every implementation in turn."""
    assert request.param == "directory"
    with World(str(tmp_path / "store")) as made:
        yield made


def lost(act: Callable[[], object]) -> str:
    """Return the reason for which *act* says that the claim is lost."""
    with pytest.raises(ClaimLost) as caught:
        act()
    return caught.value.loss.reason


# ---------------------------------------------------------------------- claim


def test_a_free_item_is_handed_out_with_a_token_of_its_own(stores: World) -> None:
    store = stores.open()
    one, two = taken(store, "one"), taken(store, "two")
    assert (one.key, one.generation, one.holder) == ("one", 1, store.holder and store.holder.id)
    assert one.token != two.token
    assert len(one.token) >= 32


def test_a_held_item_is_busy_and_says_who_has_it(stores: World) -> None:
    taken(stores.open("ann"))
    answer = stores.open("bob").claim("k", "item")
    assert isinstance(answer, Busy)
    assert "ann" in answer.detail


def test_a_holder_does_not_get_its_own_claim_a_second_time(stores: World) -> None:
    store = stores.open()
    taken(store)
    assert isinstance(store.claim("k", "item"), Busy)


def test_a_finished_item_is_never_handed_out_again(stores: World) -> None:
    store = stores.open()
    store.complete(taken(store), OK)
    assert store.claim("k", "item") == Done(key="k")
    assert stores.open().claim("k", "item") == Done(key="k")


def test_generations_rise_with_every_claim(stores: World) -> None:
    store = stores.open()
    seen = []
    for _ in range(4):
        claim = taken(store)
        seen.append(claim.generation)
        store.release(claim, "not now")
    assert seen == [1, 2, 3, 4]


def test_lives_of_one_item_do_not_touch_each_other(stores: World) -> None:
    store = stores.open()
    store.complete(taken(store, "k"), OK)
    second = taken(store, "k.r2")
    assert second.generation == 1
    assert store.result("k.r2") is None
    store.complete(second, {**OK, "outcome": "again"})
    assert [store.result(key)["outcome"] for key in ("k", "k.r2")] == ["fine", "again"]  # type: ignore[index]


def test_a_store_without_a_holder_can_only_be_looked_at(stores: World) -> None:
    stores.open()
    with pytest.raises(ValueError, match="holder"):
        stores.reader().claim("k", "item")


def test_a_store_that_is_closed_frees_its_claims_at_once(stores: World) -> None:
    store = stores.open()
    taken(store)
    store.close()
    assert taken(stores.open()).generation == 2


def test_a_dead_process_frees_its_claims_at_once(stores: World) -> None:
    store = stores.open()
    taken(store)
    abandon(store)
    assert taken(stores.open()).generation == 2


def test_an_agents_claim_outlives_the_process_that_made_it(stores: World) -> None:
    store = stores.agent(lease_seconds=900.0)
    claim = taken(store)
    store.close()
    assert isinstance(stores.open().claim("k", "item"), Busy)
    stores.open().complete(claim, OK)


# ------------------------------------------------------------------- complete


def test_the_result_is_the_payload_and_whose_it_is(stores: World) -> None:
    store = stores.open()
    claim = taken(store)
    result = store.complete(claim, OK)
    assert result == {**OK, "key": "k", "generation": 1, "token": claim.token}
    assert stores.reader().result("k") == result


def test_a_payload_cannot_name_another_owner(stores: World) -> None:
    store = stores.open()
    claim = taken(store)
    result = store.complete(claim, {**OK, "token": "forged", "generation": 9, "key": "other"})
    assert (result["token"], result["generation"], result["key"]) == (claim.token, 1, "k")


def test_completing_twice_is_accepted_twice_with_the_first_payload(stores: World) -> None:
    store = stores.open()
    claim = taken(store)
    first = store.complete(claim, OK)
    assert store.complete(claim, {**OK, "outcome": "another"}) == first
    assert stores.reader().complete(claim, {**OK, "outcome": "another"}) == first
    assert stores.reader().result("k") == first


def test_any_process_that_has_the_claim_may_complete_it(stores: World) -> None:
    claim = taken(stores.agent())
    assert stores.open().complete(claim, OK)["token"] == claim.token


def test_a_large_payload_of_any_text_comes_back_as_it_was(stores: World) -> None:
    store = stores.open()
    text = '\0\n"é\U0001f600\u2028' + "x" * 1_000_000
    assert store.complete(taken(store), {**OK, "outcome": text})["outcome"] == text


def test_there_is_no_result_before_completion(stores: World) -> None:
    store = stores.open()
    assert store.result("k") is None
    taken(store)
    assert store.result("k") is None


# ------------------------------------------------------------------ ClaimLost


@pytest.mark.parametrize("act", ["complete", "release", "fail", "beat", "annotate"])
def test_a_revoked_claim_can_do_nothing_more(stores: World, act: str) -> None:
    store = stores.open()
    claim = taken(store)
    assert stores.open("boss").revoke("k", "cancelled by the user")
    acts: dict[str, Callable[[], object]] = {
        "complete": lambda: store.complete(claim, OK),
        "release": lambda: store.release(claim, "x"),
        "fail": lambda: store.fail(claim, "x"),
        "beat": lambda: store.beat(claim),
        "annotate": lambda: store.annotate(claim, {}),
    }
    assert lost(acts[act]) == "revoked"
    assert store.result("k") is None
    assert taken(stores.open()).generation == 2


def test_a_loss_says_why_and_who(stores: World) -> None:
    store = stores.open()
    claim = taken(store)
    stores.open("boss").revoke("k", "cancelled by the user")
    with pytest.raises(ClaimLost) as caught:
        store.beat(claim)
    loss = caught.value.loss
    assert (loss.key, loss.generation, loss.reason) == ("k", 1, "revoked")
    assert "cancelled by the user" in loss.detail
    assert "boss" in loss.detail


def test_a_released_claim_cannot_complete(stores: World) -> None:
    store = stores.open()
    claim = taken(store)
    store.release(claim, "not now")
    assert lost(lambda: store.complete(claim, OK)) == "released"
    assert lost(lambda: store.beat(claim)) == "released"


def test_releasing_twice_is_once(stores: World) -> None:
    store = stores.open()
    claim = taken(store)
    store.release(claim, "not now")
    store.release(claim, "not now")
    assert len(store.attempts("k")) == 1


def test_a_claim_of_a_finished_item_is_lost_as_finished(stores: World) -> None:
    old = stores.agent(lease_seconds=0.0)
    claim = taken(old)
    new = stores.open()
    new.complete(taken(new), OK)
    for act in (
        lambda: old.complete(claim, OK),
        lambda: old.release(claim, "x"),
        lambda: old.fail(claim, "x"),
        lambda: old.beat(claim),
        lambda: old.annotate(claim, {}),
    ):
        assert lost(act) == "finished"


def test_a_completed_claim_cannot_be_released(stores: World) -> None:
    store = stores.open()
    claim = taken(store)
    result = store.complete(claim, OK)
    assert lost(lambda: store.release(claim, "x")) == "finished"
    assert store.result("k") == result


def test_a_token_that_is_not_the_owners_is_lost_as_taken(stores: World) -> None:
    store = stores.open()
    claim = taken(store)
    forged = Claim(key="k", generation=1, token="0" * 32, holder=claim.holder)
    for act in (
        lambda: store.complete(forged, OK),
        lambda: store.release(forged, "x"),
        lambda: store.beat(forged),
    ):
        assert lost(act) == "taken"
    assert store.complete(claim, OK)


def test_a_claim_that_nobody_knows_is_lost_as_gone(stores: World) -> None:
    store = stores.open()
    forged = Claim(key="k", generation=1, token="0" * 32, holder="nobody")
    assert lost(lambda: store.complete(forged, OK)) == "gone"
    assert lost(lambda: store.beat(forged)) == "gone"
    assert lost(lambda: store.release(forged, "x")) == "gone"


# ---------------------------------------------------------- attempts, give up


def test_a_release_costs_no_attempt(stores: World) -> None:
    store = stores.open(attempts=2)
    for _ in range(9):
        store.release(taken(store), "back-out")
    assert isinstance(store.claim("k", "item"), Claim)
    assert not any(attempt.counted for attempt in store.attempts("k"))


def test_a_cancellation_costs_no_attempt(stores: World) -> None:
    store = stores.open(attempts=2)
    for _ in range(3):
        taken(store)
        store.revoke("k", "cancelled")
    assert isinstance(store.claim("k", "item"), Claim)


def test_failures_and_deaths_count_and_what_is_known_of_each_is_kept(stores: World) -> None:
    store = stores.open(attempts=3)
    store.fail(taken(store), "exit 1: no such host")
    dying = stores.open("victim")
    taken(dying)
    abandon(dying)
    store.release(taken(store), "drain")
    found = store.attempts("k")
    assert [(a.generation, a.how, a.counted) for a in found] == [
        (1, "released", True), (2, "revoked", True), (3, "released", False)
    ]  # fmt: skip
    assert "no such host" in found[0].detail
    assert "victim" in found[1].detail


def test_an_item_is_given_up_after_its_attempts_with_what_is_known_of_each(stores: World) -> None:
    store = stores.open(attempts=2)
    store.fail(taken(store), "first trouble")
    store.fail(taken(store), "second trouble")
    assert store.claim("k", "the item") == Done(key="k")
    result = store.result("k")
    assert result is not None
    assert (result["status"], result["item"], result["generation"]) == ("failed", "the item", 3)
    for words in ("gave up after 2 attempts", "first trouble", "second trouble"):
        assert words in result["outcome"]


def test_what_is_said_of_a_given_up_item_is_the_callers(stores: World) -> None:
    def give_up(item: str, attempts: list[Attempt]) -> Mapping[str, Any]:
        return {"item": item, "status": "failed", "tries": [a.detail for a in attempts]}

    store = stores.open(attempts=1, give_up=give_up)
    store.fail(taken(store), "trouble")
    assert store.claim("k", "it") == Done(key="k")
    assert (store.result("k") or {})["tries"] == ["trouble"]


def test_the_first_claim_is_made_whatever_the_limit(stores: World) -> None:
    assert taken(stores.open(attempts=1)).generation == 1


def test_a_reason_of_any_length_and_text_is_kept_or_cut(stores: World) -> None:
    store = stores.open(attempts=9)
    for reason in ("", "a:b:c", "line\nline", "x" * 100_000, "é" * 2_000):
        store.fail(taken(store), reason)
    details = [attempt.detail for attempt in store.attempts("k")]
    assert details[:3] == ["", "a:b:c", "line line"]
    assert details[3].startswith("x" * 100)
    assert details[4].startswith("é" * 100)


# ----------------------------------------------------- beat, annotate, looks


def test_a_beat_keeps_the_claim(stores: World) -> None:
    store = stores.agent()
    claim = taken(store)
    store.beat(claim)
    held = store.held("k")
    assert held is not None
    assert held.silent_seconds < 60


def test_a_note_is_read_by_others_and_outlives_its_writer(stores: World) -> None:
    store = stores.agent()
    claim = taken(store)
    store.annotate(claim, {"status": "active", "assignee": "nic"})
    store.close()
    held = stores.reader().held("k")
    assert held is not None
    assert held.note == {"status": "active", "assignee": "nic"}


def test_held_says_who_and_which_claim(stores: World) -> None:
    store = stores.open("ann", lease_seconds=77.0)
    claim = taken(store)
    held = stores.reader().held("k")
    assert isinstance(held, Held)
    assert (held.key, held.generation, held.token) == ("k", 1, claim.token)
    assert held.holder == store.holder
    assert held.note == {}


def test_nobody_holds_what_is_free_or_finished(stores: World) -> None:
    store = stores.open()
    assert store.held("k") is None
    claim = taken(store)
    store.release(claim, "x")
    assert store.held("k") is None
    store.complete(taken(store), OK)
    assert store.held("k") is None


def test_a_snapshot_tells_finished_from_held_from_waiting(stores: World) -> None:
    store, dying = stores.open(), stores.open()
    store.complete(taken(store, "finished"), OK)
    taken(store, "held")
    store.release(taken(store, "released"), "x")
    taken(dying, "dead")
    abandon(dying)
    assert stores.reader().snapshot(["finished", "held", "released", "dead", "never seen"]) == {
        "finished": ItemState.FINISHED,
        "held": ItemState.HELD,
        "released": ItemState.WAITING,
        "dead": ItemState.WAITING,
        "never seen": ItemState.WAITING,
    }


# ------------------------------------------------------------- revoke and reap


def test_only_an_open_claim_can_be_revoked(stores: World) -> None:
    store = stores.open()
    assert not store.revoke("k", "why not")
    claim = taken(store)
    assert store.revoke("k", "why not")
    assert not store.revoke("k", "why not")
    claim = taken(store)
    store.complete(claim, OK)
    assert not store.revoke("k", "why not")
    assert store.result("k") is not None


def test_reaping_frees_the_dead_and_the_silent_and_nobody_else(stores: World) -> None:
    live, dying, silent = stores.open(), stores.open(), stores.agent(lease_seconds=0.0)
    patient = stores.agent(lease_seconds=900.0)
    mine = taken(live, "live")
    taken(dying, "dead")
    taken(silent, "silent")
    waiting = taken(patient, "agent")
    abandon(dying)
    assert sorted(stores.open().reap()) == ["dead", "silent"]
    live.beat(mine)
    patient.beat(waiting)
    for key in ("dead", "silent"):
        assert taken(stores.open(), key).generation == 2


def test_reaping_looks_only_where_it_is_told(stores: World) -> None:
    dying = stores.open()
    taken(dying, "one")
    taken(dying, "two")
    abandon(dying)
    assert stores.open().reap(["two", "unknown"]) == ["two"]
    assert taken(stores.open(), "two").generation == 2


def test_tidying_leaves_nothing_of_finished_items_and_keeps_the_others(stores: World) -> None:
    store = stores.open()
    store.complete(taken(store, "one"), OK)
    claim = taken(store, "two")
    store.tidy()
    store.beat(claim)
    assert stores.reader().snapshot(["one", "two"]) == {"one": ItemState.FINISHED, "two": ItemState.HELD}


# -------------------------------------------------------------------- effects


def test_effects_are_there_before_the_result_is(stores: World) -> None:
    seen: list[tuple[Mapping[str, Any], bool, bool]] = []

    def effects(result: Mapping[str, Any], unpublished: Callable[[], bool]) -> None:
        seen.append((result, unpublished(), stores.reader().result("k") is None))

    store = stores.open(effects=effects)
    result = store.complete(taken(store), OK)
    assert seen == [(result, True, True)]


def test_effects_are_not_called_for_what_is_published(stores: World) -> None:
    calls: list[str] = []
    store = stores.open(effects=lambda result, unpublished: calls.append(str(result["token"])))
    claim = taken(store)
    store.complete(claim, OK)
    store.complete(claim, OK)
    store.claim("k", "item")
    store.reap()
    store.tidy()
    assert calls == [claim.token]


def test_a_repeated_completion_repeats_the_effects_until_they_pass(stores: World) -> None:
    calls: list[str] = []

    def effects(result: Mapping[str, Any], unpublished: Callable[[], bool]) -> None:
        calls.append(str(result["outcome"]))
        if len(calls) == 1:
            raise OSError(errno.EACCES, "the task file cannot be written")

    store = stores.open(effects=effects)
    claim = taken(store)
    with pytest.raises(PermissionError):
        store.complete(claim, OK)
    assert store.result("k") is None
    assert store.complete(claim, {**OK, "outcome": "another"})["outcome"] == "fine"
    assert calls == ["fine", "fine"]


def test_effects_learn_that_another_has_published_meanwhile(stores: World) -> None:
    told: list[bool] = []

    def slow(result: Mapping[str, Any], unpublished: Callable[[], bool]) -> None:
        told.append(unpublished())
        # Whoever finds the decided end publishes it, and the owner may then reopen the task.
        assert stores.open().claim("k", "item") == Done(key="k")
        told.append(unpublished())

    store = stores.open(effects=slow)
    store.complete(taken(store), OK)
    assert told == [True, False]


def test_a_given_up_item_has_effects_too(stores: World) -> None:
    seen: list[object] = []
    store = stores.open(attempts=1, effects=lambda result, unpublished: seen.append(result["status"]))
    store.fail(taken(store), "x")
    store.claim("k", "item")
    assert seen == ["failed"]


# --------------------------------------------------------------------- errors


@pytest.mark.parametrize("code", DISK_ERRORS)
def test_an_error_at_the_results_is_raised_and_never_taken_for_no_result(stores: World, code: int) -> None:
    files = Steps()
    store = stores.open(files=files)
    files.fail("exists", "/results/", code=code, last=99)
    files.fail("read", "/results/", code=code, last=99)
    for act in (lambda: store.claim("k", "item"), lambda: store.result("k"), lambda: store.reap(["k"])):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is compared below
            act()
        assert caught.value.errno == code
    assert not os.listdir(os.path.join(stores.root, "locks"))


@pytest.mark.parametrize("code", DISK_ERRORS)
@pytest.mark.parametrize("name", ["exists", "readlink", "write_new", "link", "sync"])
def test_an_undecided_completion_is_raised_and_can_be_repeated(stores: World, name: str, code: int) -> None:
    files = Steps()
    store = stores.open(files=files)
    claim = taken(store)
    files.forget()
    files.fail(name, code=code)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is compared below
        store.complete(claim, OK)
    assert caught.value.errno == code
    assert store.complete(claim, OK)["token"] == claim.token


@pytest.mark.parametrize(("name", "part"), [("write_new", "/r."), ("link", "/end"), ("link", "/results/")])
def test_a_completion_that_finds_nothing_where_its_claim_still_is_is_undecided_and_not_lost(
    world: World, name: str, part: str
) -> None:
    """`No such file` means lost only where the claim's directory is gone."""
    files = Steps()
    store = world.open(files=files)
    claim = taken(store)
    files.fail(name, part, code=errno.ENOENT)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - it is no ClaimLost, which is no OSError
        store.complete(claim, OK)
    assert caught.value.errno in (errno.EIO, errno.ENOENT)
    assert store.complete(claim, OK)["token"] == claim.token


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_results_that_may_not_be_read_are_an_error(stores: World) -> None:
    store = stores.open()
    results = os.path.join(stores.root, "results")
    os.chmod(results, 0)
    try:
        with pytest.raises(PermissionError):
            store.claim("k", "item")
    finally:
        os.chmod(results, 0o755)


def test_a_full_disk_does_not_stop_a_release(stores: World) -> None:
    files = Steps()
    store = stores.open(files=files)
    claim = taken(store)
    files.fail("symlink", "/end", code=errno.ENOSPC)
    store.release(claim, "a long reason")
    assert [(a.how, a.counted) for a in store.attempts("k")] == [("released", False)]


# ---------------------------------------------- what stands where (docs/claims.md)


def test_the_claims_directory_shows_unfinished_items_only(world: World) -> None:
    store = world.open()
    store.release(taken(store, "a"), "x")
    store.complete(taken(store, "a"), OK)
    taken(store, "b")
    assert os.listdir(os.path.join(world.root, "locks")) == ["b"]
    assert os.listdir(os.path.join(world.root, "results")) == ["a.json"]
    assert os.listdir(os.path.join(world.root, "trash")) == []


def test_an_owner_can_be_read_by_a_person(world: World) -> None:
    store = world.open("ann")
    taken(store)
    owner = json.loads(os.readlink(os.path.join(world.root, "locks", "k", "owner")))
    assert (owner["name"], owner["pid"], owner["kind"]) == ("ann", os.getpid(), "process")


def test_the_longest_owner_and_end_fit_a_link(world: World) -> None:
    store = DirectoryStore(world.root, None)
    holder = world.holder("n" * 5_000)
    store = DirectoryStore(world.root, holder)
    claim = taken(store)
    store.fail(claim, "é" * 5_000)
    assert len(store.attempts("k")) == 1
    store.close()
