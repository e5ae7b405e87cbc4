"""How much of the machine is in use: one look at a time, as figures and nothing more.

The machine's own figures come from psutil; where this process is in a control group with a limit, the
group's count if they are tighter. Memory pressure is told by Linux only. What cannot be read is None.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .cgroups import Cgroups

#: CPU is told over at least this time, in seconds: over less, one tick of the clock is a tenth of it.
_SHORTEST = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at the machine."""

    #: Seconds on the monotonic clock.
    at: float
    #: Share of the CPU time that was used since the look before; None where that is not known yet.
    cpu_percent: float | None = None
    #: Share of the memory that is in use.
    ram_percent: float | None = None
    #: Share of the memory that can still be had.
    available_percent: float | None = None
    #: The memory that those are shares of, and what of it can still be had, in bytes.
    ram_bytes: int | None = None
    available_bytes: int | None = None
    #: Share of the time since the look before in which all work stood still for want of memory.
    pressure_percent: float | None = None
    #: Bytes that may still be written where the work lies.
    disk_free_bytes: int | None = None

    def figures(self) -> dict[str, float]:
        """Return what is known, rounded, by the names that events use."""
        known = {
            "cpu_percent": self.cpu_percent, "ram_percent": self.ram_percent,
            "available_percent": self.available_percent, "pressure_percent": self.pressure_percent,
            "disk_free_mib": None if self.disk_free_bytes is None else self.disk_free_bytes / 2**20,
        }  # fmt: skip
        return {name: round(value, 1) for name, value in known.items() if value is not None}


class Sampler:
    """Reads the machine; shares of time are told between one look and the next.

    Args:
        disk: A folder where the work lies.
        root: The folder that holds ``proc`` and ``sys``; another one than ``/`` for tests.
        system: Gives the machine's own figures: total and available memory in bytes, and busy and all
            CPU seconds so far.
        clock: Gives seconds that only grow.
    """

    def __init__(
        self,
        disk: str,
        root: str = "/",
        system: Callable[[], tuple[int, int, float, float]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._disk, self._root, self._clock = disk, root, clock
        self._system = system or _system
        self._groups = Cgroups(root)
        self._cpu: tuple[float, float, float, list[float]] | None = None
        self._cpu_percent: float | None = None
        self._stall: tuple[float, float] | None = None

    def read(self) -> Reading:
        """Look at the machine now."""
        now = self._clock()
        total, available, busy, every = self._system()
        groups = self._groups.memory()
        # The tightest says how much is left: of the machine, or of a group that we are in.
        left = [(available, total)] + [(max(0, one.limit - one.used), one.limit) for one in groups]
        bytes_left, size = min(left, key=lambda one: one[0] / one[1] if one[1] else 0.0)
        share = 100.0 * bytes_left / size if size else 0.0
        return Reading(
            at=now,
            cpu_percent=self._cpu_share(now, busy, every),
            ram_percent=100.0 - share,
            available_percent=share,
            ram_bytes=size,
            available_bytes=bytes_left,
            pressure_percent=self._pressure(now),
            disk_free_bytes=self._disk_free(),
        )

    # ---------------------------------------------------------------- details

    def _cpu_share(self, now: float, busy: float, every: float) -> float | None:
        groups = self._groups.cpu()
        used = [one.used_seconds for one in groups]
        before = self._cpu
        if before is not None and now - before[0] < _SHORTEST:
            return self._cpu_percent
        self._cpu = (now, busy, every, used)
        if before is None:
            return None
        then, was_busy, was_every, was_used = before
        shares = [(busy - was_busy) / (every - was_every)] if every > was_every else []
        if len(used) == len(was_used):
            shares += [
                (is_now - was) / ((now - then) * one.cpus)
                for one, is_now, was in zip(groups, used, was_used, strict=True)
            ]
        if shares:
            self._cpu_percent = 100.0 * min(1.0, max(0.0, *shares, 0.0))
        return self._cpu_percent

    def _pressure(self, now: float) -> float | None:
        """Return the share of time in which everybody waited for memory ("full") since the last look."""
        with contextlib.suppress(OSError, ValueError):
            with open(self._groups.pressure_file(), encoding="utf-8") as file:
                line = next((line for line in file.read().splitlines() if line.startswith("full ")), "")
            total = float(line.rpartition("total=")[2]) / 1e6
            before, self._stall = self._stall, (now, total)
            if before is None:  # what the kernel itself says of the last ten seconds
                return float(line.partition("avg10=")[2].split()[0])
            if now > before[0]:
                return min(100.0, max(0.0, 100.0 * (total - before[1]) / (now - before[0])))
        return None

    def _disk_free(self) -> int | None:
        with contextlib.suppress(OSError):
            found = os.statvfs(self._disk)
            return found.f_bavail * found.f_frsize
        return None


def _system() -> tuple[int, int, float, float]:
    import psutil  # noqa: PLC0415 - 100 ms, and only where agents are run

    memory, times = psutil.virtual_memory(), psutil.cpu_times()
    parts: dict[str, Any] = times._asdict()
    # Time of guests is in user time already; time that the host took away cannot be used by us either.
    every = sum(value for name, value in parts.items() if name not in ("guest", "guest_nice"))
    return memory.total, memory.available, every - parts["idle"] - parts.get("iowait", 0.0), every
