"""Runs agents on the tasks of a batch: several at once, within what the scheduler allows.

One thread decides; each attempt has a thread of its own, which mostly waits for its agent. The claims belong
to this process: when it dies, they are free at once, and whoever takes over ends the processes it left.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from ..core.model import Outcome
from ..core.text import time_text
from ..learning.stats import TaskClass
from ..queue.counts import ItemEvent, RunCounts
from ..queue.heartbeat import Heartbeat
from ..queue.stop import Stop
from ..store.events import RunEvent
from ..store.records import Claim
from .attempt import TaskAttempt
from .attempt_work import AttemptEnd
from .concurrency import ConcurrencyController
from .run_context import RunContext
from .schedule import Again, Finished, QueuedTask, SchedulingRules, Start
from .scheduler import Scheduler

#: How often claims are renewed, in seconds: the agent of a cancelled task ends that soon.
_RENEW_SECONDS = 1.0
#: How often the store is asked whether the batch is to be drained, in seconds.
_DRAIN_SECONDS = 0.5
#: How a task ends that a person is told of at once.
_TROUBLE = (Outcome.FAILED, Outcome.BLOCKED)
#: The longest that a task waits which is tried again at no cost, in seconds.
LONGEST_DELAY = 300.0


@dataclass(slots=True)
class Coordinator:
    """One run over the tasks of one batch."""

    run_context: RunContext
    #: Each with its path below the project's root as its key.
    tasks: list[QueuedTask]
    rules: SchedulingRules
    tell: Callable[[ItemEvent], None]
    stop: Stop
    concurrency: ConcurrencyController
    counts: RunCounts = field(default_factory=RunCounts)
    #: Why nothing more was started, "" if all was.
    halted: str = ""
    _ended: queue.Queue[tuple[str, AttemptEnd | BaseException]] = field(default_factory=queue.Queue)
    _stops: dict[str, threading.Event] = field(default_factory=dict)
    #: How urgent each task is, 0 for the most.
    _ranks: dict[str, int] = field(default_factory=dict)
    #: Counted attempts of each task that there was another one after.
    _tries: dict[str, int] = field(default_factory=dict)
    #: How often each task was given back at no cost.
    _turns: dict[str, int] = field(default_factory=dict)
    #: `BatchRecord.drain_at` as this run began; and when it is read again.
    _drain_at: int | None = None
    _drain_look: float = 0.0
    #: Tasks that wait for an answer; and when answers are looked for again.
    _parked: set[str] = field(default_factory=set)
    _answer_look: float = 0.0
    _heartbeat: Heartbeat = field(init=False)

    def run(self) -> RunCounts:
        """Run until every task has its result, or nothing more may start."""
        run = self.run_context
        scheduler = Scheduler(self.tasks, self.rules, self.concurrency.limits)
        self._drain_at = self._asked_to_drain()
        run.tell(RunEvent.STARTED, "", limit=self.rules.limit, worker=run.worker.id)
        self.concurrency.announce()
        self._ranks = {task.id: task.rank for task in self.tasks}
        self._park(scheduler, self.run_context.store.questions.parked(self.run_context.batch.number))
        run.supervisor.open()
        lease = run.service.settings["claims"]["lease_seconds"] if run.store.shared else None
        self._heartbeat = Heartbeat(run.store.claims, _RENEW_SECONDS, lease=lease)
        try:
            while True:
                self._heed_stop(scheduler)
                self._heed_answers(scheduler)
                self._skip_unreachable(scheduler)
                if why := self._update_admission(scheduler):
                    self._drain(scheduler, why)
                decision = scheduler.next(time.time())
                if isinstance(decision, Finished) and self._heed_answers(scheduler, now=True):
                    continue
                if isinstance(decision, Start):
                    self._start(decision.id, decision.key, decision.task_class)
                elif isinstance(decision, Finished):
                    if not self._stops:
                        counts = scheduler.counts()
                        if any(counts.get(state) for state in ("waiting", "parked", "ready", "delayed")):
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
            self._heartbeat.close()
            run.supervisor.close()
            run.tell(RunEvent.FINISHED, "", why=self.halted)
        return self.counts

    # ---------------------------------------------------------------- details

    def _update_admission(self, scheduler: Scheduler) -> str:
        """Tell the scheduler how many may run; return why nothing more may start at all, "" if more may."""
        supervisor, admission = self.run_context.supervisor, scheduler.admission
        used_up = supervisor.used_up()
        counts = scheduler.counts()
        waits = any(counts[state] for state in ("waiting", "ready", "delayed"))
        hold = supervisor.why_not(counts["running"]) if waits else ""
        if change := admission.update(supervisor.monitor.state, hold, time.time()):
            self.run_context.tell(
                RunEvent.LEVEL, "", level=change.level.value, was=change.was.value, room=change.room,
                why=change.why or "all is well again", **admission.state.reading.figures(),
            )  # fmt: skip
            if waits:
                self.tell(ItemEvent(kind="paced", item="", text=change.line(self.rules.limit)))
        if waits or counts["running"]:
            return used_up or (hold if not counts["running"] else "")
        return ""

    def _start(self, task: str, path: str, task_class: TaskClass) -> None:
        stopped = threading.Event()
        self._stops[task] = stopped
        self.run_context.running[task] = None
        self.concurrency.begin(task, task_class)

        def claimed(claim: Claim) -> None:
            self._heartbeat.hold({claim.attempt: stopped})
            self.tell(ItemEvent(kind="started", item=task, text=f"attempt {claim.number}"))

        attempt = TaskAttempt(
            self.run_context, path, stopped, rank=self._ranks[task], claimed=claimed,
            may_retry=self._tries.get(task, 0) < self.rules.retries,
        )  # fmt: skip

        def carry_out() -> None:
            how: AttemptEnd | BaseException
            try:
                how = attempt.run()
            except BaseException as error:  # noqa: BLE001 - told and counted by the deciding thread
                how = error
            word = how.how if isinstance(how, AttemptEnd) else "failed"
            number = attempt.claim.attempt if attempt.claim else 0
            turns = attempt.turns
            self.concurrency.over(task, number, word, turns.usage, refused=turns.refused)
            self._ended.put((task, how))

        threading.Thread(target=carry_out, daemon=True, name=f"attempt {task}").start()

    def _wait(self, scheduler: Scheduler, until: float | None) -> None:
        """Wait for an attempt's end, but at most until something else may start."""
        patience = 1.0 if until is None else min(1.0, max(0.01, until - time.time()))
        try:
            ended = self._ended.get(timeout=patience)
        except queue.Empty:
            return
        self._take(scheduler, *ended)

    def _take(self, scheduler: Scheduler, task: str, how: AttemptEnd | BaseException) -> None:
        run = self.run_context
        self._stops.pop(task, None)
        self.concurrency.settle(task, scheduler)
        now = time.time()
        if isinstance(how, AttemptEnd) and how.pause_until is not None and not self._rests(how):
            scheduler.pause(how.pause_until, how.text)
            run.tell(RunEvent.PAUSED, task, until=time_text(how.pause_until), why=how.text)
            self.tell(ItemEvent(kind="again", item=task, text=how.text))
        if isinstance(how, AttemptEnd) and how.crowded:
            scheduler.shrink(now)
            run.tell(RunEvent.LOWERED, task, limit=scheduler.limit(now), why=how.text)
        if claim := run.running.pop(task, None):
            self._heartbeat.drop([claim.attempt])
        if isinstance(how, BaseException):
            self._take_fault(scheduler, task, how)
            return
        self._heed_fault(scheduler, task, how)
        self._place(scheduler, task, how, now)

    def _place(self, scheduler: Scheduler, task: str, how: AttemptEnd, now: float) -> None:
        """Tell the scheduler, and whoever watches, what became of a task with an attempt."""
        if how.how == "parked":
            self._park(scheduler, [task])
            self.tell(ItemEvent(kind="again", item=task, text=how.text))
        elif how.how == "held":
            scheduler.held(task, now, how.text)
        elif how.how == "gone":
            scheduler.ended(task, now, Outcome.SKIPPED)
            self.tell(ItemEvent(kind="lost", item=task, text=how.text))
        elif how.outcome is not None:  # of another machine
            scheduler.ended(task, now, how.outcome)
            self.tell(ItemEvent(kind="lost", item=task, text=how.text))
        else:
            self._tries[task] = self._tries.get(task, 0) + (how.how == "retry")
            if how.how == "again":
                self._count_turn(scheduler, task, how)
            scheduler.ended(task, now, self._again(task, how) or Outcome(how.how))
            kind = "again" if how.how in ("again", "retry") else how.how
            event = ItemEvent(kind=kind, item=task, text=how.text)
            self.counts.count(event)
            self.tell(event)
            if how.how in _TROUBLE:
                run, log = self.run_context, f"hypervisor log {task}"
                text = f"{task} {'failed' if how.how == Outcome.FAILED else 'is blocked'}: {how.text}"
                run.notifier.send("failure", text, task=task, outcome=how.how, type=log)

    def _heed_fault(self, scheduler: Scheduler, task: str, how: AttemptEnd) -> None:
        """Drop an agent that cannot work, or start nothing more, where an attempt's end says so."""
        if how.halt:
            self._halt(scheduler, how.halt)
        if how.stop_batch:
            if self.run_context.router.drop(how.agent, how.stop_batch):
                self.tell(ItemEvent(kind="trouble", item=task, text=f"without {how.agent}: {how.stop_batch}"))
            else:
                self._halt(scheduler, how.stop_batch)

    def _take_fault(self, scheduler: Scheduler, task: str, fault: BaseException) -> None:
        """Note that an attempt failed by no fault of its agent."""
        self.tell(ItemEvent(kind="trouble", item=task, text=f"{task}: {type(fault).__name__}: {fault}"))
        scheduler.ended(task, time.time(), Again(after=5.0))
        if not (isinstance(fault, OSError) and self.run_context.store.shared):  # a database comes back
            self._halt(scheduler, f"{task} could not be worked on: {fault}")

    def _park(self, scheduler: Scheduler, tasks: Collection[str]) -> None:
        """Let tasks wait for an answer."""
        for task in tasks:
            if task in self._ranks:
                self._parked.add(task)
                scheduler.park(task)

    def _heed_answers(self, scheduler: Scheduler, *, now: bool = False) -> bool:
        """Let the tasks go on whose questions were answered; return whether there are any."""
        if not self._parked or not (now or time.monotonic() >= self._answer_look):
            return False
        self._answer_look = time.monotonic() + _DRAIN_SECONDS
        run = self.run_context
        answered = self._parked - run.store.questions.parked(run.batch.number)
        self._parked -= answered
        for task in answered:
            scheduler.unpark(task, time.time())
        return bool(answered)

    def _again(self, task: str, how: AttemptEnd) -> Again | None:
        """Return when a task is tried again; None if its attempt was its end."""
        if how.how == "retry":
            return Again(counted=True)
        if how.how != "again":
            return None
        # It costs no attempt, but it must not go round at once either.
        return Again(after=min(LONGEST_DELAY, 2.0 ** self._turns[task]))

    def _count_turn(self, scheduler: Scheduler, task: str, how: AttemptEnd) -> None:
        """Count a task that came back at no cost; one that always does must not hold up the batch."""
        turns = self._turns[task] = self._turns.get(task, 0) + 1
        most = self.run_context.service.settings["run"]["turns_away"]
        if turns >= most and how.pause_until is None:
            self._halt(scheduler, f"{task} came back {turns} times without an attempt: {how.text}")

    def _rests(self, how: AttemptEnd) -> bool:
        """Let an agent rest whose allowance is used up; return whether another goes on meanwhile."""
        assert how.pause_until is not None  # noqa: S101 - asked before
        return self.run_context.router.rest(how.agent, how.pause_until, how.text)

    def _halt(self, scheduler: Scheduler, why: str) -> None:
        """Start nothing more: something is wrong."""
        scheduler.halt(why)
        self._tell_halted(why)

    def _drain(self, scheduler: Scheduler, why: str) -> None:
        """Start nothing more: somebody said so."""
        scheduler.drain(why)
        self._tell_halted(why)

    def _tell_halted(self, why: str) -> None:
        if not self.halted:
            self.halted = why
            self.run_context.tell(RunEvent.HALTED, "", why=why)

    def _skip_unreachable(self, scheduler: Scheduler) -> None:
        for name, reason in scheduler.unreachable():
            self.tell(ItemEvent(kind="again", item=name, text=f"not started: {reason}"))
            self.counts.left.append(name)

    def _heed_stop(self, scheduler: Scheduler) -> None:
        if not self.halted:
            asked = self.stop.soon.is_set()
            if not asked and time.monotonic() >= self._drain_look:
                self._drain_look = time.monotonic() + _DRAIN_SECONDS
                asked = self._asked_to_drain() != self._drain_at
            if asked:
                self._drain(scheduler, "stopped by the user")
        if self.stop.now.is_set():
            self.run_context.over.set()
            for stopped in self._stops.values():
                stopped.set()

    def _asked_to_drain(self) -> int | None:
        batch = self.run_context.batch
        return batch.store.batches.get(batch.record.id).drain_at
