"""Processes that are measured, and the table of what they came to.

CPU is user and system time as getrusage(2) and wait4(2) report it; wall time is the monotonic clock.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"

#: One row: ``section``, ``name``, what it was measured with (``items``, ``workers``), and a list of figures,
#: one a round, for each of ``cpu_us``, ``wall_us`` (both for one item), ``ratio``, ``twice``, ``never``.
Row = dict[str, Any]
Say = Callable[[str], None]

#: Starts a command and reports what it used. It is small, so that the peak of memory that Linux passes on
#: from whoever starts a process is not that of this one.
_LAUNCHER = """
import json, os, sys, time
null = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_RDWR, 0) for n in (0, 1, 2)]
begun = time.monotonic()
_, status, used = os.wait4(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=null), 0)
print(json.dumps([time.monotonic() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss, status]))
"""
#: What anybody would wait for at most, in seconds.
_PATIENCE = 600.0
#: Bytes that measurements may leave until the end.
_ROOM = 8 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one command, or several consumers, used."""

    #: Seconds of all processes.
    cpu: float
    wall: float
    #: Bytes: the largest process of a command.
    memory: int = 0
    #: How often each item was executed, by consumers.
    ran: Counter[int]


class Table:
    """Rows of figures. In each round the yardstick of a section is measured first.

    Args:
        section: The section's name.
        figure: ``cpu_us`` or ``wall_us``: of what the ratio is.
        say: Shows one line.
    """

    def __init__(self, section: str, figure: str, say: Say) -> None:
        self.rows: list[Row] = []
        self._section, self._figure, self._say = section, figure, say

    def add(self, name: str, spent: Spent, executed: Sequence[int], **sizes: int) -> None:
        """Add one round of a row.

        Args:
            name: Who was measured.
            spent: What it used.
            executed: For each item, how often it was executed.
            sizes: ``items`` and ``workers``, and whatever else tells rows apart.
        """
        row = next((r for r in self.rows if r["name"] == name and sizes.items() <= r.items()), None)
        if row is None:
            row = {"section": self._section, "name": name, **sizes}
            row |= {key: [] for key in ("cpu_us", "wall_us", "ratio", "twice", "never")}
            self.rows.append(row)
        count = len(executed)
        row["cpu_us"].append(round(1e6 * spent.cpu / count, 1))
        row["wall_us"].append(round(1e6 * spent.wall / count, 1))
        row["twice"].append(sum(times > 1 for times in executed))
        row["never"].append(sum(times < 1 for times in executed))
        workers = sizes.get("workers")
        yardstick = next(r for r in self.rows if r.get("workers") == workers)
        row["ratio"].append(round(row[self._figure][-1] / yardstick[self._figure][-1], 3))
        told = ", ".join(
            f"{key} {row[key][-1]:g}" for key in ("cpu_us", "wall_us", "ratio", "twice", "never")
        )
        self._say(f"{self._section} {name}, {', '.join(f'{v:,} {k}' for k, v in sizes.items())}: {told}")


class Figures:
    """Rows of any figures, a value a round.

    Args:
        section: The section's name.
        say: Shows one line.
    """

    def __init__(self, section: str, say: Say) -> None:
        self.rows: list[Row] = []
        self._section, self._say = section, say

    def add(self, name: str, **figures: float | None) -> None:
        """Add one round of a row; a figure's name has its unit, None is left out."""
        row = next((r for r in self.rows if r["name"] == name), None)
        if row is None:
            row = {"section": self._section, "name": name, "figures": {}}
            self.rows.append(row)
        for figure, value in figures.items():
            if value is not None:
                row["figures"].setdefault(figure.replace("_", " "), []).append(round(value, 2))
        told = ", ".join(f"{figure} {values[-1]:g}" for figure, values in row["figures"].items())
        self._say(f"{self._section} {name}: {told}")


# ------------------------------------------------------------------------ calls


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


# -------------------------------------------------------------------- processes


