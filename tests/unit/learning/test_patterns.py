"""Patterns: read off the dependencies, and arranged for those who ask for one."""

from __future__ import annotations

import pytest

from hypervisor.core.errors import UsageError
from hypervisor.learning.stats import INDEPENDENT, MAP_REDUCE, PIPELINE, arranged, patterns_of


@pytest.mark.parametrize(
    ("tasks", "found"),
    [
        ({"a": [], "b": []}, {}),
        ({"a": [], "b": ["a"], "c": ["b"], "d": []}, dict.fromkeys("abc", PIPELINE)),
        ({"a": [], "b": [], "r": ["a", "b"]}, dict.fromkeys("abr", MAP_REDUCE)),
        ({"b": ["done already"]}, {}),
        ({"r": ["a", "done already"], "a": []}, dict.fromkeys("ra", PIPELINE)),
        ({"a": [], "b": ["a"], "c": [], "r": ["b", "c"], "s": ["r"]},
         {"a": PIPELINE, "b": MAP_REDUCE, "c": MAP_REDUCE, "r": MAP_REDUCE, "s": PIPELINE}),
        ({"a": ["b"], "b": ["a"]}, dict.fromkeys("ab", PIPELINE)),  # a circle, which the scheduler ends
    ],
)  # fmt: skip
def test_a_pattern_is_read_off_what_waits_for_what(
    tasks: dict[str, list[str]], found: dict[str, str]
) -> None:
    assert patterns_of(tasks.items()) == found


@pytest.mark.parametrize(
    ("types", "pattern", "waits"),
    [
        (["", "", ""], INDEPENDENT, [[], [], []]),
        (["", "", ""], PIPELINE, [[], [0], [1]]),
        (["", "", ""], MAP_REDUCE, [[], [], [0, 1]]),
        (["reduce", "map", "map"], MAP_REDUCE, [[1, 2], [], []]),
        (["reduce", "map", "reduce", "map"], MAP_REDUCE, [[1, 3], [], [1, 3], []]),
        ([""], INDEPENDENT, [[]]),
    ],
)
def test_a_pattern_that_is_asked_for_says_what_waits_for_what(
    types: list[str], pattern: str, waits: list[list[int]]
) -> None:
    assert arranged(types, pattern) == waits
    read = patterns_of((str(at), [str(one) for one in others]) for at, others in enumerate(waits))
    assert set(read.values()) <= {pattern}


@pytest.mark.parametrize(
    ("types", "pattern", "word"),
    [
        (["audit"], PIPELINE, "needs two tasks"),
        (["reduce"], MAP_REDUCE, "needs two tasks"),
        (["reduce", "reduce"], MAP_REDUCE, "needs a task that is no reduce"),
    ],
)
def test_too_few_tasks_for_a_pattern_are_refused(types: list[str], pattern: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        arranged(types, pattern)
