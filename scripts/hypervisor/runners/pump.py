"""The pipes of a program: its input is given to it, and its output is kept in files and cut into lines.

Output is kept whole, in parts of a size. Neither a flood nor a line without an end fills the memory, and
a fault in keeping it holds up nobody.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from .outputs import begin

#: Bytes in one file of output. An editor still opens that, and one search does not take minutes; the
#: output is kept whole in further files.
PART_BYTES = 64 * 2**20
#: Longest line that is given to `on_line`, in bytes; a longer one is kept in the file and passed over.
LINE_BYTES = 2**20
#: How much of the end of standard error is kept for a reason, in bytes.
_TAIL_BYTES = 8192
_CHUNK = 2**18
#: Seconds within which what is left in the pipes must be read, if a stranger goes on writing to them.
_DRAIN = 5.0

OnLine = Callable[[bytes], None]


class Sink:
    """Keeps one stream in files, and cuts it into lines."""

    def __init__(
        self,
        path: str,
        part_bytes: int,
        on_line: OnLine | None = None,
        line_bytes: int = 0,
        most_bytes: int | None = None,
    ):
        self._path, self._part_bytes, self._parts, self._room = path, part_bytes, 0, 0
        self._left = most_bytes
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
                self._write(memoryview(chunk)[: self._left])
                if self._left is not None:
                    self._left -= min(len(chunk), self._left)
                    if not self._left:
                        self._full, self.trouble = True, f"{self._path}: longer than what is kept of it"
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
        descriptor = begin(self._part(self._parts))
        self._parts, self._room = self._parts + 1, self._part_bytes
        return descriptor

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


class Input:
    """What a program is told while it runs, until this is closed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = bytearray()
        self._wake: int | None = None
        self.closed = False

    def write(self, data: bytes) -> None:
        """Tell the program *data*, as soon as it reads."""
        with self._lock:
            self._waiting += data
            self._ring()

    def close(self) -> None:
        """End the program's input, once all of it is told."""
        with self._lock:
            self.closed = True
            self._ring()

    def take(self) -> bytes:
        """Return what waits to be told."""
        with self._lock:
            data, self._waiting = bytes(self._waiting), bytearray()
            return data

    def attach(self, wake: int | None) -> None:
        """Name the pipe that is written to when there is something to tell; None once nobody reads it."""
        with self._lock:
            self._wake = wake

    def _ring(self) -> None:
        if self._wake is not None:
            with contextlib.suppress(BlockingIOError):  # it is awake
                os.write(self._wake, b"x")


class Pump:
    """A thread that tells the program its input and takes its output."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        prompt: bytes,
        out: Sink,
        err: Sink,
        talk: Input | None = None,
    ) -> None:
        self._stdin: Any = process.stdin
        self._prompt = memoryview(prompt)
        self._talk = talk
        self._deaf = False
        self._sinks: dict[Any, Sink] = {process.stdout: out, process.stderr: err}
        self._awake, self._wake = os.pipe()
        if talk is not None:
            os.set_blocking(self._wake, False)
            talk.attach(self._wake)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Take what is in the pipes already, wait for nothing more, and close everything."""
        if self._talk is not None:
            self._talk.attach(None)
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
                        if self._talk is not None and os.read(self._awake, _CHUNK):
                            if not self._stdin.closed and self._stdin not in selector.get_map():
                                selector.register(self._stdin, selectors.EVENT_WRITE)
                            continue
                        deadline = time.monotonic() + _DRAIN
                        selector.unregister(self._awake)
                    elif not (self._tell() if pipe is self._stdin else self._hear(pipe)):
                        selector.unregister(pipe)
                        if pipe is self._stdin and (self._talk is None or self._talk.closed or self._deaf):
                            self._stdin.close()  # so that it sees the end of its input
        for pipe, sink in self._sinks.items():
            pipe.close()
            sink.close()
        self._stdin.close()
        os.close(self._awake)

    def _tell(self) -> bool:
        """Tell some of the prompt; return whether there is more to tell, and somebody who reads it."""
        if self._talk is not None and not self._prompt:
            self._prompt = memoryview(self._talk.take())
        try:
            self._prompt = self._prompt[os.write(self._stdin.fileno(), self._prompt[:_CHUNK]) :]
        except BlockingIOError:
            return True
        except OSError:  # it has closed its input
            self._prompt, self._deaf = memoryview(b""), True
        return bool(self._prompt)

    def _hear(self, pipe: Any) -> bool:
        """Take some output; return whether there may be more."""
        try:
            chunk = os.read(pipe.fileno(), _CHUNK)
        except BlockingIOError:
            return True
        self._sinks[pipe].take(chunk)
        return bool(chunk)
