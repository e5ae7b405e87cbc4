"""A queue file is read in blocks of whole lines, verbatim; a torn last line waits for its end."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.queue import source
from hypervisor.queue.source import QueueSource

LEASES = pytest.mark.skipif(not hasattr(fcntl, "F_SETLEASE"), reason="needs F_SETLEASE (Linux)")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.txt"


def opened(path: Path, data: bytes, separator: bytes = b"\n") -> QueueSource:
    path.write_bytes(data)
    return QueueSource(str(path), separator)


def by_blocks(queue: QueueSource, limit: int) -> list[str]:
    """Return all lines, read *limit* at a time."""
    items: list[str] = []
    at = 0
    with open(queue.path, "rb", buffering=0) as file:
        while (block := queue.block(file.fileno(), at, limit)) is not None:
            assert block.stop > at, "a block that does not move on would be read for ever"
            assert len(block.lines) <= limit
            items += block.lines
            at = block.stop
    return items


@pytest.mark.parametrize(
    ("data", "items"),
    [
        (b"", []),
        (b"\n\n \n\t\n\r\n", []),
        (b"a\n\n\nb\n", ["a", "b"]),
        (b"a\na\n", ["a", "a"]),
        (b"a\r\nb\r\n", ["a\r", "b\r"]),
        (b" a \n# b\n", [" a ", "# b"]),
        (b"a\x0bb\x85c\xe2\x80\xa8d\n", ["a\x0bb\udc85c\u2028d"]),
        (b"a\0b\n", ["a\0b"]),
        (b"a\nb", ["a", "b"]),
        (b"\xef\xbb\xbfa\n", ["\ufeffa"]),
    ],
)
def test_a_line_is_one_item_verbatim(path: Path, data: bytes, items: list[str]) -> None:
    queue = opened(path, data)
    assert list(queue.lines()) == items
    assert by_blocks(queue, 1) == items


@pytest.mark.parametrize(
    ("data", "items"),
    [(b"a\nb\0c\0", ["a\nb", "c"]), (b"a\0\0b", ["a", "b"]), (b" \0\n\0", [" ", "\n"]), (b"\0", [])],
)
def test_records_that_end_with_nul(path: Path, data: bytes, items: list[str]) -> None:
    assert list(opened(path, data, b"\0").lines()) == items


_RECORDS = st.binary(min_size=1, max_size=40).filter(lambda b: b"\n" not in b and bool(b.strip()))


@given(st.lists(_RECORDS), st.integers(1, 5), st.integers(1, 64))
def test_bytes_that_are_no_text_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes], limit: int, chunk: int
) -> None:
    queue = opened(tmp_path_factory.mktemp("q") / "queue.txt", b"".join(r + b"\n" for r in records))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "_CHUNK", chunk)
        assert [os.fsencode(item) for item in by_blocks(queue, limit)] == records


def test_lines_longer_than_a_chunk_are_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_CHUNK", 16)
    items = ["x" * 700, "y" * 16, "z" * 15, "w"]
    assert list(opened(path, "\n".join(items).encode() + b"\n").lines()) == items


def test_a_queue_that_is_missing_is_an_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(QueueSource(str(path)).lines())
    assert QueueSource(str(path)).size() == 0


# ------------------------------------------------------------------- torn ends


@LEASES
def test_a_torn_last_line_waits_for_its_writer(path: Path) -> None:
    queue = opened(path, b"one\n")
    with path.open("ab", buffering=0) as writer:
        writer.write(b"two")
        assert list(queue.lines()) == ["one"]
        writer.write(b" halves")
        assert list(queue.lines()) == ["one"]
    assert list(queue.lines()) == ["one", "two halves"]


@LEASES
def test_a_line_that_grew_after_it_was_read_is_not_taken_torn(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer ends between the last read and the question whether there is a writer."""
    queue = opened(path, b"/data/a")
    real, once = fcntl.fcntl, iter([True])

    def late(descriptor: int, command: int, *rest: Any) -> object:
        if command == fcntl.F_SETLEASE and next(once, False):
            with path.open("ab") as file:
                file.write(b"bc\n")
        return real(descriptor, command, *rest)

    monkeypatch.setattr(fcntl, "fcntl", late)
    seen = [*queue.lines(), *queue.lines()]
    assert "/data/a" not in seen
    assert "/data/abc" in seen


def test_without_leases_a_last_line_waits_until_it_has_settled(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(fcntl, "F_SETLEASE", raising=False)
    queue = opened(path, b"one\ntwo")
    assert list(queue.lines()) == ["one"]
    before = path.stat().st_mtime - 60
    os.utime(path, (before, before))
    assert list(queue.lines()) == ["one", "two"]


# -------------------------------------------------------------- where to go on


def start(path: Path, queue: QueueSource, data: bytes, taken: int) -> int | None:
    """Return where reading goes on in *data* when the first *taken* bytes of what was there are taken in."""
    tail = path.read_bytes()[max(0, taken - 64) : taken]
    path.write_bytes(data)
    with path.open("rb", buffering=0) as file:
        return queue.start(file.fileno(), taken, tail)


@pytest.mark.parametrize(
    ("before", "after", "where"),
    [
        (b"a\nb\n", b"a\nb\n", 4),
        (b"a\nb\n", b"a\nb\nc\n", 4),
        (b"a\nb", b"a\nb", 3),
        (b"a\nb", b"a\nb\nc\n", 4),
        (b"a\nb", b"a\nbb\nc\n", 2),
        (b"b", b"bb\n", 0),
        (b"a\nb\n", b"a\n", None),
        (b"a\nb\n", b"", None),
        (b"a\nb\n", b"x\ny\nz\n", None),
    ],
    ids=[
        "the same", "appended", "no end", "ended and appended", "continued", "the first continued",
        "shortened", "emptied", "replaced",
    ],
)  # fmt: skip
def test_reading_goes_on_where_it_stopped(path: Path, before: bytes, after: bytes, where: int | None) -> None:
    queue = opened(path, before)
    assert start(path, queue, after, len(before)) == where
