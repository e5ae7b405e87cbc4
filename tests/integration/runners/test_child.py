"""Running a program for an agent: real processes, as badly behaved as they come."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from commands import alive, eventually, gone
from hypervisor.core.process import marked, this_moment
from hypervisor.runners.base import AgentEnd, Assignment, How
from hypervisor.runners.child import ChildEnd, run_child
from hypervisor.runners.exec import CommandAgent

MIB = 2**20
#: A grandchild in a session of its own that TERM does not end; it says its pid on standard output.
STUBBORN = """
import os, signal, sys, time
heard, said = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("pid", os.getpid(), flush=True)
        os.write(said, b".")
        time.sleep(600)
    os._exit(0)
os.read(heard, 1)
os.wait()
sys.stdout.flush()
"""


def told(folder: Path, **more: Any) -> Assignment:
    """Return an assignment in *folder*."""
    made: dict[str, Any] = {
        "task_id": "t-1",
        "prompt": "",
        "cwd": str(folder),
        "log": str(folder / "logs/t-1"),
        "environment": {"PATH": os.defpath},
        "mark": ("MARK_OF_A_TEST", f"{folder}-{time.monotonic_ns()}"),
        "timeout": 60.0,
    }
    return Assignment(**{**made, **more})


def python(text: str, *words: str) -> list[str]:
    return [sys.executable, "-c", text, *words]


def sh(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


def run(
    words: Sequence[str], folder: Path, *, options: dict[str, Any] | None = None, **more: Any
) -> tuple[ChildEnd, list[bytes]]:
    lines: list[bytes] = []
    end = run_child(words, told(folder, **more), on_line=lines.append, **(options or {}))
    return end, lines


def pids(lines: list[bytes]) -> list[int]:
    return [int(line.split()[1]) for line in lines if line.startswith(b"pid ")]


def parts(folder: Path, kind: str = "out") -> list[Path]:
    found = list((folder / "logs").glob(f"t-1.{kind}*"))
    return sorted(found, key=lambda path: int("0" + path.suffix.strip(f".{kind}")))


def test_what_it_says_is_kept_and_its_exit_code_told(tmp_path: Path) -> None:
    end, lines = run(sh("echo one; echo two >&2; printf three; exit 7"), tmp_path)
    assert end == ChildEnd(code=7, stderr="two\n")
    assert lines == [b"one", b"three"]
    assert (tmp_path / "logs/t-1.out").read_bytes() == b"one\nthree"
    assert (tmp_path / "logs/t-1.err").read_bytes() == b"two\n"


def test_who_says_nothing_leaves_no_file_and_no_old_ones_stay(tmp_path: Path) -> None:
    run(sh("echo 123456789"), tmp_path, options={"part_bytes": 4})
    assert [path.name for path in parts(tmp_path)] == ["t-1.out", "t-1.out.1", "t-1.out.2"]
    assert b"".join(path.read_bytes() for path in parts(tmp_path)) == b"123456789\n"
    run(["true"], tmp_path)
    assert parts(tmp_path) == []


def test_the_environment_is_exactly_the_one_given_and_the_mark(tmp_path: Path) -> None:
    given = told(tmp_path, environment={"A": "1", "PATH": os.defpath})
    lines: list[bytes] = []
    run_child(["/usr/bin/env", "-0"], given, on_line=lines.append)
    name, value = given.mark
    assert sorted(lines[0].decode().strip("\0").split("\0")) == sorted(
        ["A=1", f"PATH={os.defpath}", f"{name}={value}"]
    )


def test_the_prompt_goes_in_by_standard_input(tmp_path: Path) -> None:
    _, lines = run(["cat"], tmp_path, prompt="grüße\nzwei")
    assert lines == ["grüße".encode(), b"zwei"]
    prompt = "x" * (10 * MIB)
    _, lines = run(["wc", "-c"], tmp_path, prompt=prompt)
    assert int(lines[0]) == len(prompt)


@pytest.mark.parametrize("text", ["exit 0", "exec 0<&-; sleep 0.2; echo done", "sleep 0.3"])
def test_a_prompt_that_nobody_reads_hangs_nobody(text: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    end, _ = run(sh(text), tmp_path, prompt="x" * (10 * MIB))
    assert (end.code, end.ended_by, end.trouble) == (0, "", "")
    assert time.monotonic() - begun < 10


def test_descriptors_are_inherited_and_no_others(tmp_path: Path) -> None:
    read, write = os.pipe()
    other = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(other, True)
    try:
        end, _ = run(python(f"import os; os.write({write}, b'here')"), tmp_path, inherit=(write,))
        os.write(write, b".")  # else a failure would be waited for
        assert (end.code, os.read(read, 100)) == (0, b"here.")
        end, lines = run(sh(f"test -e /proc/self/fd/{other} || echo no"), tmp_path, inherit=(write,))
        assert lines == [b"no"]
    finally:
        for one in (read, write, other):
            os.close(one)


@pytest.mark.parametrize("newlines", [True, False], ids=["lines", "one-line"])
def test_a_flood_is_kept_whole_in_bounded_memory(newlines: bool, tmp_path: Path) -> None:
    size = 200 * MIB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ending = "\\n" if newlines else ""
    text = f"import os\nfor _ in range({size} // 1024): os.write(1, b'x' * 1023 + (b'{ending}' or b'x'))"
    count = [0]

    def hear(line: bytes) -> None:
        count[0] += 1
        assert len(line) == 1023

    end = run_child(python(text), told(tmp_path), on_line=hear)
    assert (end.code, end.trouble) == (0, "")
    assert [path.stat().st_size for path in parts(tmp_path)] == [64 * MIB] * 3 + [8 * MIB]
    assert count[0] == (size // 1024 if newlines else 0)
    # ru_maxrss is in KiB: what it grew by is far less than what went through.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024


def test_a_line_that_is_too_long_is_passed_over_and_the_next_is_not(tmp_path: Path) -> None:
    text = "print('a' * 10); print('b' * 11); print('c'); print('d' * 100000); print('e')"
    end, lines = run(python(text), tmp_path, options={"line_bytes": 10})
    assert lines == [b"a" * 10, b"c", b"e"]
    assert end.trouble == ""


def test_a_grandchild_that_holds_the_output_open_is_ended_and_named(tmp_path: Path) -> None:
    begun = time.monotonic()
    end, lines = run(python(STUBBORN), tmp_path)
    assert (end.code, end.ended_by) == (0, "")
    assert list(end.survivors) == pids(lines) != []
    gone(*end.survivors)
    assert time.monotonic() - begun < 15


def test_a_child_in_the_group_is_ended_too(tmp_path: Path) -> None:
    end, lines = run(sh("(trap '' TERM; sleep 600) & echo pid $!"), tmp_path)
    assert set(pids(lines)) <= set(end.survivors)
    gone(*end.survivors)


@pytest.mark.slow
@pytest.mark.parametrize("why", ["timed out", "stopped"])
def test_when_it_must_end_all_of_it_ends(why: str, tmp_path: Path) -> None:
    text = STUBBORN + "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\ntime.sleep(600)\n"
    stopped, lines, done = threading.Event(), list[bytes](), list[ChildEnd]()
    given = told(tmp_path, stopped=stopped, timeout=3.0 if why == "timed out" else None)
    thread = threading.Thread(
        target=lambda: done.append(run_child(python(text), given, on_line=lines.append))
    )
    thread.start()
    eventually(lambda: pids(lines), "the grandchild")
    if why == "stopped":
        stopped.set()
    thread.join(30)
    assert done[0].ended_by == why
    assert done[0].code in (3, -15)
    gone(*pids(lines))


def test_a_stopped_one_is_not_started(tmp_path: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    assert run(sh("touch here"), tmp_path, stopped=stopped)[0] == ChildEnd(ended_by="stopped")
    assert not (tmp_path / "here").exists()


def test_a_process_that_bears_the_mark_but_is_older_is_left_alone(tmp_path: Path) -> None:
    given = told(tmp_path)
    name, value = given.mark
    other = subprocess.Popen(["sleep", "600"], env={"PATH": os.defpath, name: value})
    try:
        # Starts are told in ticks, and a run takes for its own what is about as old as itself.
        eventually(lambda: not marked(name, value, since=this_moment()), "a start that is clearly older")
        assert run_child(["true"], given).survivors == ()
        assert alive(other.pid)
    finally:
        other.kill()
        other.wait()


def test_what_cannot_be_started_is_told(tmp_path: Path) -> None:
    end, _ = run([str(tmp_path / "none")], tmp_path)
    assert isinstance(end.not_started, FileNotFoundError)
    assert end.code is None
    end, _ = run(["echo", "a\0b"], tmp_path)
    assert end.not_started is not None


def test_a_reader_that_fails_does_not_hang_it(tmp_path: Path) -> None:
    def fail(line: bytes) -> None:
        raise KeyError(line)

    end = run_child(python("for _ in range(10**5): print('x' * 50)"), told(tmp_path), on_line=fail)
    assert end.code == 0
    assert "KeyError" in end.trouble
    assert parts(tmp_path)[0].stat().st_size == 51 * 10**5


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system with 1 MiB of room."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("may not mount a tmpfs here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_hangs_nobody_and_is_told(full_disk: Path, tmp_path: Path) -> None:
    text = "for _ in range(8 * 1024): print('x' * 1023)\nprint('end')"
    lines: list[bytes] = []
    end = run_child(python(text), told(tmp_path, log=str(full_disk / "t-1")), on_line=lines.append)
    assert (end.code, lines[-1], len(lines)) == (0, b"end", 8 * 1024 + 1)
    assert "No space left" in end.trouble


def command(folder: Path, *words: str, **more: Any) -> AgentEnd:
    return CommandAgent(command=words).run(told(folder, **more))


@pytest.mark.parametrize(
    ("text", "how", "said", "code"),
    [
        ("echo a; echo b; echo", How.ENDED, "b", 0),
        ("true", How.ENDED, "exit 0", 0),
        ("echo later; exit 75", How.FAILED, "later", 75),
        ("echo wait for x >&2; exit 78", How.FAILED, "wait for x", 78),
        ("echo broken; exit 3", How.FAILED, "exit 3: broken", 3),
        ("exit 3", How.FAILED, "exit 3", 3),
        ("echo start; echo broken >&2; exit 3", How.FAILED, "exit 3: broken", 3),
        ("kill -9 $$", How.KILLED, "killed by signal 9 (SIGKILL)", -9),
    ],
)
def test_a_command_s_end(text: str, how: How, said: str, code: int, tmp_path: Path) -> None:
    end = command(tmp_path, "/bin/sh", "-c", text)
    assert (end.how, end.text, end.exit, end.tokens) == (how, said, code, None)


def test_a_command_is_given_the_item(tmp_path: Path) -> None:
    environment = {"PATH": os.defpath, "HYPERVISOR_ITEM": "a b"}
    assert command(tmp_path, "echo", "x", environment=environment).text == "x a b"
    assert command(tmp_path, "echo", "{}:{}", environment=environment).text == "a b:a b"
    assert command(tmp_path, "echo").text == "t-1"


def test_a_command_that_is_not_there_or_has_no_place(tmp_path: Path) -> None:
    assert command(tmp_path, "no-such-program").how is How.MISSING
    (tmp_path / "plain").write_text("x")
    assert command(tmp_path, str(tmp_path / "plain")).how is How.MISSING
    end = command(tmp_path, "true", cwd=str(tmp_path / "away"))
    assert end.how is How.FAILED
    assert "away" in end.text


def test_a_command_s_time_is_up(tmp_path: Path) -> None:
    end = command(
        tmp_path, "sleep", "600", environment={"PATH": os.defpath, "HYPERVISOR_ITEM": "600"}, timeout=0.2
    )
    assert (end.how, end.text) == (How.TIMEOUT, "timed out after 0.2 s")
