"""Sessions: what agents hold and have lost, how many workers a session runs, which runs it has begun."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hypervisor.core.process import this_process
from hypervisor.store.records import AgentTask, Claim, WorkerKind
from hypervisor.store.sessions import MAIN, Sessions
from hypervisor.store.store import Store
from stores import Database, a_worker, done, fill

RESULT = {"status": "skipped", "outcome": "no longer wanted"}
#: Names that come from outside and could be anything.
ODD = ["../../x", "/etc/passwd", "", ".", "a/b", "x" * 5000, "é🙂", "a\0b", "\ud800", "unknown"]


@pytest.fixture
def store(db: Database) -> Store:
    """A store on each engine."""
    return db.open()


@pytest.fixture
def sessions(store: Store) -> Sessions:
    return store.sessions


def hold(store: Store, task: str, agent: str = "a1", session: str = "s-1", **details: object) -> Claim:
    """Let an agent claim a task."""
    worker = a_worker("claude", WorkerKind.SESSION, session=session, agent=agent)
    claim = store.claims.claim(worker, task, f"tasks/{task}.md", task=AgentTask(task=task, **details))  # type: ignore[arg-type]
    assert isinstance(claim, Claim)
    return claim


def names(claims: list) -> list[str]:  # type: ignore[type-arg]
    return [one.task.task for one in claims]


def silence(store: Store, table: str, column: str, seconds: float) -> None:
    """Let time pass without a sign of life."""
    statement = f"UPDATE {table} SET {column} = {column} - :ms"
    store.engine.write(lambda tx: tx.run(statement, {"ms": round(seconds * 1000)}))


# --------------------------------------------------------------------- claims


def test_an_agents_open_claims_are_its_own_and_in_order(store: Store) -> None:
    first = hold(store, "t-1", receipts=("Bash",), receipts_to="t-all")
    hold(store, "t-2")
    hold(store, "t-3", "a2")
    hold(store, "t-4", "a1", "s-2")
    (one, _) = store.sessions.open_claims("s-1", "a1")
    assert (one.claim, one.task) == (
        first, AgentTask(task="t-1", receipts=("Bash",), receipts_to="t-all")
    )  # fmt: skip
    assert names(store.sessions.open_claims("s-1")) == ["t-1", "t-2", "t-3"]


@pytest.mark.parametrize("how", ["complete", "release"])
def test_a_claim_that_its_worker_ended_is_neither_open_nor_lost(store: Store, how: str) -> None:
    claim = hold(store, "t-1")
    store.claims.complete_one(done(claim)) if how == "complete" else store.claims.release(claim, "not now")
    assert store.sessions.open_claims("s-1") == []
    assert store.sessions.lost_claims("s-1", "a1") == []


def test_a_claim_that_was_taken_away_is_lost_and_says_why(store: Store) -> None:
    claim = hold(store, "t-1")
    store.claims.revoke(claim.attempt, "silent for too long")
    (lost,) = store.sessions.lost_claims("s-1", "a1")
    assert (lost.task.task, lost.status.how, lost.status.why) == ("t-1", "lost", "silent for too long")
    assert store.sessions.lost_claims("s-1", "a2") == store.sessions.lost_claims("s-2", "a1") == []


def test_a_cancelled_claim_says_by_whom_and_why(store: Store) -> None:
    hold(store, "t-1")
    store.claims.cancel("t-1", "tasks/t-1.md", RESULT, "tobi")
    (lost,) = store.sessions.lost_claims("s-1", "a1")
    assert lost.status.why == "cancelled by tobi: no longer wanted"


def test_a_loss_stays_one_when_another_has_finished_the_task(store: Store) -> None:
    store.claims.revoke(hold(store, "t-1").attempt, "silent")
    store.claims.complete_one(done(hold(store, "t-1", "a2")))
    assert names(store.sessions.lost_claims("s-1", "a1")) == ["t-1"]


def test_what_a_worker_lost_is_over_with_its_next_claim_and_mains_is_not(store: Store) -> None:
    for agent in ("a1", MAIN):
        store.claims.revoke(hold(store, f"t-{agent}", agent).attempt, "silent")
        hold(store, f"next-{agent}", agent)
    assert store.sessions.lost_claims("s-1", "a1") == []
    assert names(store.sessions.lost_claims("s-1", MAIN)) == ["t-main"]


def test_a_heartbeat_renews_what_that_agent_holds_and_nothing_else(store: Store) -> None:
    mine, others = hold(store, "t-1"), hold(store, "t-2", "a2")
    hold(store, "t-3", "a1", "s-2")
    silence(store, "attempt", "lease_until", 100)
    before = store.claims.held(others.key)
    assert store.sessions.beat("s-1", "a1") == []
    held, other = store.claims.held(mine.key), store.claims.held(others.key)
    assert held
    assert other
    assert before
    assert held.expires_in > 850_000 > other.expires_in


def test_a_heartbeat_does_not_revive_what_was_lost(store: Store) -> None:
    store.claims.revoke(hold(store, "t-1").attempt, "silent")
    assert names(store.sessions.beat("s-1", "a1")) == ["t-1"]
    assert store.claims.held("t-1") is None


def test_an_agent_that_ended_leaves_no_claim_and_costs_no_attempt(store: Store) -> None:
    hold(store, "t-1")
    hold(store, "t-2", "a2")
    released = store.sessions.release_agent("s-1", "a1", "its worker ended")
    assert names(released) == ["t-1"]
    assert store.claims.held("t-1") is None
    assert store.sessions.lost_claims("s-1", "a1") == []
    (attempt,) = store.claims.attempts("t-1")
    assert (attempt.outcome, attempt.detail, attempt.counted) == ("again", "its worker ended", False)
    assert names(store.sessions.open_claims("s-1")) == ["t-2"]
    assert store.sessions.release_agent("s-1", "a1", "again") == []


def test_the_end_of_a_session_releases_all_of_it_and_nothing_of_another(store: Store) -> None:
    for task, agent, session in (("t-1", MAIN, "s-1"), ("t-2", "a1", "s-1"), ("t-3", "a1", "s-2")):
        hold(store, task, agent, session)
    assert names(store.sessions.end("s-1", "its session ended")) == ["t-1", "t-2"]
    assert store.sessions.open_claims("s-1") == []
    assert names(store.sessions.open_claims("s-2")) == ["t-3"]


def test_the_end_of_an_agent_leaves_the_claim_that_a_coordinator_holds_for_it(store: Store) -> None:
    batch, coordinator = fill(store, "t-1"), a_worker("coordinator")
    store.claims.add_worker(coordinator)
    (claim,) = store.claims.claim_next(coordinator, batch, 1)
    noted = store.sessions.assign("s-1", "a1", claim.attempt, AgentTask(task="t-1"))
    assert (noted.claim, noted.assigned, noted.status.how) == (claim, True, "open")
    assert store.sessions.open_claims("s-1", "a1") == [noted]
    assert store.sessions.release_agent("s-1", "a1", "it ended") == []
    assert store.claims.held("t-1") is not None
    assert store.sessions.open_claims("s-1", "a1") == []


@pytest.mark.parametrize("name", ODD, ids=range(len(ODD)))
def test_an_odd_name_is_a_name_like_any_other(store: Store, name: str, tmp_path: Path) -> None:
    sessions = store.sessions
    assert sessions.open_claims(name, name) == []
    assert sessions.ask(name, name, 8) is None
    sessions.started(name, name or "a", name, background=True)
    assert sessions.beat(name, name) == []
    assert sessions.workers(name) == 1
    assert len(sessions.background_agents(name)) == 1
    assert sessions.ended(name, name or "a")
    assert sessions.first(name, name)
    assert sessions.is_known(name) is bool(name)
    there = {path.name for path in tmp_path.rglob("*")} - {"state"}
    assert not {one for one in there if not one.startswith("hypervisor.db")}


# -------------------------------------------------------------------- workers


def test_a_session_of_which_nothing_is_known_runs_nobody(sessions: Sessions) -> None:
    sessions.beat("s-1", "a1")
    assert not sessions.ended("s-1", "a1")
    assert (sessions.workers("s-1"), sessions.background_agents("s-1")) == (0, [])


def test_a_request_counts_until_its_agent_ends(sessions: Sessions) -> None:
    for use in ("u1", "u2", "u2"):
        sessions.ask("s-1", use, 8)
    assert sessions.workers("s-1") == 2
    sessions.started("s-1", "a1")
    assert sessions.workers("s-1") == 2
    sessions.started("s-1", "a1", "u1", background=True)
    assert sessions.workers("s-1") == 2
    assert sessions.ended("s-1", "a1")
    assert sessions.workers("s-1") == 1
    sessions.started("s-1", "a2")
    assert sessions.ended("s-1", "a2")
    assert not sessions.ended("s-1", "a2")
    assert sessions.workers("s-1") == 0


def test_a_request_over_the_cap_gets_no_place_and_is_told_how_many_run(sessions: Sessions) -> None:
    assert [sessions.ask("s-1", f"u{n}", 2) for n in range(4)] == [None, None, 2, 2]
    assert sessions.ask("s-1", "u0", 2) is None  # it has one
    sessions.withdraw("s-1", "u0")
    assert sessions.ask("s-1", "u3", 2) is None
    assert sessions.ask("s-2", "u0", 2) is None


def test_an_answer_that_comes_after_the_agents_end_does_not_bring_it_back(sessions: Sessions) -> None:
    for use in ("u1", "u2"):
        sessions.ask("s-1", use, 8)
    sessions.started("s-1", "a1")
    sessions.ended("s-1", "a1")
    sessions.started("s-1", "a1", "u1", background=True)  # the launch is told late, on a busy machine
    assert sessions.workers("s-1") == 1
    sessions.started("s-1", "a2")
    assert sessions.workers("s-1") == 1
    assert sessions.background_agents("s-1") == []


def test_an_agent_of_which_only_the_end_was_heard_is_not_brought_back_by_its_answer(
    sessions: Sessions,
) -> None:
    sessions.ask("s-1", "u1", 8)
    assert not sessions.ended("s-1", "a1")
    sessions.started("s-1", "a1", "u1", background=True)
    assert sessions.workers("s-1") == 0


def test_an_agent_that_is_woken_again_counts_again(sessions: Sessions) -> None:
    sessions.ask("s-1", "u1", 8)
    sessions.started("s-1", "a1")
    sessions.ended("s-1", "a1")
    sessions.started("s-1", "a1")
    assert sessions.workers("s-1") == 1


def test_in_whatever_order_agents_start_and_launches_are_answered_each_counts_once(
    sqlite_db: Database,
) -> None:
    # The client gives no order: an answer may come before the start, and starts name no request.
    sessions, wrong = sqlite_db.open().sessions, []
    words = [f"{what}{n}" for n in range(3) for what in ("start", "answer")]
    for number, order in enumerate(itertools.permutations(words)):
        name, counts = f"s-{number}", []
        for use in ("u0", "u1", "u2"):
            sessions.ask(name, use, 8)
        for event in order:
            if event.startswith("start"):
                sessions.started(name, f"a{event[-1]}")
            else:
                sessions.started(name, f"a{event[-1]}", f"u{event[-1]}", background=True)
            counts.append(sessions.workers(name))
        if counts != [3] * 6 or sorted(sessions.background_agents(name)) != ["a0", "a1", "a2"]:
            wrong.append((order, counts))
    assert wrong == []


def test_a_request_that_came_to_nothing_frees_its_place_after_a_while(store: Store) -> None:
    sessions = store.sessions
    sessions.ask("s-1", "u1", 8)
    silence(store, "worker_slot", "until", 29)
    assert sessions.workers("s-1") == 1
    sessions.ask("s-1", "u2", 8)
    silence(store, "worker_slot", "until", 2)
    assert sessions.workers("s-1") == 1
    # The place of a request that is over is not given on: the agent takes that of the other.
    sessions.started("s-1", "a2")
    assert sessions.workers("s-1") == 1


def test_a_worker_that_is_silent_for_a_lease_counts_no_more_until_it_is_heard(store: Store) -> None:
    sessions = store.sessions
    sessions.started("s-1", "a1", background=True)
    silence(store, "worker_slot", "until", 895)
    assert sessions.workers("s-1") == 1
    sessions.beat("s-1", "main")
    sessions.beat("s-1", "a9")
    silence(store, "worker_slot", "until", 10)
    assert sessions.workers("s-1") == 0
    assert sessions.background_agents("s-1") == ["a1"]  # its end is still to be noted
    sessions.beat("s-1", "a1")
    assert sessions.workers("s-1") == 1


def test_a_place_from_before_the_machine_was_started_again_counts_nobody(store: Store) -> None:
    store.sessions.started("s-1", "a1")
    silence(store, "worker_slot", "until", -10_000)  # by the clock of an earlier, longer life of the machine
    assert store.sessions.workers("s-1") == 0


def test_of_twenty_that_ask_at_once_eight_get_a_place(db: Database) -> None:
    got: list[int | None] = []
    ready = threading.Barrier(20)
    stores = [db.open() for _ in range(20)]

    def ask(number: int) -> None:
        ready.wait(20)
        got.append(stores[number].sessions.ask("s-1", f"u{number}", 8))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (got.count(None), got.count(8)) == (8, 12)


# ----------------------------------------------------------------------- runs


def test_a_run_counts_until_it_is_over(store: Store) -> None:
    batch = fill(store)
    with store.sessions.background_run("s-1", batch) as run:
        assert (store.sessions.open_runs("s-1"), store.sessions.open_runs("s-2")) == (1, 0)
        assert store.sessions.is_known("s-1")
        run.came_to = "1 success"
    assert store.sessions.open_runs("s-1") == 0
    assert [(one.end, one.why) for one in store.notices("s-1").pending()] == [("run", "1 success")]


def test_a_run_that_breaks_off_is_over_as_well(store: Store) -> None:
    with pytest.raises(KeyError), store.sessions.background_run("s-1", fill(store)):
        raise KeyError
    (notice,) = store.notices("s-1").pending()
    assert notice.why == "it ended by an error"


def test_a_run_whose_process_died_is_over_for_whoever_looks(store: Store) -> None:
    batch = fill(store, name="b-1")
    process = this_process().to_json()
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    with store.sessions.background_run("s-1", batch):
        store.engine.write(
            lambda tx: tx.run("UPDATE background_run SET pid = :pid", {"pid": int(child.stdout)})
        )
        assert process["pid"] != int(child.stdout)
        assert store.sessions.open_runs("s-1") == 0
        (notice,) = store.notices("s-1").pending()
    assert notice.why == "its coordinator died; resume it with `hypervisor run --resume b-1`"
    assert store.notices("s-1").pending() == [notice]


def test_a_run_of_nobodys_session_is_noted_nowhere(store: Store) -> None:
    with store.sessions.background_run("", fill(store)) as run:
        run.came_to = "x"
    assert store.notices("").pending() == []
    assert store.engine.read("SELECT count(*) FROM background_run") in ([(0,)], [[0]])


@pytest.mark.parametrize("what", ["worker", "claim", "run", "main's claim", "nothing"])
def test_what_is_under_way_is_workers_runs_and_what_other_agents_hold(store: Store, what: str) -> None:
    sessions = store.sessions
    match what:
        case "worker":
            sessions.started("s-1", "a1")
        case "claim" | "main's claim":
            hold(store, "t-1", "a1" if what == "claim" else MAIN)
        case "run":
            with sessions.background_run("s-1", fill(store)):
                assert sessions.under_way("s-1") == 1
            return
    assert bool(sessions.under_way("s-1")) is (what in ("worker", "claim"))


# --------------------------------------------------------------------- client


def test_only_the_first_who_asks_is_the_first(sessions: Sessions) -> None:
    asked = [sessions.first("s-1", "x"), sessions.first("s-1", "x"), sessions.first("s-1", "y")]
    assert asked == [True, False, True]
    assert sessions.first("s-2", "x")


def test_that_the_client_went_on_is_news_once(store: Store) -> None:
    hold(store, "t-1")
    changes = [store.sessions.set_went_on("s-1", went_on=went_on) for went_on in (False, True, True, False)]
    assert changes == [False, True, False, True]


@pytest.mark.parametrize("what", ["worker", "request", "claim", "lost claim", "released", "ended", "nothing"])
def test_a_session_is_idle_once_it_holds_runs_and_has_lost_nothing(store: Store, what: str) -> None:
    sessions = store.sessions
    match what:
        case "worker" | "ended":
            sessions.started("s-1", "a1")
        case "request":
            sessions.ask("s-1", "u1", 8)
        case "claim" | "lost claim" | "released":
            claim = hold(store, "t-1")
            if what == "lost claim":
                store.claims.revoke(claim.attempt, "silent")
            elif what == "released":
                store.claims.release(claim, "not now")
    if what == "ended":
        sessions.ended("s-1", "a1")
    assert sessions.is_idle("s-1") is (what in ("released", "ended", "nothing"))


def test_a_session_of_a_week_ago_is_forgotten_and_one_that_holds_something_is_not(store: Store) -> None:
    store.claims.release(hold(store, "t-1", session="s-old"), "x")
    hold(store, "t-2", session="s-busy")
    silence(store, "session", "seen_at", 8 * 86400)
    store.claims.release(hold(store, "t-3", session="s-new"), "x")
    assert store.sessions.forget_old() == 1
    assert not store.sessions.is_known("s-old")
    assert [len(store.notices(name).pending()) for name in ("s-old", "s-new")] == [0, 1]
    assert names(store.sessions.open_claims("s-busy")) == ["t-2"]


def test_a_session_is_known_that_has_or_had_something(store: Store) -> None:
    assert not store.sessions.is_known("s-1")
    assert not store.sessions.is_known("")
    store.claims.release(hold(store, "t-1"), "x")
    assert store.sessions.is_known("s-1")
    store.sessions.ask("s-2", "toolu_1", 8)
    assert store.sessions.is_known("s-2")
    assert not store.sessions.is_known("s-3")
