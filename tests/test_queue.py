"""The queue hands a line out once, and its cursor is a hint that may be lost or damaged."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from choreography import PATIENCE
from hypervisor.queue.queue import HEAD_BYTES, Cursor, Queue

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
from hypervisor.queue.queue import Queue
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
from hypervisor.queue import queue
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
    [
        b"",
        b"\0" * 60,
        b"garbage",
        b"-1 x\n",
        b"1 2\n",
        b"\xff" * 60,
        b"9" * 200,
        b"1 e",
        b"00000000000000000012 00000000000000000006 0123456789abcdef\n",
    ],
    ids=[
        "empty",
        "zeros",
        "garbage",
        "negative",
        "two words",
        "no text",
        "long",
        "short",
        "of 0.4.0",
    ],
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
    assert path.with_name("cursor").stat().st_size == HEAD_BYTES


@pytest.mark.parametrize("after", [b"", b"1\n", b"a longer line than before\nand another\n"])
def test_a_queue_that_was_truncated_or_replaced_starts_from_the_top(path: Path, after: bytes) -> None:
    queue = opened(path, b"1\n2\n3\n4\n")
    drained(queue)
    path.write_bytes(after)
    assert drained(queue) == after.decode().splitlines()


def test_the_head_of_a_cursor_is_always_as_long(path: Path) -> None:
    for cursor in (Cursor(), Cursor(next=10**15, epoch="0123456789abcdef")):
        data = cursor.to_bytes()
        assert len(data) == HEAD_BYTES
        assert Cursor.from_bytes(data) == cursor


# --------------------------------------------------------------------- segments


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of eight bytes."""
    monkeypatch.setattr("hypervisor.queue.queue.SEGMENT", 8)


@given(
    records=st.lists(st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"").replace(b"\0", b""))),
    nul=st.booleans(),
    ended=st.booleans(),
    more=st.binary(max_size=40),
    length=st.integers(1, 24),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_line_is_in_the_segment_in_which_it_starts(
    path: Path, records: list[bytes], nul: bool, ended: bool, more: bytes, length: int
) -> None:
    separator = b"\0" if nul else b"\n"
    path.write_bytes(separator.join(records) + (separator if ended and records else b""))
    path.with_name("cursor").unlink(missing_ok=True)
    queue = Queue(str(path), str(path.with_name("cursor")), separator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hypervisor.queue.queue.SEGMENT", length)
        _, numbers = queue.unsettled()
        assert numbers == list(range(-(-path.stat().st_size // length)))
        found = [(number, line) for number in numbers for line in queue.segment(number)[0]]
        wholes = [number for number in numbers if queue.segment(number)[1]]
        lines = list(queue.lines())
        with path.open("ab") as file:
            file.write(more)
        assert all(
            queue.segment(number)[0] == [line for at, line in found if at == number] for number in wholes
        )
    assert [line for _, line in found] == lines
    assert all(line.start // length == number for number, line in found)


@pytest.mark.usefixtures("short")
def test_what_is_settled_is_passed_over_by_all(path: Path) -> None:
    queue = opened(path, b"one\ntwo\nthree\nfour\nfive\n")
    other = Queue(queue.path, str(path.with_name("cursor")))
    epoch, numbers = queue.unsettled()
    assert numbers == [0, 1, 2]
    queue.settle(1, epoch)
    assert other.unsettled() == (epoch, [0, 2])
    assert [other.is_settled(number) for number in numbers] == [False, True, False]
    assert drained(other) == ["one", "two", "three", "four", "five"]
    assert queue.unsettled() == (epoch, [0, 2])


@pytest.mark.usefixtures("short")
def test_the_last_segment_may_not_be_settled_until_a_line_begins_behind_it(path: Path) -> None:
    queue = opened(path, b"one\ntwo\nthr")
    assert [queue.segment(number)[1] for number in (0, 1)] == [True, False]
    with path.open("ab") as file:
        file.write(b"ee\n")
    assert [line.item for line in queue.segment(1)[0]] == ["three"]
    assert not queue.segment(1)[1]
    with path.open("ab") as file:
        file.write(b"4\nfive\n")
    assert [line.item for line in queue.segment(1)[0]] == ["three", "4"]
    assert queue.segment(1)[1]


@pytest.mark.usefixtures("short")
def test_a_sweep_of_before_a_reopening_settles_nothing(path: Path) -> None:
    queue = opened(path, b"one\ntwo\nthree\n")
    drained(queue)
    before, _ = queue.unsettled()
    queue.settle(0, before)
    handed = queue.cursor().next
    with queue.reopening():
        pass
    after, numbers = queue.unsettled()
    assert (numbers, queue.cursor().next) == ([0, 1], handed)
    assert after != before
    queue.settle(0, before)
    assert queue.unsettled() == (after, [0, 1])
    assert not queue.is_settled(0)
    queue.settle(0, after)
    assert queue.unsettled() == (after, [1])


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("queue_of", [b"", b"1\n", b"a longer line than before\nand another one\n"])
def test_in_another_queue_nothing_is_settled(path: Path, queue_of: bytes) -> None:
    queue = opened(path, b"one\ntwo\nthree\nfour\n")
    drained(queue)
    queue.settle(0, queue.cursor().epoch)
    path.write_bytes(queue_of)
    assert queue.unsettled()[1] == list(range(-(-len(queue_of) // 8)))


@pytest.mark.usefixtures("short")
def test_a_damaged_head_unsettles_what_was_settled(path: Path) -> None:
    queue = opened(path, b"one\ntwo\nthree\n")
    queue.settle(0, queue.cursor().epoch)
    cursor = path.with_name("cursor")
    cursor.write_bytes(b"x" + cursor.read_bytes()[1:])
    assert queue.unsettled()[1] == [0, 1]