def consumers(words: Sequence[str], count: int) -> list[subprocess.Popen[str]]:
    """Start *count* consumers (Python words of a script that says ``ready``); return when all are ready."""
    started = [
        subprocess.Popen(
            [sys.executable, "-I", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(count)
    ]
    for process in started:
        heard = line(process)
        if heard != "ready":
            raise RuntimeError(f"a consumer said {heard!r}: {' '.join(words)}")
    return started


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def go(process: subprocess.Popen[str]) -> None:
    """Let a consumer begin."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def answer_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what a consumer reports at its end, and wait for that."""
    text = line(process)
    if process.wait() or not text:
        raise RuntimeError(f"a consumer ended with {process.returncode}")
    answer: dict[str, Any] = json.loads(text)
    return answer


def drained(words: Sequence[str], count: int) -> Spent:
    """Let *count* consumers drain a queue, all from one moment on."""
    started = consumers(words, count)
    for process in started:
        go(process)
    answers = [answer_of(process) for process in started]
    return Spent(
        cpu=sum(answer["cpu"] for answer in answers),
        wall=max(answer["ended"] for answer in answers) - min(answer["begun"] for answer in answers),
        ran=Counter(number for answer in answers for number in answer["ran"]),
    )


def spent(words: Sequence[str], cwd: Path, *, cache: Path | None = None) -> Spent:
    """Run a command to its end.

    Args:
        words: The command.
        cwd: Where it runs.
        cache: What stands for the user's cache folder; None for that itself, which uv needs.

    Raises:
        RuntimeError: It failed.
    """
    words = [shutil.which(words[0]) or words[0], *words[1:]]
    # Nothing that the user has set for the product.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HYPERVISOR_", "CLAUDE_"))}
    environment |= {"XDG_CACHE_HOME": str(cache)} if cache else {}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _LAUNCHER, *words],
        cwd=cwd, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    wall, cpu, memory, status = json.loads(done.stdout)
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        raise RuntimeError(f"exit {code}: {' '.join(words)}")
    return Spent(wall=wall, cpu=cpu, memory=memory * (1 if sys.platform == "darwin" else 1024), ran=Counter())


# ---------------------------------------------------------------------- folders


def run_events(root: Path) -> list[dict[str, Any]]:
    """Return the events of the first run in a project: ``event``, their kind, and their data."""
    sys.path.insert(0, str(SCRIPTS))
    from hypervisor.store.store import Store  # noqa: PLC0415 - found only now

    with Store.open(root / ".hypervisor", {}, create=False) as store:
        batches = store.batches.all()
        found = store.events.since(0, batch=batches[0].id) if batches else ()
        return [{"event": event.kind, **event.data} for event in found]


@contextlib.contextmanager
def ground(where: Path) -> Iterator[Path]:
    """Yield a new folder in *where*, and keep it while there is room.

    Deleting thousands of files makes those that are made next cost several times as much on ext4, so that
    whoever comes after would pay for whoever was before.
    """
    yield Path(tempfile.mkdtemp(prefix="bench-", dir=where)).resolve()
    used = 0
    for path in where.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a process that ends takes its files with it
            used += path.stat().st_blocks * 512
    if used > min(_ROOM, _free(where) // 2):
        for folder in where.glob("bench-*"):
            clear(folder)


def _free(where: Path) -> int:
    found = os.statvfs(where)
    return found.f_bavail * found.f_frsize


def clear(folder: Path) -> None:
    """Delete a folder with any number of files in it."""
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def machine(folder: Path) -> dict[str, str]:
    """Return what the figures depend on: the machine, the file system of *folder*, the versions."""
    sys.path.insert(0, str(SCRIPTS))
    from hypervisor.core.files import file_system_of  # noqa: PLC0415 - found only now

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    facts = {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "file system": file_system_of(str(folder)) or "not known",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "date": time.strftime("%Y-%m-%d"),
        "Python": platform.python_version(),
        "SQLite of Python": sqlite3.sqlite_version,
    }
    for name in ("apsw", "litequeue", "huey", "persist-queue", "python-frontmatter", "PyYAML", "filelock"):
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = "not installed"
    for name in ("uv", "parallel"):
        facts["GNU parallel" if name == "parallel" else name] = _version(name)
    return facts


def _processor() -> str:
    try:
        for text in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if text.startswith("model name"):
                return text.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(program: str) -> str:
    if shutil.which(program) is None:
        return "not installed"
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    words = done.stdout.partition("\n")[0].split()
    return next((word for word in words if word[:1].isdigit()), "not known")
