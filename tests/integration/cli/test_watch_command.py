"""`hypervisor watch`: one screen in a real terminal, lines without one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from commands import HYPERVISOR, PATIENCE, ROOT, Gate, Shell, eventually, script, shell
from handwork import Hands, batch_in

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command in a terminal of its own, as far as it is needed: what was written, and keys to press."""

    def __init__(self, user: Shell, *words: str, width: int = 80, height: int = 24, **extra: str) -> None:
        self.master, slave = pty.openpty()
        self.resize(width, height)
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [*HYPERVISOR, *words],
            cwd=user.cwd,
            env={**user.environment, "TERM": "xterm-256color", **extra},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - nothing but a call
        )
        self.slave, self.said = slave, ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self.master)
        os.close(self.slave)

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def read(self) -> str:
        while select.select([self.master], [], [], 0.02)[0]:
            self.said += os.read(self.master, 65536).decode("utf-8", "replace")
        return self.said

    def screens(self) -> list[list[str]]:
        """Return the frames so far, each as its lines."""
        frames = self.read().split("\x1b[H")[1:]
        return [[_ESCAPE.sub("", line).rstrip("\r") for line in one.split("\n")] for one in frames]

    def see(self, text: str) -> None:
        """Wait until a text stands on the newest screen."""
        eventually(lambda: any(text in line for line in (self.screens() or [[]])[-1]), f"{text!r} to be seen")

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def end(self) -> int:
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it does not end"
            self.read()  # so that it is not held up by a full terminal
        return int(self.process.returncode)


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        yield made


@pytest.fixture
def gate(user: Shell) -> Iterator[Gate]:
    made = Gate(user.home, "gate")
    yield made
    made.close()


def at_the_gate(user: Shell, gate: Gate, items: int, workers: int = 1) -> Any:
    """Start workers whose items wait at the gate; return the command."""
    (user.cwd / "b").mkdir()
    (user.cwd / "b/queue.txt").write_text("".join(f"item-{n}\n" for n in range(items)), "utf-8")
    command = script(user.home, "command", gate.words)
    words = ["--dir", "b", "--all", "--workers", str(workers), "--exec", f"{command} {{}}"]
    running = user.start(*words)
    gate.wait(workers)
    return running


@pytest.mark.acceptance
def test_eight_workers_are_seen_drained_and_left_on_a_real_terminal(user: Shell, gate: Gate) -> None:
    running = at_the_gate(user, gate, 20, workers=8)
    with Terminal(user, "watch", "--dir", "b") as terminal:
        terminal.see("8 at work")
        screen = terminal.screens()[-1]
        assert len(screen) == 24
        assert sum(bool(re.match(r"worker-\d+-\w+ +item-\d+ ", line)) for line in screen) == 8
        assert "0 of 20 (0 %)" in screen[1]
        terminal.see("  machine ")  # nobody tells its state in this batch's log: it is looked at
        gate.open(1)
        terminal.see("1 of 20 (5 %)")
        terminal.press("d")
        terminal.see("draining")
        terminal.see("--all")  # the whole command, wherever the folder lies
        gate.open(20)
        running.end()
        terminal.see("nobody is at work")
        terminal.resize(40, 10)
        os.kill(terminal.process.pid, signal.SIGWINCH)
        eventually(lambda: len(terminal.screens()[-1]) == 10, "the smaller screen")
        terminal.press("q")
        assert terminal.end() == 0
        assert termios.tcgetattr(terminal.slave) == terminal.before
        last = terminal.read().rpartition("\x1b[?1049l")[2]  # the screen that was there before is back
        assert "of 20 done" in last
    census = user.worker("--dir", "b", "--stats", "--json").json
    assert census["running"] == 0
    assert 8 <= census["success"] <= 10
    assert census["waiting"] == 20 - census["success"]


@pytest.mark.acceptance
def test_a_cancel_is_asked_for_twice_and_carried_through(user: Shell) -> None:
    (user.cwd / "b").mkdir()
    (user.cwd / "b/queue.txt").write_text("x\ny\nz\n", "utf-8")
    with Terminal(user, "watch", "--dir", "b") as terminal:
        terminal.see("3 · waiting")
        terminal.press("c")
        terminal.see("cancel 3 item(s)? y/n")
        terminal.press("n")
        terminal.see("not cancelled")
        terminal.press("c")
        terminal.see("y/n")
        terminal.press("y")
        terminal.see("3 cancelled")
        terminal.see("3 - skipped")
        terminal.press("q")
        assert terminal.end() == 0
    assert user.worker("--dir", "b", "--stats", "--json").json["skipped"] == 3


@pytest.mark.acceptance
@pytest.mark.parametrize("how", ["\x03", "TERM"])
def test_however_it_ends_the_terminal_is_as_it_was(user: Shell, how: str) -> None:
    (user.cwd / "b").mkdir()
    (user.cwd / "b/queue.txt").write_text("x\n\x1b]0;owned\x07\x1b[31mitem\n", "utf-8")
    with Terminal(user, "watch", "--dir", "b", NO_COLOR="1") as terminal:
        terminal.see("2 · waiting")
        if how == "TERM":
            terminal.process.terminate()
        else:
            terminal.press(how)
        assert terminal.end() == 0
        assert termios.tcgetattr(terminal.slave) == terminal.before
        said = terminal.read()
        assert "\x1b[?1049l" in said
        assert "owned" not in said
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", said)  # no colours were asked for


def test_without_a_terminal_it_prints_lines_until_all_is_done(user: Shell) -> None:
    (user.cwd / "b").mkdir()
    (user.cwd / "b/queue.txt").write_text("x\ny\n", "utf-8")
    running = user.start_hypervisor("watch", "--dir", "b", "--every", "0.05", "--json")
    running.line('"waiting": 2')
    with batch_in(user.cwd / "b", "x", "y") as batch:
        Hands(batch).do("x")
        running.line('"success": 1')
        Hands(batch).do("y")
    ended = running.end().passed()
    heads = [json.loads(line) for line in ended.lines]
    assert [one["finished"] for one in heads][-2:] == [False, True]
    assert user.here("watch", "--dir", "b").passed().lines[-1].count("2 of 2 done") == 1
    user.here("watch", "--dir", "b", "--every", "0").refused(2, "--every 0")


def test_watching_imports_no_more_than_looking_needs() -> None:
    code = "import sys, hypervisor.cli.watch; print('rich' in sys.modules, 'http.server' in sys.modules)"
    folder = ROOT / "scripts"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]
