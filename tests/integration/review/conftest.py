"""Batches that are cut into chunks, and commands that work on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chunk_place import Chunks
from commands import Shell, shell


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    """A user at a shell."""
    with shell(tmp_path) as made:
        yield made


@pytest.fixture
def chunks(tmp_path: Path) -> Iterator[Chunks]:
    """A batch that a test cuts into chunks."""
    made = Chunks(tmp_path / "work")
    yield made
    made.close()


@pytest.fixture
def reopened(tmp_path: Path) -> Iterator[Callable[[], Chunks]]:
    """Open the same batch as another process does."""
    opened: list[Chunks] = []

    def open_again() -> Chunks:
        opened.append(Chunks(tmp_path / "work"))
        return opened[-1]

    yield open_again
    for one in opened:
        one.close()
