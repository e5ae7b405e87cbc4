"""Notices: every end of a session's agents and runs is told at least once, and by one hook at a time."""

from __future__ import annotations

import threading

import pytest

from hypervisor.store.notices import NoticeQueue
from hypervisor.store.records import AgentTask, Claim, WorkerKind
from hypervisor.store.sessions import MAIN
from hypervisor.store.store import Store
from stores import Database, a_worker, done, fill


@pytest.fixture
def store(db: Database) -> Store:
    """A store on each engine."""
    return db.open()


@pytest.fixture
def queue(store: Store) -> NoticeQueue:
    return store.notices("s-1")


def hold(store: Store, task: str, agent: str = "a1", session: str = "s-1") -> Claim:
    worker = a_worker("claude", WorkerKind.SESSION, session=session, agent=agent)
    claim = store.claims.claim(worker, task, f"tasks/{task}.md", task=AgentTask(task=task))
    assert isinstance(claim, Claim)
    return claim


def work(store: Store, *tasks: str) -> None:
    """Let an agent do each of these tasks."""
    for task in tasks:
        store.claims.complete_one(done(hold(store, task)))


def ends(queue: NoticeQueue) -> list[tuple[str, str, str]]:
    return [(one.name, one.end, one.why) for one in queue.pending()]


# ------------------------------------------------------------------ what is told


@pytest.mark.parametrize("status", ["success", "blocked", "failed", "skipped"])
def test_a_result_is_told_with_its_outcome(store: Store, queue: NoticeQueue, status: str) -> None:
    store.claims.complete_one(done(hold(store, "t-1"), status, "said so"))
    assert ends(queue) == [("t-1", "cancelled" if status == "skipped" else status, "said so")]


def test_a_release_and_what_an_agent_left_open_are_ready_again(store: Store, queue: NoticeQueue) -> None:
    store.claims.release(hold(store, "t-1"), "not now")
    hold(store, "t-2")
    store.sessions.release_agent("s-1", "a1", "its worker ended")
    hold(store, "t-3")
    store.claims.revoke(store.sessions.open_claims("s-1")[0].claim.attempt, "tobi released it", counted=False)
    assert ends(queue) == [
        ("t-1", "released", "not now"), ("t-2", "released", "its worker ended"),
        ("t-3", "released", "tobi released it"),
    ]  # fmt: skip


def test_what_a_dead_worker_held_is_told_as_taken_from_it(store: Store, queue: NoticeQueue) -> None:
    store.claims.revoke(hold(store, "t-1").attempt, "the client is gone")
    assert ends(queue) == [("t-1", "taken", "the client is gone")]


def test_a_cancelled_task_is_told_as_cancelled(store: Store, queue: NoticeQueue) -> None:
    hold(store, "t-1")
    store.claims.cancel("t-1", "tasks/t-1.md", {"status": "skipped", "outcome": "no more"}, "tobi")
    assert ends(queue) == [("t-1", "cancelled", "cancelled by tobi")]


def test_what_the_own_thread_ended_it_is_not_told_but_what_the_sessions_end_released(
    store: Store, queue: NoticeQueue
) -> None:
    store.claims.complete_one(done(hold(store, "t-1", MAIN)))
    store.claims.revoke(hold(store, "t-2", MAIN).attempt, "silent")  # hooks stop it at its next edit
    hold(store, "t-3", MAIN)
    store.sessions.end("s-1", "its session ended")
    assert ends(queue) == [("t-3", "released", "its session ended")]


def test_no_other_session_is_told(store: Store, queue: NoticeQueue) -> None:
    work(store, "t-1")
    assert store.notices("s-2").pending() == store.notices("").pending() == []
    assert len(queue.pending()) == 1


def test_the_end_of_a_coordinators_claim_is_the_runs_to_tell(store: Store, queue: NoticeQueue) -> None:
    batch, worker = fill(store, "t-1"), a_worker("coordinator")
    store.claims.add_worker(worker)
    (claim,) = store.claims.claim_next(worker, batch, 1)
    store.sessions.assign("s-1", "a1", claim.attempt, AgentTask(task="t-1"))
    store.claims.complete_one(done(claim))
    assert queue.pending() == []


def test_an_agent_that_left_without_a_task_is_told_of_once(store: Store, queue: NoticeQueue) -> None:
    store.sessions.started("s-1", "a1")
    assert queue.pending() == []
    store.sessions.ended("s-1", "a1")
    store.sessions.ended("s-1", "foreign")  # of which no start was heard
    assert ends(queue) == [("a1", "left", "")]
    queue.settle([queue.offer("Stop")[0]], [])
    store.sessions.started("s-1", "a1")
    store.sessions.ended("s-1", "a1")
    assert queue.pending() == []


