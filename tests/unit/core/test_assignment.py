"""The report of an agent: what is no regular file of some lines is no report, and a report is read once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hypervisor.core.assignment import AssignedTask, take_report

WORD = b'{"kind": "done", "text": "x"}'


def _link(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(WORD)
    path.symlink_to(other)


NO_REPORTS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda _: None,
    "a folder": os.mkdir,
    "a pipe": os.mkfifo,
    "a link": _link,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "too long": lambda path: path.write_bytes(WORD + b" " * (1 << 20)),
    "no JSON": lambda path: path.write_bytes(b"}{"),
    "not UTF-8": lambda path: path.write_bytes(b'{"kind": "\xff"}'),
    "too deep": lambda path: path.write_bytes(b"[" * 200_000),
    "a list": lambda path: path.write_bytes(b"[1]"),
    "another word": lambda path: path.write_bytes(b'{"kind": "success"}'),
}


@pytest.mark.parametrize("what", NO_REPORTS)
def test_what_is_no_report_counts_as_none(tmp_path: Path, what: str) -> None:
    path = tmp_path / "report.json"
    NO_REPORTS[what](path)
    assert take_report(str(path)) is None


def test_a_report_is_taken_once(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    AssignedTask(task="t-1", attempt=1, report_path=str(path)).report("done", text="x", commit="")
    assert take_report(str(path)) == {"kind": "done", "text": "x"}
    assert take_report(str(path)) is None
