"""Budgets of tokens, money, time and attempts: whether an agent may start, and when one must end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.core.errors import ConfigError
from hypervisor.core.settings import default_settings
from hypervisor.monitor.budget import SCOPES, BudgetTracker, Caps, caps_of, no_more, reached, short_of
from hypervisor.store.spend import Spend


def test_a_budget_below_nothing_is_refused() -> None:
    settings = default_settings()
    settings["budget"]["project"]["usd"] = -1
    with pytest.raises(ConfigError, match=r"budget\.project\.usd"):
        caps_of(settings["budget"])


class Alone:
    """No other run spends anything."""

    def put(self, spend: Spend) -> None:
        pass

    def others(self) -> dict[str, Spend]:
        return {scope: Spend() for scope in SCOPES}


def tracker(answer: int = 1000, **caps: Caps) -> BudgetTracker:
    found = {scope: caps.get(scope, Caps()) for scope in SCOPES}
    return BudgetTracker(found, Alone(), answer)  # type: ignore[arg-type]


def test_each_budget_says_its_figures_when_it_is_used_up() -> None:
    def over(spend: Spend, scope: str = "batch", **caps: float) -> str:
        return no_more({scope: Caps(**caps)}, {scope: spend})

    assert over(Spend(tokens=99), tokens=100) == ""
    assert over(Spend(tokens=100), tokens=100) == "the budget of 100 tokens is used up (100 spent)"
    assert over(Spend(usd=0.5), usd=0.5) == "the budget of 0.5 USD is used up (0.5000 spent)"
    assert over(Spend(seconds=120), seconds=120) == "the budget of 2 minutes is used up (2.0 spent)"
    assert over(Spend(attempts=7), "session", attempts=7) == "the session's budget of 7 attempts is used up"
    assert over(Spend(tokens=10**9, usd=1e9, seconds=1e9, attempts=10**9)) == ""
    # What runs may go on when the last attempt has begun; not when the last token is spent.
    assert reached({"batch": Caps(attempts=7)}, {"batch": Spend(attempts=7)}) == ""


def test_one_more_begins_only_if_its_next_answer_fits() -> None:
    mine = tracker(answer=40_000, batch=Caps(tokens=100_000))
    for mark in "ab":
        assert mine.why_not() == ""
        assert mine.start(mark) == ""
    assert mine.why_not() == (
        "the budget of 100000 tokens has no room for 3 more answers of up to 40000 (0 spent)"
    )
    assert mine.used("a", 5_000, 1, asks_again=True) == ""  # 5,000 + 2 * 40,000
    assert mine.used("b", 20_000, 1, asks_again=False) == ""  # it is done, and asks no more
    assert mine.used("a", 10_000, 1, asks_again=True).endswith("(30000 spent)")
    mine.ended("b", 20_000, None)
    assert mine.used("a", 11_000, 1, asks_again=True) == ""  # there is room again


def test_subagents_count_before_their_first_answer() -> None:
    mine = tracker(answer=10_000, batch=Caps(tokens=100_000))
    assert mine.start("a") == ""
    assert mine.used("a", 10_000, 1, asks_again=True) == ""
    assert mine.used("a", 10_000, 9, asks_again=True) == ""  # 10,000 + 9 * 10,000
    assert "no room for 10 more answers" in mine.used("a", 10_000, 10, asks_again=True)


@settings(deadline=None)
@given(st.data())
def test_a_hard_cap_holds_whatever_agents_spawn(data: st.DataObject) -> None:
    """Agents answer in any order and begin subagents at will; a service counts what it was asked for."""
    cap, largest = 100_000, 10_000
    mine = tracker(answer=largest, batch=Caps(tokens=cap))
    agents: dict[str, list[int]] = {}  # told so far, conversations that wait for an answer
    sent = 0
    for number in range(data.draw(st.integers(1, 60))):
        if data.draw(st.booleans()) and mine.why_not() == "":
            assert mine.start(f"a{number}") == ""
            agents[f"a{number}"] = [0, 1]
        if not agents:
            continue
        mark = data.draw(st.sampled_from(sorted(agents)))
        cost, asked = data.draw(st.integers(1, largest)), agents[mark][1] - 1
        sent += cost
        agents[mark][0] += cost
        agents[mark][1] += data.draw(st.integers(0, 10))
        if mine.used(mark, agents[mark][0], agents[mark][1], asks_again=True):
            mine.ended(mark, None, None, cut=True)  # stopped before it asks again
            sent += largest * asked  # its subagents are answered all the same, and nobody tells of it
            del agents[mark]
        elif data.draw(st.integers(0, 9)) == 0:
            mine.ended(mark, None, None, cut=True)  # killed for another reason
            sent += largest * agents.pop(mark)[1]
        # All that is on its way arrives at its dearest.
        assert sent + largest * sum(talks for _, talks in agents.values()) <= cap


def test_answers_on_their_way_to_an_agent_that_is_ended_are_paid_for() -> None:
    mine = tracker(answer=10_000, batch=Caps(tokens=100_000))
    assert mine.start("a") == ""
    assert mine.used("a", 10_000, 4, asks_again=True) == ""
    mine.ended("a", None, None, cut=True)  # killed: 10,000, and four answers that nobody tells of
    assert mine.why_not() == ""
    assert mine.start("b") == ""
    mine.ended("b", 40_000, 0.1)  # it told its sum
    assert mine.why_not() == ""
    assert mine.start("c") == ""
    mine.ended("c", None, None)  # its service turned it away
    assert mine.why_not() == ""
    assert mine.start("d") == ""
    mine.ended("d", 1, 0.0)
    assert "no room for 1 more answer of up to 10000 (90001 spent)" in mine.why_not()


def test_caps_are_those_of_the_settings_in_minutes() -> None:
    table = default_settings()["budget"]
    assert not any(caps.any for caps in caps_of(table).values())
    table["batch"]["minutes"] = 2
    assert caps_of(table)["batch"] == Caps(seconds=120.0)
    assert short_of({"batch": Caps(usd=1.0)}, {"batch": Spend()}, 9, 10**9) == ""
