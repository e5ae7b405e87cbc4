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

from .attempt import Attempt, Ended, Shop
from .errors import ClaimLost
from .heart import Stop
from .model import Outcome, TaskHead
from .scheduler import Again, Entry, Finished, Rules, Scheduler, Start
from .tally import Event, Tally

#: How often it is looked whether claims are still held, in seconds: a cancelled task's agent ends then.
_LOOK_SECONDS = 1.0
#: The longest that a task waits which is tried again at no cost, in seconds.
_LONGEST_DELAY = 300.0


@dataclass(slots=True)
class Coordinator:
    """One run over the tasks of one batch."""

    shop: Shop
    tasks: list[TaskHead]
    rules: Rules
    tell: Callable[[Event], None]
    stop: Stop
    tally: Tally = field(default_factory=Tally)
    spent_usd: float = 0.0
    #: Why nothing more was begun, "" if all was.
    halted: str = ""
    _ended: queue.Queue[tuple[TaskHead, Ended | BaseException]] = field(default_factory=queue.Queue)
    _stops: dict[str, threading.Event] = field(default_factory=dict)
    #: Counted attempts of each task that there was another one after.
    _tries: dict[str, int] = field(default_factory=dict)
    #: How often each task was given back at no cost.
    _turns: dict[str, int] = field(default_factory=dict)

    def run(self) -> Tally:
        """Run until every task has its result, or nothing more may be begun."""
        by_id = {task.id: task for task in self.tasks}
        scheduler = Scheduler([_entry(number, task) for number, task in enumerate(self.tasks)], self.rules)
        heart = threading.Thread(target=self._beat, daemon=True, name="heart")
        heart.start()
        try:
            while True:
                self._heed_stop(scheduler)
                self._block_unreachable(scheduler, by_id)
                decision = scheduler.next(time.time())
                if isinstance(decision, Start):
                    self._begin(by_id[decision.id])
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
                self._take(scheduler, self._ended.get())
        return self.tally

    # ---------------------------------------------------------------- details

    def _begin(self, task: TaskHead) -> None:
        stopped = threading.Event()
        self._stops[task.id] = stopped
        self.shop.running.add(task.id)
        may_retry = self._tries.get(task.id, 0) < self.rules.retries
        attempt = Attempt(self.shop, task, stopped, may_retry=may_retry)
        attempt.claimed = lambda name, generation: self.tell(
            Event(kind="begun", item=name, text=f"generation {generation}")
        )

        def carry_out() -> None:
            try:
                self._ended.put((task, attempt.run()))
            except BaseException as error:  # noqa: BLE001 - told and counted by the deciding thread
                self._ended.put((task, error))

        threading.Thread(target=carry_out, daemon=True, name=f"attempt {task.id}").start()

    def _wait(self, scheduler: Scheduler, until: float | None) -> None:
        """Wait for an attempt's end, but at most until something else may be begun."""
        patience = 1.0 if until is None else min(1.0, max(0.01, until - time.time()))
        try:
            ended = self._ended.get(timeout=patience)
        except queue.Empty:
            return
        self._take(scheduler, ended)

    def _take(self, scheduler: Scheduler, ended: tuple[TaskHead, Ended | BaseException]) -> None:
        task, how = ended
        self._stops.pop(task.id, None)
        self.shop.running.discard(task.id)
        now = time.time()
        if isinstance(how, BaseException):
            self.tell(Event(kind="trouble", item=task.id, text=f"{task.id}: {type(how).__name__}: {how}"))
            scheduler.ended(task.id, now, Again(after=5.0))
            self.halted = self.halted or f"{task.id} could not be worked on: {how}"
            scheduler.halt(self.halted)
            return
        self._count_money(scheduler, how)
        if how.pause_until is not None:
            scheduler.pause(how.pause_until, how.text)
            self.tell(Event(kind="again", item=task.id, text=how.text))
        if how.crowded:
            scheduler.shrink(now)
        if how.stop_batch:
            self.halted = how.stop_batch
            scheduler.halt(how.stop_batch)
        if how.how == "held":
            scheduler.held(task.id, now, how.text)
        elif how.how == "gone":
            scheduler.ended(task.id, now, Outcome.SKIPPED)
            self.tell(Event(kind="lost", item=task.id, text=how.text))
        else:
            self._tries[task.id] = self._tries.get(task.id, 0) + (how.how == "retry")
            scheduler.ended(task.id, now, self._again(task, how) or Outcome(how.how))
            kind = "again" if how.how in ("again", "retry") else how.how
            event = Event(kind=kind, item=task.id, text=how.text)
            self.tally.count(event)
            self.tell(event)

    def _again(self, task: TaskHead, how: Ended) -> Again | None:
        """Return when a task is tried again; None if its attempt was its end."""
        if how.how == "retry":
            return Again(counted=True)
        if how.how != "again":
            return None
        # It costs no attempt, but it must not go round at once either.
        turns = self._turns[task.id] = self._turns.get(task.id, 0) + 1
        return Again(after=min(_LONGEST_DELAY, 2.0**turns))

    def _count_money(self, scheduler: Scheduler, how: Ended) -> None:
        self.spent_usd += how.cost_usd or 0.0
        budget = self.shop.orders.budget_usd
        if budget is not None and self.spent_usd >= budget and not self.halted:
            self.halted = f"the budget of {budget:g} USD is used up ({self.spent_usd:.2f} spent)"
            scheduler.drain(self.halted)

    def _block_unreachable(self, scheduler: Scheduler, by_id: dict[str, TaskHead]) -> None:
        for name, reason in scheduler.unreachable():
            self.tell(Event(kind="again", item=name, text=f"not begun: {reason}"))
            self.tally.left.append(by_id[name].id)

    def _heed_stop(self, scheduler: Scheduler) -> None:
        if self.stop.soon.is_set() and not self.halted:
            self.halted = "stopped by the user"
            scheduler.drain(self.halted)
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


def _entry(order: int, task: TaskHead) -> Entry:
    return Entry(
        id=task.id, key=task.path, rank=task.priority.rank, depends_on=task.depends_on, files=task.files,
        order=order,
    )  # fmt: skip
