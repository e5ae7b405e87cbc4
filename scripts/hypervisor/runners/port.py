"""The port: how one item is processed."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..core.model import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
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

    def run(self, work: Work) -> Report:
        """Process one item. A fault of the item is a report; an exception is a fault of ours."""
        ...
