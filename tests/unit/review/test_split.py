"""Cutting into chunks: the same input gives the same chunks, none is changed later, nothing is left out."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.core.errors import UsageError
from hypervisor.review.dates import label_of, moment_of, zone_named
from hypervisor.review.split import NONE, Chunk, Cut, SplitItem, cut

MONTHS = Cut.of("month:date")


def labels(chunks: list[Chunk]) -> dict[str, int]:
    return {chunk.label: len(chunk.items) for chunk in chunks}


# ------------------------------------------------------------------------ dates


@pytest.mark.parametrize(
    ("value", "utc", "own", "vienna"),
    [
        ("Fri, 31 Oct 2025 23:30:00 -0800", "2025-11", "2025-10", "2025-11"),
        ("Fri, 31 Oct 2025 23:30:00 -0000", "2025-10", "2025-10", "2025-11"),
        ("Fri, 31 Oct 2025 23:30:00", "2025-10", "2025-10", "2025-10"),
        ("31 Oct 2025 23:30 EST", "2025-11", "2025-10", "2025-11"),
        ("Sat, 01 Nov 2025 00:30:00 +0100 (CET)", "2025-10", "2025-11", "2025-11"),
        ("2025-11-01T00:30:00+01:00", "2025-10", "2025-11", "2025-11"),
        ("2025-10-31T23:30:00Z", "2025-10", "2025-10", "2025-11"),
        ("2025-11-01", "2025-11", "2025-11", "2025-11"),
        ("20251101", "2025-11", "2025-11", "2025-11"),
        ("20251031233000", "2025-10", "2025-10", "2025-10"),
        ("2025-11", "2025-11", "2025-11", "2025-11"),
        ("2025-10-31 23:30:01,123", "2025-10", "2025-10", "2025-10"),
        ("[31/Oct/2025:23:30:01 +0000]", "2025-10", "2025-10", "2025-11"),
        (1761953400, "2025-10", "2025-10", "2025-11"),
        ("1761953400", "2025-10", "2025-10", "2025-11"),
        (1761953400000, "2025-10", "2025-10", "2025-11"),
        (1761953400000000, "2025-10", "2025-10", "2025-11"),
    ],
)
def test_a_date_belongs_to_the_month_that_the_zone_says(
    value: object, utc: str, own: str, vienna: str
) -> None:
    for zone, expected in (("UTC", utc), ("own", own), ("Europe/Vienna", vienna)):
        moment = moment_of(value, zone_named(zone))
        assert moment is not None
        assert label_of(moment, "month") == expected, zone


@pytest.mark.parametrize(
    "value",
    ["", "soon", "Nov 3 12:00:01", True, None, [], "0001-01-01T00:00:00+14:00", "9" * 20 + "e9", 1e300],
)
def test_what_is_no_date_is_none(value: object) -> None:
    assert moment_of(value, zone_named("UTC")) is None


def test_weeks_are_iso_weeks_and_days_follow_the_clock_change() -> None:
    zone = zone_named("Europe/Vienna")
    told = [moment_of(text, zone) for text in ("2024-12-30", "2025-03-29T23:30:00Z", "2025-03-30T21:59:00Z")]
    assert all(told)
    assert label_of(told[0], "week") == "2025-W01"  # type: ignore[arg-type]
    assert {label_of(one, "day") for one in told[1:] if one} == {"2025-03-30"}


def test_a_zone_that_does_not_exist_is_one_line() -> None:
    for name in ("Mars/Base", "../etc/passwd", ""):
        with pytest.raises(UsageError, match="no such time zone"):
            zone_named(name or "/")


# ---------------------------------------------------------------------- cutting

_VALUES = st.one_of(st.none(), st.text(max_size=5), st.dates().map(str), st.integers(0, 2**33))
_HOWS = st.sampled_from(["month:d", "week:d", "day:d", "d", "", "size:7"])


@given(st.lists(_VALUES, max_size=80), _HOWS, st.integers(0, 30), st.randoms())
@settings(max_examples=120, deadline=None)
def test_every_item_is_in_one_chunk_and_none_is_too_large(
    values: list[Any], by: str, most: int, chance: random.Random
) -> None:
    how = Cut.of(by, most)
    items = [SplitItem(id=f"i{n}", value=value) for n, value in enumerate(values)]
    first = items[: len(items) // 2]
    chunks = cut(first, how)
    later = cut(items, how, chunks)
    both = [*chunks, *later]
    assert sorted(item for chunk in both for item in chunk.items) == sorted(item.id for item in items)
    assert len({chunk.id for chunk in both}) == len(both)
    assert len({chunk.label for chunk in both}) == len(both) or by == "d"
    limit = most or (50 if not by else 7 if by == "size:7" else 10**9)
    assert all(0 < len(chunk.items) <= limit for chunk in both)
    assert cut(items, how, both) == []
    if by not in ("", "size:7"):
        mixed = items[:]
        chance.shuffle(mixed)
        assert cut(mixed, how) == cut(items, how)


def test_a_month_that_is_too_big_is_cut_into_equal_parts() -> None:
    items = [SplitItem(id=f"{n:03}", value="2025-11-03") for n in range(101)] + [
        SplitItem(id="x", value="2025-12-01")
    ]
    made = cut(items, Cut.of("month:date", 50))
    assert labels(made) == {"2025-11 1/3": 34, "2025-11 2/3": 34, "2025-11 3/3": 33, "2025-12": 1}


def test_what_comes_later_gets_chunks_of_its_own() -> None:
    first = cut([SplitItem(id="a", value="2025-11-01")], MONTHS)
    items = [
        SplitItem(id=name, value=f"2025-{month}-01") for name, month in (("b", 11), ("a", 11), ("c", 12))
    ]
    second = cut(items, MONTHS, first)
    assert [(chunk.id, chunk.label) for chunk in second] == [
        ("chunk-02", "2025-11 later"),
        ("chunk-03", "2025-12"),
    ]
    third = cut([*items, SplitItem(id="d", value="2025-11-02")], MONTHS, [*first, *second])
    assert [(chunk.id, chunk.label) for chunk in third] == [("chunk-04", "2025-11 later 2")]


def test_two_thousand_records_are_split_without_losing_one() -> None:
    items = [SplitItem(id=f"m-{n:04}", value=f"2025-{n % 12 + 1:02}-{n % 28 + 1:02}") for n in range(2000)]
    chunks = cut(items, Cut.of("month:date", 50))
    assert sum(len(chunk.items) for chunk in chunks) == len({i for c in chunks for i in c.items}) == 2000
    assert len(chunks) == 48
    assert max(len(chunk.items) for chunk in chunks) <= 50


def test_without_a_word_chunks_are_of_a_size_that_one_person_reviews() -> None:
    for count in (1, 19, 50, 51, 99, 120, 1001):
        sizes = [len(chunk.items) for chunk in cut([SplitItem(id=str(n)) for n in range(count)], Cut.of(""))]
        assert sum(sizes) == count
        assert max(sizes) <= 50
        assert min(sizes) >= min(count, 25)
        assert max(sizes) - min(sizes) <= 1


def test_one_sender_is_one_category_however_it_is_written() -> None:
    values = ["Ann <ANN@a.example>", "ann@a.example", '"A. N." <ann@A.example>', "", None]
    made = cut([SplitItem(id=str(n), value=value) for n, value in enumerate(values)], Cut.of("from"))
    assert labels(made) == {"ann@a.example": 3, NONE: 2}


@pytest.mark.parametrize("by", ["month:", "month", "size", "size:0", "size:x", "week:"])
def test_words_that_mean_no_cut_are_refused(by: str) -> None:
    with pytest.raises(UsageError, match="--by"):
        Cut.of(by)
