"""Options that take a time, and how many work at once: the same words on every command."""

from __future__ import annotations

import inspect
import re
from argparse import ArgumentTypeError
from types import ModuleType

import pytest

from hypervisor.cli import batch_worker, chunk_run, clean, learn, run, spawn
from hypervisor.cli.console import time_span


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("5m", 300.0),
        ("12h", 43200.0),
        ("2d", 172800.0),
        ("1w", 604800.0),
        ("1.5m", 90.0),
        ("7", 7.0),
    ],
)
def test_a_time_is_written_with_its_unit_or_in_seconds(text: str, seconds: float) -> None:
    assert time_span(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5 m", "5x", "-5s", "nan", "inf", "1e9"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="must be a time like 30s, 5m or 12h"):
        time_span(text)


def test_an_age_of_what_is_removed_must_have_a_unit() -> None:
    assert clean.age("30d") == 30 * 86400
    with pytest.raises(ArgumentTypeError, match="must have a unit"):
        clean.age("30")


@pytest.mark.parametrize("module", [batch_worker, chunk_run, learn, run, spawn])
def test_how_many_work_at_once_has_the_same_words_everywhere(module: ModuleType) -> None:
    source = inspect.getsource(module)
    assert len(re.findall(r'"-j",\s+"--workers"', source)) == 1
    assert "--jobs" not in source
