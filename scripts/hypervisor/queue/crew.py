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

from .heart import Stop
from .tally import Event, Tally

#: Names the three descriptors in a child's environment.
CREW = "HYPERVISOR_CREW"
#: By which children are told to end.
_SIGNALS = {signal.SIGINT, signal.SIGTERM}


@dataclass(slots=True)
class Crew:
    """The children of one command."""

    #: What each child runs.
    command: Sequence[str]
    workers: int
    #: How many items all of them may begin; None for all there are.
    allowance: int | None
    stop: Stop
    tell: Callable[[Event], None]
    tally: Tally = field(default_factory=Tally)

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
                env={**os.environ, CREW: f"{write},{leash},{-1 if unlimited else allowance}"},
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
            assert isinstance(left, list)  # noqa: S101 - written by `Membership.report`
            self.tally.left = sorted({*self.tally.left, *left})
            return
        event = Event(**message)  # type: ignore[arg-type]  # written by `Membership.tell`
        self.tally.count(event)
        self.tell(event)


class Membership:
    """The child's side of a crew."""

    def __init__(self, descriptors: str, stop: Stop) -> None:
        self._out, leash, self._allowance = (int(part) for part in descriptors.split(","))
        threading.Thread(target=self._watch, args=(leash, stop), daemon=True).start()

    @classmethod
    def of_this_process(cls, stop: Stop) -> Membership | None:
        """Return the membership of a process that a crew has started; None for any other."""
        descriptors = os.environ.pop(CREW, "")
        return cls(descriptors, stop) if descriptors else None

    def attend(self) -> None:
        """Take the parent's signals from here on: their handlers are there."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def tell(self, event: Event) -> None:
        """Tell the parent of an event."""
        self._write(asdict(event))

    def report(self, tally: Tally) -> None:
        """Tell the parent what was left."""
        self._write({"left": tally.left})

    def may_begin(self) -> bool:
        """Take one item's leave from the allowance; False when it is used up."""
        return self._allowance < 0 or os.read(self._allowance, 1) != b""

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
