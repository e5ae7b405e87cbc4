"""Text of strangers is shown as one printable line, or as short printable blocks."""

from __future__ import annotations

import pytest

from hostile import HOSTILE
from hypervisor.core.text import printable_line, printable_lines


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_line_of_a_stranger_is_one_short_printable_line(text: str) -> None:
    shown = printable_line(text, 100)
    assert shown.isprintable()
    assert len(shown) <= 100
    block = printable_lines(text.encode("utf-8", "surrogateescape"), 60)
    assert all(line.isprintable() for line in block.split("\n"))
    assert max(map(len, block.split("\n"))) <= 2000


def test_colours_go_and_what_was_meant_stays() -> None:
    assert printable_line("\x1b[1;31mred\x1b[0m and\tblue\n") == "red and blue"
    assert printable_line("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\") == "link"
    assert printable_lines(b"10 %\r50 %\r100 %\r\ndone\r\n", 5) == "100 %\ndone"
    assert printable_lines(b"a\nb\nc\n", 2) == "b\nc"
    assert printable_line("שלום עולם") == "שלום עולם"  # letters that read from right to left are no attack
