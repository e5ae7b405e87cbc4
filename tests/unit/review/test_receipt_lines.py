"""Receipts as lines of a body, and how they compare with what is kept of them."""

from __future__ import annotations

import pytest

from hypervisor.review.receipt_audit import compare
from hypervisor.store.receipts import Receipt
from hypervisor.tasks.receipts import missing, receipt_lines, receipts_in, with_receipt


def kept(number: int, line: str = "", *, written: bool = True) -> Receipt:
    text = line or f"- Archived: 2025-11-0{number} | x | y"
    return Receipt(id=number, item=f"m-{number}", line=text, at=0, written=written)


_K = [kept(number) for number in (1, 2, 3)]
_L = [one.line for one in _K]


@pytest.mark.parametrize(
    ("body", "doubts", "expected"),
    [
        (_L, [], []),
        ([_L[2], _L[0], _L[1]], [], []),
        (_L[:2], [], ["missing"]),
        ([*_L, _L[0]], [], ["double"]),
        ([*_L[:2], "- Archived: 2025-12-03 | x | y"], [], ["foreign", "missing"]),
        ([*_L, "- paid the bill"], [], ["foreign"]),
        (_L, ["m-4"], ["in doubt"]),
    ],
)
def test_what_does_not_agree_is_named(body: list[str], doubts: list[str], expected: list[str]) -> None:
    found = list(compare(body, _K, doubts))
    assert [kind for kind, _ in found] == expected
    assert all("m-3" in text for kind, text in found if kind == "missing")


def test_two_items_may_have_the_same_line() -> None:
    twice = [kept(1, "- a"), kept(2, "- a")]
    assert list(compare(["- a", "- a"], twice)) == []
    assert missing(twice, ["- a"]) == [twice[1]]


def test_receipts_are_read_back_wherever_they_were_put() -> None:
    for text in (
        "",
        "x",
        "```\nopen",
        "## Receipts\n\n- a",
        "## Receipts\n- a\n\n## Next\n",
        "## Receipts\r\n- a\r\n",
    ):
        more = with_receipt(with_receipt(text, 0, "- b"), 0, "- c")
        assert receipts_in(more, 0) == [*(["- a"] if "- a" in text else []), "- b", "- c"], text


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("Archived: m-1", []),
        ("- a\n- b\n", ["- a", "- b"]),
        ("\n- a\n\n", ["- a"]),
        ("# A heading", []),
        ("One line.\nAnother.", []),
        ("- a\n  continued\n", []),
        ("", []),
    ],
)
def test_a_text_is_receipts_if_it_is_a_list_of_lines(body: str, lines: list[str]) -> None:
    assert receipt_lines(body) == lines


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_body_grows_by_whole_lines_with_its_own_line_ends(newline: str) -> None:
    text = newline.join(["# Task", "", "## Receipts", "", "- a", "", "## Next", "x", ""])
    more = with_receipt(text, 0, "- b")
    assert more == text.replace(f"- a{newline}", f"- a{newline}- b{newline}")
