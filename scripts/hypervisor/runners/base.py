"""The two ports of the runners, and the records that go in and out.

A `Runner` processes an item of a queue, and what it reports is the item's result. An `Agent` works on a task
of a project, and its end is only what its process and its output say: whether the task is done is decided
from evidence by whoever started it. No word of an agent, and no exit code, is evidence.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from ..core.model import Report
from .sandbox import Sandbox

# ----------------------------------------------------------------------- items


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemWork:
    """One item in hand."""

    item: str
    #: The path that the item names; for a text, the text.
    path: str
    #: Whether it is a task of a project.
    task: bool = False
    #: Folder in which commands run and that relative items are relative to.
    base: str
    #: Where what a command prints is kept: this path with ``.out`` and ``.err``.
    log: str
    #: What a command finds in its environment, beside what is there already.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Descriptors that a command inherits, so that it is seen to live when its worker died.
    inherit: tuple[int, ...] = ()
    #: Set when the work must end at once: the claim is lost, or the user said so twice.
    stopped: threading.Event = field(default_factory=threading.Event)


class Runner(Protocol):
    """Processes items, one at a time.

    It reports and changes nothing that another worker could not change as well: what the result
    changes in a task's file is given back in the report, and written by whoever publishes it.
    """

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def run(self, work: ItemWork) -> Report:
        """Process one item. A fault of the item is a report; an exception is a fault of ours."""
        ...


class QueueRunner(Runner, Protocol):
    """A runner that can say beforehand what it would do."""

    def preview(self, work: ItemWork) -> Mapping[str, Any]:
        """Return what would be done with an item; nothing is changed by it."""
        ...


# ----------------------------------------------------------------------- tasks


class How(StrEnum):
    """How an agent's run ended. A client may say exit 0 for any of these."""

    ENDED = "ended"  #: it came to its own end
    MISSING = "missing"  #: there is no such program
    LOGGED_OUT = "not logged in"  #: it may not talk to its service; so will no other
    UNKNOWN_COMMAND = "unknown command"  #: it did not understand its prompt's command and did nothing
    TURN_LIMIT = "turn limit"  #: its turns were used up
    BUDGET = "budget"  #: its money was used up
    RATE_LIMIT = "rate limit"  #: its service said "too many requests"
    OVERLOAD = "overload"  #: its service has no room
    USAGE_LIMIT = "usage limit"  #: its user's allowance is used up, until a time
    REFUSED = "refused permission"  #: it was denied what it needed, and did nothing else
    EMPTY = "empty answer"  #: it ended without having said anything
    API_ERROR = "api error"  #: its service failed otherwise
    KILLED = "killed"  #: a signal that was not ours ended it
    TIMEOUT = "timed out"  #: we ended it
    STOPPED = "stopped"  #: we ended it, as its claim was lost or the user said so
    LIMIT = "beyond a limit"  #: we ended it, as it used up more than it may
    FAILED = "failed"  #: anything else

    @property
    def of_machine(self) -> bool:
        """Whether no agent of this kind can work now: a batch stops instead of trying the next task."""
        return self in (How.MISSING, How.LOGGED_OUT)

    @property
    def costs_no_attempt(self) -> bool:
        """Whether the task had no fair try: it waits again, at no cost in attempts."""
        return self in (How.RATE_LIMIT, How.OVERLOAD, How.USAGE_LIMIT, How.STOPPED)


