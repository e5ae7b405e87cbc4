"""The limits of the control groups that this process is in, and how much of them is used: v1 and v2.

A container's own view of `/sys/fs/cgroup` and the whole machine's are both met: the group that
`/proc/self/cgroup` names is looked for below each mount, then the mount itself. Limits are inherited,
so that every group from there up to the mount counts.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

#: What v1 says where there is no limit: the largest number of pages.
_NO_LIMIT_V1 = 2**62


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
            words = _read(folder, "cpu.max").split()  # "max 100000", "150000 100000"
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
        text = _read(self._root, "proc/self/cgroup")
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
        for line in _read(self._root, "proc/self/mountinfo").splitlines():
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


def _read(folder: str, name: str) -> str:
    with contextlib.suppress(OSError):
        descriptor = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, 65536).decode("utf-8", "replace")
        finally:
            os.close(descriptor)
    return ""


def _number(folder: str, name: str) -> int | None:
    text = _read(folder, name).strip()
    return int(text) if text.lstrip("-").isdigit() else None  # "max" is no limit


def _field(folder: str, name: str, key: str) -> int | None:
    for line in _read(folder, name).splitlines():
        word, _, value = line.partition(" ")
        if word == key and value.strip().isdigit():
            return int(value)
    return None
