"""Runs one program for an agent: what it is told, what it says, and the end of all that it started.

A program may flood its output, never read its input, leave children behind, or give them its pipes. None
of that may hold up the caller, fill its memory, or outlive the call.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..machine import LINUX, end_group, start_time
from .agent import Assignment

#: Bytes in one file of output. An editor still opens that, and one search does not take minutes; the
#: output is kept whole in further files.
PART_BYTES = 64 * 2**20
#: Longest line that is given to `on_line`, in bytes; a longer one is kept in the file and passed over.
LINE_BYTES = 2**20
#: How much of the end of standard error is kept for a reason, in bytes.
_TAIL_BYTES = 8192
_CHUNK = 2**18
#: Seconds that a tree has to end by itself: when we end it (a client tells its hooks of its end, which
#: takes up to 1.5 s), and when its leader has ended already.
_GRACE_ENDED, _GRACE_LEFT = 5.0, 1.0
#: Seconds within which what is left in the pipes must be read, if a stranger goes on writing to them.
_DRAIN = 5.0
#: How often a running program is looked at, in seconds; short at first, for short programs.
_FIRST_POLL, _LAST_POLL = 0.001, 0.1

EndedBy = Literal["", "stopped", "timed out"]
OnLine = Callable[[bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildEnd:
    """How the program ended."""

    #: Exit code, negative for a signal; None if it was not started.
    code: int | None = None
    #: What made us end it; "" if it came to its own end.
    ended_by: EndedBy = ""
    #: What was still running after it had ended by itself, and was ended then.
    survivors: tuple[int, ...] = ()
    not_started: OSError | None = None
    #: The end of what it said on standard error.
    stderr: str = ""
    #: What went wrong in keeping its output, which changes nothing in its end; "" if nothing did.
    trouble: str = ""


def run_child(
    words: Sequence[str],
    assignment: Assignment,
    *,
    on_line: OnLine | None = None,
    part_bytes: int = PART_BYTES,
    line_bytes: int = LINE_BYTES,
) -> ChildEnd:
    """Run *words* to their end, and end all that they started.

    Standard output is kept in ``LOG.out``, then ``LOG.out.1`` ... of *part_bytes* each, standard error
    likewise in ``LOG.err``. Each line of at most *line_bytes* on standard output is given to *on_line*,
    without its newline, in another thread than the caller's.

    A process is found by the assignment's mark in its environment. One that has wiped its environment
    *and* left the process group is not found.
    """
    if assignment.stopped.is_set():
        return ChildEnd(ended_by="stopped")
    out = _Sink(assignment.log + ".out", part_bytes, on_line, line_bytes)
    err = _Sink(assignment.log + ".err", part_bytes)
    floor = _now()
    try:
        process = subprocess.Popen(
            words,
            cwd=assignment.cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**assignment.environment, assignment.mark[0]: assignment.mark[1]},
            pass_fds=assignment.inherit,
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        return ChildEnd(not_started=error)
    except ValueError as error:  # a NUL in a word or in the environment
        return ChildEnd(not_started=OSError(errno.EINVAL, str(error)))
    pump = _Pump(process, assignment.prompt.encode("utf-8", "replace"), out, err)
    ended_by: EndedBy = "stopped"  # as it is for an exception, such as Ctrl-C
    survivors: tuple[int, ...] = ()
    try:
        ended_by = _watch(process.pid, assignment)
        if not ended_by:
            survivors = tuple(one.pid for one in _marked(assignment.mark, floor))
    finally:
        end_group(process.pid, _GRACE_ENDED if ended_by else _GRACE_LEFT)
        process.wait()
        end_marked(assignment.mark, floor)
        pump.finish()
    return ChildEnd(
        code=process.returncode,
        ended_by=ended_by,
        survivors=survivors,
        stderr=bytes(err.tail).decode("utf-8", "replace"),
        trouble=out.trouble or err.trouble,
    )


def last_line(text: str) -> str:
    """Return the last line of *text* that says something, 500 characters of it at most; "" if none does."""
    full = [line.strip() for line in text.splitlines() if line.strip()]
    return full[-1][:500] if full else ""


def _watch(leader: int, assignment: Assignment) -> EndedBy:
    """Wait until the leader has ended, or must be."""
    deadline = None if assignment.timeout is None else time.monotonic() + assignment.timeout
    pause = _FIRST_POLL
    # WNOWAIT: the leader stays a zombie until its group is ended, so that the group's number cannot be
    # given to somebody else's processes meanwhile.
    while os.waitid(os.P_PID, leader, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if assignment.stopped.wait(pause):
            return "stopped"
        if deadline is not None and time.monotonic() > deadline:
            return "timed out"
        pause = min(pause * 2, _LAST_POLL)
    return ""


def _now() -> float:
    """Return the time on the clock by which processes' starts are told, see `_start_of`."""
    # The clock of the starts in /proc, which nobody can set; its ticks are coarser than this reading.
    return time.clock_gettime(time.CLOCK_BOOTTIME) - 0.02 if LINUX else time.time() - 1.0


def _start_of(process: Any) -> float:
    if not LINUX:
        return float(process.create_time())
    return float(start_time(process.pid) or 0) / os.sysconf("SC_CLK_TCK")