@dataclass(slots=True)
class Usage:
    """What a program used of the machine, with all that it has waited for itself; told at its end."""

    #: None where nobody could tell.
    cpu_seconds: float | None = None
    #: The most that one of its processes had in memory at one time.
    ram_mb: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One task for one agent."""

    task_id: str
    #: What the agent is told; it goes in by standard input.
    prompt: str
    #: Folder in which it works.
    cwd: str
    #: Where its output is kept: this path with ``.out`` and ``.err``, and ``.out.1`` ... of what is long.
    log: str
    #: Its whole environment.
    environment: Mapping[str, str]
    #: Descriptors that it inherits, so that it is seen to live when its coordinator died.
    inherit: tuple[int, ...] = ()
    #: Name and value of a variable that marks everything it starts, so that all of it is found and ended.
    mark: tuple[str, str]
    #: Seconds after which it is ended; None for never.
    timeout: float | None = None
    #: Further tools or commands that it may use, in the agent's own words.
    allowed: Sequence[str] = ()
    #: The command by which the task is verified, "" for none; it may run that as well.
    verify: str = ""
    #: The sandbox that it runs in; None for none.
    sandbox: Sandbox | None = None
    #: Bytes of each of its outputs that are kept; None for all.
    most_bytes: int | None = None
    #: The client's session that it goes on with, "" for a new one; only for clients that can.
    resume: str = ""
    #: Whether it may change a path, relative to its folder.
    in_scope: Callable[[str], bool] = lambda _: True
    #: Set when it must end at once.
    stopped: threading.Event = field(default_factory=threading.Event)
    #: Told, as soon as it is seen, what keeps the agent from working as it should.
    warn: Callable[[str], None] = lambda _: None
    #: Filled in by whoever runs the program.
    usage: Usage = field(default_factory=Usage)
    #: What it may cost, None for any sum.
    budget_usd: float | None = None
    #: Told while it works, from another thread, where its client says so: the tokens of all its answers so
    #: far, how many conversations it has open, and whether the last answer is followed by another request.
    used: Callable[[int, int, bool], None] = lambda _tokens, _talks, _again: None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentEnd:
    """How it ended."""

    how: How
    #: One line: its last word, or the reason.
    text: str
    #: The process's exit code, negative for a signal; None if none was started.
    exit: int | None = None
    #: When the usage limit ends, in seconds since the epoch; None if unknown.
    until: float | None = None
    #: What its service counted; None where nobody did. All of its subagents are in it.
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    turns: int | None = None
    #: The client's session, which a later run can go on with; "" where it cannot.
    session: str = ""
    #: What it was not allowed to do, a line each.
    denials: tuple[str, ...] = ()
    #: Pids of what was still running when the agent had ended, and was ended then.
    survivors: tuple[int, ...] = ()

    @property
    def tokens(self) -> int | None:
        """Input and output together, None where nothing was counted."""
        counted = [n for n in (self.input_tokens, self.output_tokens) if n is not None]
        return sum(counted) if counted else None


class Agent(Protocol):
    """Sets an agent to work on a task, and waits for its end."""

    @property
    def name(self) -> str:
        """What people call it; the assignee of the tasks that it works on."""
        ...

    @property
    def briefing(self) -> Sequence[str]:
        """Which files in ``prompts/`` it is told, one after another."""
        ...

    @property
    def permissions(self) -> str:
        """What it may do without being asked, in one line for people."""
        ...

    @property
    def starts(self) -> Sequence[str]:
        """Its program, and what else of its command line may name files of the machine."""
        ...

    def words(self, allowed: Sequence[str] = ()) -> list[str]:
        """Return its program and arguments, with what it is further allowed; a task may add to them."""
        ...

    def run(self, assignment: Assignment) -> AgentEnd:
        """Run it to its end. Afterwards nothing runs any more of what it has started."""
        ...


# -------------------------------------------------- what clients print, read with care
# It comes from outside, and changes from release to release.


def event_of(line: bytes) -> dict[str, Any]:
    """Return the object that a line is, and an empty one for what is none."""
    try:
        return map_of(json.loads(line))
    except (ValueError, RecursionError):
        return {}


def list_of(value: object) -> list[Any]:
    """Return a list as it is, and none where there is something else."""
    return value if isinstance(value, list) else []


def map_of(value: object) -> dict[str, Any]:
    """Return an object's fields, and none where there is something else."""
    return value if isinstance(value, dict) else {}


def number_of(value: object) -> float:
    """Return a number as it is, and 0 where there is something else."""
    return value if isinstance(value, int | float) and value == value else 0  # noqa: PLR0124 - not NaN
