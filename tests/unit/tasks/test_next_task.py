"""The next task: of the kind that is asked for, the most urgent first, and why there is none."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.core.model import Complexity, Priority, TaskHead, TaskStatus
from hypervisor.tasks.eligibility import Wanted, in_turn, nothing_ready


def task(name: str = "t-1", **changed: Any) -> TaskHead:
    texts = dict.fromkeys(("project", "type", "parent", "receipts_to", "verify"), "")
    lists = dict.fromkeys(("assignee", "depends_on", "files", "needs", "tags", "receipts"), ())
    fields: dict[str, Any] = {"path": f"/p/tasks/{name}.md", "id": name, "title": "T", "complexity": None}
    fields |= {"status": TaskStatus.ACTIVE, "status_word": "active", "priority": Priority.MEDIUM}
    return TaskHead(**{**texts, **lists, **fields, **changed})


# ---------------------------------------------------------------------- wanted


@pytest.mark.parametrize(
    ("wanted", "changed", "asked_for"),
    [
        ({}, {}, True),
        ({"project": "Loans"}, {"project": "loans"}, True),
        ({"project": "loans"}, {"project": "Loans"}, True),
        ({"project": "STRASSE"}, {"project": "straße"}, True),
        ({"project": "loans"}, {"project": "loan"}, False),
        ({"project": "loans"}, {}, False),
        ({}, {"project": "loans"}, True),
        ({"complexity": Complexity.MECHANICAL}, {"complexity": Complexity.MECHANICAL}, True),
        ({"complexity": Complexity.MECHANICAL}, {"complexity": Complexity.MULTI_STEP}, False),
        ({"complexity": Complexity.MECHANICAL}, {}, False),
        ({"among": frozenset({"/p/tasks/t-1.md"})}, {}, True),
        ({"among": frozenset({"/p/tasks/t-2.md"})}, {}, False),
        ({"among": frozenset()}, {}, False),
        ({"project": "a", "among": frozenset({"/p/tasks/t-1.md"})}, {"project": "b"}, False),
    ],
)
def test_only_the_kind_that_is_asked_for_counts(
    wanted: dict[str, Any], changed: dict[str, Any], asked_for: bool
) -> None:
    assert Wanted(**wanted).asks_for(task(**changed)) is asked_for


UNFIT = [Complexity.REQUIRES_JUDGMENT, Complexity.BLOCKED_HUMAN, Complexity.NEEDS_DECOMPOSITION]


@pytest.mark.parametrize("complexity", [None, *Complexity])
def test_what_needs_a_person_is_given_only_to_those_who_ask_for_it(complexity: Complexity | None) -> None:
    one = task(complexity=complexity)
    refusal = Wanted().refusal(one)
    if complexity in UNFIT:
        assert refusal == f"it is {complexity}, which is given only to those who ask for it"
    else:
        assert refusal is None
    assert Wanted(complexity=complexity or Complexity.MECHANICAL).refusal(one) is None


@pytest.mark.parametrize(
    ("has", "needs", "refusal"),
    [
        ((), (), None),
        (("mcp:mail",), (), None),
        ((), ("mcp:mail",), "needs mcp:mail"),
        (("mcp:mail",), ("mcp:mail",), None),
        (("mcp:mail",), ("mcp:mail", "gpu", "vpn"), "needs gpu, vpn"),
        (("MCP:MAIL",), ("mcp:mail",), "needs mcp:mail"),
    ],
)
def test_who_lacks_what_a_task_needs_is_told_what(
    has: tuple[str, ...], needs: tuple[str, ...], refusal: str | None
) -> None:
    assert Wanted(has=frozenset(has)).refusal(task(needs=needs)) == refusal


# --------------------------------------------------------------------- in turn


def some(*priorities: Priority) -> list[TaskHead]:
    return [task(f"t-{number}", priority=priority) for number, priority in enumerate(priorities)]


@given(st.lists(st.sampled_from(Priority), max_size=200))
def test_each_is_given_once_and_none_before_a_more_urgent_one(priorities: list[Priority]) -> None:
    ready = some(*priorities)
    given_out = list(in_turn(ready))
    assert sorted(one.id for one in given_out) == sorted(one.id for one in ready)
    ranks = [one.priority.rank for one in given_out]
    assert ranks == sorted(ranks)
    if ready:
        most_urgent = min(one.priority.rank for one in ready)
        assert given_out[0] is next(one for one in ready if one.priority.rank == most_urgent)


def test_racers_start_at_the_first_and_part_after_it() -> None:
    ready = some(*[Priority.MEDIUM] * 200)
    ways = set()
    for seed in range(20):
        random.seed(seed)
        ways.add(tuple(one.id for one in in_turn(ready)))
    assert len(ways) > 15, "those who ask at once try the same tasks one after the other"
    assert {way[0] for way in ways} == {"t-0"}
    assert len({way[1] for way in ways}) > 5
    for way in ways:
        # Spread, but not so far that what was written first waits to the end.
        assert all(abs(place - int(name[2:])) < 200 for place, name in enumerate(way))
        assert max(int(name[2:]) for name in way[:5]) <= 5 * 32


def test_looking_for_a_turn_leaves_the_list_as_it_is() -> None:
    ready = some(Priority.LOW, Priority.HIGH, Priority.LOW)
    before = list(ready)
    list(in_turn(ready))
    assert ready == before


# --------------------------------------------------------------- nothing ready


def told(*reasons: str) -> str:
    return nothing_ready(Counter(reasons))


def test_who_gets_nothing_is_told_why_the_most_frequent_reason_first() -> None:
    assert told() == "there is no task of this kind; see list_tasks or `hypervisor task list`"
    assert told("cancelled", "already complete", "already complete") == (
        "nothing is ready: 2 already complete; 1 cancelled"
    )
    assert told(*"aaaabbbccdef") == "nothing is ready: 4 a; 3 b; 2 c; 1 d; 2 for other reasons"
