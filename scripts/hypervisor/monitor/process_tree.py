"""Which process belongs to which agent, also after setsid, a double fork, or a wiped environment. Pure.

A process belongs to an agent if its parent does, or its session did, or its environment bears the agent's
mark. What was once known to belong stays so, whatever becomes of its parents. Only what descends from this
process is ever looked at, where the system lets us adopt orphans: nothing else can be taken for ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from .processes import Process

Table: TypeAlias = Mapping[int, Process]
#: Returns the environment that a process was started with; None if it may not be read.
Environment: TypeAlias = Callable[[int], "list[bytes] | None"]

#: In the environment of all that a coordinator starts; its value tells nothing.
OURS = "HYPERVISOR_COORDINATOR"
#: The marks of all agents that somebody is within, separated by blanks: agents may run agents.
WITHIN = "HYPERVISOR_WITHIN"


class ProcessTree:
    """Sorts processes by agent, look by look.

    Args:
        own: The pid of this process.
        environment: How to read another's environment.
        adopts: Whether orphans below us become our children.
    """

    def __init__(self, own: int, environment: Environment, *, adopts: bool) -> None:
        self._own, self._environment, self._adopts = own, environment, adopts
        #: By pid and start; each the mark of an agent.
        self._known: dict[tuple[int, str], str] = {}
        self._sessions: dict[int, str] = {}

    def look(self, table: Table, marks: Mapping[str, float]) -> dict[str, list[Process]]:
        """Return the living processes of each agent.

        Args:
            table: All processes.
            marks: The marks of the agents, each with the least `Process.order` of what can be its.
        """
        self._known = {
            key: mark
            for key, mark in self._known.items()
            if key[0] in table and table[key[0]].start == key[1] and mark in marks
        }
        found: dict[str, list[Process]] = {mark: [] for mark in marks}
        if marks:
            least = min(marks.values())
            # Parents first: a child never starts before its parent, but may have the lower number.
            for process in sorted(table.values(), key=lambda one: (one.order, one.pid)):
                if process.order < least or process.pid == self._own:
                    continue
                mark = self._mark_of(process, table, marks)
                if mark:
                    self._known[process.pid, process.start] = mark
                    if not process.zombie:
                        found[mark].append(process)
        own = table[self._own].session if self._own in table else 0
        self._sessions = {
            one.session: mark for mark, some in found.items() for one in some if one.session != own
        }
        return found

    def strays(self, table: Table, marks: Mapping[str, float], leaving: str) -> list[Process]:
        """Return orphans that some agent has left and wiped clean, if that can only have been *leaving*.

        All that we start ourselves bears our variable, so that an orphan of ours without it was begun by
        an agent. It is told only where no other agent that runs could have begun it.
        """
        if not self._adopts:
            return []
        others = [least for mark, least in marks.items() if mark != leaving]
        # Whatever we start but agents is of our session; no agent's child can ever come back to it.
        ours = table[self._own].session if self._own in table else 0
        return [
            one
            for one in table.values()
            if one.parent == self._own and not one.zombie
            and one.session != ours and one.order >= marks[leaving]
            and (one.pid, one.start) not in self._known
            and not any(one.order >= least for least in others)
            and self._is_wiped(one.pid)
        ]  # fmt: skip

    # ---------------------------------------------------------------- details

    def _mark_of(self, process: Process, table: Table, marks: Mapping[str, float]) -> str:
        known = self._known.get((process.pid, process.start))
        if known:
            return known
        parent = table.get(process.parent)
        if parent is not None and parent.pid != self._own and parent.order <= process.order:
            mark = self._known.get((parent.pid, parent.start), "")
            if mark:
                return mark
        mark = self._sessions.get(process.session, "")
        if mark in marks and process.order >= marks[mark]:
            return mark
        if self._adopts and not self._descends(process, table):
            return ""
        return self._marked(process.pid, marks)

    def _descends(self, process: Process, table: Table) -> bool:
        seen = 0
        one: Process | None = process
        while one is not None and one.pid > 1 and seen < len(table):
            if one.parent == self._own:
                return True
            one, seen = table.get(one.parent), seen + 1
        return False

    def _marked(self, pid: int, marks: Mapping[str, float]) -> str:
        for entry in self._environment(pid) or ():
            name, _, value = entry.decode("utf-8", "replace").partition("=")
            # The outermost that is ours: what an agent's own agents start is the agent's.
            if name == WITHIN:
                return next((mark for mark in value.split() if mark in marks), "")
        return ""

    def _is_wiped(self, pid: int) -> bool:
        environment = self._environment(pid)
        if environment is None:
            return False
        # A program that shows a title of its own writes it over its environment: that is no environment.
        if any(b"=" not in entry for entry in environment):
            return False
        return not any(entry.startswith(OURS.encode() + b"=") for entry in environment)
