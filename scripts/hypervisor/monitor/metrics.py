"""How much of the machine is in use: one look at a time, as figures and nothing more.

The machine's own figures come from psutil; where this process is in a control group with a limit (v1 or v2),
the group's count if they are tighter. Memory pressure is told by Linux only. What cannot be read is None.

A container's own view of `/sys/fs/cgroup` and the whole machine's are both met: the group that
`/proc/self/cgroup` names is looked for below each mount, then the mount itself. Limits are inherited, so that
every group from there up to the mount counts.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

#: CPU is told over at least this time, in seconds: over less, one tick of the clock is a tenth of it.
_SHORTEST = 0.2
#: What v1 says where there is no limit: the largest number of pages.
_NO_LIMIT_V1 = 2**62


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


# -------------------------------------------------------------- control groups


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryGroup:
    """A group with a limit of memory."""

    #: Bytes.
    limit: int
    #: Bytes that cannot be had back by dropping file pages.
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuGroup:
    """A group with a quota of CPU time."""

    #: How many CPUs' worth of time it may use.
    cpus: float
    #: Seconds of CPU time that it has used since it was made.
    used_seconds: float


class Cgroups:
    """Reads the groups of this process.

    Args:
        root: The folder that holds ``proc`` and ``sys``; another one than ``/`` for tests.
    """

    def __init__(self, root: str = "/") -> None:
        self._root = root
        #: Each a folder, from our own group up to the mount.
        self._memory_v2: tuple[str, ...] = ()
        self._memory_v1: tuple[str, ...] = ()
        self._cpu_v1: tuple[str, ...] = ()
        self._account_v1: tuple[str, ...] = ()
        #: Where we are; read anew, as a process may be moved.
        self._was = ""
        self._find()

    def memory(self) -> list[MemoryGroup]:
        """Return the groups with a limit of memory, our own first."""
        self._find()
        found = []
        for folder in self._memory_v2:
            limit, used = _number(folder, "memory.max"), _number(folder, "memory.current")
            if limit is not None and used is not None:
                found.append(MemoryGroup(limit=limit, used=_kept(folder, used, "")))
        for folder in self._memory_v1:
            limit = _number(folder, "memory.limit_in_bytes")
            used = _number(folder, "memory.usage_in_bytes")
            if limit is not None and used is not None and limit < _NO_LIMIT_V1:
                found.append(MemoryGroup(limit=limit, used=_kept(folder, used, "total_")))
        return found

    def cpu(self) -> list[CpuGroup]:
        """Return the groups with a quota of CPU time, our own first."""
        found = []
        for folder in self._memory_v2:
            words = _text(folder, "cpu.max").split()  # "max 100000", "150000 100000"
            used = _field(folder, "cpu.stat", "usage_usec")
            if len(words) == 2 and words[0].isdigit() and used is not None:
                found.append(CpuGroup(cpus=int(words[0]) / int(words[1]), used_seconds=used / 1e6))
        for folder, account in zip(self._cpu_v1, self._account_v1, strict=False):
            quota, period = _number(folder, "cpu.cfs_quota_us"), _number(folder, "cpu.cfs_period_us")
            used = _number(account, "cpuacct.usage")
            if quota is not None and quota > 0 and period and used is not None:
                found.append(CpuGroup(cpus=quota / period, used_seconds=used / 1e9))
        return found

    def pressure_file(self) -> str:
        """Return the file that tells the memory pressure nearest to us: our group's, else the machine's."""
        for folder in self._memory_v2:
            if os.path.exists(path := os.path.join(folder, "memory.pressure")):
                return path
        return os.path.join(self._root, "proc/pressure/memory")

    # ---------------------------------------------------------------- details

    def _find(self) -> None:
        text = _text(self._root, "proc/self/cgroup")
        if text == self._was and text:
            return
        self._was = text
        places: dict[str, str] = {}  # controller, "" for v2: path
        for line in text.splitlines():
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            for one in controllers.split(","):
                places[one] = path
        mounts = list(self._mounts())
        self._memory_v2 = self._chain(mounts, "cgroup2", "", places)
        self._memory_v1 = self._chain(mounts, "cgroup", "memory", places)
        self._cpu_v1 = self._chain(mounts, "cgroup", "cpu", places)
        self._account_v1 = self._chain(mounts, "cgroup", "cpuacct", places)

    def _mounts(self) -> Iterator[tuple[str, set[str], str, str]]:
        """Yield each mount of groups: its kind, its controllers, the group at its top, its folder."""
        for line in _text(self._root, "proc/self/mountinfo").splitlines():
            left, _, right = line.partition(" - ")
            words, kind = left.split(), right.split()
            if len(words) > 4 and len(kind) > 2 and kind[0] in ("cgroup", "cgroup2"):
                options = set(kind[2].split(",")) if kind[0] == "cgroup" else {""}
                folder = words[4].encode().decode("unicode_escape").lstrip("/")
                yield kind[0], options, words[3], os.path.join(self._root, folder)

    @staticmethod
    def _chain(
        mounts: list[tuple[str, set[str], str, str]], kind: str, controller: str, places: dict[str, str]
    ) -> tuple[str, ...]:
        """Return our group's folder and all above it, up to the mount."""
        if controller not in places:
            return ()
        for mounted, controllers, top, folder in mounts:
            if mounted != kind or controller not in controllers:
                continue
            # Within a container the mount's top may be our own group, and its path one from outside.
            inside = places[controller].removeprefix(top.rstrip("/")).strip("/")
            here = os.path.join(folder, inside) if inside else folder
            if ".." in inside.split("/") or not os.path.isdir(here):
                here = folder
            chain = [here]
            while len(chain[-1]) > len(folder):
                chain.append(os.path.dirname(chain[-1]))
            return tuple(chain)
        return ()


def _kept(folder: str, used: int, prefix: str) -> int:
    """Return the bytes that are in use without file pages, which the kernel drops before it kills."""
    pages = sum(_field(folder, "memory.stat", f"{prefix}{name}_file") or 0 for name in ("inactive", "active"))
    return max(0, used - pages)


def _text(folder: str, name: str) -> str:
    with contextlib.suppress(OSError):
        descriptor = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, 65536).decode("utf-8", "replace")
        finally:
            os.close(descriptor)
    return ""


def _number(folder: str, name: str) -> int | None:
    text = _text(folder, name).strip()
    return int(text) if text.lstrip("-").isdigit() else None  # "max" is no limit


def _field(folder: str, name: str, key: str) -> int | None:
    for line in _text(folder, name).splitlines():
        word, _, value = line.partition(" ")
        if word == key and value.strip().isdigit():
            return int(value)
    return None
