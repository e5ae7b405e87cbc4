"""Several workers for one command: each a process of its own, so that one death ends one item.

Three pipes join them: children write what happens as JSON lines; a byte from the allowance lets a
child begin an item (``--batch N`` over all of them); and the leash, which the parent never writes
to, tells a child by its end that the parent is gone.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import IO

from .counts import ItemEvent, RunCounts
from .stop import Stop

#: Names the three descriptors in a child's environment.
POOL = "HYPERVISOR_POOL"
#: By which children are told to end.
_SIGNALS = {signal.SIGINT, signal.SIGTERM}


@dataclass(slots=True)
class WorkerPool:
    """The children of one command."""

    #: What each child runs.
    command: Sequence[str]
    workers: int
    #: How many items all of them may begin; None for all there are.
    allowance: int | None
    stop: Stop
    tell: Callable[[ItemEvent], None]
    counts: RunCounts = field(default_factory=RunCounts)

    def run(self) -> int:
        """Start the children and wait for them; return how many ended before the work did."""
        leash_read, leash_write = os.pipe()
        allowance_read, allowance_write = os.pipe()
        children = [self._start(leash_read, allowance_read) for _ in range(self.workers)]
        os.close(leash_read)
        os.close(allowance_read)
        threading.Thread(target=self._feed, args=(allowance_write,), daemon=True).start()
        threading.Thread(target=self._pass_on, args=([c for c, _ in children],), daemon=True).start()
        self._listen([pipe for _, pipe in children])
        codes = [child.wait() for child, _ in children]
        os.close(leash_write)
        return sum(code != 0 for code in codes)

    def _start(self, leash: int, allowance: int) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        read, write = os.pipe()
        unlimited = self.allowance is None
        # A signal that comes before the child can handle it waits until it does (`attend`).
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                pass_fds=(write, leash, allowance),
                env={**os.environ, POOL: f"{write},{leash},{-1 if unlimited else allowance}"},
                # Out of the terminal's reach: each Ctrl-C comes once, through the parent.
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(write)
        return process, open(read, "rb")

    def _feed(self, descriptor: int) -> None:
        left = self.allowance or 0
        try:
            while left > 0:
                left -= os.write(descriptor, b"." * min(left, 512))
        except BrokenPipeError:
            pass
        finally:
            os.close(descriptor)

    def _pass_on(self, children: list[subprocess.Popen[bytes]]) -> None:
        # Two signals, as one that is sent twice may come once. A child counts each as being asked.
        for asked, number in ((self.stop.soon, signal.SIGINT), (self.stop.now, signal.SIGTERM)):
            asked.wait()
            for child in children:
                if child.poll() is None:
                    child.send_signal(number)

    def _listen(self, pipes: list[IO[bytes]]) -> None:
        rest = {pipe.fileno(): b"" for pipe in pipes}
        with selectors.DefaultSelector() as selector:
            for pipe in pipes:
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    chunk = os.read(key.fd, 65536)
                    *lines, rest[key.fd] = (rest[key.fd] + chunk).split(b"\n")
                    for line in lines:
                        self._hear(json.loads(line))
                    if not chunk:
                        selector.unregister(key.fileobj)
        for pipe in pipes:
            pipe.close()

    def _hear(self, message: dict[str, object]) -> None:
        if "left" in message:
            left = message["left"]
            assert isinstance(left, list)  # noqa: S101 - written by `PoolMember.report`
            self.counts.left = sorted({*self.counts.left, *left})
            return
        event = ItemEvent(**message)  # type: ignore[arg-type]  # written by `PoolMember.tell`
        self.counts.count(event)
        self.tell(event)


class PoolMember:
    """The child's side of a pool."""

    def __init__(self, descriptors: str, stop: Stop) -> None:
        self._out, leash, self._allowance = (int(part) for part in descriptors.split(","))
        threading.Thread(target=self._watch, args=(leash, stop), daemon=True).start()

    @classmethod
    def of_this_process(cls, stop: Stop) -> PoolMember | None:
        """Return the membership of a process that a pool has started; None for any other."""
        descriptors = os.environ.pop(POOL, "")
        return cls(descriptors, stop) if descriptors else None

    def attend(self) -> None:
        """Take the parent's signals from here on: their handlers are there."""
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

    def _watch(self, leash: int, stop: Stop) -> None:
        os.read(leash, 1)
        if not stop.soon.is_set():
            print("hypervisor: the command that started this worker is gone; ending", file=sys.stderr)
            stop.ask()
