"""Watches the machine and the agents that run on it, and carries out what the overseer decides.

One thread. The machine is looked at five times as often as asked, which costs next to nothing; the
processes as often as asked, and as often as the machine where memory is getting short.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..core.process import Moment, this_moment
from ..store.events import RunEvent
from .metrics import Reading, Sampler
from .overseer import Action, AgentSample, Enforcement, Overseer
from .processes import (
    Process,
    ProcessTree,
    adopt_orphans,
    bury,
    environment_of,
    processes,
    proportional_memory,
    send,
)
from .zones import MachineState, Zone, ZoneTracker

#: Machine looks for one look at the processes.
_OFTEN = 5
#: With so much of the memory in use, and so much more than a moment ago, in percent, every look counts.
_HALF, _RISE = 50.0, 0.5
#: With less free space than this agents cannot be heard: their output is not kept. Bytes.
_MUTE_DISK = 16 * 2**20
#: How long the leftovers of an agent have after TERM, and how long all of their end may take, in seconds.
_GRACE, _PATIENCE = 0.5, 10.0
#: How often the machine's figures are told while agents run, in seconds: an hour of them is some 50 kB.
_NOTE_SECONDS = 10.0
#: A zombie of ours that nobody has waited for in so many seconds is one that we have adopted.
_ZOMBIE_SECONDS = 120.0


@dataclass(slots=True, kw_only=True)
class MonitoredAgent:
    """An agent that is watched."""

    mark: str
    task: str
    #: 0 for the most urgent.
    rank: int
    order: int
    #: Path of its output, without the ending.
    log: str
    #: Set to make its runner end it.
    stopped: threading.Event
    #: Before it nothing of its was started.
    since: Moment
    begun: float
    heard: float
    #: How much it has said, in bytes, and the CPU time that it had used then.
    said: int = -1
    cpu_then: float = 0.0
    cpu: float = 0.0
    tokens: int | None = None
    #: Why it was ended, None if it was not.
    act: Enforcement | None = None
    #: Whether the KILL was told of; it may take several.
    killed: bool = False


@dataclass(slots=True)
class ResourceMonitor:
    """The watching thread of a run.

    Args:
        sampler: Reads the machine.
        tracker: Tells the zone.
        overseer: Decides about agents.
        seconds: Between two looks at the processes.
        tell: Adds an event to the batch's log.
    """

    sampler: Sampler
    tracker: ZoneTracker
    overseer: Overseer
    seconds: float
    tell: Callable[..., None]
    _tree: ProcessTree = field(default_factory=lambda: ProcessTree(os.getpid(), environment_of, adopts=False))
    _watched: dict[str, MonitoredAgent] = field(default_factory=dict)
    _number: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _scanned: float = 0.0
    #: Memory in use, in percent, as it was on the mean of the last second.
    _ram_then: float = 0.0
    _zombies: dict[tuple[int, str], float] = field(default_factory=dict)
    _trouble: str = ""
    #: What was read since the figures were told; and when they are told again.
    _read: list[Reading] = field(default_factory=list)
    _note_at: float = 0.0

    def start(self) -> None:
        """Look for the first time, and begin to watch; this process becomes the heir of all below it."""
        self._tree = ProcessTree(os.getpid(), environment_of, adopts=adopt_orphans())
        self.tracker.read(self.sampler.read())
        if self.tracker.bounds.cpu:
            self._over.wait(0.25)  # CPU is told between two looks; nothing is begun before it is known
            self.tracker.read(self.sampler.read())
        self._thread = threading.Thread(target=self._run, daemon=True, name="watch")
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def state(self) -> MachineState:
        """The machine's state, as of the last look."""
        return self.tracker.state

    def attend(self, mark: str, task: str, rank: int, log: str, stopped: threading.Event) -> MonitoredAgent:
        """Begin to watch an agent, before it is started."""
        now = time.monotonic()
        with self._lock:
            self._number += 1
            made = MonitoredAgent(
                mark=mark, task=task, rank=rank, order=self._number, log=log, stopped=stopped,
                since=this_moment(), begun=now, heard=now,
            )  # fmt: skip
            self._watched[mark] = made
        return made

    def leave(self, watched: MonitoredAgent) -> int:
        """Stop watching an agent, as it has ended; end what is left of it.

        Returns:
            How many of its processes were left, and were ended.
        """
        its: set[tuple[int, str]] = set()
        ended: set[tuple[int, str]] = set()
        begun = time.monotonic()
        doubt: set[tuple[int, str]] = set()
        while True:
            with self._lock:
                # What any agent has started was started after the first of them.
                first = min((one.since for one in self._watched.values()), key=lambda one: one.clock)
                table, marks = processes(first), self._marks()
                left = self._tree.look(table, marks)[watched.mark]
                strays = {(one.pid, one.start): one for one in self._tree.strays(table, marks, watched.mark)}
            its |= {(one.pid, one.start) for one in left}
            # Seen twice: between its fork and its exec a child of ours bears nothing either.
            left += [one for key, one in strays.items() if key in doubt]
            new = strays.keys() - doubt - ended
            doubt |= strays.keys()
            age = time.monotonic() - begun
            if (not left and not new) or age > _PATIENCE:
                break
            for one in left:
                send(one, signal.SIGTERM if age < _GRACE else signal.SIGKILL)
                ended.add((one.pid, one.start))
            time.sleep(0.02)
        with self._lock:
            self._watched.pop(watched.mark, None)
        for pid, _ in ended:
            bury(pid)
        return len(its)

    def stop(self, watched: MonitoredAgent, why: str) -> None:
        """End an agent at once, at no cost to its task: it may spend no more."""
        with self._lock:
            some = self._tree.look(processes(), self._marks()).get(watched.mark, [])
            act = Enforcement(
                mark=watched.mark, action=Action.STOP, what="budget", figure=0.0, limit=0.0, why=why
            )
            self._carry_out(act, some)

    def stop_all(self, why: str) -> None:
        """End all agents, as `stop` does."""
        for one in list(self._watched.values()):
            if one.act is None:
                self.stop(one, why)

    # ---------------------------------------------------------------- details

    def _run(self) -> None:
        while not self._over.wait(self.seconds / _OFTEN):
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 - one bad look must not be the last; told once
                if self._trouble != str(error):
                    self._trouble = str(error)
                    print(f"watch: {type(error).__name__}: {error}", file=sys.stderr)

    def _look(self) -> None:
        now = time.monotonic()
        state = self.tracker.read(self.sampler.read())
        self._note(now, state)
        ram = state.reading.ram_percent or 0.0
        # Memory may be gone within a second; everything else has time.
        tense = state.now >= Zone.DANGER or (ram >= _HALF and ram - self._ram_then >= _RISE)
        self._ram_then += (ram - self._ram_then) / _OFTEN
        if now - self._scanned < self.seconds * 0.99 and not (tense and self._watched):
            return
        with self._lock:
            self._forgive(now)
            self._scanned = now
            table = processes()
            self._bury(table, now)
            found = self._tree.look(table, self._marks())
            samples = {
                mark: self._sample(self._watched[mark], some, now, state)
                for mark, some in found.items()
                if some
            }
            acts = self.overseer.look(now, samples, state)
            for act in acts:
                self._carry_out(act, found[act.mark])

    def _note(self, now: float, state: MachineState) -> None:
        """Tell the machine's figures now and then while agents run: CPU on the mean, memory at its most."""
        self._read = [*self._read, state.reading] if self._watched else []
        if self._read and now >= self._note_at:
            some, self._read, self._note_at = self._read, [], now + _NOTE_SECONDS
            figures = state.reading.figures()
            figures["ram_percent"] = round(max(one.ram_percent or 0.0 for one in some), 1)
            if cpu := [one.cpu_percent for one in some if one.cpu_percent is not None]:
                figures["cpu_percent"] = round(sum(cpu) / len(cpu), 1)
            with contextlib.suppress(OSError):
                self.tell(RunEvent.READING, "", zone=state.zone.word, why=state.why, **figures)

    def _marks(self) -> dict[str, float]:
        return {mark: one.since.clock for mark, one in self._watched.items()}

    def _forgive(self, now: float) -> None:
        """Let time in which we ourselves were stopped count for nobody's silence."""
        gap = now - self._scanned
        if self._scanned and gap > 10 * self.seconds + 5:
            for one in self._watched.values():
                one.heard = min(now, one.heard + gap)

    def _sample(
        self, one: MonitoredAgent, some: list[Process], now: float, state: MachineState
    ) -> AgentSample:
        rss = sum(process.rss for process in some)
        ram = state.reading.ram_bytes or 0
        if rss > ram / 4 and len(some) > 1:
            # Forked processes share pages, which would be counted for each of them.
            shared = proportional_memory(some)
            rss = rss if shared is None else min(rss, shared)
        # What dies unseen takes its time with it: the sum only grows.
        one.cpu = max(one.cpu, sum(process.cpu_seconds for process in some))
        said, free = _size(one.log), state.reading.disk_free_bytes
        if said != one.said or (free is not None and free < _MUTE_DISK):
            one.said, one.heard, one.cpu_then = said, now, one.cpu
        return AgentSample(
            rss=rss, cpu_seconds=one.cpu, mute_cpu_seconds=one.cpu - one.cpu_then, processes=len(some),
            wall=now - one.begun, silence=now - one.heard, tokens=one.tokens, rank=one.rank, order=one.order,
        )  # fmt: skip

    def _carry_out(self, act: Enforcement, some: list[Process]) -> None:
        one = self._watched.get(act.mark)
        if one is None:
            return
        first = one.act is None or (act.action is Action.KILL and not one.killed)
        if act.action is not Action.ALERT:
            one.act = one.act or act  # before any signal: whoever sees the end must find the reason
            one.killed = one.killed or act.action in (Action.KILL, Action.STOP)
            if act.action is not Action.TERM:
                one.stopped.set()
            for process in some:
                send(process, signal.SIGTERM if act.action is Action.TERM else signal.SIGKILL)
        if act.action is Action.ALERT or first:
            with contextlib.suppress(OSError):
                self.tell(
                    RunEvent.OVERSEEN, one.task, act=act.action.value, measure=act.what,
                    figure=round(act.figure, 2), limit=round(act.limit, 2), why=act.why,
                )  # fmt: skip

    def _bury(self, table: dict[int, Process], now: float) -> None:
        """Take away the zombies that we have adopted; our own children are waited for by others."""
        own = os.getpid()
        found = {(one.pid, one.start) for one in table.values() if one.zombie and one.parent == own}
        self._zombies = {key: self._zombies.get(key, now) for key in found}
        for (pid, _), since in self._zombies.items():
            if now - since > _ZOMBIE_SECONDS:
                bury(pid)


def _size(log: str) -> int:
    """Return how many bytes an agent has said so far."""
    folder, stem = os.path.split(log)
    total = 0
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.startswith(f"{stem}."):
                total += entry.stat().st_size
    return total
