"""Spending and merges in the store: what runs share, on both engines."""

from __future__ import annotations

from hypervisor.monitor.budget import SCOPES, BudgetTracker, Caps
from hypervisor.store.spend import Account, Spend, Spending
from hypervisor.store.store import Store
from stores import Database, a_worker, fill, take


def account(
    store: Store, run: str, session: str = "", batch: str = "", within: tuple[str, ...] = ()
) -> Spending:
    made = Account(run=run, batch=batch or f"b-{run}", session=session, within=within)
    return store.spending(made, 3600.0)


def tracker(spending: Spending, **caps: Caps) -> BudgetTracker:
    return BudgetTracker({scope: caps.get(scope, Caps()) for scope in SCOPES}, spending, 0)


def test_runs_of_a_session_and_of_a_project_share_their_budgets(db: Database) -> None:
    store = db.open()
    caps = {"session": Caps(tokens=1000), "project": Caps(tokens=5000)}
    one = tracker(account(store, "1", "s"), **caps)
    two = tracker(account(store, "2", "s"), **caps)
    other = tracker(account(store, "3", "t"), project=Caps(tokens=5000))
    for mine, tokens in ((one, 600), (two, 300), (other, 900)):
        assert mine.start("a") == ""
        mine.used("a", tokens, 1, asks_again=False)
        assert mine.look() == ""
    assert one.look() == ""
    two.used("a", 400, 1, asks_again=False)
    assert two.look() == "the session's budget of 1000 tokens is used up (1000 spent)"
    assert one.look() == two.look()
    assert other.look() == ""  # 1,900 of 5,000 of the project
    other.ended("a", 4000, 0.1)
    assert "the project's budget of 5000 tokens" in other.look()


def test_a_run_within_an_agent_spends_of_the_outer_batch_too(db: Database) -> None:
    store = db.open()
    outer = tracker(account(store, "1"), batch=Caps(tokens=1000))
    inner = tracker(account(store, "2", within=("b-1",)))
    assert inner.start("a") == ""
    inner.used("a", 1000, 1, asks_again=False)
    inner.look()
    assert "is used up (1000 spent)" in outer.look()


def test_what_a_killed_run_told_last_counts_when_its_batch_is_resumed(db: Database) -> None:
    store = db.open()
    killed = tracker(account(store, "1", batch="b"))
    assert killed.start("a") == ""
    killed.used("a", 700, 1, asks_again=False)
    killed.look()
    again = tracker(account(store, "2", batch="b"), batch=Caps(tokens=700))
    assert "(700 spent)" in again.look()


def test_two_runs_of_one_batch_together_start_no_agent_beyond_its_attempts(db: Database) -> None:
    store = db.open()
    caps = Caps(attempts=3)
    one, two = (tracker(account(store, run, batch="b"), batch=caps) for run in "12")
    started = [mine.start(f"{number}") for number in range(3) for mine in (one, two)]
    assert started.count("") == 3
    assert started[3:] == ["the budget of 3 attempts is used up"] * 3


def test_agents_of_other_runs_of_a_session_are_counted_while_their_attempts_are_open(db: Database) -> None:
    store = db.open()
    batch = fill(store, "a", "b")
    worker = a_worker()
    store.claims.add_worker(worker)
    claims = [take(store, worker, batch) for _ in range(2)]
    account(store, worker.id, "s").put(Spend(attempts=2))
    mine = account(store, "other", "s")
    assert mine.at_work_of_session() == 2
    assert account(store, worker.id, "s").at_work_of_session() == 0  # its own are counted by itself
    assert account(store, "third", "t").at_work_of_session() == 0
    store.claims.release(claims[0], "over")
    assert mine.at_work_of_session() == 1


def test_a_merge_is_known_by_its_work_before_git_has_moved_anything(db: Database) -> None:
    store = db.open()
    batch, other = fill(store, "a"), fill(store, "a", name="other")
    worker = a_worker()
    store.claims.add_worker(worker)
    claim = take(store, worker, batch)
    merges = store.merges.of_batch(batch)
    merges.add("c1", claim)
    merges.add("c2", claim)
    merges.set_moved("c1")
    assert merges.of_work(claim.work) == [("c2", False), ("c1", True)]
    assert merges.tips() == [("c1", True), ("c2", False)]
    assert store.merges.of_batch(other).of_work(claim.work) == store.merges.of_batch(other).tips() == []
    assert store.merges.is_known("c1")
    assert not store.merges.is_known("c1", home=True)
    merges.close()
    assert merges.tips() == []
    assert merges.of_work(claim.work) == [("c2", True), ("c1", True)]


def test_a_commit_to_which_a_run_moves_the_users_branch_is_known_as_its_doing(db: Database) -> None:
    store = db.open()
    batch = fill(store, "a")
    store.merges.add_home(batch, "c1")
    assert store.merges.is_known("c1", home=True)
    assert not store.merges.is_known("c2")
    assert store.merges.of_batch(batch).tips() == []


def test_what_attempts_used_is_added_up_by_item_and_by_runner(db: Database) -> None:
    store = db.open()
    batch = fill(store, "a", "b")
    worker = a_worker()
    store.claims.add_worker(worker)
    first = take(store, worker, batch)
    store.claims.set_log(first, "logs/a~1", "claude")
    store.claims.fail(first, "again", tokens=100, cost_usd=0.5)
    second = take(store, worker, batch)
    store.claims.set_log(second, "logs/a~2", "gemini")
    store.claims.fail(second, "again", tokens=50)
    third = take(store, worker, batch)
    store.claims.release(third, "no agent")
    spent = store.batches.spent(batch)
    assert sum(one.attempts for one in spent.values()) == 3
    assert sum(one.tokens or 0 for one in spent.values()) == 150
    by_runner = store.batches.spent_by_runner(batch)
    assert (by_runner["claude"].tokens, by_runner["claude"].cost_usd) == (100, 0.5)
    assert (by_runner["gemini"].tokens, by_runner["gemini"].cost_usd) == (50, None)
    (attempt, *_) = [one for one in store.claims.attempts(first.key) if one.id == first.attempt]
    assert (attempt.log, attempt.runner) == ("logs/a~1", "claude")  # kept when the attempt ends
