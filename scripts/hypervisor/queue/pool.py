"""Several workers for one command: each a process of its own, so that one death ends one item.

The workers are forked before the command opens the store, as a SQLite connection must not be carried across
a fork (https://www.sqlite.org/howtocorrupt.html, 2.6), and after it has imported what they need. Pipes join
them: a byte from the start pipe lets a worker read its orders; workers write what happens as JSON lines; a
byte from the allowance lets a worker begin an item (``--batch N`` over all of them); and the leash, which the
parent never writes to, tells a worker by its end that the parent is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

from .counts import ItemEvent, RunCounts
from .stop import Stop

#: By which workers are told to end.
_SIGNALS = {signal.SIGINT, signal.SIGTERM}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Child:
    pid: int
    #: The read end of what it writes.
    events: int


class WorkerPool:
    """The worker processes of one command. Made while the process has no other thread and no store open.

    Args:
        workers: How many.
        work: What each of them does: given its membership and the batch's folder, returns its exit code.
    """

    def __init__(self, workers: int, work: Callable[[PoolMember, str], int]) -> None:
        self.counts = RunCounts()
        self._work = work
        #: Which batch to open: written before the start, as one read of a pipe may return a part.
        self._orders = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `__exit__`
        self._start, self._start_end = os.pipe()
        self._leash, self._leash_end = os.pipe()
        self._allowance, self._allowance_end = os.pipe()
        #: Pids of those that were not waited for: only these may be signalled.
        self._living: set[int] = set()
        self._reaping = threading.Lock()
        # A signal that comes before a worker can handle it waits until it does (`PoolMember.attend`).
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._children = [self._fork() for _ in range(workers)]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for end in (self._start, self._leash, self._allowance):
            os.close(end)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers if they were given no orders, and wait for them."""
        if self._start_end >= 0:
            os.close(self._start_end)
        os.close(self._leash_end)
        for child in self._children:
            self._wait(child)
        self._orders.close()

    def run(
        self, folder: str, *, allowance: int | None, stop: Stop, tell: Callable[[ItemEvent], None]
    ) -> int:
        """Have the workers work on the batch in *folder*; return how many ended before the work did.

        Args:
            folder: The batch's folder.
            allowance: How many items all of them may begin; None for all there are.
            stop: Passed on to them.
            tell: Called with each event.
        """
        self._orders.write(json.dumps({"folder": folder, "limited": allowance is not None}).encode())
        self._orders.flush()
        with contextlib.suppress(BrokenPipeError):  # none of them is left
            os.write(self._start_end, b"." * len(self._children))
        os.close(self._start_end)
        self._start_end = -1
        threading.Thread(target=self._feed, args=(allowance or 0,), daemon=True).start()
        threading.Thread(target=self._pass_on, args=(stop,), daemon=True).start()
        self._listen(tell)
        return sum(self._wait(child) != 0 for child in self._children)

    # ---------------------------------------------------------------- processes

    def _fork(self) -> _Child:
        read, write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            os.close(write)
            self._living.add(pid)
            return _Child(pid=pid, events=read)
        code = 1
        try:
            for end in (read, self._start_end, self._leash_end, self._allowance_end):
                os.close(end)
            # Out of the terminal's reach: each Ctrl-C comes once, through the parent.
            os.setsid()
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.close(null)
            code = self._serve(write)
        except BaseException:  # noqa: BLE001 - the end of this process, which must not go on as its parent
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _serve(self, events: int) -> int:
        if not os.read(self._start, 1):  # the command came to nothing
            return 0
        size = os.fstat(self._orders.fileno()).st_size
        orders = json.loads(os.pread(self._orders.fileno(), size, 0))
        allowance = self._allowance if orders["limited"] else -1
        return self._work(PoolMember(events, self._leash, allowance), orders["folder"])

    def _wait(self, child: _Child) -> int:
        """Wait for a child, once; return its exit code, negative for a signal."""
        if child.pid not in self._living:
            return 0
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with self._reaping:
            self._living.discard(child.pid)
            _, status = os.waitpid(child.pid, 0)
        return os.waitstatus_to_exitcode(status)

    # -------------------------------------------------------------------- pipes

    def _feed(self, left: int) -> None:
        try:
            while left > 0:
                left -= os.write(self._allowance_end, b"." * min(left, 512))
        except BrokenPipeError:
            pass
        finally:
            os.close(self._allowance_end)

    def _pass_on(self, stop: Stop) -> None:
        # Two signals, as one that is sent twice may come once. A worker counts each as being asked.
        for asked, number in ((stop.soon, signal.SIGINT), (stop.now, signal.SIGTERM)):
            asked.wait()
            with self._reaping:
                for pid in self._living:
                    os.kill(pid, number)

    def _listen(self, tell: Callable[[ItemEvent], None]) -> None:
        rest = {child.events: b"" for child in self._children}
        with selectors.DefaultSelector() as selector:
            for end in rest:
                selector.register(end, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    chunk = os.read(key.fd, 65536)
                    *lines, rest[key.fd] = (rest[key.fd] + chunk).split(b"\n")
                    for line in lines:
                        self._hear(json.loads(line), tell)
                    if not chunk:
                        selector.unregister(key.fd)
                        os.close(key.fd)

    def _hear(self, message: dict[str, object], tell: Callable[[ItemEvent], None]) -> None:
        if "left" in message:
            left = message["left"]
            assert isinstance(left, list)  # noqa: S101 - written by `PoolMember.report`
            self.counts.left = sorted({*self.counts.left, *left})
            return
        event = ItemEvent(**message)  # type: ignore[arg-type]  # written by `PoolMember.tell`
        self.counts.count(event)
        tell(event)


class PoolMember:
    """A worker's side of a pool.

    Args:
        events: Where to write what happens.
        leash: Ends when the parent is gone.
        allowance: Gives a byte for each item that may begin; -1 where there is no limit.
    """

    def __init__(self, events: int, leash: int, allowance: int) -> None:
        self._out, self._leash, self._allowance = events, leash, allowance

    def attend(self, stop: Stop) -> None:
        """Take the parent's signals, and its end, from here on: *stop* handles them."""
        threading.Thread(target=self._watch, args=(stop,), daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def tell(self, event: ItemEvent) -> None:
        """Tell the parent of an event."""
        self._write(asdict(event))

    def report(self, counts: RunCounts) -> None:
        """Tell the parent what was left."""
        self._write({"left": counts.left})

    def may_begin(self, count: int) -> int:
        """Take from the allowance for up to *count* items; 0 when it is used up."""
        return count if self._allowance < 0 else len(os.read(self._allowance, count))

    def _write(self, message: dict[str, object]) -> None:
        data = json.dumps(message).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._out, data) :]
        except BrokenPipeError:
            pass  # the parent is gone; the leash says so too

    def _watch(self, stop: Stop) -> None:
        os.read(self._leash, 1)
        if not stop.soon.is_set():
            print("hypervisor: the command that started this worker is gone; ending", file=sys.stderr)
            stop.ask()
