"""Runs agents on the tasks of a batch: several at once, within what the scheduler allows.

One thread decides; each attempt has a thread of its own, which mostly waits for its agent. The claims
are this process's: when it dies, they are free at once, and whoever takes over ends what it left.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..core.clock import text_of
from ..core.errors import ClaimLost
from ..core.model import Outcome
from ..drain import Drain
from ..events import RunEvent
from ..learning.learner import Lane
from ..queue.heart import Stop
from ..queue.tally import Event, Tally
from .attempt import Attempt, Ended
from .minding import Minding
from .pacing import Pacing
from .schedule import Again, Entry, Finished, Rules, Start
from .scheduler import Scheduler
from .shop import Shop

#: How often it is looked whether claims are still held, in seconds: a cancelled task's agent ends then.
_LOOK_SECONDS = 1.0
#: The longest that a task waits which is tried again at no cost, in seconds.
LONGEST_DELAY = 300.0


@dataclass(slots=True)
class Coordinator:
    """One run over the tasks of one batch."""

    shop: Shop
    #: Each with its path below the project's root as its key.
    tasks: list[Entry]
    rules: Rules
    tell: Callable[[Event], None]
    stop: Stop
    pacing: Pacing
    tally: Tally = field(default_factory=Tally)
    #: Why nothing more was begun, "" if all was.
    halted: str = ""
    _ended: queue.Queue[tuple[str, Ended | BaseException]] = field(default_factory=queue.Queue)
    _stops: dict[str, threading.Event] = field(default_factory=dict)
    #: How urgent each task is, 0 for the most.
    _ranks: dict[str, int] = field(default_factory=dict)
    #: Counted attempts of each task that there was another one after.
    _tries: dict[str, int] = field(default_factory=dict)
    #: How often each task was given back at no cost.
    _turns: dict[str, int] = field(default_factory=dict)

    def run(self) -> Tally:
        """Run until every task has its result, or nothing more may be begun."""
        scheduler = Scheduler(self.tasks, self.rules, self.pacing.limits)
        drain = Drain(self.shop.batch.folder)
        self.shop.tell(RunEvent.STARTED, "", limit=self.rules.limit, worker=self.shop.worker)
        self.pacing.tell()
        minding = Minding(self.shop.care, self.shop.tell)
        self._ranks = {task.id: task.rank for task in self.tasks}
        self.shop.care.open()
        heart = threading.Thread(target=self._beat, daemon=True, name="heart")
        heart.start()
        try:
            while True:
                self._heed_stop(scheduler, drain)
                self._block_unreachable(scheduler)
                if why := minding.mind(scheduler):
                    self._drain(scheduler, why)
                decision = scheduler.next(time.time())
                if isinstance(decision, Start):
                    self._begin(decision.id, decision.key, decision.lane)
                elif isinstance(decision, Finished):
                    if not self._stops:
                        counts = scheduler.counts()
                        if any(counts.get(state) for state in ("waiting", "ready", "delayed")):
                            self.halted = self.halted or decision.why  # by the scheduler's own rules
                        break
                    self._wait(scheduler, None)
                else:
                    self._wait(scheduler, decision.until)
        finally:
            for stopped in self._stops.values():
                stopped.set()
            while self._stops:
                self._take(scheduler, *self._ended.get())
            self.shop.care.close()
            self.shop.tell(RunEvent.FINISHED, "", why=self.halted)
        return self.tally

    # ---------------------------------------------------------------- details

    def _begin(self, task: str, path: str, lane: Lane) -> None:
        stopped = threading.Event()
        self._stops[task] = stopped
        self.shop.running.add(task)
        self.pacing.begin(task, lane)
        may_retry = self._tries.get(task, 0) < self.rules.retries
        attempt = Attempt(self.shop, path, stopped, may_retry=may_retry)
        attempt.rank = self._ranks[task]
        attempt.claimed = lambda name, generation: self.tell(
            Event(kind="begun", item=name, text=f"generation {generation}")
        )

        def carry_out() -> None:
            how: Ended | BaseException
            try:
                how = attempt.run()
            except BaseException as error:  # noqa: BLE001 - told and counted by the deciding thread
                how = error
            word = how.how if isinstance(how, Ended) else "failed"
            self.pacing.over(task, word, attempt.usage, refused=attempt.refused)
            self._ended.put((task, how))

        threading.Thread(target=carry_out, daemon=True, name=f"attempt {task}").start()

    def _wait(self, scheduler: Scheduler, until: float | None) -> None:
        """Wait for an attempt's end, but at most until something else may be begun."""
        patience = 1.0 if until is None else min(1.0, max(0.01, until - time.time()))
        try:
            ended = self._ended.get(timeout=patience)
        except queue.Empty:
            return
        self._take(scheduler, *ended)

    def _take(self, scheduler: Scheduler, task: str, how: Ended | BaseException) -> None:
        self._stops.pop(task, None)
        self.shop.running.discard(task)
        self.pacing.settle(task, scheduler)
        now = time.time()
        if isinstance(how, BaseException):
            self.tell(Event(kind="trouble", item=task, text=f"{task}: {type(how).__name__}: {how}"))
            scheduler.ended(task, now, Again(after=5.0))
            self._halt(scheduler, f"{task} could not be worked on: {how}")
            return
        if how.pause_until is not None and not self._rests(how):
            scheduler.pause(how.pause_until, how.text)
            self.shop.tell(RunEvent.PAUSED, task, until=text_of(how.pause_until), why=how.text)
            self.tell(Event(kind="again", item=task, text=how.text))
        if how.crowded:
            scheduler.shrink(now)
            self.shop.tell(RunEvent.LOWERED, task, limit=scheduler.limit(now), why=how.text)
        if how.stop_batch:
            if self.shop.staff.drop(how.agent, how.stop_batch):
                self.tell(Event(kind="trouble", item=task, text=f"without {how.agent}: {how.stop_batch}"))
            else:
                self._halt(scheduler, how.stop_batch)
        if how.how == "held":
            scheduler.held(task, now, how.text)
        elif how.how == "gone":
            scheduler.ended(task, now, Outcome.SKIPPED)
            self.tell(Event(kind="lost", item=task, text=how.text))
        else:
            self._tries[task] = self._tries.get(task, 0) + (how.how == "retry")
            if how.how == "again":
                self._count_turn(scheduler, task, how)
            scheduler.ended(task, now, self._again(task, how) or Outcome(how.how))
            kind = "again" if how.how in ("again", "retry") else how.how
            event = Event(kind=kind, item=task, text=how.text)
            self.tally.count(event)
            self.tell(event)

    def _again(self, task: str, how: Ended) -> Again | None:
        """Return when a task is tried again; None if its attempt was its end."""
        if how.how == "retry":
            return Again(counted=True)
        if how.how != "again":
            return None
        # It costs no attempt, but it must not go round at once either.
        return Again(after=min(LONGEST_DELAY, 2.0 ** self._turns[task]))

    def _count_turn(self, scheduler: Scheduler, task: str, how: Ended) -> None:
        """Count a task that came back at no cost; one that always does holds up the batch no longer."""
        turns = self._turns[task] = self._turns.get(task, 0) + 1
        most = self.shop.desk.settings["run"]["turns_away"]
        if turns >= most and how.pause_until is None:
            self._halt(scheduler, f"{task} came back {turns} times without an attempt: {how.text}")

    def _rests(self, how: Ended) -> bool:
        """Let an agent rest whose allowance is used up; return whether another goes on meanwhile."""
        assert how.pause_until is not None  # noqa: S101 - asked before
        return self.shop.staff.rest(how.agent, how.pause_until, how.text)

    def _halt(self, scheduler: Scheduler, why: str) -> None:
        """Begin nothing more: something is wrong."""
        scheduler.halt(why)
        self._tell_halted(why)

    def _drain(self, scheduler: Scheduler, why: str) -> None:
        """Begin nothing more: somebody said so."""
        scheduler.drain(why)
        self._tell_halted(why)

    def _tell_halted(self, why: str) -> None:
        if not self.halted:
            self.halted = why
            self.shop.tell(RunEvent.HALTED, "", why=why)

    def _block_unreachable(self, scheduler: Scheduler) -> None:
        for name, reason in scheduler.unreachable():
            self.tell(Event(kind="again", item=name, text=f"not begun: {reason}"))
            self.tally.left.append(name)

    def _heed_stop(self, scheduler: Scheduler, drain: Drain) -> None:
        if not self.halted and (self.stop.soon.is_set() or drain.asked()):
            self._drain(scheduler, "stopped by the user")
        if self.stop.now.is_set():
            for stopped in self._stops.values():
                stopped.set()

    def _beat(self) -> None:
        """Renew all claims; stop the agents of those that are lost."""
        pause = threading.Event()
        while not pause.wait(_LOOK_SECONDS):
            for name, stopped in list(self._stops.items()):
                try:
                    self._look_at(name, stopped)
                except OSError as error:
                    print(f"heartbeat: {error}", file=sys.stderr)

    def _look_at(self, name: str, stopped: threading.Event) -> None:
        store = self.shop.desk.open_store
        claim = self.shop.desk.open_claims.get(name)
        if store is None or claim is None:
            return
        try:
            store.beat(claim)
        except ClaimLost:
            stopped.set()
