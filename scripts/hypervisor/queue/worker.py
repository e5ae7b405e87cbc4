"""The drain: one worker takes items from a queue until every one of them has its result.

Three parts that never merge: the queue says what comes next (a hint), the store says who has it
(a promise), the runner does it. Time is kept here alone.
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ..claims.directory import DirectoryStore, Policy
from ..claims.port import Busy, Claim, Done, Holder
from ..core import clock
from ..core.errors import ClaimLost
from ..core.model import Outcome, Report
from ..drain import Drain
from ..runners.port import Runner, Work
from .batch import Batch, Place
from .heart import Heart, Stop
from .tally import Event, Tally
from .workitem import record_of, work_of

T = TypeVar("T")

#: Lines taken at a time: more would leave more to the sweep when a worker dies, fewer would take
#: the cursor's lock more often.
BLOCK = 8
#: How often the claims of the dead are looked for while there is still something to take.
RESCUE_SECONDS = 1.0
#: How long a full disk is waited for before the worker gives up, in seconds.
_DISK_PATIENCE = 600.0
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What the user asked of a drain."""

    #: Whether to wait for items that others hold, so that the queue is finished at the end.
    wait: bool = True
    #: Asked before each item; False ends the drain. For ``--batch N`` over several workers.
    may_begin: Callable[[], bool] = lambda: True
    beat_seconds: float = 30.0
    #: How often items that others hold are looked at again.
    poll_seconds: float = 0.2


