"""Which task of a batch starts next, and why none does. A state machine without a clock of its own."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush

from ..core.model import Outcome
from ..learning.stats import TaskClass
from .admission import Admission
from .halting import Halting, tasks
from .ready_queue import LOOKS, ReadyQueue
from .schedule import Again, Finished, QueuedTask, SchedulingRules, Start, Wait

_WAITING, _PARKED, _READY, _DELAYED, _RUNNING, _ENDED = range(6)
_OUTCOMES = tuple(Outcome)
_STATES = ("waiting", "parked", "ready", "delayed", "running", *_OUTCOMES)
_HOW = {Outcome.FAILED: "failed", Outcome.BLOCKED: "is blocked", Outcome.SKIPPED: "was skipped"}


class Scheduler:
    """The tasks of a batch, each waiting, ready, delayed, running or ended.

    Ready tasks stand in a `ReadyQueue`, which passes over those that conflict with running ones, and over
    classes that are full.

    Args:
        batch: The tasks.
        rules: How they run.
        classes: How many of a class may run at once, for those classes that are limited; see `pace`.

    Raises:
        ValueError: Two tasks have the same id.
    """

    def __init__(
        self,
        batch: Sequence[QueuedTask],
        rules: SchedulingRules,
        classes: Mapping[TaskClass, int] | None = None,
    ) -> None:
        self._rules = rules
        self._tasks = sorted(batch, key=lambda task: task.order)
        self._at = {task.id: at for at, task in enumerate(self._tasks)}
        if len(self._at) != len(batch):
            raise ValueError("two tasks of a batch have the same id")
        total = len(self._tasks)
        self._state = bytearray(total)
        self._count = [total] + [0] * (len(_STATES) - 1)
        self._queue = ReadyQueue(self._tasks, scope_gate=rules.scope_gate, classes=classes)
        self._unmet = array("l", bytes(array("l").itemsize * total))
        self._after: dict[int, list[int]] = {}
        self._delayed: list[tuple[float, int]] = []
        self._due: dict[int, tuple[float, str]] = {}
        self._attempts: dict[int, int] = {}
        self._lost: list[tuple[str, str]] = []
        self._unstarted = 0
        self._halting = Halting(rules)
        self._pause, self._pause_why = float("-inf"), ""
        #: How many may run; told of the machine's state by whoever watches that.
        self.admission = Admission(rules.throttle)
        self._origin: float | None = None
        for at, task in enumerate(self._tasks):
            for other in {self._at[name] for name in task.depends_on if name in self._at}:
                self._after.setdefault(other, []).append(at)
                self._unmet[at] += 1
        for at in range(total):
            if not self._unmet[at]:
                self._admit(at, None)

    # ------------------------------------------------------------------ asked

    def next(self, now: float) -> Start | Wait | Finished:
        """Decide what happens now."""
        self._wake(now)
        if (said := self._gate(now)) is not None:
            return said
        if (at := self._pick()) is not None:
            self._take(at)
            self.admission.started(now)
            return Start(
                id=self._tasks[at].id, key=self._tasks[at].key, task_class=self._tasks[at].task_class
            )
        if not any(self._count[_READY : _RUNNING + 1]):
            if parked := self._count[_PARKED]:
                waits = "waits" if parked == 1 else "wait"
                return Finished(why=f"{tasks(parked)} {waits} for an answer (`hypervisor questions`)")
            circle = [at for at, state in enumerate(self._state) if state == _WAITING]
            for at in circle:
                waits = ", ".join(self.waits_for(self._tasks[at].id))
                self._lose(at, f"waits for {waits}, which in the end waits for itself")
            return Finished(why=f"{tasks(len(circle))} wait for one another")
        return self._idle(now)

    def explain(self, now: float) -> str:
        """Return in one line why nothing starts right now."""
        self._wake(now)
        said = self._gate(now)
        if said is None and (at := self._pick()) is not None:
            return f"{self._tasks[at].id} is ready to start"
        return (said or self._idle(now)).why

    def counts(self) -> dict[str, int]:
        """Return how many tasks are in each state."""
        return dict(zip(map(str, _STATES), self._count, strict=True))

    def limit(self, now: float) -> int:
        """Return how many may run now, as far as the service says."""
        return self.admission.limit(now)

    def waits_for(self, task: str) -> list[str]:
        """Return the ids that *task* depends on and that have not succeeded."""
        known = [name for name in self._tasks[self._at[task]].depends_on if name in self._at]
        return [name for name in dict.fromkeys(known) if self._outcome(self._at[name]) is not Outcome.SUCCESS]

    def unreachable(self) -> list[tuple[str, str]]:
        """Return the tasks that ended as blocked without a start since this was last asked, and why."""
        lost, self._lost = self._lost, []
        return lost

    # ------------------------------------------------------------------- told

    def ended(self, task: str, now: float, outcome: Outcome | Again) -> Outcome | None:
        """Note how an attempt ended, or that a task needs none any more.

        Returns:
            How the task ended, None if it will be tried again. A task ends once: what is said of it
            afterwards changes nothing.
        """
        self._wake(now)
        at = self._at[task]
        if self._state[at] >= _ENDED:
            return self._outcome(at)
        self._free(at)
        if isinstance(outcome, Again):
            tries = self._attempts[at] = self._attempts.get(at, 0) + outcome.counted
            if not outcome.counted:
                self._delay(at, now + outcome.after, "wait to be tried again, at no cost")
                return None
            if tries <= self._rules.retries:
                self._delay(at, now + self._rules.backoff(tries), "wait for another attempt")
                return None
            outcome = Outcome.FAILED
        self._set(at, _ENDED + _OUTCOMES.index(outcome))
        self._judge(at, outcome)
        if outcome is Outcome.SUCCESS:
            for other in self._after.get(at, ()):
                self._unmet[other] -= 1
                if not self._unmet[other] and self._state[other] == _WAITING:
                    self._admit(other, now)
        else:
            self._cut_off(at, _HOW[outcome])
        return outcome

    def held(self, task: str, now: float, by: str) -> None:
        """Note that another coordinator has a task."""
        at = self._at[task]
        if self._state[at] < _ENDED:
            self._free(at)
            self._halting.dropped(at)
            self._delay(at, now + self._rules.held_seconds, f"are held by others ({task} by {by})")

    def park(self, task: str) -> None:
        """Note that a task waits for the answer to a question of its agent."""
        at = self._at[task]
        if self._state[at] < _ENDED:
            self._free(at)
            self._halting.dropped(at)
            self._set(at, _PARKED)

    def unpark(self, task: str, now: float) -> None:
        """Note that the question was answered: the task may start, as soon as what it depends on is done."""
        at = self._at[task]
        if self._state[at] == _PARKED:
            if self._unmet[at]:
                self._set(at, _WAITING)
            else:
                self._admit(at, now)

    def pace(self, task_class: TaskClass, most: int) -> None:
        """Let so many of a class run at once; it must have been limited from the start."""
        self._queue.allow(task_class, most)

    def pause(self, until: float, why: str) -> None:
        """Start nothing before *until*."""
        if until > self._pause:
            self._pause, self._pause_why = until, why

    def drain(self, why: str) -> None:
        """Start nothing more, as somebody said so."""
        self._halting.drain(why)

    def halt(self, why: str) -> None:
        """Start nothing more, as something is wrong."""
        self._halting.halt(why)

    def shrink(self, now: float) -> None:
        """Halve the limit: a service said "too many requests"."""
        self.admission.crowded(now)

    # ---------------------------------------------------------------- reasons

    def _gate(self, now: float) -> Wait | Finished | None:
        running, over = self._count[_RUNNING], self._halting.over
        if sum(self._count[_ENDED:]) == len(self._tasks):
            return Finished(why=f"all of {tasks(len(self._tasks))} ended")
        if over and running:
            return Wait(until=None, why=f"{over}; {running} still run")
        if over:
            return Finished(why=over)
        if now < self._pause:
            return Wait(until=self._pause, why=f"paused: {self._pause_why}")
        if (held := self.admission.held(now, running)) is not None:
            return Wait(until=held.until, why=held.why)
        return None

    def _idle(self, now: float) -> Wait:
        until = self._delayed[0][0] if self._delayed else None
        if self._halting.alone is not None:
            why = f"the first {tasks(self._rules.canary)} run alone until all of them have ended"
        elif self._queue.looks_on:
            until, why = now, f"looked at {LOOKS} tasks that conflict with running ones; will go on"
        elif self._count[_READY]:
            parked, full = self._queue.first_parked(), self._queue.full()
            why = f"{tasks(self._count[_READY])} "
            if parked:
                first, by = (self._tasks[at].id for at in parked)
                why += f"touch files of running ones ({first} those of {by})"
            else:
                most = ", ".join(f"{number} of {task_class}" for task_class, number in full.items())
                why += f"wait, as no more may run at once than {most}"
        elif self._count[_DELAYED]:
            why = f"{tasks(self._count[_DELAYED])} {self._due[self._delayed[0][1]][1]}"
        else:
            why = f"{tasks(self._count[_WAITING])} wait for the {self._count[_RUNNING]} that run"
        return Wait(until=until, why=why)

    # ------------------------------------------------------------------ queue

    def _pick(self) -> int | None:
        """Return the task that may start now, None if there is none."""
        alone = self._halting.alone
        return self._queue.first() if alone is None else self._queue.first_of(alone)

    def _admit(self, at: int, now: float | None) -> None:
        """Put a task into the queue for the first time; its age counts from here."""
        rules, rank = self._rules, 0
        if rules.strategy == "parallel":
            rank = self._tasks[at].rank
            if now is not None and rules.age_seconds > 0:
                # A period more for those that come later is a period of age for those that wait.
                rank += int((now - self._start(now)) // rules.age_seconds)
        self._set(at, _READY)
        self._queue.put(at, rank)

    def _start(self, now: float) -> float:
        self._origin = now if self._origin is None else self._origin
        return self._origin

    def _wake(self, now: float) -> None:
        """Queue those whose delay is over."""
        self._start(now)
        while self._delayed:
            until, at = self._delayed[0]
            valid = self._state[at] == _DELAYED and self._due[at][0] == until
            if valid and until > now:
                break
            heappop(self._delayed)
            if valid:
                self._set(at, _READY)
                self._queue.put(at)

    # ----------------------------------------------------------------- states

    def _set(self, at: int, state: int) -> None:
        self._count[self._state[at]] -= 1
        self._count[state] += 1
        self._state[at] = state

    def _outcome(self, at: int) -> Outcome | None:
        return _OUTCOMES[self._state[at] - _ENDED] if self._state[at] >= _ENDED else None

    def _take(self, at: int) -> None:
        self._set(at, _RUNNING)
        self._halting.begun(at)
        self._queue.occupy(at)

    def _free(self, at: int) -> None:
        """Take a task out of the queue, or let go of what it keeps others from as it runs."""
        if self._state[at] == _RUNNING:
            self._queue.release(at)
        elif self._state[at] == _READY:
            self._queue.discard(at)

    def _delay(self, at: int, until: float, why: str) -> None:
        self._set(at, _DELAYED)
        self._due[at] = (until, why)
        heappush(self._delayed, (until, at))

    def _judge(self, at: int, outcome: Outcome) -> None:
        """Look whether the batch goes on after this end."""
        failed = self._count[_ENDED + _OUTCOMES.index(Outcome.FAILED)]
        skipped = self._count[_ENDED + _OUTCOMES.index(Outcome.SKIPPED)]
        tried = sum(self._count[_ENDED:]) - skipped - self._unstarted
        self._halting.ended(at, outcome, failed, tried)

    def _cut_off(self, at: int, how: str) -> None:
        """End all that depend on a task that did not succeed."""
        root, todo = self._tasks[at].id, [at]
        while todo:
            one = todo.pop()
            name = self._tasks[one].id
            said = how if one == at else f"is blocked, as {root} {how}"
            for other in self._after.get(one, ()):
                if self._state[other] == _WAITING:
                    self._lose(other, f"{name}, on which it depends, {said}")
                    todo.append(other)

    def _lose(self, at: int, why: str) -> None:
        self._set(at, _ENDED + _OUTCOMES.index(Outcome.BLOCKED))
        self._unstarted += 1
        self._lost.append((self._tasks[at].id, why))
