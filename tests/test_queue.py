"""The queue hands a line out once, and its cursor is a hint that may be lost or damaged."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreography import PATIENCE
from hypervisor.queue import Cursor, Queue

SCRIPTS = str(Path(__file__).parent.parent / "scripts")
LEASES = pytest.mark.skipif(not hasattr(fcntl, "F_SETLEASE"), reason="needs F_SETLEASE (Linux)")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.txt"


def opened(path: Path, data: bytes, separator: bytes = b"\n") -> Queue:
    path.write_bytes(data)
    return Queue(str(path), str(path.with_name("cursor")), separator)


def drained(queue: Queue, block: int = 3) -> list[str]:
    items: list[str] = []
    for _ in range(5_000):  # a cursor that does not move would hand out for ever
        lines = queue.take(block)
        if not lines:
            return items
        items += [line.item for line in lines]
    pytest.fail("the queue never ends")


def started(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start Python in a process of its own, with pipes to talk to it."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": SCRIPTS},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


# ----------------------------------------------------------------- handing out


_TAKE = """
import sys
from hypervisor.queue import Queue
queue = Queue(sys.argv[1], sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
while lines := queue.take(8):
    for line in lines:
        print(line.item)
"""


def test_eight_processes_are_handed_each_line_once(path: Path) -> None:
    items = [f"item {n}" for n in range(2_000)]
    opened(path, "".join(f"{item}\n" for item in items).encode())
    takers = [started(_TAKE, str(path), str(path.with_name("cursor"))) for _ in range(8)]
    for taker in takers:
        assert taker.stdout is not None
        assert taker.stdout.readline() == b"ready\n"
    for taker in takers:
        assert taker.stdin is not None
        taker.stdin.write(b"go\n")
        taker.stdin.flush()
    told = [taker.communicate(timeout=PATIENCE)[0].decode().splitlines() for taker in takers]
    assert sorted(line for lines in told for line in lines) == sorted(items)
    assert [taker.returncode for taker in takers] == [0] * 8


def test_items_come_in_order_and_no_more_than_asked_for(path: Path) -> None:
    queue = opened(path, b"1\n2\n3\n4\n5\n")
    assert [[line.item for line in queue.take(2)] for _ in range(4)] == [["1", "2"], ["3", "4"], ["5"], []]


def test_lines_say_where_they_stand(path: Path) -> None:
    data = b"one\n\n  \ntwo \r\nlast"
    for line in opened(path, data).lines():
        assert data[line.start : line.stop].rstrip(b"\n").decode() == line.item


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
    assert drained(opened(path, data)) == items


@pytest.mark.parametrize(
    ("data", "items"),
    [(b"a\nb\0c\0", ["a\nb", "c"]), (b"a\0\0b", ["a", "b"]), (b" \0\n\0", [" ", "\n"]), (b"\0", [])],
)
def test_records_that_end_with_nul(path: Path, data: bytes, items: list[str]) -> None:
    assert drained(opened(path, data, b"\0")) == items


_RECORDS = st.binary(min_size=1, max_size=40).filter(lambda b: b"\n" not in b and bool(b.strip()))


@given(st.lists(_RECORDS), st.integers(1, 5))
def test_bytes_that_are_no_text_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes], block: int
) -> None:
    queue = opened(tmp_path_factory.mktemp("q") / "queue.txt", b"".join(r + b"\n" for r in records))
    assert [os.fsencode(item) for item in drained(queue, block)] == records


def test_lines_longer_than_a_block_of_reading_are_whole(path: Path) -> None:
    items = ["x" * 70_000, "y" * 65_536, "z" * 65_535, "w"]
    assert drained(opened(path, "\n".join(items).encode() + b"\n")) == items


def test_a_queue_that_is_missing_is_an_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Queue(str(path), str(path.with_name("cursor"))).take(1)


# ------------------------------------------------------------- growing, torn ends


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_lines_that_are_appended_while_draining_are_handed_out(path: Path) -> None:
    queue = opened(path, b"1\n2\n")
    assert [line.item for line in queue.take(8)] == ["1", "2"]
    assert not queue.grown()
    append(path, b"3\n")
    assert queue.grown()
    assert drained(queue) == ["3"]


def test_a_last_line_without_an_end_that_grows_starts_over(path: Path) -> None:
    """Its item has a result already, or will have one: what is handed out twice is claimed once."""
    queue = opened(path, b"1\n2")
    assert drained(queue) == ["1", "2"]
    append(path, b"2\n3\n")
    assert drained(queue) == ["1", "22", "3"]


_WRITE = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
os.write(descriptor, b"two")
print("written", flush=True)
sys.stdin.readline()
os.write(descriptor, b" halves")
os.close(descriptor)
print("closed", flush=True)
sys.stdin.readline()
"""


@LEASES
def test_a_torn_last_line_waits_for_its_writer(path: Path) -> None:
    queue = opened(path, b"one\n")
    writer = started(_WRITE, str(path))
    assert writer.stdout is not None
    assert writer.stdin is not None
    assert writer.stdout.readline() == b"written\n"
    assert drained(queue) == ["one"]
    assert not queue.grown()
    writer.stdin.write(b"\n")
    writer.stdin.flush()
    assert writer.stdout.readline() == b"closed\n"
    assert queue.grown()
    assert drained(queue) == ["two halves"]
    writer.communicate(b"\n", timeout=PATIENCE)


@LEASES
def test_a_line_that_grew_after_it_was_read_is_not_handed_out_torn(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer ends between the last read and the question whether there is a writer."""
    queue = opened(path, b"/data/a")
    real, once = fcntl.fcntl, iter([True])

    def late(descriptor: int, command: int, *rest: Any) -> object:
        if command == fcntl.F_SETLEASE and next(once, False):
            append(path, b"bc\n")
        return real(descriptor, command, *rest)

    monkeypatch.setattr(fcntl, "fcntl", late)
    seen = [line.item for line in queue.lines()] + [line.item for line in queue.lines()]
    assert "/data/a" not in seen
    assert "/data/abc" in seen


_ASK = """
import fcntl, subprocess, sys
from hypervisor import queue
real = fcntl.fcntl
opener = "import os, sys; os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK)"
def slow(descriptor, command, *rest):
    answer = real(descriptor, command, *rest)
    if command == fcntl.F_SETLEASE and rest == (fcntl.F_RDLCK,):
        subprocess.run([sys.executable, "-c", opener, sys.argv[1]], stderr=subprocess.DEVNULL)
    return answer
fcntl.fcntl = slow
print([line.item for line in queue.Queue(sys.argv[1], sys.argv[2]).lines()])
"""


@LEASES
def test_a_writer_that_comes_while_it_is_asked_for_does_not_end_the_reader(path: Path) -> None:
    """Breaking a lease sends its holder SIGIO, which ends a process that does not expect it."""
    opened(path, b"one\ntwo")
    asker = started(_ASK, str(path), str(path.with_name("cursor")))
    told, _ = asker.communicate(timeout=PATIENCE)
    assert asker.returncode == 0
    assert told.startswith(b"['one'")


def test_without_leases_a_last_line_waits_until_it_has_settled(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(fcntl, "F_SETLEASE", raising=False)
    queue = opened(path, b"one\ntwo")
    assert drained(queue) == ["one"]
    before = path.stat().st_mtime - 60
    os.utime(path, (before, before))
    assert drained(queue) == ["two"]


# ------------------------------------------------------------- a cursor is a hint


@pytest.mark.parametrize(
    "damage",
    [b"", b"\0" * 60, b"garbage", b"-1 -1 x\n", b"1 2\n", b"\xff" * 60, b"9" * 200, b"1 0 e"],
    ids=["empty", "zeros", "garbage", "negative", "two words", "no text", "long", "short"],
)
def test_a_damaged_cursor_starts_from_the_top(path: Path, damage: bytes) -> None:
    queue = opened(path, b"first\nsecond\n")
    path.with_name("cursor").write_bytes(damage)
    assert drained(queue) == ["first", "second"]


def test_a_lost_cursor_starts_from_the_top(path: Path) -> None:
    queue = opened(path, b"1\n2\n")
    drained(queue)
    path.with_name("cursor").unlink()
    assert drained(queue) == ["1", "2"]


def test_a_damaged_cursor_is_whole_again_after_it_was_used(path: Path) -> None:
    queue = opened(path, b"1\n2\n")
    path.with_name("cursor").write_bytes(b"x" * 200)
    drained(queue)
    one = queue.cursor()
    assert queue.cursor() == one
    assert one.next == 4
    queue.raise_low(2, one.epoch)
    assert queue.cursor().low == 2


@pytest.mark.parametrize("after", [b"", b"1\n", b"a longer line than before\nand another\n"])
def test_a_queue_that_was_truncated_or_replaced_starts_from_the_top(path: Path, after: bytes) -> None:
    queue = opened(path, b"1\n2\n3\n4\n")
    drained(queue)
    path.write_bytes(after)
    assert drained(queue) == after.decode().splitlines()


def test_a_cursor_is_always_as_long(path: Path) -> None:
    lengths: set[int] = set()
    ends: Iterable[Cursor] = (Cursor(), Cursor(next=10**15, low=10**15, epoch="0123456789abcdef"))
    for cursor in ends:
        data = cursor.to_bytes()
        lengths.add(len(data))
    assert len(lengths) == 1
    assert Cursor.from_bytes(data) == cursor


# ---------------------------------------------------------------- low and epoch


def test_low_rises_and_never_falls(path: Path) -> None:
    queue = opened(path, b"1\n2\n3\n")
    drained(queue)
    epoch = queue.cursor().epoch
    for low, now in ((2, 2), (4, 4), (2, 4)):
        queue.raise_low(low, epoch)
        assert queue.cursor().low == now


def test_a_sweep_of_before_a_reopening_cannot_raise_low(path: Path) -> None:
    queue = opened(path, b"1\n2\n3\n")
    drained(queue)
    before = queue.cursor()
    queue.raise_low(2, before.epoch)
    with queue.reopening():
        pass
    queue.raise_low(6, before.epoch)
    after = queue.cursor()
    assert after.low == 0
    assert after.epoch != before.epoch
    assert after.next == before.next
    queue.raise_low(6, after.epoch)
    assert queue.cursor().low == 6


def test_low_never_stands_behind_what_was_handed_out_from_the_top(path: Path) -> None:
    queue = opened(path, b"1\n2\n3\n4\n")
    drained(queue)
    queue.raise_low(8, queue.cursor().epoch)
    path.write_bytes(b"five\nsix\n")
    assert [line.item for line in queue.take(1)] == ["five"]
    cursor = queue.cursor()
    assert cursor.low <= cursor.next == 5


def test_low_of_a_truncated_queue_is_the_top(path: Path) -> None:
    queue = opened(path, b"1\n2\n3\n4\n")
    drained(queue)
    queue.raise_low(8, queue.cursor().epoch)
    path.write_bytes(b"new\n")
    assert queue.cursor().low == 0