def _marked(mark: tuple[str, str], floor: float) -> list[Any]:
    """Return the processes that bear *mark* and were started after *floor*, but for the caller."""
    import psutil  # noqa: PLC0415 - 100 ms, while the program runs

    name, value = mark
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if (
                process.pid != os.getpid()
                and process.environ().get(name) == value
                and process.status() != psutil.STATUS_ZOMBIE
                and _start_of(process) >= floor
            ):
                found.append(process)
    return found


def end_marked(mark: tuple[str, str], floor: float, grace_seconds: float = _GRACE_LEFT) -> None:
    """End every process that bears *mark*, a variable's name and value, and started after *floor*.

    TERM first, KILL after *grace_seconds*. It looks again until nothing is left, as a process may start
    another one while it is being ended.
    """
    import psutil  # noqa: PLC0415 - see above

    found = _marked(mark, floor)
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(found, timeout=grace_seconds)
    for _ in range(100):  # a process in the kernel's hands cannot be killed; it is not waited for for ever
        if not (found and (found := _marked(mark, floor))):
            break
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=0.1)


class _Sink:
    """Keeps one stream in files, and cuts it into lines."""

    def __init__(self, path: str, part_bytes: int, on_line: OnLine | None = None, line_bytes: int = 0):
        self._path, self._part_bytes, self._parts, self._room = path, part_bytes, 0, 0
        self._on_line, self._line_bytes = on_line, line_bytes
        self._line = bytearray()
        self._skips = False  # the line that is being read is too long
        self._file: int | None = None
        self._full = False  # or otherwise not to be written to
        self.tail = bytearray()
        self.trouble = ""
        with contextlib.suppress(
            OSError
        ):  # there are no more; these are parts of an earlier run at this path
            for number in range(2**20):
                os.unlink(self._part(number))

    def _part(self, number: int) -> str:
        return f"{self._path}.{number}" if number else self._path

    def take(self, chunk: bytes) -> None:
        """Keep *chunk*; after the first fault no more is written, so that what is kept has no holes."""
        self.tail = (self.tail + chunk[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        if not self._full:
            try:
                self._write(memoryview(chunk))
            except OSError as error:
                self._full, self.trouble = True, f"{self._path}: {error.strerror}"
        if self._on_line:
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                self._add(line)
                self._give()
            self._add(rest)

    def _write(self, view: memoryview) -> None:
        while view:
            if self._file is None or not self._room:
                self._file = self._next()
            written = os.write(self._file, view[: self._room])
            view, self._room = view[written:], self._room - written

    def _next(self) -> int:
        """Open the next file, and close the one before."""
        self._close_file()
        path = self._part(self._parts)
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        self._parts, self._room = self._parts + 1, self._part_bytes
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)

    def _add(self, piece: bytes) -> None:
        if self._skips or len(self._line) + len(piece) > self._line_bytes:
            self._line, self._skips = bytearray(), True
        else:
            self._line += piece

    def _give(self) -> None:
        line, skipped = bytes(self._line), self._skips
        self._line, self._skips = bytearray(), False
        if self._on_line and not skipped:
            try:
                self._on_line(line)
            except Exception as error:  # noqa: BLE001 - a reader that fails must not hang the program
                self.trouble = self.trouble or f"{self._path}: a line was not understood: {error!r}"

    def close(self) -> None:
        """Give the last line, which may have no newline, and close the file."""
        if self._line:
            self._give()
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class _Pump:
    """A thread that tells the program its input and takes its output."""

    def __init__(self, process: subprocess.Popen[bytes], prompt: bytes, out: _Sink, err: _Sink) -> None:
        self._stdin: Any = process.stdin
        self._prompt = memoryview(prompt)
        self._sinks: dict[Any, _Sink] = {process.stdout: out, process.stderr: err}
        self._awake, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Take what is in the pipes already, wait for nothing more, and close everything."""
        os.close(self._wake)
        self._thread.join()

    def _run(self) -> None:
        deadline = None
        with selectors.DefaultSelector() as selector:
            selector.register(self._awake, selectors.EVENT_READ)
            for one in (self._stdin, *self._sinks):
                os.set_blocking(one.fileno(), False)
                wanted = selectors.EVENT_WRITE if one is self._stdin else selectors.EVENT_READ
                selector.register(one, wanted)
            while True:
                ready = selector.select(None if deadline is None else 0)
                if deadline is not None and (not ready or time.monotonic() > deadline):
                    break
                for key, _ in ready:
                    pipe: Any = key.fileobj
                    if pipe == self._awake:
                        deadline = time.monotonic() + _DRAIN
                        selector.unregister(self._awake)
                    elif not (self._tell() if pipe is self._stdin else self._hear(pipe)):
                        selector.unregister(pipe)
                        if pipe is self._stdin:
                            self._stdin.close()  # so that it sees the end of its input
        for pipe, sink in self._sinks.items():
            pipe.close()
            sink.close()
        self._stdin.close()
        os.close(self._awake)

    def _tell(self) -> bool:
        """Tell some of the prompt; return whether there is more to tell, and somebody who reads it."""
        try:
            self._prompt = self._prompt[os.write(self._stdin.fileno(), self._prompt[:_CHUNK]) :]
        except BlockingIOError:
            return True
        except OSError:  # it has closed its input
            self._prompt = memoryview(b"")
        return bool(self._prompt)

    def _hear(self, pipe: Any) -> bool:
        """Take some output; return whether there may be more."""
        try:
            chunk = os.read(pipe.fileno(), _CHUNK)
        except BlockingIOError:
            return True
        self._sinks[pipe].take(chunk)
        return bool(chunk)
