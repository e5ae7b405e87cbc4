"""What running a command costs beside running it: no-op items, eight at once; for tasks, see `run.py`.

In one run, per item, medians of several rounds: `batch_worker.py --exec true` (claims, results, logs),
`xargs -P`, and GNU parallel where it is installed.
No yardstick keeps a result, claims anything, or survives a kill. In --folder /dev/shm the same runs without
a disk: what is left is not the price of durability.

With --queued N instead: memory and idle CPU of `hypervisor run` that has N tasks queued and two at work.

    uv run bench/overhead.py [--items 1000] [--jobs 8] [--rounds 3] [--folder D]
    uv run bench/overhead.py --queued 100000 [--folder D]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent


def timed(words: list[str], cwd: Path, text: str = "") -> float:
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd)}
    begun = time.monotonic()
    subprocess.run(words, cwd=cwd, env=environment, input=text, text=True, capture_output=True, check=False)
    return time.monotonic() - begun


def items(folder: Path, options: argparse.Namespace) -> float:
    (folder / "queue.txt").write_text("".join(f"item {n}\n" for n in range(options.items)))
    script = str(ROOT / "scripts/batch_worker.py")
    words = [sys.executable, script, "--dir", ".", "--all", "--workers", str(options.jobs), "--exec", "true"]
    return timed(words, folder) / float(options.items)


def project(folder: Path, count: int) -> None:
    """Make a project of *count* tasks, each about a file of its own."""
    (folder / "tasks").mkdir()
    for number in range(count):
        text = f"---\nid: t-{number}\nstatus: active\nfiles: [f-{number}]\n---\n# T\n"
        (folder / f"tasks/t-{number}.md").write_text(text)
    for words in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=A", "-c", "user.email=a@example.invalid", "commit", "-qm", "Begin"],
    ):
        subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


def run_words(agent: str, jobs: int) -> list[str]:
    script = str(ROOT / "scripts/hypervisor_cli.py")
    return [sys.executable, script, "run", "--all", "-j", str(jobs), "--agent", "exec", "--exec", agent]


def at_rest(folder: Path, count: int) -> int:
    """Print what a coordinator with *count* tasks queued takes while two agents are at work."""
    project(folder, count)
    words = [*run_words("sh -c 'sleep 3600'", 2), "--isolation", "none"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    with subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
        process = psutil.Process(run.pid)
        begun = time.monotonic()
        while not list(folder.glob(".hypervisor/batches/*/reports")):
            if run.poll() is not None:
                print("the run ended before it had begun anything", file=sys.stderr)
                return 1
            time.sleep(0.2)
        took = time.monotonic() - begun
        time.sleep(5)
        before = sum(process.cpu_times()[:2])
        time.sleep(30)
        idle = (sum(process.cpu_times()[:2]) - before) / 30
        status = Path(f"/proc/{run.pid}/status").read_text().splitlines()
        now, most = (next(one for one in status if one.startswith(name)) for name in ("VmRSS", "VmHWM"))
        run.terminate()
        time.sleep(1)
        run.terminate()
    print(f"{count} tasks queued, two at work: {int(now.split()[1]) / 1024:.0f} MiB resident, "
          f"{int(most.split()[1]) / 1024:.0f} at most; {1000 * idle:.1f} ms of CPU a second; "
          f"the first began after {took:.0f} s")  # fmt: skip
    return 0


def yardstick(words: list[str]) -> Callable[[Path, argparse.Namespace], float]:
    def run(folder: Path, options: argparse.Namespace) -> float:
        text = "".join(f"item{n}\n" for n in range(options.items))
        return timed(words, folder, text) / float(options.items)

    return run


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where to work; without it: the system's temporary folder")
    parser.add_argument("--queued", type=int, metavar="N", help="memory and idle CPU with N tasks queued")
    options = parser.parse_args()
    if options.queued:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            return at_rest(Path(folder), options.queued)
    jobs = str(options.jobs)
    ways: dict[str, Callable[[Path, argparse.Namespace], float]] = {
        "xargs -P": yardstick(["xargs", "-P", jobs, "-n", "1", "true"]),
        "batch_worker --exec": items,
    }
    if shutil.which("parallel"):
        ways["GNU parallel"] = yardstick(["parallel", "-j", jobs, "true"])
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                found[name].append(way(Path(folder), options))
    base = statistics.median(found["xargs -P"])
    for name, seconds in found.items():
        middle = statistics.median(seconds)
        print(f"{name:20} {middle * 1000:8.2f} ms an item, {middle / base:6.1f} times xargs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
