"""What a body says outside code and comments."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.documents import markdown

PIECES = [
    *("# T", "## U ##", "Set", "===", "---", "```", "~~~~", "````py", "- ```", "> ~~~", "\t```"),
    *("`a` b", "``", "\\`", "<!-- c -->", "<!--", "-->"),
    *("", "  ", "    x", "- item", "1. one", "| a |", "😀 \u2028 \x85"),
]
BODIES = st.tuples(
    st.lists(st.sampled_from(PIECES)), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans()
).map(lambda t: t[1].join(t[0]) + (t[1] if t[2] else ""))


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("# One\n\n# Two\n", "# One"),
        ("text\n\n  ## Two ##  \n", "  ## Two ##  "),
        ("Title\n=====\ntext", "====="),
        ("Title\n---\n", "---"),
        ("\n---\n\n# After a rule\n", "# After a rule"),
        ("- a list\n---\n# H\n", "# H"),
        ("text\n- a list\n---\n# H\n", "# H"),
        ("| a | b |\n|---|---|\n\n# H", "# H"),
        ("```\n# code\n```\n# Real", "# Real"),
        ("~~~ sh\n# code\n```\n# code too\n~~~~\n# Real", "# Real"),
        ("- step\n  ```\n# code\n  ```\n# Real", "# Real"),
        ("1. step\n\n    ```\n    # code\n\n# Real, as the list has ended", "# Real, as the list has ended"),
        ("> ```\n> # code\n# Real, as the quote has ended", "# Real, as the quote has ended"),
        ("<!-- \n# hidden\n\n# hidden -->\n# Real", "# Real"),
        ("# `code` is a title too", "# `code` is a title too"),
        ("`code`\n======", "======"),
        ("#hashtag\n# Real", "# Real"),
        ("####### seven\n# Real", "# Real"),
        ("    # indented code\n\n# Real", "# Real"),
        ("# CRLF\r\ntext\r\n", "# CRLF"),
        ("\\`\n# Real ` one", "# Real ` one"),
        ("#", "#"),
        ("no heading\n", None),
        ("", None),
        ("```\n# a fence that nobody closed\n", None),
    ],
)
def test_the_first_heading_is_the_first_one_that_a_reader_sees(body: str, line: str | None) -> None:
    assert markdown.first_heading(body) == line


@pytest.mark.parametrize(
    ("body", "seen", "unseen"),
    [
        ("a `[[x]]` b", ["a", "b"], ["[[x]]"]),
        ("a ``[[x]] ` [[y]]`` b", ["b"], ["[[x]]", "[[y]]"]),
        ("a ` [[x]] b", ["[[x]]", "b"], []),
        ("a `open\n\nnext` [[x]]", ["[[x]]"], []),
        ("a \\`[[x]]\\` b", ["[[x]]"], []),
        ("```\n[[x]]\n```\n[[y]]", ["[[y]]"], ["[[x]]"]),
        ("```\n[[x]]\n~~~\n[[y]]", [], ["[[x]]", "[[y]]"]),
        ("````\n[[x]]\n```\n[[y]]\n````\n[[z]]", ["[[z]]"], ["[[x]]", "[[y]]"]),
        ("a <!-- [[x]]\n[[y]] --> [[z]]", ["[[z]]"], ["[[x]]", "[[y]]"]),
        ("a <!-- [[x]]\n\n[[y]] -->", ["[[x]]", "[[y]]"], []),
        ("<!-- [[x]]\n\n[[y]] --> [[z]]", ["[[z]]"], ["[[x]]", "[[y]]"]),
        ("<!-- ``` -->\n[[x]]\n", ["[[x]]"], []),
        ("`<!--` [[x]]", ["[[x]]"], []),
        ("``` no `fence` at all\n[[x]]", ["[[x]]"], []),
    ],
)
def test_prose_is_what_stands_outside_code_and_comments(
    body: str, seen: list[str], unseen: list[str]
) -> None:
    text = markdown.prose(body)
    assert [word for word in seen if word not in text] == []
    assert [word for word in unseen if word in text] == []


@given(BODIES)
def test_prose_keeps_every_place(body: str) -> None:
    text = markdown.prose(body)
    assert len(text) == len(body)
    for now, was in zip(text, body, strict=True):
        assert now == was or (now == " " and was not in "\r\n")


@given(BODIES)
def test_sections_and_lines_lose_nothing(body: str) -> None:
    assert "".join(markdown.lines(body)) == body
    found = markdown.sections(body)
    kept = sum(len(section.text) for section in found)
    headings = sum(heading.end - heading.start for heading in markdown.headings(body))
    assert kept + headings == len(body) or not body.strip() or found[:1] == [] or found[0].level > 0


@given(BODIES)
def test_a_heading_s_places_are_its_own(body: str) -> None:
    for heading in markdown.headings(body):
        assert markdown.lines(body[heading.start : heading.end])[-1].rstrip("\r\n") == heading.line
        assert heading.start == 0 or body[heading.start - 1] in "\r\n"


def test_sections_have_level_title_and_text() -> None:
    body = "before\n# One\na\n## Two ##\nb\n```\n# code\n```\nThree\n-----\nc"
    assert [(s.level, s.title, s.text) for s in markdown.sections(body)] == [
        (0, "", "before\n"),
        (1, "One", "a\n"),
        (2, "Two", "b\n```\n# code\n```\n"),
        (2, "Three", "c"),
    ]


@pytest.mark.parametrize(
    "unit",
    ["`` ` ", "<!-- ", "<!--\n", "```\n", "a ``\n\n", "> - 1. \n", "# \t \t", "-" * 9 + " ", "\\`", "- "],
)
def test_hostile_text_costs_linear_time(unit: str) -> None:
    body = unit * (200_000 // len(unit))
    started = time.process_time()
    markdown.prose(body)
    markdown.sections(body)
    # Some 0.2 s here; a quadratic reading takes minutes.
    assert time.process_time() - started < 10