class Worker:
    """Drains one batch.

    Args:
        batch: The batch.
        runner: How items are processed.
        holder: In whose name they are claimed.
        policy: The stores' policy.
        orders: See `Orders`.
        tell: Called with each event.
        stop: How to end it.
        open_store: Makes the store of a root; replaced where a test needs another one.
    """

    def __init__(  # noqa: PLR0913 - the parts that the drain keeps apart, each named by the caller
        self,
        batch: Batch,
        runner: Runner,
        holder: Holder,
        *,
        policy: Policy,
        orders: Orders,
        tell: Callable[[Event], None],
        stop: Stop,
        open_store: Callable[..., DirectoryStore] = DirectoryStore,
    ) -> None:
        self._batch = batch
        self._runner = runner
        self._holder = holder
        self._policy = policy
        self._orders = orders
        self._tell = tell
        self._stop = stop
        self._open_store = open_store
        self._stores: dict[str, DirectoryStore] = {}
        self._heart = Heart(orders.beat_seconds)
        self._drain = Drain(batch.folder)
        self._allowed = False
        self._rescue_at = 0.0
        self.tally = Tally()

    def run(self) -> Tally:
        """Drain the queue; return what was done."""
        queue = self._batch.queue
        try:
            while not self._ended():
                block = self._patiently(lambda: queue.take(BLOCK))
                places = self._patiently(lambda: self._batch.pin(line.item for line in block))  # noqa: B023
                for place in places:
                    if self._ended():
                        break
                    self._rescue()
                    self._try(place)
                if not block and self._sweep():
                    break
        finally:
            self._heart.rest()
            for store in self._stores.values():
                store.close()
        return self.tally

    # ----------------------------------------------------------------- rescue

    def _rescue(self) -> None:
        """Take what the dead and the silent had in hand, about once a second.

        The sweep at the queue's end would find it as well, but that may be hours away.
        """
        begun = time.monotonic()
        if begun < self._rescue_at:
            return
        forsaken = [
            (root, *pair) for root, store in self._stores.items() for pair in self._patiently(store.forsaken)
        ]
        # The more claims there are to look at, the less often: it costs a fiftieth of the time.
        took = time.monotonic() - begun
        self._rescue_at = begun + max(RESCUE_SECONDS, 50 * took)
        for root, key, item in forsaken:
            place = None if self._ended() else self._batch.find(root, key, item)
            if place is not None:
                self._try(place)

    # ------------------------------------------------------------------ sweep

    def _sweep(self) -> bool:
        """Look at every line that has no result yet, until all have one.

        Returns:
            Whether the drain is at its end; False if the queue has grown.
        """
        pending = self._sweep_lines()
        while True:
            if not self._ended() and self._batch.queue.grown():
                return False
            if not pending or self._ended():
                break
            before = len(pending)
            pending = [place for place in pending if self._ended() or not self._try_in_sweep(place)]
            if len(pending) == before:
                if not self._orders.wait:
                    break
                self._stop.soon.wait(self._orders.poll_seconds)
        if not self._ended():
            self.tally.left = [place.item for place in pending]
        if not pending:
            for store in self._stores.values():
                self._patiently(store.tidy)
        return True

    def _try_in_sweep(self, place: Place) -> bool:
        self._rescue()  # one pass may take long, and what others drop meanwhile may lie behind it
        return self._try(place)

    def _sweep_lines(self) -> list[Place]:
        """Try each line without a result; settle the segments in which all have one.

        Tried as they are found: a worker may not live long enough to see the end of a long queue. Many
        sweep at once: each takes the segments in an order of its own, and passes over what is settled.

        Returns:
            What has no result still: others hold it, or it waits for another try.
        """
        queue, finished = self._batch.queue, self._batch.glance()
        epoch, segments = self._patiently(queue.unsettled)
        found: list[Place] = []
        for number in random.sample(segments, len(segments)):
            if self._ended():
                break
            if queue.is_settled(number):
                continue
            self._rescue()
            lines, whole = queue.segment(number)
            left = [place for line in lines if (place := self._left(line.item, finished)) is not None]
            found += left
            if whole and not left and not self._ended():
                self._patiently(self._batch.sync_results)  # nobody looks there again
                queue.settle(number, epoch)
        return found

    def _left(self, item: str, finished: Callable[[str], bool]) -> Place | None:
        """Try an item if it has no result; return its place if it has none still."""
        if self._ended() or finished(item):
            return None
        place = self._batch.place(item)
        done = self._batch.layout(place.root).finished(place.key) or self._try_in_sweep(place)
        return None if done else place

    # ------------------------------------------------------------------- item

    def _try(self, place: Place) -> bool:
        """Claim and process one item; tell whether it has its result now."""
        if self._drain.asked():  # nothing is begun after the word was given
            self._stop.soon.set()
            return False
        self._allowed = self._allowed or self._orders.may_begin()
        if not self._allowed:
            self._stop.soon.set()
            return False
        store = self._store(place)
        answer = self._patiently(lambda: store.claim(place.key, place.item))
        if isinstance(answer, Done) and answer.given_up:
            self._say(place, "failed", str((store.result(place.key) or {}).get("outcome")), 0.0)
        if isinstance(answer, Done | Busy):
            return isinstance(answer, Done)
        self._allowed = False
        return self._process(place, store, answer)

    def _process(self, place: Place, store: DirectoryStore, claim: Claim) -> bool:
        begun, started = time.monotonic(), clock.now_text()
        work = work_of(self._batch, place, store, claim, self._holder)
        self._stop.in_hand = work.stopped
        self._heart.attend(store, claim, work.stopped)
        try:
            if place.task and claim.generation > 1:
                # What an agent wrote into the file when it began; this claim's end takes the note away.
                from ..tasks.tasklist import put_back  # noqa: PLC0415 - the YAML loader

                put_back(store, claim.key, below=claim.generation)
            report = self._patiently(lambda: self._run(work))
            seconds = time.monotonic() - begun
            if self._stop.now.is_set():
                store.release(claim, "stopped by the user")
                self._say(place, "again", "stopped by the user", seconds)
                return False
            if report.retry:
                self._patiently(lambda: store.fail(claim, report.outcome))
                self._say(place, "again", report.outcome, seconds)
                return False
            payload = {
                **record_of(place, report),
                "runner": self._runner.name, "batch": self._batch.id, "worker": self._holder.id,
                "started": started, "finished": clock.now_text(), "seconds": round(seconds, 3),
            }  # fmt: skip
            result = self._patiently(lambda: store.complete(claim, payload))
        except ClaimLost as lost:
            self._say(place, "lost", str(lost), time.monotonic() - begun)
            return lost.loss.reason == "finished"
        finally:
            self._heart.rest()
        self._say(place, str(result["status"]), report.outcome, seconds)
        return True

    def _run(self, work: Work) -> Report:
        try:
            return self._runner.run(work)
        except OSError as error:
            if error.errno in _DISK_ERRORS:
                raise
            return Report(status=Outcome.FAILED, outcome=f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - one item's fault must not end the worker
            return Report(
                status=Outcome.FAILED, outcome=f"{self._runner.name}: {type(error).__name__}: {error}"
            )

    # ---------------------------------------------------------------- details

    def _store(self, place: Place) -> DirectoryStore:
        if place.root not in self._stores:
            self._stores[place.root] = self._patiently(
                lambda: self._open_store(place.root, self._holder, policy=self._policy)
            )
        return self._stores[place.root]

    def _ended(self) -> bool:
        if not self._stop.soon.is_set() and self._drain.asked_lately():
            self._stop.soon.set()
        return self._stop.soon.is_set()

    def _say(self, place: Place, kind: str, text: str, seconds: float) -> None:
        event = Event(item=place.item, kind=kind, text=text, seconds=seconds)
        self.tally.count(event)
        self._tell(event)

    def _patiently(self, act: Callable[[], T]) -> T:
        """Do *act*; where the disk is full, wait for room, as nothing is lost by waiting."""
        deadline = time.monotonic() + _DISK_PATIENCE
        told = False
        while True:
            try:
                return act()
            except OSError as error:
                full = error.errno in _DISK_ERRORS
                if not full or time.monotonic() > deadline or self._stop.now.is_set():
                    raise
                if not told:
                    told = True
                    self._tell(Event(item="", kind="trouble", text=f"{error}; waiting for room"))
                self._stop.now.wait(0.2)