def test_an_agent_that_had_a_task_did_not_leave_without_one(store: Store, queue: NoticeQueue) -> None:
    store.sessions.started("s-1", "a1")
    work(store, "t-1")
    store.sessions.ended("s-1", "a1")
    assert [one[1] for one in ends(queue)] == ["success"]


def test_a_runs_end_comes_with_what_its_items_came_to_those_without_success_first(
    store: Store, queue: NoticeQueue
) -> None:
    worker = a_worker()
    store.claims.add_worker(worker)
    early = fill(store, "before", "a", "b", "c", name="b-1")
    store.claims.complete_one(done(store.claims.claim_next(worker, early, 1)[0]))
    store.engine.write(
        lambda tx: tx.run("UPDATE work SET decided_at = decided_at - 1000 WHERE decided_at > 0")
    )
    with store.sessions.background_run("s-1", early) as run:
        for claim, status in zip(
            store.claims.claim_next(worker, early, 3), ("success", "blocked", "failed"), strict=True
        ):
            store.claims.complete_one(done(claim, status, f"{status}!"))
        assert queue.pending() == []
        run.came_to = "1 success, 1 blocked, 1 failed"
    (notice,) = queue.pending()
    assert (notice.name, notice.end, notice.why) == ("b-1", "run", run.came_to)
    items = queue.run_items(notice.run, 20)
    assert [(one.name, one.status, one.outcome) for one in items] == [
        ("path/b", "blocked", "blocked!"), ("path/c", "failed", "failed!"), ("path/a", "success", "success!"),
    ]  # fmt: skip
    assert queue.run_items(notice.run, 2) == items[:2]


# ------------------------------------------------------------------------- once


def test_what_is_offered_or_told_is_no_longer_pending(store: Store, queue: NoticeQueue) -> None:
    work(store, "t-1", "t-2")
    mark, offered = queue.offer("Stop", prompt="p1", place=7)
    assert [one.name for one in offered] == ["t-1", "t-2"]
    assert queue.pending() == []
    (delivery,) = queue.offered()
    assert (delivery.mark, delivery.event, delivery.prompt, delivery.place) == (mark, "Stop", "p1", 7)
    queue.settle([mark], [])
    assert (queue.pending(), queue.offered()) == ([], [])
    work(store, "t-3")
    assert [one[0] for one in ends(queue)] == ["t-3"]


def test_what_is_lost_is_pending_again(store: Store, queue: NoticeQueue) -> None:
    work(store, "t-1")
    for _ in range(10):  # however often a prompt is blocked
        mark, offered = queue.offer("UserPromptSubmit")
        assert len(offered) == 1
        queue.settle([], [mark])
    assert [one[0] for one in ends(queue)] == ["t-1"]


def test_what_did_not_arrive_three_times_although_the_client_went_on_is_dropped(
    store: Store, queue: NoticeQueue
) -> None:
    work(store, "t-1")
    for _ in range(3):
        mark, offered = queue.offer("PostToolUse")
        assert len(offered) == 1
        queue.settle([], [], [mark])
    assert (queue.pending(), queue.offered()) == ([], [])


def test_a_verdict_on_an_earlier_offer_changes_no_later_one(store: Store, queue: NoticeQueue) -> None:
    work(store, "t-1")
    first, _ = queue.offer("Stop")
    queue.settle([], [first])
    second, _ = queue.offer("Stop")
    queue.settle([first], [])
    assert [one.mark for one in queue.offered()] == [second]


def test_a_message_moves_with_the_prompt_that_it_is_a_part_of(store: Store, queue: NoticeQueue) -> None:
    work(store, "t-1")
    mark, _ = queue.offer("watch")
    queue.moved(mark, "UserPromptSubmit", "p2")
    assert [(one.event, one.prompt) for one in queue.offered()] == [("UserPromptSubmit", "p2")]


def test_of_many_hooks_at_once_one_tells(db: Database, store: Store) -> None:
    work(store, *(f"t-{n}" for n in range(20)))
    ready = threading.Barrier(8)
    queues, got = [db.open().notices("s-1") for _ in range(8)], []

    def offer(queue: NoticeQueue) -> None:
        ready.wait(20)
        got.append([one.name for one in queue.offer("PostToolUse")[1]])

    threads = [threading.Thread(target=offer, args=(queue,)) for queue in queues]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(map(len, got)) == [0] * 7 + [20]


def test_what_the_client_is_known_by_is_kept(store: Store, queue: NoticeQueue) -> None:
    assert (queue.transcript, queue.blocks) == ("", 0)
    queue.set_transcript("/x.jsonl")
    queue.set_blocks(3)
    assert (store.notices("s-1").transcript, store.notices("s-1").blocks) == ("/x.jsonl", 3)
