"""Times of calls, from any number of threads: the median, p99, and the CPU time beside them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

Row = dict[str, Any]
#: What anybody would wait for at most, in seconds.
_PATIENCE = 600.0


class Clock(Protocol):
    """What uses CPU time."""

    @property
    def cpu(self) -> float | None:
        """Seconds of CPU time so far; None where that is not known."""


class Times:
    """Seconds of each kind of call, from any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, list[float]] = {}
        self._cpu: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def of(self, name: str, server: Clock | None = None) -> Iterator[None]:
        """Measure one call, with the CPU time of *server* meanwhile."""
        before = server.cpu if server else None
        began = time.perf_counter()
        yield
        took = time.perf_counter() - began
        after = server.cpu if server and before is not None else None
        self.add(name, took, None if after is None or before is None else after - before)

    def add(self, name: str, took: float, cpu: float | None) -> None:
        """Note one call: the seconds that passed, and those of CPU time, where they are known."""
        with self._lock:
            self._of.setdefault(name, []).append(took)
            if cpu is not None:
                self._cpu.setdefault(name, []).append(cpu)

    def rows(self, **what: Any) -> list[Row]:
        """Return a row for each kind: how many, p50 and p99, median of CPU time; milliseconds."""
        return [
            what | {"name": name, **percentiles(seconds, self._cpu.get(name, ()))}
            for name, seconds in self._of.items()
        ]


def percentiles(seconds: Sequence[float], cpu: Sequence[float] = ()) -> Row:
    """Return how many there are, their median, and what 99 in 100 stay below; milliseconds."""
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 2)

    used = {"cpu_ms": round(sorted(cpu)[len(cpu) // 2] * 1000, 2)} if cpu else {}
    return {"calls": len(ordered), "p50_ms": at(0.5), "p99_ms": at(0.99), **used}


def together(count: int, act: Callable[[int], None]) -> None:
    """Let *count* threads act at once, each with its number; raise what one of them raises."""
    faults: list[BaseException] = []

    def run(number: int) -> None:
        try:
            act(number)
        except BaseException as fault:  # noqa: BLE001 - told below
            faults.append(fault)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_PATIENCE)
    if faults:
        raise faults[0]
