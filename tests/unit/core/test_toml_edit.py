"""Setting one value of a TOML file."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.core.errors import Refused
from hypervisor.core.toml_edit import set_value, toml_literal

FILE = """# Mine.

[claims]          # leases
attempts = 5      # not three
lease_seconds = 60

# Nobody is called nic.
[triage]
person = "a # b"  # no comment inside
names = [
  "x",
]

[[agents.rules]]
agent = "claude"

[status.words]
later = 'inbox'
"""


@pytest.mark.parametrize(
    ("key", "value", "old", "new"),
    [
        ("claims.attempts", 7, "attempts = 5      # not three", "attempts = 7      # not three"),
        ("triage.person", "ann", 'person = "a # b"  # no', 'person = "ann"  # no'),
        ("triage.names", ["y"], 'names = [\n  "x",\n]\n', 'names = ["y"]\n'),
        ("status.words.later", "done", "later = 'inbox'", 'later = "done"'),
        ("claims.beat_seconds", 1.5, "lease_seconds = 60\n", "lease_seconds = 60\nbeat_seconds = 1.5\n"),
        ("status.words.odd one", "done", "later = 'inbox'\n", 'later = \'inbox\'\n"odd one" = "done"\n'),
        ("run.turns", 1, "later = 'inbox'\n", "later = 'inbox'\n\n[run]\nturns = 1\n"),
    ],
)
def test_one_value_changes_and_every_other_byte_stays(key: str, value: Any, old: str, new: str) -> None:
    parts = ["status", "words", "odd one"] if "odd" in key else key.split(".")
    assert set_value(FILE, parts, value) == FILE.replace(old, new)


def test_a_file_with_crlf_and_no_last_line_end_keeps_its_line_ends() -> None:
    assert set_value("[a]\r\nb = 1", ["a", "c"], True) == "[a]\r\nb = 1\r\nc = true\r\n"
    assert set_value("[a]\r\nb = 1", ["a", "b"], 2) == "[a]\r\nb = 2"
    assert set_value("", ["a", "b"], 2) == "[a]\nb = 2\n"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[a]\nb = [\n  1,  # one\n]\n", ["a", "b"]),  # the comment would be lost
        ("a = { b = 1 }\n", ["a", "b"]),
        ("[[a]]\nb = 1\n", ["a", "b"]),
        ("a = 1\n", ["a", "b"]),
    ],
)
def test_what_would_change_more_than_the_value_is_refused(text: str, key: list[str]) -> None:
    with pytest.raises(Refused, match="by hand"):
        set_value(text, key, 2)


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**60), 2**60) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
def test_every_value_is_read_back_from_its_literal(value: Any) -> None:
    assert tomllib.loads(f"x = {toml_literal(value)}")["x"] == value
