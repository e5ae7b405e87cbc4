"""Processes that are measured: several that start at one word, or one command as a whole.

CPU is user and system time as getrusage(2) and wait4(2) tell it; wall time is the monotonic clock.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"

#: Starts a command and tells what it used. It is small, so that the peak of memory that Linux hands
#: on from whoever starts a process is not that of this one.
_LAUNCHER = """
import json, os, sys, time
null = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_RDWR, 0) for n in (0, 1, 2)]
begun = time.monotonic()
_, status, used = os.wait4(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=null), 0)
print(json.dumps([time.monotonic() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss, status]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What several consumers came to."""

    #: Seconds of all of them from the word to the end, and until the last one was done.
    cpu: float
    wall: float
    #: How often each item was executed.
    ran: Counter[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one command came to, with all that it waited for."""

    cpu: float
    wall: float
    #: Bytes: the largest of its processes.
    memory: int


def consumers(words: Sequence[str], count: int) -> list[subprocess.Popen[str]]:
    """Start *count* consumers, each with its number; return when all of them are ready."""
    script = [sys.executable, "-I", str(ROOT / "bench/consumer.py")]
    started = [
        subprocess.Popen(
            [*script, *words, f"--number={number}", f"--of={count}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
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
    """Give a consumer the word."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what a consumer tells at its end, and wait for that."""
    text = line(process)
    if process.wait() or not text:
        raise RuntimeError(f"a consumer ended with {process.returncode}")
    answer: dict[str, Any] = json.loads(text)
    return answer


def drained(words: Sequence[str], count: int) -> Drained:
    """Let *count* consumers drain what was laid out, all from one word on."""
    started = consumers(words, count)
    for process in started:
        go(process)
    answers = [told(process) for process in started]
    return Drained(
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
    return Spent(wall=wall, cpu=cpu, memory=memory * (1 if sys.platform == "darwin" else 1024))


def clear(folder: Path) -> None:
    """Delete a folder with any number of files in it."""
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def three(values: Sequence[float]) -> tuple[float, float, float]:
    """Return median, minimum and maximum."""
    return statistics.median(values), min(values), max(values)


def machine(folder: Path) -> dict[str, str]:
    """Return what the figures depend on: the machine, the file system of *folder*, the versions."""
    sys.path.insert(0, str(SCRIPTS))
    from hypervisor.core.machine import file_system_of  # noqa: PLC0415 - found only now

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    facts = {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "file system": file_system_of(str(folder)) or "not known",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "date": time.strftime("%Y-%m-%d"),
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
    }
    for name in ("litequeue", "huey", "persist-queue", "python-frontmatter", "PyYAML", "filelock"):
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
